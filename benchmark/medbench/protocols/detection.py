"""Detection: a head over an encoder's maps at strides 8, 16 and 32 says where findings are, and which.

Films are stretched to the model's square, without augmentation. The head is trained on the label fraction, healthy
films included, its best validation state is tested, and boxes are stored in pixels of the original file. The encoder is

- frozen and in eval mode, so that its maps never change and are computed once (`yolov3`, `fcos`);
- frozen with its BatchNorm in train mode, as the released code of MGCA leaves it (`yolov3_mgca`): training films are
  normalised by their batch, and the statistics that validation and test films are normalised by drift with every step.
  They are part of what is trained, so each training has a copy of the encoder. An encoder without BatchNorm has nothing
  that drifts;
- or learns with the head (`frozen=False`), in eval mode, so that BatchNorm keeps the statistics of pretraining, as
  detectors are usually fine-tuned (`norm_eval` in mmdetection).
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medbench.data.index import Index
from medbench.devices import autocast, to_device
from medbench.errors import DataError
from medbench.heads.build import detector
from medbench.heads.detector import STRIDES, Detector
from medbench.heads.fcos import FcosConfig
from medbench.heads.mmdet_ops import import_mmdet
from medbench.heads.yolov3 import YoloV3Config
from medbench.heads.yolov3_mgca import YoloV3MgcaConfig
from medbench.metrics.detection import (
    IOUS_40_75,
    Detections,
    average_precision,
    detection_metrics,
    mean_precision,
    mgca_rule,
)
from medbench.model import Preprocessing, VisionLanguageModel
from medbench.protocols.dense_maps import FiniteMaps, dense_maps, from_patches, map_channels
from medbench.protocols.features import PROBE, digest, evaluating
from medbench.protocols.pyramids import Pyramids
from medbench.protocols.square_boxes import SquareBoxes, named_boxes
from medbench.protocols.training import Schedule, Training, schedule_for
from medbench.protocols.trials import Point, Trial, best_trial, grid_search
from medbench.protocols.unfrozen import (
    EncoderGrid,
    check_trainable,
    describe_layers,
    parameter_groups,
    trainable_copy,
    trained_part,
)
from medbench.seeding import derive_seed
from medbench.task import Environment, Evaluation, Fit, Metric, Task, TaskData

Rows = npt.NDArray[np.int64]

DetectorName = Literal["yolov3", "yolov3_mgca", "fcos"]


@dataclass(frozen=True)
class DetectionConfig:
    """Every number of the protocol at one recipe. Defaults: `paper`, MGCA's released code (ssl_detector.py)."""

    schedules: tuple[Schedule, ...] = (
        Schedule(up_to=0.05, lr=2e-4, batch_size=8, epochs=50, validate_every=1, patience=10),
        Schedule(up_to=1.0, lr=5e-4, batch_size=16, epochs=50, validate_every=1, patience=10),
    )
    """By share of labels, rising; MGCA has one for 1 % and one for 10 and 100 %. The bound between them is
    ours: a fraction of patients is never exactly that fraction of films. Rates are those of the head."""
    weight_decay: float = 1e-6
    """Of AdamW: on every parameter of the head; of an encoder that learns, on matrices and kernels."""
    detector: DetectorName = "yolov3"
    """The head."""
    head: Any = field(default_factory=YoloV3Config)
    """Its numbers."""
    predict_batch: int = 64
    """Films a forward pass without gradient."""
    maps_bytes: int = 8 * 2**30
    """Disk that the maps of a frozen encoder may take (ours). A ResNet-50 at 224 px has 1.4 MB a film."""
    selected_on: str = "map_40_75"
    """Validation metric of the state that is tested, and the primary metric of the test films."""
    drift: bool = False
    """Whether BatchNorm of the frozen encoder is in train mode while the head is trained."""
    train_boxes: int | None = None
    """Boxes of a training film that are trained on, the first ones; None: all. MGCA's code makes room for 10 (RSNA) or
    20 (Object-CXR)."""
    encoder_grid: EncoderGrid | None = None
    """How fast the encoder learns; the best on validation is taken. None where it is frozen."""
    classes: tuple[str, ...] = ()
    """Names of the boxes that count; empty: all."""


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
"""YOLOv3 over a frozen encoder at each recipe. A table never mixes them."""

HEADS: Mapping[DetectorName, Mapping[str, Any]] = {
    "yolov3": {recipe: config.head for recipe, config in RECIPES.items()},
    "yolov3_mgca": {
        "paper": YoloV3MgcaConfig(),
        "tiny": YoloV3MgcaConfig(neck_shares=(8, 16, 32)),
        "micro": YoloV3MgcaConfig(neck_shares=(8, 16, 32)),
    },
    "fcos": {
        "paper": FcosConfig(),
        "tiny": FcosConfig(width=64, convs=2, groups=16),
        "micro": FcosConfig(width=32, convs=1, groups=8),
    },
}
"""Numbers of each detector at each recipe."""

LIVE: Mapping[str, tuple[Schedule, ...]] = {
    "paper": RECIPES["paper"].schedules,
    # Less, since the encoder has to work for each step and for each validation.
    "tiny": (
        Schedule(up_to=0.05, lr=2e-3, batch_size=8, epochs=24, validate_every=24, patience=2),
        Schedule(up_to=0.5, lr=2e-3, batch_size=16, epochs=8, validate_every=4, patience=2),
        Schedule(up_to=1.0, lr=2e-3, batch_size=16, epochs=2, validate_every=1, patience=2),
    ),
    "micro": RECIPES["micro"].schedules,
}
"""Schedules where the maps are not computed once: under `yolov3_mgca`, and where the encoder learns."""

ENCODER_GRIDS: Mapping[str, EncoderGrid] = {
    "paper": EncoderGrid((0.1, 1.0), (0.75, 1.0)),
    "tiny": EncoderGrid((0.1,), (1.0,)),
    "micro": EncoderGrid((0.1,), (1.0,)),
}
"""Of encoders that learn (ours)."""


class Detection(Task):
    """Boxes of one class or of several. Boxes without a name are of one class, "object".

    Args:
        recipe: "paper", "tiny" or "micro".
        split: of the dataset.
        detector: the head. `yolov3_mgca` also chooses by MGCA's metric and lets BatchNorm drift, as its code does.
        classes: names of the boxes that count; empty: all.
        frozen: whether the encoder keeps its weights.
        few_lr: rate with few labels under `paper`, where the dataset has another one than RSNA.
        train_boxes: boxes of a training film that are trained on; None: all.
    """

    config: DetectionConfig

    def __init__(
        self,
        recipe: str,
        *,
        split: str,
        detector: DetectorName = "yolov3",
        classes: Sequence[str] = (),
        frozen: bool = True,
        few_lr: float | None = None,
        train_boxes: int | None = None,
    ) -> None:
        super().__init__(recipe, split=split)
        mgca = detector == "yolov3_mgca"
        base = RECIPES[recipe]
        schedules = LIVE[recipe] if mgca or not frozen else base.schedules
        if few_lr is not None and recipe == "paper":
            schedules = (replace(schedules[0], lr=few_lr), *schedules[1:])
        self.config = replace(
            base,
            schedules=schedules,
            detector=detector,
            head=HEADS[detector][recipe],
            selected_on="map_mgca" if mgca else "map_40_75",
            drift=mgca and frozen,
            train_boxes=train_boxes,
            encoder_grid=None if frozen else ENCODER_GRIDS[recipe],
            classes=tuple(classes),
        )

    def films(self, inputs: Preprocessing) -> tuple[int, Fit]:
        """Stretched to the model's own square."""
        return inputs.size, "stretch"

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> "BoxedFilms":
        """Boxes of all films of the split, and their maps where these never change; close it to let go of them.

        Raises:
            DataError: a film was not annotated, no training or validation film has a box, or there is no test film.
            PluginError: mmdetection can not be loaded, the model takes films of a side that is no multiple of 32, gives
                no maps, or can not be fine-tuned where it should be; said before the encoder has worked for nothing.
            WeightsError: a feature is not finite.
        """
        import_mmdet()
        return BoxedFilms(self.config, model, data, env)

    def evaluate(
        self, features: "BoxedFilms", data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Train on `train`, keep the state with the best validation score, predict the test films.

        An encoder that learns does so once a point of `encoder_grid`, and the best on validation is taken. A killed
        call goes on from its last validation and gives the same numbers. `predictions` holds `sample`, `patient`,
        `true_boxes` (float64) and `pred_boxes` (float32), flat lists of x, y, width, height in pixels of the original
        file, `pred_scores` (float32), falling, `true_labels` and `pred_labels` (names, one a box), and in every row
        `classes`, the names that the detector knows: those of boxes in the whole training part.

        Raises:
            WeightsError: a feature is not finite.
            FloatingPointError: the loss is no longer finite.
        """
        schedule = schedule_for(self.config.schedules, len(train), len(data.split.train))

        def make(point: Point | None) -> DetectionTrial:
            return DetectionTrial(self.config, schedule, features, train, data.split.val, seed, env, point)

        best, trials = best_trial(self.config.encoder_grid, make)
        predictions = self._predictions(data, features, best.detections(data.split.test))
        for trial in trials:
            trial.training.forget()
        return Evaluation(predictions, _search(self.config, best, trials, features, train))

    def truth(self, data: TaskData) -> pd.DataFrame:
        """`sample`, `patient`, `true_boxes` and `true_labels`."""
        table = data.index.table.iloc[data.split.test]
        films = zip(table["boxes"], table["box_labels"], strict=True)
        found = [named_boxes(boxes, names, self.config.classes) for boxes, names in films]
        return pd.DataFrame(
            {
                "sample": table["sample"].to_numpy(),
                "patient": table["patient"].to_numpy(),
                "true_boxes": [boxes.ravel() for boxes, _ in found],
                "true_labels": [list(names) for _, names in found],
            }
        )

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """Average precisions and FROC; see `medbench.metrics.detection`."""
        return detection_metrics(predictions, self.config.selected_on)

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with a box that counts."""
        films = zip(index.table["boxes"], index.table["box_labels"], strict=True)
        return np.array(
            [
                boxes is not None and len(named_boxes(boxes, names, self.config.classes)[0]) > 0
                for boxes, names in films
            ],
            dtype=np.bool_,
        )

    def _predictions(self, data: TaskData, features: "BoxedFilms", found: Detections) -> pd.DataFrame:
        rows, boxes = data.split.test, features.boxes
        table = data.index.table.iloc[rows]
        names = np.array(found.classes, object)
        labels = [found.labels_of(image) for image in range(len(rows))]
        return pd.DataFrame(
            {
                "sample": table["sample"].to_numpy(),
                "patient": table["patient"].to_numpy(),
                "true_boxes": [boxes.boxes(row).ravel() for row in rows.tolist()],
                "true_labels": [boxes.names(row) for row in rows.tolist()],
                "pred_boxes": [part.astype(np.float32).ravel() for part in found.boxes],
                "pred_scores": [part.astype(np.float32) for part in found.scores],
                "pred_labels": [names[part].tolist() for part in labels],
                "classes": [list(found.classes)] * len(rows),
            }
        )


class BoxedFilms:
    """Films of a split in their square, their boxes, and what a frozen encoder sees in them.

    Attributes:
        model: the encoder, which no training changes.
        boxes: of all films of the split.
        channels: of the maps, from fine to coarse.
        patches: whether there is one map, of the patches of a ViT.
        digest: names the encoder, for checkpoints of heads.
        norms: names of the BatchNorms whose statistics drift, and are part of what is trained; those that no map passes
            through, as of a projection, do not.

    Args:
        config: of the task.
        model: on `env.device`.
        data: whose films; those of its split are read.
        env: everything in it is used.
    """

    def __init__(
        self, config: DetectionConfig, model: VisionLanguageModel, data: TaskData, env: Environment
    ) -> None:
        split = data.split
        if not len(split.test):
            raise DataError(
                f"{data.index.dataset}: the split {split.name} has no test films to predict. Take another split "
                "(--split)."
            )
        self.model = model
        self.side = model.preprocessing.size
        self._env = env
        self.patches = from_patches(model)
        self.channels, norms = _looked_at(model, env)
        self.norms = norms if config.drift else ()
        if config.encoder_grid is not None:
            check_trainable(model, pyramid=not self.patches)
        self._most = config.train_boxes
        self._targets: dict[int, Any] = {}
        self._finite = FiniteMaps(env.device, env.precision)
        films = data.images(self.side, "stretch")
        self._films = films.images
        self.boxes = SquareBoxes(data.index, split, films.sizes, self.side, config.classes)
        if not any(len(self.boxes.known(row)[0]) for row in split.val.tolist()):
            raise DataError(
                f"{data.index.dataset}: no box in the {len(split.val):,} validation films of the split {split.name}, "
                "so the best state of the detector can not be chosen. The split needs more films."
            )
        self._pyramids: Pyramids | None = None
        if config.encoder_grid is None and not self.norms:
            self._pyramids = Pyramids(model, data, len(STRIDES), config.maps_bytes, env)
            self.digest = self._pyramids.digest
            return
        why = "its BatchNorm drifts" if config.encoder_grid is None else "it learns"
        env.progress.say(f"feature maps are computed for each batch by a copy of the encoder: {why}")
        with evaluating(model):
            maps = [m.half() for m in self.encode(model, split.train[:PROBE])]
        self._finite.note(maps)
        self.check()
        self.digest = digest(torch.cat([m.flatten(1) for m in maps], dim=1).cpu().numpy())

    def encode(self, model: VisionLanguageModel, rows: Rows) -> tuple[Tensor, ...]:
        """Maps of films by a model in whatever mode, in the precision of the environment."""
        device = self._env.device
        images = to_device(
            torch.from_numpy(np.ascontiguousarray(self._films[rows])), device
        )  # (B, side, side) uint8
        with autocast(device, self._env.precision):
            return dense_maps(model, model.preprocessing.normalise(images), len(STRIDES))

    def drifting(self, model: VisionLanguageModel, rows: Rows) -> tuple[Tensor, ...]:
        """`encode` by a copy whose weights are those of the encoder; `check` knows whether its maps were finite."""
        maps = self.encode(model, rows)
        self._finite.note(maps)
        return maps

    def maps(self, rows: Rows) -> tuple[Tensor, ...]:
        """Maps of films by the frozen encoder; every value is a float16."""
        assert self._pyramids is not None
        return self._pyramids.batch(rows)

    def check(self) -> None:
        """Ask whether all maps by weights of the encoder under test were finite.

        Raises:
            WeightsError: they were not.
        """
        self._finite.check()
        if self._pyramids is not None:
            self._pyramids.check()

    def targets(self, head: Detector, row: int) -> Any:
        """What the boxes of a film ask of a head; made once for all trainings, whose heads differ in weights alone."""
        boxes, labels = self.boxes.square(row, self._most)
        key = row if len(boxes) else -1  # films without a box share theirs
        if key not in self._targets:
            self._targets[key] = head.targets(boxes, labels)
        return self._targets[key]

    def close(self) -> None:
        """Let go of the maps."""
        if self._pyramids is not None:
            self._pyramids.close()


class DetectionTrial(Trial):
    """A detector on its way, alone or with a copy of the encoder that drifts or learns."""

    def __init__(
        self,
        config: DetectionConfig,
        schedule: Schedule,
        films: BoxedFilms,
        train: Rows,
        validation: Rows,
        seed: int,
        env: Environment,
        point: Point | None,
    ) -> None:
        self.config, self.films, self.validation, self.env, self.point = config, films, validation, env, point
        head_seed = derive_seed("detection head", seed)
        classes = len(films.boxes.classes)
        self.head = detector(
            config.detector, films.channels, films.side, classes, config.head, head_seed, films.patches
        ).to(env.device)
        self.encoder: VisionLanguageModel | None = None
        self._drifting: list[nn.Module] = []
        module: nn.Module = self.head
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters())}]
        if point is not None:
            self.encoder = trainable_copy(films.model, pyramid=not films.patches)
            factor, decay = point
            groups += parameter_groups(self.encoder, schedule.lr * factor, decay, config.weight_decay)
            module = nn.ModuleDict({"head": self.head, "encoder": trained_part(self.encoder)})
            self.layers = describe_layers(self.encoder)
        elif films.norms:
            copy = deepcopy(films.model)
            assert isinstance(copy, nn.Module)  # it has a BatchNorm
            self.encoder = copy.eval().requires_grad_(False)
            self._drifting = [copy.get_submodule(name) for name in films.norms]
            module = nn.ModuleDict({"head": self.head, "statistics": nn.ModuleList(self._drifting)})
        self.training = Training(
            "detection",
            module,
            torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=config.weight_decay, fused=True),
            schedule,
            train,
            seed,
            env,
            {
                "config": asdict(config),
                "classes": films.boxes.classes,
                "encoder": films.digest,
                "point": point,
            },
            step=self._step,
            validate=self._validate,
        )

    def check_maps(self) -> None:
        """See `Trial.check_maps`."""
        self.films.check()

    def release(self) -> None:
        """Forget the weights; what was chosen is kept."""
        super().release()
        del self.head, self.encoder, self._drifting

    def detections(self, rows: Rows) -> Detections:
        """Boxes of films in pixels of the file, beside the true ones whose class the detector knows.

        Raises:
            WeightsError: maps that a frozen encoder gave are not finite.
        """
        self.head.eval()
        for norm in self._drifting:
            norm.eval()
        boxes, scores, labels = [], [], []
        for start in range(0, len(rows), self.config.predict_batch):
            batch = rows[start : start + self.config.predict_batch]
            with torch.no_grad():
                maps = self._maps(batch)
                with autocast(self.env.device, self.env.precision):
                    predictions = self.head(maps)
            found = self.head.boxes(predictions)
            for row, (box, confidence, label) in zip(batch.tolist(), found, strict=True):
                boxes.append(self.films.boxes.restore(row, box))
                scores.append(confidence.cpu().numpy().astype(np.float64))
                labels.append(label.cpu().numpy())
        self.check_maps()
        known = [self.films.boxes.known(row) for row in rows.tolist()]
        return Detections(
            [box for box, _ in known],
            boxes,
            scores,
            [label for _, label in known],
            labels,
            self.films.boxes.classes,
        )

    def _maps(self, rows: Rows) -> tuple[Tensor, ...]:
        if self.encoder is None:
            return self.films.maps(rows)
        films = self.films.drifting if self.point is None else self.films.encode
        return films(self.encoder, rows)

    def _step(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """The loss of a batch; nothing in it draws random numbers, or waits for the device."""
        self.head.train()
        for norm in self._drifting:
            norm.train()
        with torch.set_grad_enabled(self.point is not None):
            maps = self._maps(rows)
        with autocast(self.env.device, self.env.precision):
            predictions = self.head(maps)
        targets = [self.films.targets(self.head, row) for row in rows.tolist()]
        losses = self.head.losses(predictions, targets)
        return torch.stack(list(losses.values())).sum()

    def _validate(self) -> float:
        found = self.detections(self.validation)
        if self.config.selected_on == "map_mgca":
            filtered, counts = mgca_rule(found)
            found = filtered.select(counts)
        score = mean_precision(average_precision(found, IOUS_40_75))
        # No image counts for `map_mgca`. torchmetrics, which chooses in MGCA's code, has -1 there, so that 0 is better.
        return -1.0 if np.isnan(score) else score


def _looked_at(model: VisionLanguageModel, env: Environment) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Channels of a model's maps, and the names of the BatchNorms that a film passes on its way to them.

    Raises:
        PluginError: see `map_channels`.
    """
    modules = model.named_modules() if isinstance(model, nn.Module) else []
    norms = {name: module for name, module in modules if isinstance(module, _BatchNorm)}
    passed: set[str] = set()
    with ExitStack() as hooks:
        for name, norm in norms.items():
            hook = norm.register_forward_hook(lambda *_, name=name: passed.add(name))
            hooks.callback(hook.remove)
        channels = map_channels(model, len(STRIDES), env)
    return channels, tuple(name for name in norms if name in passed)


def _search(
    config: DetectionConfig,
    best: DetectionTrial,
    trials: Sequence[DetectionTrial],
    films: BoxedFilms,
    train: Rows,
) -> dict[str, Any]:
    """What was chosen and from what, for the record."""
    found = best.training.search(config.selected_on)
    classes = films.boxes.classes
    if len(classes) > 1:
        seen = {k for row in train.tolist() for k in films.boxes.known(row)[1].tolist()}
        found["classes"] = list(classes)
        found["classes_without_a_training_box"] = [name for k, name in enumerate(classes) if k not in seen]
    return grid_search(found, config.encoder_grid, config.selected_on, best, trials)
