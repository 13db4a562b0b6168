"""Published figures beside ours: which of them may be compared, and what comes out.

`published.csv` holds what was read in papers, each figure with the table that it stands in. `protocol_map.toml` says,
reviewed by hand, which of these are the figures of a task and a metric of ours, and why the others are not. Nothing is
compared that the map does not name.
"""

import csv
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final, Literal

from medbench.errors import DataError
from medbench.records import fraction_name
from medbench_leaderboards.board import Board, Cell, Column, Row, Table

FIGURES: Final = Path(__file__).with_name("published.csv")
MAP: Final = Path(__file__).with_name("protocol_map.toml")

WIDER: Final = 1.0
"""Points that our interval is widened by on each side: published figures are rounded, and made with other draws of
labels, seeds and machines."""

NO_RECORD: Final = "no record of "
OURS: Final = "ours: "
"""How `why` begins where the protocol is the same but no record is there, or none that is about the same thing."""

Outcome = Literal["reproduced", "low", "high", "not comparable"]

_BACKBONES: Final = {
    "resnet50": "ResNet-50",
    "vit_base_patch16": "ViT-B/16",
    "deit_base_patch16": "ViT-B/16",
    "vit_base_patch32": "ViT-B/32",
    "swin_tiny": "Swin-T",
}
"""How the names of timm's models begin, and what papers call them."""


@dataclass(frozen=True)
class Figure:
    """One line of published.csv.

    Attributes:
        method, paper, arch: as the source names the method, its own paper, and its backbone.
        task, dataset, protocol, fraction, metric: as the source has them, or in our words where it has none.
        value: as printed; "<1" is a bound.
        source: where it was read.
    """

    method: str
    paper: str
    arch: str
    task: str
    dataset: str
    protocol: str
    fraction: str
    metric: str
    value: str
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the map is looked up by."""
        return self.protocol, self.task, self.dataset, self.metric

    @property
    def points(self) -> float:
        """The value, or the bound, in percent points."""
        return float(self.value.removeprefix("<")) * (100 if self.metric.endswith("(0-1 scale)") else 1)

    @property
    def bound(self) -> bool:
        """Whether the source says only that the value lies below `points`."""
        return self.value.startswith("<")


@dataclass(frozen=True)
class Protocol:
    """What the map says of one combination of protocol, task, dataset and metric.

    Attributes:
        ours, our_metric: a task and a metric of the catalogue; "" where nothing is comparable.
        split: the division of the dataset that the figures were made on.
        reason: why the protocol is the same, or why it is not.
        differs: what is known to differ all the same.
    """

    ours: str
    our_metric: str
    split: str
    reason: str
    differs: str


@dataclass(frozen=True)
class PublishedMethod:
    """What the map says of a method.

    Attributes:
        ours: a method of the catalogue; "" where there is none.
        corpora: what the published encoder was pretrained on, as records name it; empty where on no radiograph.
        reason: what stands behind the name, or why it is none of ours.
    """

    ours: str
    corpora: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class ProtocolMap:
    """The reviewed map, by combination and by published name."""

    protocols: Mapping[tuple[str, str, str, str], Protocol]
    methods: Mapping[str, PublishedMethod]


@dataclass(frozen=True)
class Verdict:
    """One published figure, and what ours say of it.

    Attributes:
        row, column, table: keys of ours that it was compared with, and the table's name; None where none could be.
        method, paper, arch, task, dataset, protocol, fraction, metric, published, source: as in `Figure`.
        our_metric: what ours is of; "" where nothing is comparable.
        ours, low, high: in percent points; None where nothing is comparable.
        verdict: "reproduced": the published value lies within our interval, widened by `WIDER` on each side (of
            "<1": something below 1 does). "low": ours lies below. "high": ours lies above.
        why: what the verdict rests on and what differs all the same, or why there is none.
    """

    row: str | None
    column: str | None
    table: str | None
    method: str
    paper: str
    arch: str
    task: str
    dataset: str
    protocol: str
    fraction: str
    metric: str
    published: str
    source: str
    our_metric: str
    ours: float | None
    low: float | None
    high: float | None
    verdict: Outcome
    why: str


@cache
def figures(path: Path = FIGURES) -> tuple[Figure, ...]:
    """All published figures, in the order of the file.

    Raises:
        DataError: a line is not read, or its value is neither a number nor a bound.
    """
    with path.open(encoding="utf-8", newline="") as lines:
        read = [Figure(**line) for line in csv.DictReader(lines)]
    for number, figure in enumerate(read, start=2):
        try:
            _ = figure.points
        except ValueError:
            raise DataError(
                f"{path.name}, line {number}: expected a number, or `<` and a number, found {figure.value!r}. Figures "
                "that nobody has read stay out of the file."
            ) from None
    return tuple(read)


@cache
def protocol_map(path: Path = MAP) -> ProtocolMap:
    """The reviewed map.

    Raises:
        DataError: an entry has no reason, half of a task and a metric, or says something of what another one said.
    """
    read = tomllib.loads(path.read_text(encoding="utf-8"))
    protocols: dict[tuple[str, str, str, str], Protocol] = {}
    for entry in read["protocol"]:
        ours, metric, split = said = [entry.get(name, "") for name in ("ours", "our_metric", "split")]
        what = f"{path.name}: {entry['protocol']}, {entry['dataset']}"
        if any(said) != all(said):
            raise DataError(f"{what}: `ours`, `our_metric` and `split` belong together; found {said}.")
        meant = Protocol(ours, metric, split, _reason(entry, what), entry.get("differs", ""))
        parts = [_listed(entry[name]) for name in ("protocol", "task", "dataset", "metric")]
        for key in product(parts[0], parts[1], parts[2], parts[3]):
            if key in protocols:
                raise DataError(f"{path.name}: {', '.join(key)} stands in two entries. Keep one.")
            protocols[key] = meant
    methods: dict[str, PublishedMethod] = {}
    for entry in read["method"]:
        what = f"{path.name}: {entry['published']}"
        method = PublishedMethod(entry.get("ours", ""), tuple(entry.get("corpora", ())), _reason(entry, what))
        for name in _listed(entry["published"]):
            if name in methods:
                raise DataError(f"{path.name}: method {name} stands in two entries. Keep one.")
            methods[name] = method
    return ProtocolMap(protocols, methods)


def verdicts(
    board: Board, published: Sequence[Figure] | None = None, reviewed: ProtocolMap | None = None
) -> tuple[Verdict, ...]:
    """What our tables say of every published figure.

    A figure has a verdict for each of our cells that it can be compared with: the same protocol, division, label
    fraction, method, backbone and corpus, recipe `paper`, real and full sets. Where there is no such cell it has one
    that says why.

    Args:
        board: ours.
        published: `figures()` by default.
        reviewed: `protocol_map()` by default.

    Returns:
        In the order of the figures; those of one figure by table and row.
    """
    published = figures() if published is None else published
    reviewed = protocol_map() if reviewed is None else reviewed
    return tuple(verdict for figure in published for verdict in _judge(board, figure, reviewed))


def backbone(row: Row) -> str:
    """What papers call the image encoder of a row; its own name where they have none for it."""
    name = str(row.identity.method_config.get("backbone", "?"))
    return next((known for start, known in _BACKBONES.items() if name.startswith(start)), name)


def _judge(board: Board, figure: Figure, reviewed: ProtocolMap) -> Iterator[Verdict]:
    entry = reviewed.protocols.get(figure.key)
    if entry is None:
        yield _none(figure, "unmapped: nobody has reviewed this protocol and metric")
        return
    if not entry.ours:
        yield _none(figure, entry.reason)
        return
    method = reviewed.methods.get(figure.method)
    if method is None:
        yield _none(figure, f"unmapped: nobody has said which method {figure.method} is here")
        return
    if not method.ours:
        yield _none(figure, method.reason)
        return
    ours = list(_ours(board, figure, entry, method))
    obstacles: dict[str, None] = {}  # in the order of the tables, each once
    compared = False
    for table, row, column, cell in ours:
        value = None
        obstacle = _obstacle(figure, entry, method, row, column)
        if not obstacle:
            value, obstacle = _value(board, column, cell, entry.our_metric)
        if value is None:
            obstacles.setdefault(obstacle)
            continue
        compared = True
        yield _compared(figure, entry, table, row, column, cell, value)
    if not compared:
        none = f"{NO_RECORD}`{method.ours}` on `{entry.ours}`" + (
            f" at {figure.fraction} of the labels" if figure.fraction != "-" else ""
        )
        yield _none(figure, "; ".join(f"{OURS}{obstacle}" for obstacle in obstacles) or none)


def _ours(
    board: Board, figure: Figure, entry: Protocol, method: PublishedMethod
) -> Iterator[tuple[Table, Row, Column, Cell]]:
    """Cells of ours of this task, fraction and method, whatever they were made with."""
    for table in board.tables:
        own = (row for row in table.rows if row.method == method.ours)
        for row in sorted(own, key=lambda row: (row.name, row.key)):
            for column in table.columns:
                cell = table.cells.get((row.key, column.key))
                if (
                    column.task == entry.ours
                    and figure.fraction in (fraction_name(column.fraction), "-")
                    and cell is not None
                    and cell.status != "missing"
                ):
                    yield table, row, column, cell


def _obstacle(figure: Figure, entry: Protocol, method: PublishedMethod, row: Row, column: Column) -> str:
    """Why a cell of ours is about something else than the figure; "" where it is not."""
    identity, weights = row.identity, row.identity.weights
    if identity.source != "real":
        return "of phantom films, which are no patients"
    if identity.recipe != "paper":
        return f"of the recipe `{identity.recipe}`, whose encoder and training are not those of the paper"
    if column.subset is not None:
        return f"of a subset of the films ({column.subset})"
    if weights.corpus is not None and weights.corpus.subset is not None:
        return f"pretrained on a subset ({weights.corpus.subset})"
    if backbone(row) != figure.arch:
        return f"of another backbone ({backbone(row)})"
    if column.split != entry.split:
        return f"on the split `{column.split}`; the figure is of `{entry.split}` (`--split {entry.split}`)"
    corpus = weights.corpus.dataset if weights.corpus is not None else None
    if corpus not in (method.corpora or (None,)):
        wanted = " or ".join(method.corpora) or "no radiographs"
        return f"pretrained on {corpus or 'something that no record names'}; the figure is of {wanted}"
    return ""


def _value(
    board: Board, column: Column, cell: Cell, metric: str
) -> tuple[tuple[float, float, float, int] | None, str]:
    """Mean over the seeds that count, bounds of its interval, and their number; or None, and why.

    The interval of the primary metric is the cell's. That of another metric is the mean of the seeds' own bounds: about
    as wide as the interval of one seed, so rather too wide than too narrow for their mean.
    """
    counted = [seed for seed in cell.seeds if seed.repeats is None and seed.value is not None]
    if cell.status != "ok" or not counted:
        return None, f"{cell.status}: {' '.join(cell.notes) or 'there is no value'}"
    if metric == column.metric:
        value, low, high = cell.mean, cell.low, cell.high
    else:
        found = [
            next((m for m in board.records[seed.cell_id].metrics if m.name == metric), None)
            for seed in counted
        ]
        triples = [(m.value, m.low, m.high) for m in found if m is not None]
        if len(triples) < len(counted):
            return None, f"the records have no `{metric}`"
        value, low, high = (_mean([triple[i] for triple in triples]) for i in range(3))
    if value is None:
        return None, f"`{metric}` is not defined there"
    if low is None or high is None:
        return None, f"`{metric}` has no interval"
    return (100 * value, 100 * low, 100 * high, len(counted)), ""


def _compared(
    figure: Figure,
    entry: Protocol,
    table: Table,
    row: Row,
    column: Column,
    cell: Cell,
    value: tuple[float, float, float, int],
) -> Verdict:
    ours, low, high, seeds = value
    outcome: Outcome
    if figure.bound:
        outcome = "reproduced" if low - WIDER < figure.points else "high"
    elif high + WIDER < figure.points:
        outcome = "low"
    else:
        outcome = "high" if low - WIDER > figure.points else "reproduced"
    said = {
        "reproduced": f"within {low - WIDER:.1f} to {high + WIDER:.1f}",
        "low": f"ours, with a point more, ends at {high + WIDER:.1f}",
        "high": f"ours, with a point less, begins at {low - WIDER:.1f}",
    }[outcome]
    why = f"{said}; {'one seed' if seeds == 1 else f'{seeds} seeds'}"
    if marks := [mark for mark in cell.marks if mark != "one seed"]:
        why += f"; ours is marked {', '.join(marks)}"
    if entry.differs:
        why += f". Differs all the same: {entry.differs}"
    place = row.key, column.key, table.name
    return _verdict(figure, place, entry.our_metric, (ours, low, high), outcome, why)


def _none(figure: Figure, why: str) -> Verdict:
    return _verdict(figure, (None, None, None), "", (None, None, None), "not comparable", why)


def _verdict(
    figure: Figure,
    place: tuple[str | None, str | None, str | None],
    our_metric: str,
    ours: tuple[float | None, float | None, float | None],
    outcome: Outcome,
    why: str,
) -> Verdict:
    return Verdict(
        *place,
        method=figure.method,
        paper=figure.paper,
        arch=figure.arch,
        task=figure.task,
        dataset=figure.dataset,
        protocol=figure.protocol,
        fraction=figure.fraction,
        metric=figure.metric,
        published=figure.value,
        source=figure.source,
        our_metric=our_metric,
        ours=ours[0],
        low=ours[1],
        high=ours[2],
        verdict=outcome,
        why=why,
    )


def _reason(entry: Mapping[str, Any], what: str) -> str:
    reason = str(entry.get("reason", "")).strip()
    if not reason:
        raise DataError(f"{what}: expected a `reason`, found none. A map without reasons was not reviewed.")
    return reason


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if len(defined) == len(values) else None
