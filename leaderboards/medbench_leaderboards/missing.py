"""The command that fills a cell."""

import shlex
from collections.abc import Sequence

from medbench.records import Identity


def command(row: Identity, column: Identity, trains: bool, seeds: Sequence[int]) -> str:
    """What to type; words in capitals are the user's own paths. A name is one word, whatever is in it.

    Args:
        row: of a record of the row: method, recipe, precision, weights.
        column: of a record of the column: task, fraction, data.
        trains: whether the task has label fractions.
        seeds: that are lacking.
    """
    parts = [f"medbench run --method {shlex.quote(row.method)} --task {shlex.quote(column.task)}"]
    if trains:
        parts.append(f"--fraction {column.fraction:g}")
    parts.append(f"--seed {','.join(map(str, seeds))} --recipe {shlex.quote(row.recipe)}")
    parts.append(f"--precision {row.precision}")
    if column.source == "real":
        parts.append(f"--data {shlex.quote(column.dataset)}=DIR")
    if row.weights.kind == "checkpoint":
        parts.append("--checkpoint PATH")
    elif row.weights.corpus is not None and row.weights.corpus.source == "real":
        corpus = shlex.quote(row.weights.corpus.dataset)
        parts.append("--corpus table:FILE" if corpus == "table" else f"--corpus {corpus} --data {corpus}=DIR")
    return " ".join(parts)
