"""Which records may stand together, and which enter no table.

Phantom and real data, two recipes, or a subset and a full set never share a table; two versions, splits or
settings of a task never share a column; two configurations of a method never share a row.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from medbench.records import Identity, Record
from medbench.results import Results, seed_order

Kind = tuple[str, str, str]
"""What a table is about: source, recipe, "full sets" or "subsets"."""

Place = tuple[Kind, str, str]
"""A cell of a table: its kind, row key and column key. Its records differ in nothing but the seed."""

_STATUS = ("ok", "skipped", "failed")


def distinct(records: Iterable[Record]) -> list[Record]:
    """One record a cell, in an order of their own; a finished one is taken before a failed one."""
    cells: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        cells[record.cell_id].append(record)
    return [
        own[0] if len(own) == 1 else min(own, key=lambda r: (_STATUS.index(r.status), r.to_json()))
        for _, own in sorted(cells.items())
    ]


def current(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Distinct records that enter tables, and one line about each group that does not.

    Left out are records that mix phantom and real data, and those of an older version of the task or of its
    primary metric than the newest among `records`.
    """
    mixed: list[Record] = []
    pure: list[Record] = []
    for record in distinct(records):
        (mixed if record.identity.source == "mixed" else pure).append(record)
    newest: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for record in pure:
        newest[record.identity.task] = max(newest[record.identity.task], _version(record))
    kept: list[Record] = []
    old: dict[tuple[str, tuple[int, int]], list[Record]] = defaultdict(list)
    for record in pure:
        task, version = record.identity.task, _version(record)
        # A skipped record has no metric and no version of one; it stays while its task's version is current.
        if version == newest[task] or (record.primary is None and version[0] == newest[task][0]):
            kept.append(record)
        else:
            old[task, version].append(record)
    lines = []
    if mixed:
        methods = ", ".join(sorted({record.identity.method for record in mixed}))
        lines.append(f"{_count(mixed)} mixing phantom and real data ({methods})")
    for (task, version), left in sorted(old.items()):
        lines.append(f"{_count(left)} of {task} {_say(version)}; the newest is {_say(newest[task])}")
    return kept, lines


def kind(identity: Identity) -> Kind:
    """The table that a record belongs to."""
    corpus = identity.weights.corpus
    subset = identity.subset is not None or (corpus is not None and corpus.subset is not None)
    return identity.source, identity.recipe, "subsets" if subset else "full sets"


def by_place(results: Results, records: Iterable[Record]) -> dict[Place, list[Record]]:
    """Records by cell of a table, each list by seed."""
    places: dict[Place, list[Record]] = defaultdict(list)
    for record in sorted(records, key=seed_order):
        places[kind(record.identity), *results.keys(record)].append(record)
    return dict(places)


def _version(record: Record) -> tuple[int, int]:
    return record.identity.task_version, record.primary.version if record.primary is not None else 0


def _say(version: tuple[int, int]) -> str:
    return f"version {version[0]}" + (f" (metric version {version[1]})" if version[1] else "")


def _count(records: Sequence[Record]) -> str:
    return f"{len(records)} record{'' if len(records) == 1 else 's'}"
