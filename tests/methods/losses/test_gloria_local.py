import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses import gloria_local as module
from medbench_methods.losses.gloria_local import gloria_local, matching

B, W, P, D = 4, 7, 5, 3
LENGTHS = (7, 4, 1, 0)
"""A full report, a padded one, one word, and none at all."""


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.norm() * b.norm())


def twin_matching(regions: Tensor, words: Tensor, scale_a: float, scale_m: float) -> Tensor:
    """One image (P, D) and one report (T, D), with the contexts that the equation names."""
    chosen = []  # of each region: its softmax over words
    for region in regions:
        powers = torch.stack([torch.exp((word * region).sum()) for word in words])
        chosen.append(powers / powers.sum())
    total = regions.new_zeros(())
    for number, word in enumerate(words):
        shares = torch.stack([torch.exp(scale_a * of_region[number]) for of_region in chosen])
        context = sum(s * v for s, v in zip(shares / shares.sum(), regions, strict=True))
        assert isinstance(context, Tensor)
        total = total + torch.exp(scale_m * cosine(word, context))
    return torch.log(total)


def twin(
    regions: Tensor, words: Tensor, lengths: tuple[int, ...], scales: tuple[float, float, float]
) -> Tensor:
    reports = [i for i, n in enumerate(lengths) if n]
    m = {
        (b, i): scales[2] * twin_matching(regions[b], words[i, : lengths[i]], scales[0], scales[1])
        for b in reports
        for i in reports
    }
    total = regions.new_zeros(())
    for own in reports:
        by_image = torch.stack([m[own, i] for i in reports])
        by_report = torch.stack([m[b, own] for b in reports])
        total = total + by_image.logsumexp(0) + by_report.logsumexp(0) - 2 * m[own, own]
    return total / max(len(reports), 1)


def example(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randn(len(lengths), P, D, generator=generator, dtype=torch.float64)
    words = torch.randn(len(lengths), W, D, generator=generator, dtype=torch.float64)
    mask = torch.arange(W)[None] < torch.tensor(lengths)[:, None]
    return regions.requires_grad_(), words.requires_grad_(), mask


@pytest.mark.parametrize("scales", [(4.0, 5.0, 10.0), (1.5, 2.0, 3.0)])
@pytest.mark.parametrize("lengths", [LENGTHS, (3, 7), (1, 1), (5,), (2, 0, 6, 7, 7, 3, 1, 4, 5, 2)], ids=str)
def test_equals_the_loop_in_value_and_gradient(
    lengths: tuple[int, ...], scales: tuple[float, float, float]
) -> None:
    regions, words, mask = example(lengths)
    a, m, c = scales
    fast = gloria_local(regions, words, mask, attention_scale=a, matching_scale=m, contrast_scale=c)
    slow = twin(regions, words, lengths, scales)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    if not slow.requires_grad or len(lengths) == 1:  # one pair can be told from no other
        return
    grads = torch.autograd.grad(fast, (regions, words))
    wanted = torch.autograd.grad(slow, (regions, words))
    for g, w in zip(grads, wanted, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-12)


def test_images_and_reports_need_not_be_as_many() -> None:
    regions, words, mask = example((5, 2, 7))
    found = matching(regions[:2], words, mask)
    for b in range(2):
        for i, n in enumerate((5, 2, 7)):
            torch.testing.assert_close(found[b, i], twin_matching(regions[b], words[i, :n], 4.0, 5.0))


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    regions, words, mask = example((2, 0, 6, 7, 7, 3, 1, 4, 5, 2))
    losses, grads = [], []
    for size in (1, 3, 100):
        monkeypatch.setattr(module, "TILE", size)
        losses.append(gloria_local(regions, words, mask))
        grads.append(torch.cat([g.flatten() for g in torch.autograd.grad(losses[-1], (regions, words))]))
    for loss, gradient in zip(losses, grads, strict=True):
        torch.testing.assert_close(loss, losses[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient, grads[0], rtol=1e-9, atol=1e-12)


def test_one_graph_with_the_same_loss_and_gradient() -> None:
    """The graph knows no lengths, so it works on padded words: what a GPU does."""
    regions, words, mask = example()
    traced = torch.compile(gloria_local, fullgraph=True, backend="eager")
    plain, graph = gloria_local(regions, words, mask), traced(regions, words, mask)
    torch.testing.assert_close(graph, plain, rtol=1e-12, atol=1e-12)
    for a, b in zip(
        torch.autograd.grad(graph, (regions, words)),
        torch.autograd.grad(plain, (regions, words)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    regions, words, mask = example((4, 7, 0))
    assert torch.autograd.gradcheck(lambda v, w: gloria_local(v, w, mask), (regions, words))


def test_what_stands_in_the_padding_does_not_matter() -> None:
    regions, words, mask = example()
    loss = gloria_local(regions, words, mask)
    other = torch.where(mask[:, :, None], words, torch.full_like(words, 7.0))
    torch.testing.assert_close(gloria_local(regions, other, mask), loss)
    longer = F.pad(words, (0, 0, 0, 4), value=3.0)
    torch.testing.assert_close(gloria_local(regions, longer, F.pad(mask, (0, 4))), loss)
    (gradient,) = torch.autograd.grad(loss, words)
    assert gradient[~mask].abs().max() == 0


def test_order_of_the_batch_does_not_matter() -> None:
    regions, words, mask = example()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        gloria_local(regions[order], words[order], mask[order]), gloria_local(regions, words, mask)
    )


def test_without_gradient_nothing_is_kept_and_the_value_is_the_same() -> None:
    regions, words, mask = example()
    with torch.no_grad():
        value = gloria_local(regions, words, mask)
    assert value.grad_fn is None
    torch.testing.assert_close(value, gloria_local(regions, words, mask), rtol=0, atol=0)


def test_a_batch_without_words_gives_zero_and_finite_gradients() -> None:
    regions, words, mask = example()
    loss = gloria_local(regions, words, torch.zeros_like(mask))
    assert loss.item() == 0
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (regions, words)))


def test_vectors_without_length_give_finite_gradients() -> None:
    regions, words, mask = torch.zeros(2, 4, 3), torch.randn(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    for v, w in ((regions, words), (torch.randn(2, 4, 3), torch.zeros_like(words))):
        v.requires_grad_()
        w.requires_grad_()
        loss = gloria_local(v, w, mask)
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, (v, w)))


def test_float32_at_the_size_of_features_of_a_network() -> None:
    """Dot products of hundreds, where the softmax over words takes one of them."""
    generator = torch.Generator().manual_seed(1)
    regions = 3 * torch.randn(3, 50, 64, generator=generator)
    words = 3 * torch.randn(3, 9, 64, generator=generator)
    mask = torch.arange(9)[None] < torch.tensor([9, 5, 7])[:, None]
    single = [t.clone().requires_grad_() for t in (regions, words)]
    double = [t.double().requires_grad_() for t in (regions, words)]
    one, two = gloria_local(*single, mask), gloria_local(*double, mask)
    torch.testing.assert_close(one.double(), two, rtol=1e-4, atol=1e-5)
    for a, b in zip(torch.autograd.grad(one, single), torch.autograd.grad(two, double), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


def test_full_precision_under_autocast() -> None:
    regions, words, mask = (t.detach().float() if t.is_floating_point() else t for t in example())
    plain = gloria_local(regions, words, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = gloria_local(regions, words, mask)
        half = gloria_local(regions.bfloat16(), words.bfloat16(), mask)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)
    assert half.dtype == torch.float32
