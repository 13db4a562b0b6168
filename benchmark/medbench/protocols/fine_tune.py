"""Fine-tuning (`ft`): the whole image encoder and one linear layer on its pooled features learn the labels.

The encoder under test is copied for every trial. Trials are the points of one grid, learning rate times layer decay,
that is the same for every method; validation chooses among them and their epochs, at that label fraction. All see the
same films in the same order with the same crops, so that they differ in their rates alone.

The published protocol is one point of the grid, without layer decay: AdamW at 1e-4, batches of 64, 50 epochs (KAD,
arXiv 2302.14042, and G2D, arXiv 2312.01522, on ChestX-ray14). BenchX (arXiv 2410.21969) searches rates from 1e-5 to
3e-2, batch sizes and optimisers for each method and dataset.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.data.augment import centre_crop, crop, random_corners
from medbench.devices import autocast
from medbench.metrics.classification import accuracy, macro_auroc
from medbench.model import VisionLanguageModel
from medbench.protocols.classification import Classification, label_loss, log_odds
from medbench.protocols.features import read_films
from medbench.protocols.selection import one_valued, prior_log_odds
from medbench.protocols.training import Schedule, Training, schedule_for
from medbench.protocols.unfrozen import (
    describe_layers,
    layer_count,
    parameter_groups,
    trainable_copy,
    trained_part,
)
from medbench.seeding import drawn_from
from medbench.task import Environment, Evaluation, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FineTuneConfig:
    """Every number of the protocol at one recipe. Defaults: `paper`, from KAD and G2D where nothing else is said."""

    schedules: tuple[Schedule, ...] = (
        Schedule(up_to=0.05, lr=1e-4, batch_size=16, epochs=50, validate_every=1, patience=10),
        Schedule(up_to=1.0, lr=1e-4, batch_size=64, epochs=50, validate_every=1, patience=10),
    )
    """By share of labels, rising. `lr` is the rate in the middle of the grid. The smaller batch is ours: 1 % of SIIM
    would be one step an epoch; so is the patience. A last batch that is smaller than the others is left out, since its
    statistics would be those of a few films."""
    lr_factors: tuple[float, ...] = (0.3, 1.0, 3.0)
    """The grid of rates, in parts of the schedule's; for the encoder's last layer and the linear layer (ours)."""
    layer_decays: tuple[float, ...] = (0.75, 1.0)
    """The grid of layer decays, see `parameter_groups`; 1 for one rate, as published (ours)."""
    weight_decay: float = 0.05
    """Of AdamW, on matrices and kernels (ours)."""
    warmup: float = 0.05
    """Share of the steps over which rates rise from 0; they then fall to 0 along half a cosine (ours)."""
    flip: float = 0.5
    """Chance that a training film is mirrored. Each is cut from a random place of its padded square, as MGCA's linear
    probe does (0.5 is that of its CheXpert films); where a model sees the whole square there is one place."""
    predict_batch: int = 64
    """Films a forward pass without gradient."""


RECIPES: Mapping[str, FineTuneConfig] = {
    "paper": FineTuneConfig(),
    # 35, 350 and 3,500 films of 96 px, each cell within a minute on two CPU cores: small batches and rates at which few
    # steps get somewhere. From an untrained encoder, phantom films: validation AUROC 0.93 at 10 % after 15 epochs at
    # 1e-3 and at 3e-3, 0.89 at 1e-2.
    "tiny": FineTuneConfig(
        schedules=(
            Schedule(up_to=0.05, lr=1e-3, batch_size=16, epochs=60, validate_every=10, patience=3),
            Schedule(up_to=0.5, lr=1e-3, batch_size=16, epochs=12, validate_every=3, patience=3),
            Schedule(up_to=1.0, lr=1e-3, batch_size=32, epochs=2, validate_every=1, patience=2),
        ),
        lr_factors=(1.0, 3.0),
        layer_decays=(1.0,),
    ),
    # Seconds, for tests: the numbers mean nothing.
    "micro": FineTuneConfig(
        schedules=(Schedule(up_to=1.0, lr=1e-3, batch_size=16, epochs=2, validate_every=1, patience=2),),
        lr_factors=(1.0,),
        layer_decays=(1.0,),
    ),
}
"""The protocol at each recipe. A table never mixes them."""


class FineTune(Classification):
    """One network for all classes: they share the encoder, so rates and epochs are chosen for all of them together."""

    config: FineTuneConfig

    def __init__(
        self, recipe: str, *, split: str, classes: Sequence[str] = (), exclusive: bool = False
    ) -> None:
        super().__init__(recipe, split=split, classes=classes, exclusive=exclusive)
        self.config = RECIPES[recipe]

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> VisionLanguageModel:
        """The model itself, as nothing can be computed once for all fractions. Films are prepared here.

        Raises:
            DataError: nobody is tested.
            PluginError: the model can not be fine-tuned.
        """
        self.require_test(data)
        layer_count(trainable_copy(model))
        data.images(*self.films(model.preprocessing))
        return model

    def evaluate(
        self, features: VisionLanguageModel, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Train a copy of the model at each point of the grid, predict the test films with the best.

        A killed call goes on from the last validation of the trial that it was in, and gives the same numbers.

        A class that has only one value in `train` is not trained: every film has the same score. One that has only one
        value in validation is trained, but has no say in the choice; where none has, nothing is trained. `search` names
        these classes.

        Raises:
            FloatingPointError: the loss is no longer finite.
        """
        labels = _Labels(self, data, train)
        schedule = schedule_for(self.config.schedules, len(train), len(data.split.train))
        copy = trainable_copy(features)
        layers, several = describe_layers(copy), layer_count(copy) > 1
        del copy
        rates = [factor * schedule.lr for factor in self.config.lr_factors]
        decays = list(self.config.layer_decays) if several else [1.0]
        points = list(product(rates, decays)) if labels.judged else []
        best: _Trial | None = None
        tried: list[dict[str, Any]] = []
        checkpoints: list[Path] = []
        for lr, decay in points:
            env.progress.say(
                f"fine-tuning, trial {len(tried) + 1} of {len(points)}: learning rate {lr:g}, layer decay {decay:g}, "
                f"at most {schedule.epochs} epochs of {len(train):,} films"
            )
            at = replace(schedule, lr=lr)
            trial = _Trial(features, labels, data, train, self.config, at, decay, seed, env)
            trial.training.run()
            tried.append(trial.summary())
            checkpoints.append(trial.training.path)  # kept until all trials are done
            if best is None or trial.score > best.score:  # of equal ones the first
                best = trial
        test, validation = (
            labels.unlearnt(len(rows)) if best is None else best.predict(rows)
            for rows in (data.split.test, data.split.val)
        )
        for checkpoint in checkpoints:
            checkpoint.unlink(missing_ok=True)
        search = {
            "grid": {
                "lr": rates,
                "layer_decay": decays,
                "epoch": f"every {schedule.validate_every}, up to {schedule.epochs}",
            },
            "trials": len(tried),
            "selected_on": f"validation {labels.metric}",
            "chosen": {} if best is None else best.summary(),
            "tried": tried,
            "budget": {what: sum(trial[what] for trial in tried) for what in ("epochs", "steps", "films")},
            "layers": layers,
            "schedule": asdict(schedule),
            "notes": labels.notes,
        }
        return Evaluation(self.predictions(data, test, validation), search)


class _Labels:
    """What is known of the films, and what can be learnt and chosen from it.

    Attributes:
        names: all classes, C of them.
        learnt: positions of the L that are trained.
        judged: positions of those that validation chooses by.
        prior: (C,) log-odds of the classes in the training fraction.
        notes: of the other classes, why not.
        metric: what validation chooses by.
        exclusive: whether exactly one class is 1.
    """

    def __init__(self, task: Classification, data: TaskData, train: Rows) -> None:
        self.names, self.exclusive = task.names(data.index), task.exclusive
        self.metric = "accuracy" if task.exclusive else "auroc" if len(task.classes) == 1 else "macro_auroc"
        self._values = task.labels(data.index, np.arange(len(data.index)))  # (N, C)
        self._validation = self._values[data.split.val]
        labels = self._values[train]
        self.prior = prior_log_odds(labels, exclusive=self.exclusive)
        absent = one_valued(labels, self.names, "training fraction")
        self.learnt = [k for k, name in enumerate(self.names) if name not in absent]
        silent: dict[str, str] = {}
        if not self.exclusive:
            silent = one_valued(self._validation, self.names, "validation split")
        elif np.isnan(self._validation).any(axis=1).all():
            silent = dict.fromkeys(self.names, "the validation split holds no film with a known class")
        self.judged = [k for k in self.learnt if self.names[k] not in silent]
        no_say = "it has no say in the choice" if self.judged else "nothing can be chosen, nor is trained"
        self.notes = {name: f"{note}: {no_say}" for name, note in silent.items()} | {
            name: f"{note}: every film has the same score" for name, note in absent.items()
        }

    def of(self, rows: Rows) -> Tensor:
        """(B, L) float32: 1, 0, NaN where not known."""
        return torch.from_numpy(self._values[rows][:, self.learnt].astype(np.float32))

    def start(self) -> Tensor:
        """(L,) float32 biases with which a linear layer gives each class its share of the training films."""
        odds = torch.from_numpy(self.prior[self.learnt]).float()
        return F.logsigmoid(odds) if self.exclusive else odds

    def unlearnt(self, films: int) -> Floats:
        """(films, C) log-odds that are the same for every film."""
        return np.tile(self.prior, (films, 1))

    def judge(self, scores: Floats) -> float:
        """Accuracy, or the mean AUROC of the judged classes, of the log-odds (V, C) of the validation films."""
        if self.exclusive:
            value = accuracy(self._validation, scores)
        else:
            value = macro_auroc(self._validation[:, self.judged], scores[:, self.judged])
        assert value is not None  # there are judged classes
        return value


class _Trial:
    """A network at one point of the grid: a copy of the encoder and a linear layer, and how they are trained."""

    def __init__(
        self,
        model: VisionLanguageModel,
        labels: _Labels,
        data: TaskData,
        train: Rows,
        config: FineTuneConfig,
        schedule: Schedule,
        layer_decay: float,
        seed: int,
        env: Environment,
    ) -> None:
        self.labels, self.config, self.schedule, self.layer_decay = labels, config, schedule, layer_decay
        self.env = env
        self.inputs = model.preprocessing
        self.films = data.images(self.inputs.resize, "pad").images
        self.model: Any = trainable_copy(model)
        with torch.no_grad():
            width = self._pooled(centre_crop(self._squares(train[:1]), self.inputs.size)).shape[1]
        # Nothing is drawn: the first predictions are the shares of the classes.
        self.head = nn.Linear(width, len(labels.learnt), device="meta").to_empty(device=env.device)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.copy_(labels.start())
        lr, decay = schedule.lr, config.weight_decay
        self.optimiser = torch.optim.AdamW(
            [
                *parameter_groups(self.model, lr, layer_decay, decay),
                {"params": [self.head.weight], "lr": lr, "weight_decay": decay},
                {"params": [self.head.bias], "lr": lr, "weight_decay": 0.0},
            ],
            fused=True,
        )
        self.peaks = [group["lr"] for group in self.optimiser.param_groups]
        self.batch = min(schedule.batch_size, len(train))
        self.steps = len(train) // self.batch  # an epoch
        self._epoch, self._number = -1, 0  # of the last step
        self.training = Training(
            "fine-tuned network",
            nn.ModuleList([trained_part(self.model), self.head]),
            self.optimiser,
            schedule,
            train,
            seed,
            env,
            {
                "config": asdict(config),
                "layer_decay": layer_decay,
                "classes": [labels.names[k] for k in labels.learnt],
                "encoder": env.encoder,
            },
            step=self._step,
            validate=lambda: labels.judge(self.predict(data.split.val)),
            drop_last=True,
        )

    @property
    def score(self) -> float:
        """The best on validation."""
        return float(self.training.best["score"])

    def summary(self) -> dict[str, Any]:
        """What was tried, what it gave and what it took; for the record."""
        epochs = self.training.epoch
        return {
            "lr": self.schedule.lr,
            "layer_decay": self.layer_decay,
            "epoch": self.training.best["epoch"],
            f"validation_{self.labels.metric}": self.score,
            "epochs": epochs,
            "steps": epochs * self.steps,
            "films": epochs * self.steps * self.batch,
        }

    def predict(self, rows: Rows) -> Floats:
        """(len(rows), C) log-odds."""
        self.model.eval()
        parts = []
        for start in range(0, len(rows), self.config.predict_batch):
            films = self._squares(rows[start : start + self.config.predict_batch])
            with torch.no_grad():
                parts.append(self.head(self._pooled(centre_crop(films, self.inputs.size))))
        logits = torch.cat(parts).cpu().double()
        scores = self.labels.unlearnt(len(rows))
        scores[:, self.labels.learnt] = log_odds(logits) if self.labels.exclusive else logits
        return scores

    def _step(self, rows: Rows, generator: torch.Generator) -> Tensor:
        self._set_rates()
        drawn = torch.rand(len(rows), 3, generator=generator, dtype=torch.float64).numpy()
        corners = random_corners(drawn[:, :2], self.inputs.resize, self.inputs.size)
        device = self.env.device
        films = crop(self._squares(rows), torch.from_numpy(corners).to(device), self.inputs.size)
        mirrored = torch.from_numpy(drawn[:, 2] < self.config.flip).to(device)
        films = torch.where(mirrored[:, None, None], films.flip(2), films)
        self.model.train()
        # Dropout and dropped paths draw from torch's own generator, which is lent to them here.
        with drawn_from(int(torch.randint(2**62, (), generator=generator)), device):
            logits = self.head(self._pooled(films))
        return label_loss(logits, self.labels.of(rows).to(device), self.labels.exclusive)

    def _set_rates(self) -> None:
        """As they are at this step. Training goes on at the beginning of an epoch, whatever was before."""
        epoch = self.training.epoch
        self._number = self._number + 1 if epoch == self._epoch else 0
        self._epoch = epoch
        now = rate(epoch * self.steps + self._number, self.schedule.epochs * self.steps, self.config.warmup)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * now

    def _squares(self, rows: Rows) -> Tensor:
        """(B, R, R) uint8 films on the device."""
        return read_films(self.films, rows, self.env.device)

    def _pooled(self, films: Tensor) -> Tensor:
        """(B, S, S) uint8 -> (B, D) float32."""
        with autocast(self.env.device, self.env.precision):
            pooled: Tensor = self.model.encode_image(self.inputs.normalise(films)).pooled
        return pooled.float()


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate at `step` (from 0) of `steps`: a straight rise over `warmup` of them, then half a cosine.

    The first step after the rise has all of it, and the last step is not at 0.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
