"""Published figures in columns of their own: which cells of a table have some, and what their marks stand for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medbench_leaderboards.board import Column, Row, Table
from medbench_leaderboards.published import WIDER, Verdict

LEGEND = (
    "published: what papers print, in a column of its own, with the verdict on it: reproduced: it lies within our "
    f"interval, widened by {WIDER:g} point on each side; low: ours lies below; high: ours lies above"
)
"""How to read such a column."""


@dataclass(frozen=True)
class Beside:
    """Published figures of one table.

    Attributes:
        cells: by (row key, column key) the figures that the cell can be compared with, each with its mark.
        sources: by mark where its figures were read, what of, and what differs all the same.
        why_none: why the table has none; "" where it has some.
    """

    cells: Mapping[tuple[str, str], tuple[tuple[str, Verdict], ...]]
    sources: Mapping[str, str]
    why_none: str

    def of(self, row: Row, column: Column) -> tuple[tuple[str, Verdict], ...]:
        """Marks and figures of a cell."""
        return self.cells.get((row.key, column.key), ())

    def marks(self, column: Column) -> list[str]:
        """Those that a column has; empty where no cell of it has a figure."""
        used = {mark for (_, key), own in self.cells.items() if key == column.key for mark, _ in own}
        return [mark for mark in self.sources if mark in used]


def beside(table: Table, verdicts: Sequence[Verdict]) -> Beside:
    """Of the verdicts on all figures, those on cells of a table."""
    cells: dict[tuple[str, str], tuple[tuple[str, Verdict], ...]] = {}
    names: dict[tuple[str, str, str], dict[str, None]] = {}  # what a mark stands for -> methods as published
    marks: dict[tuple[str, str, str], str] = {}
    metrics = {column.key: column.metric for column in table.columns}
    for one in verdicts:
        if one.table != table.name or one.row is None or one.column is None:
            continue
        about = one.metric
        if one.our_metric != metrics[one.column]:
            about += f", against our {one.our_metric}, which the table does not show"
        key = one.source, about, one.why.partition(". Differs all the same: ")[2]
        mark = marks.setdefault(key, f"p{len(marks) + 1}")
        names.setdefault(key, {}).setdefault(f"{one.method} ({one.arch})")
        cells[one.row, one.column] = (*cells.get((one.row, one.column), ()), (mark, one))
    sources = {
        mark: f"{key[0]}: {key[1]}; of {', '.join(names[key])}"
        + (f"; differs all the same: {key[2]}" if key[2] else "")
        for key, mark in marks.items()
    }
    return Beside(cells, sources, "" if cells else _why_none(table))


def _why_none(table: Table) -> str:
    if table.source != "real":
        why = "those are of patients"
    elif table.recipe != "paper":
        why = f"the recipe {table.recipe} has another encoder and training"
    elif table.size != "full sets":
        why = "those are of the full sets"
    else:
        why = "none is comparable with a cell of this table, see docs/published.md"
    return f"no published figures stand beside these: {why}"
