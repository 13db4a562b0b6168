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
from medbench.plugins import Catalogue
from medbench.records import Identity, Record, fraction_name
from medbench.results import Results, row_key
from medbench.statistics.holm import holm
from medbench.statistics.paired import ALPHA, Difference, differences, side, unlike, verdict

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
        a, b: the sides as they are called.
        metric: name of the primary metric, "" where no side has one.
        higher_is_better: direction of the metric.
        value_a, value_b: means over seeds, None where there is none.
        difference: b - a.
        p_holm: adjusted for all lines.
        verdict: in words.
        worse: whether b is worse than a beyond noise.
    """

    source: str
    recipe: str
    task: str
    fraction: float
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
        By source, recipe, task and fraction. A method in several configurations has a line for each, and so have cells
        that one side lacks. Records of an older version of a task than the newest of that side are left out.

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


def _cells(
    own: Operand, tasks: Sequence[str], fractions: Sequence[float] | None, recipe: str | None
) -> dict[Cell, dict[str, list[Record]]]:
    """Records of a side: cell -> configuration of the method -> seeds."""
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
    cells: dict[Cell, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in chosen:
        identity = record.identity
        if identity.task_version == newest[identity.task]:
            cells[_cell(identity)][row_key(identity) + identity.data_fingerprint].append(record)
    return cells


def _cell(identity: Identity) -> Cell:
    return identity.source, identity.recipe, identity.task, identity.fraction


def _of_cell(
    cell: Cell,
    a: Operand,
    b: Operand,
    of_a: Mapping[str, list[Record]] | None,
    of_b: Mapping[str, list[Record]] | None,
) -> Iterator[Line]:
    source, recipe, task, fraction = cell
    bare = Line(source, recipe, task, fraction, a.label, b.label, "", True, None, None, Difference())
    for which, own in ((a, of_a), (b, of_b)):
        if own is None:
            yield replace(bare, difference=Difference(reason=f"{which.label} has no record"))
            return
    for key_a, records_a in (of_a or {}).items():
        for key_b, records_b in (of_b or {}).items():
            primary = next((r.primary for r in (*records_a, *records_b) if r.primary is not None), None)
            side_a, side_b = side(a.results, records_a), side(b.results, records_b)
            why = unlike([*records_a, *records_b])
            yield replace(
                bare,
                a=_called(a.label, key_a, of_a),
                b=_called(b.label, key_b, of_b),
                metric="" if primary is None else primary.name,
                higher_is_better=primary is None or primary.higher_is_better,
                value_a=side_a.mean,
                value_b=side_b.mean,
                difference=Difference(reason=why) if why else differences([side_b, side_a])[0],
            )


def _called(label: str, key: str, configurations: Mapping[str, object] | None) -> str:
    return (
        label if configurations is None or len(configurations) == 1 else f"{label}{_CONFIGURATION}{key[:6]}"
    )


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
                "task": line.task,
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
        notes = list(dict.fromkeys(_note(line) for line in own if line.difference.test))
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


def _note(line: Line) -> str:
    found = line.difference
    seeds = " and ".join(f"{n} seed{'' if n == 1 else 's'}" for n in found.seeds[::-1])
    said = f"; {found.reason}" if found.reason else ""
    return f"{line.task} {fraction_name(line.fraction)}: {found.test}, {seeds}{said}"


def as_json(line: Line) -> dict[str, Any]:
    """JSON types only; infinite degrees of freedom are null."""
    told = asdict(line)
    if math.isinf(line.difference.freedom):
        told["difference"]["freedom"] = None
    return told
