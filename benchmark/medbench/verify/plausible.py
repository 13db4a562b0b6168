"""Numbers that no test set and no model can give, seen without truth."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import pandas as pd

from medbench.records import MetricValue, Record

SHARES: Final = (
    *("auroc", "average_precision", "f1", "accuracy", "brier", "ece", "map", "dice", "iou"),
    *("_p_at_", "_r_at_"),
)
"""What stands in the names of metrics that are shares: between 0 and 1."""

ROUNDING: Final = 1e-9


def implausible_metrics(record: Record) -> Iterator[str]:
    """What the metrics of a record say against themselves."""
    names = [metric.name for metric in record.metrics]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"{name}: recorded {names.count(name)} times"
    if record.primary is None:
        yield f"its primary metric {record.primary_metric} is not among its metrics"
    for metric in record.metrics:
        yield from _metric(metric, record.counts.test)


def _metric(metric: MetricValue, test: int) -> Iterator[str]:
    numbers = {"value": metric.value, **metric.per_class}  # an interval less a bias may pass the ends
    known = {name: number for name, number in numbers.items() if number is not None}
    if any(part in metric.name for part in SHARES):
        for name, number in known.items():
            if not -ROUNDING <= number <= 1 + ROUNDING:
                yield f"{metric.name}: {name} {number} is no share between 0 and 1"
    if metric.low is not None and metric.high is not None and metric.low > metric.high:
        yield f"{metric.name}: low {metric.low} is above high {metric.high}"
    if metric.n > test:
        yield f"{metric.name}: n {metric.n}, the test part has {test}"
    classes = [number for number in metric.per_class.values() if number is not None]
    if metric.name.startswith("macro_") and classes and metric.value is not None:
        low, high = min(classes), max(classes)
        if not low - ROUNDING <= metric.value <= high + ROUNDING:
            yield f"{metric.name}: value {metric.value} is outside of its classes, {low} to {high}"


def undeserved(record: Record, predictions: pd.DataFrame) -> Iterator[str]:
    """AUROCs of classes of which all films have one score; that orders nothing, so it is one half."""
    classes = [
        str(name).removeprefix("score_") for name in predictions.columns if str(name).startswith("score_")
    ]
    flat = [
        name
        for name in classes
        if (predictions[f"score_{name}"] == predictions[f"score_{name}"].iloc[0]).all()
    ]
    for metric in record.metrics:
        found = dict(metric.per_class)
        if metric.name == "auroc" and len(classes) == 1:
            found[classes[0]] = metric.value
        for name in flat if metric.name in ("auroc", "macro_auroc") else ():
            if found.get(name) not in (None, 0.5):
                yield f"{metric.name}: {found[name]} of {name}, which has one score for all films"


def implausible(predictions: pd.DataFrame) -> Iterator[str]:
    """What scores, thresholds and boxes of predictions can not be."""
    for name in map(str, predictions.columns):
        column = predictions[name]
        if name.startswith("score_"):
            values = pd.to_numeric(column, errors="coerce")
            if wrong := int((~np.isfinite(values)).sum()):
                yield f"predictions: {wrong} of {len(column)} values of {name} are not finite"
        elif name.startswith("threshold_") and (several := len(column.unique())) > 1:
            yield f"predictions: {name} has {several} values, expected one for all rows"
    if {"pred_boxes", "pred_scores"} <= set(predictions.columns):
        yield from _boxes(predictions)


def _boxes(predictions: pd.DataFrame) -> Iterator[str]:
    boxes = [np.asarray(row, np.float64) for row in predictions["pred_boxes"]]
    scores = [np.asarray(row, np.float64) for row in predictions["pred_scores"]]
    if any(len(one) != 4 * len(other) for one, other in zip(boxes, scores, strict=True)):
        yield "predictions: a film has not one score a box"
        return
    found = np.concatenate([*boxes, np.zeros(0)]).reshape(-1, 4)  # x y width height
    score = np.concatenate([*scores, np.zeros(0)])
    if wrong := int(
        (~np.isfinite(found).all(1) | (found[:, :2] < -1).any(1) | (found[:, 2:] < 0).any(1)).sum()
    ):
        yield f"predictions: {wrong} of {len(found)} boxes are outside of their film, or no boxes"
    if wrong := int((~((score >= 0) & (score <= 1))).sum()):
        yield f"predictions: {wrong} of {len(score)} scores of boxes are no share between 0 and 1"
