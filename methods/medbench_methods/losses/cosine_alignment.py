"""Alignment without negatives: the two vectors of a pair must point the same way.

    L = 1/B sum_i 2 (2 - 2 cos(v_i, t_i))

Source: M-FLAG (arXiv 2307.08347); its released code adds the same distance from either side, hence the first 2.
"""

import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def cosine_alignment(image: Tensor, text: Tensor) -> Tensor:
    """Squared distance of unit vectors, twice, averaged over the pairs.

    Args:
        image: (B, E) float, of any length.
        text: (B, E) float; row i belongs to row i of `image`.

    Returns:
        0-d tensor, 0 to 8.
    """
    cosines = (F.normalize(image, dim=1) * F.normalize(text, dim=1)).sum(1)  # (B,)
    return (4 - 4 * cosines).mean()
