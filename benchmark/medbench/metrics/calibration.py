"""Calibration of classifiers: is what they call 70 % present in 70 % of the films?

Every class is a question of its own, yes or no, so a confidence is the probability of the class and not that
of the likeliest class. Three metrics, all lower is better:

- `ece_width_15`: expected calibration error over 15 bins of equal width between 0 and 1 (Guo et al. 2017,
  "On Calibration of Modern Neural Networks", eq. 3, asked of each class).
- `ece_mass_15`: the same over 15 bins that hold equally many samples (Nixon et al. 2019, "Measuring Calibration
  in Deep Learning"). Where most probabilities are small the bins of equal width are one bin; these are not.
- `brier`: mean squared difference of probability and truth.

A bin holds its upper edge, the first one its lower edge, too. Equal probabilities share a bin, whatever the
order of the samples.

An ECE of few samples is too large, since chance alone moves each bin away from the diagonal: compare only
what was computed over the same samples. The draws of its bootstrap are larger once more by about the same, so
their mean excess over the value is taken from them before the interval is read off.

Patients are drawn without strata here. A draw that keeps the number of ill patients would hide how far a
shift of prevalence alone moves calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse
from scipy.special import expit

from medbench.metrics.bootstrap import DRAWS, bootstrap_blocks, percentile_interval
from medbench.task import Metric

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Binning = Literal["width", "mass"]
"""Bins of equal width between 0 and 1, or of equally many samples."""

Scale = Literal["probability", "log-odds"]
"""What a score is: a probability, 0 to 1, or its log-odds (any finite number), as linear probes give it."""

BINS: Final = 15
"""Number of bins, as in Guo et al. 2017; part of the metrics' names."""

INTERVAL: Final = f"95 % percentile bootstrap over patients, {DRAWS} draws, no strata"
"""How `Metric.interval` names what this file makes; see also `CENTRED_INTERVAL`."""

CENTRED_INTERVAL: Final = f"{INTERVAL}, less the draws' mean excess over the value"
"""The same for the calibration errors, whose draws are larger than the value on average."""

_EDGES: Final[Floats] = np.linspace(0, 1, BINS + 1)
_BINNINGS: Final[tuple[Binning, ...]] = get_args(Binning)


@dataclass(frozen=True)
class Reliability:
    """Data of one reliability diagram: probabilities in bins, and what was there. JSON types only.

    Attributes:
        label: name of the class.
        binning: `width` or `mass`.
        edges: 16 rising edges of 15 bins, 0 to 1; equal neighbours hold an empty bin between them. Of `mass` the
            first is the smallest probability, the last the largest. Empty, as all other tuples, if `n` is 0.
        counts: samples in each bin.
        confidence: mean probability in each bin, None where it is empty.
        positives: share of positives in each bin, None where it is empty.
        low, high: bounds of the 95 % interval of `positives` with the bins held fixed, None where there is none. A
            bin without positives has 0 and 0, one without negatives 1 and 1, however few samples it holds.
        interval: how the interval was made, in words.
        n: samples of this class that count.
        missing: samples whose label is not known; they are left out.
        reason: why there is nothing to show, "" where there is.
    """

    label: str
    binning: Binning
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float | None, ...]
    positives: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    interval: str
    n: int
    missing: int
    reason: str = ""


def expected_calibration_error(
    truth: npt.NDArray[np.bool_], probability: Floats, binning: Binning
) -> float | None:
    """Mean distance of confidence and share of positives over 15 bins, each bin counting by its samples.

    Args:
        truth: (N,) True for positives.
        probability: (N,) of the class, 0 to 1.
        binning: `width` or `mass`.

    Returns:
        0 to 1, or None without samples. One class only is no obstacle.

    Raises:
        ValueError: shapes differ, or a probability is not between 0 and 1.
    """
    return _whole(f"ece_{binning}_{BINS}", truth, probability)


def brier_score(truth: npt.NDArray[np.bool_], probability: Floats) -> float | None:
    """Mean squared difference of probability and truth.

    Args:
        truth: (N,) True for positives.
        probability: (N,) of the class, 0 to 1.

    Returns:
        0 to 1, or None without samples. One class only is no obstacle.

    Raises:
        ValueError: shapes differ, or a probability is not between 0 and 1.
    """
    return _whole("brier", truth, probability)


def calibration_metrics(
    predictions: pd.DataFrame, classes: Sequence[str], scale: Scale, *, macro: bool | None = None
) -> tuple[Metric, ...]:
    """Both calibration errors and the Brier score of predictions, with intervals.

    `macro_ece_width_15`, `macro_ece_mass_15` and `macro_brier` are plain means over the classes with a known label;
    `reason` names the others.

    Args:
        predictions: one row a sample with `patient`, `target_<class>` (1, 0, or NaN where not known: that
            sample does not count for that class) and `score_<class>` (finite).
        classes: names of the classes.
        scale: what the scores are.
        macro: whether it is means that are asked for; default: where there are several classes.

    Returns:
        The three metrics. `n` counts the samples with a known label; without any there is no value, and a single
        patient has no interval.

    Raises:
        ValueError: a score is missing or is not on the scale, or a label is not 0, 1 or NaN.
    """
    table = _Table.of(predictions, classes, scale)
    answers = [table.ranked(k) for k in range(len(classes))]
    whole = [None if answer is None else answer.once() for answer in answers]
    values: dict[str, list[float | None]] = {
        name: [None if own is None else own[name] for own in whole] for name in _METRICS
    }
    draws: dict[str, list[Floats]] = {name: [] for name in _METRICS}
    defined = [answer for answer in answers if answer is not None]
    if table.drawn:
        for weights in bootstrap_blocks(table.patients, np.zeros(len(table.patients), np.bool_)):
            columns = np.ascontiguousarray(weights.T, dtype=np.float64)
            drawn_of = [answer.metrics(weights, columns) for answer in defined]
            for name in _METRICS:
                draws[name].append(np.mean([own[name] for own in drawn_of], axis=0))  # NaN in one, NaN in all

    several = len(classes) > 1 if macro is None else macro
    left = " (left out of the mean)" if defined else ""
    reason = "; ".join(
        f"{label}: no known label{left}"
        for label, answer in zip(classes, answers, strict=True)
        if answer is None
    )
    metrics = []
    for name in _METRICS:
        value = float(np.mean([v for v in values[name] if v is not None])) if defined else None
        low, high = None, None
        if value is not None and draws[name]:
            drawn = np.concatenate(draws[name])
            low, high = percentile_interval(drawn) if name == "brier" else centred_interval(drawn, value)
        metrics.append(
            Metric(
                name=f"macro_{name}" if several else name,
                value=value,
                low=low,
                high=high,
                interval=INTERVAL if name == "brier" else CENTRED_INTERVAL,
                n=len(table.patients),
                higher_is_better=False,
                per_class=dict(zip(classes, values[name], strict=True)) if several else {},
                reason=reason,
            )
        )
    return tuple(metrics)


def reliability_diagrams(
    predictions: pd.DataFrame, classes: Sequence[str], scale: Scale
) -> tuple[Reliability, ...]:
    """Data of the reliability diagrams of predictions.

    Args:
        predictions: as for `calibration_metrics`.
        classes: names of the classes.
        scale: what the scores are.

    Returns:
        Two a class, `width` and then `mass`, in the order of the classes. A single patient has no intervals.

    Raises:
        ValueError: as `calibration_metrics` does.
    """
    table = _Table.of(predictions, classes, scale)
    members = {k: _members(answer) for k in range(len(classes)) if (answer := table.ranked(k)) is not None}
    shares: dict[int, list[Floats]] = {k: [] for k in members}
    if table.drawn:
        for weights in bootstrap_blocks(table.patients, np.zeros(len(table.patients), np.bool_)):
            columns = np.ascontiguousarray(weights.T, dtype=np.float64)
            for k, own in members.items():
                total, positive = np.split(own @ columns, 2)  # (30, D) each
                shares[k].append(
                    np.divide(positive, total, out=np.full(total.shape, np.nan), where=total > 0)
                )
    diagrams: list[Reliability] = []
    for k, label in enumerate(classes):
        missing = len(predictions) - int(table.known[:, k].sum())
        answer = table.ranked(k)
        if answer is None:
            for binning in _BINNINGS:
                diagrams.append(
                    Reliability(
                        label, binning, (), (), (), (), (), (), INTERVAL, 0, missing, "no known label"
                    )
                )
        else:
            drawn = np.concatenate(shares[k], axis=1) if shares[k] else np.full((2 * BINS, 1), np.nan)
            diagrams += _diagrams(answer, members[k], drawn, label, missing)
    return tuple(diagrams)


def centred_interval(values: Floats, value: float) -> tuple[float | None, float | None]:
    """The central 95 % of bootstrap values that exceed the value on average, moved back by that excess.

    Args:
        values: (D,) the metric of each draw, 0 to 1, NaN where it is not defined.
        value: of all samples, 0 to 1.

    Returns:
        Bounds between 0 and 1 with the value inside; (None, None) as `percentile_interval` does.
    """
    low, high = percentile_interval(values)
    if low is None or high is None:
        return None, None
    excess = float(np.nanmean(values)) - value
    return min(value, max(0.0, low - excess)), max(value, min(1.0, high - excess))


@dataclass(frozen=True)
class _Ranked:
    """Samples of one class with a known label, by rising probability.

    A bootstrap draw is a weight for each of the N rows of the table. All that is a sum of weights, each times a number
    that the draw does not change, is one product with a sparse matrix for all draws of a block; only bins of equally
    many samples move with the draw.

    Attributes:
        rows: (M,) rows of the table, sorted by probability.
        truth: (M,) of these rows.
        probability: (M,) of these rows, ascending.
        first: (G,) where in `rows` each distinct probability begins.
        sums: (17, N) sparse: the excess of probability over truth in each of the 15 bins of equal width, the squared
            difference of both, and 1; in the columns of `rows`.
    """

    rows: Ints
    truth: npt.NDArray[np.bool_]
    probability: Floats
    first: Ints
    sums: sparse.csr_array

    @classmethod
    def of(cls, truth: npt.NDArray[np.bool_], probability: Floats, rows: Ints) -> "_Ranked":
        """From (N,) truth and probability, of which `rows` (M,), at least one, count."""
        if truth.ndim != 1 or truth.shape != probability.shape:
            raise ValueError(
                f"one truth and probability a sample; shapes are {truth.shape}, {probability.shape}"
            )
        outside = ~((probability[rows] >= 0) & (probability[rows] <= 1))  # NaN is outside, too
        if outside.any():
            raise ValueError(
                f"{np.count_nonzero(outside)} of {len(rows)} probabilities are not between 0 and 1"
            )
        rows = rows[np.argsort(probability[rows], kind="stable")]
        ranked = probability[rows]
        first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
        excess = ranked - truth[rows]
        bins = _width_bins(ranked)
        sums = sparse.csr_array(
            (
                np.concatenate([excess, excess**2, np.ones(len(rows))]),
                (
                    np.concatenate([bins, np.full_like(bins, BINS), np.full_like(bins, BINS + 1)]),
                    np.tile(rows, 3),
                ),
            ),
            shape=(BINS + 2, len(truth)),
        )
        return cls(rows, truth[rows], ranked, first, sums)

    def metrics(self, weights: npt.NDArray[np.integer], columns: Floats) -> dict[str, Floats]:
        """(D,) values of each metric of `_METRICS`, NaN for draws without a sample of the class.

        Args:
            weights: (D, N) whole numbers.
            columns: (N, D) the same turned round.
        """
        found = self.sums @ columns  # (17, D)
        excess = {"width": found[:BINS].T, "mass": self._mass_excess(weights)}
        total = found[BINS + 1]
        amounts = {f"ece_{binning}_{BINS}": np.abs(own).sum(axis=1) for binning, own in excess.items()}
        return {
            name: np.divide(amount, total, out=np.full(len(total), np.nan), where=total > 0)
            for name, amount in (amounts | {"brier": found[BINS]}).items()
        }

    def once(self) -> dict[str, float]:
        """`metrics` with every sample counted once."""
        everyone = np.ones((1, self.sums.shape[1]), np.int32)
        found = self.metrics(everyone, everyone.T.astype(np.float64))
        return {name: float(values[0]) for name, values in found.items()}

    def _mass_excess(self, weights: npt.NDArray[np.integer]) -> Floats:
        """(D, 15) excess of probability over truth in bins that hold equally many samples of each draw."""
        drawn = weights[:, self.rows]  # (D, M)
        draws, samples = drawn.shape
        edges = np.append(self.first, samples)[self.mass_cuts(drawn)]  # (D, 16) places among the M
        excess = np.zeros(draws * samples + 1)  # one more, since an edge may be the very end
        np.multiply(drawn, self.probability - self.truth, out=excess[:-1].reshape(drawn.shape))
        starts = edges[:, :-1] + np.arange(draws)[:, None] * samples
        sums = np.add.reduceat(excess, starts.ravel()).reshape(starts.shape)
        return np.where(edges[:, :-1] < edges[:, 1:], sums, 0.0)  # of an empty bin it gives what stands there

    def mass_cuts(self, drawn: npt.NDArray[np.integer]) -> Ints:
        """(D, M) weights by rising probability -> (D, 16) where, among the distinct ones, each bin begins and ends.

        The upper edge of bin b is the sample of rank floor((W - 1) (b + 1) / 15), from 0, of the W in the draw, so a
        probability falls into the first bin whose edge has no smaller rank than its own first sample. Counts of
        samples are whole numbers: no rounding decides on a bin.
        """
        draws, groups = len(drawn), len(self.first)
        if groups < drawn.shape[1]:
            drawn = np.add.reduceat(drawn, self.first, axis=1)  # (D, M) -> (D, G)
        counted = np.cumsum(drawn, axis=1, dtype=np.int32)  # the rank of the next probability's first sample
        last = np.maximum(counted[:, -1:].astype(np.int64) - 1, 1)
        highest = (last * np.arange(1, BINS) // BINS).astype(np.int32)  # (D, 14) ranks of the upper edges
        inside = [own.searchsorted(ranks, side="right") for own, ranks in zip(counted, highest, strict=True)]
        cuts = np.zeros((draws, BINS + 1), np.int64)
        cuts[:, 1:-1] = np.minimum(np.stack(inside) + 1, groups)
        cuts[:, -1] = groups
        return cuts


@dataclass(frozen=True)
class _Table:
    """Predictions of the samples with a known label.

    Attributes:
        patients: of the N samples.
        target: (N, C) 1, 0 or NaN.
        probability: (N, C).
        known: (N, C) where the label is known.
    """

    patients: list[str]
    target: Floats
    probability: Floats
    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, predictions: pd.DataFrame, classes: Sequence[str], scale: Scale) -> "_Table":
        if scale not in get_args(Scale):
            raise ValueError(f"scale is one of {', '.join(get_args(Scale))}, found {scale!r}")
        target = predictions[[f"target_{c}" for c in classes]].to_numpy(np.float64)  # (N, C)
        score = predictions[[f"score_{c}" for c in classes]].to_numpy(np.float64)
        known = ~np.isnan(target)
        if not np.isin(target[known], (0.0, 1.0)).all():
            raise ValueError(f"a target is not 0, 1 or NaN: {np.unique(target[known])[:5]}")
        kept = known.any(axis=1)
        target, score, known = target[kept], score[kept], known[kept]
        for k, name in enumerate(classes):
            counted = score[known[:, k], k]
            bad = ~np.isfinite(counted)
            if bad.any():
                raise ValueError(f"{np.count_nonzero(bad)} of {len(counted)} scores of {name} are not finite")
            if scale == "probability" and ((counted < 0) | (counted > 1)).any():
                raise ValueError(
                    f"scores of {name} go from {counted.min():g} to {counted.max():g}, which are no"
                    " probabilities; if they are log-odds, say scale='log-odds'"
                )
        probability = score if scale == "probability" else expit(score)
        return cls(predictions["patient"].to_numpy(dtype=str)[kept].tolist(), target, probability, known)

    @property
    def drawn(self) -> bool:
        """Whether drawing patients changes anything: a single one is always drawn."""
        return len(set(self.patients)) > 1

    def ranked(self, k: int) -> _Ranked | None:
        """Class k, or None without a known label."""
        rows = np.flatnonzero(self.known[:, k])
        if len(rows) == 0:
            return None
        return _Ranked.of(self.target[:, k] == 1, self.probability[:, k], rows)


def _width_bins(probability: Floats) -> Ints:
    """(M,) bin of equal width of each probability."""
    bins: Ints = np.searchsorted(_EDGES[1:-1], probability, side="left")
    return bins


_METRICS: Final = (f"ece_width_{BINS}", f"ece_mass_{BINS}", "brier")


def _whole(metric: str, truth: npt.NDArray[np.bool_], probability: Floats) -> float | None:
    """The metric with every sample counted once; None without samples."""
    if truth.shape == probability.shape == (0,):
        return None
    return _Ranked.of(truth, probability, np.arange(len(probability))).once()[metric]


def _members(answer: _Ranked) -> sparse.csr_array:
    """(60, N): which samples are in the 15 bins of equal width and the 15 of equal mass, then which positives."""
    counted = len(answer.rows)
    cuts = answer.mass_cuts(np.ones((1, counted), np.int32))[0]
    by_mass = np.repeat(np.arange(BINS), np.diff(np.append(answer.first, counted)[cuts]))
    bins = np.concatenate([_width_bins(answer.probability), by_mass + BINS])  # (2M,) of 30
    rows, positive = np.tile(answer.rows, 2), np.tile(answer.truth, 2)
    bins, rows = (
        np.concatenate([bins, bins[positive] + 2 * BINS]),
        np.concatenate([rows, rows[positive]]),
    )
    return sparse.csr_array((np.ones(len(bins)), (bins, rows)), shape=(4 * BINS, answer.sums.shape[1]))


def _diagrams(
    answer: _Ranked, members: sparse.csr_array, shares: Floats, label: str, missing: int
) -> list[Reliability]:
    """One diagram a binning of a class with samples and scores; `shares` (30, D) of positives in each draw."""
    counted = len(answer.rows)
    count, found = np.split(members.sum(axis=1), 2)  # (30,) each
    probability = np.zeros(members.shape[1])
    probability[answer.rows] = answer.probability
    confidence = (members @ probability)[: 2 * BINS] / np.maximum(count, 1)
    bounds = [percentile_interval(own) for own in shares]
    edges: dict[Binning, Floats] = {
        "width": _EDGES,
        "mass": answer.probability[(counted - 1) * np.arange(BINS + 1) // BINS],
    }
    diagrams = []
    for k, binning in enumerate(_BINNINGS):
        part = range(k * BINS, (k + 1) * BINS)
        diagrams.append(
            Reliability(
                label=label,
                binning=binning,
                edges=tuple(edges[binning].tolist()),
                counts=tuple(int(count[b]) for b in part),
                confidence=tuple(float(confidence[b]) if count[b] else None for b in part),
                positives=tuple(float(found[b] / count[b]) if count[b] else None for b in part),
                low=tuple(bounds[b][0] for b in part),
                high=tuple(bounds[b][1] for b in part),
                interval=INTERVAL,
                n=counted,
                missing=missing,
            )
        )
    return diagrams
