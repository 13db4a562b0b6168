"""What each image holds about each word of each report (local matchings of GLoRIA, ICCV 2021; RECLF, arXiv 2401.10501).

For an image with regions u_m and a report with words w_l:

    q_ml = softmax_l( a u_m . w_l )          how much of region m is word l's, among the words of the report
    A_lm = softmax_m( b q_ml )               where word l looks
    c_l  = sum_m A_lm u_m                    its attended region

GLoRIA's released code has a = 1, on features that are not normalised, and b = 4.
"""

import torch
from torch import Tensor

from medbench_methods.losses._precision import full_precision


@full_precision
def attended_regions(
    regions: Tensor, words: Tensor, mask: Tensor, *, word_scale: float, region_scale: float
) -> Tensor:
    """Attended region of each word, for every image with every report.

    Memory is O(A B W (P + E)): callers give few reports at a time.

    Args:
        regions: (A, P, E) float, of A images.
        words: (B, W, E) float, of B reports; what stands outside of `mask` does not matter, but is finite.
        mask: (B, W) bool, True where there is a word.
        word_scale: a > 0.
        region_scale: b > 0.

    Returns:
        (A, B, W, E); without meaning outside of `mask`.
    """
    floor = torch.finfo(words.dtype).min / 2  # not -inf: a report without a word stays finite
    similar = regions.flatten(0, 1) @ words.flatten(0, 1).T  # (A P, E) x (E, B W) -> (A P, B W)
    similar = similar.view(*regions.shape[:2], *mask.shape)  # (A, P, B, W)
    share = (word_scale * similar).masked_fill(~mask, floor).softmax(3)
    attention = (region_scale * share).softmax(1).flatten(2)  # (A, P, B W)
    found = attention.transpose(1, 2) @ regions  # (A, B W, P) x (A, P, E) -> (A, B W, E)
    return found.view(len(regions), *mask.shape, -1)
