"""Projection heads into the joint space: Linear, BN, ReLU, Linear, BN without affine (MGCA's released code)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench_methods.losses.gather import gather

HeadNorm = Literal["batch", "layer"]


class ProjectionHead(nn.Module):
    """Two layers with normalisation after each, for pooled vectors and, token by token, for local ones.

    MGCA writes the local head as 1x1 convolutions over tokens; a Linear over the last axis is the same
    function.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, norm: HeadNorm = "batch") -> None:
        """Widths of the layers, and whether normalisation is over the batch or over each vector."""
        super().__init__()
        kind = MaskedBatchNorm if norm == "batch" else VectorNorm
        self.expand = nn.Linear(inputs, hidden)
        self.expand_norm = kind(hidden)
        self.reduce = nn.Linear(hidden, outputs)
        self.reduce_norm = kind(outputs, affine=False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs) float32; what is outside of `mask` (...) enters no statistics."""
        hidden = F.relu(self.expand_norm(self.expand(features), mask))
        out: Tensor = self.reduce_norm(self.reduce(hidden), mask)
        return out


class VectorNorm(nn.LayerNorm):
    """Layer normalisation of the last axis, in the place of `MaskedBatchNorm`. Always computes in float32."""

    def __init__(self, width: int, affine: bool = True) -> None:
        """Width of the vectors; `affine`: scale and shift what is normalised."""
        super().__init__(width, elementwise_affine=affine)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); what is outside of a mask changes nothing else anyway."""
        with torch.autocast(features.device.type, enabled=False):
            return super().forward(features.float())


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last axis over all others, where padding does not count.

    MGCA's released code lets padded word slots into the statistics, so that they depend on how long the
    longest report of the batch is. Always computes in float32.

    Attributes:
        synchronised: take the statistics over the batches of all processes.
    """

    synchronised = False

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); `mask` (...) bool, None if everything counts."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(0, -2)  # (..., C) -> (N, C)
            if not self.training or (mask is None and not self.synchronised):
                return super().forward(flat).view(features.shape)
            present = torch.ones_like(flat[:, 0], dtype=torch.bool) if mask is None else mask.flatten()
            counts = present[:, None].float()  # (N, 1)
            n = self.over_processes(counts.sum()).clamp_min(1)
            mean = self.over_processes((flat * counts).sum(0)) / n  # (C,)
            variance = self.over_processes(((flat - mean).square() * counts).sum(0)) / n
            self._track(mean.detach(), variance.detach() * n / (n - 1).clamp_min(1))
            scale = torch.rsqrt(variance + self.eps)
            if self.affine:
                return ((flat - mean) * (scale * self.weight) + self.bias).view(features.shape)
            return ((flat - mean) * scale).view(features.shape)

    def over_processes(self, sums: Tensor) -> Tensor:
        """The sum over processes, where synchronised, with gradients, which all_reduce has not."""
        return gather(sums[None]).sum(0) if self.synchronised else sums

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
