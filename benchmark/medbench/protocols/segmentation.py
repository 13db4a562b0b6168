"""Segmentation: a decoder over an encoder's maps says of each pixel of a film whether it belongs to a finding.

A U-Net over the five maps of a CNN, the decoder of SETR over the patches of a ViT. Films are stretched to a square and
their masks with them; masks are trained on, predicted and scored in that square, as in MGCA's released code. The
encoder is frozen and in eval mode (that code leaves its BatchNorm in train mode, so that the statistics drift), or
learns with the decoder (`frozen=False`). The state with the lowest validation loss is tested.

Training films are scaled and turned at random under `paper`, so the maps of a frozen encoder are computed for each
step; those of validation films never change and are computed once. Test films are read once a label fraction, and their
maps are not kept. Without augmentation (`tiny`) the maps of all films are computed once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from medbench.data.affine import ScaleRotate
from medbench.data.index import Index
from medbench.devices import autocast, to_device
from medbench.errors import DataError, PluginError
from medbench.heads.setr import Setr, SetrConfig
from medbench.heads.unet import STRIDES, UNet, UNetConfig
from medbench.metrics.segmentation import mask_columns, segmentation_metrics
from medbench.model import Preprocessing, VisionLanguageModel
from medbench.protocols.dense_maps import FiniteMaps, dense_maps, from_patches, map_channels
from medbench.protocols.features import evaluating
from medbench.protocols.other_side import OtherSide
from medbench.protocols.pyramids import Pyramids
from medbench.protocols.segmentation_loss import film_terms, mean_loss, segmentation_loss
from medbench.protocols.square_masks import SquareMasks, positive_rows
from medbench.protocols.training import Schedule, Training
from medbench.protocols.trials import Point, Trial, best_trial, grid_search
from medbench.protocols.unfrozen import (
    EncoderGrid,
    check_trainable,
    describe_layers,
    parameter_groups,
    trainable_copy,
    trained_part,
)
from medbench.seeding import derive_seed, drawn_from
from medbench.task import Environment, Evaluation, Fit, Metric, Task, TaskData

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SegmentationConfig:
    """Every number of the protocol at one recipe. Defaults: `paper`, MGCA's released code (ssl_segmenter.py)."""

    lr: float = 5e-4
    """Of AdamW, constant (its scripts; the code's default and G2D's description say 2e-4)."""
    weight_decay: float = 0.05
    """Of AdamW: on every parameter of the decoder; of an encoder that learns, on matrices and kernels."""
    batch_size: int = 16
    """Films a step. MGCA's scripts: 8 for SIIM, 16 for RSNA; under `paper` that of `mgca_batch`."""
    epochs: int = 50
    """At most."""
    films: int | None = None
    """Films that are trained on at most, over all epochs: with many labels there are fewer epochs, but at least two.
    None: no such limit (ours, for small recipes)."""
    validations: int = 50
    """At most, at equal distances; the last epoch is always validated."""
    patience: int = 10
    """Validations without a lower loss before training stops."""
    augmentation: ScaleRotate | None = field(default_factory=ScaleRotate)
    """Of training films and their masks alike; None: none, and a frozen encoder's maps are computed once."""
    unet: UNetConfig = field(default_factory=UNetConfig)
    """The decoder over a CNN."""
    setr: SetrConfig = field(default_factory=SetrConfig)
    """The decoder over a ViT."""
    encoder_grid: EncoderGrid | None = field(default_factory=lambda: EncoderGrid((0.1, 1.0), (0.75, 1.0)))
    """How fast the encoder learns (ours); validation loss chooses. None where it is frozen."""
    predict_batch: int = 64
    """Films a forward pass without gradient; no result depends on it."""
    maps_bytes: int = 8 * 2**30
    """Disk that maps of a frozen encoder may take (ours). A ResNet-50 at 224 px has 4.6 MB a film."""
    side: int | None = None
    """Of the square, pixels; None: the model's own."""
    labels: tuple[str, ...] = ()
    """Of the outlines that count; empty: all."""
    balanced: bool = False
    """Train on the films with a mask and as many without, drawn by the seed (SIIM); else on all."""
    frozen: bool = True
    """Whether the encoder keeps its weights."""
    mgca_batch: int = 16
    """Films a batch of `dice_mgca`, a mean over batches: those of MGCA's script for this dataset, at every recipe."""


RECIPES: Mapping[str, SegmentationConfig] = {
    "paper": SegmentationConfig(),
    # 3,000 films at 96 px within a minute on two CPU cores: fewer epochs, a narrower decoder, maps computed once.
    "tiny": SegmentationConfig(
        lr=2e-3,
        films=4_800,
        validations=6,
        patience=3,
        augmentation=None,
        unet=UNetConfig(widths=(64, 32, 16, 16, 8)),
        setr=SetrConfig(widths=(64, 32, 16, 16)),
        encoder_grid=EncoderGrid((0.1,), (1.0,)),
    ),
    # Seconds, for tests: the numbers mean nothing.
    "micro": SegmentationConfig(
        lr=2e-3,
        epochs=2,
        validations=2,
        unet=UNetConfig(widths=(32, 16, 16, 8, 8)),
        setr=SetrConfig(widths=(16, 16, 8, 8)),
        encoder_grid=EncoderGrid((0.1,), (1.0,)),
    ),
}
"""The protocol at each recipe. A table never mixes them."""

_OWN_SIDE = {"paper": 224, "tiny": 96, "micro": 64}
"""Sides of the films of the recipes' encoders, pixels."""


class Segmentation(Task):
    """Masks of one class: the union of all outlines of a film that count.

    Args:
        recipe: "paper", "tiny" or "micro".
        split: of the dataset.
        labels: of the outlines that count; empty: all.
        side: of the square under `paper`, pixels; smaller recipes shrink it as they shrink 224. None: the model's own.
        balanced: train on the films with a mask and as many without.
        frozen: whether the encoder keeps its weights.
        mgca_batch: films a batch in MGCA's script for this dataset: of training under `paper`, of `dice_mgca`
            everywhere.
    """

    config: SegmentationConfig

    def __init__(
        self,
        recipe: str,
        *,
        split: str,
        labels: Sequence[str] = (),
        side: int | None = None,
        balanced: bool = False,
        frozen: bool = True,
        mgca_batch: int = 16,
    ) -> None:
        super().__init__(recipe, split=split)
        base = RECIPES[recipe]
        self.config = replace(
            base,
            batch_size=mgca_batch if recipe == "paper" else base.batch_size,
            encoder_grid=None if frozen else base.encoder_grid,
            side=None if side is None else 32 * -(-side * _OWN_SIDE[recipe] // (32 * _OWN_SIDE["paper"])),
            labels=tuple(labels),
            balanced=balanced,
            frozen=frozen,
            mgca_batch=mgca_batch,
        )

    def films(self, inputs: Preprocessing) -> tuple[int, Fit]:
        """Stretched to the square."""
        return self.config.side or inputs.size, "stretch"

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> "SquareFilms":
        """Masks of all films of the split, and the maps that a frozen encoder gives of those that never change.

        Raises:
            DataError: a film was not annotated, a mask can not be read, or a part of the split is empty.
            PluginError: the model does not take films of this side, gives no five maps, or can not be fine-tuned where
                it should be; said before anything takes long.
            WeightsError: a feature is not finite.
        """
        return SquareFilms(self.config, model, data, env)

    def evaluate(
        self, features: "SquareFilms", data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Train on `train`, keep the state with the lowest validation loss, predict the test films.

        An encoder that learns does so once a point of `encoder_grid`, and the lowest validation loss of all is taken. A
        killed call goes on from its last validation and gives the same numbers. `predictions` holds `sample`, `patient`
        and the columns of `mask_columns`: masks in the square, where the probability is over 0.5, and the true ones.

        Raises:
            WeightsError: a feature is not finite.
            FloatingPointError: the loss is no longer finite.
        """
        config = self.config
        rows = balanced(train, positive_rows(data.index, config.labels), seed) if config.balanced else train
        schedule = schedule_of(config, len(rows))

        def make(point: Point | None) -> SegmentationTrial:
            return SegmentationTrial(config, schedule, features, rows, data.split.val, seed, env, point)

        best, trials = best_trial(config.encoder_grid, make)
        table = data.index.table.iloc[data.split.test]
        known = table[["sample", "patient"]].reset_index(drop=True)
        predictions = pd.concat([known, best.masks(data.split.test)], axis=1)
        for trial in trials:
            trial.training.forget()
        return Evaluation(predictions, _search(config, best, trials, features, rows))

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """`dice`, `dice_pos`, `iou`, `hausdorff95`, `dice_mgca`; see `medbench.metrics.segmentation`."""
        return segmentation_metrics(predictions, mgca_batch=self.config.mgca_batch)

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with an outline that counts.

        Raises:
            DataError: nobody annotated any film.
        """
        if not bool(index.table[["regions", "boxes"]].notna().any(axis=None)):
            raise DataError(
                f"{index.dataset} in {index.root} has neither outlines nor boxes, so there is nothing to segment. A "
                "table gives them by a column of mask files (--column mask=NAME) or by boxes (x, y, width, height)."
            )
        return positive_rows(index, self.config.labels)


def schedule_of(config: SegmentationConfig, train: int) -> Schedule:
    """The schedule for `train` films: within `config.films` there are at least two epochs."""
    epochs = config.epochs if config.films is None else max(2, min(config.epochs, config.films // train))
    return Schedule(
        up_to=1.0,
        lr=config.lr,
        batch_size=config.batch_size,
        epochs=epochs,
        validate_every=-(-epochs // config.validations),
        patience=config.patience,
    )


def balanced(train: Rows, positive: npt.NDArray[np.bool_], seed: int) -> Rows:
    """The rows of `train` that are positive, and as many others by lot (all of them if they are fewer), sorted."""
    some, others = train[positive[train]], train[~positive[train]]
    draw = np.random.Generator(np.random.PCG64(derive_seed("segmentation negatives", seed)))
    return np.sort(
        np.concatenate([some, draw.choice(others, min(len(some), len(others)), replace=False)])
    ).astype(np.int64)


class SquareFilms:
    """Films of a split in their square: pixels, masks, and what a frozen encoder sees in them.

    Attributes:
        model: as the runner gave it.
        side: of the square, pixels.
        vit: whether there is one map, the patches of a ViT, and not five.
        channels: of the maps, from fine to coarse.
        digest: names a frozen encoder by what it gives, for checkpoints of decoders.

    Args:
        config: of the task.
        model: on `env.device`.
        data: whose films; those of its split are read.
        env: everything in it is used.
    """

    def __init__(
        self, config: SegmentationConfig, model: VisionLanguageModel, data: TaskData, env: Environment
    ) -> None:
        split = data.split
        for part, rows in (("validation", split.val), ("test", split.test)):
            if not len(rows):
                raise DataError(
                    f"{data.index.dataset}: the split {split.name} has no {part} films; segmentation chooses on "
                    "validation films and predicts test films. Take another split (--split)."
                )
        self.model = model
        self.side = config.side or model.preprocessing.size
        self.vit = from_patches(model)
        self._env = env
        self._encoder = self.sized(model)
        self._finite = FiniteMaps(env.device, env.precision)
        self.channels = self._channels()
        if config.encoder_grid is not None:
            check_trainable(model, pyramid=not self.vit)
        prepared = data.images(self.side, "stretch")
        every = np.unique(np.concatenate([split.train, split.val, split.test]))
        self._films = prepared.images
        self._masks = SquareMasks(data.index, every, prepared.sizes, self.side, config.labels, env.progress)
        self._pyramids: Pyramids | None = None
        self._kept = np.zeros(len(data.index), np.bool_)
        if config.frozen:
            none = np.zeros(0, np.int64)
            kept = split if config.augmentation is None else replace(split, train=none, test=none)
            self._kept[np.concatenate([kept.train, kept.val, kept.test])] = True
            data = replace(data, split=kept)
            self._pyramids = Pyramids(self._encoder, data, len(STRIDES), config.maps_bytes, env)
        self.digest = env.encoder if self._pyramids is None else self._pyramids.digest

    def sized(self, model: VisionLanguageModel) -> VisionLanguageModel:
        """A model for films of this side."""
        return model if model.preprocessing.size == self.side else OtherSide(model, self.side)

    def images(self, rows: Rows) -> Tensor:
        """(B, side, side) uint8 on the device."""
        return to_device(torch.from_numpy(np.ascontiguousarray(self._films[rows])), self._env.device)

    def masks(self, rows: Rows) -> Tensor:
        """(B, side, side) bool on the device."""
        return to_device(self._masks.batch(rows), self._env.device)

    def maps(self, rows: Rows) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) float32 of films as they are, by the frozen encoder; every value is a float16."""
        if self._pyramids is not None and self._kept[rows].all():
            return self._pyramids.batch(rows)
        return self.encode(self.images(rows))

    def encode(self, films: Tensor) -> tuple[Tensor, ...]:
        """The same of (B, side, side) films, uint8 or float32 from 0 to 255."""
        with evaluating(self._encoder), autocast(self._env.device, self._env.precision):
            images = self._encoder.preprocessing.normalise(films)
            maps = [m.half() for m in dense_maps(self._encoder, images, len(STRIDES))]
        self._finite.note(maps)
        return tuple(m.float() for m in maps)  # outside, so that a decoder can be trained on them

    def check(self) -> None:
        """Ask whether all maps by the frozen encoder were finite.

        Raises:
            WeightsError: they were not.
        """
        self._finite.check()
        if self._pyramids is not None:
            self._pyramids.check()

    def close(self) -> None:
        """Let go of the maps."""
        if self._pyramids is not None:
            self._pyramids.close()

    def _channels(self) -> tuple[int, ...]:
        """Of the maps of a black film, looked at before anything takes long.

        Raises:
            PluginError: the model does not take films of this side, or gives other maps.
        """
        own = self.model.preprocessing.size
        try:
            return map_channels(self._encoder, len(STRIDES), self._env)
        except PluginError:
            raise
        except Exception as error:
            if self.side == own:
                raise
            raise PluginError(
                f"{type(self.model).__name__}.encode_image takes no films of {self.side} px, only of its own {own} px "
                f"({type(error).__name__}: {error}). Leave out tasks of another size than the model's, or let it "
                "resample its positions."
            ) from error


class SegmentationTrial(Trial):
    """A decoder on its way, alone or with an encoder that learns; its score is the loss with its sign turned."""

    def __init__(
        self,
        config: SegmentationConfig,
        schedule: Schedule,
        films: SquareFilms,
        train: Rows,
        validation: Rows,
        seed: int,
        env: Environment,
        point: Point | None,
    ) -> None:
        self.config, self.films, self.validation, self.env, self.point = config, films, validation, env, point
        decoder_seed = derive_seed("segmentation decoder", seed)
        self.decoder: nn.Module = (
            Setr(films.channels, config.setr, decoder_seed)
            if films.vit
            else UNet(films.channels, config.unet, decoder_seed)
        ).to(env.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third less time on CPU
        self.encoder: VisionLanguageModel | None = None
        self._modules: list[Any] = [self.decoder]
        module, groups = self.decoder, [{"params": list(self.decoder.parameters())}]
        if point is not None:
            learning = trainable_copy(films.model, pyramid=not films.vit)
            self.encoder = films.sized(learning)
            self._modules.append(learning)
            factor, decay = point
            groups += parameter_groups(learning, schedule.lr * factor, decay, config.weight_decay)
            module = nn.ModuleDict({"decoder": self.decoder, "encoder": trained_part(learning)})
            self.layers = describe_layers(learning)
        self.training = Training(
            "segmentation",
            module,
            torch.optim.AdamW(groups, lr=schedule.lr, weight_decay=config.weight_decay, fused=True),
            schedule,
            train,
            seed,
            env,
            {"config": asdict(config), "encoder": films.digest, "point": point},
            step=self._step,
            validate=lambda: -self.loss(self.validation),
        )

    def check_maps(self) -> None:
        """See `Trial.check_maps`."""
        self.films.check()

    def release(self) -> None:
        """Forget the weights; what was chosen is kept."""
        super().release()
        del self.decoder, self.encoder, self._modules

    def loss(self, rows: Rows) -> float:
        """The loss of films as they are, of batches of `batch_size` in the order of `rows`."""
        terms = [film_terms(logits, self.films.masks(some)).cpu() for some, logits in self._logits(rows)]
        return mean_loss(torch.cat(terms), self.config.batch_size)

    def masks(self, rows: Rows) -> pd.DataFrame:
        """`mask_columns` of films: where the logit is over 0, beside the truth."""
        parts = [
            mask_columns((logits[:, 0] > 0).cpu().numpy(), self.films.masks(some).cpu().numpy())
            for some, logits in self._logits(rows)
        ]
        return pd.concat(parts, ignore_index=True)

    def _logits(self, rows: Rows) -> Iterator[tuple[Rows, Tensor]]:
        """Rows and their (B, 1, side, side) float32 logits, some films at a time.

        Raises:
            WeightsError: maps that a frozen encoder gave are not finite; said after the last of them.
        """
        self._mode(training=False)
        for start in range(0, len(rows), self.config.predict_batch):
            some = rows[start : start + self.config.predict_batch]
            with torch.no_grad(), autocast(self.env.device, self.env.precision):
                maps = self._maps(self.films.images(some)) if self.encoder else self.films.maps(some)
                logits = self.decoder(maps)
            yield some, logits
        self.check_maps()

    def _maps(self, films: Tensor) -> tuple[Tensor, ...]:
        """Of the encoder that learns."""
        assert self.encoder is not None
        return dense_maps(self.encoder, self.encoder.preprocessing.normalise(films), len(STRIDES))

    def _mode(self, *, training: bool) -> None:
        for module in self._modules:
            module.train(training)

    def _step(self, rows: Rows, generator: torch.Generator) -> Tensor:
        masks = self.films.masks(rows)
        films: Tensor | None = None
        if self.config.augmentation is not None or self.encoder is not None:
            films = self.films.images(rows)
        if self.config.augmentation is not None and films is not None:
            films, masks = self.config.augmentation(films, masks, generator)
        self._mode(training=True)
        with autocast(self.env.device, self.env.precision):
            if self.encoder is not None and films is not None:
                # Dropout and the like draw from torch's own generators, which are lent to them here.
                with drawn_from(int(torch.randint(2**62, (), generator=generator)), self.env.device):
                    maps = self._maps(films)
            else:
                maps = self.films.maps(rows) if films is None else self.films.encode(films)
            logits = self.decoder(maps)
        return segmentation_loss(logits, masks)


def _search(
    config: SegmentationConfig,
    best: SegmentationTrial,
    trials: Sequence[SegmentationTrial],
    films: SquareFilms,
    train: Rows,
) -> dict[str, Any]:
    """What was chosen and from what, for the record."""
    found = best.training.search("loss")
    found["chosen"] = {"epoch": best.training.best["epoch"], "validation_loss": -best.score}
    return {
        **grid_search(found, config.encoder_grid, "loss", best, trials, sign=-1),
        "decoder": "SETR, over the patches" if films.vit else "U-Net, over five maps",
        "trained_on": len(train),
    }
