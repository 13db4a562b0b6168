"""The difference of two methods on one test set, how sure it is, and whether it is more than noise.

Two things make a difference noisy. **The test set**: other patients would give other numbers. Both methods saw the same
patients, so what matters is the noise of the difference and not that of either: where the metric is an AUROC and
predictions are there by DeLong (`medbench.statistics.delong`), else by the bootstrap draws of both records, which are
of the same patients draw by draw. **Training**: another seed would give another model. It is estimated from the spread
over seeds where both methods have at least two, and can not be where one has a single seed; that is then said.

The spread over seeds, on one test set, is part training and part test set: two models of one method err on different
films. That second part is in the noise of the test set already, and is not counted twice. How large it is the draws
say: it is how much the seeds' draws move against each other.

Interval and p-value come from one t distribution, so that they never contradict each other: p is below 0.05 where, and
only where, the 95 % interval leaves out 0. Its degrees of freedom are Satterthwaite's (Biometrics 1946); the noise of
the test set counts as known, that of three seeds does not.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.metrics.bootstrap import Bootstrap, interval, logit_bounds
from medbench.records import Identity, Record, fraction_name, sha256_json
from medbench.results import Results, counting, task_owner
from medbench.statistics.delong import Influence

Floats = npt.NDArray[np.float64]

ALPHA: Final = 0.05
"""A difference with a p-value below is beyond noise."""

_ROUNDING: Final = 1e-12  # of metrics of the range 0 to 1, and of a variance as a part of what it is made of


@dataclass(frozen=True)
class Difference:
    """Of two methods in one column of a table, a - b, in the metric's own unit.

    Attributes:
        value: of the means over seeds; None where they can't be compared, and `reason` says why.
        low, high: bounds of the 95 % interval; None where nothing is known of the noise.
        p: two-sided, of no difference; not adjusted for further comparisons.
        se_test: standard error by other patients.
        se_training: standard error by other seeds, None where a side has one seed.
        freedom: degrees of freedom of the t distribution, infinite for a normal one.
        test: "DeLong" or "paired bootstrap", "" where nothing was computed.
        seeds: how many of each side count.
        reason: why there is no difference, or what has to be said of it.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    se_test: float | None = None
    se_training: float | None = None
    freedom: float = math.inf
    test: str = ""
    seeds: tuple[int, int] = (0, 0)
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Noise:
    """What other patients would do to the mean over the seeds of one method.

    Attributes:
        key: what `moves` are of; those of one key belong together, entry by entry.
        moves: (M,) float64. Influence of each patient on an AUROC, whose products are covariances; or the bootstrap
            draws, NaN where the metric is not defined, whose covariances are those of numbers.
        apart: variance of the mean by seeds erring on different films; 0 with one seed.
        units: patients that the noise is estimated from, of the smaller stratum.
    """

    key: str
    moves: Floats
    apart: float
    units: int


@dataclass(frozen=True, eq=False)
class Side:
    """One method in one column of a table.

    Attributes:
        values: (seeds,) primary metric of each seed that counts; empty where none does.
        delong: of an AUROC whose predictions are there, else None.
        draws: of the bootstrap, None where a seed has none.
        said: what does not count, and why.
        lacking: why there are no draws, "" where there are.
    """

    values: Floats
    delong: Noise | None = None
    draws: Noise | None = None
    said: str = ""
    lacking: str = ""

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return float(self.values.mean()) if len(self.values) else None

    def interval(self, kind: str) -> tuple[float | None, float | None]:
        """95 % interval of the mean over seeds by the draws, which are other patients; other seeds are not in it.

        Args:
            kind: how the metric's own interval is made (`Metric.interval`).
        """
        if self.draws is None:
            return None, None
        return interval(kind, self.mean, self.draws.moves, self.draws.units)

    def delong_interval(self) -> tuple[float, float] | None:
        """The same by DeLong, on the log-odds scale; None where there is none."""
        if self.delong is None or self.mean is None:
            return None
        error = float(np.sqrt(self.delong.moves @ self.delong.moves))
        return logit_bounds(self.mean, error, self.delong.units)


def side(results: Results, records: Sequence[Record]) -> Side:
    """A method by its records in one column, which differ in nothing but the seed.

    A seed whose predictions repeat another's is left out, and so is one without a value; of two records of one seed
    nobody knows which counts, and none of the side does. `said` says so.

    Raises:
        DataError: a file beside a record is not the recorded one.
    """
    kept, said = _counting(records)
    values = np.array([_value(record) for record in kept], np.float64)
    if not kept:
        return Side(values, said=said or "no record")
    influences = [results.influence(record) for record in kept]
    drawn: list[Bootstrap] = []
    lacking = ""
    for record in kept:
        bootstrap = results.bootstrap(record)
        if bootstrap is None:
            lacking = (
                f"{_who(record)} has no draws: `medbench results rescore --out` makes them of predictions"
            )
        elif bootstrap.resample.patients < 2:
            lacking = "one patient in the test set: nothing is known of the noise"
        else:
            drawn.append(bootstrap)
    draws = None
    if not lacking:
        keys = {bootstrap.resample.key for bootstrap in drawn}
        if len(keys) > 1:
            lacking = f"seeds of {kept[0].identity.method} were tested on different patients"
        else:
            draws = of_draws(
                keys.pop(), np.stack([bootstrap.draws for bootstrap in drawn]), drawn[0].resample.units
            )
    return Side(values, of_influences(influences), draws, said, lacking)


def of_draws(key: str, draws: Floats, units: int) -> Noise:
    """Noise of the mean over seeds.

    Args:
        key: of the resamples.
        draws: (seeds, D), NaN where not defined.
        units: patients of the smaller stratum.
    """
    defined = draws[:, ~np.isnan(draws).any(axis=0)]
    count = defined.shape[1]
    apart = _apart(defined - defined.mean(axis=1, keepdims=True)) / (count - 1) if count > 1 else 0.0
    return Noise(key, draws.mean(axis=0), apart, units)


def of_influences(found: Sequence[Influence | None]) -> Noise | None:
    """Likewise from the influences of each seed; None where one lacks, or they are of other patients."""
    known = [one for one in found if one is not None]
    keys = {sha256_json(one.patients.tolist()) for one in known}
    if len(known) < len(found) or len(keys) != 1:
        return None
    each = np.stack([one.moves for one in known])  # (seeds, patients)
    return Noise(keys.pop(), each.mean(axis=0), _apart(each), known[0].units)


def _apart(moves: Floats) -> float:
    """(seeds, M) -> variance of their mean by what they do not share."""
    seeds = len(moves)
    return float(np.var(moves, axis=0, ddof=1).sum()) / seeds if seeds > 1 else 0.0


def compare(
    results: Results, a: Sequence[Record], b: Sequence[Record], other: Results | None = None
) -> Difference:
    """The difference of two methods, each by its records of all seeds in one column.

    Args:
        results: that the records were read from.
        a: records of one method that differ in nothing but the seed.
        b: those of the other method.
        other: that `b` were read from, if it is another folder.

    Returns:
        The difference of the means over seeds, see `side` for which count. Without a value where the records can't be
        compared.

    Raises:
        DataError: a file beside a record is not the recorded one.
    """
    if why := unlike([*a, *b]):
        return Difference(reason=why)
    [found] = differences([side(results, a), side(other or results, b)])
    return found


def differences(sides: Sequence[Side]) -> list[Difference]:
    """All pairs of methods in one column: 0 and 1, 0 and 2 ... 1 and 2 ..., the first less the second.

    Args:
        sides: of one column, see `side`.
    """
    first, second = np.triu_indices(len(sides), 1)
    if not len(first):
        return []
    count = np.array([len(s.values) for s in sides])
    means = np.array([math.nan if s.mean is None else s.mean for s in sides])
    value = means[first] - means[second]
    value[np.abs(value) <= _ROUNDING] = 0.0
    spread = np.array(
        [np.var(s.values, ddof=1) / len(s.values) if len(s.values) > 1 else math.nan for s in sides]
    )

    test: Floats = np.full(len(first), math.nan)
    apart: Floats = np.full(len(first), math.nan)
    named = np.full(len(first), "", object)
    for name, noises in (
        ("paired bootstrap", [s.draws for s in sides]),
        ("DeLong", [s.delong for s in sides]),  # where there is one, it takes the place of the other
    ):
        variances = _variances(noises, drawn=name != "DeLong")[first, second]
        own = np.array([0.0 if noise is None else noise.apart for noise in noises])
        there = ~np.isnan(variances)
        test[there], apart[there], named[there] = variances[there], (own[first] + own[second])[there], name

    both = np.stack([first, second])
    found = judged(value, test, spread[both], apart, count[both])
    return [
        _said(
            (sides[i], sides[j]),
            Difference(
                value=float(value[k]),
                low=float(value[k] - found.reach[k]),
                high=float(value[k] + found.reach[k]),
                p=float(found.p[k]),
                se_test=float(np.sqrt(test[k])),
                se_training=None if np.isnan(found.training[k]) else float(np.sqrt(found.training[k])),
                freedom=float(found.freedom[k]),
                test=named[k],
                seeds=(int(count[i]), int(count[j])),
            ),
        )
        for k, (i, j) in enumerate(zip(first.tolist(), second.tolist(), strict=True))
    ]


@dataclass(frozen=True, eq=False)
class Judged:
    """Of many differences, (K,) each.

    Attributes:
        training: variance by other seeds, NaN where a side has one.
        freedom: of the t distribution.
        p: two-sided.
        reach: half of the width of the 95 % interval.
    """

    training: Floats
    freedom: Floats
    p: Floats
    reach: Floats


def judged(
    value: Floats, test: Floats, spread: Floats, apart: Floats, seeds: npt.NDArray[np.int64]
) -> Judged:
    """p-values and intervals of differences of means over seeds.

    Args:
        value: (K,) differences.
        test: (K,) their variance by other patients, NaN where it is not known.
        spread: (2, K) of each side its variance over seeds, divided by their number; NaN with one.
        apart: (K,) variance of both means by seeds erring on different films, which is in `test` and in `spread`.
        seeds: (2, K) how many each side has.
    """
    training = np.maximum(0.0, spread[0] + spread[1] - apart)
    counted = ~np.isnan(training)
    variance = test + np.where(counted, training, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (spread**2 / (seeds - 1)).sum(axis=0)
        freedom = np.where(counted & (training > 0), variance**2 / parts, math.inf)
        t = np.abs(value) / np.sqrt(variance)
    p = np.asarray(2 * stats.t.sf(t, freedom))
    reach = np.asarray(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    return Judged(training, freedom, p, reach)


def _said(sides: tuple[Side, Side], found: Difference) -> Difference:
    """With what has to be said of it, and without what is not known."""
    said = [one.said for one in sides if one.said]
    if not all(found.seeds):
        return Difference(seeds=found.seeds, reason="; ".join(said))
    if min(found.seeds) < 2:
        said.append("one seed: training noise not counted")
    bare = Difference(value=found.value, seeds=found.seeds)
    if not found.test:
        lacking = list(dict.fromkeys(one.lacking for one in sides if one.lacking)) or [
            "the draws are of different patients, or most of them are not defined"
        ]
        return replace(bare, reason="; ".join([*lacking, *said]))
    if found.se_test or found.se_training:
        return replace(found, reason="; ".join(said))
    if found.value == 0:
        return replace(found, low=0.0, high=0.0, p=1.0, reason="; ".join(said))
    why = "the difference is the same for any patients: nothing is known of its noise"
    return replace(bare, reason="; ".join([why, *said]))


def _variances(noises: Sequence[Noise | None], *, drawn: bool) -> Floats:
    """(S, S) variance of each difference by other patients; NaN where two have no noise of one key.

    Args:
        noises: of each method.
        drawn: whether they are draws; else influences.
    """
    found = np.full((len(noises), len(noises)), math.nan)
    known = [(k, noise) for k, noise in enumerate(noises) if noise is not None]
    for key in {noise.key for _, noise in known}:
        at = [k for k, noise in known if noise.key == key]
        moves = np.stack([noise.moves for _, noise in known if noise.key == key])
        if np.isnan(moves).any():  # where a metric is not defined is each method's own
            for i in range(len(at)):
                for j in range(i):
                    pair = _products(moves[[i, j]], drawn=drawn)[0, 1]
                    found[at[i], at[j]] = found[at[j], at[i]] = pair
        else:
            found[np.ix_(at, at)] = _products(moves, drawn=drawn)
    return found


def _products(moves: Floats, *, drawn: bool) -> Floats:
    """(S, M) -> (S, S), see `_variances`; NaN where fewer than half of M are defined throughout."""
    defined = ~np.isnan(moves).any(axis=0)
    if 2 * np.count_nonzero(defined) < moves.shape[1]:
        return np.full((len(moves), len(moves)), math.nan)
    moves = moves[:, defined]
    if drawn:
        moves = (moves - moves.mean(axis=1, keepdims=True)) / np.sqrt(max(1, moves.shape[1] - 1))
    products = moves @ moves.T
    own = np.diagonal(products)
    variances: Floats = own[:, None] + own - 2 * products
    variances[variances <= _ROUNDING * (own[:, None] + own)] = 0.0
    return variances


def _counting(records: Sequence[Record]) -> tuple[list[Record], str]:
    """Records that count, by seed; and what was left out, in words."""
    found, said = counting(records), []
    for record in records:
        if record.status != "ok" or record in found.undefined:
            why = record.reason or (record.error and record.error.message) or "its metric is not defined"
            said.append(f"{_who(record)}: {record.status}, {why}")
    for same in found.several:
        ids = ", ".join(record.cell_id[:12] for record in same)
        said.append(f"cells {ids} are all {_who(same[0])}: keep the one that counts")
    for repeat, first in found.repeated:
        said.append(
            f"{_who(repeat)} repeats the predictions of seed {first.identity.seed} and is not counted"
        )
    return list(found.counted), "; ".join(said)


def _who(record: Record) -> str:
    seed = record.identity.seed
    return f"{record.identity.method} {'any seed' if seed is None else f'seed {seed}'}"


def _value(record: Record) -> float:
    """Of the primary metric; NaN without one."""
    value = None if record.primary is None else record.primary.value
    return math.nan if value is None else value


_ALIKE: Final[dict[str, Callable[[Identity], object]]] = {
    "tasks": lambda i: i.task,
    "owners of the task": task_owner,
    "versions of the task": lambda i: i.task_version,
    "label fractions": lambda i: fraction_name(i.fraction),
    "recipes": lambda i: i.recipe,
    "sources of data": lambda i: i.source,
    "datasets": lambda i: i.dataset + (f", subset {i.subset}" if i.subset else ""),
    "versions of the data": lambda i: i.data_fingerprint[:12],
    "test sets": lambda i: f"{i.split} {i.split_sha256[:12]}",
    "settings of the task": lambda i: sha256_json(i.task_config)[:12],
}
"""What two records in one column share; the words for more than one of it."""


def unlike(records: Sequence[Record]) -> str:
    """Why these records are not of one column, "" where they are."""
    for what, of in _ALIKE.items():
        found = list(dict.fromkeys(str(of(record.identity)) for record in records))
        if len(found) > 1:
            return f"different {what}: {' and '.join(found)}"
    metrics = {f"{r.primary_metric} version {r.primary.version}" for r in records if r.primary is not None}
    if len(metrics) > 1:
        return f"different metrics: {' and '.join(sorted(metrics))}"
    return ""


def verdict(difference: Difference, a: str, b: str, higher_is_better: bool, p: float | None = None) -> str:
    """What a difference a - b says, in words.

    Args:
        difference: of the two.
        a: name of the first.
        b: name of the second.
        higher_is_better: direction of the metric.
        p: to judge by, if it is another than the difference's own (adjusted for further comparisons).
    """
    judged = difference.p if p is None else p
    if difference.value is None or judged is None:
        return f"not comparable: {difference.reason}"
    if judged >= ALPHA:
        return "no difference beyond noise"
    return f"{a if (difference.value > 0) == higher_is_better else b} is better"
