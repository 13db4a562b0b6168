"""Features found in the cache against extracting them.

Pooled features and feature maps of `--frozen` films by `random` at `--recipe` (a ResNet-50 at 224 px): how many times
faster finding is, and what the cache takes.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from figures import Result

import medbench
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.feature_cache import held
from medbench.progress import Progress
from medbench.protocols.features import pooled_features
from medbench.protocols.pyramids import Pyramids
from medbench.task import Environment, TaskData


def features(options: argparse.Namespace) -> Iterator[Result]:
    encoder = medbench.load("random", recipe=options.recipe)
    for kind, measure in (("pooled features", measure_pooled), ("feature maps", measure_maps)):
        with tempfile.TemporaryDirectory() as folder:
            extracting, finding, size = measure(encoder.model, options.frozen, Path(folder))
        name = f"{kind} of {options.frozen:,} films"
        print(f"{name}: {extracting:.2f} s to extract, {finding:.2f} s to find, {size / 1e6:,.1f} MB")
        yield Result(f"{name}, found in the cache", extracting / finding, "times", 20)


def measure_pooled(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """Seconds to extract and keep, seconds to find and read, bytes of disk."""
    data, env = noise(model.preprocessing.resize, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        pooled_features(model, data, data.split.train, env).sum()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def measure_maps(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """As `measure_pooled`, of the three coarsest maps; reading them is training's business."""
    data, env = noise(model.preprocessing.size, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        assert Pyramids(model, data, 3, 2**40, env).cached
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def environment(folder: Path) -> Environment:
    """One whose features are kept in a folder."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet = Progress(quiet=True)
    return Environment(device, "32", folder / "work", quiet, encoder="weights", cache=folder)


def noise(side: int, films: int) -> TaskData:
    """Films of noise, all of them to be trained on."""
    pixels = np.random.default_rng(0).integers(0, 256, (films, side, side), np.uint8)
    prepared = PreparedImages(pixels, np.full((films, 2), side), "noise")
    rows = np.arange(films)
    table = pd.DataFrame({"sample": [f"s{k}" for k in rows]})
    split = Split("noise", rows, rows[:0], rows[:0])
    return TaskData(Index("noise", Path(), "phantom", table), split, lambda side, fit: prepared)
