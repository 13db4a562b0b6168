import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.token_alignment_compat import token_alignment_compat

N, P, E = 7, 5, 3
LENGTHS = (7, 4, 1, 0)
"""All slots with a word, some, one, none at all."""


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return torch.logsumexp(torch.stack(scores), 0) - scores[right]


def both_ways(queries: Tensor, found: list[Tensor], weights: Tensor, t: float) -> Tensor:
    total = queries.new_zeros(())
    n = len(queries)
    for i in range(n):
        there = cross_entropy([(queries[i] * found[k]).sum() / t for k in range(n)], i)
        back = cross_entropy([(queries[k] * found[i]).sum() / t for k in range(n)], i)
        total = total + weights[i] * (there + back) / 2
    return total


def mixed(query: Tensor, keys: Tensor, t: float) -> Tensor:
    weights = torch.stack([torch.exp((query * k).sum() / t) for k in keys])
    return sum(
        (w * k for w, k in zip(weights / weights.sum(), keys, strict=True)), start=torch.zeros_like(query)
    )


def twin(
    patches: Tensor,
    words: Tensor,
    lengths: tuple[int, ...],
    a: Tensor,
    b: Tensor | None,
    t: float,
    normalise: bool,
) -> Tensor:
    total = patches.new_zeros(())
    for i, n in enumerate(lengths):
        seen = [mixed(w, patches[i], t) for w in words[i]]
        total = total + both_ways(words[i], [c / c.norm() for c in seen], a[i], t)
        # Without a word every slot is left out, and then all of them alike.
        told = [mixed(p, words[i, :n], t) if n else words[i].mean(0) for p in patches[i]]
        if normalise:
            told = [d / d.norm() for d in told]
        weights = patches.new_full((P,), 1 / P) if b is None else b[i]
        total = total + both_ways(patches[i], told, weights, t)
    return total / len(lengths)


def example(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = len(lengths)
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(batch, P, E, generator=generator, dtype=torch.float64), dim=-1)
    words = F.normalize(torch.randn(batch, N, E, generator=generator, dtype=torch.float64), dim=-1)
    mask = torch.arange(N)[None] < torch.tensor(lengths)[:, None]
    a = torch.rand(batch, N, generator=generator, dtype=torch.float64) * mask
    a = a / a.sum(1, keepdim=True).clamp_min(1e-9)
    b = torch.rand(batch, P, generator=generator, dtype=torch.float64)
    return patches.requires_grad_(), words.requires_grad_(), mask, a, b / b.sum(1, keepdim=True)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("lengths", [LENGTHS, (7, 2)])
def test_equals_the_loop_in_value_and_gradient(
    normalise: bool, weighted: bool, lengths: tuple[int, ...]
) -> None:
    patches, words, mask, a, b = example(lengths)
    patch_weights = b if weighted else None
    fast = token_alignment_compat(
        patches,
        words,
        mask,
        word_weights=a,
        patch_weights=patch_weights,
        normalise_told=normalise,
        temperature=0.3,
    )
    slow = twin(patches, words, lengths, a, patch_weights, 0.3, normalise)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    grads = torch.autograd.grad(fast, (patches, words))
    for g, w in zip(grads, torch.autograd.grad(slow, (patches, words)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


def test_slots_without_a_word_are_negatives() -> None:
    patches, words, mask, a, _ = example()
    other = torch.where(mask[:, :, None], words, words.roll(1, 2))
    one, two = (
        token_alignment_compat(patches, w, mask, word_weights=a, normalise_told=True) for w in (words, other)
    )
    assert (one - two).abs() > 1e-3


def test_float32_is_finite_at_the_sharpest_logits() -> None:
    same = F.normalize(torch.ones(2, 6, 4), dim=-1).requires_grad_()
    mask = torch.tensor([[True] * 6, [False] * 6])
    loss = token_alignment_compat(
        same, same, mask, word_weights=mask / 6, normalise_told=False, temperature=0.01
    )
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
