"""How well a film holds its best word of a text: the local similarity of GLoRIA's zero-shot classification.

With regions v_p of a film, words w_l of a text, neither normalised, and c_l what the film holds about word l as in the
local loss (losses/gloria_local.py):

    s_lp = w_l . v_p
    a_lp = softmax_p( scale_a softmax_l(s_lp) )
    c_l  = sum_p a_lp v_p
    S    = scale_m max_l cos(w_l, c_l)

Source: GLoRIA's released code (gloria/models/gloria_model.py, get_local_similarities), which takes the logarithm of
the largest exp(scale_m cos): the same number. There, how many words a text has is counted in characters, so [SEP] and
padding are words too, and padding (whose cosine is 0) lifts every S to 0 at least. Here a text has the words it has.
"""

import torch
from torch import Tensor

EPSILON = 1e-8
"""Least product of lengths that a cosine divides by (the released code)."""

_GRID = 2.0**20
"""Similarities are multiples of 1 / this."""


@torch.no_grad()
def word_region_similarity(
    regions: Tensor, words: Tensor, mask: Tensor, attention_scale: float = 4.0, matching_scale: float = 5.0
) -> Tensor:
    """S of every film and text, the same for any other films and texts beside them.

    Computed in float64 and rounded to multiples of 2^-20, which hides how a product of matrices was cut.

    Args:
        regions: (I, P, D) float, of films.
        words: (T, W, D) float, of texts, without special tokens.
        mask: (T, W) bool, True where there is a word.
        attention_scale: scale_a.
        matching_scale: scale_m.

    Returns:
        (I, T) float32, -scale_m to scale_m; 0 for a text without words.
    """
    regions, words = regions.double(), words.double()
    length = words.square().sum(2).sqrt()  # (T, W)
    absent, flat = ~mask, words.flatten(0, 1)  # (T, W, D) -> (N, D)
    rows = []
    for v in regions:  # (P, D); all films at once would need I T W P numbers
        s = (flat @ v.T).view(*mask.shape, len(v))  # (N, D) x (D, P) -> (T, W, P)
        chosen = s.masked_fill(absent[:, :, None], torch.finfo(s.dtype).min).softmax(1)
        a = (chosen * attention_scale).softmax(2)
        # w . c and |c|^2 without c itself, D numbers for each word: with the Gram matrix of the regions.
        square = (a * (a.flatten(0, 1) @ (v @ v.T)).view_as(a)).sum(2).clamp_min(0)
        cosine = (a * s).sum(2) / (length * square.sqrt()).clamp_min(EPSILON)  # (T, W)
        best = cosine.masked_fill(absent, -torch.inf).amax(1)
        rows.append(best.masked_fill(~mask.any(1), 0))
    return ((torch.stack(rows) * (matching_scale * _GRID)).round() / _GRID).float()
