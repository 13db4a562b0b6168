"""The bootstrap draws of one record."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medbench.errors import DataError
from medbench.metrics.bootstrap import interval
from medbench.records import Record, draws_block, read_draws
from medbench.rescore import same
from medbench.scoring import Scores


def check_draws(path: Path, record: Record, within: float) -> list[str]:
    """What is wrong with the draws of a record, seen without its predictions.

    The hash; that they are those of the primary metric; and that the bounds of its interval follow from them. Records
    from before there were draws have none.

    Args:
        path: of the record.
        record: as read.
        within: how far two computations of one number may be apart.
    """
    block = record.draws
    if block is None:
        return []
    if block.path != f"{path.stem}.draws.npy":  # never a file elsewhere
        return [f"draws are {block.path!r}, expected {path.stem}.draws.npy beside it"]
    if block.metric != record.primary_metric or record.primary is None:
        return [f"draws are of {block.metric}, the primary metric is {record.primary_metric}"]
    try:
        values = read_draws(path, record)
    except DataError as error:
        return [str(error)]
    recorded = record.primary.low, record.primary.high
    found = interval(record.primary.interval, record.primary.value, values, block.drawn().units)
    return [
        f"draws: {end} bound of the interval {one} recorded, {other} by the draws"
        for end, one, other in zip(("lower", "upper"), recorded, found, strict=True)
        if not same(one, other, within)
    ]


def compare_draws(path: Path, record: Record, scores: Scores, within: float) -> Iterator[str]:
    """The draws and what is said of them, against those that the predictions give.

    Args:
        path: of the record.
        record: with draws that `check_draws` finds nothing wrong with.
        scores: computed again.
        within: how far two computations of one number may be apart.
    """
    if record.draws is None:
        return
    if scores.bootstrap is None:
        yield "draws are recorded, the installed task makes none"
        return
    name = scores.metrics[0].name
    now = draws_block(path.parent / record.draws.path, name, scores.bootstrap, scores.delong_se).model_dump()
    for part, value in record.draws.model_dump().items():
        if not same(value, now[part], within):
            yield f"draws: {part} {value} recorded, {now[part]} computed"
    values = read_draws(path, record)
    if values.shape == scores.bootstrap.draws.shape:
        differ = ~np.isclose(values, scores.bootstrap.draws, rtol=0, atol=within, equal_nan=True)
        if differ.any():
            yield f"draws: {np.count_nonzero(differ)} of {len(values)} are not those of the predictions"
