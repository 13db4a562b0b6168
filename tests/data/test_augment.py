"""Crops of batches against one crop at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.data.augment import centre_crop, crop, random_corners


@settings(deadline=None, max_examples=50)
@given(b=st.integers(0, 5), side=st.integers(1, 9), data=st.data())
def test_crop_equals_slicing_one_film_after_the_other(b: int, side: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, side))
    images = torch.arange(b * side * side, dtype=torch.int32).reshape(b, side, side)
    place = st.integers(0, side - size)
    corners = (
        torch.tensor(data.draw(st.lists(st.tuples(place, place), min_size=b, max_size=b)))
        .reshape(b, 2)
        .long()
    )
    found = crop(images, corners, size)
    assert found.shape == (b, size, size)
    assert found.dtype == images.dtype
    assert found.is_contiguous()
    for film, (top, left), cut in zip(images, corners.tolist(), found, strict=True):
        assert torch.equal(cut, film[top : top + size, left : left + size])


@pytest.mark.parametrize(("side", "size", "start"), [(5, 3, 1), (6, 3, 1), (256, 224, 16), (4, 4, 0)])
def test_centre_crop(side: int, size: int, start: int) -> None:
    images = torch.arange(2 * side * side).reshape(2, side, side)
    found = centre_crop(images, size)
    assert found.is_contiguous()
    assert torch.equal(found, images[:, start : start + size, start : start + size])


def test_corners_reach_every_place_equally_and_no_other() -> None:
    steps = np.linspace(0, 1, 3000, endpoint=False)
    corners = random_corners(np.stack([steps, steps[::-1]], axis=1), side=10, size=8)
    assert corners.dtype == np.int64
    assert np.bincount(corners[:, 0]).tolist() == [1000, 1000, 1000]
    assert np.bincount(corners[:, 1]).tolist() == [1000, 1000, 1000]
    last = np.array([[1 - 2.0**-53, 0.0]])
    assert random_corners(last, side=256, size=224).tolist() == [[32, 0]]


@pytest.mark.gpu
def test_crop_on_a_gpu_equals_the_cpu() -> None:
    images = torch.randint(0, 256, (4, 16, 16), dtype=torch.uint8)
    corners = torch.tensor([[0, 4], [4, 0], [2, 3], [1, 1]])
    assert torch.equal(crop(images.cuda(), corners.cuda(), 12).cpu(), crop(images, corners, 12))
