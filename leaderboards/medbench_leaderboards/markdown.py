"""The board as a Markdown page: for README files, pull requests and the terminal.

Nothing is left blank: a cell is a number, `n/a` with the reason below the table, or `–` with the command that fills it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from urllib.parse import quote

from tabulate import tabulate

from medbench.cells import SOURCES
from medbench.records import fraction_name
from medbench.results import Results
from medbench_leaderboards import wording
from medbench_leaderboards.beside import LEGEND, Beside, beside
from medbench_leaderboards.board import Board, Cell, Column, Row, Table, build
from medbench_leaderboards.published import verdicts
from medbench_leaderboards.published_tables import beside_ours


def markdown(results: Results) -> Mapping[str, bytes]:
    """`leaderboard.md`: a section for every source, recipe, and full sets or subsets.

    A table of one task has everything in its cells. With several tasks there is an overview first, with means and
    ranks, and then a table a task. Cells link to their records where it is known from where (`Results.base`).
    """
    return {"leaderboard.md": page(build(results)).encode()}


def page(board: Board) -> str:
    """The whole page."""
    real = any(table.source == "real" for table in board.tables)
    found = verdicts(board) if real else ()  # phantoms have nothing published beside them
    parts = [
        "# medbench leaderboard",
        *(_section(board, table, beside(table, found)) for table in board.tables),
    ]
    if not board.tables:
        parts.append("No records to show. `medbench run --method random --task rsna_lp` makes some.")
    if real:
        names = {row.key: escape(row.name) for table in board.tables for row in table.rows}
        parts.append(beside_ours(found, names))
    if board.left_out:
        parts.append("## Left out\n\n" + _list(map(escape, board.left_out)))
    return "\n\n".join(parts) + "\n"


def _section(board: Board, table: Table, published: Beside) -> str:
    tasks = [list(own) for _, own in groupby(table.columns, key=lambda column: column.task)]
    source = SOURCES[table.source]
    parts = [
        f"## {table.source}, recipe {escape(table.recipe)}, {table.size}",
        f"{source[0].upper()}{source[1:]}",
        _table(board, table, table.columns, full=len(tasks) == 1, ranks=True, published=published),
        _list(
            [
                *wording.legend(table),
                published.why_none or LEGEND,
                *(_sources(published, table.columns) if len(tasks) == 1 else ()),
                *(f"{escape(name)}, {escape(about)}" for name, about in _about_columns(table)),
                *(f"{escape(wording.badged(row))}: {escape(row.about)}" for row in table.rows),
                *wording.statistics(table),
            ]
        ),
    ]
    if len(tasks) > 1:
        for own in tasks:
            parts.append(f"### {escape(own[0].task)}")
            parts.append(_table(board, table, own, full=True, ranks=False, published=published))
            parts.append(_list(_sources(published, own)))
    notes = [escape(note) for note in wording.notes(table)]
    missing = list(_missing(table))
    parts += ["Notes:", _list(notes)] if notes else []
    parts += ["Missing, and the command that fills it:", _list(missing)] if missing else []
    return "\n\n".join(part for part in parts if part)


def _table(
    board: Board, table: Table, columns: Sequence[Column], *, full: bool, ranks: bool, published: Beside
) -> str:
    first = {column.key: wording.best(table, column) for column in columns}
    ranked = wording.rankings(table) if ranks else []
    beside_paper = {column.key for column in columns if full and published.marks(column)}
    lines = []
    for row in table.rows:
        cells = [table.cells[row.key, column.key] for column in columns]
        if not ranks and all(cell.status == "missing" for cell in cells):
            continue  # said in the overview
        shown = []
        for column, cell in zip(columns, cells, strict=True):
            shown.append(_cell(board, cell, bold=row.key in first[column.key], full=full))
            if column.key in beside_paper:
                shown.append(_published(published, row, column))
        shown += [wording.mean_rank(table, row, ranking) for _, ranking in ranked]
        lines.append([escape(wording.badged(row)), *shown])
    names = []
    for column in columns:
        names.append(escape(column.name))
        if column.key in beside_paper:
            names.append(f"{escape(column.name)}, published")
    headers = ["method", *names, *(name for name, _ in ranked)]
    if board.base is None:
        text: str = tabulate(lines, headers=headers, tablefmt="github", disable_numparse=True)
        return text
    # Padded to the longest link, nobody could read the file.
    return "\n".join(f"| {' | '.join(line)} |" for line in (headers, ["---"] * len(headers), *lines))


def _cell(board: Board, cell: Cell, *, bold: bool, full: bool) -> str:
    if cell.mean is None:
        return wording.nothing(cell) + (_records(board, cell) if full else "")
    value = wording.percent(cell.mean)
    parts = [f"**{value}**{wording.spread(cell)}" if bold else f"{value}{wording.spread(cell)}"]
    if full:
        parts.append(wording.interval(cell))
    parts.append(wording.rank(cell) + wording.symbols(cell))
    return " ".join(part for part in parts if part) + (_records(board, cell) if full else "")


def _published(published: Beside, row: Row, column: Column) -> str:
    """The figures beside a cell, each with its verdict and the mark of its source."""
    figures = published.of(row, column)
    return "; ".join(f"{escape(one.published)} {one.verdict} ({mark})" for mark, one in figures) or "none"


def _sources(published: Beside, columns: Sequence[Column]) -> list[str]:
    """What the marks of published figures in these columns stand for."""
    used = {mark for column in columns for mark in published.marks(column)}
    return [f"({mark}): {escape(about)}" for mark, about in published.sources.items() if mark in used]


def _records(board: Board, cell: Cell) -> str:
    """The records of a cell: as links, else how many count where there are several."""
    if board.base is None:
        counted = sum(seed.repeats is None for seed in cell.seeds if seed.value is not None)
        return f", {counted} seeds" if cell.mean is not None and counted > 1 else ""
    links = [
        f"[{'record' if seed.seed is None else seed.seed}]({quote(f'{board.base}/{seed.path}', errors='replace')})"
        for seed in cell.seeds
    ]
    numbered = (
        "" if any(seed.seed is None for seed in cell.seeds) else "seed " if len(links) == 1 else "seeds "
    )
    return f", {numbered}{', '.join(links)}" if links else ""


def _about_columns(table: Table) -> Iterator[tuple[str, str]]:
    """One line a task, or a column where columns of a task differ in more than the fraction."""
    said = set()
    for column in table.columns:
        plain_name = column.task + (f" {fraction_name(column.fraction)}" if column.trains else "")
        line = (column.task if column.name == plain_name else column.name), column.about
        if line not in said:
            said.add(line)
            yield line


def _missing(table: Table) -> Iterator[str]:
    rows: dict[str, Row] = {row.key: row for row in table.rows}
    columns = {column.key: column for column in table.columns}
    for one in table.missing:
        where = f"{escape(wording.badged(rows[one.row]))}, {escape(columns[one.column].name)}"
        yield f"{where}: {_code(one.command) if one.command else escape(one.why)}"


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def escape(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside of a word are no markup, and stay readable."""
    text = re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", wording.plain(text))
    text = re.sub(r"^([#+=-]|\d+(?=[.)]( |$)))", _at_the_start, text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _at_the_start(found: re.Match[str]) -> str:
    """What would begin a heading, a line or a list."""
    return f"{found[0]}\\" if found[0].isdecimal() else f"\\{found[0]}"


def _code(text: str) -> str:
    """As code, also where it has backticks in it."""
    text = wording.plain(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"
