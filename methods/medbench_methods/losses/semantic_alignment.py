"""Image-report contrast without false negatives (SIA of SISTA, arXiv 2601.08165).

Reports of different patients often say the same; a plain contrast pushes such pairs apart. With r_ij the cosine of
two reports, from a text encoder that is never trained, and delta the cosine from which they count as the same
statement:

    soft:  y_ij = r'_ij / sum_k r'_ik,   r'_ii = 1,   r'_ij = r_ij where r_ij >= delta, else 0
           L = -1/B sum_i sum_j y_ij [ log softmax_j(v_i . t_j / tau) + log softmax_j(t_i . v_j / tau) ]
    mask:  j != i with r_ij >= delta is left out of both denominators, and y_ij = 1 for j = i only
    keep:  no delta: plain InfoNCE

With `gather`, i runs over the pairs of this process and j and k over those of all; B is the number of i.

RECONSTRUCTION: the abstract confirms that similarities among reports serve to eliminate false negatives among
unpaired samples. Which of the two readings it is, is not known: a second-hand summary, "identify and then remove",
leans towards `mask`. The sum of the two directions is that of MGCA's released code.
"""

from typing import Literal

import torch
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import rank_offset

FalseNegatives = Literal["soft", "mask", "keep"]


@full_precision
def semantic_alignment(
    image: Tensor,
    text: Tensor,
    reports: Tensor | None,
    *,
    threshold: float | Tensor,
    false_negatives: FalseNegatives = "soft",
    temperature: float = 0.07,
    gather: bool = False,
) -> Tensor:
    """Symmetric contrast of images and reports; reports that say the same are no negatives of each other.

    Args:
        image: (B, E) float, unit vectors.
        text: (B, E) float, unit vectors; row i belongs to row i of `image`.
        reports: (B, R) float, unit vectors of the reports that are not trained; get no gradient. None with `keep`.
        threshold: delta, a cosine; a 0-d tensor where it is part of the weights. Below 0 it counts as 0.
        false_negatives: what becomes of them.
        temperature: tau > 0.
        gather: take the pairs of all processes as candidates, not only of this one.

    Returns:
        0-d tensor: the two cross entropies, summed.
    """
    every_image, every_text = (gather_rows(image), gather_rows(text)) if gather else (image, text)  # (N, E)
    own = torch.arange(len(image), device=image.device) + (rank_offset(image) if gather else 0)  # (B,)
    pair = own[:, None] == torch.arange(len(every_image), device=image.device)[None, :]  # (B, N)
    target = pair.to(image.dtype)
    by_image = image @ every_text.T / temperature  # (B, E) x (E, N) -> (B, N)
    by_text = text @ every_image.T / temperature
    if false_negatives != "keep":
        assert reports is not None
        with torch.no_grad():
            every_report = gather_rows(reports) if gather else reports
            same = (reports @ every_report.T).to(image.dtype).clamp_min(0)  # (B, N)
            same = torch.where((same >= threshold) & ~pair, same, 0.0)
        if false_negatives == "soft":
            target = target + same
            target = target / target.sum(1, keepdim=True)
        else:
            # Not -inf, whose product with their target of 0 is no number; a quarter, so that two can be added.
            floor = torch.finfo(image.dtype).min / 4
            by_image, by_text = (logits.masked_fill(same > 0, floor) for logits in (by_image, by_text))
    entropy = (target * (by_image.log_softmax(1) + by_text.log_softmax(1))).sum(1)  # (B,)
    return -entropy.mean()
