"""What a cell of a table shows: numbers as text, badges, and where it leads."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medbench_leaderboards.board import Cell, Column, Row, Seed, Table
from medbench_leaderboards.site.names import anchor, method_page

Links = Mapping[str, str]
"""Pages of records by cell id."""

FIDELITY = {
    "official-code": "built from the authors' code",
    "paper": "built from the full paper",
    "reconstruction": "built from what is public of it; every guess is a field of its configuration",
    "baseline": "nothing to reproduce",
}
"""What a method's badge means."""

MARKS = {
    "tie": "another method of this rank does not differ from it beyond noise",
    "small": "fewer than 300 test samples or 40 positives; docs/statistics.md says how often intervals hold there",
    "contaminated": "the encoder may have seen the test data, or the split leaks",
    "one seed": "one training run: how much another would differ is not known",
    "repeat": "a seed repeats another's predictions bit by bit and is not counted",
}
"""What a mark in a cell means."""

_TEXT = {"n/a": "n/a", "failed": "failed", "ambiguous": "ambiguous", "missing": "–"}


@dataclass(frozen=True)
class Badge:
    """A small label: the class of its look, its text, what it means."""

    look: str
    text: str
    title: str


@dataclass(frozen=True)
class SeedLink:
    """A record of a cell: the name of its seed, its value, its page."""

    name: str
    value: str
    link: str


@dataclass(frozen=True)
class Shown:
    """A cell as text. What is not there is "".

    Attributes:
        sort: what tables sort the value by.
        rank: with "=" where it is shared.
        link: to the record, of several seeds to the cell on its method's page.
    """

    row: Row
    column: Column
    status: str
    value: str
    sort: str
    interval: str
    delong: str
    sd: str
    rank: str
    best: bool
    badges: tuple[Badge, ...]
    notes: tuple[str, ...]
    seeds: tuple[SeedLink, ...]
    link: str
    anchor: str


def fidelity(name: str) -> Badge:
    """The badge that is shown wherever a method is."""
    return Badge(name if name in FIDELITY else "mark", name, FIDELITY.get(name, ""))


def show(links: Links, table: Table, row: Row, column: Column) -> Shown:
    """One cell."""
    cell = table.cells.get((row.key, column.key))
    at = anchor(table.name, row.key, column.key)
    if cell is None:
        return Shown(row, column, "missing", "–", "", "", "", "", "", False, (), (), (), "", at)
    seeds = tuple(_seed(seed, links) for seed in cell.seeds)
    value = number(cell.mean) if cell.mean is not None else _TEXT.get(cell.status, cell.status)
    return Shown(
        row=row,
        column=column,
        status=cell.status,
        value=value,
        sort="" if cell.mean is None else f"{cell.mean:.6f}",
        interval=interval(cell.low, cell.high),
        delong=interval(*cell.delong) if cell.delong is not None else "",
        sd="" if cell.sd is None else f"{100 * cell.sd:.1f}",
        rank="" if cell.rank is None else f"{cell.rank}{'=' if cell.tied else ''}",
        best=cell.rank == 1,
        badges=tuple(_marks(cell)),
        notes=cell.notes,
        seeds=seeds,
        link=seeds[0].link if len(seeds) == 1 else f"{method_page(row.method)}#{at}",
        anchor=at,
    )


def _seed(seed: Seed, links: Links) -> SeedLink:
    return SeedLink(
        name="any" if seed.seed is None else str(seed.seed),
        value="n/a" if seed.value is None else number(seed.value),
        link=links.get(seed.cell_id, ""),
    )


def _marks(cell: Cell) -> Iterable[Badge]:
    for mark in (*(["tie"] if cell.tied else []), *cell.marks):
        look = {"small": "small-set"}.get(mark, mark.replace(" ", "-")) if mark in MARKS else "mark"
        yield Badge(look, mark, MARKS.get(mark, ""))


def first_upper(text: str) -> str:
    """The first letter a capital, the rest as it is."""
    return text[:1].upper() + text[1:]


def number(value: float) -> str:
    """A metric of the range 0 to 1 in percent."""
    return f"{100 * value:.1f}"


def signed(value: float) -> str:
    """A difference in percentage points, with its sign."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """Bounds in percent."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"


def p_value(p: float) -> str:
    """Three digits after the point, as HTML."""
    return "p &lt; 0.001" if p < 0.001 else f"p = {p:.3f}"


def find(row: Row) -> str:
    """What the filter looks for in a row, in lower case."""
    return " ".join((row.name, row.method, row.fidelity, row.owner, row.about)).lower()
