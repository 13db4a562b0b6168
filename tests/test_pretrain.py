"""The engine, on a method small enough to be trained hundreds of times, with all that makes exactness hard in it."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medbench import lease
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import DataError, MedbenchError, UsageError, WeightsError
from medbench.method import Method, PretrainConfig, Recipe, Setup
from medbench.model import ImageFeatures, ImageTextBatch, Preprocessing, TextBatch, TextFeatures
from medbench.pretrain import pretrain, top1_accuracy
from medbench.progress import Progress
from medbench.weights import finished, load, read_info, weights_key

SIDE, SIZE, WORDS = (
    12,
    8,
    ("the", "heart", "lungs", "is", "are", "large", "small", "clear", "opaque", "normal"),
)


@dataclass(frozen=True)
class ToyConfig:
    width: int = 6
    dropout: float = 0.3


class ToyModel(nn.Module):
    """Convolution, batch norm, dropout; a bag of words."""

    def __init__(self, config: ToyConfig, words: Sequence[str]) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(size=SIZE, resize=SIDE)
        self.words = list(words)
        self.image = nn.Sequential(
            nn.Conv2d(3, config.width, 3, stride=2),
            nn.BatchNorm2d(config.width),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.text = nn.Embedding(len(self.words) + 1, config.width, padding_idx=0)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        maps = self.image(images)
        return ImageFeatures(maps.mean(dim=(2, 3)), maps.flatten(2).transpose(1, 2))

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        known = {word: i + 1 for i, word in enumerate(self.words)}
        split = [
            [(known.get(w, 0), s) for s, line in enumerate(report) for w in line.split()]
            for report in reports
        ]
        length = max(map(len, split))
        ids, sentence = (
            torch.zeros(len(split), length, dtype=torch.long),
            torch.full((len(split), length), -1),
        )
        for row, tokens in enumerate(split):
            ids[row, : len(tokens)] = torch.tensor([t for t, _ in tokens])
            sentence[row, : len(tokens)] = torch.tensor([s for _, s in tokens])
        mask = sentence >= 0
        word = torch.where(mask, torch.arange(length).expand_as(ids), -1)
        return TextBatch(ids, mask, word, sentence)

    def encode_text(self, text: TextBatch) -> TextFeatures:
        vectors = self.text(text.ids)
        weight = text.mask.float()[..., None]
        pooled = (vectors * weight).sum(1) / weight.sum(1)
        return TextFeatures(pooled, vectors, text.mask, text.sentence)

    def embed_image(self, features: ImageFeatures) -> Tensor:
        return F.normalize(features.pooled, dim=-1)

    def embed_text(self, features: TextFeatures) -> Tensor:
        return F.normalize(features.pooled, dim=-1)


class Toy(Method):
    """InfoNCE, and a second term that starts late and draws random numbers."""

    recipes: Mapping[str, Recipe] = {  # type: ignore[misc]
        "micro": Recipe(
            ToyConfig(), PretrainConfig(epochs=4, batch_size=4, lr=0.02, warmup=0.2, clip_gradient=1.0)
        )
    }
    on_losses: Callable[[int], None] | None = None
    calls = 0

    def __init__(self, config: ToyConfig, words: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        self.model: ToyModel = ToyModel(config, words)

    @classmethod
    def from_corpus(cls, config: Any, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        return cls(config, sorted({w for report in reports for line in report for w in line.split()}))

    @classmethod
    def from_assets(cls, config: Any, assets: Mapping[str, bytes]) -> Self:
        return cls(config, assets["words.txt"].decode().split())

    def assets(self) -> Mapping[str, bytes]:
        return {"words.txt": " ".join(self.model.words).encode()}

    def report_vectors(self, reports: Sequence[Sequence[str]]) -> Tensor:
        text = self.model.tokenize(reports)
        return torch.stack([text.ids.sum(1), text.mask.sum(1)], 1).float()

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        wanted = torch.stack([batch.text.ids.sum(1), batch.text.mask.sum(1)], 1)
        assert batch.report_vectors is not None
        assert torch.equal(batch.report_vectors, wanted.float())  # of these very reports
        type(self).calls += 1
        if type(self).on_losses is not None:
            type(self).on_losses(type(self).calls)
        films = self.model.embed_image(self.model.encode_image(batch.images))
        reports = self.model.embed_text(self.model.encode_text(batch.text))
        logits = films.float() @ reports.float().T / 0.1
        target = torch.arange(len(logits), device=logits.device)
        terms = {"instance": F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)}
        if epoch >= 1:
            terms["mask"] = 0.1 * (films * torch.rand_like(films)).square().sum()
        return terms


class Killed(BaseException):
    """Stands for kill -9: nothing in the engine catches it or acts on it."""


def corpus(n: int = 24, empty: Sequence[int] = ()) -> tuple[Index, Split, PreparedImages]:
    draw = np.random.default_rng(0)
    reports = [
        " ".join(draw.choice(WORDS, 4)) + ". " + " ".join(draw.choice(WORDS, 3)) + "." for _ in range(n)
    ]
    for row in empty:
        reports[row] = " . "
    table = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(n)],
            "patient": [f"p{i}" for i in range(n)],
            "study": [f"t{i}" for i in range(n)],
            "split": "",
            "view": "PA",
            "image": [f"{i}.png" for i in range(n)],
            "bytes": 1,
            "boxes": [None] * n,
            "report": reports,
        }
    )
    films = draw.integers(0, 256, (n, SIDE, SIDE), dtype=np.uint8)
    rows = np.arange(n, dtype=np.int64)
    split = Split("toy", rows[: n * 2 // 3], rows[n * 2 // 3 :], rows[:0])
    return (
        Index("toy", Path("/nowhere"), "phantom", table),
        split,
        PreparedImages(films, np.full((n, 2), SIDE), "0" * 64),
    )


def micro(**changes: Any) -> Recipe:
    return Recipe(ToyConfig(), replace(Toy.recipes["micro"].pretrain, **changes))


def train(store: Path, recipe: Recipe | None = None, **changes: Any) -> Path:
    index, split, films = changes.pop("data", None) or corpus()
    arguments: dict[str, Any] = {
        "method_name": "toy",
        "owner": "tests",
        "recipe_name": "micro",
        "seed": 3,
        "device": torch.device("cpu"),
        "precision": "32",
        "store": store,
        "progress": Progress(quiet=True),
        "checkpoint_seconds": math.inf,
    }
    return pretrain(Toy, recipe or micro(), index, split, lambda side, fit: films, **(arguments | changes))


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that is written, but for times."""
    info = json.loads((folder / "weights.json").read_text())
    del info["times"]
    return info


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    Toy.on_losses, Toy.calls = None, 0
    yield
    Toy.on_losses = None
    torch.use_deterministic_algorithms(False)


def killed_at(*calls: int) -> Callable[[int], None]:
    def die(call: int) -> None:
        if call in calls:
            raise Killed

    return die


def train_through_kills(store: Path, recipe: Recipe, *calls: int, **changes: Any) -> Path:
    """Train; die at these calls of `losses` (counted over all processes); start again each time."""
    Toy.calls, Toy.on_losses = 0, killed_at(*calls)
    for _ in range(len(calls) + 1):
        try:
            return train(store, recipe, **changes)
        except Killed:
            continue
    raise AssertionError("killed more often than asked for")


def test_weights_are_written_and_load_again(tmp_path: Path) -> None:
    folder = train(tmp_path, extra_info={"fidelity": "baseline"})
    index, split, _ = corpus()
    assert (
        folder
        == tmp_path / weights_key("toy", "tests", micro(), index, split, 3, "32")
        == finished(tmp_path, folder.name)
    )
    weights = load(folder, Toy, "toy")
    assert not weights.method.training
    info = outcome(folder)
    assert info["method"] == "toy"
    assert info["recipe"] == "micro"
    assert info["fidelity"] == "baseline"
    assert info["corpus"] == {
        "dataset": "toy",
        "source": "phantom",
        "subset": None,
        "fingerprint": index.fingerprint(),
        "split": "toy",
        "split_sha256": split.sha256(index),
        "images_sha256": "0" * 64,
        "n_train": 16,
        "n_val": 8,
        "without_text": 0,
        "excluded": 0,
    }
    assert [entry["epoch"] for entry in info["history"]] == [0, 1, 2, 3]
    assert set(info["history"][0]["train"]) == {"instance", "loss"}  # the late term has not started
    assert set(info["history"][1]["train"]) == {"instance", "mask", "loss"}
    assert set(info["history"][1]["validation"]) == {"instance", "mask", "loss", "image_to_report_top1"}
    assert info["history"][-1]["lr_after"] == pytest.approx(1e-8)
    assert info["optimiser_steps"] == 16
    assert info["nondeterministic"] == []
    assert info["device"]["type"] == "cpu"
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_a_method_may_ask_for_larger_films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, split, films = corpus()
    large = PreparedImages(films.images.repeat(2, axis=1).repeat(2, axis=2), 2 * films.sizes, "1" * 64)
    asked: list[int] = []
    seen: set[tuple[int, ...]] = set()
    losses = Toy.losses

    def look(method: Toy, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        seen.add(tuple(batch.images.shape[1:]))
        return losses(method, batch, epoch)

    def images(side: int, fit: str) -> PreparedImages:
        asked.append(side)
        return large

    monkeypatch.setattr(Toy, "film_scale", 2)
    monkeypatch.setattr(Toy, "losses", look)
    arguments: dict[str, Any] = {"method_name": "toy", "owner": "tests", "recipe_name": "micro", "seed": 3}
    pretrain(
        Toy,
        micro(epochs=1),
        index,
        split,
        images,
        device=torch.device("cpu"),
        precision="32",
        store=tmp_path,
        progress=Progress(quiet=True),
        **arguments,
    )
    assert asked == [2 * SIDE]
    assert seen == {(3, 2 * SIZE, 2 * SIZE)}


def test_best_epoch_is_kept_by_validation_loss(tmp_path: Path) -> None:
    folder = train(tmp_path, micro(epochs=12, lr=1.0, patience=None))
    info = outcome(folder)
    losses = [entry["validation"]["loss"] for entry in info["history"]]
    assert len(losses) == 12
    assert info["best_epoch"] == int(np.argmin(losses)) != 11  # else the test shows nothing
    assert info["chosen_by"] == "validation loss"
    # the same losses come out of the weights that were kept
    method = load(folder, Toy, "toy").method
    index, split, films = corpus()
    from medbench.data.pairs import Pairs, ValidationBatches, read_reports

    reports = read_reports(index, split.val)
    pairs = Pairs(reports, films, method.model, method.report_vectors(reports.sentences))
    normalise = method.model.preprocessing.normalise
    with torch.no_grad():
        found = [
            method.losses(ImageTextBatch(normalise(b.films(SIZE)), b.text, b.report_vectors), 11)["instance"]
            for b in ValidationBatches(pairs, 4)
        ]
    expected = info["history"][info["best_epoch"]]["validation"]["instance"]
    assert float(torch.stack(found).double().mean()) == pytest.approx(expected, rel=1e-6)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    history = outcome(train(tmp_path, micro(epochs=6, lr=0.3, patience=None)))["history"]
    assert history[-1]["train"]["instance"] < 0.8 * history[0]["train"]["instance"]


def test_same_seed_same_weights_other_seed_others(tmp_path: Path) -> None:
    first, second = outcome(train(tmp_path / "a")), outcome(train(tmp_path / "b"))
    assert first == second
    third = outcome(train(tmp_path / "a", seed=4))
    assert third["sha256"] != first["sha256"]


@pytest.mark.parametrize(
    ("accumulate", "seconds", "every"),
    [
        (1, 0.0, 3),
        (2, 0.0, 7),
        (1, math.inf, 8),
        pytest.param(1, 0.0, 1, marks=pytest.mark.slow),
        pytest.param(2, 0.0, 1, marks=pytest.mark.slow),
        pytest.param(2, math.inf, 1, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_ends_in_the_same_weights(
    tmp_path: Path, accumulate: int, seconds: float, every: int
) -> None:
    recipe = micro(epochs=3, accumulate=accumulate)
    expected = outcome(train(tmp_path / "whole", recipe))
    total = Toy.calls
    assert total == 3 * (4 + 2)  # four training and two validation batches an epoch
    for call in range(2, total + 1, every):
        folder = train_through_kills(tmp_path / f"killed{call}", recipe, call, checkpoint_seconds=seconds)
        assert outcome(folder) == expected, f"killed in call {call}"


def test_killed_again_and_again(tmp_path: Path) -> None:
    recipe = micro(epochs=3)
    expected = outcome(train(tmp_path / "whole", recipe))
    folder = train_through_kills(tmp_path / "killed", recipe, *range(2, 24, 4), checkpoint_seconds=0.0)
    assert outcome(folder) == expected


def test_early_stopping_survives_a_kill_anywhere(tmp_path: Path) -> None:
    recipe = micro(epochs=12, lr=1.0, patience=2)
    expected = outcome(train(tmp_path / "whole", recipe))
    total = Toy.calls
    assert expected["stopped_early"]
    assert expected["epochs"] == expected["best_epoch"] + 3 < 12
    for call in (total // 2, total):
        folder = train_through_kills(tmp_path / f"killed{call}", recipe, call, checkpoint_seconds=0.0)
        assert outcome(folder) == expected, f"killed in call {call}"


def rates(info: dict[str, Any]) -> list[float]:
    return [entry["lr_after"] for entry in info["history"]]


def test_a_plateau_lowers_the_rate_and_survives_a_kill_anywhere(tmp_path: Path) -> None:
    recipe = micro(
        epochs=8,
        lr=1.0,
        patience=None,
        warmup=0.0,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=1,
    )
    expected = outcome(train(tmp_path / "whole", recipe))
    total = Toy.calls
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for epoch, entry in enumerate(expected["history"]):
        optimizer.step()
        theirs.step(entry["validation"]["loss"])
        assert entry["lr_after"] == pytest.approx(optimizer.param_groups[0]["lr"]), epoch
    assert 1.0 in rates(expected)
    assert rates(expected)[-1] <= 0.25
    for call in range(3, total + 1, 7):
        folder = train_through_kills(tmp_path / f"killed{call}", recipe, call, checkpoint_seconds=0.0)
        assert outcome(folder) == expected, f"killed in call {call}"


def test_the_rate_of_a_plateau_holds_from_the_next_step_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medbench.pretrain import _Run

    recipe = micro(epochs=6, lr=1.0, patience=None, warmup=0.0, schedule="plateau", plateau_patience=0)
    real, used = _Run.on_train_batch_end, []

    def look(run: _Run, *args: Any) -> None:
        (group,) = run.trainer.optimizers[0].param_groups
        used.append(group["lr"])
        real(run, *args)

    monkeypatch.setattr(_Run, "on_train_batch_end", look)
    after = rates(outcome(train(tmp_path, recipe)))
    assert used == [rate for rate in (1.0, *after[:-1]) for _ in range(4)]
    assert len(set(after)) > 1


def test_a_plateau_needs_validation_pairs(tmp_path: Path) -> None:
    index, split, films = corpus()
    with pytest.raises(
        UsageError, match=r"schedule is plateau.*toy has 1 validation pairs; .*schedule=cosine"
    ):
        train(tmp_path, micro(schedule="plateau"), data=(index, replace(split, val=split.val[:1]), films))


def test_restarts_survive_a_kill_anywhere(tmp_path: Path) -> None:
    recipe = micro(
        epochs=7, patience=None, warmup=0.0, schedule="restarts", restart_epochs=1, restart_factor=2
    )
    expected = outcome(train(tmp_path / "whole", recipe))
    total = Toy.calls
    # cycles of 1, 2 and 4 epochs; after the last step of one the rate is that of the next one's first
    assert [rate == pytest.approx(0.02) for rate in rates(expected)] == [1, 0, 1, 0, 0, 0, 1]
    for call in range(4, total + 1, 9):
        folder = train_through_kills(tmp_path / f"killed{call}", recipe, call, checkpoint_seconds=0.0)
        assert outcome(folder) == expected, f"killed in call {call}"


@pytest.mark.parametrize("where", ["save_tensors", "save"])
@pytest.mark.parametrize("late", [False, True])
def test_killed_while_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, late: bool
) -> None:
    expected = outcome(train(tmp_path / "whole", micro(lr=0.1)))
    from medbench import pretrain as engine

    real = getattr(engine, where)
    times = 0

    def die(*args: Any, **named: Any) -> Any:
        nonlocal times
        times += 1
        if times == (2 if where == "save_tensors" else 1):
            if late:
                real(*args, **named)
            raise Killed
        return real(*args, **named)

    monkeypatch.setattr(engine, where, die)
    with pytest.raises(Killed):
        train(tmp_path / "killed", micro(lr=0.1))
    assert outcome(train(tmp_path / "killed", micro(lr=0.1))) == expected
    assert not list((tmp_path / "killed").glob("*.partial"))


def test_checkpoints_hold_only_tensors_and_plain_containers(tmp_path: Path) -> None:
    Toy.on_losses = killed_at(8)
    with pytest.raises(Killed):
        train(tmp_path, checkpoint_seconds=0.0)
    (path,) = tmp_path.glob("*.partial/last.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["medbench"]["state"]["epoch"] == 1
    assert checkpoint["medbench"]["state"]["number"] == 1
    assert len(list(path.parent.glob("best-*.safetensors"))) == 1


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    Toy.on_losses = killed_at(8)
    with pytest.raises(Killed):
        train(tmp_path, checkpoint_seconds=0.0)
    (path,) = tmp_path.glob("*.partial/last.ckpt")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(
        WeightsError, match=r"last\.ckpt: the checkpoint of an interrupted run can not be read.*Remove"
    ):
        train(tmp_path)


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    info = outcome(train(tmp_path, micro(accumulate=2)))
    assert info["optimiser_steps"] == 4 * 2
    # more batches a step than there are in an epoch: the epoch is one step
    info = outcome(train(tmp_path, micro(accumulate=9)))
    assert info["accumulate"] == 4
    assert info["optimiser_steps"] == 4


def test_corpus_smaller_than_a_batch_is_one_batch(tmp_path: Path) -> None:
    info = outcome(train(tmp_path, micro(batch_size=500)))
    assert info["batch_size"] == 16
    assert info["optimiser_steps"] == 4


def test_the_last_epoch_is_kept_where_the_recipe_says_so(tmp_path: Path) -> None:
    recipe = micro(epochs=12, lr=1.0, patience=None)
    best = train(tmp_path / "best", recipe)
    assert recipe.pretrain is not None
    last = train(tmp_path / "last", replace(recipe, pretrain=replace(recipe.pretrain, keep="last")))
    info = outcome(last)
    assert (info["chosen_by"], info["best_epoch"]) == ("last epoch", 11)
    assert info["history"] == outcome(best)["history"]  # trained alike, and the last was not the best
    losses = [entry["validation"]["loss"] for entry in info["history"]]
    assert losses[11] > min(losses)
    kept, other = (load(folder, Toy, "toy").method.state_dict() for folder in (last, best))
    assert any(not torch.equal(kept[name], other[name]) for name in kept)
    assert read_info(last)[1]["pretrain"]["keep"] == "last"
    assert (
        "keep" not in read_info(best)[1]["pretrain"]
    )  # made before there was a choice, they are found again


def test_without_validation_the_last_epoch_counts(tmp_path: Path) -> None:
    index, split, films = corpus()
    data = (index, replace(split, val=split.val[:1]), films)
    folder = train(tmp_path / "whole", data=data)
    info = outcome(folder)
    assert info["chosen_by"] == "last epoch"
    assert (info["epochs"], info["best_epoch"]) == (4, 3)
    assert info["history"][0]["validation"] == {}
    assert load(folder, Toy, "toy").sha256 == info["sha256"]
    killed = train_through_kills(tmp_path / "killed", micro(), 6, 16, data=data, checkpoint_seconds=0.0)
    assert outcome(killed) == info


def test_reports_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    info = outcome(train(tmp_path, data=corpus(empty=[0, 3, 20])))
    assert (info["corpus"]["n_train"], info["corpus"]["n_val"], info["corpus"]["without_text"]) == (14, 7, 3)


def test_reports_are_read_as_the_recipe_says(tmp_path: Path) -> None:
    index, split, films = corpus()
    index.table["report"] = index.table["report"] + " Nodule of 2.5 cm."
    learnt = {}
    for cleaning in ("mgca", "clean"):
        folder = train(tmp_path, micro(cleaning=cleaning), data=(index, split, films))
        learnt[cleaning] = set(next(folder.rglob("words.txt")).read_text().split())
        assert outcome(folder)["pretrain"].get("cleaning", "mgca") == cleaning
    assert learnt["clean"] - learnt["mgca"] == {"2.5"}
    assert learnt["mgca"] - learnt["clean"] == {"5"}
    with pytest.raises(UsageError, match=r"pretrain\.cleaning is 'spotless'; expected one of mgca, clean"):
        micro(cleaning="spotless")


def test_too_few_pairs(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"toy: pretraining needs at least 2 training pairs.*found 1 \(15 rows have no"
    ):
        train(tmp_path, data=corpus(empty=range(15)))


def test_recipe_without_pretraining(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="toy: the recipe `micro` has no pretraining"):
        train(tmp_path, Recipe(ToyConfig()))


def test_loss_that_is_no_number_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = Toy.losses

    def broken(self: Toy, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = real(self, batch, epoch)
        return {**terms, "mask": terms["mask"] * math.nan} if Toy.calls == 9 else terms

    monkeypatch.setattr(Toy, "losses", broken)
    # call 9 is the third batch of epoch 1 (four training and two validation batches before it in epoch 0)
    with pytest.raises(MedbenchError, match=r"epoch 1, batch 2 \(mask\)\. Lower the learning rate \(--set"):
        train(tmp_path)
    # the checkpoint before it is still there, and good
    checkpoint = torch.load(next(tmp_path.glob("*.partial/last.ckpt")), weights_only=True)
    assert checkpoint["medbench"]["state"]["epoch"] == 1
    assert all(torch.isfinite(t).all() for t in checkpoint["state_dict"].values())


def test_ctrl_c_leaves_a_checkpoint_and_goes_on(tmp_path: Path) -> None:
    expected = outcome(train(tmp_path / "whole"))
    before = signal.getsignal(signal.SIGINT)
    for call in (2, 6):  # in training, in the last validation batch of an epoch
        store, Toy.calls = tmp_path / f"stopped{call}", 0
        Toy.on_losses = lambda now, at=call: os.kill(os.getpid(), signal.SIGINT) if now == at else None
        with pytest.raises(KeyboardInterrupt):
            train(store)
        assert Toy.calls in (call, call + 1)
        assert signal.getsignal(signal.SIGINT) is before
        if call == 2:
            checkpoint = torch.load(next(store.glob("*.partial/last.ckpt")), weights_only=True)
            assert checkpoint["medbench"]["state"]["number"] == 2
        Toy.on_losses = None
        assert outcome(train(store)) == expected


def test_keyboard_interrupt_from_inside_is_not_turned_into_an_exit(tmp_path: Path) -> None:
    def interrupt(call: int) -> None:
        if call == 3:
            raise KeyboardInterrupt

    Toy.on_losses = interrupt
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_trains_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(train(tmp_path, micro(epochs=1))))
    thread.start()
    thread.join()
    assert (found[0] / "weights.json").is_file()


def test_finished_weights_are_found_and_nothing_is_read(tmp_path: Path) -> None:
    folder = train(tmp_path)
    index, split, _ = corpus()
    Toy.on_losses = killed_at(Toy.calls + 1)

    def no_images(side: int, fit: str) -> PreparedImages:
        raise AssertionError("images were asked for")

    again = pretrain(
        Toy,
        micro(),
        index,
        split,
        no_images,
        method_name="toy",
        owner="tests",
        recipe_name="micro",
        seed=3,
        device=torch.device("cpu"),
        precision="32",
        store=tmp_path,
        progress=Progress(quiet=True),
    )
    assert again == folder


def test_weights_that_lost_their_description_are_trained_again(tmp_path: Path) -> None:
    folder = train(tmp_path, micro(epochs=1))
    expected = outcome(folder)
    (folder / "weights.json").unlink()
    assert outcome(train(tmp_path, micro(epochs=1))) == expected


def test_key_depends_on_all_that_the_weights_depend_on() -> None:
    index, split, _ = corpus()
    other, other_split, _ = corpus(21)
    keys = {
        weights_key("toy", "tests", micro(), index, split, 3, "32"),
        weights_key("yot", "tests", micro(), index, split, 3, "32"),
        weights_key("toy", "tests", micro(lr=0.5), index, split, 3, "32"),
        weights_key("toy", "tests", Recipe(ToyConfig(width=7), micro().pretrain), index, split, 3, "32"),
        weights_key("toy", "tests", micro(), other, other_split, 3, "32"),
        weights_key("toy", "tests", micro(), index, replace(split, val=split.val[1:]), 3, "32"),
        weights_key("toy", "tests", micro(), index, split, 4, "32"),
        weights_key("toy", "tests", micro(), index, split, 3, "bf16"),
        weights_key("toy", "tests", micro(cleaning="clean"), index, split, 3, "32"),
    }
    assert len(keys) == 9
    # what came later leaves the keys of what was made before as they were
    assert weights_key("toy", "tests", micro(cleaning="mgca"), index, split, 3, "32") in keys


def test_bf16_resumes_exactly_too(tmp_path: Path) -> None:
    expected = outcome(train(tmp_path / "whole", precision="bf16"))
    assert expected["precision"] == "bf16"
    assert (
        outcome(train_through_kills(tmp_path / "b", micro(), 7, precision="bf16", checkpoint_seconds=0.0))
        == expected
    )
    assert outcome(train(tmp_path / "c"))["sha256"] != expected["sha256"]


def test_progress_is_one_line_on_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, progress=Progress("phantom"))
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "[phantom] pretraining toy: 64 pairs"
    assert lines[1].startswith("[phantom] pretraining toy: done, 64 pairs in")
    assert lines[2].startswith("[phantom] pretraining toy: best of 4 epochs is ")
    assert "image-to-report top-1" in lines[2]
    assert len(lines) == 3  # no warnings, no tips, no bar of Lightning


def test_nothing_is_left_behind_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    train(tmp_path / "store")
    assert list((tmp_path / "cwd").iterdir()) == []


def test_second_process_waits_and_finds_it_done(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    index, split, _ = corpus()
    key = weights_key("toy", "tests", micro(), index, split, 3, "32")
    held = threading.Event()

    def hold() -> None:
        with lease.held(tmp_path / f"{key}.lease", "", print):
            held.set()
            time.sleep(0.5)

    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    folder = train(tmp_path, progress=Progress())
    other.join()
    assert "another process is pretraining toy, seed 3; waiting for it" in capfd.readouterr().err
    assert finished(tmp_path, key) == folder


def test_top1_counts_equal_reports_as_right_and_negative_scores() -> None:
    films = torch.eye(4)
    reports = torch.eye(4)[[0, 2, 1, 3]]  # films 1 and 2 find each other's reports
    assert top1_accuracy(films, reports, torch.tensor([0, 1, 2, 3])) == 0.5
    assert top1_accuracy(films, reports, torch.tensor([0, 1, 1, 3])) == 1.0
    worst = -torch.ones(3, 3) + 0.5 * torch.eye(3)  # all scores below zero, the right one the least negative
    assert top1_accuracy(torch.eye(3), worst, torch.arange(3)) == 1.0


SCRIPT = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("toy_tests", sys.argv[1])
tests = importlib.util.module_from_spec(spec)
sys.modules["toy_tests"] = tests
spec.loader.exec_module(tests)
tests.torch.set_num_threads(1)
at = int(sys.argv[3])
tests.Toy.on_losses = lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == at else None
tests.train(Path(sys.argv[2]), checkpoint_seconds=0.0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", [3, 12])
def test_kill_9(tmp_path: Path, call: int) -> None:
    expected = outcome(train(tmp_path / "whole"))
    command = [sys.executable, "-c", SCRIPT, __file__, str(tmp_path / "killed"), str(call)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    assert outcome(train(tmp_path / "killed")) == expected


@pytest.mark.gpu
def test_no_step_waits_for_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.pretrain import _Run

    real = _Run.training_step

    def watched(self: _Run, batch: Any, batch_idx: int) -> Tensor:
        torch.cuda.set_sync_debug_mode("error" if batch_idx > 0 else "default")
        return real(self, batch, batch_idx)

    def end(self: _Run, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")  # looks at the losses, which waits on purpose
        after(self, *args)

    after = _Run.on_train_batch_end
    monkeypatch.setattr(_Run, "training_step", watched)
    monkeypatch.setattr(_Run, "on_train_batch_end", end)
    for precision in ("32", "bf16"):
        folder = train(tmp_path, device=torch.device("cuda", 0), precision=precision)
        assert load(folder, Toy, "toy").info["precision"] == precision


@pytest.mark.gpu
def test_weights_trained_on_a_gpu_load_on_the_cpu(tmp_path: Path) -> None:
    folder = train(tmp_path, device=torch.device("cuda", 0))
    weights = load(folder, Toy, "toy")
    assert weights.info["device"]["type"] == "cuda"
    assert all(p.device.type == "cpu" for p in weights.method.parameters())
