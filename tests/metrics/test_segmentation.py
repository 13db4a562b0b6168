"""Dice, IoU and the 95 % Hausdorff distance against slow twins that walk over pixels."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medbench.data.regions import decode_rle
from medbench.errors import DataError
from medbench.metrics.bootstrap import DRAWS, INTERVAL, patient_bootstrap_weights
from medbench.metrics.segmentation import (
    hausdorff95,
    image_dice,
    image_iou,
    mask_columns,
    mean_of_batches,
    segmentation_metrics,
)
from medbench.task import Metric

Masks = npt.NDArray[np.bool_]
NAMES = ["dice", "dice_pos", "iou", "hausdorff95", "dice_mgca"]


def dice_by_loop(predicted: Masks, true: Masks) -> float:
    both = either = 0
    for p, t in zip(predicted.ravel().tolist(), true.ravel().tolist(), strict=True):
        both += p and t
        either += p + t
    return 2 * both / either if either else 1.0


def iou_by_loop(predicted: Masks, true: Masks) -> float:
    both = sum(p and t for p, t in zip(predicted.ravel().tolist(), true.ravel().tolist(), strict=True))
    either = sum(p or t for p, t in zip(predicted.ravel().tolist(), true.ravel().tolist(), strict=True))
    return both / either if either else 1.0


def boundary_by_loop(mask: Masks) -> list[tuple[int, int]]:
    height, width = mask.shape
    found = []
    for y in range(height):
        for x in range(width):
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            outside = [not (0 <= v < height and 0 <= u < width) or not mask[v, u] for v, u in around]
            if mask[y, x] and any(outside):
                found.append((y, x))
    return found


def hausdorff95_by_loop(predicted: Masks, true: Masks) -> float:
    """All pairs of boundary pixels; the percentile by its definition, between the two ranks around it."""
    if not predicted.any() and not true.any():
        return 0.0
    if not predicted.any() or not true.any():
        return math.sqrt(true.shape[0] ** 2 + true.shape[1] ** 2)
    a, b = boundary_by_loop(predicted), boundary_by_loop(true)
    nearest = sorted(
        [min(math.dist(p, q) for q in b) for p in a] + [min(math.dist(p, q) for p in a) for q in b]
    )
    rank = 0.95 * (len(nearest) - 1)
    below = nearest[math.floor(rank)]
    return below + (rank - math.floor(rank)) * (nearest[math.ceil(rank)] - below)


def mgca_by_loop(predicted: Masks, true: Masks, batch: int) -> float:
    """As the released code goes: positives and negatives of a batch apart, then the mean of batch means."""
    means = []
    for start in range(0, len(true), batch):
        scores = []
        for p, t in zip(predicted[start : start + batch], true[start : start + batch], strict=True):
            if t.sum() >= 1:
                scores.append(2 * (p & t).sum() / (p.sum() + t.sum()))
            else:
                scores.append(float(p.sum() == 0))
        means.append(np.mean(scores))
    return float(np.mean(means))


def random_masks(seed: int, n: int = 30, side: tuple[int, int] = (12, 9)) -> tuple[Masks, Masks]:
    """(n, H, W) predictions and truths: boxes, of which some are near each other; a third of each empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((2, n, *side), np.bool_)
    for image in range(n):
        top, left = rng.integers(0, side[0] - 3), rng.integers(0, side[1] - 3)
        for which in (0, 1):
            if rng.random() < 0.67:
                y, x = top + rng.integers(0, 3), left + rng.integers(0, 3)
                masks[which, image, y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    return masks[0], masks[1]


def frame(predicted: Masks, true: Masks, patients: list[str] | None = None) -> pd.DataFrame:
    n = len(true)
    ids = pd.DataFrame(
        {"sample": [f"s{i:04}" for i in range(n)], "patient": patients or [f"p{i}" for i in range(n)]}
    )
    return pd.concat([ids, mask_columns(predicted, true)], axis=1)


def scored(predictions: pd.DataFrame, batch: int = 8) -> dict[str, Metric]:
    return {metric.name: metric for metric in segmentation_metrics(predictions, mgca_batch=batch)}


def values(predictions: pd.DataFrame, batch: int = 8) -> dict[str, float | None]:
    return {name: metric.value for name, metric in scored(predictions, batch).items()}


def by_loop(predicted: Masks, true: Masks, batch: int) -> dict[str, float | None]:
    pairs = list(zip(predicted, true, strict=True))
    dice = [dice_by_loop(p, t) for p, t in pairs]
    positive = [score for score, t in zip(dice, true, strict=True) if t.any()]
    return {
        "dice": float(np.mean(dice)),
        "dice_pos": float(np.mean(positive)) if positive else None,
        "iou": float(np.mean([iou_by_loop(p, t) for p, t in pairs])),
        "hausdorff95": float(np.mean([hausdorff95_by_loop(p, t) for p, t in pairs])),
        "dice_mgca": mgca_by_loop(predicted, true, batch),
    }


SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=8)
PAIRS = SHAPES.flatmap(lambda shape: hnp.arrays(np.bool_, (2, *shape)))
STACKS = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7).flatmap(
    lambda shape: hnp.arrays(np.bool_, (2, *shape))
)


@settings(deadline=None)
@given(STACKS)
def test_columns_are_what_the_masks_are(masks: Masks) -> None:
    predicted, true = masks
    columns = mask_columns(predicted, true)
    for image, row in enumerate(columns.to_dict("records")):
        grid = row["height"], row["width"]
        assert grid == true.shape[1:]
        np.testing.assert_array_equal(decode_rle(row["pred_runs"], *grid), predicted[image])
        np.testing.assert_array_equal(decode_rle(row["true_runs"], *grid), true[image])
        assert row["pred_area"] == np.count_nonzero(predicted[image])
        assert row["true_area"] == np.count_nonzero(true[image])
        assert row["intersection"] == np.count_nonzero(predicted[image] & true[image])


@settings(deadline=None)
@given(PAIRS)
def test_distance_agrees_with_all_pairs_of_boundary_pixels(masks: Masks) -> None:
    predicted, true = masks
    found = hausdorff95(predicted, true)
    assert found == pytest.approx(hausdorff95_by_loop(predicted, true), abs=1e-9)
    assert hausdorff95(true, predicted) == pytest.approx(found, abs=1e-12)
    assert hausdorff95(predicted.T, true.T) == pytest.approx(found, abs=1e-9)
    assert hausdorff95(true, true) == 0


@pytest.mark.parametrize("seed", range(4))
def test_distance_of_shapes_with_an_inside(seed: int) -> None:
    for predicted, true in zip(*random_masks(seed, n=8, side=(20, 16)), strict=True):
        assert hausdorff95(predicted, true) == pytest.approx(hausdorff95_by_loop(predicted, true), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_distance_lies_within_that_of_scipy(seed: int) -> None:
    from scipy.spatial.distance import directed_hausdorff

    for predicted, true in zip(*random_masks(seed, n=20), strict=True):
        if predicted.any() and true.any():
            a, b = np.array(boundary_by_loop(predicted)), np.array(boundary_by_loop(true))
            farthest = max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])
            assert hausdorff95(predicted, true) <= farthest + 1e-9


def test_distance_by_hand() -> None:
    predicted, true = np.zeros((2, 30, 40), np.bool_)
    predicted[4, 5], true[7, 9] = True, True
    assert hausdorff95(predicted, true) == 5  # 3, 4, 5
    true[7, 9] = False
    assert hausdorff95(predicted, true) == hausdorff95(true, predicted) == 50  # the diagonal of 30 x 40
    assert hausdorff95(true, true) == 0
    # A box moved right by 2: its left and right sides are 2 away.
    predicted, true = np.zeros((2, 30, 40), np.bool_)
    predicted[5:15, 5:15], true[5:15, 7:17] = True, True
    assert hausdorff95(predicted, true) == 2


def test_percentile_is_that_of_both_directions_together() -> None:
    """3 of 37 predicted pixels are far away, but 3 of the 137 distances: the larger of two percentiles is over 100."""
    predicted, true = np.zeros((2, 3, 300), np.bool_)
    true[1, :100] = True
    predicted[1, :100:3] = predicted[1, 250:256:2] = True
    assert hausdorff95(predicted, true) == hausdorff95_by_loop(predicted, true) == 1


def test_image_edge_is_a_boundary() -> None:
    whole = np.ones((9, 9), np.bool_)
    centre = np.zeros((9, 9), np.bool_)
    centre[4, 4] = True
    assert hausdorff95(whole, centre) == pytest.approx(hausdorff95_by_loop(whole, centre))
    assert hausdorff95(whole, centre) > 4


@settings(max_examples=40, deadline=None)
@given(STACKS, st.integers(1, 8))
def test_metrics_agree_with_loops_over_decoded_masks(masks: Masks, batch: int) -> None:
    predictions = frame(*masks)
    decoded = [
        np.stack(
            [
                decode_rle(row[f"{which}_runs"], row["height"], row["width"])
                for row in predictions.to_dict("records")
            ]
        )
        for which in ("pred", "true")
    ]
    assert values(predictions, batch) == pytest.approx(by_loop(*decoded, batch), abs=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 8, 16, 30, 100])
def test_metrics_agree_with_loops_on_boxes(batch: int) -> None:
    predicted, true = random_masks(1)
    assert values(frame(predicted, true), batch) == pytest.approx(by_loop(predicted, true, batch), abs=1e-9)


def test_dice_and_iou_are_those_of_torchmetrics() -> None:
    segmentation = pytest.importorskip("torchmetrics.functional.segmentation")
    import torch

    predicted, true = random_masks(2, n=50)
    full = predicted.any(axis=(1, 2)) & true.any(
        axis=(1, 2)
    )  # torchmetrics does not count empty masks as we do
    predicted, true = predicted[full], true[full]
    areas = mask_columns(predicted, true)[["pred_area", "true_area", "intersection"]].to_numpy().T
    found, target = (
        torch.from_numpy(masks).long()[:, None] for masks in (predicted, true)
    )  # (N, 1 class, H, W)
    dice = segmentation.dice_score(found, target, num_classes=1, average=None, aggregation_level="samplewise")
    iou = segmentation.mean_iou(found, target, num_classes=1, per_class=True)
    np.testing.assert_allclose(image_dice(*areas), dice.numpy().ravel(), atol=1e-6)
    np.testing.assert_allclose(image_iou(*areas), iou.numpy().ravel(), atol=1e-6)


def test_dice_and_iou_by_hand() -> None:
    areas = np.array([[4, 6, 2], [0, 0, 0], [0, 3, 0], [3, 0, 0], [5, 5, 5], [2, 2, 0]]).T
    assert image_dice(*areas).tolist() == [0.4, 1, 0, 0, 1, 0]
    assert image_iou(*areas).tolist() == [0.25, 1, 0, 0, 1, 0]


def test_every_metric_says_what_it_is() -> None:
    predicted, true = random_masks(3, n=41)
    metrics = segmentation_metrics(frame(predicted, true), mgca_batch=8)
    assert [m.name for m in metrics] == NAMES
    for metric in metrics:
        assert metric.version == 1
        assert metric.interval == INTERVAL
        assert metric.higher_is_better == (metric.name != "hausdorff95")
        assert metric.n == (true.any(axis=(1, 2)).sum() if metric.name == "dice_pos" else 41)
        assert metric.value is not None
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < metric.value < metric.high
        assert metric.name == "hausdorff95" or (metric.low >= 0 and metric.high <= 1)


def test_batch_variant_differs_by_the_last_batch_alone() -> None:
    box, empty = np.ones((1, 2, 2), np.bool_), np.zeros((1, 2, 2), np.bool_)
    true = np.concatenate([box] * 5)
    predicted = np.concatenate([box] * 4 + [empty])  # the miss is alone in the second batch of four
    found = values(frame(predicted, true), batch=4)
    assert found["dice"] == pytest.approx(0.8)
    assert found["dice_mgca"] == pytest.approx(0.5)
    assert values(frame(predicted, true), batch=5)["dice_mgca"] == pytest.approx(0.8)
    assert values(frame(predicted, true), batch=1)["dice_mgca"] == pytest.approx(0.8)


def test_order_of_the_rows_does_not_matter() -> None:
    predicted, true = random_masks(4, n=29)
    predictions = frame(predicted, true, [f"p{i // 3}" for i in range(29)])
    expected = segmentation_metrics(predictions, mgca_batch=8)
    for seed in range(3):
        shuffled = predictions.sample(frac=1, random_state=seed)
        assert segmentation_metrics(shuffled, mgca_batch=8) == expected
    predictions["sample"] = predictions["sample"].to_numpy()[::-1]  # other ids: other batches
    assert values(predictions)["dice_mgca"] == pytest.approx(
        mgca_by_loop(predicted[::-1], true[::-1], 8), abs=1e-12
    )


def test_images_of_several_sizes() -> None:
    small, large = random_masks(5, n=10), random_masks(6, n=9, side=(25, 14))
    both = pd.concat([frame(*small), frame(*large)], ignore_index=True)
    both["sample"] = [f"s{i:02}" for i in range(19)]
    expected = [by_loop(*part, batch=8) for part in (small, large)]
    for name in ("dice", "iou", "hausdorff95"):
        a, b = expected[0][name], expected[1][name]
        assert a is not None
        assert b is not None
        assert values(both)[name] == pytest.approx((10 * a + 9 * b) / 19, abs=1e-9)


def test_without_positives_only_dice_pos_is_not_defined() -> None:
    true = np.zeros((6, 3, 4), np.bool_)
    predicted = true.copy()
    predicted[0, 1, 1] = True
    metrics = scored(frame(predicted, true), batch=4)
    pos = metrics.pop("dice_pos")
    assert (pos.value, pos.low, pos.high, pos.n) == (None, None, None, 0)
    assert {name: m.value for name, m in metrics.items()} == pytest.approx(
        {"dice": 5 / 6, "iou": 5 / 6, "hausdorff95": 5 / 6, "dice_mgca": (3 / 4 + 1) / 2}
    )
    assert all(m.low is not None and m.n == 6 for m in metrics.values())


def test_all_empty_is_all_right() -> None:
    empty = np.zeros((5, 3, 4), np.bool_)
    metrics = scored(frame(empty, empty))
    assert {name: (m.value, m.low, m.high) for name, m in metrics.items() if name != "dice_pos"} == {
        "dice": (1, 1, 1),
        "iou": (1, 1, 1),
        "hausdorff95": (0, 0, 0),
        "dice_mgca": (1, 1, 1),
    }
    assert metrics["dice_pos"].value is None
    assert metrics["dice_pos"].reason == "no image has a true mask"


def test_nothing_found_anywhere() -> None:
    true = np.ones((5, 3, 4), np.bool_)
    assert values(frame(np.zeros_like(true), true)) == {
        "dice": 0,
        "dice_pos": 0,
        "iou": 0,
        "hausdorff95": 5,
        "dice_mgca": 0,
    }


def test_perfect_masks() -> None:
    _, true = random_masks(7)
    assert values(frame(true, true)) == pytest.approx(
        {"dice": 1, "dice_pos": 1, "iou": 1, "hausdorff95": 0, "dice_mgca": 1}
    )


@pytest.mark.parametrize(("n", "patient"), [(1, "p"), (5, "p")])
def test_one_patient_is_every_draw(n: int, patient: str) -> None:
    predicted, true = random_masks(8, n=n)
    true[0, 2:5, 2:5] = predicted[0, 3:6, 2:5] = True
    for metric in segmentation_metrics(frame(predicted, true, [patient] * n), mgca_batch=8):
        assert metric.value is not None
        assert (metric.low, metric.high) == pytest.approx((metric.value, metric.value), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(1, 9))
def test_weights_in_batches_are_a_literal_resampling(seed: int, n: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    weights = rng.integers(0, 4, (5, n)).astype(np.int32)
    weights[:, rng.integers(n)] += 1
    expected = []
    for row in weights:
        drawn = np.repeat(scores, row)
        batches = [drawn[start : start + batch].mean() for start in range(0, len(drawn), batch)]
        expected.append(np.mean(batches))
    np.testing.assert_allclose(mean_of_batches(scores, weights, batch), expected, atol=1e-12)


def test_intervals_are_those_of_a_literal_resampling() -> None:
    predicted, true = random_masks(9, n=21)
    patients = [f"p{i // 2}" for i in range(21)]
    found = scored(frame(predicted, true, patients))
    drawn: dict[str, list[float]] = {name: [] for name in NAMES}
    distance = np.array([hausdorff95(p, t) for p, t in zip(predicted, true, strict=True)])
    dice = np.array([dice_by_loop(p, t) for p, t in zip(predicted, true, strict=True)])
    iou = np.array([iou_by_loop(p, t) for p, t in zip(predicted, true, strict=True)])
    positive = true.any(axis=(1, 2))
    for row in patient_bootstrap_weights(patients, positive):
        images = np.repeat(np.arange(21), row)
        drawn["dice"].append(dice[images].mean())
        drawn["dice_pos"].append(dice[images][positive[images]].mean())
        drawn["iou"].append(iou[images].mean())
        drawn["hausdorff95"].append(distance[images].mean())
        drawn["dice_mgca"].append(
            np.mean([dice[images[start : start + 8]].mean() for start in range(0, len(images), 8)])
        )
    for name, metric in found.items():
        assert len(drawn[name]) == DRAWS
        expected = np.quantile(drawn[name], [0.025, 0.975])
        assert (metric.low, metric.high) == pytest.approx(tuple(expected), abs=1e-9)


def test_metrics_survive_a_parquet_file(tmp_path: Path) -> None:
    empty = np.zeros((3, 4, 5), np.bool_)
    for number, predictions in enumerate((frame(*random_masks(10)), frame(empty, empty))):
        path = tmp_path / f"{number}.parquet"
        predictions.to_parquet(path)
        again = segmentation_metrics(pd.read_parquet(path), mgca_batch=8)
        assert again == segmentation_metrics(predictions, mgca_batch=8)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("intersection", 5),  # more than is predicted
        ("intersection", -1),
        ("true_area", 21),  # more than there are pixels
        ("pred_area", 3),  # not what the run lengths say
        ("intersection", 3),
        ("pred_area", 0),
        ("pred_runs", ""),
        ("true_runs", ""),
        ("true_runs", "0 4"),  # not what the areas say
        ("height", 1),
    ],
)
def test_areas_that_contradict_are_refused(column: str, value: object) -> None:
    masks = np.zeros((2, 3, 4, 5), np.bool_)
    masks[0, 1, :2, :2], masks[1, 1, :2, :3] = True, True
    predictions = frame(*masks)
    segmentation_metrics(predictions, mgca_batch=8)
    predictions.loc[1, column] = value
    with pytest.raises(
        ValueError, match=r"sample s0001: areas predicted \d, true \d+, intersection -?\d are not"
    ):
        segmentation_metrics(predictions, mgca_batch=8)


def test_wrong_input_is_refused() -> None:
    predictions = frame(*random_masks(11, n=4))
    with pytest.raises(ValueError, match="found 0 images and batches of 8"):
        segmentation_metrics(predictions.iloc[:0], mgca_batch=8)
    with pytest.raises(ValueError, match="found 4 images and batches of 0"):
        segmentation_metrics(predictions, mgca_batch=0)
    with pytest.raises(ValueError, match="sample s0002 comes twice"):
        segmentation_metrics(pd.concat([predictions, predictions.iloc[2:3]]), mgca_batch=8)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        hausdorff95(np.zeros((2, 3), np.bool_), np.zeros((3, 2), np.bool_))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 3\); both should be \(N, H, W\)"):
        mask_columns(np.zeros((2, 3), np.bool_), np.zeros((2, 3), np.bool_))
    full = frame(*np.ones((2, 1, 3, 3), np.bool_))
    with pytest.raises(DataError, match="no whole number"):
        segmentation_metrics(full.assign(pred_runs="0 x"), mgca_batch=8)


@pytest.mark.slow
def test_a_test_set_of_the_size_of_rsnas() -> None:
    """A test set of RSNA's size on the 224 grid, half of the films with two masks."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:224, :224]
    disks = np.stack(
        [
            (rows - y) ** 2 + (columns - x) ** 2 < radius**2
            for y, x, radius in rng.uniform([50, 50, 10], [170, 170, 50], (100, 3))
        ]
    )
    some = frame(disks, np.roll(disks, 1, axis=0))
    empty = frame(np.zeros_like(disks), np.zeros_like(disks))
    predictions = pd.concat([some, empty] * 27, ignore_index=True)
    predictions["sample"] = [f"s{i:05}" for i in range(len(predictions))]
    predictions["patient"] = predictions["sample"]
    metrics = segmentation_metrics(predictions, mgca_batch=16)
    assert all(metric.n == (2700 if metric.name == "dice_pos" else 5400) for metric in metrics)
