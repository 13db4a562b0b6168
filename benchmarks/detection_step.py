"""Where the time of a detection cell goes: a training step by part, validation by part, kept maps against new ones.

    python benchmarks/detection_step.py [--recipe tiny|paper] [--backbone resnet10t] [--side 128] [--films 256]
                                        [--device cpu] [--threads N] [--repeats 20]

Films are noise with boxes drawn at random: times do not depend on what is seen. Prints one JSON object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.devices import autocast, describe, resolve_device, resolve_precision
from medbench.metrics.detection import IOUS_40_75, average_precision, detection_metrics
from medbench.progress import Progress
from medbench.protocols.detection import RECIPES, _Films, _Training
from medbench.protocols.pyramids import Pyramids
from medbench.task import Environment, TaskData
from medbench_methods.modules.image_encoder import ImageConfig
from medbench_methods.random import ImageOnly


def some_films(count: int, side: int) -> TaskData:
    """A quarter of the films has boxes, as in RSNA."""
    rng = np.random.default_rng(0)
    boxes = [
        rng.uniform([10, 10, 30, 30], [120, 120, 100, 120], (rng.integers(1, 4), 4))
        if i % 4 == 0
        else np.zeros((0, 4))
        for i in range(count)
    ]
    names = [f"s{i}" for i in range(count)]
    table = pd.DataFrame({"sample": names, "patient": names, "boxes": boxes})
    films = PreparedImages(
        rng.integers(0, 256, (count, side, side), dtype=np.uint8), np.full((count, 2), 256), "noise"
    )
    rows = np.arange(count)
    return TaskData(
        Index("noise", Path(), "phantom", table), Split("all", rows, rows, rows), lambda side, fit: films
    )


class Clock:
    """Wall-clock time of each part, over repeats; the least of them, since other work only adds to it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, list[float]] = {}

    def __call__(self, part: str, work: Callable[[], Any]) -> Any:
        """Do `work` and note its time."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        self.parts.setdefault(part, []).append(1000 * (time.perf_counter() - start))
        return result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def least(self) -> dict[str, float]:
        """Milliseconds."""
        return {part: round(min(times), 2) for part, times in self.parts.items()}


def training_step(training: _Training, repeats: int) -> dict[str, float]:
    """Milliseconds by part."""
    clock = Clock(training.env.device)
    targets = training._targets()
    head, optimiser = training.head.train(), training.optimiser
    batches = training._batches()
    for step in range(repeats):
        rows = batches[step % len(batches)]
        features = clock("read maps", lambda rows=rows: training.features.batch(rows))
        with autocast(training.env.device, training.env.precision):
            predictions = clock("forward", lambda features=features: head(features))
        wanted = [targets[int(row)] for row in rows]
        terms = clock("loss", lambda p=predictions, w=wanted: head.losses(p, w))
        loss = torch.stack(list(terms.values())).sum()
        optimiser.zero_grad()
        clock("backward", lambda loss=loss: torch.autograd.backward(loss))
        clock("optimiser", optimiser.step)
    parts = clock.least()
    return parts | {"step": round(sum(parts.values()), 2), "batch": training.schedule.batch_size}


def validation(training: _Training, rows: np.ndarray) -> dict[str, float]:
    """Milliseconds a film, of a head that was trained for a few steps."""
    clock = Clock(training.env.device)
    head = training.head.eval()
    size = training.config.predict_batch
    for start in range(0, len(rows) - size + 1, size):
        batch = rows[start : start + size]
        features = clock("read maps", lambda batch=batch: training.features.batch(batch))
        with torch.no_grad(), autocast(training.env.device, training.env.precision):
            predictions = clock("forward", lambda features=features: head(features))
        clock("boxes", lambda p=predictions: head.boxes(p))
    parts = {part: round(ms / size, 3) for part, ms in clock.least().items()}
    found = training.predict(rows)
    start = time.perf_counter()
    average_precision(found, IOUS_40_75)
    parts["average precision"] = round(1000 * (time.perf_counter() - start) / len(rows), 3)
    return parts | {"boxes_a_film": float(np.mean([len(s) for s in found.scores]))}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--films", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    data = some_films(options.films, options.side)
    config = RECIPES[options.recipe]
    encoder = ImageConfig(backbone=options.backbone, pretrained=False, size=options.side, upsample=0)
    torch.manual_seed(0)
    model = ImageOnly(encoder).to(device)
    report: dict[str, Any] = {"arguments": vars(options), "device": describe(device)}
    with tempfile.TemporaryDirectory() as folder:
        env = Environment(device, resolve_precision("auto", device), Path(folder), Progress(quiet=True))
        start = time.perf_counter()
        kept = Pyramids(model, data, 3, config.maps_bytes, env)
        report["extraction"] = {
            "films_a_second": round(options.films / (time.perf_counter() - start), 1),
            "bytes_a_film": (Path(folder) / "pyramids" / "maps.npy").stat().st_size // options.films,
        }
        anew = Pyramids(model, data, 3, 0, env)
        schedule = config.schedules[-1]
        for name, features in (("kept", kept), ("anew", anew)):
            films = _Films(data, options.side)
            training = _Training(config, schedule, features, films, data.split.train, 0, env)
            report[f"training_ms_{name}"] = training_step(training, options.repeats)
        report["step_anew_over_kept"] = round(
            report["training_ms_anew"]["step"] / report["training_ms_kept"]["step"], 2
        )
        report["validation_ms_a_film"] = validation(training, data.split.val)
        films = _Films(data, options.side)
        start = time.perf_counter()
        for row in range(0, options.films, 4):
            training.head.targets(films.square(row))
        report["targets_ms_a_film_with_boxes"] = round(
            4000 * (time.perf_counter() - start) / options.films, 2
        )
        found = training.predict(data.split.test)
        frame = pd.DataFrame(
            {
                "patient": data.index.table["patient"],
                "true_boxes": [b.ravel() for b in found.truth],
                "pred_boxes": [b.ravel() for b in found.boxes],
                "pred_scores": list(found.scores),
            }
        )
        start = time.perf_counter()
        detection_metrics(frame)
        report["metrics_with_intervals_s"] = round(time.perf_counter() - start, 2)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
