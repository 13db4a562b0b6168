"""Any metric by subgroup: by sex, age band or view, with the worst group and the gap to the best.

A mean over all patients can hide that a model serves some of them badly. Every group is measured by itself,
with its own interval. The worst and the best are looked for among groups with at least 20 samples behind the
number; smaller ones are shown and say so. So are those that lack the positives of some class, so that their
mean over classes is one over other classes. Samples whose group is not known are a group of their own, which is
never the worst and never the best: nobody can act on it.

Some metrics depend on how many samples there are, whoever they are: a calibration error grows as samples get fewer, and
the spread over prompts is in units of the samples' own. These have a value in each group, and no worst and no gap.

Both the worst figure and the gap are extremes over groups. They get worse the more and the smaller the groups
are, even where all are served alike, so they are read beside the intervals of the groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.patients import OLDEST
from medbench.task import Metric

Measure = Callable[[pd.DataFrame], Sequence[Metric]]
"""Predictions, one row a sample -> metrics, such as `Task.score`."""

LEAST: Final = 20
"""Samples behind a number that may be called the worst or the best."""

UNKNOWN: Final = "unknown"
"""Name of the group of samples whose group is not known."""

AGE_BANDS: Final = ("0-17", "18-39", "40-59", "60-79", "80 and above")
"""Bands of completed years."""

_NOT_COMPARED: Final = {
    "ece_": "grows by chance as samples get fewer: groups of different sizes are not compared",
    "_prompts_": "is in units of each group's own samples: groups are not compared",
}
"""Why metrics with this in their name are not compared between groups."""

_BAND_STARTS: Final = (18, 40, 60, 80)


@dataclass(frozen=True)
class Group:
    """One group and its numbers. JSON types only.

    Attributes:
        name: value of the column, or `unknown`.
        known: False for the samples whose group is not known.
        samples: rows in the group; `Metric.n` of its metrics says how many of them count.
        patients: of these samples. A patient can be in several groups (films of two views, at two ages).
        metrics: of the group alone, in the order of the whole.
        notes: by name of the metric, what has to be said of it: why it has no value or no interval, or why it is
            left out of the worst and the best. Metrics with nothing to say are absent.
    """

    name: str
    known: bool
    samples: int
    patients: int
    metrics: tuple[Metric, ...]
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """How far apart the groups are in one metric. JSON types only.

    Attributes:
        metric: its name.
        higher_is_better: direction.
        worst: value of the worst group, None where no group counts.
        worst_low, worst_high: bounds of that group's own 95 % interval.
        worst_group: its name; of equal ones the first.
        best: value of the best group.
        best_group: its name; of equal ones the first.
        gap: distance of best and worst, 0 or more; None with fewer than two groups that count.
        left_out: groups that do not count, because they are small, not known, have no value, or a mean over fewer
            classes than all samples have; all of them for a metric that is not compared between groups.
        reason: why there is no worst or no gap, "" where there are both.
    """

    metric: str
    higher_is_better: bool
    worst: float | None
    worst_low: float | None
    worst_high: float | None
    worst_group: str | None
    best: float | None
    best_group: str | None
    gap: float | None
    left_out: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Subgroups:
    """All metrics by the groups of one column. JSON types only.

    Attributes:
        column: its name.
        whole: metrics of all samples.
        groups: expected groups first, then others by name, `unknown` last.
        spreads: one a metric, in the order of `whole`.
    """

    column: str
    whole: tuple[Metric, ...]
    groups: tuple[Group, ...]
    spreads: tuple[Spread, ...]


def age_bands(years: "Sequence[float | None] | npt.NDArray[np.float64] | pd.Series[float]") -> list[str]:
    """The age band of each sample.

    Args:
        years: N ages in years, fractions allowed; NaN or None where not known.

    Returns:
        N names out of `AGE_BANDS`, or `unknown` for ages that are not known, below 0 or above 120.

    Raises:
        ValueError: an age is no number ("045Y").
    """
    ages = pd.to_numeric(pd.Series(np.asarray(years, dtype=object)))
    age = ages.to_numpy(np.float64, na_value=np.nan)
    known = (age >= 0) & (age <= OLDEST)  # False for NaN
    band = np.searchsorted(_BAND_STARTS, age, side="right")
    names = np.array([*AGE_BANDS, UNKNOWN], object)
    return [str(name) for name in names[np.where(known, band, len(AGE_BANDS))]]


def subgroup_metrics(
    predictions: pd.DataFrame,
    column: str,
    measure: Measure,
    expected: Sequence[str] = (),
    whole: Sequence[Metric] | None = None,
) -> Subgroups:
    """A metric function by the groups of a column.

    Args:
        predictions: one row a sample with `patient`, `column` and what `measure` reads. The column holds names of
            groups; missing values, blanks and "unknown" in any case are not known.
        column: name of the column: `sex`, `view`, or one made by `age_bands`.
        measure: called with all rows, then with the rows of each group. A metric that a group's rows do not give
            (retrieval, where a group has queries in one direction only) has no value there.
        expected: groups to list first, and even where they have no sample (`AGE_BANDS`).
        whole: what `measure` gives for all rows, where that is known already.

    Returns:
        Metrics of every group, the worst and the gap.

    Raises:
        ValueError: `measure` refuses all rows together; a column is missing or holds fractions (ages need
            `age_bands`). A group that `measure` refuses has no values and says why.
    """
    for name in ("patient", column):
        if name not in predictions:
            raise ValueError(
                f"predictions by subgroup need a column `{name}`, found {', '.join(map(str, predictions))}"
            )
    whole = _plain(measure(predictions) if whole is None else whole)
    names = group_names(predictions[column])
    found = set(names)
    order = list(dict.fromkeys([*expected, *sorted(found - {UNKNOWN})]))
    if UNKNOWN in found and UNKNOWN not in order:
        order.append(UNKNOWN)
    groups = tuple(_group(name, predictions[names == name], measure, whole) for name in order)
    return Subgroups(column, whole, groups, tuple(_spread(k, m, groups) for k, m in enumerate(whole)))


def group_names(values: "pd.Series[str]") -> npt.NDArray[np.object_]:
    """(N,) group of each sample, `UNKNOWN` where it is not known.

    Raises:
        ValueError: the column holds fractions.
    """
    missing = values.isna().to_numpy(np.bool_)
    if pd.api.types.is_float_dtype(values) and not missing.all():
        raise ValueError(
            f"column `{values.name}` holds numbers with fractions where names of groups are expected; ages"
            " become groups by `age_bands`"
        )
    text = values.astype(object).where(~missing, "").astype(str).str.strip()
    blank = text.str.lower().isin(["", UNKNOWN]).to_numpy(np.bool_)
    return text.where(~blank, UNKNOWN).to_numpy(object)


def _group(name: str, rows: pd.DataFrame, measure: Measure, whole: Sequence[Metric]) -> Group:
    patients = int(rows["patient"].astype(str).nunique())
    refused = "" if len(rows) else "no samples"
    metrics: Sequence[Metric] = ()
    if not refused:
        try:
            metrics = measure(rows)
        except ValueError as error:  # it accepted all rows together: nothing here that it could measure
            refused = str(error)
    found = {m.name: m for m in metrics}
    nothing = [replace(m, value=None, low=None, high=None, n=0, per_class={}, reason="") for m in whole]
    metrics = [found.get(m.name, m) for m in nothing]
    known = {m.name: m for m in whole}
    notes: dict[str, str] = {}
    for metric in metrics:
        said = []
        if metric.value is None:
            said.append(refused or metric.reason or "not defined on these samples")
        elif metric.reason:
            said.append(metric.reason)
        if patients == 1 and metric.value is not None:
            said.append("one patient: no interval")
        if metric.value is not None and (lacking := _lacking(metric, known[metric.name])):
            said.append(
                f"a mean without {', '.join(lacking)}, which all samples have: neither worst nor best"
            )
        if not refused and metric.n < LEAST:
            said.append(f"{metric.n} samples, fewer than {LEAST}: neither worst nor best")
        if name == UNKNOWN:
            said.append("group not known: neither worst nor best")
        if said:
            notes[metric.name] = "; ".join(said)
    if patients == 1:  # every draw is the same patient, and bounds that meet would look like certainty
        metrics = [replace(m, low=None, high=None) for m in metrics]
    return Group(name, name != UNKNOWN, len(rows), patients, _plain(metrics), notes)


def _plain(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """Without the draws, which are no JSON and nobody's who looks at groups."""
    return tuple(replace(m, bootstrap=None) for m in metrics)


def _lacking(metric: Metric, whole: Metric) -> list[str]:
    """Classes that the metric of all samples is measured for and that of a group is not.

    A mean over other classes is another quantity: nothing is to be read off its distance to the others.
    """
    return [
        name
        for name, value in metric.per_class.items()
        if value is None and whole.per_class.get(name) is not None
    ]


def _spread(position: int, metric: Metric, groups: Sequence[Group]) -> Spread:
    """Worst, best and gap of the metric at that position of every group."""
    not_compared = next((why for part, why in _NOT_COMPARED.items() if part in metric.name), "")
    if not_compared:
        return _no_spread(metric, [group.name for group in groups], not_compared)
    counting = [
        (group.name, group.metrics[position], value)
        for group in groups
        if group.known
        and group.metrics[position].n >= LEAST
        and (value := group.metrics[position].value) is not None
        and not _lacking(group.metrics[position], metric)
    ]
    names = {name for name, _, _ in counting}
    left_out = tuple(group.name for group in groups if group.name not in names)
    if not counting:
        return _no_spread(metric, left_out, f"no group has a value from at least {LEAST} samples")
    sign = 1 if metric.higher_is_better else -1
    worst = min(counting, key=lambda entry: sign * entry[2])  # of equal ones the first
    best = max(counting, key=lambda entry: sign * entry[2])
    several = len(counting) > 1
    return Spread(
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        worst=worst[2],
        worst_low=worst[1].low,
        worst_high=worst[1].high,
        worst_group=worst[0],
        best=best[2],
        best_group=best[0],
        gap=abs(best[2] - worst[2]) if several else None,
        left_out=left_out,
        reason="" if several else f"only one group has a value from at least {LEAST} samples",
    )


def _no_spread(metric: Metric, left_out: Sequence[str], reason: str) -> Spread:
    """Of groups none of which counts."""
    nothing = (None, None, None, None, None, None, None)
    return Spread(metric.name, metric.higher_is_better, *nothing, tuple(left_out), reason)
