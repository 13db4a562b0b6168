"""The page of a method: what it is, and all it was measured on, in every table and configuration."""

from typing import Any

from medbench_leaderboards.board import Board, Row, Table
from medbench_leaderboards.site.fields import folded
from medbench_leaderboards.site.names import anchor, task_page
from medbench_leaderboards.site.overview import title, warning
from medbench_leaderboards.site.shown import Links, fidelity, show
from medbench_leaderboards.wording import rankings


def methods(board: Board) -> dict[str, list[tuple[Table, Row]]]:
    """Rows by method, in the order of names."""
    found: dict[str, list[tuple[Table, Row]]] = {}
    for table in board.tables:
        for row in table.rows:
            found.setdefault(row.method, []).append((table, row))
    return dict(sorted(found.items()))


def method(links: Links, name: str, rows: list[tuple[Table, Row]]) -> dict[str, Any]:
    """What the template is filled with."""
    return {
        "name": name,
        "badges": [fidelity(badge) for badge in sorted({row.fidelity for _, row in rows})],
        "owners": sorted({row.owner for _, row in rows}),
        "sections": [_section(links, table, row) for table, row in rows],
    }


def _section(links: Links, table: Table, row: Row) -> dict[str, Any]:
    cells = [show(links, table, row, column) for column in table.columns]
    compared = {
        column.key: sum(
            1
            for other in table.rows
            if (cell := table.cells.get((other.key, column.key))) is not None and cell.rank is not None
        )
        for column in table.columns
    }
    at = anchor(table.name, row.key)
    return {
        "row": row,
        "id": at,
        "title": title(table),
        "warning": warning(table.source),
        "mean_ranks": [
            (name, f"{rank.value:.2f}", len(ranking.ranks))
            for name, ranking in rankings(table)
            for rank in ranking.ranks
            if rank.row == row.key
        ],
        "cells": [
            (cell, task_page(table.name, cell.column.task), compared[cell.column.key]) for cell in cells
        ],
        "method_config": folded("Configuration of the method", f"{at}-m", row.identity.method_config),
        "pretrain_config": folded(
            "Configuration of the pretraining", f"{at}-p", row.identity.pretrain_config
        ),
        "missing": [missing.command or missing.why for missing in table.missing if missing.row == row.key],
    }
