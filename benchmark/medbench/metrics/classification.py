"""Metrics of classification with bootstrap intervals, one number a class and their mean.

Of every class: `auroc`, `average_precision`, which ask for the order of the scores alone, and `f1` and
`balanced_accuracy` (mean of sensitivity and specificity), which ask which films are named. A film is named from a
threshold up, which the protocol chose on validation data (`f1_threshold`) and stored beside the scores, so that no
test label has a say in it and the scores stay the log-odds that calibration needs. Of classes that exclude each other
the one with the highest score is named, no threshold is needed, and there is `accuracy`, the share of films that are
named right.

For AUROC and average precision the scores are sorted once; a bootstrap draw only gives the samples other weights, so
2,000 draws are a few array operations and not 2,000 calls.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse

from medbench.metrics.bootstrap import (
    INTERVAL,
    LOGIT_INTERVAL,
    Bootstrap,
    Resample,
    bootstrap_blocks,
    interval,
)
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Counted = Callable[[Floats, Floats], Floats]
"""Weights of positives (P, D) and negatives (2 P + 1, D), see `_ranking` -> (D,) metric, NaN where it is undefined."""


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


def macro_auroc(target: Floats, score: Floats) -> float | None:
    """Mean AUROC over the classes that have positives and negatives, without an interval; for validation data.

    Args:
        target: (N, C) 1, 0, or NaN where not known: that sample does not count for that class.
        score: (N, C) higher means positive.

    Returns:
        0 to 1, or None if no class has both.

    Raises:
        ValueError: a score that counts is not finite.
    """
    known = ~np.isnan(target)
    areas = [auroc(t[own] == 1, s[own]) for t, s, own in zip(target.T, score.T, known.T, strict=True)]
    there = [area for area in areas if area is not None]
    return float(np.mean(there)) if there else None


def accuracy(target: Floats, score: Floats) -> float | None:
    """Share of samples whose class has the highest score, the first one of equals, without an interval.

    Args:
        target: (N, C) 1 for the class of the sample and else 0, or NaN where not known: that sample does not count.
        score: (N, C) higher means likelier.

    Returns:
        0 to 1, or None if no sample's class is known.
    """
    known = ~np.isnan(target).any(axis=1)
    if not known.any():
        return None
    return float((score[known].argmax(axis=1) == target[known].argmax(axis=1)).mean())


def f1_threshold(truth: npt.NDArray[np.bool_], score: Floats) -> float:
    """The score from which to name a film so that F1 is highest; for validation data.

    Args:
        truth: (N,) True for positives.
        score: (N,) finite; higher means positive.

    Returns:
        Halfway between two scores that follow each other, or one below the lowest. Of equally good ones the highest;
        NaN where nothing can be chosen: without a positive, or if all films have one score.

    Raises:
        ValueError: shapes differ or a score is not finite.
    """
    if truth.shape != score.shape or not np.isfinite(score).all():
        raise ValueError(f"one truth and finite score a film; shapes are {truth.shape}, {score.shape}")
    levels, level = np.unique(score, return_inverse=True)
    if not truth.any() or len(levels) == 1:
        return float("nan")
    positive = np.bincount(level, weights=truth)
    negative = np.bincount(level, weights=~truth)
    hit = np.cumsum(positive[::-1])[::-1]  # named from this level up
    named = hit + np.cumsum(negative[::-1])[::-1]
    best = len(levels) - 1 - int(np.argmax((2 * hit / (named + positive.sum()))[::-1]))
    return float(levels[best] - 1 if best == 0 else (levels[best - 1] + levels[best]) / 2)


def classification_metrics(
    predictions: pd.DataFrame, classes: Sequence[str], *, macro: bool, exclusive: bool = False
) -> tuple[Metric, ...]:
    """All metrics of this file for these predictions, with intervals.

    `auroc`, `average_precision`, `f1` and `balanced_accuracy` are those of one class. With `macro_` before the name
    they are plain means over the classes. `accuracy` comes first where classes exclude each other; there
    `balanced_accuracy` is the mean over classes of the share of their films that is named right, with these shares as
    `per_class`.

    Means are over the classes that the test labels define the metric for: without a positive (or for most metrics a
    negative) test film nothing can be measured, whatever the method, so all methods are measured over the same classes.
    `reason` names those that are left out, and classes whose films all have one score, as those have that a label
    fraction says nothing about: their AUROC is 0.5. What asks for a threshold is not measured for a
    class for which none could be chosen.

    Args:
        predictions: one row a sample with `patient`, `target_<class>` (1, 0, or NaN where not known: that
            sample does not count for that class), `score_<class>` (finite)
            and, unless classes exclude each other, `threshold_<class>` (one value throughout; without it, or if it is
            NaN, the metrics that ask which films are named are None).
        classes: names of the classes.
        macro: whether it is means that are asked for; False needs a single class.
        exclusive: whether exactly one class is 1 for every film.

    Returns:
        AUROC first; of classes that exclude each other, accuracy. `n` counts the samples with a known label; without
        any, no metric has a value.

    Raises:
        ValueError: a score is missing, a label is not 0, 1 or NaN, there are several classes and no mean is asked for,
            classes exclude each other and a film has not exactly one, or a threshold is not the same for all films.
    """
    if not macro and len(classes) != 1:
        raise ValueError(f"metrics of one class, or means over them? classes are {', '.join(classes)}")
    table = _Table.of(predictions, classes, exclusive)
    names = [*_ORDERED, *(() if exclusive else _NAMED)]
    each = [table.one(k) for k in range(len(classes))]
    alone = [one.values() for one in each]
    values = {name: [own[name] for own in alone] for name in names}
    draws: dict[str, list[Floats]] = {name: [] for name in (*names, *_CONFUSED)}
    # Accuracy has no classes to be a mean of, so these two come apart from the others.
    confused = table.confused() if exclusive else None
    positive = (table.target == 1).any(axis=1)
    resample = Resample.of(table.patients, positive)
    if table.patients:
        for weights in bootstrap_blocks(table.patients, positive):
            columns = np.ascontiguousarray(weights.T, dtype=np.float64)
            drawn = [one.drawn(columns) for one in each]
            for name in names:
                counted = [
                    own[name] for own, value in zip(drawn, values[name], strict=True) if value is not None
                ]
                if counted:
                    draws[name].append(np.mean(counted, axis=0))  # NaN in one, NaN in all
            if confused is not None:
                counts = confused.count(weights)
                for name, metric in _CONFUSED.items():
                    there = ~np.isnan(metric(confused.once())[0])
                    draws[name].append(np.mean(metric(counts)[:, there], axis=1))

    def metric_of(name: str, title: str, found: Sequence[float | None]) -> Metric:
        there = [value for value in found if value is not None]
        value = float(np.mean(there)) if there else None
        own = table.rarest(resample, found) if macro and len(found) == len(classes) else resample
        bootstrap = Bootstrap(np.concatenate(draws[name]), own) if there else None
        kind = LOGIT_INTERVAL if name == "auroc" else INTERVAL
        low, high = (None, None) if bootstrap is None else interval(kind, value, bootstrap.draws, own.units)
        return Metric(
            name=title,
            value=value,
            low=low,
            high=high,
            interval=kind,
            n=len(table.target),
            per_class=dict(zip(classes, found, strict=True)) if macro and len(found) == len(classes) else {},
            reason=table.reason(name, found),
            bootstrap=bootstrap,
        )

    metrics = [metric_of(name, f"macro_{name}" if macro else name, values[name]) for name in names]
    if confused is None:
        return tuple(metrics)
    first = []
    for name, metric in _CONFUSED.items():
        found = [None if np.isnan(v) else float(v) for v in metric(confused.once())[0]]
        first.append(metric_of(name, "macro_f1" if name == "f1" else name, found))
    return (first[0], *metrics, *first[1:])


@dataclass(frozen=True)
class _Confused:
    """Samples whose class is known, by their class and the one they are named.

    Attributes:
        cell: (N,) class * C + named, -1 where the class is not known.
        classes: C.
    """

    cell: npt.NDArray[np.int64]
    classes: int

    def count(self, weights: npt.NDArray[np.int32]) -> Floats:
        """Weights (D, N) -> (D, C, C), class by named."""
        inside = self.cell[:, None] == np.arange(self.classes**2)  # (N, C * C)
        counts: Floats = weights @ inside.astype(np.float64)
        return counts.reshape(len(weights), self.classes, self.classes)

    def once(self) -> Floats:
        """As `count` with every sample counted once."""
        return self.count(np.ones((1, len(self.cell)), np.int32))


@dataclass(frozen=True)
class _Table:
    """Predictions of the N samples with a known label.

    Attributes:
        classes: names of the C classes.
        exclusive: whether they exclude each other.
        patients: of the samples.
        target: (N, C) 1, 0 or NaN.
        score: (N, C).
        threshold: (C,), NaN where there is none.
        known: (N, C) where the label is known.
    """

    classes: Sequence[str]
    exclusive: bool
    patients: list[str]
    target: Floats
    score: Floats
    threshold: Floats
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, predictions: pd.DataFrame, classes: Sequence[str], exclusive: bool) -> "_Table":
        target = predictions[[f"target_{c}" for c in classes]].to_numpy(np.float64)  # (N, C)
        score = predictions[[f"score_{c}" for c in classes]].to_numpy(np.float64)
        known = ~np.isnan(target)
        if not np.isin(target[known], (0.0, 1.0)).all():
            raise ValueError(f"a target is not 0, 1 or NaN: {np.unique(target[known])[:5]}")
        kept = known.any(axis=1)
        if exclusive and (wrong := np.count_nonzero((target[kept] == 1).sum(axis=1) != 1)):
            raise ValueError(f"{wrong} of {np.count_nonzero(kept)} samples have not exactly one class")
        threshold = np.full(len(classes), np.nan)
        for k, name in enumerate(classes):
            if not exclusive and f"threshold_{name}" in predictions:
                given = predictions[f"threshold_{name}"].to_numpy(np.float64)
                if not np.array_equal(given, np.full_like(given, given[0]), equal_nan=True):
                    raise ValueError(f"the threshold of {name} is not one number for all samples")
                threshold[k] = given[0]
        target, score, known = target[kept], score[kept], known[kept]
        for k, name in enumerate(classes):
            bad = np.count_nonzero(~np.isfinite(score[known[:, k], k]))
            if bad:
                raise ValueError(f"{bad} of {np.count_nonzero(known[:, k])} scores of {name} are not finite")
        patients = predictions["patient"].to_numpy(dtype=str)[kept].tolist()
        return cls(classes, exclusive, patients, target, score, threshold, known)

    def one(self, k: int) -> "_OneClass":
        """Class k by itself."""
        rows = np.flatnonzero(self.known[:, k])
        truth, score = self.target[rows, k] == 1, self.score[rows, k]
        cells = np.zeros((4, len(self.target)))
        if not np.isnan(self.threshold[k]):
            named = score >= self.threshold[k]
            cells[:, rows] = [truth & named, truth & ~named, ~truth & named, ~truth & ~named]
        return _OneClass(_ranking(truth, score, rows, len(self.target)), cells)

    def rarest(self, resample: Resample, values: Sequence[float | None]) -> Resample:
        """The resample with what the rarest class that counts in a mean has.

        Args:
            resample: of all samples.
            values: of each class, None where it does not count.
        """
        patients, units, positives = np.asarray(self.patients), [], []
        for k, value in enumerate(values):
            if value is not None:
                with_positive, with_negative = (patients[self.target[:, k] == kind] for kind in (1, 0))
                units.append(min(len(set(with_positive)), len(set(with_negative))))
                positives.append(len(with_positive))
        if not units:
            return resample
        return replace(resample, class_units=min(units), class_positives=min(positives))

    def confused(self) -> _Confused:
        """By class and the class with the highest score, the first one of equals."""
        named = np.argmax(self.score, axis=1)
        return _Confused(np.argmax(self.target == 1, axis=1) * len(self.classes) + named, len(self.classes))

    def reason(self, name: str, values: Sequence[float | None]) -> str:
        """Why a metric has no value, or what has to be said of it."""
        said = []
        for k, label in enumerate(self.classes):
            truth = self.target[self.known[:, k], k] == 1
            value = values[k] if len(values) == len(self.classes) else None
            left = " (left out of the mean)" if any(v is not None for v in values) else ""
            if not len(truth):
                said.append(f"{label}: no known label{left}")
            elif len(values) != len(self.classes):
                continue
            elif name in _NAMED and np.isnan(self.threshold[k]) and not self.exclusive:
                said.append(f"{label}: no threshold was chosen{left}")
            elif value is None:
                said.append(
                    f"{label}: {int(truth.sum())} positives and {int((~truth).sum())} negatives{left}"
                )
            elif name in _ORDERED and len(np.unique(self.score[self.known[:, k], k])) == 1:
                said.append(f"{label}: one score for all films")
        return "; ".join(said)


@dataclass(frozen=True)
class _OneClass:
    """What a draw, which is a weight for each of N samples, has to be multiplied with to score one class.

    Attributes:
        ranking: see `_ranking`.
        cells: (4, N) 1 where a sample is rightly named, missed, wrongly named, rightly not named; 0 throughout without
            a threshold.
    """

    ranking: sparse.csr_array
    cells: Floats

    def drawn(self, columns: Floats) -> dict[str, Floats]:
        """The metrics in each draw, weights (N, D) -> (D,), NaN where they are not defined."""
        found = {name: metric(*_split(self.ranking @ columns)) for name, metric in _ORDERED.items()}
        cells = self.cells @ columns
        return found | {name: metric(*cells) for name, metric in _NAMED.items()}

    def values(self) -> dict[str, float | None]:
        """The metrics with every sample counted once; None where they are not defined."""
        found = self.drawn(np.ones((self.cells.shape[1], 1)))
        return {name: None if np.isnan(value[0]) else float(value[0]) for name, value in found.items()}


def _ranking(
    truth: npt.NDArray[np.bool_], score: Floats, rows: npt.NDArray[np.int64], samples: int
) -> sparse.csr_array:
    """The matrix that sums the weights of samples by their rank, for all draws at once.

    The samples with one score are a group. Neither metric asks in which order the negatives between two groups with
    positives stand, so these are summed into one.

    Args:
        truth: (M,) True for positives.
        score: (M,) higher means positive.
        rows: (M,) which of the samples these are.
        samples: N.

    Returns:
        (2 P + 1 + P, N) zeros and ones. Of the P groups with positives, from the lowest score up: the negatives below
        the first, in it, between it and the second, in that ... above the last; then the positives of each.

    Raises:
        ValueError: shapes differ or a score is not finite.
    """
    if truth.ndim != 1 or truth.shape != score.shape:
        raise ValueError(f"one truth and score a sample; shapes are {truth.shape}, {score.shape}")
    if not np.isfinite(score).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(score))} of {len(score)} scores are not finite")
    levels = np.unique(score[truth])  # (P,)
    below = np.searchsorted(levels, score, side="left")  # levels that are lower
    at = np.searchsorted(levels, score, side="right") > below
    negative = np.where(at, 2 * below + 1, 2 * below)
    place = np.where(truth, 2 * len(levels) + 1 + below, negative)
    return sparse.csr_array((np.ones(len(score)), (place, rows)), shape=(3 * len(levels) + 1, samples))


def _split(sums: Floats) -> tuple[Floats, Floats]:
    """Weights (3 P + 1, D) as `_ranking` orders them -> of positives (P, D), of negatives (2 P + 1, D)."""
    groups = len(sums) // 3
    return sums[2 * groups + 1 :], sums[: 2 * groups + 1]


def _auroc(positive: Floats, negative: Floats) -> Floats:
    below = np.cumsum(negative[:-1:2], axis=0)  # (P, D)
    below[1:] += np.cumsum(negative[1:-2:2], axis=0)
    pairs = positive.sum(axis=0) * negative.sum(axis=0)
    # Counts and halves of counts: every sum here is exact, so equal rankings give equal numbers.
    won = (positive * (below + negative[1::2] / 2)).sum(axis=0)
    out: Floats = np.full(len(pairs), np.nan)
    np.divide(won, pairs, out=out, where=pairs > 0)
    return out


def _average_precision(positive: Floats, negative: Floats) -> Floats:
    positive, negative = positive[::-1], negative[::-1]  # from the highest score down
    found = np.cumsum(positive, axis=0)
    named = found + np.cumsum(negative[:-1:2] + negative[1::2], axis=0)
    precision = np.divide(found, named, out=np.zeros_like(found), where=named > 0)
    total = positive.sum(axis=0)
    out: Floats = np.full(len(total), np.nan)
    np.divide((positive * precision).sum(axis=0), total, out=out, where=total * negative.sum(axis=0) > 0)
    return out


def _f1(hit: Floats, missed: Floats, false: Floats, spared: Floats) -> Floats:
    out: Floats = np.full(len(hit), np.nan)
    np.divide(2 * hit, 2 * hit + missed + false, out=out, where=hit + missed > 0)
    return out


def _balanced(hit: Floats, missed: Floats, false: Floats, spared: Floats) -> Floats:
    shares = [
        np.divide(right, right + wrong, out=np.full(len(right), np.nan), where=right + wrong > 0)
        for right, wrong in ((hit, missed), (spared, false))
    ]
    mean: Floats = (shares[0] + shares[1]) / 2
    return mean


def _accuracy(counts: Floats) -> Floats:
    right = np.trace(counts, axis1=1, axis2=2)
    films = counts.sum(axis=(1, 2))
    out: Floats = np.full(len(films), np.nan)
    np.divide(right, films, out=out, where=films > 0)
    return out[:, None]


def _f1_of_each(counts: Floats) -> Floats:
    right = np.diagonal(counts, axis1=1, axis2=2)
    there, named = counts.sum(axis=2), counts.sum(axis=1)
    out: Floats = np.full(right.shape, np.nan)
    np.divide(2 * right, there + named, out=out, where=there > 0)
    return out


def _recall_of_each(counts: Floats) -> Floats:
    there = counts.sum(axis=2)
    out: Floats = np.full(there.shape, np.nan)
    np.divide(np.diagonal(counts, axis1=1, axis2=2), there, out=out, where=there > 0)
    return out


_ORDERED: dict[str, Counted] = {"auroc": _auroc, "average_precision": _average_precision}

_NAMED: dict[str, Callable[[Floats, Floats, Floats, Floats], Floats]] = {
    "f1": _f1,
    "balanced_accuracy": _balanced,
}
"""(D,) weights of films rightly named, missed, wrongly named, rightly not named -> (D,), NaN if undefined."""

_CONFUSED: dict[str, Callable[[Floats], Floats]] = {
    "accuracy": _accuracy,
    "f1": _f1_of_each,
    "balanced_accuracy": _recall_of_each,
}
"""(D, C, C) weight of films by class and the class they are named -> (D, 1) or (D, C), whose mean is the metric."""


def _whole(metric: Counted, truth: npt.NDArray[np.bool_], score: Floats) -> float | None:
    """The metric with every sample counted once; None where it is not defined."""
    once = _ranking(truth, score, np.arange(len(score)), len(score)) @ np.ones((len(score), 1))
    value = metric(*_split(once))[0]
    return None if np.isnan(value) else float(value)
