"""Columns of a table that are one task at several label fractions."""

import re
from dataclasses import dataclass

from medbench_leaderboards.board import Column, Table


@dataclass(frozen=True)
class Series:
    """A task on one set and split.

    Attributes:
        name: in titles: the task, and what tells it from another series of it.
        file: the same for file names.
        columns: by rising fraction.
    """

    name: str
    file: str
    columns: tuple[Column, ...]


def series(table: Table) -> tuple[Series, ...]:
    """All columns of a table, each in one series, in the table's order."""
    found: dict[tuple[object, ...], list[Column]] = {}
    for column in table.columns:
        about = (column.task, column.version, column.dataset, column.subset, column.split, column.metric)
        place = 0  # columns that differ in their data alone are series of their own
        while any(c.fraction == column.fraction for c in found.get((*about, place), [])):
            place += 1
        found.setdefault((*about, place), []).append(column)
    made: list[Series] = []
    tasks = [key[0] for key in found]
    for key, columns in found.items():
        task = str(key[0])
        number = sum(one.columns[0].task == task for one in made) + 1
        name, file = task, slug(task)
        if tasks.count(task) > 1:
            first = columns[0]
            data = ", ".join(filter(None, (first.split, first.subset)))
            name, file = f"{task} ({data}; {number} of {tasks.count(task)})", f"{file}-{number}"
        made.append(Series(name, file, tuple(sorted(columns, key=lambda column: column.fraction))))
    return tuple(made)


def slug(name: str) -> str:
    """A name that any file system and any URL takes as it is: "rsna_lp@mgca" -> "rsna_lp-at-mgca"."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name.replace("@", "-at-")).strip(".-") or "task"
