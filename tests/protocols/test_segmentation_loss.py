"""The loss against a loop over pixels, with gradients, and where masks or predictions are empty or extreme."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medbench.protocols.segmentation_loss import batch_loss, film_terms, mean_loss, segmentation_loss


def by_loop(logits: Tensor, masks: Tensor) -> Tensor:
    """From the equations, one pixel at a time."""
    focal, shared, predicted, true, pixels = 0.0, 0.0, 0.0, 0.0, 0
    for film in range(len(logits)):
        for row in range(logits.shape[2]):
            for column in range(logits.shape[3]):
                p = 1 / (1 + torch.exp(-logits[film, 0, row, column]))
                t = float(masks[film, row, column])
                q = p if t == 1 else 1 - p
                focal = focal - (1 - q) ** 2 * torch.log(q)
                shared, predicted, true = shared + p * t, predicted + p, true + t
                pixels += 1
    return 10 * focal / pixels - torch.log((2 * shared + 1) / (predicted + true + 1))


def some(shape: tuple[int, int, int], seed: int, share: float = 0.3) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    batch, height, width = shape
    logits = 3 * torch.randn(batch, 1, height, width, generator=draw, dtype=torch.float64)
    return logits.requires_grad_(), torch.rand(shape, generator=draw) < share


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 2)])
def test_values_and_gradients_are_those_of_the_loop(shape: tuple[int, int, int], share: float) -> None:
    logits, masks = some(shape, 1, share)
    ours, theirs = segmentation_loss(logits, masks), by_loop(logits, masks)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    (a,) = torch.autograd.grad(ours, logits)
    (b,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


def test_gradients_are_those_of_differences() -> None:
    logits, masks = some((2, 3, 4), 2)
    assert torch.autograd.gradcheck(lambda z: segmentation_loss(z, masks), logits)


def test_empty_masks_pull_the_prediction_to_nothing() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    losses = [float(segmentation_loss(torch.full((2, 1, 8, 8), z), masks)) for z in (10.0, 0.0, -10.0, -40.0)]
    assert losses == sorted(losses, reverse=True)
    assert losses[1] == pytest.approx(10 * 0.25 * math.log(2) + math.log(65), rel=1e-6)
    assert losses[3] == pytest.approx(0, abs=1e-6)


def test_whole_masks() -> None:
    masks = torch.ones(1, 4, 4, dtype=torch.bool)
    assert float(segmentation_loss(torch.full((1, 1, 4, 4), 40.0), masks)) == pytest.approx(0, abs=1e-6)
    # Nothing of 16 pixels found: the soft Dice is 1 / 17.
    nothing = float(segmentation_loss(torch.full((1, 1, 4, 4), -40.0), masks))
    assert nothing == pytest.approx(10 * 40 + math.log(17), rel=1e-6)


@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("full", [True, False])
def test_extreme_logits_have_finite_losses_and_gradients(value: float, full: bool) -> None:
    logits = torch.full((2, 1, 4, 4), value, requires_grad=True)
    loss = segmentation_loss(logits, torch.full((2, 4, 4), full))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_half_precision_is_summed_in_float32() -> None:
    logits, masks = some((2, 64, 64), 3)
    low = logits.detach().bfloat16()
    assert film_terms(low, masks).dtype == torch.float32
    torch.testing.assert_close(segmentation_loss(low, masks), segmentation_loss(low.float(), masks))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 11), st.integers(1, 5), st.integers(0, 99))
def test_mean_over_films_does_not_depend_on_how_they_were_predicted(
    films: int, batch: int, seed: int
) -> None:
    logits, masks = some((films, 3, 3), seed)
    at_once = mean_loss(film_terms(logits, masks).detach(), batch)
    one_by_one = torch.cat([film_terms(logits[i : i + 1], masks[i : i + 1]).detach() for i in range(films)])
    assert mean_loss(one_by_one, batch) == pytest.approx(at_once, rel=1e-12)
    parts = [slice(at, at + batch) for at in range(0, films, batch)]
    losses = [segmentation_loss(logits[part], masks[part]).item() for part in parts]
    sizes = [len(masks[part]) for part in parts]
    assert at_once == pytest.approx(np.average(losses, weights=sizes), rel=1e-12)


def test_dice_is_that_of_the_batch_and_not_a_mean_over_films() -> None:
    logits, masks = some((2, 4, 4), 4)
    apart = [batch_loss(film_terms(logits[i : i + 1], masks[i : i + 1])) for i in range(2)]
    together = segmentation_loss(logits, masks)
    assert abs(float(together - torch.stack(apart).mean())) > 1e-3
