"""The page of a task in one table: curves, and for each label fraction a table, values by class, all pairs."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from medbench_leaderboards.board import Board, Cell, Column, Comparison, Row, Table
from medbench_leaderboards.site.curves import curves
from medbench_leaderboards.site.names import anchor, method_page
from medbench_leaderboards.site.overview import title, warning
from medbench_leaderboards.site.shown import Links, Shown, fidelity, find, number, p_value, show, signed


def task(board: Board, links: Links, table: Table, name: str) -> dict[str, Any]:
    """What the template is filled with."""
    columns = [column for column in table.columns if column.task == name]
    pairs: dict[str, dict[tuple[str, str], Comparison]] = {column.key: {} for column in columns}
    for comparison in table.comparisons:
        if comparison.column in pairs:
            pairs[comparison.column][comparison.a, comparison.b] = comparison
    sections = [[show(links, table, row, column) for row in table.rows] for column in columns]
    bounds = {
        shown.anchor: (cell.low, cell.high)
        for cells in sections
        for shown in cells
        if (cell := table.cells.get((shown.row.key, shown.column.key))) is not None
        and cell.low is not None
        and cell.high is not None
    }
    return {
        "name": name,
        "title": title(table),
        "warning": warning(table.source),
        "curves": curves(sections, bounds),
        "columns": [
            _section(board, table, column, cells, pairs[column.key])
            for column, cells in zip(columns, sections, strict=True)
        ],
    }


def _section(
    board: Board,
    table: Table,
    column: Column,
    cells: Sequence[Shown],
    pairs: dict[tuple[str, str], Comparison],
) -> dict[str, Any]:
    sign = -1 if column.higher_is_better else 1
    best_first = sorted(
        cells, key=lambda cell: (cell.sort == "", sign * float(cell.sort or 0), cell.row.name)
    )
    ranked = [cell.row for cell in best_first if cell.sort]
    said = {
        (pair.difference.test, pair.difference.reason)
        for pair in pairs.values()
        if pair.difference.test or pair.difference.reason
    }
    return {
        "column": column,
        "id": anchor(column.key),
        "lines": [
            (cell, method_page(cell.row.method), fidelity(cell.row.fidelity), find(cell.row))
            for cell in best_first
        ],
        "has_delong": any(cell.delong for cell in cells),
        "classes": _classes(board, table, column, ranked),
        "rows": ranked,
        "matrix": _matrix(column, ranked, pairs) if pairs else [],
        "tests": sorted({test for test, _ in said if test}),
        "reasons": sorted({reason for _, reason in said if reason}),
        "notes": [(cell.row.name, note) for cell in best_first for note in cell.notes],
    }


def _classes(board: Board, table: Table, column: Column, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Mean over the seeds that count of the primary metric by class; None where there are no classes."""
    found = [
        (row, _per_class(board, cell, column.metric))
        for row in rows
        if (cell := table.cells.get((row.key, column.key))) is not None
    ]
    names = sorted({name for _, values in found for name in values})
    if not names:
        return None
    lines = [
        (row, [(f"{values[n]:.6f}", number(values[n])) if n in values else ("", "n/a") for n in names])
        for row, values in found
    ]
    return {"names": names, "lines": lines}


def _per_class(board: Board, cell: Cell, metric: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for seed in cell.seeds:
        record = board.records.get(seed.cell_id)
        if record is None or seed.repeats is not None or seed.value is None:
            continue
        for measured in record.metrics:
            if measured.name == metric:
                for name, value in measured.per_class.items():
                    if value is not None:
                        values.setdefault(name, []).append(value)
    return {name: fmean(several) for name, several in values.items()}


def _matrix(
    column: Column, rows: Sequence[Row], pairs: dict[tuple[str, str], Comparison]
) -> list[tuple[Row, Markup]]:
    """The cells of each row. Each pair once: above the diagonal, rows and columns best first.

    There are thousands on a page, and nothing in them but numbers: they are put together here, not by a template.
    """
    return [
        (
            row,
            Markup(
                "<td></td>" * i + "".join(_pair(column, row.key, other.key, pairs) for other in rows[i + 1 :])
            ),
        )
        for i, row in enumerate(rows[:-1])
    ]


def _pair(column: Column, row: str, other: str, pairs: dict[tuple[str, str], Comparison]) -> str:
    comparison, sign = pairs.get((row, other)), 1
    if comparison is None:
        comparison, sign = pairs.get((other, row)), -1
    if comparison is None or comparison.difference.value is None:
        return '<td class="number none">–</td>'
    difference, p = comparison.difference, comparison.p_holm
    value = sign * comparison.difference.value
    low, high = difference.low, difference.high
    if sign < 0:
        low, high = None if high is None else -high, None if low is None else -low
    look = "none"
    if p is not None and p < 0.05:
        look = "plus" if (value > 0) == column.higher_is_better else "minus"
    bounds = "" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"
    said = "" if p is None else p_value(p)
    return f'<td class="number {look}">{signed(value)}<small>{bounds}</small><small>{said}</small></td>'
