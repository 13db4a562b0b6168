"""From word-pieces to words: a word's vector is the sum of the vectors of its pieces (MGCA, GLoRIA)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Words:
    """Words of a batch of reports; a report's words come first, in their order, and empty slots after them.

    Attributes:
        local: (B, W, D), zero where there is no word.
        mask: (B, W) bool, True where there is a word.
        sentence: (B, W) int64, sentence of each word, -1 where there is none.
        attention: (B, W), zero where there is no word.
    """

    local: Tensor
    mask: Tensor
    sentence: Tensor
    attention: Tensor


def aggregate_words(hidden: Tensor, attention: Tensor, word: Tensor, sentence: Tensor, slots: int) -> Words:
    """Sum over the pieces of each word: local_bw = sum over t with word_bt = w of hidden_bt; attention likewise.

    Args:
        hidden: (B, T, D) float, a vector for each token.
        attention: (B, T) float, attention that each token gets.
        word: (B, T) int64, index of the word that a token belongs to, -1 for special tokens and padding.
        sentence: (B, T) int64, index of the sentence, -1 for special tokens and padding.
        slots: W; words from this index on are left out.
    """
    numbers = torch.arange(slots, device=word.device)
    pieces = word[:, None, :] == numbers[None, :, None]  # (B, W, T), True where the piece belongs to the word
    return Words(
        # A product with a 0/1 matrix instead of scatter_add: the same sum, and deterministic on CUDA.
        local=pieces.to(hidden.dtype) @ hidden,  # (B, W, T) x (B, T, D) -> (B, W, D)
        mask=pieces.any(2),
        sentence=(pieces * (sentence[:, None, :] + 1)).amax(2) - 1,
        attention=(pieces * attention[:, None, :]).sum(2),
    )
