"""Feature maps of a frozen encoder for dense tasks, computed once for all fractions, epochs and tasks.

Films are stretched to the model's square and not augmented, so a film's maps never change. They are kept in float16 in
the user's cache (`medbench.feature_cache`), or below the work folder where it is not known which encoder gives them.
Where they would not fit the budget they are computed each time they are asked for, rounded to float16 all the same.
They are then encoded in other batches than kept ones are, which can change the last digit of a map, and with it the
last digits of what is trained on it.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.devices import autocast, to_device
from medbench.errors import WeightsError
from medbench.feature_cache import FeatureCache, Identity, Kept
from medbench.model import VisionLanguageModel
from medbench.protocols.dense_maps import FiniteMaps, dense_maps, from_patches, not_finite
from medbench.protocols.features import BATCH_SIZE, PROBE, about, digest, evaluating
from medbench.task import Environment, TaskData

Rows = npt.NDArray[np.int64]


class Pyramids:
    """The coarsest maps of every film of a split; of a ViT its patches, as the one map that it has.

    Attributes:
        side: of the films, pixels.
        patches: whether there is one map, at stride 16, of which a head makes its own pyramid.
        channels: of the maps, from fine to coarse.
        cached: whether the maps are on disk.
        digest: SHA-256 over the maps of a few films: names the encoder for checkpoints of heads.

    Args:
        model: on `env.device`.
        data: whose films; all rows of its split are read.
        levels: how many maps, counted from the coarsest: 3 for strides 8, 16, 32. A ViT gives one in any case.
        budget: bytes of disk that the maps may take.
        env: everything in it is used.

    Raises:
        WeightsError: a feature is not finite.
    """

    def __init__(
        self, model: VisionLanguageModel, data: TaskData, levels: int, budget: int, env: Environment
    ) -> None:
        self._model = model
        self._levels = levels
        self._env = env
        self.patches = from_patches(model)
        self._sample = data.index.table["sample"]
        self.side = model.preprocessing.size
        films = data.images(self.side, "stretch")
        self._films = films.images
        self._rows = np.unique(np.concatenate([data.split.train, data.split.val, data.split.test]))
        first = self._encode(self._rows[:PROBE])
        self._shapes = [tuple(m.shape[1:]) for m in first]
        self.channels = tuple(shape[0] for shape in self._shapes)
        probe = _flat(first)  # (B, values of a film) float16
        self.digest = digest(probe)
        shape = (len(self._rows), probe.shape[1])
        size = shape[0] * shape[1] * probe.itemsize
        self._own = env.workdir / "pyramids"
        shared = env.cache if env.encoder else None
        self._cache = FeatureCache(shared or self._own, env.progress)
        self._kept: Kept | None = None
        what = f"feature maps of {len(self._rows):,} films"
        if size <= budget:
            identity = Identity(
                encoder=env.encoder,
                probe=self.digest,
                preprocessing=asdict(model.preprocessing),
                fit="stretch",
                kind="patches" if self.patches else f"maps of {levels} levels",
                dtype="float16",
                films=films.sha256,
                rows=digest(self._rows),
            )
            self._kept = self._cache.get(identity, shape, what, about(data, self._rows, env), self._fill)
        else:
            env.progress.say(f"{what} would take {size / 1e9:,.1f} GB of disk (allowed {budget / 1e9:,.1f})")
        self.cached = self._kept is not None
        self._finite = FiniteMaps(env.device, env.precision)
        if not self.cached:
            env.progress.say(f"{what} are computed anew for each batch")
            self._finite.note(first)
            self._finite.check()

    def batch(self, rows: Rows) -> tuple[Tensor, ...]:
        """Maps of films.

        Args:
            rows: (B,) positions in the index, any order.

        Returns:
            For each map (B, C, H, W) float32 on the device, from fine to coarse; every value is a float16.
        """
        if self._kept is None:
            maps = self._encode(rows)
            self._finite.note(maps)
            return tuple(m.float() for m in maps)
        flat = torch.from_numpy(self._kept.array[np.searchsorted(self._rows, rows)])  # (B, values of a film)
        levels = torch.split(
            to_device(flat, self._env.device), [int(np.prod(shape)) for shape in self._shapes], dim=1
        )
        return tuple(m.reshape(-1, *shape).float() for m, shape in zip(levels, self._shapes, strict=True))

    def check(self) -> None:
        """Ask whether all maps that `batch` computed were finite; kept ones are looked at when they are made.

        Raises:
            WeightsError: they were not.
        """
        self._finite.check()

    def close(self) -> None:
        """Let go of the maps; those in the cache stay for other tasks, as far as it has room for them."""
        self._kept = None
        shutil.rmtree(self._own, ignore_errors=True)
        self._cache.trim()

    def _encode(self, rows: Rows) -> list[Tensor]:
        """Float16 maps on the device."""
        device = self._env.device
        images = to_device(
            torch.from_numpy(np.ascontiguousarray(self._films[rows])), device
        )  # (B, side, side) uint8
        with evaluating(self._model), autocast(device, self._env.precision):
            maps = dense_maps(self._model, self._model.preprocessing.normalise(images), self._levels)
            return [m.half() for m in maps]

    def _fill(self, maps: npt.NDArray[Any]) -> None:
        """Write all maps into (M, values of a film) float16."""
        with self._env.progress.track("extracting feature maps", len(self._rows), "films") as advance:
            for at in range(0, len(self._rows), BATCH_SIZE):
                rows = self._rows[at : at + BATCH_SIZE]
                part = _flat(self._encode(rows))
                finite = np.isfinite(part).all(axis=1)
                if not finite.all():
                    film = str(self._sample.iloc[rows[~finite][0]])
                    raise WeightsError(not_finite(film, self._env.precision))
                maps[at : at + len(rows)] = part
                advance(len(rows))


def _flat(maps: Sequence[Tensor]) -> npt.NDArray[np.float16]:
    """Float16 maps of B films -> (B, all values of a film)."""
    flat: npt.NDArray[np.float16] = torch.cat([m.flatten(1) for m in maps], dim=1).cpu().numpy()
    return flat
