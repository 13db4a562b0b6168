"""The board as one JSON file: everything that the other formats show, for programs and pages of one's own."""

import json as files
from collections.abc import Mapping
from typing import Any

from medbench.results import Results
from medbench_leaderboards.board import Board, Cell, Comparison, Ranking, Table, build
from medbench_leaderboards.numbers import fields, rounded
from medbench_leaderboards.published import verdicts
from medbench_leaderboards.published_tables import as_json

SCHEMA = "medbench.leaderboard/1"


def json(results: Results) -> Mapping[str, bytes]:
    """`leaderboard.json`."""
    return {
        "leaderboard.json": files.dumps(content(build(results)), indent=1, sort_keys=True).encode() + b"\n"
    }


def content(board: Board) -> dict[str, Any]:
    """JSON types only. Keys of rows and columns are as in `Row.key` and `Column.key`."""
    return {
        "schema": SCHEMA,
        "tables": [_table(table) for table in board.tables],
        "published": as_json(verdicts(board)),
        "left_out": list(board.left_out),
        "records": {
            cell_id: {
                "path": board.paths[cell_id],
                "status": record.status,
                "method": record.identity.method,
                "task": record.identity.task,
                "task_version": record.identity.task_version,
                "fraction": record.identity.fraction,
                "seed": record.identity.seed,
            }
            for cell_id, record in board.brief.items()
        },
    }


def _table(table: Table) -> dict[str, Any]:
    return {
        **fields(table, "name", "source", "recipe", "size"),
        "notes": list(table.notes),
        "rows": [
            {
                **fields(row, "key", "name", "method", "fidelity", "owner", "about"),
                "method_config": row.identity.method_config,
                "pretrain_config": row.identity.pretrain_config,
            }
            for row in table.rows
        ],
        "columns": [
            {
                **fields(column, "key", "name", "task", "version", "trains", "dataset", "subset", "split"),
                **fields(column, "test", "metric", "metric_version", "higher_is_better", "about"),
                "fraction": column.fraction,
            }
            for column in table.columns
        ],
        "cells": [_cell(table.cells[row.key, c.key]) for row in table.rows for c in table.columns],
        "comparisons": [_comparison(one) for one in table.comparisons],
        "ranking": _ranking(table.ranking),
        "image_ranking": None if table.image_ranking is None else _ranking(table.image_ranking),
        "missing": [
            {**fields(one, "row", "column", "command", "why"), "seeds": list(one.seeds)}
            for one in table.missing
        ],
    }


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {
        **fields(ranking, "critical_difference", "tasks"),
        "columns": list(ranking.columns),
        "ranks": [fields(rank, "row", "value", "low", "high") for rank in ranking.ranks],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        **fields(cell, "row", "column", "status", "mean", "sd", "low", "high", "small", "rank", "tied"),
        "delong": None if cell.delong is None else [rounded(bound) for bound in cell.delong],
        "marks": list(cell.marks),
        "notes": list(cell.notes),
        "seeds": [
            {
                "seed": seed.seed,
                "value": seed.value,
                "low": seed.low,
                "high": seed.high,
                "cell_id": seed.cell_id,
                "path": seed.path,
                "repeats": seed.repeats,
            }
            for seed in cell.seeds
        ],
    }


def _comparison(one: Comparison) -> dict[str, Any]:
    difference = one.difference
    return {
        **fields(one, "a", "b", "column", "p_holm"),
        **fields(
            difference, "value", "low", "high", "p", "se_test", "se_training", "freedom", "test", "reason"
        ),
        "seeds": list(difference.seeds),
    }
