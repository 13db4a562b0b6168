"""Orthogonality of image features: each feature has a second moment of 1, and no two of them go together.

    G = 1/B X^T X,    L = 1/2 [ sum_i (G_ii - 1)^2 + w sum_{i != j} G_ij^2 ]

X are the features of the batch, neither centred nor normalised. It keeps the space of an image encoder from collapsing
where the loss beside it has no negatives.

Source: M-FLAG (arXiv 2307.08347); half, the division by the batch and w = 0.0051 are those of its released code.
"""

import torch
from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def orthogonality(features: Tensor, off_diagonal: float = 0.0051) -> Tensor:
    """Distance of the features' second moments from the identity.

    Args:
        features: (B, D) float, before any projection.
        off_diagonal: w, weight of the pairs.

    Returns:
        0-d tensor.
    """
    moments = features.T @ features / len(features)  # (D, B) x (B, D) -> (D, D)
    apart = torch.eye(len(moments), device=moments.device, dtype=torch.bool)
    squares = torch.where(apart, (moments - 1).square(), off_diagonal * moments.square())
    return squares.sum() / 2
