"""Films and masks scaled and turned together, against a loop over pixels."""

import math

import pytest
import torch
from torch import Tensor

from medbench.data.affine import ScaleRotate

ALWAYS = ScaleRotate(probability=1.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(side: int = 64) -> tuple[Tensor, Tensor]:
    """Films with a bright ellipse off the middle, and where it is."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    masks = torch.stack(
        [((rows - 20 - k) / 9) ** 2 + ((columns - 38) / (14 - k)) ** 2 <= 1 for k in range(8)]
    )
    return masks.to(torch.uint8) * 200, masks


def by_loop(film: Tensor, scale: float, angle: float) -> Tensor:
    """Each pixel of the result from where it comes from, between four pixels."""
    side = len(film)
    middle = (side - 1) / 2
    result = torch.zeros(side, side)
    for row in range(side):
        for column in range(side):
            x, y = (column - middle) / scale, (row - middle) / scale
            u = math.cos(angle) * x - math.sin(angle) * y + middle
            v = math.sin(angle) * x + math.cos(angle) * y + middle
            left, top = math.floor(u), math.floor(v)
            for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                if 0 <= r < side and 0 <= c < side:
                    result[row, column] += (1 - abs(u - c)) * (1 - abs(v - r)) * float(film[r, c])
    return result


def test_pixels_are_those_of_the_loop() -> None:
    films = torch.randint(0, 256, (3, 12, 12), generator=generator(1), dtype=torch.uint8)
    found, _ = ALWAYS(films, films > 128, generator(2))
    drawn = torch.rand((3, 3), generator=generator(2))
    for film, result, (_, scale, angle) in zip(films, found, drawn.tolist(), strict=True):
        expected = by_loop(film, 0.9 + 0.2 * scale, math.radians(-10 + 20 * angle))
        torch.testing.assert_close(result, expected, atol=2e-3, rtol=1e-4)


def test_masks_go_where_films_go() -> None:
    films, masks = discs()
    for seed in range(5):
        turned, inside = ALWAYS(films, masks, generator(seed))
        assert inside.dtype == torch.bool
        bright = turned > 100
        shared = (bright & inside).sum((1, 2)) * 2 / (bright.sum((1, 2)) + inside.sum((1, 2)))
        assert (shared > 0.97).all()
        moved = (inside ^ masks).sum((1, 2)).float() / masks.sum((1, 2))
        assert moved.max() > 0.1  # and they do move


def test_what_comes_in_from_outside_is_black_and_no_mask() -> None:
    films, masks = torch.full((16, 32, 32), 255, dtype=torch.uint8), torch.ones(16, 32, 32, dtype=torch.bool)
    turned, inside = ALWAYS(films, masks, generator())
    corners = turned[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners.min(1).values < 1).any()
    assert ((turned < 1) <= ~inside).all()
    assert (turned <= 255.001).all() and (turned >= 0).all()


def test_sizes_and_angles_stay_within_their_bounds() -> None:
    films, masks = discs()
    films, masks = films[:1].expand(200, -1, -1), masks[:1].expand(200, -1, -1)
    _, inside = ALWAYS(films, masks, generator())
    area = inside.sum((1, 2)) / masks[0].sum()
    assert 0.9**2 - 0.05 < area.min() < 0.85
    assert 1.15 < area.max() < 1.1**2 + 0.05


def test_half_of_the_films_keep_their_values_to_the_bit() -> None:
    films = torch.randint(0, 256, (400, 8, 8), generator=generator(3), dtype=torch.uint8)
    turned, inside = ScaleRotate()(films, films > 99, generator())
    same = (turned == films).all(2).all(1)
    assert 0.4 < same.float().mean() < 0.6
    assert (inside[same] == (films > 99)[same]).all()


def test_what_is_drawn_depends_on_the_generator_alone() -> None:
    films, masks = discs()
    before = torch.get_rng_state()
    first = ScaleRotate()(films, masks, generator(7))
    again = ScaleRotate()(films, masks, generator(7))
    other = ScaleRotate()(films, masks, generator(8))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    films, masks = discs()
    here = ALWAYS(films, masks, generator())
    there = ALWAYS(films.cuda(), masks.cuda(), generator())
    torch.testing.assert_close(there[0].cpu(), here[0], atol=0.05, rtol=0)
    assert (there[1].cpu() ^ here[1]).float().mean() < 1e-3
