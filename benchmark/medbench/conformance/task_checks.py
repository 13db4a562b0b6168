"""The checks of a task. Each says in its first line what it looks at, and returns what it saw."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pandas as pd

from medbench.conformance.bounds import blind, perfect
from medbench.conformance.check import Failed, NotApplicable
from medbench.conformance.docs import documented
from medbench.conformance.records import checked_run
from medbench.conformance.task_subject import TRUTH, TaskSubject
from medbench.data.splits import Rows
from medbench.disclosure import PREFIXES
from medbench.specs import Provision
from medbench.task import Metric, Task
from medbench.weights import config_json

RECIPES = ("tiny", "paper", "micro")


def declaration(subject: TaskSubject) -> str:
    """The target makes a Task at every recipe, of a known dataset and one of its splits; what it needs is known."""
    spec, catalogue = subject.spec, subject.catalogue
    if spec.dataset not in catalogue.datasets:
        raise Failed(f"the dataset {spec.dataset!r}", "one of `medbench list datasets`", "Declare it, too.")
    if unknown := spec.needs - set(get_args(Provision)):
        raise Failed(
            f"needs {', '.join(sorted(unknown))}", f"some of {', '.join(get_args(Provision))}", "Correct it."
        )
    splits = catalogue.load("datasets", spec.dataset).splits
    for recipe in RECIPES:
        task: Any = catalogue.make_task(spec, recipe)
        if not isinstance(task, Task):
            raise Failed(
                f"{spec.target} gives {type(task).__name__}", "a subclass of medbench.task.Task", "Derive it."
            )
        if task.split not in splits:
            raise Failed(
                f"the split {task.split!r}", f"one of {spec.dataset}: {', '.join(splits)}", "Name one."
            )
        config_json(task.config)  # the record holds it
    return f"{type(task).__name__} on {spec.dataset}, split {task.split}"


def docs(subject: TaskSubject) -> str:
    """Summary, reference and the docstring of the protocol are there; its distribution has a README or names docs."""
    target = subject.catalogue.load("tasks", subject.spec.name)
    return documented(subject.catalogue, "tasks", subject.spec, target)


def metrics(subject: TaskSubject) -> str:
    """The primary metric comes first, with the declared direction; names differ, and values lie in their intervals."""
    spec = subject.spec
    found = subject.make().score(subject.predictions)
    if not found or found[0].name != spec.primary_metric:
        first = found[0].name if found else "none"
        raise Failed(
            f"{first} as the first metric", spec.primary_metric, "Put the primary metric of the spec first."
        )
    if found[0].higher_is_better is not spec.higher_is_better:
        raise Failed(
            f"{found[0].name} with higher_is_better={found[0].higher_is_better}",
            f"{spec.higher_is_better}, as the spec says",
            "Make both say the same.",
        )
    names = [metric.name for metric in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise Failed(f"two metrics {', '.join(sorted(twice))}", "each name once", "Rename one.")
    if found[0].value is None:
        raise Failed(
            f"{found[0].name} without a value ({found[0].reason})", "a number", "Look at its test films."
        )
    for metric in found:
        _in_its_interval(metric)
    return f"{found[0].name} {found[0].value:.3f}, and {len(found) - 1} more"


def _in_its_interval(metric: Metric) -> None:
    if metric.value is None:
        return
    if not math.isfinite(metric.value):
        raise Failed(f"{metric.name} of {metric.value}", "a finite number, or None with a reason", "Say why.")
    low = -math.inf if metric.low is None else metric.low
    high = math.inf if metric.high is None else metric.high
    if not low - 1e-9 <= metric.value <= high + 1e-9:
        raise Failed(
            f"{metric.name} of {metric.value:.4f} outside its interval, {low:.4f} to {high:.4f}",
            "a value inside",
            "Draw from what the value is computed of.",
        )


def recompute(subject: TaskSubject) -> str:
    """Metrics follow from the stored predictions alone: a task that never saw the films computes the same ones."""
    task = subject.make()
    predictions = subject.evaluate(task).predictions
    before = list(task.score(predictions))
    stored = pd.read_parquet(io.BytesIO(predictions.to_parquet(index=False)))
    after = list(subject.make().score(stored))
    if differing := [one.name for one, other in zip(before, after, strict=True) if one != other]:
        raise Failed(
            f"another {differing[0]} from predictions that were written and read again by a fresh task",
            "the same number",
            "Let `score` look at the predictions alone, in types that parquet keeps.",
        )
    return f"{len(before)} metrics from {len(stored)} stored rows"


def bounds(subject: TaskSubject) -> str:
    """A predictor that knows the truth beats one that says the same of every film, and none beats the first."""
    spec, task = subject.spec, subject.make()
    sign = 1 if spec.higher_is_better else -1
    values = []
    for predictions in (perfect(subject.predictions), blind(subject.predictions), subject.predictions):
        value = task.score(predictions)[0].value
        if value is None or not math.isfinite(value):
            raise Failed(
                f"{spec.primary_metric} of {value}", "a number", "Define it for predictors that tie."
            )
        values.append(value)
    best, same, own = values
    if not (sign * best > sign * same and sign * best >= sign * own):
        raise Failed(
            f"{spec.primary_metric} {best:.3f} of a perfect predictor, {same:.3f} of one that says the same of every "
            f"film, {own:.3f} of an encoder's",
            f"the first to be the {'highest' if sign > 0 else 'lowest'}",
            "Check the direction, and what is done with ties.",
        )
    return f"perfect {best:.3f}, the same of every film {same:.3f}"


def determinism(subject: TaskSubject) -> str:
    """One seed, one result: two evaluations give the same predictions and choose the same values."""
    one, other = subject.evaluate(), subject.evaluate()
    if differing := _differing(one.predictions, other.predictions, one.predictions.columns):
        raise Failed(
            f"two evaluations with one seed that differ in {differing[0]}",
            "the same predictions",
            "Draw from a generator that is made from `seed`.",
        )
    if one.search != other.search:
        raise Failed(
            "two evaluations that chose otherwise", "the same `search`", "Choose by a rule for ties."
        )
    return "two evaluations are equal"


def fractions(subject: TaskSubject) -> str:
    """Label fractions rise in (0, 1]; trained on a part of the patients, every test film still has its prediction."""
    spec = subject.spec
    given = spec.fractions
    if list(given) != sorted(set(given)) or not all(0 < fraction <= 1 for fraction in given):
        raise Failed(f"fractions {given}", "rising numbers in (0, 1], each once", "Sort them.")
    if not given:
        return "it trains nothing"
    data = subject.taken
    predictions = subject.evaluate(train=_half(subject)).predictions
    samples = set(data.index.table["sample"].iloc[data.split.test])
    if lacking := samples - set(predictions["sample"]):
        raise Failed(
            f"no prediction of {len(lacking)} of {len(samples)} test films with half of the training patients",
            "one of each",
            "Predict `data.split.test`, whatever it is trained on.",
        )
    return f"{', '.join(f'{fraction:g}' for fraction in given)}; half of the patients train a predictor"


def unseen_labels(subject: TaskSubject) -> str:
    """Labels of test films, and of training films outside the fraction, change no prediction and nothing chosen."""
    data, spec = subject.taken, subject.spec
    train = _half(subject) if spec.fractions else data.split.train[:0]
    seen = np.union1d(train, data.split.val)
    hidden = np.setdiff1d(np.arange(len(data.index)), seen)
    table = data.index.table.copy()
    moved = [column for column in table if str(column).startswith(TRUTH)]
    shuffled = np.random.default_rng(0).permutation(hidden)
    for column in moved:
        values = table[column].to_numpy(copy=True)
        values[hidden] = values[shuffled]
        table[column] = values
    other = replace(data, index=replace(data.index, table=table))
    plain, changed = subject.evaluate(train=train), subject.evaluate(data=other, train=train)
    predicted = [column for column in plain.predictions if str(column).startswith(PREFIXES)]
    if not predicted:
        raise NotApplicable(f"no column of its predictions starts with {', '.join(PREFIXES)}")
    if differing := _differing(plain.predictions, changed.predictions, predicted):
        raise Failed(
            f"{differing[0]}, which changes where labels of films that it may not learn from change",
            "the same predictions",
            "Train on the rows `train`, choose on `data.split.val`, and look at no other label.",
        )
    if plain.search != changed.search:
        raise Failed(
            "something else chosen where hidden labels change",
            "the same `search`",
            "Choose on validation alone.",
        )
    return f"labels of {len(hidden)} films were shuffled, and nothing changed"


def positives(subject: TaskSubject) -> str:
    """`positives` tells for every film of the index, as bool, whether it holds something to learn; some train."""
    data = subject.taken
    found: Any = subject.make().positives(data.index)
    if not isinstance(found, np.ndarray) or found.dtype != np.bool_ or found.shape != (len(data.index),):
        is_ = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise Failed(f"positives of {is_}", f"bool ({len(data.index)},)", "One value a row of the index.")
    rows = data.split.train if subject.spec.fractions else data.split.test
    if not found[rows].any():
        raise Failed(
            "no positive among them", "some, or every label fraction is skipped", "Look at the labels."
        )
    return f"{int(found[rows].sum())} of {len(rows)} films"


def end_to_end(subject: TaskSubject) -> str:
    """A run at recipe micro, by the method `random` or, where texts are needed, `clip`, gives a valid record."""
    [record] = checked_run(subject.request, subject.catalogue)
    [first, *_] = record.metrics
    shown = "no value" if first.value is None else f"{first.value:.3f}"
    return f"a valid record of {record.identity.method}: {first.name} {shown}"


def _half(subject: TaskSubject) -> Rows:
    """Training rows of every second patient."""
    data = subject.taken
    patients = data.index.table["patient"].to_numpy()[data.split.train]
    kept = set(sorted(set(patients))[::2])
    half = np.fromiter((patient in kept for patient in patients), np.bool_, len(patients))
    return data.split.train[half]


def _differing(one: pd.DataFrame, other: pd.DataFrame, columns: Sequence[object]) -> list[str]:
    """Columns that do not hold the same bytes."""
    return [
        str(column)
        for column in columns
        if column not in other
        or one[[column]].to_parquet(index=False) != other[[column]].to_parquet(index=False)
    ]


CHECKS: tuple[Callable[[TaskSubject], str], ...] = (
    declaration,
    docs,
    positives,
    metrics,
    recompute,
    bounds,
    determinism,
    fractions,
    unseen_labels,
    end_to_end,
)
"""What is checked of a task, quick ones first."""
