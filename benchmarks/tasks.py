"""How fast, and in how much memory, tasks are measured: each part prints its goal and whether it is met.

    python benchmarks/tasks.py                             # every part, at full size
    python benchmarks/tasks.py retrieval --pairs 5000      # smaller

Parts:

- `retrieval`: `--pairs` images against as many texts by the cosine of vectors of 512 numbers, in five classes: rankings
  in both directions, all metrics and their intervals, in a process of its own. Its time, and the most memory that it
  takes at any time, libraries included.
- `map`: average precision at IoU 0.50 to 0.95 of `--images` images, some 20 boxes each, from arrays to the mean:
  how many times as long torchmetrics takes with its default backend, for the value of a test set (faster-coco-eval) and
  for choosing on validation (our own matching). The three have to agree. Medians of 5.

Other work on the machine spoils the times.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

WIDTH = 512
"""Of a vector: wider than MGCA (128), as wide as CLIP."""

CLASSES = 5
"""As in CheXpert 5x200."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    pairs: int
    images: int


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


def map(sizes: Sizes) -> Iterator[Result]:  # the name of the part
    import numpy as np
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    from medbench.metrics.detection import IOUS_COCO, Detections, average_precision, coco_precision

    rng = np.random.default_rng(0)
    truth, boxes, scores = [], [], []
    for _ in range(sizes.images):
        true = rng.uniform(20, 120, (rng.integers(0, 5), 4))
        near = np.abs(np.repeat(true, 3, axis=0) + rng.normal(0, 15, (3 * len(true), 4)))
        found = np.concatenate([near, rng.uniform(20, 120, (rng.integers(8, 20), 4))])
        truth.append(true)
        boxes.append(found)
        scores.append(rng.random(len(found)))
    detections = Detections(truth, boxes, scores)

    def by_torchmetrics() -> float:
        metric = MeanAveragePrecision("xywh", "bbox", iou_thresholds=IOUS_COCO.tolist())
        metric.update(
            [
                {
                    "boxes": torch.from_numpy(b),
                    "scores": torch.from_numpy(s),
                    "labels": torch.zeros(len(b)).long(),
                }
                for b, s in zip(boxes, scores, strict=True)
            ],
            [{"boxes": torch.from_numpy(t), "labels": torch.zeros(len(t)).long()} for t in truth],
        )
        return float(metric.compute()["map"])

    def seconds(measure: Callable[[], float]) -> tuple[float, float]:
        """Median of 5, and what was measured."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            value = measure()
            times.append(time.perf_counter() - start)
        return statistics.median(times), value

    theirs, expected = seconds(by_torchmetrics)
    for name, ours in (("test", coco_precision), ("validation", average_precision)):
        taken, value = seconds(lambda ours=ours: float(ours(detections, IOUS_COCO).mean()))  # type: ignore[misc]
        assert abs(value - expected) < 1e-6, (name, value, expected)
        yield Result(
            f"map, {name}, {sizes.images:,} images, against torchmetrics", theirs / taken, "times", 3
        )


PARTS = {part.__name__: part for part in (retrieval, map)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--pairs", type=int, default=20_000, help="of retrieval (default: 20,000)")
    parser.add_argument("--images", type=int, default=5_000, help="of map (default: 5,000)")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        for result in PARTS[name](Sizes(options.pairs, options.images)):
            print(result, flush=True)


if __name__ == "__main__":
    main()
