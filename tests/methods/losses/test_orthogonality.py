import pytest
import torch
from torch import Tensor

from medbench_methods.losses.orthogonality import orthogonality


def twin(features: Tensor, weight: float) -> Tensor:
    """The sums of the equation, one pair of features at a time."""
    batch, width = features.shape
    total = features.new_zeros(())
    for i in range(width):
        for j in range(width):
            moment = sum(features[b, i] * features[b, j] for b in range(batch)) / batch
            total = total + ((moment - 1) ** 2 if i == j else weight * moment**2)
    return total / 2


@pytest.mark.parametrize(("batch", "width"), [(1, 3), (2, 5), (7, 4)])
@pytest.mark.parametrize("weight", [0.0051, 0.3])
def test_equals_the_loop_in_value_and_gradient(batch: int, width: int, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, width, generator=generator, dtype=torch.float64).requires_grad_()
    fast, slow = orthogonality(features, weight), twin(features, weight)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    one, two = (torch.autograd.grad(loss, features)[0] for loss in (fast, slow))
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_orthogonal_features_cost_nothing() -> None:
    square = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
    assert orthogonality(square * 6**0.5).item() == pytest.approx(0, abs=1e-10)
    assert orthogonality(torch.zeros(4, 6)).item() == pytest.approx(
        3
    )  # half of the six ones that are missing


def test_order_of_the_batch_does_not_matter() -> None:
    features = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonality(features[[3, 0, 4, 1, 2]]), orthogonality(features))


def test_full_precision_under_autocast() -> None:
    features = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    plain = orthogonality(features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(orthogonality(features), plain, rtol=0, atol=0)
        assert orthogonality(features.bfloat16()).dtype == torch.float32
