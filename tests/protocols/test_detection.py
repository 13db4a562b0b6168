from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import DataError, PluginError, WeightsError
from medbench.heads.feature_pyramid import OverPatches
from medbench.heads.yolov3 import YoloV3
from medbench.metrics.detection import OBJECT
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols import detection
from medbench.protocols.detection import RECIPES, Detection, DetectionConfig
from medbench.protocols.square_boxes import SquareBoxes
from medbench.protocols.training import Schedule, Training, schedule_for
from medbench.protocols.unfrozen import EncoderGrid
from medbench.task import Environment, Evaluation, TaskData

SIDE = 64
HEIGHT, WIDTH = 300, 150  # of the files, so that a square pixel is not square there


class Encoder(nn.Module):
    """Sees sixteen grey values in each cell of a map, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        grey = images[:, :1]
        maps = [
            functional.pixel_unshuffle(functional.avg_pool2d(grey, stride // 4), 4)
            for stride in (4, 8, 16, 32)
        ]  # (B, 16, SIDE / stride, SIDE / stride)
        return ImageFeatures(grey.mean((2, 3)), None, (maps[0], *maps) if pyramid else None)


class Learner(nn.Module):
    """A small CNN with BatchNorm, which can learn or drift."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)
        widths = ((3, 8, 2), (8, 8, 2), (8, 12, 2), (12, 16, 2), (16, 24, 2))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.stages = nn.ModuleList(
                nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())
                for a, b, stride in widths
            )
        self.text = nn.Linear(2, 2)  # no film passes here

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return ImageFeatures(maps[-1].mean((2, 3)), None, tuple(maps[1:]) if pyramid else None)


def rectangles(count: int, seed: int = 0, names: tuple[str, ...] = ()) -> TaskData:
    """Noise; two films in three hold a bright rectangle, or one in the grey of its name."""
    rng = np.random.default_rng(seed)
    films = rng.integers(0, 60, (count, SIDE, SIDE), dtype=np.uint8)
    boxes: list[npt.NDArray[np.float64]] = []
    labels: list[tuple[str, ...] | None] = []
    scale = np.array([WIDTH / SIDE, HEIGHT / SIDE] * 2)
    for i in range(count):
        x, y, w, h = rng.integers(2, 30), rng.integers(2, 30), rng.integers(16, 30), rng.integers(16, 30)
        if i % 3:
            films[i, y : y + h, x : x + w] += 180 if not names else 60 + 120 * (i // 3 % len(names))
        boxes.append(np.array([[x, y, w, h]]) * scale if i % 3 else np.zeros((0, 4)))
        labels.append((names[i // 3 % len(names)],) if names and i % 3 else None)
    samples = [f"s{i}" for i in range(count)]
    columns = {"sample": samples, "patient": samples, "boxes": boxes, "box_labels": labels}
    table = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in columns.items()})
    train, val = 2 * count // 4, 3 * count // 4
    rows = np.arange(count)
    split = Split("squares", rows[:train], rows[train:val], rows[val:])
    images = PreparedImages(films, np.tile([HEIGHT, WIDTH], (count, 1)), "films")
    return TaskData(Index("squares", Path(), "phantom", table), split, lambda side, fit: images)


def with_boxes(data: TaskData, changes: dict[int, npt.NDArray[np.float64] | None]) -> TaskData:
    """The same films with other boxes in some rows."""
    boxes = [changes.get(row, old) for row, old in enumerate(data.index.table["boxes"])]
    table = data.index.table.assign(boxes=pd.Series(boxes, dtype=object))
    return replace(data, index=replace(data.index, table=table))


@pytest.fixture(scope="module")
def data() -> TaskData:
    return rectangles(80)


QUICK = replace(
    RECIPES["micro"],
    schedules=(Schedule(up_to=1.0, lr=2e-3, batch_size=8, epochs=4, validate_every=1, patience=4),),
    predict_batch=16,
)


def environment(workdir: Path) -> Environment:
    workdir.mkdir(exist_ok=True, parents=True)
    return Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True))


def evaluate(
    data: TaskData,
    workdir: Path,
    config: DetectionConfig = QUICK,
    seed: int = 0,
    count: int | None = None,
    model: Any = None,
) -> Evaluation:
    task = Detection("micro", split="squares")
    task.config = config
    env = environment(workdir)
    features = task.extract(model or Encoder(), data, env)
    try:
        return task.evaluate(features, data, data.split.train[:count], seed, env)
    finally:
        features.close()


@pytest.fixture(scope="module")
def plain(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """One evaluation that several tests look at."""
    return evaluate(data, tmp_path_factory.mktemp("plain"))


def same(a: Evaluation, b: Evaluation) -> bool:
    """Bit for bit."""
    if a.search != b.search:
        return False
    return all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for column in a.predictions
        for x, y in zip(a.predictions[column], b.predictions[column], strict=True)
    )


def test_predictions_have_one_row_a_test_film(plain: Evaluation, data: TaskData) -> None:
    found = plain.predictions
    assert list(found.columns) == [
        *("sample", "patient", "true_boxes", "true_labels"),
        *("pred_boxes", "pred_scores", "pred_labels", "classes"),
    ]
    assert all(names == [OBJECT] for names in found["classes"])
    for column in ("true", "pred"):
        for boxes, names in zip(found[f"{column}_boxes"], found[f"{column}_labels"], strict=True):
            assert names == [OBJECT] * (len(boxes) // 4)
    assert found["sample"].tolist() == [f"s{i}" for i in data.split.test]
    for row, truth in zip(data.split.test, found["true_boxes"], strict=True):
        np.testing.assert_array_equal(truth.reshape(-1, 4), data.index.table["boxes"][row])
    for boxes, scores in zip(found["pred_boxes"], found["pred_scores"], strict=True):
        assert boxes.dtype == scores.dtype == np.float32
        assert len(boxes) == 4 * len(scores)
        corners = boxes.reshape(-1, 4)[:, :2] + boxes.reshape(-1, 4)[:, 2:]
        assert (corners <= [WIDTH + 1e-3, HEIGHT + 1e-3]).all()
        assert (boxes >= 0).all()
        assert (np.diff(scores) <= 0).all()


def test_truth_is_what_the_predictions_say_of_it(plain: Evaluation, data: TaskData) -> None:
    truth = Detection("micro", split="squares").truth(data)
    assert truth.map(list).equals(plain.predictions[list(truth.columns)].map(list))


def test_predictions_survive_a_parquet_file(plain: Evaluation, tmp_path: Path) -> None:
    plain.predictions.to_parquet(tmp_path / "p.parquet")
    again = pd.read_parquet(tmp_path / "p.parquet")
    task = Detection("micro", split="squares")
    assert task.score(again) == task.score(plain.predictions)
    assert same(Evaluation(again, plain.search), plain)


def test_search_says_what_was_chosen_from_what(plain: Evaluation) -> None:
    import json

    assert json.loads(json.dumps(plain.search)) == plain.search
    assert plain.search["trials"] == 4
    assert plain.search["selected_on"] == "validation map_40_75"
    assert 1 <= plain.search["chosen"]["epoch"] <= 4
    assert 0 <= plain.search["chosen"]["validation_map_40_75"] <= 1


def test_same_seed_same_numbers_other_seed_others(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    torch.rand(3)  # what was drawn before does not matter
    assert same(evaluate(data, tmp_path / "a"), plain)
    assert not same(evaluate(data, tmp_path / "b", seed=1), plain)


def test_maps_on_disk_or_not_give_the_same_numbers(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    without = evaluate(data, tmp_path, replace(QUICK, maps_bytes=0))
    np.testing.assert_allclose(
        np.concatenate(without.predictions["pred_scores"].tolist()),
        np.concatenate(plain.predictions["pred_scores"].tolist()),
        atol=1e-3,
    )


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make training stop dead after some steps, as a killed process does."""
    step = Training._update

    def after(steps: int) -> None:
        left = iter(range(steps))

        def dying(self: Any, *rest: Any) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(self, *rest)

        monkeypatch.setattr(Training, "_update", dying)

    return after


@pytest.mark.parametrize("steps", [2, 5, 13, 19])
def test_a_killed_cell_goes_on_and_gives_the_same_numbers(
    steps: int,
    plain: Evaluation,
    data: TaskData,
    tmp_path: Path,
    kill: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five steps make an epoch; each epoch is validated and saved."""
    kill(steps)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path)
    monkeypatch.undo()
    saved = sorted(path.name for path in tmp_path.iterdir())
    assert len(saved) == (steps >= 5)
    seen: list[int] = []
    step = Training._update
    monkeypatch.setattr(
        Training, "_update", lambda self, *rest: (seen.append(self.epoch), step(self, *rest))[1]
    )
    assert same(evaluate(data, tmp_path), plain)
    assert len(seen) == 20 - 5 * (steps // 5)
    assert list(tmp_path.iterdir()) == []  # checkpoint and maps are gone


def test_checkpoints_of_other_cells_are_not_taken_up(
    data: TaskData, tmp_path: Path, kill: Callable[[int], None]
) -> None:
    cells = [(0, None, QUICK), (1, None, QUICK), (0, 39, QUICK), (0, None, replace(QUICK, weight_decay=0.1))]
    for seed, count, config in cells:
        kill(7)
        with pytest.raises(KeyboardInterrupt):
            evaluate(data, tmp_path, config, seed, count)
    assert len(list(tmp_path.glob("detection-*.pt"))) == 4


def test_schedule_follows_the_share_of_labels() -> None:
    def lr(share: float, **given: Any) -> float:
        schedules = Detection("paper", split="s", **given).config.schedules
        return schedule_for(schedules, round(1000 * share), 1000).lr

    assert (lr(0.01), lr(0.012), lr(0.1), lr(1.0)) == (2e-4, 2e-4, 5e-4, 5e-4)
    paper = RECIPES["paper"]
    assert [(s.batch_size, s.epochs, s.patience) for s in paper.schedules] == [(8, 50, 10), (16, 50, 10)]
    assert paper.weight_decay == 1e-6
    assert (lr(0.01, few_lr=2.5e-4), lr(0.1, few_lr=2.5e-4)) == (2.5e-4, 5e-4)
    assert Detection("tiny", split="s", few_lr=1.0).config == RECIPES["tiny"]
    for schedules in [config.schedules for config in RECIPES.values()] + list(detection.LIVE.values()):
        assert schedules[-1].up_to == 1


def test_best_validation_state_is_tested(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by decree: the second of four is the best, and the third is the second stale one."""
    decreed = iter([0.1, 0.4, 0.2, 0.3])
    states = []

    def score(*args: Any) -> npt.NDArray[np.float64]:
        return np.array([[next(decreed)]])

    validate = Training._validate

    def watch(self: Any) -> None:
        validate(self)
        states.append({name: value.clone() for name, value in self.module.state_dict().items()})

    final: dict[str, Tensor] = {}
    search = Training.search

    def look(self: Any, metric: str) -> Any:
        final.update(self.module.state_dict())
        return search(self, metric)

    monkeypatch.setattr(detection, "average_precision", score)
    monkeypatch.setattr(Training, "_validate", watch)
    monkeypatch.setattr(Training, "search", look)
    schedule = replace(QUICK.schedules[0], patience=2)
    found = evaluate(data, tmp_path, replace(QUICK, schedules=(schedule,)))
    assert found.search["chosen"] == {"epoch": 2, "validation_map_40_75": 0.4}
    assert len(states) == found.search["trials"] == 4
    assert all(torch.equal(final[name], states[1][name]) for name in final)


def test_patience_ends_training_early(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "average_precision", lambda *args: np.array([[0.0]]))
    schedule = replace(QUICK.schedules[0], patience=2)
    found = evaluate(data, tmp_path, replace(QUICK, schedules=(schedule,)))
    assert found.search["trials"] == 3  # the first is the best, two more are not better


def test_last_epoch_is_validated_between_times(data: TaskData, tmp_path: Path) -> None:
    schedule = replace(QUICK.schedules[0], validate_every=3, epochs=4)
    assert evaluate(data, tmp_path, replace(QUICK, schedules=(schedule,))).search["trials"] == 2


def test_order_depends_on_seed_and_epoch_alone(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: dict[tuple[int, int], list[int]] = {}
    step = Training._update

    def note(self: Any, rows: Any, number: Any) -> Tensor:
        orders.setdefault((self.seed, self.epoch), []).extend(rows.tolist())
        return step(self, rows, number)

    monkeypatch.setattr(Training, "_update", note)
    for seed in (0, 1):
        evaluate(data, tmp_path, seed=seed)
    assert len(orders) == 8
    assert len({tuple(order) for order in orders.values()}) == 8
    for order in orders.values():
        assert sorted(order) == data.split.train.tolist()


def test_loss_that_is_not_finite_stops_the_cell(data: TaskData, tmp_path: Path) -> None:
    schedule = replace(QUICK.schedules[0], lr=float("inf"))
    with pytest.raises(FloatingPointError, match="no longer finite in epoch 1 at learning rate inf"):
        evaluate(data, tmp_path, replace(QUICK, schedules=(schedule,)))


def test_film_that_nobody_annotated_is_named(tmp_path: Path) -> None:
    data = with_boxes(rectangles(16), {3: None})
    with pytest.raises(DataError, match="squares: s3 is in the split but nobody annotated boxes"):
        evaluate(data, tmp_path)


def test_validation_without_a_box_can_not_choose(tmp_path: Path) -> None:
    data = rectangles(16)
    data = with_boxes(data, dict.fromkeys(data.split.val.tolist(), np.zeros((0, 4))))
    with pytest.raises(DataError, match="no box in the 4 validation films"):
        evaluate(data, tmp_path)


def square_boxes(data: TaskData, wanted: tuple[str, ...] = ()) -> SquareBoxes:
    return SquareBoxes(data.index, data.split, data.images(SIDE, "stretch").sizes, SIDE, wanted)


def test_boxes_go_into_the_square_and_back(data: TaskData) -> None:
    films = square_boxes(data)
    for row in (1, 2, 4):
        square = films.square(row)[0]
        assert square.dtype == torch.float32
        np.testing.assert_allclose(films.restore(row, square), data.index.table["boxes"][row], rtol=1e-5)


def test_box_over_the_border_is_cut(data: TaskData) -> None:
    over = with_boxes(data, {0: np.array([[-1.0, 10, 50, 291], [WIDTH - 0.5, 10, 1.5, 20]])})
    square = square_boxes(over).square(0)[0]
    assert square[0].tolist() == pytest.approx([0, 10 * SIDE / HEIGHT, 49 * SIDE / WIDTH, SIDE])
    centres = (square[:, :2] + square[:, 2:]) / 2
    assert (centres < SIDE).all()
    assert (square[:, 2:] > square[:, :2]).all()


def test_positives_are_films_with_a_box(data: TaskData) -> None:
    index = with_boxes(data, {1: None}).index
    assert Detection("micro", split="squares").positives(index)[:6].tolist() == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]


def test_bfloat16_is_close(data: TaskData, tmp_path: Path) -> None:
    task = Detection("micro", split="squares")
    task.config = QUICK
    env = replace(environment(tmp_path), precision="bf16")
    features = task.extract(Encoder(), data, env)
    found = task.evaluate(features, data, data.split.train, 0, env)
    assert found.search["chosen"]["validation_map_40_75"] >= 0
    assert np.isfinite(np.concatenate(found.predictions["pred_boxes"].tolist())).all()


def test_learns_to_find_rectangles_over_an_encoder_that_learns_nothing(tmp_path: Path) -> None:
    data = rectangles(200, seed=1)
    schedule = Schedule(up_to=1.0, lr=3e-3, batch_size=10, epochs=20, validate_every=4, patience=9)
    config = replace(RECIPES["paper"], schedules=(schedule,))
    found = evaluate(data, tmp_path, config)
    primary, mgca, coco, *_, froc = Detection("paper", split="squares").score(found.predictions)
    assert (primary.name, froc.name) == ("map_40_75", "froc")
    assert froc.value is not None and froc.value > 0.5
    assert primary.value is not None
    assert primary.value > 0.3
    assert mgca.value is not None
    assert coco.value is not None
    assert primary.value > coco.value


# Encoders that are not left as they are: they drift, or learn.

LIVE = {
    "drift": replace(
        QUICK,
        detector="yolov3_mgca",
        head=detection.HEADS["yolov3_mgca"]["micro"],
        selected_on="map_mgca",
        drift=True,
    ),
    "learn": replace(QUICK, encoder_grid=EncoderGrid((0.1, 1.0), (1.0,))),
}


@pytest.fixture(scope="module", params=LIVE)
def live(request: pytest.FixtureRequest) -> DetectionConfig:
    config: DetectionConfig = LIVE[request.param]
    return config


@pytest.fixture(scope="module")
def live_once(live: DetectionConfig, data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """One evaluation that several tests look at; it left the encoder and torch's generator alone."""
    model = Learner().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    found = evaluate(data, tmp_path_factory.mktemp("live"), live, model=model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    return found


def test_a_killed_cell_of_a_live_encoder_goes_on(
    live: DetectionConfig,
    live_once: Evaluation,
    data: TaskData,
    tmp_path: Path,
    kill: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kill(13 if live.drift else 33)  # in the second trial
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path, live, model=Learner())
    monkeypatch.undo()
    assert same(evaluate(data, tmp_path, live, model=Learner()), live_once)
    assert list(tmp_path.iterdir()) == []


def test_batch_of_predictions_changes_nothing_of_a_live_encoder(
    live: DetectionConfig, live_once: Evaluation, data: TaskData, tmp_path: Path
) -> None:
    other = evaluate(data, tmp_path, replace(live, predict_batch=7), model=Learner())
    for one, two in zip(other.predictions["pred_scores"], live_once.predictions["pred_scores"], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_test_labels_choose_nothing(data: TaskData, tmp_path: Path, plain: Evaluation) -> None:
    test = data.split.test.tolist()
    swapped = with_boxes(
        data, {row: data.index.table["boxes"][other] for row, other in zip(test, test[::-1], strict=True)}
    )
    found = evaluate(swapped, tmp_path)
    assert found.search == plain.search
    for column in ("pred_boxes", "pred_scores"):
        assert all(map(np.array_equal, found.predictions[column], plain.predictions[column]))
    assert not all(map(np.array_equal, found.predictions["true_boxes"], plain.predictions["true_boxes"]))


def trial(
    config: DetectionConfig, data: TaskData, workdir: Path, model: nn.Module
) -> detection.DetectionTrial:
    task = Detection("micro", split="squares")
    task.config = config
    env = environment(workdir)
    films: Any = task.extract(model, data, env)  # type: ignore[arg-type]  # no text half
    point = config.encoder_grid.points[0] if config.encoder_grid else None
    made = detection.DetectionTrial(
        config, config.schedules[0], films, data.split.train, data.split.val, 0, env, point
    )
    made.training.run()
    return made


def test_statistics_drift_and_weights_do_not(data: TaskData, tmp_path: Path) -> None:
    model = Learner()
    made = trial(LIVE["drift"], data, tmp_path, model)
    assert isinstance(made.encoder, nn.Module)
    changed = {
        name
        for (name, value), old in zip(
            made.encoder.state_dict().items(), model.state_dict().values(), strict=True
        )
        if not torch.equal(value, old)
    }
    assert changed == {name for name in model.state_dict() if "running" in name or "tracked" in name}
    assert all(p.grad is None for p in made.encoder.parameters())
    # What was chosen is tested: the statistics of the best state, not of the last.
    best = made.training.best["state"]
    norms = [module for module in made.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert torch.equal(norms[0].running_mean, best["statistics.0.running_mean"])  # type: ignore[arg-type]


class Projected(Learner):
    """With a BatchNorm behind the maps, as projections have; where `stages` are without, nothing drifts."""

    def __init__(self, *, norms: bool) -> None:
        super().__init__()
        self.projection = nn.BatchNorm1d(24)
        if not norms:
            for stage in self.stages:
                stage[1] = nn.Identity()

    def embed_image(self, features: ImageFeatures) -> Tensor:
        projected: Tensor = self.projection(features.pooled)
        return projected


@pytest.mark.parametrize("norms", [True, False])
def test_only_norms_that_a_film_passes_drift(norms: bool, data: TaskData, tmp_path: Path) -> None:
    model = Projected(norms=norms).train()
    films: Any = Detection("micro", split="squares", detector="yolov3_mgca").extract(
        model,  # type: ignore[arg-type]  # no text half
        data,
        environment(tmp_path),
    )
    assert films.norms == (tuple(f"stages.{k}.1" for k in range(5)) if norms else ())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(module.training for module in model.modules())


def test_a_score_of_nothing_is_worse_than_0_as_in_torchmetrics(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decreed = iter([np.nan, 0.0, np.nan, 0.0])
    monkeypatch.setattr(detection, "average_precision", lambda *args: np.array([[next(decreed)]]))
    found = evaluate(data, tmp_path, LIVE["drift"], model=Learner())
    assert found.search["chosen"] == {"epoch": 2, "validation_map_mgca": 0.0}


def unprepared(data: TaskData) -> TaskData:
    """Films that nobody may ask for."""

    def images(side: int, fit: str) -> PreparedImages:
        raise AssertionError("films are prepared, which takes long")

    return replace(data, images=images)


def test_a_side_that_maps_do_not_divide_is_refused_first(data: TaskData, tmp_path: Path) -> None:
    model = Encoder()
    model.preprocessing = Preprocessing(100, 100)
    with pytest.raises(PluginError, match=r"Encoder takes films of 100 px; .* need a multiple of 32"):
        evaluate(unprepared(data), tmp_path, model=model)


@pytest.mark.parametrize("model", [Encoder(), Learner()])
def test_an_encoder_that_can_not_learn_is_refused_first(
    model: nn.Module, data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(model, Learner):
        monkeypatch.setattr(Learner, "image_layers", lambda self: [], raising=False)
    with pytest.raises(PluginError, match=r"without a gradient|image_layers leaves out 20 of 20"):
        evaluate(unprepared(data), tmp_path, LIVE["learn"], model=model)


class Breaks(Encoder):
    """Its maps of films that hold this grey value somewhere are not finite."""

    grey = 255

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        found = super().encode_image(images, pyramid)
        assert found.pyramid is not None
        worst = self.preprocessing.normalise(torch.full((1, 1, 1), self.grey, dtype=torch.uint8)).max()
        broken = (images >= worst).flatten(1).any(1)[:, None, None, None]
        return replace(found, pyramid=tuple(m.masked_fill(broken, torch.nan) for m in found.pyramid))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_maps_that_are_not_kept_are_looked_at_too(part: str, data: TaskData, tmp_path: Path) -> None:
    prepared = data.images(SIDE, "stretch")
    films = prepared.images.copy()
    films[getattr(data.split, part)[-1], 0, 0] = Breaks.grey
    broken = replace(data, images=lambda side, fit: replace(prepared, images=films))
    with pytest.raises(WeightsError, match=r"feature maps of some films are not finite.*Try --precision 32"):
        evaluate(broken, tmp_path, replace(QUICK, maps_bytes=0), model=Breaks())
    with pytest.raises(WeightsError, match=r"feature maps of s\d+ are not finite"):
        evaluate(broken, tmp_path / "kept", model=Breaks())


def test_targets_are_made_once_for_all_trainings(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    targets = YoloV3.targets
    monkeypatch.setattr(YoloV3, "targets", lambda *args: (made.append(len(args[1])), targets(*args))[1])
    evaluate(data, tmp_path, LIVE["learn"], model=Learner())
    with_box = sum(1 for row in data.split.train.tolist() if row % 3)
    assert sorted(made) == [0] + [1] * with_box  # two points of the grid, four epochs each


def test_an_encoder_without_batchnorm_has_nothing_that_drifts(data: TaskData, tmp_path: Path) -> None:
    films = Detection("micro", split="squares", detector="yolov3_mgca").extract(
        Encoder(), data, environment(tmp_path)
    )  # type: ignore[arg-type]
    assert not films.norms
    assert len(films.maps(data.split.val)) == 3


class Patches(nn.Module):
    """As a ViT: one map of patches."""

    pyramid_from_patches = True

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.embed = nn.Conv2d(3, 24, 16, 16)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        assert not pyramid  # nobody needs it
        local = self.embed(images).flatten(2).transpose(1, 2)
        return ImageFeatures(local.mean(1), local)


@pytest.mark.parametrize("name", ["drift", "learn"])
def test_patches_of_a_vit_get_a_pyramid(name: str, data: TaskData, tmp_path: Path) -> None:
    once = replace(QUICK.schedules[0], epochs=1)
    model = Patches()
    made = trial(replace(LIVE[name], schedules=(once,)), data, tmp_path, model)
    assert isinstance(made.head, OverPatches)
    if name == "drift":  # there is nothing that could
        assert made.encoder is None
    else:
        assert isinstance(made.encoder, nn.Module)
        assert not torch.equal(made.encoder.embed.weight, model.embed.weight)  # type: ignore[arg-type]
    assert len(made.detections(data.split.test)) == len(data.split.test)


def test_an_encoder_learns_with_its_statistics_kept(data: TaskData, tmp_path: Path) -> None:
    model = Learner()
    made = trial(LIVE["learn"], data, tmp_path, model)
    assert isinstance(made.encoder, nn.Module)
    for (name, value), old in zip(
        made.encoder.state_dict().items(), model.state_dict().values(), strict=True
    ):
        kept = "running" in name or "tracked" in name or name.startswith("text")
        assert torch.equal(value, old) == kept, name


def test_search_says_how_fast_the_encoder_learned(live: DetectionConfig, live_once: Evaluation) -> None:
    search = live_once.search
    if live.drift:
        assert search["selected_on"] == "validation map_mgca"
        return
    assert search["trials"] == 8
    assert search["grid"]["lr_factors"] == (0.1, 1.0)
    assert [point["lr_factor"] for point in search["tried"]] == [0.1, 1.0]
    best = max(search["tried"], key=lambda point: point["validation_map_40_75"])
    assert search["chosen"] == best
    assert "one layer" in search["encoder"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov3", "yolov3_mgca"])
def test_overfits_eight_films(name: str, tmp_path: Path) -> None:
    """Of two classes, one without any box on some of them; the encoder learns with the head."""
    data = rectangles(8, seed=4, names=("dim", "bright"))
    rows = np.arange(8)
    data = replace(data, split=Split("squares", rows, rows, rows))
    config = replace(
        RECIPES["paper"],
        detector=name,  # type: ignore[arg-type]
        head=detection.HEADS[name]["paper"],  # type: ignore[index]
        schedules=(Schedule(up_to=1.0, lr=4e-3, batch_size=8, epochs=400, validate_every=40, patience=9),),
        encoder_grid=EncoderGrid((1.0,), (1.0,)),
    )
    found = evaluate(data, tmp_path, config, model=Learner())
    metrics = {m.name: m for m in Detection("paper", split="squares").score(found.predictions)}
    assert metrics["map_40_75"].value is not None and metrics["map_40_75"].value > 0.9
    assert set(metrics["map_40_75"].per_class) == {"dim", "bright"}


# Several classes.


def test_classes_are_those_of_the_training_part(tmp_path: Path) -> None:
    data = rectangles(48, names=("a", "b"))
    table = data.index.table
    names = table["box_labels"].tolist()
    names[data.split.test[1]] = ("z",)
    data = replace(
        data, index=replace(data.index, table=table.assign(box_labels=pd.Series(names, dtype=object)))
    )
    found = evaluate(data, tmp_path)
    assert found.search["classes"] == ["a", "b"]
    assert found.search["classes_without_a_training_box"] == []
    assert found.predictions["classes"].tolist() == [["a", "b"]] * len(data.split.test)
    assert {name for names in found.predictions["pred_labels"] for name in names} == {"a", "b"}
    assert found.predictions["true_labels"].tolist()[1] == ["z"]
    found.predictions.to_parquet(tmp_path / "p.parquet")
    primary = Detection("micro", split="squares").score(pd.read_parquet(tmp_path / "p.parquet"))[0]
    assert set(primary.per_class) == {"a", "b", "z"}
    assert primary.per_class["z"] is None
    assert "the training part has no box of z" in primary.reason
    few = evaluate(data, tmp_path, count=3)  # a film with a box, of class a
    assert few.search["classes_without_a_training_box"] == ["b"]


def test_only_boxes_that_are_asked_for_count(tmp_path: Path) -> None:
    data = rectangles(48, names=("a", "b"))
    task = Detection("micro", split="squares", classes=("b",))
    boxed = [names is not None and "b" in names for names in data.index.table["box_labels"]]
    assert task.positives(data.index).tolist() == boxed
    films = square_boxes(data, ("b",))
    assert films.classes == ("b",)
    assert [len(films.boxes(row)) for row in range(48)] == [int(b) for b in boxed]
    with pytest.raises(DataError, match="no box of c in the 24 training films"):
        square_boxes(data, ("c",))


def test_first_boxes_of_a_film_are_trained_on(data: TaskData) -> None:
    many = square_boxes(with_boxes(data, {1: np.tile([10.0, 10, 50, 50], (5, 1))}))
    assert len(many.square(1)[0]) == len(many.square(1)[1]) == 5
    assert len(many.square(1, most=3)[0]) == len(many.square(1, most=3)[1]) == 3
    assert len(many.boxes(1)) == 5


@pytest.mark.gpu
def test_runs_on_a_gpu(data: TaskData, tmp_path: Path) -> None:
    task = Detection("micro", split="squares")
    task.config = QUICK
    env = Environment(torch.device("cuda", 0), "bf16", tmp_path, Progress(quiet=True))
    features = task.extract(Encoder().cuda(), data, env)
    found = task.evaluate(features, data, data.split.train, 0, env)
    assert len(found.predictions) == len(data.split.test)
