"""Detection over a frozen encoder: a YOLOv3 head on its maps at strides 8, 16 and 32.

The encoder is in eval mode and is never trained (MGCA's code leaves its BatchNorm in train mode, so that the
statistics drift; here they don't). Films are stretched to the model's square, without augmentation, so the
maps are computed once. The head is trained on the label fraction, healthy films included, its best validation
state is tested, and boxes are stored in pixels of the original file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medbench.data.index import Index
from medbench.devices import autocast
from medbench.errors import DataError
from medbench.files import replacing
from medbench.heads.mmdet_ops import import_mmdet
from medbench.heads.yolov3 import STRIDES, Targets, YoloV3, YoloV3Config
from medbench.metrics.detection import IOUS_40_75, Detections, average_precision, detection_metrics
from medbench.model import Preprocessing, VisionLanguageModel
from medbench.protocols.pyramids import Pyramids
from medbench.seeding import derive_seed
from medbench.task import Environment, Evaluation, Fit, Metric, Task, TaskData

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Schedule:
    """Optimisation at one amount of labels: AdamW, constant rate, early stop on validation `map_40_75`."""

    up_to: float
    """Share of the training split, 0 to 1, up to which it holds."""
    lr: float
    """Learning rate."""
    batch_size: int
    """Films a step."""
    epochs: int
    """At most."""
    validate_every: int
    """Epochs between validations; the last epoch is always validated."""
    patience: int
    """Validations without a better score before training stops."""


@dataclass(frozen=True)
class DetectionConfig:
    """Every number of the protocol at one recipe. Defaults: `paper`, MGCA's released code (ssl_detector.py)."""

    schedules: tuple[Schedule, ...] = (
        Schedule(up_to=0.05, lr=2e-4, batch_size=8, epochs=50, validate_every=1, patience=10),
        Schedule(up_to=1.0, lr=5e-4, batch_size=16, epochs=50, validate_every=1, patience=10),
    )
    """By share of labels, rising; MGCA has one for 1 % and one for 10 and 100 %. The bound between them is
    ours: a fraction of patients is never exactly that fraction of films."""
    weight_decay: float = 1e-6
    """Of AdamW, on every parameter of the head."""
    head: YoloV3Config = field(default_factory=YoloV3Config)
    """The detector's numbers."""
    predict_batch: int = 64
    """Films a forward pass without gradient."""
    maps_bytes: int = 8 * 2**30
    """Disk that the encoder's maps may take (ours). A ResNet-50 at 224 px has 1.4 MB a film."""


RECIPES: Mapping[str, DetectionConfig] = {
    "paper": DetectionConfig(),
    # 30, 300 and 3,000 films at 128 px within about a minute on two CPU cores: fewer epochs, a narrower neck.
    "tiny": DetectionConfig(
        schedules=(
            Schedule(up_to=0.05, lr=5e-4, batch_size=8, epochs=48, validate_every=12, patience=2),
            Schedule(up_to=0.5, lr=1e-3, batch_size=16, epochs=16, validate_every=4, patience=2),
            Schedule(up_to=1.0, lr=1e-3, batch_size=16, epochs=4, validate_every=2, patience=2),
        ),
        head=YoloV3Config(neck_shares=(8, 16, 32)),
    ),
    # Seconds, for tests: the numbers mean nothing.
    "micro": DetectionConfig(
        schedules=(Schedule(up_to=1.0, lr=2e-3, batch_size=16, epochs=4, validate_every=2, patience=2),),
        head=YoloV3Config(neck_shares=(8, 16, 32)),
    ),
}
"""The protocol at each recipe. A table never mixes them."""


class FrozenDetection(Task):
    """Boxes of one class."""

    config: DetectionConfig

    def __init__(self, recipe: str, *, split: str) -> None:
        super().__init__(recipe, split=split)
        self.config = RECIPES[recipe]

    def films(self, inputs: Preprocessing) -> tuple[int, Fit]:
        """Stretched to the model's own square."""
        return inputs.size, "stretch"

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> Pyramids:
        """Maps at strides 8, 16 and 32 of all films of the split; close them to give the disk back.

        Raises:
            PluginError: mmdetection can not be loaded; said before the encoder has worked for nothing.
            WeightsError: a feature is not finite.
        """
        import_mmdet()
        return Pyramids(model, data, len(STRIDES), self.config.maps_bytes, env)

    def evaluate(
        self, features: Pyramids, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Train on `train`, keep the state with the best validation `map_40_75`, predict the test films.

        A killed call goes on from its last validation and gives the same numbers. `predictions` holds
        `sample`, `patient`, `true_boxes` (float64) and `pred_boxes` (float32), flat lists of x, y, width,
        height in pixels of the original file, and `pred_scores` (float32), falling.

        Raises:
            DataError: a film was not annotated, or no validation film has a box, so that nothing can be
                chosen.
            PluginError: mmdetection can not be loaded.
            FloatingPointError: the loss is no longer finite.
        """
        films = _Films(data, features.side)
        schedule = next(s for s in self.config.schedules if len(train) <= s.up_to * len(data.split.train))
        training = _Training(self.config, schedule, features, films, train, seed, env)
        training.run(data.split.val)
        found = training.predict(data.split.test)
        table = data.index.table.iloc[data.split.test]
        predictions = pd.DataFrame(
            {
                "sample": table["sample"].to_numpy(),
                "patient": table["patient"].to_numpy(),
                "true_boxes": [boxes.ravel() for boxes in found.truth],
                "pred_boxes": [boxes.astype(np.float32).ravel() for boxes in found.boxes],
                "pred_scores": [scores.astype(np.float32) for scores in found.scores],
            }
        )
        training.forget()
        return Evaluation(predictions, training.search())

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """`map_40_75`, `map_mgca`, `map_coco`; see `medbench.metrics.detection`."""
        return detection_metrics(predictions)

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with a box."""
        return np.array(
            [boxes is not None and len(boxes) > 0 for boxes in index.table["boxes"]], dtype=np.bool_
        )


class _Films:
    """Boxes in both frames: pixels of the file (x y width height) and of the square (x1 y1 x2 y2)."""

    def __init__(self, data: TaskData, side: int) -> None:
        self.side = side
        self._dataset = data.index.dataset
        self._samples = data.index.table["sample"]
        self._boxes = data.index.table["boxes"]
        self._sizes = data.images(side, "stretch").sizes  # (N, 2) height, width

    def boxes(self, row: int) -> npt.NDArray[np.float64]:
        """(G, 4) float64 in pixels of the file."""
        boxes = self._boxes.iloc[row]
        if boxes is None:
            raise DataError(
                f"{self._dataset}: {self._samples.iloc[row]} is in the split but nobody annotated boxes. "
                "A film without findings has an empty list of boxes; leave out films that nobody looked at."
            )
        return np.asarray(boxes, dtype=np.float64).reshape(-1, 4)

    def square(self, row: int) -> torch.Tensor:
        """(G, 4) float32 in pixels of the square and inside it: datasets may pass the border by a pixel."""
        boxes = self.boxes(row) * self._scale(row)
        boxes[:, 2:] = (boxes[:, 2:] + boxes[:, :2]).clip(0, self.side)
        boxes[:, :2] = boxes[:, :2].clip(0, self.side - 1)  # the centre then lies in a cell of the grid
        return torch.from_numpy(boxes.astype(np.float32))

    def restore(self, row: int, square: torch.Tensor) -> npt.NDArray[np.float64]:
        """(P, 4) boxes of the square -> pixels of the file, rounded to float32 as they are stored."""
        boxes = square.cpu().numpy().astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return (boxes / self._scale(row)).astype(np.float32).astype(np.float64)

    def _scale(self, row: int) -> npt.NDArray[np.float64]:
        height, width = self._sizes[row]
        x, y = self.side / width, self.side / height
        return np.array([x, y, x, y])


class _Training:
    """A head on its way: what a checkpoint holds, and how it goes on."""

    def __init__(
        self,
        config: DetectionConfig,
        schedule: Schedule,
        features: Pyramids,
        films: _Films,
        train: Rows,
        seed: int,
        env: Environment,
    ) -> None:
        self.config, self.schedule, self.features, self.films = config, schedule, features, films
        self.train, self.seed, self.env = train, seed, env
        seed_head = derive_seed("detection head", seed)
        self.head = YoloV3(features.channels, features.side, config.head, seed_head).to(env.device)
        self.optimiser = torch.optim.AdamW(
            self.head.parameters(), lr=schedule.lr, weight_decay=config.weight_decay, fused=True
        )
        self.epoch = 0  # finished ones
        self.stale = 0  # validations since the best
        self.validations = 0
        self.best: dict[str, Any] = {"score": -1.0, "epoch": 0, "head": {}}
        self.path = self._checkpoint()

    def run(self, validation: Rows) -> None:
        """Train to the end and load the best state."""
        if not any(len(self.films.boxes(row)) for row in validation):
            raise DataError(
                f"no box in the {len(validation):,} validation films, so the best state of the detector can "
                "not be chosen. The split needs more films."
            )
        self._resume()
        targets = self._targets()
        what, total = (
            f"training the detector on {len(self.train):,} films",
            self.schedule.epochs * len(self.train),
        )
        with self.env.progress.track(what, total, "films", self.epoch * len(self.train)) as advance:
            while self.epoch < self.schedule.epochs and self.stale < self.schedule.patience:
                self.head.train()
                loss = torch.zeros((), device=self.env.device)
                for rows in self._batches():
                    loss += self._step(rows, [targets[int(row)] for row in rows])
                    advance(len(rows), f"validation mAP {self.best['score']:.3f}" if self.validations else "")
                self.epoch += 1
                if not torch.isfinite(loss):  # asked once an epoch: asking waits for the device
                    raise FloatingPointError(
                        f"the detector's loss is no longer finite in epoch {self.epoch} at learning rate "
                        f"{self.schedule.lr}, precision {self.env.precision}"
                    )
                if self.epoch % self.schedule.validate_every == 0 or self.epoch == self.schedule.epochs:
                    self._validate(validation)
                    self._save()
        self.head.load_state_dict(self.best["head"])

    def predict(self, rows: Rows) -> Detections:
        """Boxes of films in pixels of the file, beside the true ones."""
        self.head.eval()
        boxes, scores = [], []
        for start in range(0, len(rows), self.config.predict_batch):
            batch = rows[start : start + self.config.predict_batch]
            with torch.no_grad(), autocast(self.env.device, self.env.precision):
                predictions = self.head(self.features.batch(batch))
            for row, (found, confidence) in zip(batch, self.head.boxes(predictions), strict=True):
                boxes.append(self.films.restore(row, found))
                scores.append(confidence.cpu().numpy().astype(np.float64))
        return Detections([self.films.boxes(row) for row in rows], boxes, scores)

    def search(self) -> dict[str, Any]:
        """What was chosen, for the record."""
        return {
            "grid": {"epoch": f"every {self.schedule.validate_every}, up to {self.schedule.epochs}"},
            "trials": self.validations,
            "selected_on": "validation map_40_75",
            "chosen": {"epoch": self.best["epoch"], "validation_map_40_75": self.best["score"]},
            "schedule": asdict(self.schedule),
        }

    def forget(self) -> None:
        """Remove the checkpoint."""
        self.path.unlink(missing_ok=True)

    def _targets(self) -> dict[int, Targets]:
        """By row. Films without a box share theirs."""
        healthy = self.head.targets(torch.zeros(0, 4))
        boxes = {int(row): self.films.square(row) for row in self.train}
        return {row: self.head.targets(found) if len(found) else healthy for row, found in boxes.items()}

    def _batches(self) -> list[Rows]:
        """The films of this epoch in its order, which depends on seed and epoch alone."""
        seed = derive_seed("detection order", self.seed, self.epoch)
        order = np.random.Generator(np.random.PCG64(seed)).permutation(self.train)
        return [
            order[at : at + self.schedule.batch_size] for at in range(0, len(order), self.schedule.batch_size)
        ]

    def _step(self, rows: Rows, targets: Sequence[Targets]) -> torch.Tensor:
        """One step; nothing in it draws random numbers, or waits for the device."""
        with autocast(self.env.device, self.env.precision):
            predictions = self.head(self.features.batch(rows))
        loss = torch.stack(list(self.head.losses(predictions, targets).values())).sum()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return loss.detach()

    def _validate(self, validation: Rows) -> None:
        score = float(average_precision(self.predict(validation), IOUS_40_75).mean())
        self.validations += 1
        self.stale += 1
        if score > self.best["score"]:
            state = {name: value.detach().clone() for name, value in self.head.state_dict().items()}
            self.best = {"score": score, "epoch": self.epoch, "head": state}
            self.stale = 0

    # Checkpoints.

    def _checkpoint(self) -> Path:
        """A name that no other fraction, seed, protocol, encoder, device or precision has."""
        parts = {
            "config": asdict(self.config),
            "train": hashlib.sha256(self.train.tobytes()).hexdigest(),
            "seed": self.seed,
            "encoder": self.features.digest,
            "device": self.env.device.type,
            "precision": self.env.precision,
        }
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.env.workdir / f"detection-{key[:24]}.pt"

    def _save(self) -> None:
        state = {
            "head": self.head.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "stale": self.stale,
            "validations": self.validations,
            "best": self.best,
        }
        with replacing(self.path) as partial:
            torch.save(state, partial)

    def _resume(self) -> None:
        if not self.path.is_file():
            return
        state = torch.load(self.path, map_location=self.env.device, weights_only=True)
        self.head.load_state_dict(state["head"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.epoch, self.stale = state["epoch"], state["stale"]
        self.validations, self.best = state["validations"], state["best"]
