"""A linear probe, once for every check of a task with a bug that this check has to find."""

from dataclasses import replace

import numpy as np
import pandas as pd

from medbench.hookspecs import hookimpl
from medbench.protocols.linear_probe import LinearProbe
from medbench.specs import TaskSpec

SOUND = TaskSpec(
    name="sound_task",
    target="medbench.protocols.linear_probe:LinearProbe",
    summary="no bug",
    reference="tests",
    dataset="rsna",
    needs=frozenset({"image.pooled"}),
    primary_metric="auroc",
    given={"split": "mgca_det", "classes": ("pneumonia",)},
)


class Remembers(LinearProbe):
    """Scores with what it saw in training."""

    seen = 0

    def evaluate(self, features, data, train, seed, env):
        self.seen = len(train)
        return super().evaluate(features, data, train, seed, env)

    def score(self, predictions):
        first, *others = super().score(predictions)
        return [replace(first, value=first.value - 1e-6 * self.seen), *others]


class UpsideDown(LinearProbe):
    """Scores the wrong way round."""

    def score(self, predictions):
        return super().score(predictions.assign(score_pneumonia=-predictions["score_pneumonia"]))


class Draws(LinearProbe):
    """Draws from nowhere."""

    def predictions(self, data, scores, validation=None):
        noise = np.random.default_rng().normal(size=scores.shape)
        return super().predictions(data, scores + noise, validation)


class Forgets(LinearProbe):
    """Leaves out a film where it has learnt from few."""

    def evaluate(self, features, data, train, seed, env):
        found = super().evaluate(features, data, train, seed, env)
        all_of_them = len(train) == len(data.split.train)
        return found if all_of_them else replace(found, predictions=found.predictions.iloc[1:])


class Greedy(LinearProbe):
    """Trains on all labels, whatever the fraction."""

    def evaluate(self, features, data, train, seed, env):
        return super().evaluate(features, data, data.split.train, seed, env)


class Counts(LinearProbe):
    """Counts instead of saying yes or no."""

    def positives(self, index):
        return super().positives(index).astype(np.int64)


class Unwritable(LinearProbe):
    """Chooses what no record can hold."""

    def evaluate(self, features, data, train, seed, env):
        return replace(super().evaluate(features, data, train, seed, env), search={"chosen": pd.NaT})


BUGS = {
    "declaration": {"given": {"split": "mgca_dett", "classes": ("pneumonia",)}},
    "docs": {"reference": ""},
    "metrics": {"primary_metric": "map"},
    "metrics__direction": {"higher_is_better": False},
    "recompute": {"target": "planted_tasks:Remembers"},
    "bounds": {"target": "planted_tasks:UpsideDown"},
    "determinism": {"target": "planted_tasks:Draws"},
    "fractions": {"fractions": (1.0, 0.1)},
    "fractions__films": {"target": "planted_tasks:Forgets"},
    "unseen_labels": {"target": "planted_tasks:Greedy"},
    "positives": {"target": "planted_tasks:Counts"},
    "end_to_end": {"target": "planted_tasks:Unwritable"},
}


@hookimpl
def medbench_tasks():
    yield SOUND
    for name, changes in BUGS.items():
        yield replace(SOUND, name=f"bug_task_{name}", **changes)
