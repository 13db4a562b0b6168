"""InfoNCE over scores of image-report pairs that are not dot products (RECLF, arXiv 2401.10501).

    L = -1/B sum_i [ log softmax_j(S_ij / tau)_i + log softmax_j(S_ji / tau)_i ]

S_ij scores image i with report j. With `gather`, a process has the rows of its own images, i runs over its own pairs
and j over those of all; B is the number of i. A cosine is such a score, for which it is `info_nce`.

Sources: InfoNCE as in GLoRIA's released code, the sum of both directions. SGRAF, whose score modules RECLF seems to
follow, has a hinge instead; RECLF calls itself contrastive learning.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import rank_offset


@full_precision
def score_contrast(scores: Tensor, *, temperature: float, gather: bool = False) -> Tensor:
    """Symmetric InfoNCE of a score matrix.

    Args:
        scores: (B, N) float; own images with the reports of all processes where `gather`, else N = B. Image i belongs
            to report i of this process.
        temperature: tau > 0.
        gather: the reports are those of all processes. Scores of all images with one's own reports are then taken
            from the others, who have them, instead of being computed twice.

    Returns:
        0-d tensor: the two cross entropies, summed.
    """
    begin = rank_offset(scores) if gather else 0
    every = gather_rows(scores) if gather else scores  # (N, N)
    target = torch.arange(len(scores), device=scores.device) + begin
    by_report = every[:, begin : begin + len(scores)].T  # (N, N) -> (B, N)
    return F.cross_entropy(scores / temperature, target) + F.cross_entropy(by_report / temperature, target)
