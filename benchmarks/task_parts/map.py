"""Average precision against torchmetrics.

At IoU 0.50 to 0.95 of `--images` images, some 20 boxes each, from arrays to the mean: how many times as long
torchmetrics takes with its default backend, for the value of a test set (faster-coco-eval) and for choosing on
validation (our own matching). The three have to agree. Medians of 5.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from figures import Result
from torchmetrics.detection import MeanAveragePrecision

from medbench.metrics.detection import IOUS_COCO, Detections, Floats, average_precision, coco_precision


def mean_of(ours: Callable[[Detections, Floats], Floats], detections: Detections) -> float:
    return float(ours(detections, IOUS_COCO).mean())


def map(options: argparse.Namespace) -> Iterator[Result]:
    rng = np.random.default_rng(0)
    truth, boxes, scores = [], [], []
    for _ in range(options.images):
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
        taken, value = seconds(partial(mean_of, ours, detections))
        assert abs(value - expected) < 1e-6, (name, value, expected)
        yield Result(
            f"map, {name}, {options.images:,} images, against torchmetrics", theirs / taken, "times", 3
        )
