"""From predictions to what a record says of them: metrics, the same by subgroup, and reliability diagrams.

Needs no images, weights or index: the columns of patients are in the predictions themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.index import Index
from medbench.metrics.bootstrap import Bootstrap
from medbench.metrics.subgroups import UNKNOWN, Group, age_bands, group_names, subgroup_metrics
from medbench.records import (
    GroupBlock,
    GroupValue,
    MetricValue,
    ReliabilityBlock,
    SpreadBlock,
    SubgroupsBlock,
)
from medbench.statistics.delong import standard_error
from medbench.task import Metric, Task

COLUMNS: Final = ("sex", "age", "view")
"""Columns of an index that patients and films are grouped by."""


@dataclass(frozen=True)
class Scores:
    """Blocks of a record that are functions of the predictions alone.

    Attributes:
        metrics: the primary one first.
        subgroups: one block a column.
        reliability: two diagrams a class.
        bootstrap: draws of the primary metric, None where it has none.
        delong_se: standard error of the primary metric by DeLong, where it is an AUROC.
    """

    metrics: list[MetricValue]
    subgroups: list[SubgroupsBlock]
    reliability: list[ReliabilityBlock]
    bootstrap: Bootstrap | None = None
    delong_se: float | None = None


def with_patient_columns(predictions: pd.DataFrame, index: Index) -> pd.DataFrame:
    """Add what the index knows of each sample to the predictions, so that grouping them needs no index.

    Args:
        predictions: rows with a `sample`, which may come several times; a sample that the index does not have gets
            blanks. Rows about several films (a report of several views) list their ids in a column `films`, and get
            what is the same for all of them, else a blank.
        index: of the dataset.

    Returns:
        The predictions with those of `COLUMNS` that the index has any value of, unless they have it already.
    """
    wanted = [name for name in COLUMNS if index.knows(name) and name not in predictions]
    films = predictions["films" if "films" in predictions else "sample"].reset_index(drop=True).explode()
    rows = pd.Index(index.table["sample"]).get_indexer(pd.Index(films))
    row = films.index.to_numpy()  # of each film, rising
    first = np.unique(row, return_index=True)[1]  # film of each row
    known: dict[str, npt.NDArray[Any]] = {}
    for name in wanted:
        blank = np.nan if name == "age" else ""
        values = np.where(rows >= 0, index.table[name].to_numpy()[rows], blank)
        codes = pd.factorize(values)[0]
        mixed = np.zeros(len(predictions), np.bool_)
        mixed[row[codes != codes[first][row]]] = True
        known[name] = np.where(mixed, blank, values[first])
    return predictions.assign(**known)


def score(task: Task, predictions: pd.DataFrame) -> Scores:
    """All that a record says of these predictions.

    Args:
        task: that made them.
        predictions: as `Task.evaluate` gives them, and `with_patient_columns`.
    """
    metrics = tuple(task.score(predictions))
    return Scores(
        metrics=[_metric_value(metric) for metric in metrics],
        subgroups=_subgroups(task, predictions, metrics),
        reliability=[ReliabilityBlock(**asdict(diagram)) for diagram in task.reliability(predictions)],
        bootstrap=metrics[0].bootstrap,
        delong_se=standard_error(predictions, metrics[0].name, metrics[0].value),
    )


def _metric_value(metric: Metric) -> MetricValue:
    own = {f.name: getattr(metric, f.name) for f in fields(metric) if f.name != "bootstrap"}
    return MetricValue(**own)


def _subgroups(task: Task, predictions: pd.DataFrame, whole: Sequence[Metric]) -> list[SubgroupsBlock]:
    """One block a column in which at least two groups are known."""
    blocks = []
    for column in COLUMNS:
        if column not in predictions:
            continue
        own = predictions[column]
        names = pd.Series(age_bands(own), own.index) if column == "age" else own
        if len(set(group_names(names)) - {UNKNOWN}) < 2:
            continue
        found = subgroup_metrics(predictions.assign(**{column: names}), column, task.score_group, whole=whole)
        spreads = [SpreadBlock(**asdict(spread)) for spread in found.spreads]
        blocks.append(
            SubgroupsBlock(column=column, groups=[_group(group) for group in found.groups], spreads=spreads)
        )
    return blocks


def _group(group: Group) -> GroupBlock:
    return GroupBlock(
        name=group.name,
        known=group.known,
        samples=group.samples,
        patients=group.patients,
        metrics=[_value(metric, group.notes) for metric in group.metrics],
    )


def _value(metric: Metric, notes: Mapping[str, str]) -> GroupValue:
    return GroupValue(
        name=metric.name,
        value=metric.value,
        low=metric.low,
        high=metric.high,
        n=metric.n,
        per_class=dict(metric.per_class),
        note=notes.get(metric.name, ""),
    )
