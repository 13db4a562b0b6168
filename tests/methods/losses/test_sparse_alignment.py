import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.sparse_alignment import sparse_alignment, sparse_weights

W, P, E = 7, 5, 3
LENGTHS = (7, 4, 1, 0)
"""A full report, a padded one, one word, and none at all."""


def cross_entropy(scores: list[Tensor], right: int) -> Tensor:
    return torch.logsumexp(torch.stack(scores), 0) - scores[right]


def one_way(queries: Tensor, keys: Tensor, t: float) -> Tensor:
    """Each query draws from the few keys that matter to it, and is told from the other queries by that."""
    found = []
    for q in queries:
        similar = [(q * k).sum() for k in keys]
        low, high = min(similar, key=Tensor.item), max(similar, key=Tensor.item)
        scaled = [torch.ones_like(s) if high == low else (s - low) / (high - low) for s in similar]
        kept = [s if s.item() >= 1 / len(keys) else s * 0 for s in scaled]
        mixed = sum(s / sum(kept) * k for s, k in zip(kept, keys, strict=True))
        found.append(mixed / mixed.norm())
    total = queries.new_zeros(())
    n = len(queries)
    for i in range(n):
        there = cross_entropy([(found[i] * queries[k]).sum() / t for k in range(n)], i)
        back = cross_entropy([(found[k] * queries[i]).sum() / t for k in range(n)], i)
        total = total + (there + back) / 2
    return total / n


def twin(patches: Tensor, words: Tensor, lengths: tuple[int, ...], t: float, mirror: bool) -> Tensor:
    losses = []
    for i, n in enumerate(lengths):
        if n:
            losses.append(one_way(words[i, :n], patches[i], t))
            if mirror:
                losses[-1] = losses[-1] + one_way(patches[i], words[i, :n], t)
    return sum(losses, patches.new_zeros(())) / max(len(losses), 1)


def example(lengths: tuple[int, ...] = LENGTHS, patches: int = P) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)

    def units(n: int) -> Tensor:
        drawn = torch.randn(len(lengths), n, E, generator=generator, dtype=torch.float64)
        return F.normalize(drawn, dim=-1).requires_grad_()

    return units(patches), units(W), torch.arange(W)[None] < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("lengths", [LENGTHS, (7, 2)])
@pytest.mark.parametrize("patches", [P, 1])
def test_equals_the_loop_in_value_and_gradient(mirror: bool, lengths: tuple[int, ...], patches: int) -> None:
    p, w, mask = example(lengths, patches)
    fast = sparse_alignment(p, w, mask, temperature=0.3, mirror=mirror)
    slow = twin(p, w, lengths, 0.3, mirror)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for g, wanted in zip(torch.autograd.grad(fast, (p, w)), torch.autograd.grad(slow, (p, w)), strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mirror", [False, True])
def test_neither_padding_nor_order_matters(mirror: bool) -> None:
    p, w, mask = example()
    loss = sparse_alignment(p, w, mask, mirror=mirror)
    other = torch.where(mask[:, :, None], w, torch.full_like(w, 7.0))
    torch.testing.assert_close(sparse_alignment(p, other, mask, mirror=mirror), loss)
    longer, more = F.pad(w, (0, 0, 0, 4), value=3.0), F.pad(mask, (0, 4))
    torch.testing.assert_close(sparse_alignment(p, longer, more, mirror=mirror), loss)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(sparse_alignment(p[order], w[order], mask[order], mirror=mirror), loss)


def test_weights_are_few_and_sum_to_one() -> None:
    similar = torch.tensor([[[0.9, 0.1, 0.2, 0.5, 0.3], [0.4, 0.4, 0.4, 0.4, 0.4]]])
    weights = sparse_weights(similar, torch.ones(1, 5, dtype=torch.bool))
    # Scaled: 1, 0, 0.125, 0.5, 0.25; those below 1/5 go.
    torch.testing.assert_close(weights[0, 0], torch.tensor([1.0, 0, 0, 0.5, 0.25]) / 1.75)
    torch.testing.assert_close(weights[0, 1], torch.full((5,), 0.2))  # all alike: their mean
    mask = torch.tensor([[False, True, True, False, False]])
    some = sparse_weights(similar, mask)
    torch.testing.assert_close(some[0], torch.tensor([[0.0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0]]))
    assert sparse_weights(similar, torch.zeros_like(mask)).abs().max() == 0


@pytest.mark.parametrize("mirror", [False, True])
def test_patches_that_are_all_alike_give_finite_gradients(mirror: bool) -> None:
    same = F.normalize(torch.ones(2, 6, 4), dim=-1).requires_grad_()
    mask = torch.tensor([[True] * 6, [False] * 6])
    loss = sparse_alignment(same, same, mask, temperature=0.01, mirror=mirror)
    (gradient,) = torch.autograd.grad(loss, same)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_one_word_has_nothing_to_be_told_apart_from() -> None:
    p, w, mask = example((1, 1))
    assert sparse_alignment(p, w, mask).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_batch_without_words_gives_zero_and_finite_gradients(mirror: bool) -> None:
    p, w, mask = example()
    loss = sparse_alignment(p, w, torch.zeros_like(mask), mirror=mirror)
    assert loss.item() == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (p, w)))
