"""AUROC and average precision with bootstrap intervals, one number a class and their mean.

The scores are sorted once; a bootstrap draw only gives the samples other weights, so 2,000 draws are a few
array operations and not 2,000 calls.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.metrics.bootstrap import INTERVAL, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Counted = Callable[[Floats, Floats], Floats]
"""(D, G) weight of positives and of negatives at each score, ascending -> (D,) metric, NaN if undefined."""


def auroc(truth: npt.NDArray[np.bool_], score: Floats) -> float | None:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counting half.

    Args:
        truth: (N,) True for positives.
        score: (N,) higher means positive; any scale.

    Returns:
        0 to 1, or None where only one class is present.

    Raises:
        ValueError: shapes differ or a score is not finite.
    """
    return _whole(_auroc, truth, score)


def average_precision(truth: npt.NDArray[np.bool_], score: Floats) -> float | None:
    """Area under the precision-recall steps, without interpolation; tied scores are one step.

    Args:
        truth: (N,) True for positives.
        score: (N,) higher means positive; any scale.

    Returns:
        0 to 1, or None where only one class is present: without positives it has no meaning, without
        negatives it is 1 for any scores.

    Raises:
        ValueError: shapes differ or a score is not finite.
    """
    return _whole(_average_precision, truth, score)


def classification_metrics(
    predictions: pd.DataFrame, classes: Sequence[str], *, macro: bool
) -> tuple[Metric, ...]:
    """AUROC and average precision of predictions, with intervals.

    `auroc` and `average_precision` are those of one class. `macro_auroc` and `macro_average_precision` are plain
    means over the classes; such a mean is None when it is for one of the classes, since a mean over the others would
    be another quantity under the same name.

    Args:
        predictions: one row a sample with `patient`, `target_<class>` (1, 0, or NaN where not known: that
            sample does not count for that class) and `score_<class>` (finite, or NaN throughout where no
            classifier could be trained: that class is None).
        classes: names of the classes.
        macro: whether it is means that are asked for; False needs a single class.

    Returns:
        AUROC first. `n` counts the samples with a known label.

    Raises:
        ValueError: a score is missing for some samples only, a label is not 0, 1 or NaN, none is known, or there
            are several classes and no mean is asked for.
    """
    if not macro and len(classes) != 1:
        raise ValueError(f"metrics of one class, or means over them? classes are {', '.join(classes)}")
    target = predictions[[f"target_{c}" for c in classes]].to_numpy(np.float64)  # (N, C)
    score = predictions[[f"score_{c}" for c in classes]].to_numpy(np.float64)
    known = ~np.isnan(target)
    if not np.isin(target[known], (0.0, 1.0)).all():
        raise ValueError(f"a target is not 0, 1 or NaN: {np.unique(target[known])[:5]}")
    kept = known.any(axis=1)
    if not kept.any():
        raise ValueError("no sample has a known label")
    target, score, known = target[kept], score[kept], known[kept]
    patients = predictions["patient"].to_numpy(dtype=str)[kept].tolist()
    trained = [k for k in range(len(classes)) if not np.isnan(score[:, k]).all()]

    values: dict[str, list[float | None]] = {name: [None] * len(classes) for name in _METRICS}
    draws: dict[str, list[Floats]] = {name: [] for name in _METRICS}
    for k in trained:
        rows = known[:, k]
        for name, metric in _METRICS.items():
            values[name][k] = _whole(metric, target[rows, k] == 1, score[rows, k])
    # Both metrics are defined for the same classes: those with positives and negatives.
    defined = None not in values["auroc"]
    if defined:
        for weights in bootstrap_blocks(patients, (target == 1).any(axis=1)):
            ranked = [_by_score(target[m, k] == 1, score[m, k], weights[:, m]) for k, m in enumerate(known.T)]
            for name, metric in _METRICS.items():
                draws[name].append(
                    np.mean([metric(*counts) for counts in ranked], axis=0)
                )  # NaN in one, NaN in all

    metrics = []
    for name in _METRICS:
        value = float(np.mean([v for v in values[name] if v is not None])) if defined else None
        low, high = percentile_interval(np.concatenate(draws[name])) if defined else (None, None)
        metrics.append(
            Metric(
                name=f"macro_{name}" if macro else name,
                value=value,
                low=low,
                high=high,
                interval=INTERVAL,
                n=len(target),
                per_class=dict(zip(classes, values[name], strict=True)) if macro else {},
            )
        )
    return tuple(metrics)


def _auroc(positive: Floats, negative: Floats) -> Floats:
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    # Counts and halves of counts: every sum here is exact, so equal rankings give equal numbers.
    won = (positive * (below + negative / 2)).sum(axis=1)
    out: Floats = np.full(len(pairs), np.nan)
    np.divide(won, pairs, out=out, where=pairs > 0)
    return out


def _average_precision(positive: Floats, negative: Floats) -> Floats:
    positive, negative = positive[:, ::-1], negative[:, ::-1]  # from the highest score down
    found = np.cumsum(positive, axis=1)
    named = found + np.cumsum(negative, axis=1)
    precision = np.divide(found, named, out=np.zeros_like(found), where=named > 0)
    total = positive.sum(axis=1)
    out: Floats = np.full(len(total), np.nan)
    np.divide((positive * precision).sum(axis=1), total, out=out, where=total * negative.sum(axis=1) > 0)
    return out


_METRICS: dict[str, Counted] = {"auroc": _auroc, "average_precision": _average_precision}


def _whole(metric: Counted, truth: npt.NDArray[np.bool_], score: Floats) -> float | None:
    """The metric with every sample counted once; None where it is not defined."""
    value = metric(*_by_score(truth, score, np.ones((1, len(truth)), np.int32)))[0]
    return None if np.isnan(value) else float(value)


def _by_score(
    truth: npt.NDArray[np.bool_], score: Floats, weights: npt.NDArray[np.int32]
) -> tuple[Floats, Floats]:
    """Weight of positives and of negatives at each distinct score, ascending: two (D, G) float64."""
    if truth.ndim != 1 or truth.shape != score.shape or weights.shape[1:] != truth.shape:
        raise ValueError(
            f"one truth, score and weight a sample; shapes are {truth.shape}, {score.shape}, {weights.shape}"
        )
    if not np.isfinite(score).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(score))} of {len(score)} scores are not finite")
    if len(score) == 0:
        return np.zeros((len(weights), 0)), np.zeros((len(weights), 0))
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))  # where a new score begins
    ordered = weights[:, order].astype(np.float64)
    everyone = np.add.reduceat(ordered, first, axis=1)  # (D, N) -> (D, G)
    positive = np.add.reduceat(ordered * truth[order], first, axis=1)
    return positive, everyone - positive
