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

import math
from collections.abc import Iterator, Sequence
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
        for columns in table.draws():
            drawn_of = [answer.metrics(columns) for answer in defined]
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
                n=len(table.target),
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
        for columns in table.draws():
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

    A bootstrap draw is a weight for each of the P patients. All that is a sum of weights, each times a number that the
    draw does not change, is one product with a sparse matrix for all draws of a block. Only bins of equally many
    samples move with the draw: their edges are looked for in sums over parts of a few samples, then in one part.

    Attributes:
        patient: (M,) of the samples, sorted by probability.
        truth: (M,) of these samples.
        probability: (M,) of these samples, ascending.
        above: (M,) where the samples with a higher probability begin.
        sums: (17, P) sparse: the excess of probability over truth in each of the 15 bins of equal width, the squared
            difference of both, and 1; in the columns of the patients.
        size: samples of a part.
        parts: (2 ceil(M / size), P) sparse: 1 for the samples of each part, then their excesses.
    """

    patient: Ints
    truth: npt.NDArray[np.bool_]
    probability: Floats
    above: Ints
    sums: sparse.csr_array
    size: int
    parts: sparse.csr_array

    @classmethod
    def of(cls, truth: npt.NDArray[np.bool_], probability: Floats, patient: Ints, patients: int) -> "_Ranked":
        """From (M,) truth, probability and patient, one of so many, of at least one sample."""
        if truth.ndim != 1 or truth.shape != probability.shape:
            raise ValueError(
                f"one truth and probability a sample; shapes are {truth.shape}, {probability.shape}"
            )
        outside = ~((probability >= 0) & (probability <= 1))  # NaN is outside, too
        if outside.any():
            raise ValueError(
                f"{np.count_nonzero(outside)} of {len(probability)} probabilities are not between 0 and 1"
            )
        order = np.argsort(probability, kind="stable")
        truth, probability, patient = truth[order], probability[order], patient[order]
        excess = probability - truth
        bins = _width_bins(probability)
        once = np.ones(len(order))
        sums = _sums(
            [(bins, excess), (np.full_like(bins, BINS), excess**2), (np.full_like(bins, BINS + 1), once)],
            patient,
            (BINS + 2, patients),
        )
        # A draw looks at every part once, and at the samples of one part for each of the bins.
        size = max(1, math.isqrt(len(order) // BINS))
        part = np.arange(len(order)) // size
        count = int(part[-1]) + 1
        parts = _sums([(part, once), (part + count, excess)], patient, (2 * count, patients))
        above = np.searchsorted(probability, probability, side="right")
        return cls(patient, truth, probability, above, sums, size, parts)

    def metrics(self, columns: Floats) -> dict[str, Floats]:
        """(D,) values of each metric of `_METRICS`, NaN for draws without a sample of the class.

        Args:
            columns: (P, D) whole numbers, how often each patient is drawn.
        """
        found = self.sums @ columns  # (17, D)
        excess = {"width": found[:BINS], "mass": np.diff(self._up_to_cuts(columns)[1], axis=0)}
        total = found[BINS + 1]
        amounts = {f"ece_{binning}_{BINS}": np.abs(own).sum(axis=0) for binning, own in excess.items()}
        return {
            name: np.divide(amount, total, out=np.full(len(total), np.nan), where=total > 0)
            for name, amount in (amounts | {"brier": found[BINS]}).items()
        }

    def once(self) -> dict[str, float]:
        """`metrics` with every sample counted once."""
        return {name: float(values[0]) for name, values in self.metrics(self._everyone()).items()}

    def mass_cuts(self) -> Ints:
        """(16,) where, among the M samples, each bin of equally many begins and ends."""
        cuts: Ints = self._up_to_cuts(self._everyone())[0][:, 0]
        return cuts

    def _everyone(self) -> Floats:
        return np.ones((self.sums.shape[1], 1))

    def _up_to_cuts(self, columns: Floats) -> tuple[Ints, Floats]:
        """Bins of equally many samples in each draw, weights (P, D).

        The upper edge of bin b is the sample of rank floor((W - 1) (b + 1) / 15), from 0, of the W in the draw, so a
        probability falls into the first bin whose edge has no smaller rank than its own first sample. Counts of
        samples are whole numbers: no rounding decides on a bin.

        Returns:
            (16, D) where, among the M samples, each bin begins and ends, and (16, D) the excess of probability over
            truth of all samples before.
        """
        samples, draws = len(self.patient), columns.shape[1]
        of_parts = np.asarray(self.parts @ columns).reshape(2, -1, draws)
        before = np.zeros((2, of_parts.shape[1] + 1, draws))
        np.cumsum(of_parts, axis=1, out=before[:, 1:])  # samples and their excess before each part
        last = np.maximum(before[0, -1] - 1, 1)
        ranks = last * np.arange(1, BINS)[:, None] // BINS  # (14, D) of the upper edges
        counted = np.ascontiguousarray(before[0, 1:].T)  # (D, parts)
        part = np.stack(
            [own.searchsorted(rank, side="right") for own, rank in zip(counted, ranks.T, strict=True)], axis=1
        )  # (14, D) of the edge; beyond the last where a draw has no sample
        draw = np.arange(draws)
        place = np.arange(self.size)[:, None, None]
        padded = np.concatenate([self.patient, np.zeros(2 * self.size, np.int64)])
        drawn = columns[padded[part * self.size + place], draw]  # (size, 14, D)
        inside = np.count_nonzero(before[0, part, draw] + np.cumsum(drawn, axis=0) <= ranks, axis=0)
        edge = np.minimum(part * self.size + inside, samples - 1)
        cuts = np.zeros((BINS + 1, draws), np.int64)
        cuts[1:-1], cuts[-1] = self.above[edge], samples

        part, inside = np.divmod(cuts[1:-1], self.size)
        taken = columns[padded[part * self.size + place], draw] * (place < inside)
        excess = np.concatenate([self.probability - self.truth, np.zeros(2 * self.size)])
        sums = np.zeros(cuts.shape)
        sums[1:-1] = before[1, part, draw] + (excess[part * self.size + place] * taken).sum(axis=0)
        sums[-1] = before[1, -1]
        return cuts, sums


def _sums(rows: Sequence[tuple[Ints, Floats]], patient: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Sparse matrix with these (rows, values) of the M samples in the columns of their patients."""
    where = np.concatenate([row for row, _ in rows]), np.tile(patient, len(rows))
    sums = sparse.csr_array((np.concatenate([values for _, values in rows]), where), shape=shape)
    sums.eliminate_zeros()
    return sums


@dataclass(frozen=True)
class _Table:
    """Predictions of the samples with a known label.

    Attributes:
        patients: names of the P patients.
        patient: (N,) of each sample.
        target: (N, C) 1, 0 or NaN.
        probability: (N, C).
        known: (N, C) where the label is known.
    """

    patients: list[str]
    patient: Ints
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
        patients, patient = np.unique(predictions["patient"].to_numpy(dtype=str)[kept], return_inverse=True)
        return cls(patients.tolist(), patient, target, probability, known)

    @property
    def drawn(self) -> bool:
        """Whether drawing patients changes anything: a single one is always drawn."""
        return len(self.patients) > 1

    def draws(self) -> Iterator[Floats]:
        """(P, D) how often each patient is drawn, in blocks of draws."""
        for weights in bootstrap_blocks(self.patients, np.zeros(len(self.patients), np.bool_)):
            yield np.ascontiguousarray(weights.T, dtype=np.float64)

    def ranked(self, k: int) -> _Ranked | None:
        """Class k, or None without a known label."""
        rows = np.flatnonzero(self.known[:, k])
        if len(rows) == 0:
            return None
        truth, probability = self.target[rows, k] == 1, self.probability[rows, k]
        return _Ranked.of(truth, probability, self.patient[rows], len(self.patients))


def _width_bins(probability: Floats) -> Ints:
    """(M,) bin of equal width of each probability."""
    bins: Ints = np.searchsorted(_EDGES[1:-1], probability, side="left")
    return bins


_METRICS: Final = (f"ece_width_{BINS}", f"ece_mass_{BINS}", "brier")


def _whole(metric: str, truth: npt.NDArray[np.bool_], probability: Floats) -> float | None:
    """The metric with every sample counted once; None without samples."""
    if truth.shape == probability.shape == (0,):
        return None
    return _Ranked.of(truth, probability, np.zeros(len(probability), np.int64), 1).once()[metric]


def _bins(answer: _Ranked) -> Ints:
    """(2, M) bin of equal width of each sample, and bin of equal mass, from 15 on."""
    by_mass = np.repeat(np.arange(BINS), np.diff(answer.mass_cuts()))
    return np.stack([_width_bins(answer.probability), by_mass + BINS])


def _members(answer: _Ranked) -> sparse.csr_array:
    """(60, P) samples of each patient in the 15 bins of equal width and the 15 of equal mass, then positives."""
    shape = (4 * BINS, answer.sums.shape[1])
    bins, positive = _bins(answer), answer.truth.astype(np.float64)
    rows = [(own, np.ones(len(own))) for own in bins] + [(own + 2 * BINS, positive) for own in bins]
    return _sums(rows, answer.patient, shape)


def _diagrams(
    answer: _Ranked, members: sparse.csr_array, shares: Floats, label: str, missing: int
) -> list[Reliability]:
    """One diagram a binning of a class with samples and scores; `shares` (30, D) of positives in each draw."""
    counted = len(answer.patient)
    count, found = np.split(members.sum(axis=1), 2)  # (30,) each
    claimed = np.bincount(_bins(answer).ravel(), np.tile(answer.probability, 2), 2 * BINS)
    confidence = claimed / np.maximum(count, 1)
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
