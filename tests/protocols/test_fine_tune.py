"""Fine-tuning: what learns, what chooses, and that a killed cell goes on to the same numbers."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import DataError, PluginError
from medbench.model import ImageFeatures, Preprocessing
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.protocols import fine_tune
from medbench.protocols.fine_tune import RECIPES, FineTune, FineTuneConfig, rate
from medbench.protocols.training import Schedule, Training
from medbench.request import RunRequest
from medbench.runner import run
from medbench.task import Environment, Evaluation, TaskData

SIDE, SIZE = 20, 16


class Unlayered(nn.Module):
    """Small, with all that training changes or draws: BatchNorm, dropout, an unused head, a text tower."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.preprocessing = Preprocessing(SIZE, SIDE)
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
            self.stage = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU())
            self.drop = nn.Dropout(0.1)
            self.text = nn.Linear(3, 3)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        return ImageFeatures(self.drop(self.stage(self.stem(images)).mean((2, 3))))


class Encoder(Unlayered):
    """It names its layers."""

    def image_layers(self) -> list[list[nn.Parameter]]:
        return [list(self.stem.parameters()), list(self.stage.parameters())]


def films(labels: npt.NDArray[np.float64], seed: int = 0) -> npt.NDArray[np.uint8]:
    """Noise; class k is a bright bar in the k-th quarter of the rows."""
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 120, (len(labels), SIDE, SIDE), dtype=np.uint8)
    for k in range(labels.shape[1]):
        squares[labels[:, k] == 1, 4 + 4 * k : 7 + 4 * k] += 100
    return squares


def data_of(labels: npt.NDArray[np.float64], shown: npt.NDArray[np.float64] | None = None) -> TaskData:
    """Half for training, a quarter each for validation and test; `shown` decides the pixels (labels, if None)."""
    count = len(labels)
    names = tuple(f"c{k}" for k in range(labels.shape[1]))
    samples = [f"s{i}" for i in range(count)]
    columns = {f"label_{name}": labels[:, k] for k, name in enumerate(names)}
    table = pd.DataFrame({"sample": samples, "patient": samples, **columns})
    rows = np.arange(count)
    split = Split("bars", rows[: count // 2], rows[count // 2 : 3 * count // 4], rows[3 * count // 4 :])
    pixels = films(np.nan_to_num(labels if shown is None else shown))
    images = PreparedImages(pixels, np.full((count, 2), SIDE), "films")
    return TaskData(Index("bars", Path(), "phantom", table, names), split, lambda side, fit: images)


def labels_of(count: int, classes: int = 2, seed: int = 0) -> npt.NDArray[np.float64]:
    return (np.random.default_rng(seed).random((count, classes)) < 0.4).astype(np.float64)


def exclusive_labels(count: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.eye(3)[np.random.default_rng(seed).integers(0, 3, count)]


QUICK = FineTuneConfig(
    schedules=(Schedule(up_to=1.0, lr=5e-3, batch_size=8, epochs=3, validate_every=1, patience=3),),
    lr_factors=(0.5, 1.0),
    layer_decays=(0.5,),
)


def environment(workdir: Path) -> Environment:
    workdir.mkdir(exist_ok=True, parents=True)
    return Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True))


def evaluate(
    data: TaskData,
    workdir: Path,
    config: FineTuneConfig = QUICK,
    *,
    seed: int = 0,
    train: npt.NDArray[np.int64] | None = None,
    exclusive: bool = False,
    encoder: nn.Module | None = None,
    precision: Any = "32",
) -> Evaluation:
    task = FineTune("micro", split="bars", exclusive=exclusive)
    task.config = config
    env = replace(environment(workdir), precision=precision)
    model: Any = Encoder() if encoder is None else encoder
    rows = data.split.train if train is None else train
    return task.evaluate(task.extract(model, data, env), data, rows, seed, env)


def same(a: Evaluation, b: Evaluation) -> bool:
    """Bit for bit."""
    return a.search == b.search and a.predictions.equals(b.predictions)


def scores_of(found: Evaluation) -> npt.NDArray[np.float64]:
    columns = [column for column in found.predictions if str(column).startswith("score_")]
    return found.predictions[columns].to_numpy(np.float64)


def shares_of(data: TaskData) -> npt.NDArray[np.float64]:
    """Log-odds of the classes in the training films."""
    shares = data.index.table.filter(like="label_").to_numpy()[data.split.train].mean(0)
    return np.log(shares / (1 - shares))


@pytest.fixture(scope="module")
def data() -> TaskData:
    return data_of(labels_of(80))


@pytest.fixture(scope="module")
def plain(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """One evaluation that several tests look at."""
    return evaluate(data, tmp_path_factory.mktemp("plain"))


def test_predictions_have_one_row_a_test_film(plain: Evaluation, data: TaskData) -> None:
    found = plain.predictions
    of_each = [f"{what}_c{k}" for k in (0, 1) for what in ("target", "score", "threshold")]
    assert list(found) == ["sample", "patient", *of_each]
    assert found["sample"].tolist() == [f"s{i}" for i in data.split.test]
    assert found["score_c0"].dtype == np.float64
    assert np.isfinite(scores_of(plain)).all()
    names = [metric.name for metric in FineTune("micro", split="bars").score(found)]
    assert names[:2] == ["macro_auroc", "macro_average_precision"]


def test_search_says_what_was_tried_chosen_and_spent(plain: Evaluation) -> None:
    search = plain.search
    assert json.loads(json.dumps(search)) == search
    assert search["grid"] == {"lr": [0.0025, 0.005], "layer_decay": [0.5], "epoch": "every 1, up to 3"}
    assert search["selected_on"] == "validation macro_auroc"
    assert search["trials"] == len(search["tried"]) == 2
    assert [trial["lr"] for trial in search["tried"]] == [0.0025, 0.005]
    best = max(trial["validation_macro_auroc"] for trial in search["tried"])
    assert search["chosen"]["validation_macro_auroc"] == best
    assert search["chosen"] in search["tried"]
    # 40 films make 5 steps of 8.
    assert search["budget"] == {"epochs": 6, "steps": 30, "films": 240}
    assert search["layers"] == "2 layers, from input to output"
    assert search["notes"] == {}


def test_same_seed_same_numbers_other_seed_others(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    assert same(evaluate(data, tmp_path / "a"), plain)
    assert torch.equal(torch.get_rng_state(), before)  # dropout drew from a generator that was lent
    torch.rand(3)
    assert not same(evaluate(data, tmp_path / "b", seed=1), plain)


def test_the_prediction_batch_does_not_matter(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path, replace(QUICK, predict_batch=1))
    np.testing.assert_allclose(scores_of(found), scores_of(plain), atol=1e-6)


def test_labels_of_test_films_select_nothing(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    table = data.index.table.copy()
    test = data.split.test
    shuffled = np.random.default_rng(1).permutation(test)
    for column in ("label_c0", "label_c1"):
        table.loc[test, column] = table.loc[shuffled, column].to_numpy()
    other = replace(data, index=replace(data.index, table=table))
    found = evaluate(other, tmp_path)
    assert found.search == plain.search
    assert np.array_equal(scores_of(found), scores_of(plain))
    assert not found.predictions["target_c0"].equals(plain.predictions["target_c0"])


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make training stop dead after some steps, as a killed process does."""
    step = fine_tune._Trial._step

    def after(steps: int) -> None:
        left = iter(range(steps))

        def dying(self: Any, *rest: Any) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(self, *rest)

        monkeypatch.setattr(fine_tune._Trial, "_step", dying)

    return after


@pytest.mark.parametrize("steps", [3, 15, 22])
def test_a_killed_cell_goes_on_at_its_trial_and_epoch(
    steps: int,
    plain: Evaluation,
    data: TaskData,
    tmp_path: Path,
    kill: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five steps make an epoch, three epochs a trial; each epoch is validated and saved."""
    kill(steps)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == math.ceil((steps // 5) / 3)
    done: list[int] = []
    step = fine_tune._Trial._step
    monkeypatch.setattr(fine_tune._Trial, "_step", lambda *args: (done.append(1), step(*args))[1])
    assert same(evaluate(data, tmp_path), plain)
    assert len(done) == 30 - 5 * (steps // 5)
    assert list(tmp_path.iterdir()) == []  # checkpoints are gone


def test_trials_see_the_same_films_in_the_same_order(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[float, list[tuple[list[int], float]]] = {}
    step = fine_tune._Trial._step

    def watch(self: Any, rows: Any, generator: torch.Generator) -> Tensor:
        loss = step(self, rows, generator)
        first = float(torch.rand((), generator=generator))
        seen.setdefault(self.schedule.lr, []).append((rows.tolist(), first))
        return loss

    monkeypatch.setattr(fine_tune._Trial, "_step", watch)
    evaluate(data, tmp_path)
    assert list(seen) == [0.0025, 0.005]
    assert seen[0.0025] == seen[0.005]


def test_the_best_state_of_the_best_trial_is_tested(
    plain: Evaluation, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by decree: the second trial's first epoch is the best; of equal ones the first counts."""
    decreed = iter([0.3, 0.5, 0.4, 0.9, 0.9, 0.1])
    states: list[dict[str, Tensor]] = []

    def judge(self: Any, scores: Any) -> float:
        return next(decreed)

    validate = Training._validate

    def keep(self: Training) -> None:
        validate(self)
        states.append({name: value.clone() for name, value in self.module.state_dict().items()})

    final: list[dict[str, Tensor]] = []
    predict = fine_tune._Trial.predict

    def look(self: Any, rows: Any) -> Any:
        if np.array_equal(rows, data.split.test):
            final.append({name: value.clone() for name, value in self.training.module.state_dict().items()})
        return predict(self, rows)

    monkeypatch.setattr(fine_tune._Labels, "judge", judge)
    monkeypatch.setattr(Training, "_validate", keep)
    monkeypatch.setattr(fine_tune._Trial, "predict", look)
    found = evaluate(data, tmp_path)
    assert found.search["chosen"]["lr"] == 0.005
    assert found.search["chosen"]["epoch"] == 1
    assert len(final) == 1  # the test films are looked at once
    assert all(torch.equal(final[0][name], value) for name, value in states[3].items())


def test_the_encoder_under_test_is_not_touched(data: TaskData, tmp_path: Path) -> None:
    encoder = Encoder().train()
    encoder.stage[1].eval()
    frozen = encoder.stem[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    evaluate(data, tmp_path, encoder=encoder)
    after = encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert not frozen.requires_grad
    assert encoder.stem[1].training
    assert not encoder.stage[1].training


def test_the_whole_encoder_learns_and_nothing_else(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials: list[Any] = []
    monkeypatch.setattr(
        fine_tune._Trial,
        "summary",
        lambda self, summary=fine_tune._Trial.summary: (trials.append(self), summary(self))[1],
    )
    evaluate(data, tmp_path)
    old, new = Encoder().state_dict(), trials[0].model.state_dict()
    for name, value in old.items():
        assert torch.equal(new[name], value) == name.startswith("text"), name
    kept = trials[0].training.module.state_dict()  # what a checkpoint holds
    assert len(kept) == len([name for name in old if not name.startswith("text")]) + 2


OVERFIT = FineTuneConfig(
    schedules=(Schedule(up_to=1.0, lr=1e-2, batch_size=8, epochs=30, validate_every=10, patience=3),),
    lr_factors=(1.0,),
    layer_decays=(1.0,),
    flip=0.0,
)


class Sharp(Encoder):
    """It sees the whole square, where things are, and the same each time."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        return ImageFeatures(self.stage(self.stem(images)).flatten(1))


@pytest.mark.parametrize("exclusive", [False, True])
def test_eight_films_are_learnt_by_heart(exclusive: bool, tmp_path: Path) -> None:
    """Labels that have nothing to do with what is to be seen; the same films stand for validation and test."""
    labels = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1]] if exclusive else np.eye(2)[[0, 1, 1, 0, 1, 0, 0, 1]]
    data = data_of(labels, np.zeros_like(labels))
    rows = np.arange(8)
    data = replace(data, split=Split("bars", rows, rows, rows))
    found = evaluate(data, tmp_path, OVERFIT, exclusive=exclusive, encoder=Sharp())
    scores = scores_of(found)
    if exclusive:
        assert (scores.argmax(1) == labels.argmax(1)).all()
        assert found.search["chosen"]["validation_accuracy"] == 1
    else:
        assert scores[labels == 1].min() > scores[labels == 0].max()
        assert found.search["chosen"]["validation_macro_auroc"] == 1


def test_class_that_is_absent_from_the_fraction_is_not_trained(data: TaskData, tmp_path: Path) -> None:
    train = data.split.train[data.index.table["label_c1"].to_numpy()[data.split.train] == 0]
    found = evaluate(data, tmp_path, train=train)
    scores = scores_of(found)
    assert np.isfinite(scores[:, 0]).all()
    assert len(set(scores[:, 1])) == 1
    positives = f"the training fraction holds 0 positives and {len(train)} negatives"
    assert found.search["notes"] == {"c1": f"{positives}: every film has the same score"}
    metrics = FineTune("micro", split="bars").score(found.predictions)
    assert metrics[0].per_class["c1"] == 0.5
    assert "c1: one score for all films" in metrics[0].reason


def test_class_that_validation_can_not_judge_has_no_say(data: TaskData, tmp_path: Path) -> None:
    table = data.index.table.copy()
    table.loc[data.split.val, "label_c1"] = 0.0
    found = evaluate(replace(data, index=replace(data.index, table=table)), tmp_path)
    assert np.isfinite(scores_of(found)).all()
    held = "the validation split holds 0 positives and 20 negatives"
    assert found.search["notes"] == {"c1": f"{held}: it has no say in the choice"}


def test_validation_of_one_class_chooses_nothing(data: TaskData, tmp_path: Path) -> None:
    table = data.index.table.copy()
    table.loc[data.split.val, ["label_c0", "label_c1"]] = 1.0
    found = evaluate(replace(data, index=replace(data.index, table=table)), tmp_path)
    np.testing.assert_allclose(
        scores_of(found), np.tile(shares_of(data), (20, 1)), atol=0.2
    )  # but half a film
    assert found.search["trials"] == 0
    assert found.search["chosen"] == {}
    assert found.search["budget"] == {"epochs": 0, "steps": 0, "films": 0}
    assert set(found.search["notes"]) == {"c0", "c1"}
    assert json.loads(json.dumps(found.search)) == found.search


def test_validation_films_of_no_known_class_choose_nothing(tmp_path: Path) -> None:
    labels = exclusive_labels(80)
    labels[40:60] = np.nan
    found = evaluate(data_of(labels), tmp_path, exclusive=True)
    assert len(np.unique(scores_of(found), axis=0)) == 1
    assert found.search["trials"] == 0
    assert set(found.search["notes"]) == {"c0", "c1", "c2"}


def test_parts_without_a_film(data: TaskData, tmp_path: Path) -> None:
    rows, nobody = data.split, np.zeros(0, np.int64)
    found = evaluate(replace(data, split=Split("bars", rows.train, nobody, rows.test)), tmp_path)
    assert found.search["trials"] == 0
    assert found.predictions["threshold_c0"].isna().all()
    with pytest.raises(DataError, match="split bars has no film to test"):
        evaluate(replace(data, split=Split("bars", rows.train, rows.val, nobody)), tmp_path)


def test_exclusive_classes_are_chosen_by_accuracy(tmp_path: Path) -> None:
    data = data_of(exclusive_labels(160))
    found = evaluate(data, tmp_path, exclusive=True, encoder=Sharp())
    assert found.search["selected_on"] == "validation accuracy"
    scores = scores_of(found)
    accuracy = (scores.argmax(1) == exclusive_labels(160)[data.split.test].argmax(1)).mean()
    assert accuracy > 0.7
    # Log-odds against the other two: probabilities of the three sum to one.
    np.testing.assert_allclose((1 / (1 + np.exp(-scores))).sum(1), 1, atol=1e-6)


def test_exclusive_class_that_is_absent_is_never_named(tmp_path: Path) -> None:
    labels = exclusive_labels(80)
    data = data_of(labels)
    train = data.split.train[labels[data.split.train, 2] == 0]
    found = evaluate(data, tmp_path, train=train, exclusive=True)
    scores = scores_of(found)
    assert len(set(scores[:, 2])) == 1
    assert (scores.argmax(1) < 2).all()
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], atol=1e-9)  # two are left
    assert found.search["chosen"]["validation_accuracy"] <= (labels[data.split.val, 2] == 0).mean()
    assert list(found.search["notes"]) == ["c2"]


def test_unknown_labels_do_not_count(tmp_path: Path) -> None:
    labels = labels_of(80)
    labels[::3, 0] = np.nan
    labels[1::3, 1] = np.nan
    found = evaluate(data_of(labels), tmp_path)
    assert np.isfinite(scores_of(found)).all()
    assert found.predictions["target_c0"].isna().sum() > 0


def test_rates_rise_and_fall() -> None:
    found = [rate(step, 100, 0.05) for step in range(100)]
    assert found[:6] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert found[5:] == sorted(found[5:], reverse=True)
    assert 0 < found[-1] < 0.01
    assert rate(0, 1, 0.05) == 1


def test_first_predictions_are_the_shares_of_the_classes(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tune, "rate", lambda *args: 0.0)
    found = evaluate(data, tmp_path)
    np.testing.assert_allclose(
        scores_of(found), np.tile(shares_of(data), (20, 1)), atol=0.2
    )  # but half a film
    labels = exclusive_labels(80)
    found = evaluate(data_of(labels), tmp_path, exclusive=True)
    np.testing.assert_allclose(scores_of(found), np.tile(shares_of(data_of(labels)), (20, 1)), atol=0.2)


def test_model_that_names_no_layers_is_tried_once_a_rate(data: TaskData, tmp_path: Path) -> None:
    config = replace(QUICK, layer_decays=(0.5, 1.0), schedules=(replace(QUICK.schedules[0], epochs=1),))
    assert evaluate(data, tmp_path / "a", config).search["trials"] == 4
    found = evaluate(data, tmp_path / "b", config, encoder=Unlayered())
    assert found.search["trials"] == 2
    assert found.search["grid"]["layer_decay"] == [1.0]
    assert found.search["layers"].startswith("one layer: the model does not name its layers")


def test_bfloat16_is_close(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path, precision="bf16")
    assert np.isfinite(scores_of(found)).all()
    assert found.search != plain.search


def test_model_that_can_not_learn_is_refused_before_anything_is_trained(
    data: TaskData, tmp_path: Path
) -> None:
    class NoGradient(Encoder):
        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            return ImageFeatures(F.adaptive_avg_pool2d(images, 1).flatten(1))

    with pytest.raises(PluginError, match="without a gradient"):
        evaluate(data, tmp_path, encoder=NoGradient())


def test_loss_that_is_not_finite_stops_the_cell(data: TaskData, tmp_path: Path) -> None:
    config = replace(QUICK, lr_factors=(float("inf"),))
    with pytest.raises(FloatingPointError, match="fine-tuned network is no longer finite in epoch 1"):
        evaluate(data, tmp_path, config)


def test_published_numbers() -> None:
    paper = RECIPES["paper"]
    whole = paper.schedules[-1]
    assert (whole.lr, whole.batch_size, whole.epochs) == (1e-4, 64, 50)
    assert {schedule.lr for schedule in paper.schedules} == {1e-4}
    assert 1.0 in paper.lr_factors
    assert 1.0 in paper.layer_decays
    for config in RECIPES.values():
        assert config.schedules[-1].up_to == 1


@pytest.mark.gpu
def test_runs_on_a_gpu(data: TaskData, tmp_path: Path) -> None:
    task = FineTune("micro", split="bars")
    task.config = QUICK
    env = Environment(torch.device("cuda", 0), "bf16", tmp_path, Progress(quiet=True))
    model: Any = Encoder().cuda()
    found = task.evaluate(task.extract(model, data, env), data, data.split.train, 0, env)
    assert np.isfinite(scores_of(found)).all()


@pytest.mark.slow
def test_an_untrained_encoder_is_fine_tuned_on_phantom_films(tmp_path: Path) -> None:
    request = RunRequest(
        ("random",),
        ("rsna_ft",),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        recipe="micro",
        device="cpu",
        quiet=True,
        fractions=(0.1,),
    )
    (record,) = run(request, load_catalogue(third_party=False)).records
    assert record.status == "ok"
    assert record.primary is not None
    assert record.primary.name == "auroc"
    assert record.primary.value is not None
    assert record.counts.train == 10
    assert record.search["budget"] == {"epochs": 2, "steps": 2, "films": 20}
    assert record.search["layers"] == "5 layers, from input to output"
    assert not list((tmp_path / "cache" / "work").glob("*/*"))
