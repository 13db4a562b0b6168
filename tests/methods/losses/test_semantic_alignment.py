import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.semantic_alignment import FalseNegatives, semantic_alignment

TAU = 0.3


def twin(v: Tensor, t: Tensor, r: Tensor, delta: float, false_negatives: FalseNegatives) -> Tensor:
    """Each anchor by itself, written from the equation."""
    n = len(v)
    total = v.new_zeros(())
    for anchors, others in ((v, t), (t, v)):
        for i in range(n):
            alike = [j for j in range(n) if j != i and (r[i] @ r[j]).item() >= delta]
            left = alike if false_negatives == "mask" else []
            scores = {j: (anchors[i] * others[j]).sum() / TAU for j in range(n) if j not in left}
            below = torch.logsumexp(torch.stack(list(scores.values())), 0)
            share = {i: 1.0}
            if false_negatives == "soft":
                share |= {j: (r[i] @ r[j]).item() for j in alike}
            whole = sum(share.values())
            for j, y in share.items():
                total = total - y / whole * (scores[j] - below)
    return total / n


def example(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def units(width: int) -> Tensor:
        return F.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=-1)

    r = units(7)
    r[1] = r[0]  # word for word the same
    if n > 3:
        r[3] = F.normalize(r[2] + 0.4 * r[0], dim=0)  # nearly the same
    return units(5).requires_grad_(), units(5).requires_grad_(), r


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize("delta", [0.0, 0.8, 0.999])
@pytest.mark.parametrize("false_negatives", ["soft", "mask", "keep"])
def test_equals_the_loop_in_value_and_gradient(n: int, delta: float, false_negatives: FalseNegatives) -> None:
    v, t, r = example(n)
    fast = semantic_alignment(v, t, r, threshold=delta, false_negatives=false_negatives, temperature=TAU)
    slow = twin(v, t, r, 2.0 if false_negatives == "keep" else delta, false_negatives)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for g, w in zip(torch.autograd.grad(fast, (v, t)), torch.autograd.grad(slow, (v, t)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("false_negatives", ["soft", "mask", "keep"])
def test_without_similar_reports_it_is_plain_contrast(false_negatives: FalseNegatives) -> None:
    v, t, r = example(6)
    loss = semantic_alignment(v, t, r, threshold=1.1, false_negatives=false_negatives, temperature=TAU)
    torch.testing.assert_close(loss, info_nce(v, t, TAU))


def test_equal_reports_share_the_target_or_do_not_meet() -> None:
    v, t, r = example(2)
    masked = semantic_alignment(v, t, r, threshold=0.99, false_negatives="mask")
    assert masked.item() == pytest.approx(0, abs=1e-12)  # each has only its own report left
    shared = semantic_alignment(v, t.detach() * 0, r, threshold=0.99, false_negatives="soft")
    assert shared.item() == pytest.approx(2 * torch.tensor(2.0).log().item())


def test_cosines_below_zero_are_never_a_target() -> None:
    v, t, _ = example(2)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    loss = semantic_alignment(v, t, opposite, threshold=-1.0, temperature=TAU)
    torch.testing.assert_close(loss, info_nce(v, t, TAU))


def test_reports_get_no_gradient_and_the_threshold_may_be_a_tensor() -> None:
    v, t, r = example(6)
    r.requires_grad_()
    loss = semantic_alignment(v, t, r, threshold=torch.tensor(0.8))
    torch.testing.assert_close(loss, semantic_alignment(v, t, r, threshold=0.8))
    (gradient,) = torch.autograd.grad(loss, r, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("false_negatives", ["soft", "mask", "keep"])
def test_float32_is_finite_at_the_sharpest_logits(false_negatives: FalseNegatives) -> None:
    v = torch.eye(3).requires_grad_()
    r = F.normalize(torch.ones(3, 4), dim=-1)
    loss = semantic_alignment(v, -v, r, threshold=0.99, false_negatives=false_negatives, temperature=0.001)
    (gradient,) = torch.autograd.grad(loss, v)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
