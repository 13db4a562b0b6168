import pytest
import torch
from torch import Tensor

from medbench_methods.losses.masked_patches import masked_patches


def twin(predicted: Tensor, pixels: Tensor, hidden: Tensor) -> Tensor:
    """The sums of the equation, one pixel at a time."""
    total, count = predicted.new_zeros(()), 0
    batch, patches, size = pixels.shape
    for b in range(batch):
        for p in range(patches):
            if not hidden[b, p]:
                continue
            mean = sum(pixels[b, p, c] for c in range(size)) / size
            variance = sum((pixels[b, p, c] - mean) ** 2 for c in range(size)) / (size - 1)
            for c in range(size):
                target = (pixels[b, p, c] - mean) / (variance + 1e-6) ** 0.5
                total = total + (predicted[b, p, c] - target) ** 2 / size
            count += 1
    return total / max(count, 1)


def example(batch: int, patches: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(batch, patches, size, generator=generator, dtype=torch.float64)
    pixels = 3 + 2 * torch.randn(batch, patches, size, generator=generator, dtype=torch.float64)
    return predicted.requires_grad_(), pixels


@pytest.mark.parametrize(
    "hidden",
    [
        [[True, False, True], [False, False, False]],
        [[False, True, False], [True, True, False]],
        [[True] * 3] * 2,
        [[False] * 3] * 2,
    ],
)
def test_equals_the_loop_in_value_and_gradient(hidden: list[list[bool]]) -> None:
    predicted, pixels = example(2, 3, 5)
    which = torch.tensor(hidden)
    fast, slow = masked_patches(predicted, pixels, which), twin(predicted, pixels, which)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    (one,) = torch.autograd.grad(fast, predicted)
    two = torch.autograd.grad(slow, predicted)[0] if slow.requires_grad else torch.zeros_like(predicted)
    torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-12)


def test_brightness_and_contrast_of_a_patch_do_not_matter() -> None:
    predicted, pixels = example(2, 3, 5)
    which = torch.ones(2, 3, dtype=torch.bool)
    one, two = masked_patches(predicted, pixels, which), masked_patches(predicted, 4 * pixels - 7, which)
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_flat_patch_is_no_trouble() -> None:
    predicted = torch.zeros(1, 2, 4, requires_grad=True)
    loss = masked_patches(predicted, torch.full((1, 2, 4), 0.3), torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


def test_full_precision_under_autocast() -> None:
    predicted, pixels = (x.detach().float() for x in example(2, 3, 5))
    which = torch.ones(2, 3, dtype=torch.bool)
    plain = masked_patches(predicted, pixels, which)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(masked_patches(predicted, pixels, which), plain, rtol=0, atol=0)
        assert masked_patches(predicted.bfloat16(), pixels, which).dtype == torch.float32
