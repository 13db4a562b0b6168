"""Feature maps of a frozen encoder for dense tasks, computed once for all fractions and epochs.

Films are stretched to the model's square and not augmented, so a film's maps never change. They are kept in
float16 in one file below the work folder. Where they would not fit the budget they are computed each time
they are asked for, rounded to float16 all the same: which way was taken does not show in a result, beyond
what the size of a batch does to the rounding of an encoder.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.devices import autocast
from medbench.errors import WeightsError
from medbench.model import VisionLanguageModel
from medbench.protocols.features import BATCH_SIZE, evaluating
from medbench.task import Environment, TaskData

Rows = npt.NDArray[np.int64]


class Pyramids:
    """The coarsest maps of every film of a split.

    A killed run leaves its file behind. The next one takes it up if it is whole, of the same films and split,
    and the encoder still gives the same first batch bit for bit; else it is made anew.

    Attributes:
        side: of the films, pixels.
        channels: of the maps, from fine to coarse.
        cached: whether the maps are on disk.
        digest: SHA-256 over the maps of the first batch: names the encoder for checkpoints of heads.

    Args:
        model: on `env.device`.
        data: whose films; all rows of its split are read.
        levels: how many maps, counted from the coarsest: 3 for strides 8, 16, 32.
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
        self._sample = data.index.table["sample"]
        self.side = model.preprocessing.size
        films = data.images(self.side, "stretch")
        self._films = films.images
        self._rows = np.unique(np.concatenate([data.split.train, data.split.val, data.split.test]))
        first = self._encode(self._rows[:BATCH_SIZE])
        self._shapes = [tuple(m.shape[1:]) for m in first]
        self.channels = tuple(shape[0] for shape in self._shapes)
        start = _flat(first)  # (B, values of a film) float16
        self.digest = hashlib.sha256(start.tobytes()).hexdigest()
        size = start.nbytes // len(start) * len(self._rows)
        self._folder = env.workdir / "pyramids"
        self._maps: npt.NDArray[np.float16] | None = None
        free = shutil.disk_usage(env.workdir).free
        self.cached = size <= min(
            budget, free // 2
        )  # the other half is for checkpoints and whoever else writes
        if self.cached:
            env.progress.say(
                f"feature maps of {len(self._rows):,} films take {size / 1e6:,.0f} MB in {self._folder}"
            )
            self._maps = self._fill(start, films.sha256)
        else:
            env.progress.say(
                f"feature maps of {len(self._rows):,} films would take {size / 1e9:,.1f} GB of disk (allowed "
                f"{budget / 1e9:,.1f}, free {free / 1e9:,.1f}): they are computed anew for each batch"
            )

    def batch(self, rows: Rows) -> tuple[Tensor, ...]:
        """Maps of films.

        Args:
            rows: (B,) positions in the index, any order.

        Returns:
            For each level (B, C, H, W) float32 on the device, from fine to coarse; every value is a float16.
        """
        if self._maps is None:
            return tuple(m.float() for m in self._encode(rows))
        flat = torch.from_numpy(self._maps[np.searchsorted(self._rows, rows)])  # (B, values of a film)
        device = self._env.device
        flat = (flat.pin_memory() if device.type == "cuda" else flat).to(device, non_blocking=True)
        levels = torch.split(flat, [int(np.prod(shape)) for shape in self._shapes], dim=1)
        return tuple(m.reshape(-1, *shape).float() for m, shape in zip(levels, self._shapes, strict=True))

    def close(self) -> None:
        """Give the disk back."""
        self._maps = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _encode(self, rows: Rows) -> list[Tensor]:
        """Float16 maps on the device."""
        device = self._env.device
        images = torch.from_numpy(np.ascontiguousarray(self._films[rows]))  # (B, side, side) uint8
        images = (images.pin_memory() if device.type == "cuda" else images).to(device, non_blocking=True)
        with evaluating(self._model), autocast(device, self._env.precision):
            pyramid = self._model.encode_image(
                self._model.preprocessing.normalise(images), pyramid=True
            ).pyramid
            if pyramid is None:
                raise TypeError(f"{type(self._model).__name__}.encode_image(pyramid=True) gave no pyramid")
            return [m.half() for m in pyramid[-self._levels :]]

    def _fill(self, start: npt.NDArray[np.float16], films: str) -> npt.NDArray[np.float16]:
        """The file of maps, open for reading. `start` is its first batch, `films` the hash of the pixels."""
        path, done = self._folder / "maps.npy", self._folder / "done.json"
        about = {
            "rows": hashlib.sha256(self._rows.tobytes()).hexdigest(),
            "films": films,
            "first_batch": self.digest,
            "levels": self._levels,
        }
        if done.is_file() and json.loads(done.read_text()) == about:
            return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]  # stub says Any
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        shape = (len(self._rows), start.shape[1])
        maps = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        with self._env.progress.track("extracting feature maps", len(self._rows), "films") as advance:
            for at in range(0, len(self._rows), BATCH_SIZE):
                rows = self._rows[at : at + BATCH_SIZE]
                part = start if at == 0 else _flat(self._encode(rows))
                finite = np.isfinite(part).all(axis=1)
                if not finite.all():
                    raise WeightsError(
                        f"the encoder's feature maps of {self._sample.iloc[rows[~finite][0]]} are not finite "
                        f"in half precision (computed at precision {self._env.precision}; 65,504 just fits). "
                        "Try --precision 32; if that changes nothing, the weights hold NaN, infinity or "
                        "absurd values: pretrain again with a lower learning rate, or check the checkpoint."
                    )
                maps[at : at + len(rows)] = part
                advance(len(rows))
        maps.flush()
        done.write_text(json.dumps(about))
        return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]  # stub says Any


def _flat(maps: Sequence[Tensor]) -> npt.NDArray[np.float16]:
    """Float16 maps of B films -> (B, all values of a film)."""
    flat: npt.NDArray[np.float16] = torch.cat([m.flatten(1) for m in maps], dim=1).cpu().numpy()
    return flat
