"""The linear probe against scikit-learn.

The probe of `--films` films with `--features` features and `--labels` labels, from features in memory to predictions,
all eleven penalties: its time and the most memory of its process, libraries included. Against it scikit-learn's
LogisticRegression (float32 features, its own tolerance), one label and penalty at a time. `--fits` of these are
measured, a different label at each penalty in turn, and their mean stands for all: how many is printed. The last line
is the largest difference of both validation AUROCs at the same label and penalty.
"""

import argparse
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures import Result, alone, peak
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.progress import Progress
from medbench.protocols.linear_probe import LinearProbe, LinearProbeConfig
from medbench.protocols.probe_features import ProbeFeatures, Scaling
from medbench.task import Environment, TaskData


def lp(options: argparse.Namespace) -> Iterator[Result]:
    seconds, memory, aurocs = alone(measure_lp, options)
    penalties = len(aurocs[0])
    fits = options.labels * penalties
    measured = [((3 * k) % options.labels, k % penalties) for k in range(min(options.fits, fits))]
    theirs = alone(measure_scikit_learn, options, measured)
    whole = fits * sum(spent for spent, _ in theirs) / len(theirs)
    name = f"lp, {options.films:,} x {options.features:,}, {options.labels} labels, {penalties} penalties"
    share = f"{len(theirs)} of {fits} fits"
    print(f"{name}: {seconds:.1f} s; scikit-learn {whole:.0f} s, from {share}")
    yield Result("lp over scikit-learn", whole / seconds, "times", 10)
    yield Result("lp, memory", memory / 1e9, "GB", 2.5, most=True)
    off = [
        abs(aurocs[label][penalty] - value)
        for (label, penalty), (_, value) in zip(measured, theirs, strict=True)
    ]
    yield Result("lp, AUROC away from scikit-learn's, at most", max(off), "", 0.002, most=True)


def probed(options: argparse.Namespace) -> tuple[ProbeFeatures, TaskData]:
    """Features as an encoder's last layer gives them, none below 0, in falling variance, and labels they explain."""
    rng = np.random.default_rng(0)
    held = max(20, options.films // 20)
    rows = options.films + 2 * held
    width = options.features
    mix = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    mix *= np.arange(1, width + 1, dtype=np.float32)[:, None] ** -0.5
    weights = rng.standard_normal((width, options.labels)).astype(np.float32)
    pooled = np.empty((rows, width), np.float32)
    signal = np.empty((rows, options.labels), np.float32)
    for start in range(0, rows, 2048):  # so that making them takes no more memory than having them
        block = rng.standard_normal((min(2048, rows - start), width), np.float32) @ mix
        np.maximum(block, 0, out=pooled[start : start + len(block)])
        signal[start : start + len(block)] = pooled[start : start + len(block)] @ weights
    signal = 1.5 * (signal - signal.mean(0)) / signal.std(0) + rng.logistic(size=signal.shape)
    table = pd.DataFrame(
        {"sample": [f"s{k}" for k in range(rows)], "patient": [f"p{k}" for k in range(rows)]}
    )
    names = tuple(f"c{k}" for k in range(options.labels))
    for k, (name, share) in enumerate(zip(names, np.linspace(0.05, 0.3, options.labels), strict=True)):
        table[f"label_{name}"] = (signal[:, k] > np.quantile(signal[:, k], 1 - share)) * 1.0
    everyone = np.arange(rows)
    split = Split("any", *np.split(everyone, [options.films, options.films + held]))
    index = Index("features", Path(), "phantom", table, names)
    return ProbeFeatures(everyone, pooled), TaskData(index, split, no_films)


def no_films(side: int, fit: str) -> Any:
    raise AssertionError("features are there, and no film is needed")


ENV = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))


def measure_lp(options: argparse.Namespace, answer: Connection) -> None:
    """Answers seconds, bytes, and the validation AUROCs of each label at each penalty."""
    features, data = probed(options)
    task = LinearProbe("paper", split="any")
    start = time.perf_counter()
    found = task.evaluate(features, data, data.split.train, 0, ENV)
    seconds = time.perf_counter() - start
    chosen = found.search["chosen"].values()
    answer.send((seconds, peak(), [label["validation_auroc_by_penalty"] for label in chosen]))


def measure_scikit_learn(
    options: argparse.Namespace, fits: list[tuple[int, int]], answer: Connection
) -> None:
    """Answers seconds and validation AUROC of each (label, penalty)."""
    features, data = probed(options)
    train, val = data.split.train, data.split.val
    scaling = Scaling.of(features, train)
    pooled = features.pooled
    pooled -= scaling.mean.astype("float32")
    pooled *= scaling.factor
    penalties = LinearProbeConfig().penalties
    found = []
    for label, penalty in fits:
        y: np.ndarray[Any, Any] = data.index.table[f"label_{data.index.labels[label]}"].to_numpy()
        model = LogisticRegression(C=1 / (len(train) * penalties[penalty]), max_iter=10_000)
        start = time.perf_counter()
        model.fit(pooled[: len(train)], y[train])
        seconds = time.perf_counter() - start
        value = roc_auc_score(y[val], model.decision_function(pooled[val]))
        found.append((seconds, float(value)))
    answer.send(found)
