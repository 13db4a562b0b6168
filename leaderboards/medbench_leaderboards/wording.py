"""How a board is put in words and numbers, the same in every format that people read."""

import unicodedata
from collections.abc import Iterator, Sequence

from medbench.statistics.paired import ALPHA
from medbench_leaderboards.board import Cell, Column, Comparison, Ranking, Row, Table

CELL = (
    "percent: mean ± standard deviation over seeds (without ± of one seed), [95 % interval over test patients]; the "
    "best mean of a column is bold"
)

RANK = (
    "(1): rank, 1 + the number of methods that are better beyond noise: p < 0.05, adjusted by Holm over all "
    "comparisons of the table, and never above a better mean; (1=): another one of this rank does not "
    "differ beyond noise"
)

POWER = (
    "few seeds and many comparisons at once find only large differences: a tie says that none was found, not that "
    "there is none"
)

ORDER = (
    "rows with a value in every column come first, by their mean rank [95 % interval over test patients] over tasks, "
    "in each over its label fractions; the others follow by name, and say in how many columns they have one"
)

IMAGE_RANK = (
    "mean rank, image tasks: the same over the tasks that need no text encoder, for methods without one"
)

SYMBOLS = {"contaminated": "†", "one seed": "§", "small": "~", "repeat": "‡"}
"""What a mark looks like in a cell; a tie is the = of its rank."""

LEGEND = {
    "contaminated": "the encoder, or the training part, has seen films or patients of the test set: see the notes",
    "one seed": "one seed, where another would give another value: comparisons with it count no training noise, and "
    "are beyond noise too often (docs/statistics.md)",
    "small": "small: fewer than 300 test samples or 40 positives; docs/statistics.md says how often intervals hold "
    "there",
    "repeat": "a seed repeats the predictions of another, and is not counted",
}


_NO_TEXT = ("Cc", "Cf", "Cs", "Zl", "Zp")


def plain(text: str) -> str:
    """On one line, without control characters, halves of characters, and what turns the direction of writing."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text
    kept = "".join(c if unicodedata.category(c) not in _NO_TEXT else " " for c in text)
    return " ".join(kept.split())


def badged(row: Row) -> str:
    """The name of a row with its badge."""
    return f"{plain(row.name)} ({plain(row.fidelity)})"


def percent(value: float) -> str:
    """0.613 -> "61.3"."""
    return f"{100 * value:.1f}"


def spread(cell: Cell) -> str:
    """Of several seeds as in " ± 0.8", else ""."""
    return "" if cell.sd is None else f" ± {percent(cell.sd)}"


def interval(cell: Cell) -> str:
    """As in "[58.0, 64.4]"; "" where there is none."""
    return "" if cell.low is None or cell.high is None else f"[{percent(cell.low)}, {percent(cell.high)}]"


def rank(cell: Cell) -> str:
    """As in "(1=)"; "" where the cell was compared with nothing."""
    return "" if cell.rank is None else f"({cell.rank}{'=' if cell.tied else ''})"


def symbols(cell: Cell) -> str:
    """The marks of a cell."""
    return "".join(symbol for mark, symbol in SYMBOLS.items() if mark in cell.marks)


def nothing(cell: Cell) -> str:
    """What stands in a cell without a value."""
    return "–" if cell.status == "missing" else cell.status


def legend(table: Table) -> list[str]:
    """How to read the cells, and the marks that the table has."""
    ranked = [RANK, POWER] if any(cell.rank is not None for cell in table.cells.values()) else []
    return [CELL, *ranked, *marks(table), ORDER, *([IMAGE_RANK] if table.image_ranking is not None else [])]


def marks(table: Table) -> list[str]:
    """What the marks mean that the table has."""
    used = {mark for cell in table.cells.values() for mark in cell.marks}
    return [f"{symbol}: {LEGEND[mark]}" for mark, symbol in SYMBOLS.items() if mark in used]


def best(table: Table, column: Column, place: int = 1) -> frozenset[str]:
    """Row keys with the best mean of a column as it is printed, or the second best (`place` 2).

    None where one row is alone.
    """
    cells = [cell for row in table.rows if (cell := table.cells[row.key, column.key]).mean is not None]
    shown = {cell.row: percent(cell.mean) for cell in cells if cell.mean is not None}
    order = sorted({float(text) for text in shown.values()}, reverse=column.higher_is_better)
    if len(shown) < 2 or len(order) < place:
        return frozenset()
    return frozenset(row for row, text in shown.items() if float(text) == order[place - 1])


def rankings(table: Table) -> list[tuple[str, Ranking]]:
    """The mean ranks of a table, each with its name."""
    found = [("mean rank", table.ranking)]
    return found if table.image_ranking is None else [*found, ("mean rank, image tasks", table.image_ranking)]


def coverage(table: Table, row: Row, ranking: Ranking) -> tuple[int, int]:
    """Columns in which the row has a value, of those that count."""
    has = sum(table.cells[row.key, column].mean is not None for column in ranking.columns)
    return has, len(ranking.columns)


def mean_rank(table: Table, row: Row, ranking: Ranking) -> str:
    """As in "1.33 [1.00, 2.00]" of a complete row, and "4/7" of another."""
    for one in ranking.ranks:
        if one.row == row.key:
            held = "" if one.low is None or one.high is None else f" [{one.low:.2f}, {one.high:.2f}]"
            return f"{one.value:.2f}{held}"
    has, columns = coverage(table, row, ranking)
    return f"{has}/{columns}" if columns else "–"


def beyond_noise(comparison: Comparison) -> bool:
    """Whether the two methods differ by more than noise, adjusted by Holm over all comparisons of the table."""
    return comparison.p_holm is not None and comparison.p_holm < ALPHA


def statistics(table: Table) -> Iterator[str]:
    """What was compared, and with what outcome."""
    tested = [one for one in table.comparisons if one.p_holm is not None]
    bare = [one for one in tested if _one_seed(table, one)]
    full = [one for one in tested if not _one_seed(table, one)]
    if full:
        yield f"{_beyond(full)} differences between two methods are beyond noise"
    if bare:
        yield (
            f"{_beyond(bare)} {'further ' if full else ''}differences are beyond the noise of the test patients; "
            "training noise is not counted in them, since a side has one seed"
        )
    for _, ranking in rankings(table):
        if ranking.critical_difference is not None:
            over = "tasks" if ranking is table.ranking else "image tasks"
            yield (
                f"mean ranks of the {len(ranking.ranks)} methods that have one, over {ranking.tasks} {over}, differ by "
                f"more than chance from {ranking.critical_difference:.2f} on (Nemenyi, 5 %); it takes the tasks for "
                "independent; those on the same films are not, so chance may reach further"
            )


def _beyond(comparisons: Sequence[Comparison]) -> str:
    return f"{sum(map(beyond_noise, comparisons)):,} of {len(comparisons):,}"


def _one_seed(table: Table, comparison: Comparison) -> bool:
    """Whether training noise is not counted, for a side has one seed, though a side depends on the seed."""
    sides = [table.cells[row, comparison.column] for row in (comparison.a, comparison.b)]
    depends = any(seed.seed is not None for cell in sides for seed in cell.seeds)
    return depends and min(comparison.difference.seeds) < 2


def notes(table: Table) -> Iterator[str]:
    """What has to be said of the table and its cells, each line with the cells that it is about."""
    yield from table.notes
    filled = {place for place, cell in table.cells.items() if cell.mean is not None}
    about: dict[str, list[tuple[Row, Column]]] = {}
    for row in table.rows:
        for column in table.columns:
            for note in table.cells[row.key, column.key].notes:
                about.setdefault(plain(note), []).append((row, column))
    for note, cells in about.items():
        if len(cells) > 1 and {(row.key, column.key) for row, column in cells} == filled:
            yield f"all cells: {note}"
        else:
            yield f"{'; '.join(f'{badged(row)}, {plain(column.name)}' for row, column in cells)}: {note}"
