"""A plugin whose tasks take no time and end in every way that a cell can; a file `mended` beside it mends them."""

import ctypes
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medbench.hookspecs import hookimpl
from medbench.specs import TaskSpec
from medbench.task import Evaluation, Metric, Task


@dataclass(frozen=True)
class Nothing:
    """There is nothing to configure."""


class Doomed(Task):
    """At 10 % of the labels it ends as its name says, at all of them as every task should."""

    def __init__(self, recipe: str, *, split: str, end: str) -> None:
        super().__init__(recipe, split=split)
        self.end, self.config = end, Nothing()

    def extract(self, model: Any, data: Any, env: Any) -> None:
        if self.end == "extract":
            raise RuntimeError("no features")

    def evaluate(self, features: Any, data: Any, train: Any, seed: int, env: Any) -> Evaluation:
        table = data.index.table.loc[data.split.test, ["sample", "patient"]].reset_index(drop=True)
        rng = np.random.default_rng(seed)
        score = rng.random(len(table))
        if len(train) < len(data.split.train):
            self._doom(score)
        return Evaluation(table.assign(score_x=score))

    def _doom(self, score: Any) -> None:
        if Path(__file__).with_name("mended").exists():
            return
        if self.end == "raises":
            raise RuntimeError("the planted fault")
        if self.end == "memory":
            np.empty(2**62, np.uint8)
        if self.end == "nan":
            score[3] = np.nan
        if self.end == "sleeps":
            time.sleep(600)
        if self.end == "hangs":
            # Native code that keeps Python from doing anything, and ignores signals.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            ctypes.PyDLL(None).sleep(600)
        if self.end == "dies":
            print("last words", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def score(self, predictions: pd.DataFrame) -> list[Metric]:
        value = float(predictions["score_x"].mean())
        return [Metric("mean", value, None, None, "none", len(predictions), reason="a test")]

    def positives(self, index: Any) -> Any:
        return np.ones(len(index), np.bool_)


@hookimpl
def medbench_tasks():
    for end in ("fine", "extract", "raises", "memory", "nan", "sleeps", "hangs", "dies"):
        yield TaskSpec(
            name=f"doomed_{end}",
            target=f"{Path(__file__).stem}:Doomed",
            summary=f"{end}",
            reference="none",
            dataset="rsna",
            needs=frozenset({"image.pooled"}),
            primary_metric="mean",
            given={"split": "mgca_cls", "end": end},
        )
