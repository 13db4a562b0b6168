"""Word-patch alignment as MGCA's released code computes it; the clean reading is token_alignment.py.

The equations are those of token_alignment.py, with these differences:

- slots without a word have vectors too: in L_word they are negatives, and anchors of weight a_i = 0. In patch ->
  word they are left out;
- d_j is not normalised where the image encoder is a ViT;
- reports without a word count in the mean.

Source: the code as described in docs/methods/mgca.md; no paper states these.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.chunks import in_chunks
from medbench_methods.losses.token_alignment import two_way


@full_precision
def token_alignment_compat(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    word_weights: Tensor,
    patch_weights: Tensor | None = None,
    normalise_told: bool,
    temperature: float = 0.1,
    chunk: int | None = None,
) -> Tensor:
    """Bidirectional word-patch contrast within each pair.

    Args:
        patches: (B, P, E) float, unit vectors.
        words: (B, N, E) float, unit vectors in every slot, with a word or without.
        mask: (B, N) bool, True where there is a word ([SEP] is one).
        word_weights: (B, N) float, a; sum 1, or 0 in a report whose words have no attention at all.
        patch_weights: (B, P) float, b, sum 1; None for equal weights, which a ResNet has.
        normalise_told: bring d_j to unit length: True for a ResNet, False for a ViT.
        temperature: t > 0.
        chunk: pairs at a time, computed once more backward; None for all at once.

    Returns:
        0-d tensor.
    """
    if patch_weights is None:
        patch_weights = patches.new_full(patches.shape[:2], 1 / patches.shape[1])
    of_pairs = partial(_of_pairs, normalise_told=normalise_told, temperature=temperature)
    return in_chunks(of_pairs, chunk, patches, words, mask, word_weights, patch_weights).mean()


def _of_pairs(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    word_weights: Tensor,
    patch_weights: Tensor,
    *,
    normalise_told: bool,
    temperature: float,
) -> Tensor:
    """(B,) the loss of each pair."""
    similar = words @ patches.transpose(1, 2) / temperature  # (B, N, E) x (B, E, P) -> (B, N, P)
    seen = F.normalize(similar.softmax(-1) @ patches, dim=-1)  # c: (B, N, E)
    word_loss = two_way(words @ seen.transpose(1, 2) / temperature, word_weights)  # logits (B, N, N)

    # exp() of it is 0, and unlike -inf it makes no NaN in a report without a word.
    floor = torch.finfo(words.dtype).min
    similar = similar.masked_fill(~mask[:, :, None], floor).transpose(1, 2)  # (B, P, N)
    told = similar.softmax(-1) @ words  # d: (B, P, E)
    if normalise_told:
        told = F.normalize(told, dim=-1)
    patch_loss = two_way(patches @ told.transpose(1, 2) / temperature, patch_weights)  # logits (B, P, P)
    return word_loss + patch_loss
