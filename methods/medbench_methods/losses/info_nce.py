"""Image-report contrast (ITA): each image must find its own report in the batch, and each report its image.

    L = w_1/B sum_i [ -log softmax_j(v_i . t_j / tau)_i ] + w_2/B sum_j [ -log softmax_i(v_i . t_j / tau)_j ]

With `gather`, i runs over the pairs of this process and j over those of all; B is the number of i.

Sources: CLIP (arXiv 2103.00020, figure 3), which takes the mean of the two directions. Their sum, weights 1, is what
MGCA's released code does (whose negatives are those of the same device); ConVIRT (arXiv 2010.00747) has 0.75 and 0.25.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import rank_offset


@full_precision
def info_nce(
    image: Tensor,
    text: Tensor,
    temperature: float | Tensor,
    *,
    weights: tuple[float, float] = (1.0, 1.0),
    gather: bool = False,
) -> Tensor:
    """Symmetric InfoNCE; negatives are the other pairs of the batch.

    Args:
        image: (B, E) float, unit vectors.
        text: (B, E) float, unit vectors; row i belongs to row i of `image`.
        temperature: tau > 0; a 0-d tensor where it is learnt.
        weights: of the directions, from image to text and from text to image.
        gather: take the negatives of all processes, not only of this one.

    Returns:
        0-d tensor: the two cross entropies, weighted and summed.
    """
    every_image, every_text = (gather_rows(image), gather_rows(text)) if gather else (image, text)  # (W B, E)
    target = torch.arange(len(image), device=image.device) + (rank_offset(image) if gather else 0)
    by_image = image @ every_text.T / temperature  # (B, E) x (E, W B) -> (B, W B)
    by_text = text @ every_image.T / temperature
    return weights[0] * F.cross_entropy(by_image, target) + weights[1] * F.cross_entropy(by_text, target)
