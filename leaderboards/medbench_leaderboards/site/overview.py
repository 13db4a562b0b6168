"""The first page: every table, methods by tasks and label fractions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from medbench.cells import SOURCES
from medbench_leaderboards.board import Board, Column, MeanRank, Row, Table
from medbench_leaderboards.site.names import anchor, method_page, task_page
from medbench_leaderboards.site.pictures import Picture
from medbench_leaderboards.site.shown import Badge, Links, Shown, fidelity, find, show
from medbench_leaderboards.wording import rankings


@dataclass(frozen=True)
class Heading:
    """A task over its columns."""

    task: str
    link: str
    metric: str
    columns: tuple[tuple[str, Column], ...]


@dataclass(frozen=True)
class Rank:
    """A mean rank; "" where the row has none, and `sort` is what tables sort it by."""

    value: str = ""
    sort: str = ""
    interval: str = ""


@dataclass(frozen=True)
class Line:
    """A row of the table; `ranks` are its mean ranks."""

    row: Row
    link: str
    badge: Badge
    find: str
    ranks: tuple[Rank, ...]
    cells: tuple[Shown, ...]


def overview(board: Board, links: Links, drawn: Mapping[str, Sequence[Picture]]) -> dict[str, Any]:
    """What the template is filled with; `drawn` are the pictures of each table."""
    tables = [_table(links, table) | {"pictures": drawn[table.name]} for table in board.tables]
    return {"tables": tables, "left_out": board.left_out, "records": len(board.records), "paged": len(links)}


def title(table: Table) -> str:
    """As in "phantom, recipe tiny, full sets"."""
    return f"{table.source}, recipe {table.recipe}, {table.size}"


def warning(source: str) -> tuple[str, str, str]:
    """What must be said of a source: the look, its first word where that is a warning, and the rest."""
    first, colon, rest = SOURCES.get(source, source).partition(" ")
    return (source, first, rest) if source != "real" else ("real", "", f"{first}{colon}{rest}")


def _table(links: Links, table: Table) -> dict[str, Any]:
    ranked = rankings(table)
    ranks = [{rank.row: _rank(rank) for rank in ranking.ranks} for _, ranking in ranked]
    lines = []
    for row in table.rows:
        lines.append(
            Line(
                row=row,
                link=f"{method_page(row.method)}#{anchor(table.name, row.key)}",
                badge=fidelity(row.fidelity),
                find=find(row),
                ranks=tuple(own.get(row.key, Rank()) for own in ranks),
                cells=tuple(show(links, table, row, column) for column in table.columns),
            )
        )
    names = {row.key: row.name for row in table.rows} | {c.key: c.name for c in table.columns}
    return {
        "table": table,
        "id": anchor(table.name),
        "title": title(table),
        "warning": warning(table.source),
        "rankings": ranked,
        "headings": list(_headings(table)),
        "lines": lines,
        "missing": [
            (names.get(m.row, ""), names.get(m.column, ""), m.command or m.why) for m in table.missing
        ],
    }


def _rank(rank: MeanRank) -> Rank:
    bounded = rank.low is not None and rank.high is not None
    interval = f"[{rank.low:.2f}, {rank.high:.2f}]" if bounded else ""
    return Rank(f"{rank.value:.2f}", f"{rank.value:.4f}", interval)


def _headings(table: Table) -> list[Heading]:
    return [
        Heading(
            task=task,
            link=task_page(table.name, task),
            metric=", ".join(dict.fromkeys(column.metric for column in columns)),
            columns=tuple((column.name.removeprefix(task).strip() or "score", column) for column in columns),
        )
        for task, group in groupby(table.columns, key=lambda column: column.task)
        for columns in [list(group)]
    ]
