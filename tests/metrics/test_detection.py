import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.metrics.bootstrap import (
    DRAWS,
    INTERVAL,
    JACKKNIFE_LOGIT_INTERVAL,
    interval,
    patient_bootstrap_weights,
)
from medbench.metrics.detection import (
    IOUS_40_75,
    IOUS_COCO,
    OBJECT,
    Detections,
    average_precision,
    coco_precision,
    detection_metrics,
    iou,
    match,
    mean_precision,
    mgca_rule,
    weighted_average_precision,
)
from medbench.metrics.froc import sensitivities

Floats = npt.NDArray[np.float64]
NONE = np.zeros((0, 4))


def overlap_by_loop(a: Floats, b: Floats) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(width, 0.0) * max(height, 0.0)
    union = a[2] * a[3] + b[2] * b[3] - inside
    return float(inside / union) if union > 0 else 0.0


def of_class(detections: Detections, label: int) -> Detections:
    """The boxes of one class, as if there were no other."""
    if detections.true_labels is None or detections.labels is None:
        return detections
    kept = [
        [part[labels == label] for part, labels in zip(parts, all_labels, strict=True)]
        for parts, all_labels in (
            (detections.truth, detections.true_labels),
            (detections.boxes, detections.labels),
            (detections.scores, detections.labels),
        )
    ]
    return Detections(*kept)


def precision_by_loop(detections: Detections, threshold: float) -> float:
    """AP from its definition: match greedily, walk down the list, interpolate at 101 recalls."""
    boxes = [
        (score, image, place)
        for image, scores in enumerate(detections.scores)
        for place, score in enumerate(scores)
    ]
    boxes.sort(key=lambda box: (-box[0], box[1], box[2]))
    total = sum(len(truth) for truth in detections.truth)
    if total == 0:
        return math.nan
    taken: set[tuple[int, int]] = set()
    true = 0
    curve = []
    for seen, (_, image, place) in enumerate(boxes, start=1):
        best, found = threshold, -1
        for k, truth in enumerate(detections.truth[image]):
            overlap = overlap_by_loop(detections.boxes[image][place], truth)
            if (image, k) not in taken and overlap >= best:
                best, found = overlap, k
        if found >= 0:
            taken.add((image, found))
            true += 1
        curve.append((true / total, true / seen))
    return float(np.mean([max((p for r, p in curve if r >= k / 100), default=0.0) for k in range(101)]))


def froc_by_loop(detections: Detections, rate: float) -> float:
    """Sensitivity at a rate of false alarms, from its definition, by trying every score to stop at."""
    total = sum(len(truth) for truth in detections.truth)
    best = 0.0
    for stop in {float(score) for scores in detections.scores for score in scores}:
        hits = alarms = 0
        for truth, boxes, scores in zip(detections.truth, detections.boxes, detections.scores, strict=True):
            taken: set[int] = set()
            for place in sorted(np.flatnonzero(scores >= stop), key=lambda p: (-scores[p], p)):
                overlaps = [overlap_by_loop(boxes[place], true) for true in truth]
                near = [(overlap, k) for k, overlap in enumerate(overlaps) if overlap >= 0.4]
                free = [pair for pair in near if pair[1] not in taken]
                if free:
                    taken.add(max(free)[1])
                elif not near:
                    alarms += 1
            hits += len(taken)
        if alarms <= rate * len(detections):
            best = max(best, hits / total)
    return best


def random_detections(seed: int, images: int = 40, ties: bool = False, classes: int = 1) -> Detections:
    rng = np.random.default_rng(seed)
    truth, boxes, scores = [], [], []
    true_labels, labels = [], []
    for _ in range(images):
        true = rng.uniform(5, 60, (rng.integers(0, 4), 4)) if rng.random() < 0.6 else NONE
        near = np.repeat(true, 2, axis=0) + rng.normal(0, 6, (2 * len(true), 4))
        far = rng.uniform(5, 60, (rng.integers(0, 5), 4))
        found = np.abs(np.concatenate([near, far]))
        score = rng.random(len(found))
        truth.append(true)
        boxes.append(found)
        scores.append(np.round(score, 1) if ties else score)
        true_labels.append(rng.integers(0, classes, len(true)))
        same = np.r_[np.repeat(true_labels[-1], 2), np.full(len(far), -1)]
        labels.append(np.where((rng.random(len(found)) < 0.2) | (same < 0), rng.integers(0, classes), same))
    if classes == 1:
        return Detections(truth, boxes, scores)
    return Detections(truth, boxes, scores, true_labels, labels, tuple("abcdefgh"[:classes]))


def frame(detections: Detections, patients: list[str] | None = None) -> pd.DataFrame:
    n = len(detections)
    names = np.array(detections.classes)
    labels: dict[str, Any] = {}
    if detections.true_labels is not None and detections.labels is not None:
        labels = {
            "true_labels": [names[part].tolist() for part in detections.true_labels],
            "pred_labels": [names[part].tolist() for part in detections.labels],
            "classes": [list(detections.classes)] * n,
        }
    return pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(n)],
            "patient": patients or [f"p{i}" for i in range(n)],
            "true_boxes": [boxes.ravel() for boxes in detections.truth],
            "pred_boxes": [boxes.astype(np.float32).ravel() for boxes in detections.boxes],
            "pred_scores": [scores.astype(np.float32) for scores in detections.scores],
            **labels,
        }
    )


def values(predictions: pd.DataFrame) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in detection_metrics(predictions)}


def test_thresholds_are_those_of_the_challenge_and_of_coco() -> None:
    assert IOUS_40_75.tolist() == [0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    assert IOUS_COCO.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


@pytest.mark.parametrize("seed", range(4))
def test_overlap_agrees_with_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 20, (6, 4)), rng.uniform(0, 20, (5, 4))
    a[0, 2] = 0
    expected = [[overlap_by_loop(x, y) for y in b] for x in a]
    np.testing.assert_allclose(iou(a, b), expected, atol=1e-12)
    assert iou(np.zeros((1, 4)), np.zeros((1, 4))) == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("seed", "classes"), [(0, 1), (1, 1), (2, 1), (3, 3), (4, 3), (5, 6)])
def test_three_ways_give_one_precision(seed: int, classes: int, ties: bool) -> None:
    detections = random_detections(seed, ties=ties, classes=classes)
    expected = [[precision_by_loop(of_class(detections, k), t) for t in IOUS_40_75] for k in range(classes)]
    np.testing.assert_allclose(coco_precision(detections, IOUS_40_75), expected, atol=1e-9)
    np.testing.assert_allclose(average_precision(detections, IOUS_40_75), expected, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans(), st.integers(1, 4))
def test_own_precision_is_that_of_faster_coco_eval(seed: int, images: int, ties: bool, classes: int) -> None:
    detections = random_detections(seed, images, ties, classes)
    np.testing.assert_allclose(
        average_precision(detections, IOUS_COCO), coco_precision(detections, IOUS_COCO), atol=1e-9
    )


def test_precision_agrees_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    detections = random_detections(11)
    truth, found = (
        [
            {"image_id": i, "category_id": 1, "bbox": box.tolist(), "area": box[2] * box[3], "iscrowd": 0}
            for i, boxes in enumerate(part)
            for box in boxes
        ]
        for part in (detections.truth, detections.boxes)
    )
    for number, annotation in enumerate(truth, start=1):
        annotation["id"] = number
    for annotation, score in zip(found, np.concatenate(detections.scores), strict=True):
        annotation["score"] = float(score)
    reference = coco.COCO()
    reference.dataset = {
        "info": {},
        "images": [{"id": i} for i in range(len(detections))],
        "annotations": truth,
        "categories": [{"id": 1}],
    }
    reference.createIndex()
    oracle = cocoeval.COCOeval(reference, reference.loadRes(found), "bbox")
    oracle.evaluate()
    oracle.accumulate()
    expected = oracle.eval["precision"][:, :, 0, 0, 2].mean()  # all sizes, 100 boxes
    assert coco_precision(detections, IOUS_COCO).mean() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans(), st.integers(1, 3))
def test_froc_agrees_with_a_loop(seed: int, images: int, ties: bool, classes: int) -> None:
    detections = random_detections(seed, images, ties, classes)
    found = {m.name: m for m in detection_metrics(frame(detections))}
    parts = [of_class(detections, k) for k in range(classes)]
    parts = [part for part in parts if sum(map(len, part.truth))]
    for name, rate in (("froc_05", 0.5), ("froc_1", 1), ("froc_2", 2)):
        if parts:
            expected = np.mean([froc_by_loop(part, rate) for part in parts])
            assert found[name].value == pytest.approx(expected, abs=1e-12)
        else:
            assert found[name].value is None
    if parts:
        assert found["froc"].value == pytest.approx(
            np.mean([found[name].value for name in ("froc_05", "froc_1", "froc_2")])  # type: ignore[list-item]
        )


def test_froc_counts_each_lesion_once_and_a_second_box_on_it_not_at_all() -> None:
    box, far = np.array([10.0, 10, 20, 20]), np.array([60.0, 60, 20, 20])
    doubled = Detections(
        [box[None], NONE], [np.stack([box, box, far]), far[None]], [np.r_[0.9, 0.8, 0.7], np.r_[0.6]]
    )
    one = {m.name: m.value for m in detection_metrics(frame(doubled))}
    assert one["froc_05"] == one["froc_1"] == one["froc_2"] == one["froc"] == 1
    # Before the hit stand: nothing, one, two, three false alarms, on two images.
    expected = [(1, 1, 1), (1, 1, 1), (0, 1, 1), (0, 0, 1)]
    for before, wanted in enumerate(expected):
        boxes = np.concatenate([np.tile(far, (before, 1)), box[None]])
        scores = np.r_[np.full(before, 0.9), 0.5]
        found = values(frame(Detections([box[None], NONE], [boxes, NONE], [scores, np.zeros(0)])))
        assert (found["froc_05"], found["froc_1"], found["froc_2"]) == wanted


def test_froc_takes_boxes_of_equal_score_together() -> None:
    box, far = np.array([10.0, 10, 20, 20]), np.array([60.0, 60, 20, 20])
    boxes = np.stack([box, far, far, far])
    found = values(frame(Detections([box[None], NONE], [boxes, NONE], [np.full(4, 0.5), np.zeros(0)])))
    assert (found["froc_05"], found["froc_1"], found["froc_2"]) == (0, 0, 1)


def test_a_class_without_a_true_box_is_not_in_the_mean() -> None:
    detections = random_detections(3, classes=2)
    wider = replace(detections, classes=("a", "b", "c"))
    assert values(frame(wider)) == values(frame(detections))
    for metric in detection_metrics(frame(wider)):
        assert metric.per_class["c"] is None
        assert metric.reason == "mean over 2 of 3 classes: no true box of c"
        assert metric.value == pytest.approx(np.mean([metric.per_class["a"], metric.per_class["b"]]))  # type: ignore[list-item]


def test_a_class_that_the_training_part_lacks_is_not_in_the_mean() -> None:
    detections = random_detections(3, classes=2)
    predictions = frame(detections)
    predictions["true_labels"] = [
        [{"b": "z"}.get(x, x) for x in names] for names in predictions["true_labels"]
    ]
    expected = {m.name: m.per_class["a"] for m in detection_metrics(frame(detections))}
    for metric in detection_metrics(predictions):
        if metric.name != "map_mgca":  # there a true box of z lets its image count
            assert metric.value == expected[metric.name]
        assert metric.per_class["z"] is None and metric.per_class["b"] is None
        assert metric.reason == (
            "mean over 1 of 3 classes: the training part has no box of z; no true box of b"
        )


def test_one_class_has_no_metric_by_class() -> None:
    named = replace(random_detections(3), classes=("mass",))
    assert all(m.per_class == {} and m.reason == "" for m in detection_metrics(frame(named)))
    assert random_detections(3).classes == (OBJECT,)


def test_primary_metric_comes_first() -> None:
    names = [m.name for m in detection_metrics(frame(random_detections(3)), primary="map_mgca")]
    assert names == ["map_mgca", "map_40_75", "map_coco", "froc_05", "froc_1", "froc_2", "froc"]


def test_mgca_variant_of_several_classes_drops_doubles_of_a_class_alone() -> None:
    box = np.array([10.0, 10, 20, 20])
    boxes = [np.stack([box, box, box])]
    detections = Detections(
        [np.stack([box, box])],
        boxes,
        [np.array([0.9, 0.8, 0.7])],
        [np.array([0, 1])],
        [np.array([0, 0, 1])],
        ("a", "b"),
    )
    filtered, _ = mgca_rule(detections)
    assert filtered.scores[0].tolist() == [0.9, 0.7]
    assert values(frame(detections))["map_mgca"] == pytest.approx(1)


def test_mean_precision_passes_over_what_is_not_defined() -> None:
    assert mean_precision(np.array([[0.2, 0.4], [np.nan, np.nan], [0.6, 0.8]])) == pytest.approx(0.5)
    assert math.isnan(mean_precision(np.full((2, 3), np.nan)))


def test_only_the_best_hundred_boxes_of_an_image_count() -> None:
    truth = [np.array([[0.0, 0, 10, 10]])]
    decoys = np.tile([50.0, 50, 5, 5], (100, 1))
    boxes = [np.concatenate([decoys, truth[0]])]
    late = Detections(truth, boxes, [np.r_[np.full(100, 0.9), 0.1]])
    early = Detections(truth, boxes, [np.r_[np.full(100, 0.9), 0.95]])
    for precision in (coco_precision, average_precision):
        assert precision(late, IOUS_40_75).mean() == 0
        assert precision(early, IOUS_40_75).mean() == pytest.approx(1)


@pytest.mark.parametrize("precision", [coco_precision, average_precision])
def test_edge_cases_of_precision(precision: object) -> None:
    assert callable(precision)
    box, nothing = np.array([[10.0, 10, 20, 20]]), np.zeros(0)
    no_truth = Detections([NONE, NONE], [box, NONE], [np.array([0.9]), nothing])
    no_boxes = Detections([box, NONE], [NONE, NONE], [nothing, nothing])
    perfect = Detections([box, NONE], [box, NONE], [np.array([0.9]), nothing])
    neither = Detections([NONE], [NONE], [nothing])
    flat = Detections([box], [np.array([[10.0, 10, 0, 20]])], [np.array([0.9])])
    assert np.isnan(precision(no_truth, IOUS_40_75)).all()
    assert np.isnan(precision(neither, IOUS_40_75)).all()
    assert (precision(no_boxes, IOUS_40_75) == 0).all()
    assert (precision(flat, IOUS_40_75) == 0).all()
    np.testing.assert_allclose(precision(perfect, IOUS_40_75), 1)


def test_false_alarm_on_a_healthy_film_counts_except_in_the_mgca_variant() -> None:
    box = np.array([[10.0, 10, 20, 20]])
    clean = Detections([box, NONE], [box, NONE], [np.array([0.8]), np.zeros(0)])
    alarm = Detections([box, NONE], [box, box], [np.array([0.8]), np.array([0.9])])
    before, after = values(frame(clean)), values(frame(alarm))
    assert before["map_40_75"] == pytest.approx(1)
    assert after["map_40_75"] == pytest.approx(0.5)
    assert after["map_coco"] == pytest.approx(0.5)
    assert after["map_mgca"] == before["map_mgca"] == pytest.approx(1)


def test_miss_on_a_film_without_boxes_counts_except_in_the_mgca_variant() -> None:
    box = np.array([[10.0, 10, 20, 20]])
    half = Detections([box, box], [box, NONE], [np.array([0.8]), np.zeros(0)])
    found = values(frame(half))
    assert found["map_40_75"] == pytest.approx(51 / 101)  # recalls 0.00 to 0.50
    assert found["map_mgca"] == pytest.approx(1)


def test_mgca_variant_drops_doubtful_and_doubled_boxes() -> None:
    box, near = np.array([10.0, 10, 20, 20]), np.array([11.0, 10, 20, 20])
    far = np.array([60.0, 60, 20, 20])
    boxes = [np.stack([near, far, box]), box[None]]
    detections = Detections([box[None], box[None]], boxes, [np.array([0.7, 0.5, 0.9]), np.array([0.49])])
    filtered, counts = mgca_rule(detections)
    np.testing.assert_array_equal(filtered.boxes[0], [box, far])  # near overlaps the better box by 0.9
    assert len(filtered.boxes[1]) == 0
    assert counts.tolist() == [True, False]
    metrics = {m.name: m for m in detection_metrics(frame(detections))}
    assert (metrics["map_mgca"].n, metrics["map_40_75"].n) == (1, 2)


def test_mgca_variant_is_not_defined_where_no_image_counts() -> None:
    box = np.array([[10.0, 10, 20, 20]])
    metrics = {m.name: m for m in detection_metrics(frame(Detections([box], [box], [np.array([0.2])])))}
    mgca = metrics["map_mgca"]
    assert (mgca.value, mgca.low, mgca.high, mgca.n) == (None, None, None, 0)
    assert "no image has both" in mgca.reason
    assert metrics["map_40_75"].value == pytest.approx(1)


def test_nothing_is_defined_without_a_true_box() -> None:
    box = np.array([[10.0, 10, 20, 20]])
    for metric in detection_metrics(frame(Detections([NONE, NONE], [box, NONE], [np.ones(1), np.zeros(0)]))):
        assert (metric.value, metric.low, metric.high) == (None, None, None)
        assert metric.reason


def test_metrics_do_not_depend_on_how_a_film_is_stretched() -> None:
    detections = random_detections(3)
    stretch = np.array([4.0, 0.5, 4.0, 0.5])
    stretched = Detections(
        [b * stretch for b in detections.truth], [b * stretch for b in detections.boxes], detections.scores
    )
    expected, found = values(frame(detections)), values(frame(stretched))
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_weights_give_what_a_literal_resampling_gives(seed: int) -> None:
    """A draw repeats all films of a drawn patient; films are kept together, as ties in a list demand."""
    detections = random_detections(seed, images=30)
    patients = [f"p{i // 2}" for i in range(30)]
    positive = np.array([len(truth) > 0 for truth in detections.truth])
    weights = patient_bootstrap_weights(patients, positive, draws=5, seed=seed)
    (matches,) = match(detections, IOUS_40_75)
    found = weighted_average_precision(matches, weights)
    for row, expected in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(30), row)
        resampled = Detections(
            [detections.truth[i] for i in drawn],
            [detections.boxes[i] for i in drawn],
            [detections.scores[i] for i in drawn],
        )
        np.testing.assert_allclose(coco_precision(resampled, IOUS_40_75)[0], expected, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_froc_of_a_draw_is_that_of_a_literal_resampling(seed: int) -> None:
    detections = random_detections(seed, images=30)
    (matches,) = match(detections, IOUS_40_75)
    weights = np.random.default_rng(seed).integers(0, 4, (5, 30)).astype(np.int32)
    found = sensitivities(
        matches.image, matches.scores, matches.hits[0], matches.overlap < 0.4, matches.truth, weights
    )
    for row, expected in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(30), row)
        resampled = Detections(
            [detections.truth[i] for i in drawn],
            [detections.boxes[i] for i in drawn],
            [detections.scores[i] for i in drawn],
        )
        assert [froc_by_loop(resampled, rate) for rate in (0.5, 1, 2)] == pytest.approx(expected)


def test_interval_of_the_mgca_variant_is_that_of_a_literal_resampling() -> None:
    detections = random_detections(5, images=60)
    filtered, counts = mgca_rule(detections)
    weights = np.random.default_rng(0).integers(0, 4, (4, 60)).astype(np.int32)
    (matches,) = match(filtered.select(counts), IOUS_40_75)
    found = weighted_average_precision(matches, weights[:, counts])
    for row, expected in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(60), row)
        resampled = Detections(
            [detections.truth[i] for i in drawn],
            [detections.boxes[i] for i in drawn],
            [detections.scores[i] for i in drawn],
        )
        again, kept = mgca_rule(resampled)
        np.testing.assert_allclose(coco_precision(again.select(kept), IOUS_40_75)[0], expected, atol=1e-9)


def test_draw_without_a_true_box_is_not_defined() -> None:
    box = np.array([[10.0, 10, 20, 20]])
    (matches,) = match(Detections([box, NONE], [box, NONE], [np.ones(1), np.zeros(0)]), IOUS_40_75)
    found = weighted_average_precision(matches, np.array([[0, 2], [1, 1]], np.int32))
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], 1)


def test_intervals_hold_the_value_and_repeat() -> None:
    predictions = frame(random_detections(7, images=120))
    metrics = detection_metrics(predictions)
    assert [m.name for m in metrics] == [
        *("map_40_75", "map_mgca", "map_coco", "froc_05", "froc_1", "froc_2", "froc")
    ]
    for metric in metrics:
        assert metric.value is not None
        assert metric.low is not None
        assert metric.high is not None
        assert 0 <= metric.low < metric.value < metric.high <= 1
        assert f"{DRAWS}" in metric.interval
        assert metric.interval == (JACKKNIFE_LOGIT_INTERVAL if metric.name.startswith("map_") else INTERVAL)
        assert metric.bootstrap is not None
        assert (metric.low, metric.high) == interval(
            metric.interval, metric.value, metric.bootstrap.draws, metric.bootstrap.resample.units
        )
    assert metrics == detection_metrics(predictions)


BOX = np.array([[10.0, 10, 20, 20]])


@pytest.mark.parametrize(("found", "value"), [(BOX, 1.0), (BOX + 50, 0.0)])
def test_a_detector_that_is_always_right_or_wrong_has_an_interval_of_no_width(
    found: Floats, value: float
) -> None:
    scores = [np.ones(1)] * 8 + [np.zeros(0)] * 8
    predictions = frame(Detections([BOX] * 8 + [NONE] * 8, [found] * 8 + [NONE] * 8, scores))
    for metric in detection_metrics(predictions):
        assert (metric.value, metric.low, metric.high) == (value, value, value)
        assert metric.reason == ""


def test_an_average_precision_of_draws_that_are_all_equal() -> None:
    """Every film has one box that is found and one of a better score that is not true."""
    boxes, scores = np.concatenate([BOX + 50, BOX]), np.array([0.9, 0.8])
    for metric in detection_metrics(frame(Detections([BOX] * 10, [boxes] * 10, [scores] * 10)))[:3]:
        assert metric.value is not None
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
        assert metric.high - metric.low < 1e-9


def test_a_single_patient_with_a_box_gives_an_average_precision_no_interval() -> None:
    one = Detections([BOX] + [NONE] * 5, [BOX] + [BOX] * 5, [np.array([0.7])] * 6)
    *maps, froc = [m for m in detection_metrics(frame(one)) if m.name.startswith("map_") or m.name == "froc"]
    for metric in maps:
        assert metric.value is not None
        assert (metric.low, metric.high) == (None, None)
        assert metric.reason == "no interval: one patient in a stratum"
    assert froc.low is not None


def test_metrics_survive_a_parquet_file(tmp_path: pytest.TempPathFactory) -> None:
    empty = Detections([NONE] * 3, [NONE] * 3, [np.zeros(0)] * 3)
    all_of_them = (random_detections(9), random_detections(9, classes=3), empty)
    for number, predictions in enumerate(map(frame, all_of_them)):
        path = f"{tmp_path}/{number}.parquet"
        predictions.to_parquet(path)
        assert detection_metrics(pd.read_parquet(path)) == detection_metrics(predictions)


@pytest.mark.slow
def test_thousand_films_with_a_hundred_boxes_each_take_seconds() -> None:
    rng = np.random.default_rng(0)
    truth = [rng.uniform(50, 300, (rng.integers(1, 4) if i % 4 == 0 else 0, 4)) for i in range(1000)]
    boxes = [
        np.concatenate(
            [np.repeat(t, 5, axis=0) + rng.normal(0, 20, (5 * len(t), 4)), rng.uniform(0, 300, (80, 4))]
        )
        for t in truth
    ]
    detections = Detections(truth, [np.abs(b) for b in boxes], [rng.random(len(b)) for b in boxes])
    (matches,) = match(detections, IOUS_40_75)
    weights = patient_bootstrap_weights([str(i) for i in range(1000)], matches.truth > 0)
    start = time.process_time()
    found = weighted_average_precision(matches, weights)
    assert time.process_time() - start < 10
    assert found.shape == (DRAWS, 8)
    assert math.isclose(found.mean(), average_precision(detections, IOUS_40_75).mean(), rel_tol=0.1)
