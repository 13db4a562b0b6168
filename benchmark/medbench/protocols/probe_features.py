"""What the probes without augmentation (`lp`, `knn`) take: pooled features of all films of a split, read once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.model import VisionLanguageModel
from medbench.protocols.classification import Classification
from medbench.protocols.features import pooled_features
from medbench.task import Environment, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BLOCK = 2048
"""Films that are turned into float64 at a time: all features fit into memory in float32, twice that may not."""


@dataclass(frozen=True)
class ProbeFeatures:
    """Features of every row of the split.

    Attributes:
        rows: (M,) positions in the index, sorted.
        pooled: (M, D) float32.
    """

    rows: Rows
    pooled: npt.NDArray[np.float32]

    @classmethod
    def extract(cls, model: VisionLanguageModel, data: TaskData, env: Environment) -> "ProbeFeatures":
        """Those of all films of the three parts."""
        rows = np.unique(np.concatenate([data.split.train, data.split.val, data.split.test]))
        return cls(rows, pooled_features(model, data, rows, env))

    def of(self, rows: Rows) -> npt.NDArray[np.float32]:
        """(len(rows), D) features of these positions of the index."""
        return self.pooled[np.searchsorted(self.rows, rows)]

    def blocks(self, rows: Rows) -> Iterator[tuple[slice, Floats]]:
        """(len(rows), D) in float64, `BLOCK` rows at a time, each block a new array."""
        for start in range(0, len(rows), BLOCK):
            part = slice(start, min(start + BLOCK, len(rows)))
            yield part, self.of(rows[part]).astype(np.float64)


@dataclass(frozen=True)
class Scaling:
    """How features are moved and scaled, the same for every encoder: as the rows of a label fraction say.

    Attributes:
        mean: (D,) float64, taken off.
        factor: one number that all features are multiplied with, so that their mean square is 1; 0 where they are
            constant.
    """

    mean: Floats
    factor: float

    @classmethod
    def of(cls, features: ProbeFeatures, rows: Rows) -> "Scaling":
        """From these rows alone."""
        mean = np.sum([block.sum(axis=0) for _, block in features.blocks(rows)], axis=0) / len(rows)
        squares = sum(float(np.square(block - mean).sum()) for _, block in features.blocks(rows))
        spread = float(np.sqrt(squares / len(rows) / len(mean)))
        varies = spread > 1e-6 * float(np.abs(mean).max())  # float32 resolves 6e-8 of a value
        return cls(mean, 1 / spread if varies else 0.0)

    def blocks(
        self, features: ProbeFeatures, rows: Rows, device: torch.device
    ) -> Iterator[tuple[slice, Tensor]]:
        """As `ProbeFeatures.blocks`, scaled, on a device."""
        for part, block in features.blocks(rows):
            block -= self.mean
            block *= self.factor
            yield part, torch.from_numpy(block).to(device)

    def whole(self, features: ProbeFeatures, rows: Rows, device: torch.device) -> Tensor:
        """(len(rows), D) float64, made without a second copy."""
        out = torch.empty(len(rows), len(self.mean), dtype=torch.float64, device=device)
        for part, block in self.blocks(features, rows, device):
            out[part] = block
        return out


class FeatureProbe(Classification):
    """Base of the probes that read features once and draw nothing: the seed picks the list of a fraction alone."""

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> ProbeFeatures:
        """Pooled features of all rows of the split.

        Raises:
            DataError: nobody is tested.
        """
        self.require_test(data)
        return ProbeFeatures.extract(model, data, env)

    def depends_on_seed(self, fraction: float) -> bool:
        """Only through the list of a fraction."""
        return fraction < 1.0
