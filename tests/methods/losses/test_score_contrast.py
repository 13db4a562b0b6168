import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.score_contrast import score_contrast


def twin(scores: Tensor, tau: float) -> Tensor:
    n = len(scores)
    total = scores.new_zeros(())
    for i in range(n):
        for others in ([scores[i, j] for j in range(n)], [scores[j, i] for j in range(n)]):
            total = total + torch.logsumexp(torch.stack(others) / tau, 0) - scores[i, i] / tau
    return total / n


@pytest.mark.parametrize("n", [2, 5])
def test_equals_the_loop_in_value_and_gradient(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    scores = torch.randn(n, n, generator=generator, dtype=torch.float64).requires_grad_()
    fast, slow = score_contrast(scores, temperature=0.3), twin(scores, 0.3)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    (g,), (w,) = torch.autograd.grad(fast, scores), torch.autograd.grad(slow, scores)
    torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


def test_of_cosines_it_is_info_nce() -> None:
    image, text = F.normalize(torch.randn(2, 4, 6), dim=-1)
    torch.testing.assert_close(score_contrast(image @ text.T, temperature=0.07), info_nce(image, text, 0.07))


def test_a_constant_is_not_seen_and_sharp_scores_are_finite() -> None:
    scores = torch.tensor([[-1e4, 1e4], [1e4, -1e4]], requires_grad=True)
    loss = score_contrast(scores, temperature=0.1)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()
    some = torch.randn(3, 3)
    torch.testing.assert_close(
        score_contrast(some + 5, temperature=1.0), score_contrast(some, temperature=1.0)
    )
