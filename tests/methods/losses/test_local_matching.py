import torch
from torch import Tensor

from medbench_methods.losses.local_matching import attended_regions

A, P, B, W, E = 3, 5, 4, 6, 2
LENGTHS = (6, 4, 1, 0)
"""A full report, a padded one, one word, and none at all."""


def twin(regions: Tensor, words: Tensor, length: int, a: float, b: float) -> list[Tensor]:
    """The attended region of each word of one report in one image, written from the equation."""
    share = []
    for u in regions:
        scores = [torch.exp(a * (u * w).sum()) for w in words[:length]]
        share.append([score / sum(scores) for score in scores])
    found = []
    for word in range(length):
        looks = [torch.exp(b * of_region[word]) for of_region in share]
        found.append(sum(look / sum(looks) * u for look, u in zip(looks, regions, strict=True)))
    return found


def example() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    regions = torch.randn(A, P, E, generator=generator, dtype=torch.float64)
    words = torch.randn(B, W, E, generator=generator, dtype=torch.float64)
    mask = torch.arange(W)[None] < torch.tensor(LENGTHS)[:, None]
    return regions.requires_grad_(), words.requires_grad_(), mask


def test_equals_the_loop_in_value_and_gradient() -> None:
    regions, words, mask = example()
    fast = attended_regions(regions, words, mask, word_scale=1.5, region_scale=4.0)
    assert fast.shape == (A, B, W, E)
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(fast.shape, generator=generator, dtype=torch.float64) * mask[:, :, None]
    slow = fast.new_zeros(())
    for i in range(A):
        for j, length in enumerate(LENGTHS):
            for word, found in enumerate(twin(regions[i], words[j], length, 1.5, 4.0)):
                torch.testing.assert_close(fast[i, j, word], found, rtol=1e-12, atol=1e-12)
                slow = slow + (weight[i, j, word] * found).sum()
    grads = torch.autograd.grad((weight * fast).sum(), (regions, words))
    for g, w in zip(grads, torch.autograd.grad(slow, (regions, words)), strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    regions, words, mask = example()
    other = torch.where(mask[:, :, None], words, 7.0)
    scales = {"word_scale": 10.0, "region_scale": 4.0}
    one, two = (attended_regions(regions, w, mask, **scales) for w in (words, other))
    torch.testing.assert_close(one * mask[:, :, None], two * mask[:, :, None])
    assert torch.isfinite(two).all()


def test_float32_is_finite_at_the_sharpest_attention() -> None:
    regions = torch.eye(4)[None].requires_grad_()
    mask = torch.tensor([[True] * 4, [False] * 4])
    found = attended_regions(regions, regions.expand(2, -1, -1), mask, word_scale=1e4, region_scale=1e4)
    (gradient,) = torch.autograd.grad(found.sum(), regions)
    assert torch.isfinite(found).all()
    assert torch.isfinite(gradient).all()
