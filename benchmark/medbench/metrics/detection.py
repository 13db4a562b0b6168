"""Metrics of detection: three average precisions that must not be mixed up, FROC, and their intervals.

- `map_40_75`: mean over IoU 0.40:0.05:0.75 (the rule of the RSNA challenge); every image counts.
- `map_coco`: mean over IoU 0.50:0.05:0.95; every image counts.
- `map_mgca`: IoU 0.40:0.05:0.75 as the released code of MGCA counts it (ssl_detector.py): only boxes with a
  confidence of at least 0.5 that survive non-maximum suppression at 0.5; images without such a box, or
  without a true box, are left out, so neither misses on the former nor false alarms on the latter count.
- `froc_05`, `froc_1`, `froc_2`: sensitivity at 0.5, 1 and 2 false alarms an image, at IoU 0.40, and `froc`, their mean;
  see `medbench.metrics.froc`.

The average precisions use COCO's interpolation at 101 recalls and at most 100 boxes an image and class, by
faster-coco-eval. Intervals come from our own AP below, which gives the same value and takes a weight for each image: a
bootstrap draw is a set of weights. A box is matched inside its own image, so matching is done once, each draw only sums
again. Those of average precisions are on the log-odds scale, by draws made smooth (`linear_draws`; docs/statistics.md
says why), of FROC percentiles.

Where there are several classes, each is measured by itself, and a metric is the mean over those with a true box. A
class that the detector does not know, because no film of the training part shows it, is left out of the mean, too:
what is missing in the data says nothing about an encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import csr_array

from medbench.metrics.bootstrap import (
    INTERVAL,
    JACKKNIFE_LOGIT_INTERVAL,
    Bootstrap,
    Resample,
    bootstrap_blocks,
    interval,
    left_out_blocks,
    linear_draws,
)
from medbench.metrics.froc import RATES, sensitivities
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

IOUS_40_75: Floats = np.arange(40, 80, 5) / 100
"""Thresholds of the RSNA pneumonia challenge: 0.40, 0.45 ... 0.75."""

IOUS_COCO: Floats = np.arange(50, 100, 5) / 100
"""Thresholds of COCO: 0.50, 0.55 ... 0.95."""

MAX_BOXES = 100
"""Boxes of an image and class that count, best first (COCO)."""

MGCA_CONFIDENCE = 0.5
"""Least confidence of a box in `map_mgca` (MGCA, ssl_detector.py)."""

MGCA_NMS = 0.5
"""IoU over which `map_mgca` drops the worse of two boxes of a class (MGCA, ssl_detector.py)."""

FROC_IOU = 0.4
"""IoU from which a box of `froc` has found a true one: the least of the RSNA challenge. Own choice; FROC comes from
tasks that ask where a lesion is, not how large."""

OBJECT = "object"
"""Name of the class of boxes that have no name."""

_RECALLS: Floats = np.linspace(0, 1, 101)  # COCO's
_EPS = np.spacing(1)  # COCO adds it to the number of boxes


@dataclass(frozen=True)
class Detections:
    """True and predicted boxes of N images, in pixels of any frame that stretches each image as it likes.

    Attributes:
        truth: N arrays (G, 4) float64, x y width height.
        boxes: N arrays (P, 4) float64, x y width height.
        scores: N arrays (P,) float64, 0 to 1.
        true_labels: N arrays (G,) int64, positions in `classes`; None where there is one class.
        labels: N arrays (P,) int64 likewise.
        classes: names of the C classes.
    """

    truth: Sequence[Floats]
    boxes: Sequence[Floats]
    scores: Sequence[Floats]
    true_labels: Sequence[Ints] | None = None
    labels: Sequence[Ints] | None = None
    classes: tuple[str, ...] = (OBJECT,)

    def __len__(self) -> int:
        return len(self.truth)

    @classmethod
    def from_frame(cls, predictions: pd.DataFrame) -> "Detections":
        """Read predictions, one row an image.

        Args:
            predictions: `true_boxes` and `pred_boxes` (flat lists of 4 numbers a box), `pred_scores`, and names:
                `true_labels`, `pred_labels` (one a box) and `classes` (all that the detector knows, the same in every
                row). Without these three there is one class.

        Returns:
            The boxes; `classes` are those of the detector, then others that true boxes have, sorted.
        """
        truth = [_floats(v).reshape(-1, 4) for v in predictions["true_boxes"]]
        boxes = [_floats(v).reshape(-1, 4) for v in predictions["pred_boxes"]]
        scores = [_floats(v) for v in predictions["pred_scores"]]
        if "classes" not in predictions:
            return cls(truth, boxes, scores)
        known = _known(predictions)
        others = {name for names in predictions["true_labels"] for name in names} - set(known)
        classes = (*known, *sorted(others))
        place = {name: k for k, name in enumerate(classes)}
        true_labels, labels = (
            [np.array([place[name] for name in names], np.int64) for names in predictions[column]]
            for column in ("true_labels", "pred_labels")
        )
        return cls(truth, boxes, scores, true_labels, labels, classes)

    def select(self, keep: npt.NDArray[np.bool_]) -> "Detections":
        """The images where `keep` (N,) is True."""
        rows = np.flatnonzero(keep).tolist()
        truth, boxes, scores = ([part[i] for i in rows] for part in (self.truth, self.boxes, self.scores))
        true_labels, labels = (
            None if part is None else [part[i] for i in rows] for part in (self.true_labels, self.labels)
        )
        return Detections(truth, boxes, scores, true_labels, labels, self.classes)

    def labels_of(self, image: int) -> Ints:
        """(P,) classes of the predicted boxes of an image."""
        return np.zeros(len(self.scores[image]), np.int64) if self.labels is None else self.labels[image]

    def groups(self) -> tuple[Ints, Ints]:
        """Image and class of every true box, and of every predicted one, as one number: image x C + class.

        Returns:
            (all G,) and (all P,), image by image.
        """
        numbers = []
        for boxes, labels in ((self.truth, self.true_labels), (self.scores, self.labels)):
            counts = np.array([len(part) for part in boxes], np.int64)
            image = np.repeat(np.arange(len(boxes)), counts)
            label = np.concatenate([np.zeros(0, np.int64), *labels]) if labels is not None else 0
            numbers.append(image * len(self.classes) + label)
        return numbers[0], numbers[1]


def _floats(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)


def _known(predictions: pd.DataFrame) -> tuple[str, ...]:
    """The classes that the detector knows."""
    if "classes" not in predictions or not len(predictions):
        return (OBJECT,)
    return tuple(str(name) for name in predictions["classes"].iloc[0])


def iou(a: Floats, b: Floats) -> Floats:
    """Intersections over unions.

    Args:
        a: (P, 4) x y width height.
        b: (G, 4) likewise.

    Returns:
        (P, G), 0 where both boxes are empty.
    """
    return pair_iou(a[:, None], b[None])


def pair_iou(a: Floats, b: Floats) -> Floats:
    """Intersections over unions of boxes (..., 4), x y width height, in pairs; 0 for two empty ones."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    inside = (high - low).clip(min=0).prod(axis=-1)
    union = a[..., 2:].prod(axis=-1) + b[..., 2:].prod(axis=-1) - inside
    overlap: Floats = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return overlap


def coco_precision(detections: Detections, ious: Floats) -> Floats:
    """AP of each class at each threshold, by faster-coco-eval.

    Args:
        detections: of all images that count.
        ious: (T,) thresholds, rising.

    Returns:
        (C, T) float64, 0 to 1; NaN for a class without any true box, where precision and recall say nothing.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    c = len(detections.classes)
    true_groups, groups = detections.groups()
    truth, boxes, scores = (
        np.concatenate([np.zeros((0, 4)), *detections.truth]),
        np.concatenate([np.zeros((0, 4)), *detections.boxes]),
        np.concatenate([np.zeros(0), *detections.scores]),
    )
    wanted = np.isin(np.arange(c), true_groups % c)  # classes with a true box
    result = np.where(wanted[:, None], np.zeros(len(ious)), np.nan)  # (C, T)
    if not len(truth) or not len(boxes):
        return result
    images, labels = np.divmod(true_groups, c)
    annotations = [
        {"id": k, "image_id": i, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for k, (i, label, box) in enumerate(
            zip(images.tolist(), labels.tolist(), truth.tolist(), strict=True), start=1
        )
    ]
    images, labels = np.divmod(groups, c)
    found = [
        {"image_id": i, "category_id": label, "bbox": box, "score": score}
        for i, label, box, score in zip(
            images.tolist(), labels.tolist(), boxes.tolist(), scores.tolist(), strict=True
        )
    ]
    reference = COCO(
        {
            "images": [{"id": i} for i in range(len(detections))],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(detections.classes)],
        }
    )
    evaluation = COCOeval_faster(reference, reference.loadRes(found), iouType="bbox")
    evaluation.params.iouThrs = ious
    evaluation.params.maxDets = [MAX_BOXES]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, np.inf]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Floats = evaluation.eval["precision"]  # (T, 101 recalls, C, 1 area, 1 limit)
    for k in np.flatnonzero(wanted):
        result[k] = np.ascontiguousarray(precision[:, :, k, 0, 0]).mean(axis=1)
    return result


def mgca_rule(detections: Detections) -> tuple[Detections, npt.NDArray[np.bool_]]:
    """What `map_mgca` counts.

    Args:
        detections: all images.

    Returns:
        The same images with only the boxes that it keeps; and (N,) whether an image counts at all.
    """
    boxes, scores, labels = [], [], []
    for image, (candidates, confidence) in enumerate(zip(detections.boxes, detections.scores, strict=True)):
        label = detections.labels_of(image)
        order = np.argsort(-confidence, kind="stable")
        order = order[confidence[order] >= MGCA_CONFIDENCE]
        kept: list[int] = []
        overlaps = iou(candidates[order], candidates[order]) * (label[order][:, None] == label[order])
        for i in range(len(order)):
            if not (overlaps[i, kept] > MGCA_NMS).any():
                kept.append(i)
        boxes.append(candidates[order[kept]])
        scores.append(confidence[order[kept]])
        labels.append(label[order[kept]])
    filtered = Detections(detections.truth, boxes, scores, detections.true_labels, labels, detections.classes)
    counts = [len(t) > 0 and len(b) > 0 for t, b in zip(filtered.truth, filtered.boxes, strict=True)]
    return filtered, np.array(counts, dtype=np.bool_)


@dataclass(frozen=True)
class Matches:
    """The D boxes of one class on N images, best first, matched to true ones at T thresholds.

    Attributes:
        image: (D,) int64, the image of each box.
        scores: (D,) float64, falling.
        hits: (T, D) bool, whether the box found a true one that no better box had taken.
        overlap: (D,) float64, largest IoU with any true box of the class on its image, taken or not.
        truth: (N,) int64, true boxes of each image.
    """

    image: Ints
    scores: Floats
    hits: npt.NDArray[np.bool_]
    overlap: Floats
    truth: Ints


def match(detections: Detections, ious: Floats) -> tuple[Matches, ...]:
    """COCO's greedy matching: each box, best first, takes the free true box of its class that it overlaps most.

    Args:
        detections: of all images.
        ious: (T,) least overlaps.

    Returns:
        For each class its boxes on all images, by falling score (equal scores: as they come).
    """
    n, c = len(detections), len(detections.classes)
    true_group, group = detections.groups()
    scores = np.concatenate([np.zeros(0), *detections.scores])
    order = np.lexsort((-scores, group))  # by image and class, the best first; stable
    starts = np.searchsorted(group[order], group[order])  # of the box's image and class
    order = order[np.arange(len(order)) - starts < MAX_BOXES]
    group, scores = group[order], scores[order]
    boxes = np.concatenate([np.zeros((0, 4)), *detections.boxes])[order]
    by_group = np.argsort(true_group, kind="stable")
    true_group = true_group[by_group]
    truth = np.concatenate([np.zeros((0, 4)), *detections.truth])[by_group]

    # Pairs (box, true box) of one image and class, box by box.
    first, last = (np.searchsorted(true_group, group, side=side) for side in ("left", "right"))
    box = np.repeat(np.arange(len(group)), last - first)
    true = np.arange(len(box)) - np.repeat(np.cumsum(last - first) - last, last - first)
    overlaps = pair_iou(boxes[box], truth[true])
    overlap = np.zeros(len(group))
    np.maximum.at(overlap, box, overlaps)
    near = overlaps >= ious.min()  # the others hit nothing
    hits = _match_pairs(group, box[near], true[near], overlaps[near], len(truth), ious)

    matches = []
    for k in range(c):
        own = np.flatnonzero(group % c == k)
        own = own[np.argsort(-scores[own], kind="stable")]
        counts = np.bincount(true_group[true_group % c == k] // c, minlength=n)
        matches.append(Matches(group[own] // c, scores[own], hits[:, own], overlap[own], counts))
    return tuple(matches)


def _match_pairs(
    group: Ints, box: Ints, true: Ints, overlaps: Floats, truths: int, ious: Floats
) -> npt.NDArray[np.bool_]:
    """Hits (T, D) of D boxes, which are ordered by group and, in a group, by falling score.

    Args:
        group: (D,) image and class of a box.
        box: (M,) first of a pair, rising; only these boxes can hit.
        true: (M,) second of a pair, of `truths`.
        overlaps: (M,) IoU of a pair.
        truths: number of true boxes.
        ious: (T,) least overlaps.
    """
    hits = np.zeros((len(ious), len(group)), np.bool_)
    free = np.ones((len(ious), truths), np.bool_)
    boxes, start, count = np.unique(box, return_index=True, return_counts=True)
    own = group[boxes]
    turn = np.arange(len(boxes)) - np.searchsorted(own, own)
    # The boxes of an image take their turns; what has the same turn belongs to different images or classes.
    for now in range(turn.max(initial=-1) + 1):
        at = np.flatnonzero(turn == now)  # (K,)
        offers = start[at][:, None] + np.arange(count[at].max())  # (K, most true boxes that one is near to)
        there = offers < (start[at] + count[at])[:, None]
        offers = offers.clip(max=len(box) - 1)
        overlap = np.where(there, overlaps[offers], -1.0)
        offer = np.where(free[:, true[offers]] & (overlap >= ious[:, None, None]), overlap, -1.0)  # (T, K, .)
        best = offer.shape[2] - 1 - offer[:, :, ::-1].argmax(axis=2)  # of equal ones the last, as COCO
        level, which = np.nonzero(offer.max(axis=2) >= 0)
        hits[level, boxes[at[which]]] = True
        free[level, true[offers[which, best[level, which]]]] = False
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
    columns = np.ascontiguousarray(weights.T, dtype=np.float64)  # (N, R): what is summed lies apart
    total = matches.truth @ columns  # (R,)
    result = np.full((len(total), thresholds), np.nan)
    defined = np.flatnonzero(total > 0)
    columns, total = columns[:, defined], total[defined]
    # Least number of true boxes with which each of the 101 recalls is reached, (101, R). What is rounded is the recall
    # itself, as COCO compares it.
    needed = np.ceil(_RECALLS[:, None] * total)
    needed -= (needed - 1) / total >= _RECALLS[:, None]
    needed += needed / total < _RECALLS[:, None]
    # Boxes fall into segments, each of which ends at a box that hits at some threshold (what follows the last
    # hit never matters): the weights of all boxes up to a hit are then cumulative sums over few segments.
    ends = np.flatnonzero(matches.hits.any(axis=0))  # (K,)
    segment = np.searchsorted(ends, np.arange(boxes))
    inside = segment < len(ends)
    members = csr_array(  # (K, N) boxes of each image in each segment
        (np.ones(int(inside.sum())), (segment[inside], matches.image[inside])), (len(ends), len(columns))
    )
    found = np.cumsum(np.asarray(members @ columns), axis=0)  # (K, R); whole numbers, so exact
    # All draws are searched at once: each has whole numbers of its own, beyond all of the draw before.
    apart = np.arange(len(total)) * (total.max(initial=0.0) + 2)  # (R,)
    asked = (needed + apart).T.ravel()
    for t in range(thresholds):
        hit = np.flatnonzero(matches.hits[t, ends])
        true = np.cumsum(columns[matches.image[ends[hit]]], axis=0)  # (H, R)
        best = np.zeros((len(hit) + 1, len(total)))  # behind the last hit nothing is found
        np.divide(true, found[hit] + _EPS, out=best[:-1])
        np.maximum.accumulate(best[::-1], axis=0, out=best[::-1])  # at this recall or beyond
        places = (true + apart).T.ravel().searchsorted(asked).reshape(-1, len(_RECALLS))  # in H a draw
        places += np.arange(len(total))[:, None]  # in H + 1 a draw
        result[defined, t] = best.T.ravel()[places].mean(axis=1)
    return result


def average_precision(detections: Detections, ious: Floats) -> Floats:
    """The same as `coco_precision` by our own matching, several times faster: for choosing on validation.

    Args:
        detections: of all images that count.
        ious: (T,) thresholds.

    Returns:
        (C, T) float64, NaN for a class without any true box.
    """
    once: npt.NDArray[np.int32] = np.ones((1, len(detections)), np.int32)
    return np.concatenate([weighted_average_precision(m, once) for m in match(detections, ious)])


def mean_precision(precision: Floats) -> float:
    """(C, T) -> the mean over thresholds, then over the classes that have one; NaN if there is none."""
    return float(_mean_of_defined(np.array([row.mean() for row in precision])[None])[0])


def _mean_of_defined(values: Floats) -> Floats:
    """(R, C) -> (R,) means over what is not NaN; NaN where nothing is."""
    defined = ~np.isnan(values)
    total, number = np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1)
    mean: Floats = np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)
    return mean


def detection_metrics(predictions: pd.DataFrame, primary: str = "map_40_75") -> list[Metric]:
    """Average precisions and FROC of a test set, with 95 % intervals.

    Args:
        predictions: one row an image with the columns `patient` and those of `Detections.from_frame`.
        primary: name of the metric that comes first.

    Returns:
        `map_40_75`, `map_mgca`, `map_coco`, `froc_05`, `froc_1`, `froc_2` and `froc`; where there are several classes,
        each with the value of every class. Without any true box none is defined; `map_mgca` also where no image counts.
        `reason` then says so.
    """
    every = Detections.from_frame(predictions)
    filtered, counts = mgca_rule(every)
    counted = filtered.select(counts)
    ious = np.union1d(IOUS_40_75, IOUS_COCO)
    rows = {"map_40_75": np.isin(ious, IOUS_40_75), "map_coco": np.isin(ious, IOUS_COCO)}
    precision, precision_mgca = coco_precision(every, ious), coco_precision(counted, IOUS_40_75)
    values = {
        "map_40_75": [row[rows["map_40_75"]].mean() for row in precision],
        "map_mgca": [row.mean() for row in precision_mgca],
        "map_coco": [row[rows["map_coco"]].mean() for row in precision],
    }
    froc_names = [f"froc_{str(rate).removesuffix('.0').replace('.', '')}" for rate in RATES]

    matches, matches_mgca = match(every, ious), match(counted, IOUS_40_75)
    froc_hits = int(np.flatnonzero(ious == FROC_IOU)[0])

    def froc(weights: npt.NDArray[np.int32]) -> list[Floats]:
        """Of each class (R, rates)."""
        return [
            sensitivities(m.image, m.scores, m.hits[froc_hits], m.overlap < FROC_IOU, m.truth, weights)
            for m in matches
        ]

    once = np.stack([rates[0] for rates in froc(np.ones((1, len(every)), np.int32))])  # (C, rates)
    values |= {name: list(column) for name, column in zip(froc_names, once.T, strict=True)}
    values["froc"] = [rates.mean() for rates in once]

    def precisions(weights: npt.NDArray[np.int32]) -> dict[str, Floats]:
        """By name (R, C)."""
        drawn = [weighted_average_precision(m, weights) for m in matches]  # C times (R, T)
        drawn_mgca = [weighted_average_precision(m, weights[:, counts]) for m in matches_mgca]
        found = {name: np.stack([d[:, at].mean(axis=1) for d in drawn], axis=1) for name, at in rows.items()}
        return found | {"map_mgca": np.stack([d.mean(axis=1) for d in drawn_mgca], axis=1)}

    draws: dict[str, list[Floats]] = {name: [] for name in values}  # of each block (R, C)
    positive = np.array([len(boxes) > 0 for boxes in every.truth], np.bool_)
    patients = predictions["patient"].astype(str).tolist()
    left_out: dict[str, list[Floats]] = {name: [] for name in (*rows, "map_mgca")}
    for weights in left_out_blocks(patients, positive):
        for name, found in precisions(weights).items():
            left_out[name].append(found)
    for weights in bootstrap_blocks(patients, positive):
        drawn_froc = froc(weights)
        for name, found in precisions(weights).items():
            draws[name].append(found)
        for k, name in enumerate(froc_names):
            draws[name].append(np.stack([d[:, k] for d in drawn_froc], axis=1))
        draws["froc"].append(np.stack([d.mean(axis=1) for d in drawn_froc], axis=1))

    known = np.isin(every.classes, _known(predictions))
    resample = Resample.of(patients, positive)
    metrics = []
    for name in ("map_40_75", "map_mgca", "map_coco", *froc_names, "froc"):
        n = len(counted) if name == "map_mgca" else len(every)
        by_class = np.array(values[name])
        whole = np.concatenate(draws[name])
        if name in left_out:
            whole = linear_draws(whole, np.concatenate(left_out[name]), patients, positive)
        metrics.append(_metric(name, by_class, whole, resample, n, every.classes, known))
    return sorted(metrics, key=lambda metric: metric.name != primary)


_NOTHING = {"map_mgca": "no image has both a true box and a box with a confidence of at least 0.5"}


def _metric(
    name: str,
    by_class: Floats,
    draws: Floats,
    resample: Resample,
    n: int,
    classes: tuple[str, ...],
    known: npt.NDArray[np.bool_],
) -> Metric:
    """The mean over classes.

    Args:
        name: of the metric.
        by_class: (C,) values, NaN where a class has no true box.
        draws: (D, C) of the bootstrap.
        resample: what was drawn.
        n: images that count.
        classes: C names.
        known: (C,) whether the detector knows the class.
    """
    kind = JACKKNIFE_LOGIT_INTERVAL if name.startswith("map_") else INTERVAL
    nothing = _NOTHING.get(name, "no image has a true box")
    empty = np.isnan(by_class)
    by_class = np.where(known, by_class, np.nan)
    per_class, reasons = {}, []
    if len(classes) > 1:
        per_class = {c: None if np.isnan(v) else float(v) for c, v in zip(classes, by_class, strict=True)}
        for lacking, why in ((~known, "the training part has no box of"), (known & empty, "no true box of")):
            if lacking.any():
                names = ", ".join(c for c, lacks in zip(classes, lacking, strict=True) if lacks)
                reasons.append(f"{why} {names}")
    defined = ~np.isnan(by_class)
    if not defined.any():
        reason = nothing if empty.all() else "; ".join(reasons)
        return Metric(name, None, None, None, kind, n, per_class=per_class, reason=reason)
    if reasons:
        reasons = [f"mean over {defined.sum()} of {len(classes)} classes: {'; '.join(reasons)}"]
    value = float(by_class[defined].mean())
    drawn = _mean_of_defined(draws[:, defined])
    low, high = interval(kind, value, drawn, resample.units)
    if low is None:
        one = kind == JACKKNIFE_LOGIT_INTERVAL and resample.units < 2
        why = "one patient in a stratum" if one else "not defined in most draws of the bootstrap"
        reasons.append(f"no interval: {why}")
    return Metric(
        name=name,
        value=value,
        low=low,
        high=high,
        interval=kind,
        n=n,
        per_class=per_class,
        reason="; ".join(reasons),
        bootstrap=Bootstrap(drawn, resample),
    )
