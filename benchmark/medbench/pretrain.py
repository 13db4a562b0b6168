"""Pretraining: any method, on any corpus of pairs, to the same weights however often it is interrupted.

Lightning runs the loop, the device, the precision and the gradients. What it does not give is exactness: a run that was
killed and goes on must end with the very weights of one that was not. So nothing here carries a random state. Every
step seeds torch from (seed, step), the loader can start at any batch, and a checkpoint holds the rest: weights,
optimiser, schedule, sums of losses, what early stopping has seen. *When* a checkpoint is written changes nothing.

    <store>/<key>/           finished weights, as `medbench.weights` reads them
    <store>/<key>.partial/   a run under way: last.ckpt and the best weights so far
    <store>/<key>.lease      of the process that trains them
"""

import logging
import math
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from medbench.data.index import Index
from medbench.data.pairs import Batch, Pairs, Reports, TrainingBatches, ValidationBatches, read_reports
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.devices import Precision, describe, deterministic, watch_determinism
from medbench.errors import DataError, MedbenchError, UsageError, WeightsError
from medbench.files import replacing
from medbench.lease import held
from medbench.method import Method, PretrainConfig, Recipe, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench.progress import Advance, Progress
from medbench.schedule import Plateau, learning_rate
from medbench.seeding import derive_seed, seed_everything
from medbench.task import Fit
from medbench.weights import ENGINE, config_json, finished, save, save_tensors, weights_key

GALLERY: Final = 1000
"""Pairs of the validation set that image-to-report retrieval is measured over: all, or this many, evenly spaced."""

CHECK_EVERY: Final = 10
"""Batches between two looks at the losses. On CUDA a look waits for the device, so not every step has one."""

CHECKPOINT_SECONDS: Final = 60.0
"""Time between checkpoints inside an epoch: at most this much is computed again. Each epoch ends with one anyway."""


def pretrain(
    method_class: type[Method],
    recipe: Recipe,
    corpus: Index,
    split: Split,
    images: Callable[[int, Fit], PreparedImages],
    *,
    method_name: str,
    owner: str,
    recipe_name: str,
    seed: int,
    device: torch.device,
    precision: Precision,
    store: Path,
    progress: Progress,
    extra_info: Mapping[str, Any] | None = None,
    offline: bool = False,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Path:
    """Train a method on a corpus, or go on where an interrupted run stopped, or find that it was done before.

    On the CPU the weights are the same bit for bit, interrupted or not. Training is on `split.train`, early stopping
    and the choice of the best epoch on `split.val`; `split.test` is not touched. Without two validation pairs all
    epochs are run and the last one counts.

    Args:
        method_class: the method.
        recipe: its config and its optimisation.
        corpus: the pairs.
        split: rows of `corpus`.
        images: (side, fit) -> prepared films of `corpus`; asked only if there is something left to train.
        method_name: as the user types it.
        owner: distribution that brings the method, with its version.
        recipe_name: `tiny`, `paper` or `micro`.
        seed: of everything that is random.
        device: to train on.
        precision: "32", or "bf16" for autocast.
        store: folder of all pretrained weights.
        progress: where to report to.
        extra_info: JSON types, added to weights.json (fidelity, git state).
        offline: do not ask a hub for anything.
        checkpoint_seconds: time between checkpoints inside an epoch.

    Returns:
        The folder of the finished weights.

    Raises:
        DataError: fewer than two training pairs.
        UsageError: the recipe has no pretraining, or a schedule that needs validation pairs where there are none.
        MedbenchError: the loss is no longer a number.
        WeightsError: the checkpoint of an interrupted run can not be read.
        KeyboardInterrupt: interrupted; a checkpoint is in place.
    """
    if recipe.pretrain is None:
        raise UsageError(
            f"{method_name}: the recipe `{recipe_name}` has no pretraining; there are no weights to train."
        )
    key = weights_key(method_name, owner, recipe, corpus, split, seed, precision)
    folder, partial = store / key, store / f"{key}.partial"
    store.mkdir(parents=True, exist_ok=True)
    with held(store / f"{key}.lease", f"pretraining {method_name}, seed {seed}", progress.say):
        if finished(store, key) is None:
            partial.mkdir(exist_ok=True)
            # what a run leaves that is killed while it writes its last files, or someone who deletes some of them
            for leftover in (*store.glob(f"{key}.*.tmp"), folder):
                shutil.rmtree(leftover, ignore_errors=True)
            deterministic()
            seed_everything(derive_seed(seed, "init"))
            training, validation = (
                read_reports(corpus, rows, recipe.pretrain.cleaning) for rows in (split.train, split.val)
            )
            if len(training) < 2:
                raise DataError(
                    f"{corpus.dataset}: pretraining needs at least 2 training pairs of an image and a report with"
                    f" words in it, found {len(training)} ({training.without_text} rows have no text). Check the"
                    f" report column and the training split in {corpus.root}."
                )
            if recipe.pretrain.schedule == "plateau" and len(validation) < 2:
                raise UsageError(
                    f"pretrain.schedule is plateau, which lowers the learning rate by the validation loss, but"
                    f" {corpus.dataset} has {len(validation)} validation pairs; expected at least 2. Set"
                    f" pretrain.schedule=cosine, or take a split with validation patients."
                )
            setup = Setup(
                seed=seed, device=device, offline=offline, store=store.parent / "text", say=progress.say
            )
            method = method_class.from_corpus(recipe.config, training.sentences, setup)
            films = images(method.model.preprocessing.resize * method.film_scale, "pad")
            pin = device.type == "cuda"
            run = _Run(
                method,
                recipe.pretrain,
                TrainingBatches(
                    _pairs(method, training, films),
                    seed,
                    recipe.pretrain.batch_size,
                    recipe.pretrain.accumulate,
                    pin,
                ),
                ValidationBatches(_pairs(method, validation, films), recipe.pretrain.batch_size, pin)
                if len(validation) >= 2
                else None,
                seed=seed,
                folder=partial,
                checkpoint_seconds=checkpoint_seconds,
            )
            with watch_determinism() as nondeterministic:
                _fit(run, device, precision, f"pretraining {method_name}", progress)
            info = {
                "method": method_name,
                "owner": owner,
                "recipe": recipe_name,
                "pretrain": config_json(recipe.pretrain),
                "seed": seed,
                "precision": precision,
                "device": describe(device),
                "nondeterministic": sorted(nondeterministic),
                "engine": ENGINE,
                "medbench": version("medbench"),
                "corpus": _describe_corpus(corpus, split, films, training, validation),
                **run.outcome(),
                **(extra_info or {}),
                "times": {**setup.times, "training_seconds": round(run.seconds(), 3)},
            }
            save(method, folder, info, run.best_tensors())
            progress.say(f"pretraining {method_name}: {run.summary()}")
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _pairs(method: Method, reports: Reports, films: PreparedImages) -> Pairs:
    vectors = method.report_vectors(reports.sentences)
    return Pairs(reports, films, method.model, vectors, scale=method.film_scale)


def _describe_corpus(
    corpus: Index, split: Split, films: PreparedImages, training: Reports, validation: Reports
) -> dict[str, Any]:
    return {
        "dataset": corpus.dataset,
        "source": corpus.source,
        "subset": corpus.subset,
        "fingerprint": corpus.fingerprint(),
        "split": split.name,
        "split_sha256": split.sha256(corpus),
        "images_sha256": films.sha256,
        "n_train": len(training),
        "n_val": len(validation),
        "without_text": training.without_text + validation.without_text,
        "excluded": len(corpus.excluded),
    }


@dataclass
class _State:
    """What a checkpoint holds beside weights, optimiser and Lightning's counters. Plain types only.

    Attributes:
        epoch, number: the batch that comes next.
        best_loss, best_epoch: of the validation loss so far.
        waited: epochs since the best one.
        stopped: early stopping has ended the run.
        history: one entry a finished epoch.
        seconds: spent training, in all processes that worked on it.
    """

    epoch: int = 0
    number: int = 0
    best_loss: float | None = None
    best_epoch: int | None = None
    waited: int = 0
    stopped: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0


class _Means:
    """Means of named losses over batches, summed on the device without waiting for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            value = value.detach().double()
            self.sums[name] = self.sums[name].to(value.device) + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        """The means; waits for the device."""
        return {name: float(total) / self.counts[name] for name, total in self.sums.items()}


class _Interrupted(Exception):
    """Someone asked to stop. Lightning turns KeyboardInterrupt into `sys.exit(1)`, so it gets this one instead."""


class _Run(pl.LightningModule):
    """One pretraining run as Lightning sees it."""

    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        method: Method,
        config: PretrainConfig,
        training: TrainingBatches,
        validation: ValidationBatches | None,
        *,
        seed: int,
        folder: Path,
        checkpoint_seconds: float,
    ) -> None:
        super().__init__()
        self.method = method
        self.config = config
        self.training_batches = training
        self.validation_batches = validation
        self.seed = seed
        self.folder = folder
        self.checkpoint_seconds = checkpoint_seconds
        self.state = _State()
        self.plateau = Plateau()
        self.on_start: Callable[[int, int], Advance] = lambda total, done: lambda n=1, note="": None
        self.stop_asked: Callable[[], bool] = lambda: False
        preprocessing = method.model.preprocessing
        self._size = preprocessing.size * method.film_scale
        # `Preprocessing.normalise` builds these two on the device for every batch, and waits for that
        mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self._first_bad: dict[
            str, Tensor
        ] = {}  # first step at which a loss was no number, or -1; on the device
        self._means = _Means()
        self._validation: dict[str, float] = {}
        self._validation_means = _Means()
        self._gallery: list[tuple[Tensor, Tensor]] = []
        self._has_text = True
        self._note = ""
        self._session = self._saved = time.monotonic()

    @property
    def last_checkpoint(self) -> Path:
        return self.folder / "last.ckpt"

    # The optimisation.

    def configure_optimizers(self) -> Any:
        optimizer = AdamW(
            [p for p in self.method.parameters() if p.requires_grad],
            lr=self.config.lr,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
        )
        steps = self.config.epochs * (len(self.training_batches) // self.training_batches.accumulate)
        self._schedule = LambdaLR(
            optimizer,
            lambda step: learning_rate(self.config, step, steps, self.plateau.scale) / self.config.lr,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}

    def _look_for_plateau(self) -> None:
        """Let the validation loss of an epoch lower the rate of the step that comes next, which is already set."""
        self.plateau.see(self._validation["loss"], self.config)
        schedule = self._schedule
        factors = (rate(schedule.last_epoch) for rate in schedule.lr_lambdas)
        for group, base, factor in zip(
            schedule.optimizer.param_groups, schedule.base_lrs, factors, strict=True
        ):
            group["lr"] = base * factor

    # Batches.

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def _pairs(self, batch: Batch) -> ImageTextBatch:
        images = batch.films(self._size)[:, None].float() / 255  # (B, S, S) uint8 -> (B, 1, S, S)
        images = (images - self._mean).div_(self._std)  # -> (B, 3, S, S)
        images = images.contiguous(memory_format=torch.channels_last)
        return ImageTextBatch(images, batch.text, batch.report_vectors)

    # Training.

    def on_train_start(self) -> None:
        per_epoch = len(self.training_batches) * self.training_batches.batch_size
        done = self.state.epoch * per_epoch + self.state.number * self.training_batches.batch_size
        self._advance = self.on_start(self.config.epochs * per_epoch, done)
        self._session = self._saved = time.monotonic()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if (batch.epoch, batch.number) != (
            self.current_epoch,
            batch_idx,
        ):  # a bug: resumed at the wrong place
            raise RuntimeError(
                f"the loader is at epoch {batch.epoch}, batch {batch.number}, the loop at epoch {self.current_epoch},"
                f" batch {batch_idx}"
            )
        step = batch.epoch * len(self.training_batches) + batch.number
        torch.manual_seed(derive_seed(self.seed, "step", step))
        terms = self.method.losses(self._pairs(batch), batch.epoch)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        self._means.add({**terms, "loss": loss})
        for name, value in {**terms, "their sum": loss}.items():
            before = self._first_bad.get(name, torch.full((), -1, device=loss.device))
            bad = ~torch.isfinite(value.detach()) & (before < 0)
            self._first_bad[name] = before + bad * (
                step + 1
            )  # -1 becomes `step`; `torch.where` would copy a scalar
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        done, whole = batch_idx + 1, len(self.training_batches)
        if done % CHECK_EVERY == 0 or done == whole:
            self._check_losses()
            self._note = self._describe(batch.epoch)
        self._advance(len(batch), self._note)
        if done == whole:  # goes on to validation; the epoch's end writes the checkpoint
            return
        stop = self.stop_asked()
        # gradients that are summed over several batches are in no checkpoint, so only between optimiser steps
        if done % self.training_batches.accumulate == 0:
            self.state.epoch, self.state.number = batch.epoch, done
            if stop or time.monotonic() - self._saved >= self.checkpoint_seconds:
                self._save_checkpoint()
            if stop:
                raise _Interrupted

    def _check_losses(self) -> None:
        first = {name: int(step) for name, step in self._first_bad.items()}
        step = min((step for step in first.values() if step >= 0), default=-1)
        if step < 0:
            return
        bad = [name for name, at in first.items() if at == step and name != "their sum"] or ["their sum"]
        epoch, number = divmod(step, len(self.training_batches))
        raise MedbenchError(
            f"the loss is not a finite number since epoch {epoch}, batch {number} ({', '.join(bad)}). Lower the"
            f" learning rate (--set pretrain.lr={self.config.lr / 3:.2g}), clip gradients"
            f" (--set pretrain.clip_gradient=1.0), or compute in --precision 32; then run again."
        )

    def _describe(self, epoch: int) -> str:
        means = self._means.read()
        terms = " ".join(f"{name} {mean:.2f}" for name, mean in means.items() if name != "loss")
        note = f"epoch {epoch + 1}/{self.config.epochs}, loss {means['loss']:.2f} ({terms})"
        return f"{note}, {self._describe_validation()}" if self._validation else note

    def _describe_validation(self) -> str:
        text = f"validation loss {self._validation['loss']:.2f}"
        top1 = self._validation.get("image_to_report_top1")
        return text if top1 is None else f"{text}, image-to-report top-1 {100 * top1:.1f} %"

    # Validation.

    def on_validation_epoch_start(self) -> None:
        self._validation_means, self._gallery = _Means(), []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if self.stop_asked():
            raise _Interrupted
        assert self.validation_batches is not None
        pairs = self._pairs(batch)
        # a contrastive loss grows with the batch, so only full batches are comparable
        if len(batch) == self.validation_batches.batch_size:
            torch.manual_seed(
                derive_seed(self.seed, "validation", batch.number)
            )  # the same masks in every epoch
            # terms that start late count from the start here, or the epochs could not be compared
            terms = self.method.losses(pairs, self.config.epochs - 1)
            self._validation_means.add(
                {**terms, "loss": torch.stack([t.float() for t in terms.values()]).sum()}
            )
        chosen = self.validation_batches.in_gallery(batch.number, GALLERY)
        if self._has_text and len(chosen):
            self._embed(pairs, torch.from_numpy(chosen).to(self.device))

    def _embed(self, pairs: ImageTextBatch, chosen: Tensor) -> None:
        model, text = self.method.model, pairs.text
        some = TextBatch(text.ids[chosen], text.mask[chosen], text.word[chosen], text.sentence[chosen])
        try:
            reports = model.embed_text(model.encode_text(some))  # (G, E)
        except NotImplementedError:  # a method without text in its model has no retrieval
            self._has_text = False
            return
        films = model.embed_image(model.encode_image(pairs.images[chosen]))  # (G, E)
        self._gallery.append((films.float(), reports.float()))

    def on_validation_epoch_end(self) -> None:
        assert self.validation_batches is not None
        self._validation = self._validation_means.read()
        if self._gallery:
            films, reports = (torch.cat(parts) for parts in zip(*self._gallery, strict=True))
            same = torch.from_numpy(self.validation_batches.gallery_text_ids(GALLERY))
            self._validation["image_to_report_top1"] = top1_accuracy(films, reports, same.to(films.device))
        self._gallery = []
        if not math.isfinite(self._validation["loss"]):
            raise MedbenchError(
                f"the validation loss after epoch {self.current_epoch} is {self._validation['loss']}. Lower the"
                f" learning rate (--set pretrain.lr={self.config.lr / 3:.2g}) or compute in --precision 32; then run"
                f" again."
            )

    # The end of an epoch: what was best, whether to go on, and the checkpoint that knows both.

    def on_train_epoch_end(self) -> None:
        state, epoch = self.state, self.current_epoch
        if self.config.schedule == "plateau":
            self._look_for_plateau()
        rates = self.trainer.optimizers[0].param_groups[0]["lr"]
        state.history.append(
            {
                "epoch": epoch,
                "train": self._means.read(),
                "validation": dict(self._validation),
                "lr_after": rates,
            }
        )
        previous = self._best_file(state.best_epoch) if state.best_epoch is not None else None
        if self._validation:
            if state.best_loss is None or self._validation["loss"] < state.best_loss:
                state.best_loss, state.best_epoch, state.waited = self._validation["loss"], epoch, 0
                if self.config.keep == "best":
                    # a file of its own: until the checkpoint below is written, the one before needs the one before
                    save_tensors(self.method, self._best_file(epoch))
            else:
                state.waited += 1
                state.stopped = self.config.patience is not None and state.waited >= self.config.patience
        self._means = _Means()
        state.epoch, state.number = epoch + 1, 0
        self._save_checkpoint()
        if previous is not None and state.best_epoch == epoch:
            previous.unlink(missing_ok=True)
        self.trainer.should_stop = state.stopped
        if self.stop_asked():
            raise _Interrupted

    # Checkpoints.

    def _save_checkpoint(self) -> None:
        self._check_losses()  # a checkpoint that can be gone on from must not be replaced by one that can't
        self.trainer.save_checkpoint(self.last_checkpoint, weights_only=False)
        self._saved = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = {**asdict(self.state), "seconds": self.seconds()}
        means = {"sums": dict(self._means.sums), "counts": dict(self._means.counts)}
        checkpoint["medbench"] = {
            "state": state,
            "plateau": asdict(self.plateau),
            "means": means,
            "validation": dict(self._validation),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        ours = checkpoint["medbench"]
        self.state, self.plateau = _State(**ours["state"]), Plateau(**ours["plateau"])
        self._means.sums, self._means.counts = dict(ours["means"]["sums"]), dict(ours["means"]["counts"])
        self._validation = dict(ours["validation"])
        self.training_batches.start_at(self.state.epoch, self.state.number)
        self.trainer.should_stop = self.state.stopped
        self._session = time.monotonic()

    # What became of it.

    def seconds(self) -> float:
        """Spent training, in this process and in those before."""
        return self.state.seconds + time.monotonic() - self._session

    def _best_file(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:04d}.safetensors"

    def best_tensors(self) -> Path | None:
        """The file of the best epoch; None where the last epoch's weights count."""
        kept = self._kept()
        return None if kept is None else self._best_file(kept)

    def _kept(self) -> int | None:
        """The best epoch, if its weights are to be kept and there is one."""
        return self.state.best_epoch if self.config.keep == "best" else None

    def outcome(self) -> dict[str, Any]:
        """The part of weights.json that training decides."""
        last = len(self.state.history) - 1
        return {
            "epochs": len(self.state.history),
            "best_epoch": last if self._kept() is None else self._kept(),
            "chosen_by": "last epoch" if self._kept() is None else "validation loss",
            "stopped_early": self.state.stopped,
            "batch_size": self.training_batches.batch_size,
            "accumulate": self.training_batches.accumulate,
            "optimiser_steps": len(self.state.history)
            * (len(self.training_batches) // self.training_batches.accumulate),
            "history": self.state.history,
        }

    def summary(self) -> str:
        """One line for the log."""
        epochs = len(self.state.history)
        if self.state.best_epoch is None:
            return f"no validation pairs, weights of the last of {epochs} epochs"
        kept = self._kept()
        self._validation = self.state.history[-1 if kept is None else kept]["validation"]
        which = f"last of {epochs} epochs" if kept is None else f"best of {epochs} epochs is {kept + 1}"
        return f"{which}: {self._describe_validation()}"


def top1_accuracy(films: Tensor, reports: Tensor, text_ids: Tensor) -> float:
    """Share of films whose nearest report reads like their own.

    Normal studies share their wording, so a report with the same tokens as the right one is right too.

    Args:
        films: (N, E) unit vectors.
        reports: (N, E) unit vectors; report i belongs to film i.
        text_ids: (N,) int64, equal for equal reports.

    Returns:
        0 to 1.
    """
    nearest = (films @ reports.T).argmax(dim=1)  # (N,)
    return float((text_ids[nearest] == text_ids).float().mean())


class _AtomicCheckpoints(TorchCheckpointIO):
    """A checkpoint file is whole or not there, and holds tensors and plain containers only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with (
            replacing(Path(path)) as partial,
            partial.open("wb") as file,
        ):  # torch names no errors of its own files
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        try:
            return cast(dict[str, Any], torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # torch raises several kinds for a damaged file, none of its own
            raise WeightsError(
                f"{path}: the checkpoint of an interrupted run can not be read ({type(error).__name__}). Remove"
                f" {Path(path).parent} to train from the start."
            ) from error


def _fit(run: _Run, device: torch.device, precision: Precision, what: str, progress: Progress) -> None:
    """Let Lightning train `run`, from its last checkpoint if there is one."""
    with _quiet_lightning(), _interruptible() as asked, ExitStack() as stack:
        trainer = pl.Trainer(
            accelerator=device.type,
            devices=1 if device.type == "cpu" else [device.index or 0],
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            max_epochs=run.config.epochs,
            accumulate_grad_batches=run.training_batches.accumulate,
            gradient_clip_val=run.config.clip_gradient,
            num_sanity_val_steps=0,
            default_root_dir=run.folder,
            # one process, whatever scheduler it was started by
            plugins=[LightningEnvironment(), _AtomicCheckpoints()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        run.stop_asked = lambda: asked() or trainer.received_sigterm
        run.on_start = lambda total, done: stack.enter_context(progress.track(what, total, "pairs", done))
        # Convolutions are faster in this order of memory; files hold the usual one.
        run.to(memory_format=torch.channels_last)
        run.train()
        resume = run.last_checkpoint if run.last_checkpoint.is_file() else None
        try:
            trainer.fit(
                run,
                train_dataloaders=run.training_batches,
                val_dataloaders=run.validation_batches,
                ckpt_path=resume,
                weights_only=True,
            )
        except _Interrupted:
            raise KeyboardInterrupt from None
        except SystemExit as end:
            if isinstance(end.__context__, KeyboardInterrupt):  # Lightning's answer to one
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the run to stop after this step, with a checkpoint; the second one stops it at once."""
    if (
        threading.current_thread() is not threading.main_thread()
    ):  # only the main thread can have signal handlers
        yield lambda: False
        return
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def ask(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence what Lightning says about itself; its warnings about the run stay."""
    loggers = [
        logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # it is resumable: `on_load_checkpoint` tells the loader where to start
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
            # a corpus without validation pairs, which the summary and weights.json say
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`")
            # a frozen encoder stays in eval mode
            warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
            # Lightning 2.6 asks torch 2.14 in an old way
            warnings.filterwarnings(
                "ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
