"""All pairs of rows of a column at once, by matrix operations; what `medbench compare` computes for one pair.

The statistics are those of `medbench.statistics.paired`, which says why. 100 rows have 4,950 pairs, whose noise is one
product of a matrix (rows, draws) with itself.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.metrics.bootstrap import interval
from medbench.records import Record
from medbench.results import Results
from medbench.statistics.paired import Difference, difference_of

Floats = npt.NDArray[np.float64]

_NORMAL = float(stats.norm.ppf(0.975))

_ZERO = 1e-12  # a difference of metrics of the range 0 to 1 that is rounding


@dataclass(frozen=True, eq=False)
class Noise:
    """How other patients would move each seed of a row, as vectors whose products are covariances.

    Attributes:
        group: vectors of one group are of the same patients, entry by entry.
        seeds: (seeds, M) influences on an AUROC, or bootstrap draws as they are (NaN where not defined).
    """

    group: str
    seeds: Floats


@dataclass(frozen=True, eq=False)
class Entry:
    """A row in one column, by the records that count.

    Attributes:
        key: of the row.
        values: (seeds,) primary metric.
        draws: bootstrap draws of every seed; None where one has none, or of other patients.
        influence: likewise by DeLong, where the metric is an AUROC and predictions are there.
        one_patient: the test set is a single patient, of whose noise nothing is known.
        kind: how the interval of the metric is made.
        delong_se: standard error of the mean over seeds by DeLong, where it is known.
    """

    key: str
    values: Floats
    draws: Noise | None
    influence: Noise | None
    one_patient: bool
    kind: str
    delong_se: float | None

    @property
    def mean_draws(self) -> Floats | None:
        """(D,) draws of the mean over seeds, NaN where one is not defined."""
        return None if self.draws is None else self.draws.seeds.mean(axis=0)

    def interval(self) -> tuple[float | None, float | None]:
        """95 % of the mean over seeds, over test patients."""
        draws = self.mean_draws
        if draws is None:
            return None, None
        return interval(self.kind, float(self.values.mean()), draws)

    def delong(self) -> tuple[float, float] | None:
        """The same by DeLong."""
        if self.delong_se is None:
            return None
        mean, reach = float(self.values.mean()), _NORMAL * self.delong_se
        return max(0.0, mean - reach), min(1.0, mean + reach)


def entry(results: Results, key: str, records: Sequence[Record]) -> Entry:
    """Of a row with its records in one column, one a seed, each with a value."""
    values = np.array([r.primary.value for r in records if r.primary is not None], dtype=np.float64)
    kind = next(r.primary.interval for r in records if r.primary is not None)
    bootstraps = [own for r in records if (own := results.bootstrap(r)) is not None]
    influences = [own for r in records if (own := results.influence(r)) is not None]
    draws = influence = delong_se = None
    if len(bootstraps) == len(records) and len({b.resample.key for b in bootstraps}) == 1:
        draws = Noise(bootstraps[0].resample.key, np.stack([b.draws for b in bootstraps]))
    groups = {_group(own.patients) for own in influences}
    if len(influences) == len(records) and len(groups) == 1:
        influence = Noise(min(groups), np.stack([own.moves for own in influences]))
        delong_se = float(np.linalg.norm(influence.seeds.mean(axis=0)))
    elif len(records) == 1 and records[0].draws is not None:
        delong_se = records[0].draws.delong_se
    one_patient = any(b.resample.patients < 2 for b in bootstraps)
    return Entry(key, values, draws, influence, one_patient, kind, delong_se)


def _group(patients: npt.NDArray[np.str_]) -> str:
    return hashlib.sha256("\n".join(patients.tolist()).encode()).hexdigest()


def differences(entries: Sequence[Entry]) -> list[tuple[int, int, Difference]]:
    """Every pair (i, j) with i < j, and entry i minus entry j."""
    if len(entries) < 2:
        return []
    first, second = np.triu_indices(len(entries), 1)
    whole = [
        None if e.draws is None or e.one_patient or _gaps(e.draws) else _centred(e.draws) for e in entries
    ]
    delong, within_delong = _variances([e.influence for e in entries])
    drawn, within_drawn = _variances(whole)
    by_delong = ~np.isnan(delong[first, second])

    count = np.array([len(e.values) for e in entries], dtype=np.float64)
    mean = np.array([e.values.mean() for e in entries])
    # (rows,) variance of a mean over seeds, and how much of it is that seeds err on different films
    spread = np.array([_variance(e.values) for e in entries])
    value = mean[first] - mean[second]
    test = np.where(by_delong, delong[first, second], drawn[first, second])
    within = np.where(
        by_delong,
        within_delong[first] + within_delong[second],
        within_drawn[first] + within_drawn[second],
    )
    several = (count[first] > 1) & (count[second] > 1)
    training = np.where(several, np.maximum(0.0, spread[first] + spread[second] - within), 0.0)
    variance = test + training
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = spread**2 / (count - 1)
        parts = np.where(count > 1, parts, 0.0)[first] + np.where(count > 1, parts, 0.0)[second]
        freedom = np.where((training > 0) & (parts > 0), variance**2 / parts, np.inf)
        se = np.sqrt(variance)
        reach = stats.t.ppf(0.975, freedom) * se
        p = 2 * stats.t.sf(np.abs(value) / se, freedom)
    columns = (value, reach, p, np.sqrt(test), np.sqrt(training), freedom, se)
    found = []
    for n, numbers in enumerate(zip(*(np.asarray(own).tolist() for own in columns), strict=True)):
        i, j = int(first[n]), int(second[n])
        a, b = entries[i], entries[j]
        if np.isnan(test[n]):
            difference = _alone(a, b)
        else:
            name = "DeLong" if by_delong[n] else "paired bootstrap"
            difference = _difference(name, bool(several[n]), (len(a.values), len(b.values)), *numbers)
        found.append((i, j, difference))
    return found


def _difference(
    test: str,
    several: bool,
    seeds: tuple[int, int],
    value: float,
    reach: float,
    p: float,
    se_test: float,
    se_training: float,
    freedom: float,
    se: float,
) -> Difference:
    reason = "" if several else _ONE_SEED
    training = se_training if several else None
    if se <= _ZERO:
        if abs(value) <= _ZERO:
            return Difference(0.0, 0.0, 0.0, 1.0, se_test, training, freedom, test, seeds, reason)
        reason = "; ".join(filter(None, [_NO_NOISE, reason]))
        return Difference(value, None, None, None, se_test, training, freedom, test, seeds, reason)
    return Difference(value, value - reach, value + reach, p, se_test, training, freedom, test, seeds, reason)


_ONE_SEED = "one seed: training noise not counted"
_NO_NOISE = "the difference is the same in every draw, so that nothing is known of its noise"


def _alone(a: Entry, b: Entry) -> Difference:
    """A pair that is not in the matrices: nothing is known of its noise, or some draws are not defined."""
    value, seeds = float(a.values.mean() - b.values.mean()), (len(a.values), len(b.values))
    if a.one_patient or b.one_patient:
        return Difference(
            value, seeds=seeds, reason="one patient in the test set: nothing is known of the noise"
        )
    if a.draws is None or b.draws is None:
        return Difference(
            value,
            seeds=seeds,
            reason="no draws, and none can be computed: rescore the records (`medbench results rescore --out`)",
        )
    if a.draws.group != b.draws.group:
        return Difference(
            value,
            seeds=seeds,
            reason="the draws are of different patients: the records were made from different test sets",
        )
    both = np.concatenate([a.draws.seeds, b.draws.seeds])  # (seeds of both, D)
    defined = ~np.isnan(both).any(axis=0)
    if 2 * np.count_nonzero(defined) < both.shape[1]:
        return Difference(value, seeds=seeds, reason="the metric is not defined in most draws")
    centred = _centred(Noise("", both[:, defined])).seeds
    return difference_of(
        (a.values, b.values), (centred[: len(a.values)], centred[len(a.values) :]), "paired bootstrap"
    )


def _gaps(noise: Noise) -> bool:
    return bool(np.isnan(noise.seeds).any())


def _centred(draws: Noise) -> Noise:
    """Draws as vectors whose products are covariances."""
    seeds = draws.seeds - draws.seeds.mean(axis=1, keepdims=True)
    return Noise(draws.group, seeds / np.sqrt(seeds.shape[1] - 1))


def _variance(values: Floats) -> float:
    """Of the mean over seeds; 0 of one seed, of which it says nothing."""
    return float(values.var(ddof=1)) / len(values) if len(values) > 1 else 0.0


def _variances(noise: Sequence[Noise | None]) -> tuple[Floats, Floats]:
    """Of the differences of means over seeds, by other patients.

    Returns:
        (rows, rows), NaN where one side has no vectors or theirs are of other patients; and (rows,) the part of a row's
        spread over seeds that is patients, 0 of one seed.
    """
    rows = len(noise)
    variance, within = np.full((rows, rows), np.nan), np.zeros(rows)
    groups: dict[str, list[int]] = {}
    for number, own in enumerate(noise):
        if own is not None:
            groups.setdefault(own.group, []).append(number)
            if len(own.seeds) > 1:
                within[number] = own.seeds.var(axis=0, ddof=1).sum() / len(own.seeds)
    for members in groups.values():
        means = np.stack([own.seeds.mean(axis=0) for n in members if (own := noise[n]) is not None])
        product = means @ means.T  # (members, M) x (M, members)
        own = np.diagonal(product)[:, None] + np.diagonal(product)[None, :]
        apart = own - 2 * product
        # Equal vectors leave the rounding of their products.
        variance[np.ix_(members, members)] = np.where(apart > 1e-14 * own, apart, 0.0)
    return variance, within
