"""The command that computes a cell."""

import shlex
from collections.abc import Sequence

from medbench.records import Identity


def command(row: Identity, column: Identity, trains: bool, seeds: Sequence[int]) -> str:
    """What to type; words in capitals are the user's own paths.

    Names are quoted for a shell where they need it: those of a record are anybody's text.

    Args:
        row: of a record of the row: method, recipe, precision, weights.
        column: of a record of the column: task, fraction, data.
        trains: whether the task has label fractions.
        seeds: that are lacking; none where the result depends on no seed.
    """
    words = ["medbench", "run", "--method", row.method, "--task", column.task]
    if trains:
        words += ["--fraction", f"{column.fraction:g}"]
    if seeds:
        words += ["--seed", ",".join(map(str, seeds))]
    words += ["--recipe", row.recipe, "--precision", row.precision]
    corpus = row.weights.corpus
    on_phantom = corpus is not None and corpus.source == "phantom"
    if column.source == "real" or (column.source == "mixed" and on_phantom):
        words += ["--data", f"{column.dataset}=DIR"]
    if row.weights.kind == "checkpoint":
        words += ["--checkpoint", "PATH"]
    elif corpus is not None and corpus.source == "real":
        named = (
            ["table:FILE"]
            if corpus.dataset == "table"
            else [corpus.dataset, "--data", f"{corpus.dataset}=DIR"]
        )
        words += ["--corpus", *named]
    elif column.source == "mixed":
        words += ["--corpus", "phantom"]
    return shlex.join(words)
