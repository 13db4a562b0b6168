import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.token_alignment import attention_weights, token_alignment

W, P, E = 7, 5, 3
LENGTHS = (7, 4, 1, 0)
"""A full report, a padded one, one word, and none at all."""


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return torch.logsumexp(torch.stack(scores), 0) - scores[right]


def one_way(queries: Tensor, keys: Tensor, weights: Tensor, t: float) -> Tensor:
    """Queries attend over keys; each must then be told from the others by what it found, and back."""
    found = []
    for q in queries:
        attention = torch.stack([torch.exp((q * k).sum() / t) for k in keys])
        mixed = sum(a * k for a, k in zip(attention / attention.sum(), keys, strict=True))
        found.append(mixed / mixed.norm())
    total = queries.new_zeros(())
    n = len(queries)
    for i in range(n):
        there = cross_entropy([(queries[i] * found[k]).sum() / t for k in range(n)], i)
        back = cross_entropy([(queries[k] * found[i]).sum() / t for k in range(n)], i)
        total = total + weights[i] * (there + back) / 2
    return total


def twin(
    patches: Tensor, words: Tensor, lengths: tuple[int, ...], a: Tensor | None, b: Tensor | None, t: float
) -> Tensor:
    total, count = patches.new_zeros(()), 0
    for i, n in enumerate(lengths):
        if n == 0:
            continue
        word_weights = words.new_full((n,), 1 / n) if a is None else a[i, :n]
        patch_weights = patches.new_full((patches.shape[1],), 1 / patches.shape[1]) if b is None else b[i]
        total = total + one_way(words[i, :n], patches[i], word_weights, t)
        total = total + one_way(patches[i], words[i, :n], patch_weights, t)
        count += 1
    return total / max(count, 1)


def example(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor, Tensor]:
    batch = len(lengths)
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(batch, P, E, generator=generator, dtype=torch.float64), dim=-1)
    words = F.normalize(torch.randn(batch, W, E, generator=generator, dtype=torch.float64), dim=-1)
    mask = torch.arange(W)[None] < torch.tensor(lengths)[:, None]
    return patches.requires_grad_(), words.requires_grad_(), mask


@pytest.mark.parametrize("lengths", [LENGTHS, (7, 2)])
def test_equals_the_loop_in_value_and_gradient(lengths: tuple[int, ...]) -> None:
    patches, words, mask = example(lengths)
    batch = len(lengths)
    generator = torch.Generator().manual_seed(9)
    a = torch.rand(batch, W, generator=generator, dtype=torch.float64) * mask
    a = a / a.sum(1, keepdim=True).clamp_min(1e-9)
    b = torch.rand(batch, P, generator=generator, dtype=torch.float64)
    b = b / b.sum(1, keepdim=True)
    for weights in ((None, None), (a, b)):
        fast = token_alignment(
            patches, words, mask, word_weights=weights[0], patch_weights=weights[1], temperature=0.3
        )
        slow = twin(patches, words, lengths, *weights, 0.3)
        torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
        grads = torch.autograd.grad(fast, (patches, words))
        wanted = torch.autograd.grad(slow, (patches, words))
        for g, w in zip(grads, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    patches, words, mask = example()
    loss = token_alignment(patches, words, mask)
    other = torch.where(mask[:, :, None], words, torch.full_like(words, 7.0))
    torch.testing.assert_close(token_alignment(patches, other, mask), loss)
    longer = F.pad(words, (0, 0, 0, 4), value=3.0)
    torch.testing.assert_close(token_alignment(patches, longer, F.pad(mask, (0, 4))), loss)


def test_order_of_the_batch_does_not_matter() -> None:
    patches, words, mask = example()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        token_alignment(patches[order], words[order], mask[order]), token_alignment(patches, words, mask)
    )


def test_a_batch_without_words_gives_zero_and_finite_gradients() -> None:
    patches, words, mask = example()
    loss = token_alignment(patches, words, torch.zeros_like(mask))
    assert loss.item() == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (patches, words)))


def test_float32_is_finite_at_the_sharpest_logits() -> None:
    same = F.normalize(torch.ones(2, 6, 4), dim=-1).requires_grad_()
    mask = torch.tensor([[True] * 6, [False] * 6])
    loss = token_alignment(same, same, mask, temperature=0.01)
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_attention_weights_clip_to_percentiles_and_sum_to_one() -> None:
    attention = torch.tensor([[0.0, 0.1, 0.2, 0.3, 5.0, 9.9], [0.4, 0.4, 9.0, 9.0, 9.0, 9.0], [9.0] * 6])
    mask = torch.tensor([[True] * 5 + [False], [True] * 2 + [False] * 4, [False] * 6])
    weights = attention_weights(attention, mask)
    # Percentiles of 0, .1, .2, .3, 5 by linear interpolation: 0.04 and 3.12.
    clipped = torch.tensor([0.04, 0.1, 0.2, 0.3, 3.12, 0.0])
    torch.testing.assert_close(weights[0], clipped / clipped.sum())
    torch.testing.assert_close(weights[1], torch.tensor([0.5, 0.5, 0, 0, 0, 0]))
    torch.testing.assert_close(weights[2], torch.zeros(6))


@pytest.mark.parametrize("rule", ["words", "what has attention", "all"])
def test_attention_weights_equal_the_loop(rule: str) -> None:
    generator = torch.Generator().manual_seed(5)
    attention = torch.rand(6, 9, generator=generator, dtype=torch.float64) ** 3
    counts = torch.tensor([9, 5, 2, 1, 0, 7])
    mask = torch.arange(9)[None] < counts[:, None]
    if rule != "all":
        attention = attention * mask
    attention[5, 3] = 0  # a word without attention: in the released code's reading, no word
    if rule == "what has attention":
        mask = attention > 0
    wanted = np.zeros((6, 9))
    for b in range(6):
        there = [i for i in range(9) if rule == "all" or mask[b, i]]
        if there:
            low, high = np.percentile([attention[b, i].item() for i in there], [10, 90])
            clipped = [min(max(attention[b, i].item(), low), high) for i in there]
            for i, value in zip(there, clipped, strict=True):
                wanted[b, i] = value / sum(clipped)
    found = attention_weights(attention, None if rule == "all" else mask)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_attention_weights_without_mask_and_of_zeros() -> None:
    torch.testing.assert_close(attention_weights(torch.ones(2, 4)), torch.full((2, 4), 0.25))
    assert torch.isfinite(attention_weights(torch.zeros(2, 4))).all()
