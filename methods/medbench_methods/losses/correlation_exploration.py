"""Correlation exploration (CCE of PLACE, arXiv 2506.10573): tell how an image's patches relate, with its report.

With X (N, C) the features of an image's patches and Z (N, D) what the model predicts for them:

    R(X)_ij = cos(x_i - mean x, x_j - mean x)              `correlation`
            = (x_i - mean x) . (x_j - mean x) / C          `covariance`
    L = mean over i != j of  l( R(Z)_ij - stop_gradient(R(X)_ij) )

l is the square or the smooth L1 (Huber with width 1); the mean of x is over the patches of the image.

RECONSTRUCTION: the abstract confirms that patch-level covariance is predicted, conditioned
on the report. The form of the target, the distance and the masking of the input (in place.py) are ours.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision

Relation = Literal["correlation", "covariance"]
Distance = Literal["mse", "smooth_l1"]


@full_precision
def correlation_exploration(
    predicted: Tensor, patches: Tensor, *, relation: Relation = "correlation", distance: Distance = "mse"
) -> Tensor:
    """Distance of the off-diagonal relations of predicted patches to those of the image's patches.

    Args:
        predicted: (B, N, D) float, N > 1.
        patches: (B, N, C) float, the target; gets no gradient.
        relation: what is compared.
        distance: how.

    Returns:
        0-d tensor.
    """
    error = F.mse_loss if distance == "mse" else F.smooth_l1_loss
    target = relations(patches.detach(), relation)
    each = error(relations(predicted, relation), target, reduction="none")  # (B, N, N)
    batch, n, _ = each.shape
    return (each.sum() - each.diagonal(dim1=1, dim2=2).sum()) / (batch * n * (n - 1))


@full_precision
def relations(tokens: Tensor, relation: Relation) -> Tensor:
    """(B, N, C) tokens -> (B, N, N) correlation or covariance of each pair of tokens around their mean."""
    centred = tokens - tokens.mean(1, keepdim=True)
    if relation == "correlation":
        centred = F.normalize(centred, dim=-1)
        return centred @ centred.transpose(1, 2)
    return centred @ centred.transpose(1, 2) / tokens.shape[2]
