import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.prototype_alignment import prototype_alignment, sinkhorn


def codes(scores: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """A row a sample, from numbers alone, so that no gradient can come through."""
    n, k = scores.shape
    code = [[math.exp(scores[b, j].item() / epsilon) for j in range(k)] for b in range(n)]
    for _ in range(iterations):
        for j in range(k):  # every prototype gets 1 / K of all
            total = sum(code[b][j] for b in range(n))
            for b in range(n):
                code[b][j] /= total * k
        for b in range(n):  # every sample gives 1 / B of all
            total = sum(code[b])
            code[b] = [value / total / n for value in code[b]]
    return [[value / sum(row) for value in row] for row in code]


def twin(
    image: Tensor, text: Tensor, prototypes: Tensor, tau: float, epsilon: float, iterations: int
) -> Tensor:
    z = torch.stack([torch.stack([(v * c).sum() for c in prototypes]) for v in image])
    y = torch.stack([torch.stack([(t * c).sum() for c in prototypes]) for t in text])
    q, u = codes(z, epsilon, iterations), codes(y, epsilon, iterations)
    total = image.new_zeros(())
    for b in range(len(image)):
        for scores, code in ((z[b], u[b]), (y[b], q[b])):
            whole = torch.logsumexp(scores / tau, 0)
            for k, share in enumerate(code):
                total = total - share * (scores[k] / tau - whole)
    return total / (2 * len(image))


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


@pytest.mark.parametrize("batch", [1, 2, 7])
@pytest.mark.parametrize("numbers", [(0.2, 0.05, 3), (0.5, 0.3, 1)])
def test_equals_the_loop_in_value_and_gradient(batch: int, numbers: tuple[float, float, int]) -> None:
    inputs = (units(batch, 5, seed=0), units(batch, 5, seed=1), units(11, 5, seed=2))
    tau, epsilon, iterations = numbers
    fast = prototype_alignment(*inputs, temperature=tau, epsilon=epsilon, iterations=iterations)
    slow = twin(*inputs, tau, epsilon, iterations)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_codes_sum_to_one_and_share_out_the_prototypes() -> None:
    scores = (units(40, 5, seed=3) @ units(8, 5, seed=4).T).requires_grad_()
    code = sinkhorn(scores, epsilon=0.1, iterations=200)
    assert not code.requires_grad
    torch.testing.assert_close(code.sum(1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(code.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_equal_samples_take_all_prototypes_alike() -> None:
    same = F.normalize(torch.ones(3, 4), dim=1)
    loss = prototype_alignment(same, same, same[:1].expand(6, -1))
    assert loss.item() == pytest.approx(math.log(6), rel=1e-5)


def test_order_of_the_batch_does_not_matter() -> None:
    image, text, prototypes = units(6, 5, seed=5), units(6, 5, seed=6), units(9, 5, seed=7)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(
        prototype_alignment(image, text, prototypes),
        prototype_alignment(image[order], text[order], prototypes),
    )


def test_float32_stays_finite_at_the_hardest_codes_allowed() -> None:
    ends = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    loss = prototype_alignment(ends, ends, ends[:1].requires_grad_(), epsilon=0.025)
    assert torch.isfinite(loss)
    assert torch.isfinite(sinkhorn(-torch.ones(2, 3), epsilon=0.025)).all()


def test_it_compiles_as_one_graph() -> None:
    inputs: Any = [t.detach() for t in (units(4, 5, seed=0), units(4, 5, seed=1), units(6, 5, seed=2))]
    compiled = torch.compile(prototype_alignment, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), prototype_alignment(*inputs))
