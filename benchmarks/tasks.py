"""How fast, and in how much memory, tasks are measured: each part prints its goal and whether it is met.

    python benchmarks/tasks.py                             # every part, at full size
    python benchmarks/tasks.py retrieval --pairs 5000      # smaller

Parts:

- `retrieval`: `--pairs` images against as many texts by the cosine of vectors of 512 numbers, in five classes: rankings
  in both directions, all metrics and their intervals, in a process of its own. Its time, and the most memory that it
  takes at any time, libraries included.
- `features`: pooled features and feature maps of `--films` films by `random`, a ResNet-50 at 224 px: extracting and
  keeping them, against finding them in the cache. How many times faster that is, and what the cache takes.

Other work on the machine spoils the times.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from medbench.task import Environment, TaskData

WIDTH = 512
"""Of a vector: wider than MGCA (128), as wide as CLIP."""

CLASSES = 5
"""As in CheXpert 5x200."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    pairs: int
    films: int
    recipe: str


@dataclass(frozen=True)
class Result:
    """One line: what, how much of it, and what it should be."""

    what: str
    value: float
    unit: str
    goal: float
    most: bool = False
    """Whether the goal is the most that is allowed, not the least."""

    def __str__(self) -> str:
        met = self.value <= self.goal if self.most else self.value >= self.goal
        sign = "at most" if self.most else "at least"
        return f"{self.what:<58}{self.value:10,.2f} {self.unit:<6} {sign} {self.goal:g}: {'met' if met else 'MISSED'}"


def retrieval(sizes: Sizes) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure_retrieval, args=(sizes.pairs, theirs))
    child.start()
    theirs.close()
    seconds, peak = ours.recv()
    child.join()
    name = f"retrieval, {sizes.pairs:,} x {sizes.pairs:,}"
    yield Result(name, seconds, "s", 60, most=True)
    yield Result(f"{name}, memory", peak / 1e9, "GB", 2, most=True)


def measure_retrieval(pairs: int, answer: "Connection") -> None:
    """Answers seconds, and bytes at the largest moment of this process."""
    import numpy as np

    from medbench.metrics.retrieval import Items, cosine, rank, retrieval_metrics

    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=pairs)
    images = rng.standard_normal((pairs, WIDTH), np.float32)
    images += rng.standard_normal((CLASSES, WIDTH), np.float32)[label] / 4
    texts = images + 4 * rng.standard_normal((pairs, WIDTH), np.float32)
    items = Items(
        samples=[f"s{k}" for k in range(pairs)],
        patients=[f"p{k // 2}" for k in range(pairs)],
        classes=[str(k) for k in label],
        pairs=[str(k) for k in range(pairs)],
    )
    start = time.perf_counter()
    retrieval_metrics(rank(cosine(images, texts), items, items))
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    answer.send((seconds, 1024 * peak))


def features(sizes: Sizes) -> Iterator[Result]:
    import tempfile

    import medbench

    encoder = medbench.load("random", recipe=sizes.recipe)
    for kind, measure in (("pooled features", measure_pooled), ("feature maps", measure_maps)):
        with tempfile.TemporaryDirectory() as folder:
            extracting, finding, size = measure(encoder.model, sizes.films, Path(folder))
        name = f"{kind} of {sizes.films:,} films"
        print(f"{name}: {extracting:.2f} s to extract, {finding:.2f} s to find, {size / 1e6:,.1f} MB")
        yield Result(f"{name}, found in the cache", extracting / finding, "times", 20)


def measure_pooled(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """Seconds to extract and keep, seconds to find and read, bytes of disk."""
    from medbench.feature_cache import held
    from medbench.protocols.features import pooled_features

    data, env = noise(model.preprocessing.resize, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        pooled_features(model, data, data.split.train, env).sum()
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def measure_maps(model: Any, films: int, folder: Path) -> tuple[float, float, int]:
    """As `measure_pooled`, of the three coarsest maps; reading them is training's business."""
    from medbench.feature_cache import held
    from medbench.protocols.pyramids import Pyramids

    data, env = noise(model.preprocessing.size, films), environment(folder)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        assert Pyramids(model, data, 3, 2**40, env).cached
        seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1], held(folder)[0].bytes


def environment(folder: Path) -> "Environment":
    """One whose features are kept in a folder."""
    import torch

    from medbench.progress import Progress
    from medbench.task import Environment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quiet = Progress(quiet=True)
    return Environment(device, "32", folder / "work", quiet, encoder="weights", cache=folder)


def noise(side: int, films: int) -> "TaskData":
    """Films of noise, all of them to be trained on."""
    import numpy as np
    import pandas as pd

    from medbench.data.index import Index
    from medbench.data.prepared import PreparedImages
    from medbench.data.splits import Split
    from medbench.task import TaskData

    pixels = np.random.default_rng(0).integers(0, 256, (films, side, side), np.uint8)
    prepared = PreparedImages(pixels, np.full((films, 2), side), "noise")
    rows = np.arange(films)
    table = pd.DataFrame({"sample": [f"s{k}" for k in rows]})
    split = Split("noise", rows, rows[:0], rows[:0])
    return TaskData(Index("noise", Path(), "phantom", table), split, lambda side, fit: prepared)


PARTS = {part.__name__: part for part in (retrieval, features)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=20_000, help="of retrieval (default: 20,000)")
    parser.add_argument("--films", type=int, default=1_000, help="of features (default: 1,000)")
    parser.add_argument("--recipe", default="paper", help="of the encoder of features (default: paper)")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        for result in PARTS[name](Sizes(options.pairs, options.films, options.recipe)):
            print(result, flush=True)


if __name__ == "__main__":
    main()
