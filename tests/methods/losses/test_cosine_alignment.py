import math

import pytest
import torch
from torch import Tensor

from medbench_methods.losses.cosine_alignment import cosine_alignment


def twin(image: Tensor, text: Tensor) -> Tensor:
    """The mean of the equation, one pair at a time."""
    total = image.new_zeros(())
    for v, t in zip(image, text, strict=True):
        cosine = sum(a * b for a, b in zip(v, t, strict=True)) / (
            sum(a * a for a in v).sqrt() * sum(b * b for b in t).sqrt()
        )
        total = total + 2 * (2 - 2 * cosine)
    return total / len(image)


@pytest.mark.parametrize(("batch", "width"), [(1, 5), (2, 3), (7, 4)])
def test_equals_the_loop_in_value_and_gradient(batch: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        torch.randn(batch, width, generator=generator, dtype=torch.float64).requires_grad_() for _ in "vt"
    ]
    fast, slow = cosine_alignment(*pairs), twin(*pairs)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for one, two in zip(torch.autograd.grad(fast, pairs), torch.autograd.grad(slow, pairs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("angle", "cost"), [(0.0, 0.0), (90.0, 4.0), (180.0, 8.0)])
def test_what_an_angle_costs(angle: float, cost: float) -> None:
    one = torch.tensor([[3.0, 0.0]])
    other = 5 * torch.tensor([[math.cos(math.radians(angle)), math.sin(math.radians(angle))]])
    assert cosine_alignment(one, other).item() == pytest.approx(cost, abs=1e-5)


def test_full_precision_under_autocast() -> None:
    image, text = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    plain = cosine_alignment(image, text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(cosine_alignment(image, text), plain, rtol=0, atol=0)
        assert cosine_alignment(image.bfloat16(), text.bfloat16()).dtype == torch.float32
