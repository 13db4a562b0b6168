"""Word-patch alignment inside each pair (CTA of MGCA, NeurIPS 2022, arXiv 2210.06044, equations 5 to 8).

For one pair with unit patches p_j, unit words w_i and temperature t:

    word -> patch:  c_i = norm( sum_j softmax_j(w_i . p_j / t) p_j )      what the image holds about word i
                    L_word  = 1/2 sum_i a_i [ CE_k(w_i . c_k / t, i) + CE_k(w_k . c_i / t, i) ]
    patch -> word:  d_j = norm( sum_i softmax_i(p_j . w_i / t) w_i )      what the report holds about patch j
                    L_patch = 1/2 sum_j b_j [ CE_k(p_j . d_k / t, j) + CE_k(p_k . d_j / t, j) ]

and L is the mean of L_word + L_patch over the pairs. a and b sum to one: how much each word and patch
matters.

This is the clean reading. MGCA's released code differs in four places: there, padded word
slots and [SEP] act as negatives (here they take no part), word weights are shifted by one token (here they
are not), and d_j is not normalised for a ViT (here it always is). Reports without a word count neither in the
sum nor in the mean; with `gather`, the mean is over the pairs of all processes that have one.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.chunks import in_chunks
from medbench_methods.losses.gather import processes, sum_over_processes


@full_precision
def token_alignment(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    *,
    word_weights: Tensor | None = None,
    patch_weights: Tensor | None = None,
    temperature: float = 0.1,
    gather: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """Bidirectional word-patch contrast within each pair.

    Nothing here is B x B: memory is O(B (W P + W^2 + P^2)), 0.3 GB in float32 at MGCA's B 144, W 110, P 361; with
    `chunk`, for that many pairs at a time.

    Args:
        patches: (B, P, E) float, unit vectors.
        words: (B, W, E) float, unit vectors where `mask` is True; what stands elsewhere does not matter.
        mask: (B, W) bool, True where there is a word.
        word_weights: (B, W) float, sum 1 over the words of a report, 0 elsewhere; None for equal weights.
        patch_weights: (B, P) float, sum 1; None for equal weights.
        temperature: t > 0. MGCA's code: 0.1.
        gather: the pairs of all processes are one batch: each is divided by the number of pairs with words that the
            processes have on the mean.
        chunk: pairs at a time, computed once more backward; None for all at once.

    Returns:
        0-d tensor.
    """
    if word_weights is None:
        word_weights = mask.to(words.dtype) / mask.sum(1, keepdim=True).clamp_min(1)
    if patch_weights is None:
        patch_weights = patches.new_full(patches.shape[:2], 1 / patches.shape[1])
    has_words = mask.any(1)  # (B,)
    losses = in_chunks(
        partial(_of_pairs, temperature=temperature), chunk, patches, words, mask, word_weights, patch_weights
    )
    return (losses * has_words).sum() / pairs(has_words, gather)


def _of_pairs(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    word_weights: Tensor,
    patch_weights: Tensor,
    *,
    temperature: float,
) -> Tensor:
    """(B,) L_word + L_patch of each pair; without meaning where there is no word."""
    # exp() of it is 0, and unlike -inf it makes no NaN in rows without a word; halved so that two can be
    # added.
    floor = torch.finfo(words.dtype).min / 2
    similar = words @ patches.transpose(1, 2) / temperature  # (B, W, E) x (B, E, P) -> (B, W, P)
    seen = F.normalize(similar.softmax(-1) @ patches, dim=-1)  # c: (B, W, P) x (B, P, E) -> (B, W, E)
    logits = words @ seen.transpose(1, 2) / temperature  # (B, W, W)
    both = mask[:, :, None] & mask[:, None, :]
    word_loss = two_way(logits.masked_fill(~both, floor), word_weights)

    similar = similar.masked_fill(~mask[:, :, None], floor).transpose(1, 2)  # (B, P, W)
    told = F.normalize(similar.softmax(-1) @ words, dim=-1)  # d: (B, P, W) x (B, W, E) -> (B, P, E)
    patch_loss = two_way(patches @ told.transpose(1, 2) / temperature, patch_weights)  # (B, P, P)

    return word_loss + patch_loss


def pairs(counted: Tensor, gather: bool) -> Tensor:
    """What a process divides the sum over its pairs by.

    Args:
        counted: (B,) bool, the pairs that enter the sum.
        gather: give their number on the mean over the processes, so that the mean over the processes of such quotients
            is that of one process with all pairs.

    Returns:
        0-d tensor above 0.
    """
    number = counted.sum()
    return sum_over_processes(number).clamp_min(1) / processes() if gather else number.clamp_min(1)


def two_way(logits: Tensor, weights: Tensor) -> Tensor:
    """(B, N, N) logits, (B, N) weights -> (B,) weighted cross entropy to the diagonal, mean of both ways."""
    diagonal = logits.diagonal(dim1=1, dim2=2)  # (B, N)
    entropy = (logits.logsumexp(2) + logits.logsumexp(1)) / 2 - diagonal
    return (weights * entropy).sum(1)


@torch.no_grad()
def attention_weights(attention: Tensor, mask: Tensor | None = None) -> Tensor:
    """How much each token matters: its attention, clipped and normalised as in MGCA's released code; no gradient.

    Entries are clipped to the 10th and 90th percentile of their own row, so that no single token takes it
    all.

    Args:
        attention: (B, N) float >= 0, attention of the pooled token to each token.
        mask: (B, N) bool, True where there is a token; None if everywhere.

    Returns:
        (B, N) float32 or float64, sum 1 a row, 0 outside of `mask`; all 0 in a row without any token.
    """
    values = attention if attention.dtype == torch.float64 else attention.float()
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    known = values.masked_fill(~mask, float("nan"))
    low, high = known.nanquantile(0.1, 1, keepdim=True), known.nanquantile(0.9, 1, keepdim=True)
    clipped = known.clamp(low, high).nan_to_num(0.0)
    return clipped / clipped.sum(1, keepdim=True).clamp_min(torch.finfo(clipped.dtype).tiny)
