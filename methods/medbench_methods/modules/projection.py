"""Projection heads into the joint space: Linear, BN, ReLU, Linear, BN without affine (MGCA's released code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Two layers with batch normalisation after each, for pooled vectors and, token by token, for local ones.

    MGCA writes the local head as 1x1 convolutions over tokens; a Linear over the last axis is the same
    function.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """Widths of the layers."""
        super().__init__()
        self.expand = nn.Linear(inputs, hidden)
        self.expand_norm = MaskedBatchNorm(hidden)
        self.reduce = nn.Linear(hidden, outputs)
        self.reduce_norm = MaskedBatchNorm(outputs, affine=False)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., inputs) -> (..., outputs) float32; what is outside of `mask` (...) enters no statistics."""
        hidden = F.relu(self.expand_norm(self.expand(features), mask))
        out: Tensor = self.reduce_norm(self.reduce(hidden), mask)
        return out


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of the last axis over all others, where padding does not count.

    MGCA's released code lets padded word slots into the statistics, so that they depend on how long the
    longest report of the batch is. Always computes in float32.
    """

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); `mask` (...) bool, None if everything counts."""
        with torch.autocast(features.device.type, enabled=False):
            flat = features.float().flatten(0, -2)  # (..., C) -> (N, C)
            if mask is None or not self.training:
                return super().forward(flat).view(features.shape)
            counts = mask.flatten()[:, None].float()  # (N, 1)
            n = counts.sum().clamp_min(1)
            mean = (flat * counts).sum(0) / n  # (C,)
            variance = ((flat - mean).square() * counts).sum(0) / n
            self._track(mean.detach(), variance.detach() * n / (n - 1).clamp_min(1))
            scale = torch.rsqrt(variance + self.eps)
            if self.affine:
                return ((flat - mean) * (scale * self.weight) + self.bias).view(features.shape)
            return ((flat - mean) * scale).view(features.shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased_variance, self.momentum)
