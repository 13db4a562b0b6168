"""Metrics of retrieval.

`--pairs` images against as many texts by the similarity that the tasks rank by, of vectors of 512 numbers, in five
classes: rankings in both directions, all metrics and their intervals, in a process of its own. Its time, and the most
memory that it takes at any time, libraries included.
"""

import argparse
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import numpy as np
from figures import Result, alone, peak

from medbench.metrics.retrieval import Items, rank, retrieval_metrics
from medbench.protocols.similarity import Compared

WIDTH = 512
"""Of a vector: wider than MGCA (128), as wide as CLIP."""

CLASSES = 5
"""As in CheXpert 5x200."""


def retrieval(options: argparse.Namespace) -> Iterator[Result]:
    seconds, memory = alone(measure_retrieval, options.pairs)
    name = f"retrieval, {options.pairs:,} x {options.pairs:,}"
    yield Result(name, seconds, "s", 60, most=True)
    yield Result(f"{name}, memory", memory / 1e9, "GB", 2, most=True)


def measure_retrieval(pairs: int, answer: Connection) -> None:
    """Answers seconds, and bytes at the largest moment of this process."""
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=pairs)
    images = rng.standard_normal((pairs, WIDTH), np.float32)
    images += rng.standard_normal((CLASSES, WIDTH), np.float32)[label] / 4
    texts = images + 4 * rng.standard_normal((pairs, WIDTH), np.float32)
    compared = Compared(images, texts, np.arange(pairs), None)
    items = Items(
        samples=[f"s{k}" for k in range(pairs)],
        patients=[f"p{k // 2}" for k in range(pairs)],
        classes=[str(k) for k in label],
        pairs=[str(k) for k in range(pairs)],
    )
    start = time.perf_counter()
    retrieval_metrics(rank(compared.standardised(), items, items))
    seconds = time.perf_counter() - start
    answer.send((seconds, peak()))
