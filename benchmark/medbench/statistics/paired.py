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

from medbench.records import Identity, Record, fraction_name, sha256_json
from medbench.results import Results, repeats

Floats = npt.NDArray[np.float64]

_ZERO: Final = 1e-12  # a difference of metrics of the range 0 to 1 that is rounding


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
        The difference of the means over seeds. A seed whose predictions repeat another's is left out, and so is one
        without a value; `reason` says so. Without a value where the records can't be compared.

    Raises:
        DataError: a file beside a record is not the recorded one.
    """
    folders = (results, other or results)
    sides, said = [], []
    for records in (a, b):
        kept, why = _counting(records)
        if not kept:
            return Difference(reason=why or "no record")
        sides.append(kept)
        said += [why] if why else []
    count = (len(sides[0]), len(sides[1]))
    if unlike := _unlike([*sides[0], *sides[1]]):
        return Difference(seeds=count, reason=unlike)
    values = [np.array([_value(record) for record in side]) for side in sides]
    if min(count) < 2:
        said.append("one seed: training noise not counted")
    value = float(values[0].mean() - values[1].mean())
    noise, test = _noise(folders, sides)
    if isinstance(noise, str):
        return Difference(value=value, seeds=count, reason="; ".join([noise, *said]))
    return _tested(value, values, noise, test, "; ".join(said))


def difference_of(values: tuple[Floats, Floats], noise: tuple[Floats, Floats], test: str) -> Difference:
    """The same from numbers.

    Args:
        values: of both sides, (seeds,) each.
        noise: of both sides, (seeds, M) each: vectors whose products are the covariances by other patients, as
            influences on an AUROC are, or centred draws over the root of their number less 1.
        test: how to call it.
    """
    said = "one seed: training noise not counted" if min(map(len, values)) < 2 else ""
    return _tested(float(values[0].mean() - values[1].mean()), values, noise, test, said)


def _tested(
    value: float, values: Sequence[Floats], noise: Sequence[Floats], test: str, reason: str
) -> Difference:
    count = (len(values[0]), len(values[1]))
    moved = noise[0].mean(axis=0) - noise[1].mean(axis=0)  # (M,)
    se_test = float(np.sqrt(moved @ moved))
    variance, freedom, se_training = se_test**2, math.inf, None
    if min(count) > 1:
        spread = [float(np.var(own, ddof=1)) / len(own) for own in values]
        # What seeds differ by because they err on different films, which is in `se_test` already.
        films = [float(np.var(own, axis=0, ddof=1).sum()) / len(own) for own in noise]
        training = max(0.0, sum(spread) - sum(films))
        se_training = math.sqrt(training)
        variance += training
        parts = sum(own**2 / (len(v) - 1) for own, v in zip(spread, values, strict=True))
        if training > 0 and parts > 0:
            freedom = variance**2 / parts
    se = math.sqrt(variance)
    found = Difference(value, None, None, None, se_test, se_training, freedom, test, count, reason)
    if abs(value) <= _ZERO and se <= _ZERO:
        return replace(found, value=0.0, low=0.0, high=0.0, p=1.0)
    if se <= _ZERO:
        why = "the difference is the same in every draw, so that nothing is known of its noise"
        return replace(found, reason="; ".join(filter(None, [why, reason])))
    reach = float(stats.t.ppf(0.975, freedom)) * se
    p = float(2 * stats.t.sf(abs(value) / se, freedom))
    return replace(found, low=value - reach, high=value + reach, p=p)


def _counting(records: Sequence[Record]) -> tuple[list[Record], str]:
    """Records with a value, no repeats among them, by seed; and what was left out, in words."""
    sound = [record for record in records if not math.isnan(_value(record))]
    said = []
    for record in records:
        if math.isnan(_value(record)):
            why = record.reason or (record.error and record.error.message) or "its metric is not defined"
            said.append(f"{_who(record)}: {record.status}, {why}")
    pairs = repeats(sound)
    for repeat, first in pairs:
        said.append(
            f"{_who(repeat)} repeats the predictions of seed {first.identity.seed} and is not counted"
        )
    repeated = {id(repeat) for repeat, _ in pairs}
    kept = [record for record in sound if id(record) not in repeated]
    return sorted(kept, key=lambda r: (r.identity.seed is not None, r.identity.seed or 0)), "; ".join(said)


def _who(record: Record) -> str:
    seed = record.identity.seed
    return f"{record.identity.method} {'any seed' if seed is None else f'seed {seed}'}"


def _value(record: Record) -> float:
    """Of the primary metric; NaN without one."""
    value = None if record.primary is None else record.primary.value
    return math.nan if value is None else value


_ALIKE: Final[dict[str, Callable[[Identity], object]]] = {
    "tasks": lambda i: i.task,
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


def _unlike(records: Sequence[Record]) -> str:
    """Why these records are not of one column, "" where they are."""
    for what, of in _ALIKE.items():
        found = list(dict.fromkeys(str(of(record.identity)) for record in records))
        if len(found) > 1:
            return f"different {what}: {' and '.join(found)}"
    metrics = {f"{r.primary_metric} version {r.primary.version}" for r in records if r.primary is not None}
    if len(metrics) > 1:
        return f"different metrics: {' and '.join(sorted(metrics))}"
    return ""


def _noise(
    folders: tuple[Results, Results], sides: Sequence[Sequence[Record]]
) -> tuple[tuple[Floats, Floats] | str, str]:
    """See `difference_of`; or why there is none."""
    if noise := _by_influence(folders, sides):
        return noise, "DeLong"
    drawn: list[list[Floats]] = []
    keys: set[str] = set()
    for folder, side in zip(folders, sides, strict=True):
        own = []
        for record in side:
            bootstrap = folder.bootstrap(record)
            if bootstrap is None:
                return (
                    f"{_who(record)} has no draws, and none can be computed: rescore its record "
                    "(`medbench results rescore --out`)"
                ), ""
            if bootstrap.resample.patients < 2:
                return "one patient in the test set: nothing is known of the noise", ""
            own.append(bootstrap.draws)
            keys.add(bootstrap.resample.key)
        drawn.append(own)
    if len(keys) > 1:
        return "the draws are of different patients: the records were made from different test sets", ""
    whole = np.stack([*drawn[0], *drawn[1]])  # (records, D)
    defined = ~np.isnan(whole).any(axis=0)
    if 2 * np.count_nonzero(defined) < whole.shape[1]:
        return "the metric is not defined in most draws", ""
    whole = whole[:, defined]
    centred = (whole - whole.mean(axis=1, keepdims=True)) / np.sqrt(whole.shape[1] - 1)
    return (centred[: len(drawn[0])], centred[len(drawn[0]) :]), "paired bootstrap"


def _by_influence(
    folders: tuple[Results, Results], sides: Sequence[Sequence[Record]]
) -> tuple[Floats, Floats] | None:
    """None where the metric is no AUROC, or predictions of a record are not there."""
    found = []
    patients: npt.NDArray[np.str_] | None = None
    for folder, side in zip(folders, sides, strict=True):
        own = []
        for record in side:
            one = folder.influence(record)
            if one is None or (patients is not None and not np.array_equal(patients, one.patients)):
                return None
            patients = one.patients
            own.append(one.moves)
        found.append(np.stack(own))
    return found[0], found[1]


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


ALPHA: Final = 0.05
"""A difference with a p-value below is beyond noise."""
