import pytest
import torch
from torch import Tensor

from medbench_methods.losses.correlation_exploration import (
    Distance,
    Relation,
    correlation_exploration,
    relations,
)

N, C, D = 5, 7, 4


def relation_of(x: Tensor, i: int, j: int, relation: Relation) -> Tensor:
    mean = sum(x[k] for k in range(len(x))) / len(x)
    a, b = x[i] - mean, x[j] - mean
    return (a * b).sum() / (a.norm() * b.norm() if relation == "correlation" else x.shape[1])


def twin(z: Tensor, x: Tensor, relation: Relation, distance: Distance) -> Tensor:
    total, count = z.new_zeros(()), 0
    for b in range(len(z)):
        for i in range(z.shape[1]):
            for j in range(z.shape[1]):
                if i == j:
                    continue
                gap = relation_of(z[b], i, j, relation) - relation_of(x[b].detach(), i, j, relation)
                if distance == "mse":
                    total = total + gap**2
                else:
                    total = total + (gap**2 / 2 if gap.abs() < 1 else gap.abs() - 0.5)
                count += 1
    return total / count


def example(scale: float, batch: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, N, D, generator=generator, dtype=torch.float64) * scale
    x = torch.randn(batch, N, C, generator=generator, dtype=torch.float64) * scale
    return z.requires_grad_(), x.requires_grad_()


@pytest.mark.parametrize("relation", ["correlation", "covariance"])
@pytest.mark.parametrize("distance", ["mse", "smooth_l1"])
@pytest.mark.parametrize("batch", [3, 2])
def test_equals_the_loop_in_value_and_gradient(relation: Relation, distance: Distance, batch: int) -> None:
    z, x = example(2.0, batch)  # some covariances differ by more than 1, where the smooth L1 turns linear
    fast = correlation_exploration(z, x, relation=relation, distance=distance)
    slow = twin(z, x, relation, distance)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, z)[0] for loss in (fast, slow)), rtol=1e-9, atol=1e-12
    )


def test_the_target_gets_no_gradient() -> None:
    z, x = example(scale=1.0)
    correlation_exploration(z, x).backward()
    assert z.grad is not None
    assert x.grad is None


def test_right_up_to_a_rotation_and_a_scale_is_right() -> None:
    _, x = example(scale=1.0)
    rotation, _ = torch.linalg.qr(
        torch.randn(C, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    )
    assert correlation_exploration(3 * x @ rotation, x).item() == pytest.approx(0, abs=1e-20)
    assert correlation_exploration(3 * x @ rotation, x, relation="covariance").item() > 0.1


def test_equal_patches_have_no_relation_and_no_nan() -> None:
    flat = torch.ones(2, 4, 3, requires_grad=True)
    loss = correlation_exploration(flat, torch.ones(2, 4, 3))
    loss.backward()
    assert loss.item() == 0
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_order_of_the_batch_does_not_matter() -> None:
    z, x = example(scale=1.0)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(correlation_exploration(z[order], x[order]), correlation_exploration(z, x))


def test_relations_have_ones_on_the_diagonal() -> None:
    _, x = example(scale=1.0)
    diagonal = relations(x, "correlation").diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal))
