"""Records -> a Markdown page. The order of the records does not matter; equal records give equal bytes.

Nothing is left blank: a cell is a number, `n/a` with the reason below the table, or `–` with the command that
fills it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from tabulate import tabulate

from medbench.cells import SOURCES
from medbench.records import Identity, Record, fraction_name
from medbench_leaderboards.groups import (
    Kind,
    by_place,
    column_key,
    current,
    kind,
    row_key,
    seed_order,
)
from medbench_leaderboards.summary import Summary, summarise

ORDER = (
    "One seed: value [95 % interval over test patients]; several seeds: mean ± standard deviation (how many). "
    "Rows with a value in every column come first, by their mean rank over the columns; the others follow by name."
)


@dataclass(frozen=True)
class _Line:
    """A row or a column: its key, its name in the table, the identity of one of its records."""

    key: str
    name: str
    identity: Identity


def markdown(records: Sequence[Record]) -> str:
    """One table for every source, recipe, and full sets or subsets: methods by task and label fraction.

    A cell is the primary metric in percent. Of one seed: with the 95 % bootstrap interval over test patients.
    Of
    several: mean, sample standard deviation (over n - 1) and number of seeds; a seed whose predictions repeat
    another seed's bit by bit is not counted.
    """
    kept, left_out = current(records)
    kinds = sorted({kind(record.identity) for record in kept})
    parts = [
        "# medbench leaderboard",
        *(_table(k, [r for r in kept if kind(r.identity) == k]) for k in kinds),
    ]
    if not kinds:
        parts.append("No records to show. `medbench run --method random --task rsna_lp` makes some.")
    if left_out:
        parts.append("## Left out\n\n" + "\n".join(f"- {line}" for line in left_out))
    return "\n\n".join(parts) + "\n"


def _table(about: Kind, records: Sequence[Record]) -> str:
    rows = _lines({row_key(r.identity): r.identity for r in records}, _row_name)
    columns = _lines({column_key(r): r.identity for r in records}, _column_name)
    columns.sort(key=lambda column: (column.identity.task, column.identity.fraction, column.key))
    places = by_place(records)
    cells = {(r.key, c.key): summarise(places.get((about, r.key, c.key), [])) for r in rows for c in columns}
    direction = {column_key(r): r.primary.higher_is_better for r in records if r.primary is not None}
    ranks = _mean_ranks(rows, columns, cells, direction)
    rows.sort(key=lambda row: (ranks.get(row.key, float("inf")), row.name))

    source, recipe, size = about
    table = [
        [
            row.name,
            *(cells[row.key, column.key].text for column in columns),
            f"{ranks[row.key]:.2f}" if row.key in ranks else "–",
        ]
        for row in rows
    ]
    headers = ["method", *(column.name for column in columns), "mean rank"]
    notes = [
        f"{row.name}, {c.name}: {note}"
        for row in rows
        for c in columns
        for note in cells[row.key, c.key].notes
    ]
    blocks = {
        "": [*_about_columns(columns, records), *(f"{row.name}: {_about_row(row)}" for row in rows)],
        "Notes": notes,
        "Missing, and the command that fills it": list(_missing(rows, columns, cells)),
    }
    parts = [
        f"## {source}, recipe {recipe}, {size}",
        SOURCES[source][0].upper() + SOURCES[source][1:],
        tabulate(table, headers=headers, tablefmt="github", disable_numparse=True),
        ORDER,
    ]
    for title, lines in blocks.items():
        if lines:
            parts.append((f"{title}:\n\n" if title else "") + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


# Rows and columns.


def _lines(identities: Mapping[str, Identity], name: Callable[[Identity], str]) -> list[_Line]:
    """Rows or columns by name; those that would share one get a piece of their key as well."""
    names = [name(identity) for identity in identities.values()]
    lines = []
    for key, identity in identities.items():
        own = name(identity)
        lines.append(_Line(key, own if names.count(own) == 1 else f"{own} #{key[:6]}", identity))
    return sorted(lines, key=lambda line: line.name)


def _row_name(identity: Identity) -> str:
    return f"{identity.method} ({identity.fidelity})"


def _column_name(identity: Identity) -> str:
    return f"{identity.task} {fraction_name(identity.fraction)}"


def _about_row(row: _Line) -> str:
    weights = row.identity.weights
    text = f"checkpoint {weights.key[:12]}" if weights.kind == "checkpoint" else weights.kind
    if weights.corpus is not None:
        text += f" on {weights.corpus.source} {weights.corpus.dataset}"
        text += f", subset: {weights.corpus.subset}" if weights.corpus.subset else ""
    return f"{text}; precision {row.identity.precision}; {row.identity.method_owner}"


def _about_columns(columns: Sequence[_Line], records: Sequence[Record]) -> list[str]:
    """One line a task, or a column where columns of a task differ in more than the fraction."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for column in columns:
        name = column.name if "#" in column.name else column.identity.task
        groups[name] += [record for record in records if column_key(record) == column.key]
    lines = []
    for name, group in groups.items():
        first = min(group, key=seed_order)
        identity = first.identity
        metric = next((r.primary for r in group if r.primary is not None), None)
        measure = f"{first.primary_metric} in %"
        if metric is not None:
            measure += f", {'higher' if metric.higher_is_better else 'lower'} is better"
        data = identity.dataset + (f", subset: {identity.subset}" if identity.subset else "")
        split = f"split {identity.split}, {first.counts.test:,} test samples"
        lines.append(f"{name}, version {identity.task_version}: {measure}; {data}; {split}")
    return lines


# Ranks.


def _mean_ranks(
    rows: Sequence[_Line],
    columns: Sequence[_Line],
    cells: Mapping[tuple[str, str], Summary],
    higher_is_better: Mapping[str, bool],
) -> dict[str, float]:
    """By row key: mean rank of the complete rows among themselves; ties share a rank.

    A row is complete if it has a value wherever any row has one.
    """
    means = pd.DataFrame(
        [[cells[row.key, column.key].mean for column in columns] for row in rows],
        index=[row.key for row in rows],
        columns=[column.key for column in columns],
        dtype=float,
    )
    complete = means.dropna(axis="columns", how="all").dropna(axis="index")
    if complete.empty:
        return {}
    better = [1.0 if higher_is_better[str(key)] else -1.0 for key in complete.columns]
    ranks = (complete * better).rank(ascending=False).mean(axis="columns")
    return {str(key): float(rank) for key, rank in ranks.items()}


# What is missing.


def _missing(
    rows: Sequence[_Line], columns: Sequence[_Line], cells: Mapping[tuple[str, str], Summary]
) -> Iterator[str]:
    """A line for every place that lacks a seed which its row has somewhere else."""
    for row in rows:
        ran = {s for c in columns for s in cells[row.key, c.key].seeds if s is not None} or {0}
        for column in columns:
            seeds = cells[row.key, column.key].seeds
            if None not in seeds and (lacking := sorted(ran - seeds)):
                yield f"{row.name}, {column.name}: `{_command(row.identity, column.identity, lacking)}`"


def _command(row: Identity, column: Identity, seeds: Sequence[int]) -> str:
    """What to type; words in capitals are the user's own paths."""
    parts = [
        f"medbench run --method {row.method} --task {column.task} --fraction {column.fraction:g}",
        f"--seed {','.join(map(str, seeds))} --recipe {row.recipe} --precision {row.precision}",
    ]
    if column.source == "real":
        parts.append(f"--data {column.dataset}=DIR")
    if row.weights.kind == "checkpoint":
        parts.append("--checkpoint PATH")
    elif row.weights.corpus is not None and row.weights.corpus.source == "real":
        corpus = row.weights.corpus.dataset
        parts.append("--corpus table:FILE" if corpus == "table" else f"--corpus {corpus} --data {corpus}=DIR")
    return " ".join(parts)
