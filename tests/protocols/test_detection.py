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
from medbench.errors import DataError
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols import detection
from medbench.protocols.detection import RECIPES, DetectionConfig, FrozenDetection, Schedule
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


def rectangles(count: int, seed: int = 0) -> TaskData:
    """Noise; two films in three hold a bright rectangle."""
    rng = np.random.default_rng(seed)
    films = rng.integers(0, 60, (count, SIDE, SIDE), dtype=np.uint8)
    boxes: list[npt.NDArray[np.float64]] = []
    scale = np.array([WIDTH / SIDE, HEIGHT / SIDE] * 2)
    for i in range(count):
        x, y, w, h = rng.integers(2, 30), rng.integers(2, 30), rng.integers(16, 30), rng.integers(16, 30)
        if i % 3:
            films[i, y : y + h, x : x + w] += 180
        boxes.append(np.array([[x, y, w, h]]) * scale if i % 3 else np.zeros((0, 4)))
    names = [f"s{i}" for i in range(count)]
    table = pd.DataFrame({"sample": names, "patient": names, "boxes": boxes})
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
    data: TaskData, workdir: Path, config: DetectionConfig = QUICK, seed: int = 0, count: int | None = None
) -> Evaluation:
    task = FrozenDetection("micro", split="squares")
    task.config = config
    env = environment(workdir)
    features = task.extract(Encoder(), data, env)
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
    assert list(found.columns) == ["sample", "patient", "true_boxes", "pred_boxes", "pred_scores"]
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


def test_predictions_survive_a_parquet_file(plain: Evaluation, tmp_path: Path) -> None:
    plain.predictions.to_parquet(tmp_path / "p.parquet")
    again = pd.read_parquet(tmp_path / "p.parquet")
    task = FrozenDetection("micro", split="squares")
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
    step = detection._Training._step

    def after(steps: int) -> None:
        left = iter(range(steps))

        def dying(self: Any, *rest: Any) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return step(self, *rest)

        monkeypatch.setattr(detection._Training, "_step", dying)

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
    step = detection._Training._step
    monkeypatch.setattr(
        detection._Training, "_step", lambda self, *rest: (seen.append(self.epoch), step(self, *rest))[1]
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
    def lr(share: float) -> float:
        return next(s.lr for s in RECIPES["paper"].schedules if share <= s.up_to)

    assert (lr(0.01), lr(0.012), lr(0.1), lr(1.0)) == (2e-4, 2e-4, 5e-4, 5e-4)
    paper = RECIPES["paper"]
    assert [(s.batch_size, s.epochs, s.patience) for s in paper.schedules] == [(8, 50, 10), (16, 50, 10)]
    assert paper.weight_decay == 1e-6
    for config in RECIPES.values():
        assert config.schedules[-1].up_to == 1


def test_best_validation_state_is_tested(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by decree: the second of four is the best, and the third is the second stale one."""
    decreed = iter([0.1, 0.4, 0.2, 0.3])
    states = []

    def score(*args: Any) -> npt.NDArray[np.float64]:
        return np.array([next(decreed)])

    validate = detection._Training._validate

    def watch(self: Any, validation: Any) -> None:
        validate(self, validation)
        states.append({name: value.clone() for name, value in self.head.state_dict().items()})

    final: dict[str, Tensor] = {}
    search = detection._Training.search

    def look(self: Any) -> Any:
        final.update(self.head.state_dict())
        return search(self)

    monkeypatch.setattr(detection, "average_precision", score)
    monkeypatch.setattr(detection._Training, "_validate", watch)
    monkeypatch.setattr(detection._Training, "search", look)
    schedule = replace(QUICK.schedules[0], patience=2)
    found = evaluate(data, tmp_path, replace(QUICK, schedules=(schedule,)))
    assert found.search["chosen"] == {"epoch": 2, "validation_map_40_75": 0.4}
    assert len(states) == found.search["trials"] == 4
    assert all(torch.equal(final[name], states[1][name]) for name in final)


def test_patience_ends_training_early(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detection, "average_precision", lambda *args: np.array([0.0]))
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
    step = detection._Training._step

    def note(self: Any, rows: Any, targets: Any) -> Tensor:
        orders.setdefault((self.seed, self.epoch), []).extend(rows.tolist())
        return step(self, rows, targets)

    monkeypatch.setattr(detection._Training, "_step", note)
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


def test_boxes_go_into_the_square_and_back(data: TaskData) -> None:
    films = detection._Films(data, SIDE)
    for row in (1, 2, 4):
        square = films.square(row)
        assert square.dtype == torch.float32
        np.testing.assert_allclose(films.restore(row, square), data.index.table["boxes"][row], rtol=1e-5)


def test_box_over_the_border_is_cut(data: TaskData) -> None:
    over = with_boxes(data, {0: np.array([[-1.0, 10, 50, 291], [WIDTH - 0.5, 10, 1.5, 20]])})
    square = detection._Films(over, SIDE).square(0)
    assert square[0].tolist() == pytest.approx([0, 10 * SIDE / HEIGHT, 49 * SIDE / WIDTH, SIDE])
    centres = (square[:, :2] + square[:, 2:]) / 2
    assert (centres < SIDE).all()
    assert (square[:, 2:] > square[:, :2]).all()


def test_positives_are_films_with_a_box(data: TaskData) -> None:
    index = with_boxes(data, {1: None}).index
    assert FrozenDetection("micro", split="squares").positives(index)[:6].tolist() == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]


def test_bfloat16_is_close(data: TaskData, tmp_path: Path) -> None:
    task = FrozenDetection("micro", split="squares")
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
    primary, mgca, coco = FrozenDetection("paper", split="squares").score(found.predictions)
    assert primary.name == "map_40_75"
    assert primary.value is not None
    assert primary.value > 0.3
    assert mgca.value is not None
    assert coco.value is not None
    assert primary.value > coco.value


@pytest.mark.gpu
def test_runs_on_a_gpu(data: TaskData, tmp_path: Path) -> None:
    task = FrozenDetection("micro", split="squares")
    task.config = QUICK
    env = Environment(torch.device("cuda", 0), "bf16", tmp_path, Progress(quiet=True))
    features = task.extract(Encoder().cuda(), data, env)
    found = task.evaluate(features, data, data.split.train, 0, env)
    assert len(found.predictions) == len(data.split.test)
