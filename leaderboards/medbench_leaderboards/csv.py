"""The board as CSV: long for programs, wide for people. Values are in the metric's own unit, not in percent."""

import csv as files
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from medbench.records import Identity, Record, sha256_json
from medbench.results import Results, seed_order
from medbench.terminal import no_formula
from medbench_leaderboards import wording
from medbench_leaderboards.beside import Beside, beside
from medbench_leaderboards.board import Board, Cell, Column, Row, Seed, Table, build
from medbench_leaderboards.numbers import fields, rounded
from medbench_leaderboards.published import Verdict, verdicts

CELLS = (
    *("table", "row", "column"),
    *(
        "source",
        "recipe",
        "method",
        "fidelity",
        "task",
        "task_version",
        "dataset",
        "subset",
        "split",
        "fraction",
    ),
    *("seed", "repeats_seed", "status", "reason", "metric", "primary", "class", "value", "low", "high", "n"),
    *("higher_is_better", "metric_version", "interval", "train", "train_patients", "validation", "test"),
    *("precision", "weights", "weights_key", "corpus", "corpus_subset", "method_config", "task_config"),
    *(
        "split_leak",
        "marks",
        "rank",
        "tied",
        "delong_low",
        "delong_high",
        "predictions_sha256",
        "cell_id",
        "file",
    ),
)
"""Of cells.csv. `table`, `row`, `column`: where the record stands in the tables; empty where it enters none.
`repeats_seed`: the seed whose predictions this record repeats bit by bit; such lines belong in no mean.
`method_config`, `task_config`: SHA-256 of the resolved configs, which the record holds in full. `marks`, `rank`, `tied`
and the interval by DeLong, of the primary metric, are of the cell over all its seeds. `file`: the record, from the
results folder on."""

COMPARISONS = (
    *("table", "column", "a", "b", "value", "low", "high", "p", "p_holm"),
    *("se_test", "se_training", "freedom", "test", "seeds_a", "seeds_b", "reason"),
)
"""Of comparisons.csv: a - b. An empty `freedom` is an infinite one."""

PUBLISHED = (
    *("method", "paper", "arch", "task", "dataset", "protocol", "fraction", "metric", "published", "source"),
    *("verdict", "table", "row", "column", "our_metric", "ours", "low", "high", "why"),
)
"""Of published.csv: a figure as it was printed, then ours in percent points, where they can be compared."""


def csv(results: Results) -> Mapping[str, bytes]:
    """Three files: of cells, of comparisons, of published figures.

    `cells.csv` has one line a record and metric, and one more for each class; `comparisons.csv` one a pair of methods;
    `published.csv` one a published figure, with ours beside it or why there is none.

    All records but those that mix phantom and real data; a skipped or failed one has one line. Older task versions are
    in it, see `task_version`, with no `table`.
    """
    board = build(results)
    return {
        "cells.csv": _file(CELLS, cells(board)),
        "comparisons.csv": _file(COMPARISONS, comparisons(board)),
        "published.csv": _file(PUBLISHED, published(board, verdicts(board))),
    }


def csv_wide(results: Results) -> Mapping[str, bytes]:
    """`wide/<table>.csv`: one line a method, and for each task and label fraction the value and what is known of it.

    Published figures that a column can be compared with, as printed and in percent, have columns of their own.
    """
    board = build(results)
    found = verdicts(board)
    return {f"wide/{table.name}.csv": _wide(table, beside(table, found)) for table in board.tables}


# Long.


def cells(board: Board) -> Iterator[dict[str, Any]]:
    """Lines of cells.csv."""
    places: dict[str, tuple[Table, Row, Column, Cell, Seed]] = {}
    for table in board.tables:
        rows, columns = {row.key: row for row in table.rows}, {c.key: c for c in table.columns}
        for cell in table.cells.values():
            for seed in cell.seeds:
                places[seed.cell_id] = table, rows[cell.row], columns[cell.column], cell, seed
    for brief in sorted(board.brief.values(), key=_order):
        if brief.identity.source != "mixed":
            record = board.records[brief.cell_id]
            yield from _lines(record, board.paths[record.cell_id], places.get(record.cell_id))


def _order(record: Record) -> tuple[Any, ...]:
    i = record.identity
    return i.source, i.recipe, i.task, i.task_version, i.fraction, i.method, *seed_order(record)


_ALIKE = ("weights", "method_config", "task_config")  # in the file they are something shorter
_IDENTITY = tuple(name for name in CELLS if name in Identity.model_fields and name not in _ALIKE)


def _lines(
    record: Record, path: str, place: tuple[Table, Row, Column, Cell, Seed] | None
) -> Iterator[dict[str, Any]]:
    identity, counts, corpus = record.identity, record.counts, record.identity.weights.corpus
    base: dict[str, Any] = {name: getattr(identity, name) for name in _IDENTITY}
    base |= {name: getattr(counts, name) for name in ("train", "train_patients", "validation", "test")}
    base |= {
        "status": record.status,
        "reason": f"{record.error.type}: {record.error.message}"
        if record.error is not None
        else record.reason,
        "weights": identity.weights.kind,
        "weights_key": identity.weights.key,
        "corpus": f"{corpus.source} {corpus.dataset}" if corpus is not None else None,
        "corpus_subset": corpus.subset if corpus is not None else None,
        "method_config": sha256_json(identity.method_config),
        "task_config": sha256_json(identity.task_config),
        "split_leak": counts.split_leak,
        "predictions_sha256": record.predictions.sha256 if record.predictions is not None else None,
        "cell_id": record.cell_id,
        "file": path,
    }
    if place is not None:
        table, row, column, cell, seed = place
        base |= {"table": table.name, "row": row.name, "column": column.name, "repeats_seed": seed.repeats}
        base |= {"marks": " ".join(cell.marks), "rank": cell.rank, "tied": cell.tied}
    if not record.metrics:
        yield base
    for metric in record.metrics:
        line = base | {
            "metric": metric.name,
            "primary": metric.name == record.primary_metric,
            "metric_version": metric.version,
            "n": metric.n,
            "higher_is_better": metric.higher_is_better,
            "interval": metric.interval,
        }
        if place is not None and place[3].delong is not None and metric.name == record.primary_metric:
            line |= dict(zip(("delong_low", "delong_high"), map(rounded, place[3].delong), strict=True))
        yield line | {"value": metric.value, "low": metric.low, "high": metric.high}
        for name, value in sorted(metric.per_class.items()):
            yield line | {"class": name, "value": value}


def comparisons(board: Board) -> Iterator[dict[str, Any]]:
    """Lines of comparisons.csv."""
    for table in board.tables:
        rows = {row.key: row.name for row in table.rows}
        columns = {column.key: column.name for column in table.columns}
        for one in table.comparisons:
            difference = one.difference
            yield {
                "table": table.name,
                "column": columns[one.column],
                "a": rows[one.a],
                "b": rows[one.b],
                **fields(difference, "value", "low", "high", "p", "se_test", "se_training", "freedom"),
                "p_holm": rounded(one.p_holm),
                "test": difference.test,
                "seeds_a": difference.seeds[0],
                "seeds_b": difference.seeds[1],
                "reason": difference.reason,
            }


def published(board: Board, found: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """Lines of published.csv, of these verdicts about the board."""
    rows = {row.key: row.name for table in board.tables for row in table.rows}
    columns = {column.key: column.name for table in board.tables for column in table.columns}
    for verdict in found:
        row, column = verdict.row and rows[verdict.row], verdict.column and columns[verdict.column]
        yield {**fields(verdict, *PUBLISHED), "row": row, "column": column}


# Wide.


def _wide(table: Table, published: Beside) -> bytes:
    parts = ("", " sd", " low", " high", " delong low", " delong high", " seeds", " rank", " marks")
    paper = (" published", " published verdict", " published source")
    names = [
        f"{column.name}{part}"
        for column in table.columns
        for part in (parts + paper if published.marks(column) else parts)
    ]
    header = [
        "method",
        "fidelity",
        "about",
        *names,
    ]
    rankings = [(name.replace(",", ""), ranking) for name, ranking in wording.rankings(table)]
    for name, _ in rankings:
        header += [name, f"{name} low", f"{name} high", name.replace("mean rank", "columns")]
    lines = []
    for row in table.rows:
        line: dict[str, Any] = {"method": row.name, "fidelity": row.fidelity, "about": row.about}
        for column in table.columns:
            cell = table.cells[row.key, column.key]
            counted = sum(seed.repeats is None and seed.value is not None for seed in cell.seeds)
            line |= {
                column.name: cell.status if cell.mean is None else rounded(cell.mean),
                f"{column.name} sd": rounded(cell.sd),
                f"{column.name} low": rounded(cell.low),
                f"{column.name} high": rounded(cell.high),
                f"{column.name} delong low": rounded(cell.delong[0]) if cell.delong is not None else None,
                f"{column.name} delong high": rounded(cell.delong[1]) if cell.delong is not None else None,
                f"{column.name} seeds": counted,
                f"{column.name} rank": None
                if cell.rank is None
                else f"{cell.rank}{'=' if cell.tied else ''}",
                f"{column.name} marks": " ".join(cell.marks),
            }
            if figures := [one for _, one in published.of(row, column)]:
                line |= {
                    f"{column.name} published": "; ".join(one.published for one in figures),
                    f"{column.name} published verdict": "; ".join(one.verdict for one in figures),
                    f"{column.name} published source": "; ".join(one.source for one in figures),
                }
        for name, ranking in rankings:
            for rank in ranking.ranks:
                if rank.row == row.key:
                    line |= {name: rounded(rank.value), f"{name} low": rounded(rank.low)}
                    line |= {f"{name} high": rounded(rank.high)}
            line[name.replace("mean rank", "columns")] = "{} of {}".format(
                *wording.coverage(table, row, ranking)
            )
        lines.append(line)
    return _file(header, lines)


# Files.


def _file(header: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = files.writer(buffer, lineterminator="\n")
    writer.writerow([_text(name) for name in header])
    writer.writerows([_value(line.get(name)) for name in header] for line in lines)
    return buffer.getvalue().encode()


def _value(value: Any) -> Any:
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """On one line, and nothing that a spreadsheet would take for a formula."""
    return no_formula(wording.plain(text))
