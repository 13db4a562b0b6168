from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.pathology_alignment import Negatives, Pairing, pathology_alignment

B, K, S, E = 4, 3, 5, 6
COUNTS = (3, 5, 1, 0)
"""Sentences: as many as observations, more, one, none."""


def pair(t: Tensor, s: int, v: Tensor, n: int, pairing: Pairing, temperature: float) -> Tensor | None:
    """The observation of sentence `s` of one report, whose first `n` of `t` are sentences."""
    if pairing == "soft":
        weights = torch.stack([torch.exp((t[s] * k).sum() / temperature) for k in v])
        mixed = sum(w * k for w, k in zip(weights / weights.sum(), v, strict=True))
        return mixed / mixed.norm()
    best: dict[int, int] = {}
    most = float("-inf")
    for rows in permutations(range(n), min(n, len(v))):
        for columns in permutations(range(len(v)), len(rows)):
            total = sum((t[r] @ v[c]).item() for r, c in zip(rows, columns, strict=True))
            if total > most:
                most, best = total, dict(zip(rows, columns, strict=True))
    return v[best[s]] if s in best else None


def twin(
    v: Tensor,
    t: Tensor,
    counts: tuple[int, ...],
    pairing: Pairing,
    negatives: Negatives,
    tau: float,
    tau_p: float,
    cosine: float,
) -> Tensor:
    found = []
    for b, n in enumerate(counts):
        for s in range(n):
            paired = pair(t[b], s, v[b], n, pairing, tau_p)
            if paired is not None:
                found.append((b, paired, t[b, s]))
    total = v.new_zeros(())
    for i, (b, u, told) in enumerate(found):
        there, back = [], []
        for j, (other, u_j, told_j) in enumerate(found):
            if j == i:
                right = len(there)
            elif (told @ told_j).item() >= cosine or (negatives == "report" and other != b):
                continue
            there.append((u @ told_j) / tau)
            back.append((u_j @ told) / tau)
        for scores in (there, back):
            total = total + (torch.logsumexp(torch.stack(scores), 0) - scores[right]) / 2
    return total / len(found)


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    v = F.normalize(torch.randn(B, K, E, generator=generator, dtype=torch.float64), dim=-1)
    t = F.normalize(torch.randn(B, S, E, generator=generator, dtype=torch.float64), dim=-1)
    t[1, 0] = t[0, 1]  # a normal statement that two patients share
    t[1, 4] = F.normalize(t[0, 0] + 0.1 * t[0, 1], dim=-1)
    mask = torch.arange(S)[None] < torch.tensor(COUNTS)[:, None]
    return v.requires_grad_(), t.requires_grad_(), mask


@pytest.mark.parametrize("pairing", ["soft", "hungarian"])
@pytest.mark.parametrize("negatives", ["batch", "report"])
@pytest.mark.parametrize("cosine", [0.95, 1.1])
@pytest.mark.parametrize("batch", [B, 2])
def test_equals_the_loop_in_value_and_gradient(
    pairing: Pairing, negatives: Negatives, cosine: float, batch: int
) -> None:
    v, t, mask = (tensor.detach()[:batch] for tensor in example())
    v.requires_grad_()
    t.requires_grad_()
    fast = pathology_alignment(
        v,
        t,
        mask,
        pairing=pairing,
        negatives=negatives,
        temperature=0.2,
        pairing_temperature=0.3,
        false_negative_cosine=cosine,
    )
    slow = twin(v, t, COUNTS[:batch], pairing, negatives, 0.2, 0.3, cosine)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for g, w in zip(torch.autograd.grad(fast, (v, t)), torch.autograd.grad(slow, (v, t)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pairing", ["soft", "hungarian"])
def test_padding_and_order_do_not_matter(pairing: Pairing) -> None:
    v, t, mask = example()
    loss = pathology_alignment(v, t, mask, pairing=pairing)
    longer = F.pad(torch.where(mask[:, :, None], t, torch.full_like(t, 5.0)), (0, 0, 0, 2), value=2.0)
    torch.testing.assert_close(
        pathology_alignment(v, longer, F.pad(mask, (0, 2)), pairing=pairing), loss, rtol=1e-12, atol=1e-12
    )
    order = torch.tensor([3, 1, 0, 2])
    torch.testing.assert_close(
        pathology_alignment(v[order], t[order], mask[order], pairing=pairing), loss, rtol=1e-12, atol=1e-12
    )


def test_repeated_sentences_are_no_negatives() -> None:
    v, t, mask = example()
    everywhere = t[:1, :1].expand(B, S, E)
    assert pathology_alignment(v, everywhere, mask).item() == pytest.approx(0, abs=1e-9)
    assert pathology_alignment(v, everywhere, mask, false_negative_cosine=1.1).item() > 1


def test_one_sentence_a_report_has_no_negatives_in_its_own_report() -> None:
    v, t, mask = example()
    single = mask & (torch.arange(S) == 0)
    assert pathology_alignment(v, t, single, negatives="report").item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pairing", ["soft", "hungarian"])
def test_a_batch_without_sentences_gives_zero_and_finite_gradients(pairing: Pairing) -> None:
    v, t, mask = example()
    loss = pathology_alignment(v, t, torch.zeros_like(mask), pairing=pairing)
    assert loss.item() == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (v, t)))
