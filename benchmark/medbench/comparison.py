"""Two methods side by side: what `medbench compare` prints."""

import fnmatch
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from medbench.cells import SOURCES
from medbench.errors import UsageError, did_you_mean
from medbench.metrics.bootstrap import SMALL_POSITIVES, SMALL_TEST
from medbench.plugins import Catalogue
from medbench.records import Identity, Record, fraction_name
from medbench.results import Results, column_key, row_key
from medbench.statistics.holm import holm
from medbench.statistics.paired import ALPHA, Difference, compare, side, unlike, verdict

Cell = tuple[str, str, str, float]
"""What both sides need a record of: source, recipe, task, label fraction."""


_CONFIGURATION = " #"  # before the part of a hash that tells configurations of a method apart


@dataclass(frozen=True)
class Operand:
    """One side of a comparison.

    Attributes:
        label: how it is called in the output, as the user typed it.
        method: its name.
        results: the folder it is looked for in.
    """

    label: str
    method: str
    results: Results


@dataclass(frozen=True)
class Line:
    """One comparison.

    Attributes:
        source, recipe: `phantom`, `tiny`.
        task: its name.
        fraction: label fraction.
        split: test set, where the task has several here; else "".
        a, b: the sides as they are called.
        metric: name of the primary metric, "" where no side has one.
        higher_is_better: direction of the metric.
        value_a, value_b: means over seeds, None where there is none.
        difference: b - a.
        p_holm: adjusted for all lines.
        verdict: in words.
        worse: whether b is worse than a beyond noise.
        notes: what else has to be known: test films that were trained on, small test sets.
    """

    source: str
    recipe: str
    task: str
    fraction: float
    split: str
    a: str
    b: str
    metric: str
    higher_is_better: bool
    value_a: float | None
    value_b: float | None
    difference: Difference
    p_holm: float | None = None
    verdict: str = ""
    worse: bool = False
    notes: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The column, in words."""
        return f"{self.task}{f' on {self.split}' if self.split else ''} {fraction_name(self.fraction)}"

    @property
    def lost(self) -> bool:
        """Whether a has a value that b could not be held against."""
        return self.value_a is not None and self.p_holm is None


def operand(text: str, folder: Path | None, catalogue: Catalogue, read: dict[Path, Results]) -> Operand:
    """What a word stands for: METHOD, or DIR:METHOD.

    Args:
        text: as typed.
        folder: where METHOD alone is looked for.
        catalogue: known tasks.
        read: folders that were read, which is added to.

    Raises:
        UsageError: there is no such folder, or no record of this method in it.
        DataError: a file in it is no record.
    """
    where, _, method = text.rpartition(":")
    root = Path(where) if where else folder
    if root is None or not root.is_dir() or not method:
        raise UsageError(
            f"{text}: expected METHOD or DIR:METHOD with a results folder DIR; "
            f"{'no method is named' if not method else f'{root} is no folder'}."
        )
    results = read.setdefault(root, Results.read(root, catalogue))
    methods = sorted({record.identity.method for record in results.records})
    if method not in methods:
        raise UsageError(
            f"{text}: no record of {method} in {root}.{did_you_mean(method, methods)} "
            f"Methods there: {', '.join(methods) or 'none'}."
        )
    return Operand(text, method, results)


def lines(
    a: Operand,
    b: Operand,
    tasks: Sequence[str] = (),
    fractions: Sequence[float] | None = None,
    recipe: str | None = None,
) -> list[Line]:
    """All comparisons of two methods, with p-values adjusted over them.

    Args:
        a: what is compared with.
        b: what is compared.
        tasks: names and globs; empty for all that either has.
        fractions: label fractions; None for all.
        recipe: None for all; they are never mixed.

    Returns:
        By source, recipe, task and fraction. A method in several configurations has a line for each, and so have
        several test sets of a task, and cells that one side lacks. Records of an older version of a task than the
        newest of that side are left out.

    Raises:
        UsageError: nothing is left.
        DataError: a file beside a record is not the recorded one.
    """
    sides = [_cells(which, tasks, fractions, recipe) for which in (a, b)]
    every = sorted(sides[0].keys() | sides[1].keys())
    if not every:
        raise UsageError(
            f"Nothing to compare: {a.label} and {b.label} have no record with this task, label fraction and recipe."
        )
    found = [line for cell in every for line in _of_cell(cell, a, b, sides[0].get(cell), sides[1].get(cell))]
    adjusted = holm([line.difference.p for line in found])
    return [_judged(line, p) for line, p in zip(found, adjusted, strict=True)]


Groups = dict[str, dict[str, list[Record]]]
"""Records of a cell: key of the column (`results.column_key`) -> configuration of the method -> seeds."""


def _cells(
    own: Operand, tasks: Sequence[str], fractions: Sequence[float] | None, recipe: str | None
) -> dict[Cell, Groups]:
    """Records of a side."""
    chosen = [
        record
        for record in own.results.records
        if record.identity.method == own.method
        and (not tasks or any(fnmatch.fnmatchcase(record.identity.task, pattern) for pattern in tasks))
        and (fractions is None or any(math.isclose(record.identity.fraction, f) for f in fractions))
        and recipe in (None, record.identity.recipe)
    ]
    newest: dict[str, int] = defaultdict(int)
    for record in chosen:
        newest[record.identity.task] = max(newest[record.identity.task], record.identity.task_version)
    cells: dict[Cell, Groups] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for record in chosen:
        identity = record.identity
        if identity.task_version == newest[identity.task]:
            cells[_cell(identity)][column_key(record)][row_key(identity)].append(record)
    return cells


def _cell(identity: Identity) -> Cell:
    return identity.source, identity.recipe, identity.task, identity.fraction


def _of_cell(cell: Cell, a: Operand, b: Operand, of_a: Groups | None, of_b: Groups | None) -> Iterator[Line]:
    """A line for each test set that both have; what is left of a side is held against what is left of the other."""
    of_a, of_b = of_a or {}, of_b or {}
    both = of_a.keys() & of_b.keys()
    pairs = [(key, key) for key in of_a if key in both]
    rest_a, rest_b = ([key for key in own if key not in both] for own in (of_a, of_b))
    pairs += [(key_a, key_b) for key_a in rest_a or [""] for key_b in rest_b or [""] if key_a or key_b]
    for key_a, key_b in pairs:
        configured_a, configured_b = of_a.get(key_a, {}), of_b.get(key_b, {})
        for row_a, records_a in (configured_a or {"": []}).items():
            for row_b, records_b in (configured_b or {"": []}).items():
                yield _line(
                    cell,
                    replace(a, label=_called(a.label, row_a, configured_a)),
                    replace(b, label=_called(b.label, row_b, configured_b)),
                    records_a,
                    records_b,
                    several=len(pairs) > 1,
                )


def _line(
    cell: Cell, a: Operand, b: Operand, of_a: list[Record], of_b: list[Record], *, several: bool
) -> Line:
    """One comparison; a side may have no record, not both."""
    records = [*of_a, *of_b]
    primary = next((record.primary for record in records if record.primary is not None), None)
    lacking = next((which.label for which, own in ((a, of_a), (b, of_b)) if not own), "")
    why = f"{lacking} has no record" if lacking else unlike(records)
    difference = Difference(reason=why) if why else compare(b.results, of_b, of_a, a.results)
    source, recipe, task, fraction = cell
    return Line(
        source,
        recipe,
        task,
        fraction,
        _test_set(records[0].identity) if several else "",
        a.label,
        b.label,
        metric="" if primary is None else primary.name,
        higher_is_better=primary is None or primary.higher_is_better,
        value_a=side(a.results, of_a).mean,
        value_b=side(b.results, of_b).mean,
        difference=difference,
        notes=tuple(dict.fromkeys([*_notes(a, of_a), *_notes(b, of_b)])),
    )


def _test_set(identity: Identity) -> str:
    return f"{identity.split} {identity.split_sha256[:12]}"


def _notes(own: Operand, records: Sequence[Record]) -> Iterator[str]:
    """What else has to be known of records that were tested."""
    for record in records:
        if record.status == "ok" and record.counts.split_leak:
            yield f"contaminated: split {record.identity.split}: {record.counts.split_leak}"
        if record.status == "ok" and own.results.small(record):
            yield f"small test set: fewer than {SMALL_TEST} films or {SMALL_POSITIVES} positives, the interval is rough"


def _called(label: str, key: str, configurations: Mapping[str, object]) -> str:
    return label if len(configurations) < 2 else f"{label}{_CONFIGURATION}{key[:6]}"


def _judged(line: Line, p: float | None) -> Line:
    said = verdict(line.difference, line.b, line.a, line.higher_is_better, p)
    lower = (line.difference.value or 0.0) < 0
    worse = p is not None and p < ALPHA and lower == line.higher_is_better
    return replace(line, p_holm=p, verdict=said, worse=worse)


def text(found: Sequence[Line]) -> str:
    """Markdown: a table a source and recipe, what the data are above it and what has to be said below it."""
    from tabulate import tabulate

    parts: list[str] = []
    a, b = (label.split(_CONFIGURATION)[0] for label in (found[0].a, found[0].b))
    for source, recipe in dict.fromkeys((line.source, line.recipe) for line in found):
        own = [line for line in found if (line.source, line.recipe) == (source, recipe)]
        rows = [
            {
                "task": f"{line.task} on {line.split}" if line.split else line.task,
                "labels": fraction_name(line.fraction),
                "metric": line.metric or "-",
                f"A: {a}": _mean(line.value_a, line.a, a),
                f"B: {b}": _mean(line.value_b, line.b, b),
                "difference [95 % interval]": _difference(line.difference),
                "p": _p(line.difference.p),
                "p (Holm)": _p(line.p_holm),
                "verdict": line.verdict,
            }
            for line in own
        ]
        table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        parts += [f"{SOURCES[source]}\nrecipe {recipe}", table]
        notes = list(dict.fromkeys(note for line in own for note in _said(line)))
        parts += ["\n".join(f"- {note}" for note in notes)] if notes else []
    count = sum(line.p_holm is not None for line in found)
    parts.append(
        f"Differences are B less A, in points. p (Holm) is adjusted for the {count} "
        f"comparison{'' if count == 1 else 's'} above; below {ALPHA} a difference is beyond noise."
    )
    return "\n\n".join(parts)


def _mean(value: float | None, label: str, usual: str) -> str:
    shown = "-" if value is None else f"{100 * value:.1f}"
    return shown if label == usual else f"{shown} ({label})"


def _difference(found: Difference) -> str:
    if found.value is None:
        return "-"
    shown = f"{100 * found.value:+.1f}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _said(line: Line) -> Iterator[str]:
    """Lines below the table."""
    found = line.difference
    if found.test:
        seeds = " and ".join(f"{n} seed{'' if n == 1 else 's'}" for n in found.seeds[::-1])
        said = f"; {found.reason}" if found.reason else ""
        yield f"{line.where}: {found.test}, {seeds}{said}"
    yield from (f"{line.where}: {note}" for note in line.notes)


def as_json(line: Line) -> dict[str, Any]:
    """JSON types only; infinite degrees of freedom are null."""
    told = asdict(line)
    if math.isinf(line.difference.freedom):
        told["difference"]["freedom"] = None
    return told
