"""Sparse word-patch alignment inside each pair (STA of SISTA, arXiv 2601.08165; the mechanism of SPARC, 2401.09865).

For one pair with P unit patches p_j, L unit words w_l and temperature tau:

    s_lj = w_l . p_j
    n_lj = (s_lj - min_j s_lj) / (max_j s_lj - min_j s_lj)        to [0, 1], word by word
    a_lj = n_lj / sum_j n_lj  over the j with n_lj >= 1/P, else 0  only the patches that matter
    c_l  = norm( sum_j a_lj p_j )                                 what the image holds about word l
    L    = 1/2L sum_l [ CE_k(c_l . w_k / tau, l) + CE_k(c_k . w_l / tau, l) ]

and the loss is the mean over the pairs. All negatives are words of the same report. `mirror` adds the same with the
roles of patches and words changed: each patch takes the words that matter, threshold 1/L, contrast over the patches.

A word to which all patches are equally similar (as a single patch always is) takes their mean. Padding takes no
part. A report without a word counts neither in the sum nor in the mean; one of a single word has nothing to be told
apart from and loss 0. With `gather`, the mean is over the pairs of all processes that have a word.

RECONSTRUCTION: that patches are aligned with relevant words only is confirmed by SISTA's abstract; that it is done
as in SPARC is our inference, and `mirror` our option.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.chunks import in_chunks
from medbench_methods.losses.token_alignment import pairs

ALIKE = 1e-6
"""Cosines that differ by less are rounding (float32: 1e-7), and scaling them to [0, 1] would make noise the weights."""


@full_precision
def sparse_alignment(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    temperature: float = 0.07,
    mirror: bool = False,
    gather: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Contrast of words and of what each draws from few patches, within each pair.

    Nothing here is B x B: memory is O(B (W P + W^2)), and O(B P^2) more with `mirror`.

    Args:
        patches: (B, P, E) float, unit vectors.
        words: (B, W, E) float, unit vectors where `mask` is True; what stands elsewhere does not matter.
        mask: (B, W) bool, True where there is a word.
        temperature: tau > 0.
        mirror: also align each patch with few words.
        gather: the pairs of all processes are one batch: see `pairs` of token_alignment.py.
        chunk: pairs at a time, computed once more backward; None for all at once.

    Returns:
        0-d tensor; 0 for a batch without a word.
    """
    of_pairs = partial(_of_pairs, temperature=temperature, mirror=mirror)
    has_words = mask.any(1)  # (B,)
    return (in_chunks(of_pairs, chunk, patches, words, mask) * has_words).sum() / pairs(has_words, gather)


def _of_pairs(patches: Tensor, words: Tensor, mask: Tensor, *, temperature: float, mirror: bool) -> Tensor:
    """(B,) the loss of each pair."""
    every = torch.ones_like(patches[:, :, 0], dtype=torch.bool)  # (B, P)
    similar = words @ patches.transpose(1, 2)  # (B, W, E) x (B, E, P) -> (B, W, P)
    loss = _contrast(sparse_weights(similar, every) @ patches, words, mask, temperature)
    if mirror:
        told = sparse_weights(similar.transpose(1, 2), mask) @ words  # (B, P, W) x (B, W, E) -> (B, P, E)
        loss = loss + _contrast(told, patches, every, temperature)
    return loss


def sparse_weights(similar: Tensor, mask: Tensor) -> Tensor:
    """Which keys matter to each query, and how much.

    Args:
        similar: (B, Q, K) float, of each query to each key.
        mask: (B, K) bool, True where there is a key.

    Returns:
        (B, Q, K): 0 outside of `mask` and for keys below 1 / (number of keys) after scaling to [0, 1]; rows sum to 1,
        or are 0 where there is no key.
    """
    there = mask[:, None, :]  # (B, 1, K)
    most = torch.finfo(similar.dtype).max / 4
    low = similar.masked_fill(~there, most).amin(2, keepdim=True)  # (B, Q, 1)
    high = similar.masked_fill(~there, -most).amax(2, keepdim=True)
    flat = high - low <= ALIKE  # or there is no key
    # where() before and after the division, so that no gradient passes through 0 / 0.
    scaled = torch.where(flat, 1.0, (similar - low) / torch.where(flat, 1.0, high - low))
    few = 1 / mask.sum(1).clamp_min(1)[:, None, None]
    kept = torch.where(there & (scaled >= few), scaled, 0.0)
    total = kept.sum(2, keepdim=True)
    return kept / torch.where(total > 0, total, 1.0)


def _contrast(found: Tensor, tokens: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """What each token found (B, N, E), not normalised, and the tokens -> (B,) contrast, mean of both ways."""
    # Not -inf, so that rows without a token stay finite; halved so that two can be added.
    floor = torch.finfo(tokens.dtype).min / 2
    logits = F.normalize(found, dim=-1) @ tokens.transpose(1, 2) / temperature  # (B, N, N)
    right = logits.diagonal(dim1=1, dim2=2)  # (B, N)
    logits = logits.masked_fill(~(mask[:, :, None] & mask[:, None, :]), floor)
    entropy = (logits.logsumexp(2) + logits.logsumexp(1)) / 2 - right
    return (entropy.masked_fill(~mask, 0)).sum(1) / mask.sum(1).clamp_min(1)
