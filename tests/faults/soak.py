"""A plugin for long runs: tasks whose cells take no time, and an observer that notes what the process holds.

Each finished cell adds a line to `soak.log` in the results folder: bytes of memory, open files, threads.
"""

import os
import threading
from pathlib import Path

from medbench.hookspecs import hookimpl
from medbench.protocols.linear_probe import LinearProbe
from medbench.protocols.probe_features import Scaling
from medbench.specs import TaskSpec
from medbench.task import Evaluation, Metric

TASKS = 3


class Quick(LinearProbe):
    """On the features of a linear probe, the difference of the class means, and a measure that takes no time."""

    def evaluate(self, features, data, train, seed, env):
        scaling = Scaling.of(features, train)
        labels = self.labels(data.index, train)[:, 0] == 1
        rows = scaling.whole(features, train, env.device)  # (R, D)
        weight = rows[labels].mean(0) - rows[~labels].mean(0)
        test, validation = (
            (scaling.whole(features, part, env.device) @ weight)[:, None].cpu().double().numpy()
            for part in (data.split.test, data.split.val)
        )
        return Evaluation(self.predictions(data, test, validation))

    def score(self, predictions):
        right = (predictions["score_pneumonia"] > 0) == predictions["target_pneumonia"]
        return [Metric("right", float(right.mean()), None, None, "none", len(predictions))]

    def reliability(self, predictions):
        return ()


@hookimpl
def medbench_tasks():
    for number in range(TASKS):
        yield TaskSpec(
            name=f"quick{number}",
            target="soak:Quick",
            summary="a linear probe that is hardly measured",
            reference="none",
            dataset="rsna",
            needs=frozenset({"image.pooled"}),
            primary_metric="right",
            given={"split": "mgca_cls", "classes": ("pneumonia",)},
        )


@hookimpl
def medbench_run_finished(record, workdir):
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    line = (
        f"{pages * os.sysconf('SC_PAGESIZE')} {len(os.listdir('/proc/self/fd'))} {threading.active_count()}"
    )
    with (workdir / "soak.log").open("a") as log:
        print(line, file=log)
