"""The linear probe against the published one.

At 1, 10 and 100 % of the same split of `--frozen` films, from features in memory, against `lp@mgca` with its
published schedule, which has to pass the films through the encoder again (`random`, `tiny`).
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from figures import Result

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import fraction_rows, three_way
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.protocols.linear_probe import LinearProbe
from medbench.protocols.linear_probe_mgca import MgcaLinearProbe
from medbench.task import Environment, TaskData
from medbench.weights import untrained


def lp_mgca(options: argparse.Namespace) -> Iterator[Result]:
    method = load_catalogue(third_party=False).load("methods", "random")
    model = (
        untrained(method, method.recipes["tiny"], "random", 0, offline=True, say=print).method.eval().model
    )
    side = model.preprocessing.resize
    rng = np.random.default_rng(0)
    ill = rng.random(options.frozen) < 0.3
    films = np.clip(rng.normal(110 + 20 * ill[:, None, None], 40, (options.frozen, side, side)), 0, 255)
    names = {"sample": [f"s{k}" for k in range(len(ill))], "patient": [f"p{k}" for k in range(len(ill))]}
    index = Index("films", Path(), "phantom", pd.DataFrame(names).assign(label_ill=ill * 1.0), ("ill",))
    prepared = PreparedImages(films.astype(np.uint8), np.full((len(ill), 2), side), "")
    data = TaskData(index, three_way(index, "any", 0.3), lambda side, fit: prepared)
    spent = {}
    for name, task in (
        ("lp", LinearProbe("paper", split="any", classes=("ill",))),
        ("lp@mgca", MgcaLinearProbe("paper", split="any", classes=("ill",))),
    ):
        with tempfile.TemporaryDirectory() as folder:
            env = Environment(torch.device("cpu"), "32", Path(folder), Progress(quiet=True))
            features = task.extract(model, data, env)
            start = time.perf_counter()
            for fraction in (0.01, 0.1, 1.0):
                rows = fraction_rows(data.index, data.split, fraction, 0, ill).rows
                if ill[rows].any():
                    task.evaluate(features, data, rows, 0, env)
            spent[name] = time.perf_counter() - start
    print(
        f"{len(data.split.train):,} training films: lp {spent['lp']:.2f} s, lp@mgca {spent['lp@mgca']:.1f} s"
    )
    yield Result("lp over lp@mgca, three fractions", spent["lp@mgca"] / spent["lp"], "times", 20)
