"""What ends the computing of a cell: a limit of time, and numbers that are none."""

import faulthandler
import reprlib
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import numpy as np
import pandas as pd
from pydantic_core import to_jsonable_python

from medbench.scoring import Scores

GRACE: Final = 30.0
"""Seconds that what is interrupted has to end by itself; the limit where that is less."""


class CellTimeout(Exception):
    """A cell took longer than it may."""


class NotFinite(Exception):
    """A method or a task gave numbers that are none."""


class NotRecordable(Exception):
    """A task says that it chose what no record can hold."""


class WorkerDied(Exception):
    """The process that computed a cell is gone: killed, for want of memory perhaps, or by an error in native code."""


@contextmanager
def time_limit(seconds: float | None, what: str, *, lethal: bool) -> Iterator[None]:
    """Raise `CellTimeout` in what takes longer, which has to run in the main thread.

    Args:
        seconds: None for no limit.
        what: is done inside, for the user.
        lethal: native code that does not return ends the whole process, with the tracebacks of all threads on standard
            error: for workers, whose cell another one then records as failed.
    """
    if seconds is None:
        yield
        return

    def ring(signum: int, frame: FrameType | None) -> None:
        raise CellTimeout(f"{what} took longer than {seconds:g} s (--cell-timeout)")

    before = signal.signal(signal.SIGALRM, ring)
    other = signal.setitimer(signal.ITIMER_REAL, seconds)
    if lethal:
        faulthandler.dump_traceback_later(seconds + min(GRACE, seconds), exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, *other)
        signal.signal(signal.SIGALRM, before)


def see_finite(predictions: pd.DataFrame, scores: Scores) -> None:
    """See that scores of films, boxes and metrics are numbers.

    Raises:
        NotFinite: some are not; says which.
    """
    wrong = []
    for name in map(str, predictions.columns):
        if name.startswith(("score_", "pred_")):
            rows = [np.asarray(row) for row in predictions[name]]
            bad = sum(bool(row.dtype.kind == "f" and not np.isfinite(row).all()) for row in rows)
            wrong += [f"{bad} of {len(rows)} rows of {name}"] if bad else []
    for metric in scores.metrics:
        numbers = [metric.value, metric.low, metric.high, *metric.per_class.values()]
        if any(number is not None and not np.isfinite(number) for number in numbers):
            wrong.append(f"the metric {metric.name}")
    if wrong:
        raise NotFinite(f"not finite: {'; '.join(wrong)}")


def see_recordable(search: Mapping[str, Any]) -> None:
    """See that a record can hold what a task says that it chose.

    Raises:
        NotRecordable: it can not.
    """
    try:
        to_jsonable_python(dict(search))
    except (TypeError, ValueError) as error:
        raise NotRecordable(
            f"`search` of an Evaluation: found {reprlib.repr(dict(search))}; expected JSON types only ({error})"
        ) from error
