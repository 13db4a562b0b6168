"""Masks of the regions that datasets store."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medbench.data.regions import (
    Ellipse,
    MaskFile,
    Polygon,
    Rectangle,
    Region,
    Rle,
    boxes_mask,
    decode_rle,
    encode_rle,
    mask_of,
)
from medbench.errors import DataError

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def decoded_by_a_loop(runs: str, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    position = 0
    numbers = [int(number) for number in runs.split()]
    for skipped, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += skipped
        for pixel in range(position, position + length):
            mask[pixel % height, pixel // height] = True
        position += length
    return mask


@given(hnp.arrays(np.bool_, SHAPES))
def test_a_mask_comes_back_from_its_run_lengths(mask: np.ndarray) -> None:
    runs = encode_rle(mask)
    assert (decode_rle(runs, *mask.shape) == mask).all()
    assert (decoded_by_a_loop(runs, *mask.shape) == mask).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8))
def test_run_lengths_are_read_as_the_loop_reads_them(pairs: list[tuple[int, int]]) -> None:
    runs = " ".join(f"{skipped} {length}" for skipped, length in pairs)
    assert (decode_rle(runs, 11, 7) == decoded_by_a_loop(runs, 11, 7)).all()


def test_run_lengths_go_down_the_columns() -> None:
    assert decode_rle("1 2", 3, 2).tolist() == [[False, False], [True, False], [True, False]]
    assert encode_rle(np.zeros((3, 2), bool)) == ""


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("1 2 3", r"run lengths are no pairs of numbers from 0 up \('1 2 3'\)"),
        ("-1", r"run lengths are no pairs of numbers from 0 up \('-1'\)"),
        ("1 x", r"run lengths hold something that is no whole number \('1 x'\)"),
        (
            "3 4",
            r"pass the end of the image \('3 4': the last one ends at pixel 7; the image of 2 x 3 has 6\)",
        ),
        ("1 " * 50, r"run lengths pass the end of the image \('1 1 .*\.\.\.': the last one ends at pixel 50"),
    ],
)
def test_run_lengths_that_are_none(runs: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode_rle(runs, 3, 2)


def test_a_union_of_all_kinds(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0, 0, 255]] * 4, np.uint8)).save(tmp_path / "mask.png")
    regions = (
        Rle("a", "0 1"),
        Polygon("b", ((1, 1), (2, 1), (2, 2), (1, 2))),
        Ellipse("c", 0, 2, 2, 2),
        MaskFile("d", "mask.png"),
    )
    assert mask_of(regions, 4, 4, tmp_path).astype(int).tolist() == [
        [1, 0, 0, 1],
        [0, 1, 1, 1],
        [1, 1, 1, 1],
        [1, 1, 0, 1],
    ]
    assert not mask_of((), 4, 4, tmp_path).any()
    with pytest.raises(DataError, match=r"mask.png: the mask is 4 x 4 pixels and its image 5 x 4"):
        mask_of(regions, 4, 5, tmp_path)


def test_an_ellipse_has_the_area_of_one() -> None:
    mask = Ellipse("a", 10, 20, 60, 40).mask(100, 100, Path())
    assert mask.sum() == pytest.approx(np.pi * 30 * 20, rel=0.01)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 10, 69)


def test_boxes_are_filled_and_cut_at_the_edge() -> None:
    boxes = np.array([[1.0, 0, 2, 1], [2, 1, 5, 5]])
    assert boxes_mask(boxes, 3, 4).astype(int).tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert not boxes_mask(np.zeros((0, 4)), 3, 4).any()
    both = mask_of([Rectangle("a", 1, 0, 2, 1), Rectangle("b", 2, 1, 5, 5)], 3, 4, Path())
    assert (both == boxes_mask(boxes, 3, 4)).all()


def test_the_edges_of_boxes_are_rounded() -> None:
    # From 0.4 to 2.8, so columns 0 to 2: corner and width rounded apart would end a column earlier.
    assert boxes_mask(np.array([[0.4, 0, 2.4, 1]]), 1, 4).astype(int).tolist() == [[1, 1, 1, 0]]
    # From 1.6 to 3.2: column 2, and not 3.
    assert boxes_mask(np.array([[1.6, 0, 1.6, 1]]), 1, 5).astype(int).tolist() == [[0, 0, 1, 0, 0]]
    assert not boxes_mask(np.array([[-3.0, 0, 2, 1], [0, -3, 2, 2]]), 1, 4).any()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (
            Polygon("a", ((1, 2), (float("nan"), 5), (6, 7))),
            "polygon with a number that is not finite ('1 2 nan 5 6 7')",
        ),
        (
            Polygon("a", ((1, 2), (3, float("-inf")), (6, 7))),
            "polygon with a number that is not finite ('1 2 3 -inf 6 7')",
        ),
        (Ellipse("a", 1, 2, float("nan"), 3), "ellipse with a number that is not finite ('1 2 nan 3')"),
        (Ellipse("a", 1, 2, 3, float("inf")), "ellipse with a number that is not finite ('1 2 3 inf')"),
        (Ellipse("a", 1, 2, 3, 4), None),
        (Rectangle("a", 1, 2, 3, float("nan")), "rectangle with a number that is not finite ('1 2 3 nan')"),
        (Rectangle("a", 1, 2, 0, 4), "rectangle without area (0 x 4)"),
        (
            Rectangle("a", 1, 2, 3, 12),
            "rectangle outside its image (1, 2 to 4, 14; the image is 10 x 10)",
        ),
        (Rectangle("a", 1, 2, 3, 4), None),
    ],
)
def test_what_is_wrong_with_an_outline(region: Region, message: str | None) -> None:
    assert region.problem(10, 10, Path()) == message


def test_problems_begin_with_their_kind(tmp_path: Path) -> None:
    regions = (Rle("a", "1 2 3"), Rle("a", "4 5 6"), MaskFile("a", "x.png"), MaskFile("a", "y.png"))
    found = [region.problem(10, 10, tmp_path) for region in regions]
    kinds = [str(problem).partition(" (")[0] for problem in found]
    assert kinds == ["run lengths are no pairs of numbers from 0 up"] * 2 + ["mask can not be read"] * 2
    assert "x.png" in str(found[2])
