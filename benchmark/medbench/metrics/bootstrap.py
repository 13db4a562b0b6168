"""Bootstrap over patients: how far a number would move had other patients been drawn into the test set.

A patient's films resemble each other, so patients are drawn, not films. Patients with and without a positive
are drawn apart, each group at its own size, so that every draw has about as many positives as the test set.
The seed is fixed: an interval is a function of the predictions, and two people get the same one.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

DRAWS = 2000
"""Draws of an interval; the 2.5 % tails then hold 50 draws each."""

INTERVAL = f"95 % percentile bootstrap over patients, {DRAWS} draws, strata by positive"
"""How `Metric.interval` names `percentile_interval` of draws of this file."""

LOGIT_INTERVAL = f"95 % bootstrap over patients on the log-odds scale, t, {DRAWS} draws, strata by positive"
"""How `Metric.interval` names `logit_interval` of draws of this file."""

CENTRED_LOGIT_INTERVAL = f"{LOGIT_INTERVAL}, less the mean excess of the draws"
"""How `Metric.interval` names `logit_interval` that is `centred`."""

JACKKNIFE_LOGIT_INTERVAL = (
    "95 % jackknife over patients on the log-odds scale, t, strata by positive, "
    f"less the mean excess of {DRAWS} bootstrap draws"
)
"""How `Metric.interval` names the same of `linear_draws`."""

SMALL_TEST: Final = 300
SMALL_POSITIVES: Final = 40
"""With fewer samples, or positive ones, intervals are not sure to hold the 95 % they say (docs/statistics.md)."""

SEED: Final = 0
"""Of the draws of every interval."""

_BLOCK_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Resample:
    """Which resamples of which patients the draws of a bootstrap are.

    Two bootstraps with one `key` drew the same patients in every draw, so that the difference of their draws is the
    bootstrap of the difference: a paired one.

    Attributes:
        key: SHA-256 over all patients with their strata, the seed and the number of draws. It tells nobody who they
            are, since it is one hash over all of them.
        patients: number of them.
        positive_patients: those of the stratum with a positive sample.
        samples: number of them.
        positive_samples: those that are positive.
        class_units: where the metric is a mean over classes, what the rarest of them rests on: its patients with
            positives, or those with negatives, whichever are fewer. Else None.
        class_positives: likewise the positive samples of the class that has fewest.
    """

    key: str
    patients: int
    positive_patients: int
    samples: int
    positive_samples: int
    class_units: int | None = None
    class_positives: int | None = None

    @property
    def units(self) -> int:
        """Patients that noise is estimated from: of the rarest class, else of the smaller stratum."""
        if self.class_units is not None:
            return self.class_units
        return smaller_stratum(self.patients, self.positive_patients)

    @property
    def small(self) -> bool:
        """Whether intervals are rough: few samples, or few positive ones, of any class that counts."""
        positive = self.positive_samples if self.class_positives is None else self.class_positives
        return self.samples < SMALL_TEST or 0 < positive < SMALL_POSITIVES

    @classmethod
    def of(
        cls, patients: Sequence[str], positive: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = SEED
    ) -> "Resample":
        """That of `patient_bootstrap_weights` with the same arguments."""
        strata: dict[str, bool] = {}
        for patient, own in zip(map(str, patients), np.asarray(positive).tolist(), strict=True):
            strata[patient] = strata.get(patient, False) or bool(own)
        drawn = {"draws": draws, "seed": seed, "patients": sorted(strata.items())}
        return cls(
            key=hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest(),
            patients=len(strata),
            positive_patients=sum(strata.values()),
            samples=len(patients),
            positive_samples=int(np.count_nonzero(positive)),
        )


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """A metric in every draw.

    Attributes:
        draws: (D,) float64, NaN where the metric is not defined.
        resample: which resamples these are of.
    """

    draws: npt.NDArray[np.float64]
    resample: Resample


def patient_bootstrap_weights(
    patients: Sequence[str], positive: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = SEED
) -> npt.NDArray[np.int32]:
    """How often every sample is drawn; beyond the result (4 bytes an entry) it needs a few MB.

    A draw takes as many patients as there are, with replacement, from each of two strata: those with a
    positive sample and those without. All samples of a drawn patient come along. The order of the samples
    does not matter: a sample's column depends on the set of patients and their strata only.

    Args:
        patients: patient of each sample, length N.
        positive: (N,) whether the sample is positive (any class, any box).
        draws: number of draws D.
        seed: of the draws; leave it alone unless draws have to differ.

    Returns:
        (D, N) int32, row d holds the weights of draw d.

    Raises:
        ValueError: no samples, lengths that differ, or fewer than one draw.
    """
    return np.concatenate(list(bootstrap_blocks(patients, positive, draws, seed)))


def bootstrap_blocks(
    patients: Sequence[str], positive: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = SEED
) -> Iterator[npt.NDArray[np.int32]]:
    """The rows of `patient_bootstrap_weights` in blocks of about 2 MB, which is also what runs fastest.

    Args:
        patients: as there.
        positive: as there.
        draws: as there.
        seed: as there.

    Yields:
        (d, N) int32; the blocks together are the D rows, whatever the block size.
    """
    positive = np.asarray(positive, dtype=np.bool_)
    if positive.ndim != 1 or len(patients) != len(positive):
        raise ValueError(
            f"{len(patients)} patients for `positive` of shape {positive.shape}: one entry a sample each"
        )
    if len(positive) == 0 or draws < 1:
        raise ValueError(
            f"a bootstrap needs samples and draws, found {len(positive)} samples and {draws} draws"
        )
    _, patient, with_positive = _strata(patients, positive)
    strata = [np.flatnonzero(with_positive == which) for which in (False, True)]
    # One generator a stratum and 64-bit integers: the stream is the same for any block size.
    generators = [np.random.Generator(np.random.PCG64([seed, which])) for which in (0, 1)]
    size = max(1, _BLOCK_BYTES // (8 * len(positive)))
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        counts = np.zeros((rows, len(with_positive)), np.int32)
        for members, generator in zip(strata, generators, strict=True):
            if len(members):
                drawn = generator.integers(len(members), size=(rows, len(members)), dtype=np.int64)
                drawn += np.arange(rows)[:, None] * len(members)  # one range of bins a draw
                counts[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counts[:, patient]  # (rows, patients) -> (rows, N)


def left_out_blocks(
    patients: Sequence[str], positive: npt.NDArray[np.bool_]
) -> Iterator[npt.NDArray[np.int32]]:
    """Weights of the samples with each patient left out in turn, in the order of their names, in blocks of about 2 MB.

    Args:
        patients: as in `patient_bootstrap_weights`.
        positive: as there.

    Yields:
        (p, N) int32; the blocks together have a row a patient.
    """
    _, patient, with_positive = _strata(patients, positive)
    size = max(1, _BLOCK_BYTES // (8 * len(patient)))
    for start in range(0, len(with_positive), size):
        own = np.arange(start, min(start + size, len(with_positive)))
        yield (patient != own[:, None]).astype(np.int32)


def linear_draws(
    draws: npt.NDArray[np.float64],
    left_out: npt.NDArray[np.float64],
    patients: Sequence[str],
    positive: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Draws of a metric that is not smooth, made smooth: how far each patient moves it, summed as often as drawn.

    The best precision at a recall or beyond jumps from one box to another between draws, so that draws spread otherwise
    than test sets do. Leaving out one patient moves it along. These draws have the jackknife's variance and the mean of
    the bootstrap's, and belong together in pairs as those do. They may lie beyond the range of the metric.

    Args:
        draws: (D, C) of `patient_bootstrap_weights` with the same patients and strata, NaN where not defined.
        left_out: (P, C) with each patient left out, see `left_out_blocks`.
        patients: of each sample, length N.
        positive: (N,) whether the sample is positive.

    Returns:
        (D, C), NaN where `draws` are. Where a patient alone decides whether there is a value, `draws` as they are.
    """
    first, _, with_positive = _strata(patients, positive)
    moves = np.zeros(left_out.shape)
    for stratum in (with_positive, ~with_positive):
        own, count = left_out[stratum], int(np.count_nonzero(stratum))
        if count:
            moves[stratum] = (own.mean(axis=0) - own) * (count - 1) / count
    known = ~np.isnan(moves).any(axis=0)
    moved = np.concatenate(
        [weights[:, first] @ moves[:, known] for weights in bootstrap_blocks(patients, positive, len(draws))]
    )
    moved -= moved.mean(axis=0)
    found = draws.copy()
    apart = draws[:, known] - moved  # what is left of the draws is their excess, and noise of the jumps
    there = ~np.isnan(apart)
    middle = np.where(there, apart, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    found[:, known] = np.where(there, moved + middle, np.nan)
    return found


def _strata(
    patients: Sequence[str], positive: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Patients in the order of their names, which no order of samples changes.

    Returns:
        (P,) the first sample of each patient, (N,) the patient of each sample, (P,) who has a positive one.
    """
    names, first, patient = np.unique(np.asarray(patients, dtype=str), return_index=True, return_inverse=True)
    return first, patient, np.bincount(patient, weights=positive, minlength=len(names)) > 0


def percentile_interval(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The central 95 % of bootstrap values.

    Args:
        values: (D,) the metric of each draw, NaN where it is not defined.

    Returns:
        2.5 % and 97.5 % quantile of the defined values; (None, None) if fewer than half of them are defined,
        because the rest would then speak for draws that are not like the test set.
    """
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or 2 * len(defined) < len(values):
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def logit_interval(
    value: float | None, values: npt.NDArray[np.float64], units: int, *, centred: bool = False
) -> tuple[float | None, float | None]:
    """95 % by the standard deviation of bootstrap values, carried over to log-odds and back.

    For AUROCs. Near 1 their draws lean to one side and cover too seldom: of a true 0.95 with 40 positives their
    percentiles hold 89 to 91 % (docs/statistics.md, with the program that finds it). And draws of few patients move too
    little: of m by the root of (m - 1) / m, a spread that m patients tell as badly as t with m - 1 degrees of freedom
    says.

    `centred` for average precisions of boxes: of few films they lie above the truth on average, since the best
    precision at each recall or beyond is taken, and draws lie above the value for the same reason. The interval is
    moved by the latter.

    Args:
        value: of all samples, 0 to 1.
        values: (D,) the metric of each draw, 0 to 1, NaN where it is not defined.
        units: `Resample.units`.
        centred: whether the mean excess of the draws over the value is taken off.

    Returns:
        Bounds with the value between them. Of a value of 0 or 1 both are the value: no draw is another one, and there
        is nothing to estimate from. (None, None) without a value, with fewer than two units, or as
        `percentile_interval` does.
    """
    defined = values[~np.isnan(values)]
    if value is None or len(defined) < 2 or 2 * len(defined) < len(values) or units < 2:
        return None, None
    error = float(np.std(defined, ddof=1)) * np.sqrt(units / (units - 1))
    return logit_bounds(value, error, units, float(defined.mean()) - value if centred else 0.0)


def logit_bounds(value: float, error: float, units: int, excess: float = 0.0) -> tuple[float, float]:
    """95 % interval of a value between 0 and 1 by its standard error, carried over to log-odds and back.

    Args:
        value: 0 to 1.
        error: its standard error.
        units: patients that it was estimated from, two or more.
        excess: by how much the value lies above the truth on average; the bounds are moved down by it, and hold the
            value all the same.
    """
    if not 0 < value < 1:
        return value, value
    slope = value * (1 - value)
    middle = np.log(value / (1 - value)) - excess / slope
    reach = special.stdtrit(units - 1, 0.975) * error / slope
    low, high = special.expit(middle - reach), special.expit(middle + reach)
    return min(float(low), value), max(float(high), value)  # the way there and back rounds


def interval(
    kind: str, value: float | None, values: npt.NDArray[np.float64], units: int
) -> tuple[float | None, float | None]:
    """The bounds that a metric has by its draws, or a mean of metrics by the mean of their draws.

    Args:
        kind: what `Metric.interval` says of it.
        value: of all samples.
        values: (D,) of the draws, NaN where not defined.
        units: `Resample.units`.
    """
    if kind in (LOGIT_INTERVAL, CENTRED_LOGIT_INTERVAL, JACKKNIFE_LOGIT_INTERVAL):
        return logit_interval(value, values, units, centred=kind != LOGIT_INTERVAL)
    return percentile_interval(values)


def smaller_stratum(patients: int, positive_patients: int) -> int:
    """Patients of the smaller of the two strata, of a single one where the other is empty."""
    sizes = [size for size in (positive_patients, patients - positive_patients) if size]
    return min(sizes, default=0)
