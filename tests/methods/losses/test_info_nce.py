import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.info_nce import info_nce


def twin(
    image: Tensor, text: Tensor, temperature: Tensor, weights: tuple[float, float] = (1.0, 1.0)
) -> Tensor:
    """The two sums of the equation, one pair at a time."""
    total = image.new_zeros(())
    n = len(image)
    for i in range(n):
        by_text = [torch.exp((image[i] * text[j]).sum() / temperature) for j in range(n)]
        by_image = [torch.exp((image[j] * text[i]).sum() / temperature) for j in range(n)]
        total = total - weights[0] * torch.log(by_text[i] / sum(by_text)) / n
        total = total - weights[1] * torch.log(by_image[i] / sum(by_image)) / n
    return total


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.75, 0.25)])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equals_the_loop_in_value_and_gradient(batch: int, weights: tuple[float, float]) -> None:
    image, text = units(batch, 5, seed=0), units(batch, 5, seed=1)
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inputs = (image, text, temperature)
    fast, slow = info_nce(*inputs, weights=weights), twin(*inputs, weights)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(fast, inputs), torch.autograd.grad(slow, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_identical_pairs_give_twice_the_log_of_the_batch() -> None:
    same = F.normalize(torch.ones(6, 4), dim=1)
    assert info_nce(same, same, 0.07).item() == pytest.approx(2 * math.log(6), rel=1e-5)


def test_order_of_the_batch_does_not_matter() -> None:
    image, text = units(6, 5, seed=2), units(6, 5, seed=3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(info_nce(image, text, 0.1), info_nce(image[order], text[order], 0.1))


def test_full_precision_under_autocast() -> None:
    image, text = units(8, 64, seed=4).detach().float(), units(8, 64, seed=5).detach().float()
    plain = info_nce(image, text, 0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (image @ text.T).dtype == torch.bfloat16
        cast = info_nce(image, text, 0.07)
        half = info_nce(image.bfloat16(), text.bfloat16(), 0.07)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    assert half.dtype == torch.float32
