"""Image-report contrast (ITA): each image must find its own report in the batch, and each report its image.

    L = 1/B sum_i [ -log softmax_j(v_i . t_j / tau)_i ] + 1/B sum_j [ -log softmax_i(v_i . t_j / tau)_j ]

Sources: CLIP (arXiv 2103.00020, figure 3); the *sum* of the two directions, where CLIP and ConVIRT take a
mean, is what MGCA's released code does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def info_nce(image: Tensor, text: Tensor, temperature: float | Tensor) -> Tensor:
    """Symmetric InfoNCE; negatives are the other pairs of the batch.

    Args:
        image: (B, E) float, unit vectors.
        text: (B, E) float, unit vectors; row i belongs to row i of `image`.
        temperature: tau > 0; a 0-d tensor where it is learnt.

    Returns:
        0-d tensor: the two cross entropies, summed.
    """
    logits = image @ text.T / temperature  # (B, E) x (E, B) -> (B, B), rows are images
    target = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
