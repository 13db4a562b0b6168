"""Average precision of detection: three variants that must not be mixed up, and their intervals.

- `map_40_75`: mean over IoU 0.40:0.05:0.75 (the rule of the RSNA challenge); every image counts.
- `map_coco`: mean over IoU 0.50:0.05:0.95; every image counts.
- `map_mgca`: IoU 0.40:0.05:0.75 as the released code of MGCA counts it (ssl_detector.py): only boxes with a
  confidence of at least 0.5 that survive non-maximum suppression at 0.5; images without such a box, or
  without a true box, are left out, so neither misses on the former nor false alarms on the latter count.

All use COCO's interpolation at 101 recalls and at most 100 boxes an image, by faster-coco-eval. Intervals
come from our own AP below, which gives the same value and takes a weight for each image: a bootstrap draw is
a set of weights. A box is matched inside its own image, so matching is done once, each draw only sums again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.metrics.bootstrap import INTERVAL, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]

IOUS_40_75: Floats = np.arange(40, 80, 5) / 100
"""Thresholds of the RSNA pneumonia challenge: 0.40, 0.45 ... 0.75."""

IOUS_COCO: Floats = np.arange(50, 100, 5) / 100
"""Thresholds of COCO: 0.50, 0.55 ... 0.95."""

MAX_BOXES = 100
"""Boxes of an image that count, best first (COCO)."""

MGCA_CONFIDENCE = 0.5
"""Least confidence of a box in `map_mgca` (MGCA, ssl_detector.py)."""

MGCA_NMS = 0.5
"""IoU over which `map_mgca` drops the worse of two boxes (MGCA, ssl_detector.py)."""

_RECALLS: Floats = np.linspace(0, 1, 101)  # COCO's
_EPS = np.spacing(1)  # COCO adds it to the number of boxes


@dataclass(frozen=True)
class Detections:
    """True and predicted boxes of N images, in pixels of any frame that stretches each image as it likes.

    Attributes:
        truth: N arrays (G, 4) float64, x y width height.
        boxes: N arrays (P, 4) float64, x y width height.
        scores: N arrays (P,) float64, 0 to 1.
    """

    truth: Sequence[Floats]
    boxes: Sequence[Floats]
    scores: Sequence[Floats]

    def __len__(self) -> int:
        return len(self.truth)

    @classmethod
    def from_frame(cls, predictions: pd.DataFrame) -> "Detections":
        """Read the columns `true_boxes`, `pred_boxes` (flat lists of 4 numbers a box) and `pred_scores`."""
        truth = [_floats(v).reshape(-1, 4) for v in predictions["true_boxes"]]
        boxes = [_floats(v).reshape(-1, 4) for v in predictions["pred_boxes"]]
        scores = [_floats(v) for v in predictions["pred_scores"]]
        return cls(truth, boxes, scores)

    def select(self, keep: npt.NDArray[np.bool_]) -> "Detections":
        """The images where `keep` (N,) is True."""
        rows = np.flatnonzero(keep)
        parts = (self.truth, self.boxes, self.scores)
        truth, boxes, scores = ([part[int(i)] for i in rows] for part in parts)
        return Detections(truth, boxes, scores)


def _floats(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)


def iou(a: Floats, b: Floats) -> Floats:
    """Intersections over unions.

    Args:
        a: (P, 4) x y width height.
        b: (G, 4) likewise.

    Returns:
        (P, G), 0 where both boxes are empty.
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])  # (P, G, 2)
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    inside = (high - low).clip(min=0).prod(axis=2)
    union = a[:, 2:].prod(axis=1)[:, None] + b[:, 2:].prod(axis=1)[None] - inside
    overlap: Floats = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return overlap


def coco_precision(detections: Detections, ious: Floats) -> Floats:
    """AP at each threshold, by faster-coco-eval.

    Args:
        detections: of all images that count.
        ious: (T,) thresholds, rising.

    Returns:
        (T,) float64, 0 to 1; NaN without any true box, where precision and recall say nothing.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = [
        {"image_id": i, "category_id": 1, "bbox": box.tolist(), "area": float(box[2] * box[3]), "iscrowd": 0}
        for i, boxes in enumerate(detections.truth)
        for box in boxes
    ]
    found = [
        {"image_id": i, "category_id": 1, "bbox": box, "score": score}
        for i, (boxes, scores) in enumerate(zip(detections.boxes, detections.scores, strict=True))
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True)
    ]
    if not truth or not found:
        return np.full(len(ious), 0.0 if truth else np.nan)
    for number, annotation in enumerate(truth, start=1):
        annotation["id"] = number
    images = [{"id": i} for i in range(len(detections))]
    reference = COCO({"images": images, "annotations": truth, "categories": [{"id": 1, "name": "box"}]})
    evaluation = COCOeval_faster(reference, reference.loadRes(found), iouType="bbox")
    evaluation.params.iouThrs = ious
    evaluation.params.maxDets = [MAX_BOXES]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Floats = evaluation.eval["precision"]  # (T, 101 recalls, 1 class, 1 area, 1 limit)
    averages: Floats = precision.reshape(len(ious), -1).mean(axis=1)
    return averages


def mgca_rule(detections: Detections) -> tuple[Detections, npt.NDArray[np.bool_]]:
    """What `map_mgca` counts.

    Args:
        detections: all images.

    Returns:
        The same images with only the boxes that it keeps; and (N,) whether an image counts at all.
    """
    boxes, scores = [], []
    for candidates, confidence in zip(detections.boxes, detections.scores, strict=True):
        order = np.argsort(-confidence, kind="stable")
        order = order[confidence[order] >= MGCA_CONFIDENCE]
        kept: list[int] = []
        overlaps = iou(candidates[order], candidates[order])
        for i in range(len(order)):
            if not (overlaps[i, kept] > MGCA_NMS).any():
                kept.append(i)
        boxes.append(candidates[order[kept]])
        scores.append(confidence[order[kept]])
    filtered = Detections(detections.truth, boxes, scores)
    counts = [len(t) > 0 and len(b) > 0 for t, b in zip(filtered.truth, filtered.boxes, strict=True)]
    return filtered, np.array(counts, dtype=np.bool_)


@dataclass(frozen=True)
class Matches:
    """All boxes of N images, best first, matched to true ones at T thresholds.

    Attributes:
        image: (D,) int64, the image of each box.
        hits: (T, D) bool, whether the box found a true one.
        truth: (N,) int64, true boxes of each image.
    """

    image: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]
    truth: npt.NDArray[np.int64]


def match(detections: Detections, ious: Floats) -> Matches:
    """COCO's greedy matching: each box, best first, takes the free true box that it overlaps most.

    Args:
        detections: of all images.
        ious: (T,) least overlaps.

    Returns:
        The boxes of all images, ordered by falling score (equal scores: as they come).
    """
    images, scores, hits = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros((len(ious), 0), np.bool_)]
    for i, (truth, boxes, score) in enumerate(
        zip(detections.truth, detections.boxes, detections.scores, strict=True)
    ):
        order = np.argsort(-score, kind="stable")[:MAX_BOXES]
        images.append(np.full(len(order), i, np.int64))
        scores.append(score[order])
        hits.append(_match_image(iou(boxes[order], truth), ious))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    truths = np.array([len(t) for t in detections.truth], dtype=np.int64)
    return Matches(np.concatenate(images)[order], np.concatenate(hits, axis=1)[:, order], truths)


def _match_image(overlaps: Floats, ious: Floats) -> npt.NDArray[np.bool_]:
    """(P, G) overlaps, best box first -> (T, P) hits."""
    hits = np.zeros((len(ious), len(overlaps)), np.bool_)
    if overlaps.size == 0:
        return hits
    free = np.ones((len(ious), overlaps.shape[1]), np.bool_)
    every = np.arange(len(ious))
    for box in np.flatnonzero(overlaps.max(axis=1) >= ious.min()):  # the others hit nothing
        offer = np.where(free & (overlaps[box] >= ious[:, None]), overlaps[box], -1.0)  # (T, G)
        best = offer.shape[1] - 1 - offer[:, ::-1].argmax(axis=1)  # of equal ones the last, as COCO
        hit = offer[every, best] >= 0
        hits[hit, box] = True
        free[every[hit], best[hit]] = False
    return hits


def weighted_average_precision(matches: Matches, weights: npt.NDArray[np.int32]) -> Floats:
    """AP at each threshold where image i counts weights[r, i] times.

    Precision is looked at only where a box hits: between hits it falls, and COCO's interpolation asks for the
    best precision at a recall or beyond.

    Args:
        matches: of N images, T thresholds.
        weights: (R, N) whole numbers.

    Returns:
        (R, T) float64, NaN where no true box has a weight.
    """
    thresholds, boxes = matches.hits.shape
    weights = weights.astype(np.float64)
    total = weights @ matches.truth  # (R,)
    result = np.full((len(weights), thresholds), np.nan)
    defined = np.flatnonzero(total > 0)
    weights, total = weights[defined], total[defined]
    # Boxes fall into segments, each of which ends at a box that hits at some threshold (what follows the last
    # hit never matters): the weights of all boxes up to a hit are then cumulative sums over few segments.
    ends = np.flatnonzero(matches.hits.any(axis=0))  # (K,)
    segment = np.searchsorted(ends, np.arange(boxes))
    inside = segment < len(ends)
    shape = (len(ends), weights.shape[1])
    members = np.bincount(
        segment[inside] * shape[1] + matches.image[inside], minlength=shape[0] * shape[1]
    ).reshape(shape)  # (K, N) boxes of each image in each segment
    found = np.cumsum(weights @ members.T.astype(np.float64), axis=1)  # (R, K); whole numbers, so exact
    for t in range(thresholds):
        hit = np.flatnonzero(matches.hits[t, ends])
        true = np.cumsum(weights[:, matches.image[ends[hit]]], axis=1)  # (R, H)
        precision = true / (found[:, hit] + _EPS)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # at this recall or beyond
        # How many of the 101 recalls are reached at each hit, and not before.
        reached = np.searchsorted(_RECALLS, true / total[:, None], side="right")  # (R, H)
        newly = np.diff(reached, axis=1, prepend=0)
        result[defined, t] = (best * newly).sum(axis=1) / len(_RECALLS)
    return result


def average_precision(detections: Detections, ious: Floats) -> Floats:
    """The same as `coco_precision` by our own matching, several times faster: for choosing on validation.

    Args:
        detections: of all images that count.
        ious: (T,) thresholds.

    Returns:
        (T,) float64, NaN without any true box.
    """
    once: npt.NDArray[np.int32] = np.ones((1, len(detections)), np.int32)
    averages: Floats = weighted_average_precision(match(detections, ious), once)[0]
    return averages


def detection_metrics(predictions: pd.DataFrame) -> list[Metric]:
    """`map_40_75` (the primary one), `map_mgca` and `map_coco` of a test set, with 95 % intervals.

    Args:
        predictions: one row an image with the columns `patient` and those of `Detections.from_frame`.

    Returns:
        The three metrics. Without any true box none is defined; `map_mgca` also where no image counts.
    """
    every = Detections.from_frame(predictions)
    filtered, counts = mgca_rule(every)
    counted = filtered.select(counts)
    ious = np.union1d(IOUS_40_75, IOUS_COCO)
    at_40_75, at_coco = np.isin(ious, IOUS_40_75), np.isin(ious, IOUS_COCO)
    precision, precision_mgca = coco_precision(every, ious), coco_precision(counted, IOUS_40_75)

    matches, matches_mgca = match(every, ious), match(counted, IOUS_40_75)
    patients = predictions["patient"].astype(str).tolist()
    draws, draws_mgca = [], []
    for weights in bootstrap_blocks(patients, matches.truth > 0):
        draws.append(weighted_average_precision(matches, weights))  # (R, T)
        draws_mgca.append(weighted_average_precision(matches_mgca, weights[:, counts]))
    drawn, drawn_mgca = np.concatenate(draws), np.concatenate(draws_mgca)
    return [
        _metric("map_40_75", precision[at_40_75], drawn[:, at_40_75], len(every)),
        _metric("map_mgca", precision_mgca, drawn_mgca, len(counted)),
        _metric("map_coco", precision[at_coco], drawn[:, at_coco], len(every)),
    ]


def _metric(name: str, precision: Floats, draws: Floats, n: int) -> Metric:
    """The mean over thresholds: `precision` (T,) of the test set, `draws` (D, T) of the bootstrap."""
    value = float(precision.mean())
    if np.isnan(value):
        return Metric(name, None, None, None, INTERVAL, n)
    low, high = percentile_interval(draws.mean(axis=1))
    return Metric(name, value, low, high, INTERVAL, n)
