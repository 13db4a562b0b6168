"""The command that fills a cell."""

from collections.abc import Sequence

from medbench.records import Identity


def command(row: Identity, column: Identity, trains: bool, seeds: Sequence[int]) -> str:
    """What to type; words in capitals are the user's own paths.

    Args:
        row: of a record of the row: method, recipe, precision, weights.
        column: of a record of the column: task, fraction, data.
        trains: whether the task has label fractions.
        seeds: that are lacking.
    """
    parts = [f"medbench run --method {row.method} --task {column.task}"]
    if trains:
        parts.append(f"--fraction {column.fraction:g}")
    parts.append(f"--seed {','.join(map(str, seeds))} --recipe {row.recipe} --precision {row.precision}")
    if column.source == "real":
        parts.append(f"--data {column.dataset}=DIR")
    if row.weights.kind == "checkpoint":
        parts.append("--checkpoint PATH")
    elif row.weights.corpus is not None and row.weights.corpus.source == "real":
        corpus = row.weights.corpus.dataset
        parts.append("--corpus table:FILE" if corpus == "table" else f"--corpus {corpus} --data {corpus}=DIR")
    return " ".join(parts)
