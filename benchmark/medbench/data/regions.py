"""Outlines of findings as datasets store them, and their masks.

A region knows its label and what its file says; pixels are made of it only when they are asked for.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from medbench.data.images import image_size, read_image
from medbench.errors import DataError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rle:
    """Run lengths as SIIM-ACR writes them, from the top left corner column by column.

    They are pairs: pixels left out since the last run, pixels in this run.
    """

    label: str
    runs: str

    def mask(self, height: int, width: int, root: Path) -> Mask:
        """See `mask_of`."""
        return decode_rle(self.runs, height, width)

    def problem(self, height: int, width: int, root: Path) -> str | None:
        """What is wrong with it for an image of this size; None if nothing is."""
        try:
            _runs(self.runs, height, width)
        except DataError as error:
            return str(error)
        return None


@dataclass(frozen=True)
class Polygon:
    """Corners (x, y) in pixels of the file, at least three; the inside belongs to the region."""

    label: str
    corners: tuple[tuple[float, float], ...]

    def mask(self, height: int, width: int, root: Path) -> Mask:
        """See `mask_of`."""
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).polygon(list(self.corners), fill=1)
        return np.array(canvas)

    def problem(self, height: int, width: int, root: Path) -> str | None:
        """What is wrong with it for an image of this size; None if nothing is."""
        if len(self.corners) < 3:
            return f"polygon of {len(self.corners)} corners"
        if what := _not_finite("polygon", [number for corner in self.corners for number in corner]):
            return what
        (left, top), (right, bottom) = (
            tuple(pick(axis) for axis in zip(*self.corners, strict=True)) for pick in (min, max)
        )
        return _outside("polygon", left, top, right, bottom, height, width)


@dataclass(frozen=True)
class Rectangle:
    """The box x, y, width, height, in pixels of the file, filled as `boxes_mask` fills it."""

    label: str
    x: float
    y: float
    width: float
    height: float

    def mask(self, height: int, width: int, root: Path) -> Mask:
        """See `mask_of`."""
        return boxes_mask(np.array([[self.x, self.y, self.width, self.height]]), height, width)

    def problem(self, height: int, width: int, root: Path) -> str | None:
        """What is wrong with it for an image of this size; None if nothing is."""
        return _of_a_box("rectangle", self.x, self.y, self.width, self.height, height, width)


@dataclass(frozen=True)
class Ellipse:
    """The ellipse inside the box x, y, width, height, in pixels of the file."""

    label: str
    x: float
    y: float
    width: float
    height: float

    def mask(self, height: int, width: int, root: Path) -> Mask:
        """See `mask_of`; a pixel belongs to it if its centre does."""
        rows, columns = np.ogrid[:height, :width]
        down = (rows + 0.5 - self.y - self.height / 2) / (self.height / 2)
        across = (columns + 0.5 - self.x - self.width / 2) / (self.width / 2)
        inside: Mask = down**2 + across**2 <= 1
        return inside

    def problem(self, height: int, width: int, root: Path) -> str | None:
        """What is wrong with it for an image of this size; None if nothing is."""
        return _of_a_box("ellipse", self.x, self.y, self.width, self.height, height, width)


@dataclass(frozen=True)
class MaskFile:
    """A picture of the image's size, white where the region is; `path` is below the dataset's root."""

    label: str
    path: str

    def mask(self, height: int, width: int, root: Path) -> Mask:
        """See `mask_of`."""
        pixels = read_image(root / self.path)
        if pixels.shape != (height, width):
            raise DataError(
                f"{root / self.path}: the mask is {pixels.shape[1]} x {pixels.shape[0]} pixels and its image {width} x "
                f"{height}. Expected the same size; get both again."
            )
        return pixels > 127

    def problem(self, height: int, width: int, root: Path) -> str | None:
        """What is wrong with it for an image of this size; None if nothing is."""
        try:
            found = image_size(root / self.path)
        except DataError as error:
            return f"mask can not be read ({str(error).removeprefix(f'{root}/')})"
        if found != (height, width):
            return f"mask of another size ({self.path}: {found[1]} x {found[0]}; the image is {width} x {height})"
        return None


Region = Rle | Polygon | Rectangle | Ellipse | MaskFile


def mask_of(regions: Iterable[Region], height: int, width: int, root: Path) -> Mask:
    """The union of regions.

    Args:
        regions: of one image.
        height: of the image, pixels.
        width: likewise.
        root: folder that paths of mask files are below.

    Returns:
        (height, width), True inside of any region.

    Raises:
        DataError: a mask file can not be read or has another size; run lengths are none, or leave the image.
    """
    union = np.zeros((height, width), np.bool_)
    for region in regions:
        union |= region.mask(height, width, root)
    return union


def boxes_mask(boxes: npt.NDArray[np.float64], height: int, width: int) -> Mask:
    """The union of filled boxes, as RSNA's segmentation task takes it.

    Args:
        boxes: (N, 4) x, y, width, height in pixels; their four edges are rounded to whole ones.
        height: of the image, pixels.
        width: likewise.
    """
    union = np.zeros((height, width), np.bool_)
    # The edges, not corner and size apart, which would add up to a pixel more or less. None is below 0: a slice
    # would count it from the other end.
    corners = np.rint(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)).clip(min=0)
    for left, top, right, bottom in corners.astype(int):
        union[top:bottom, left:right] = True
    return union


def decode_rle(runs: str, height: int, width: int) -> Mask:
    """(height, width) mask of run lengths in the form of `Rle`.

    Raises:
        DataError: they are no pairs of whole numbers, or leave the image.
    """
    numbers = _runs(runs, height, width)
    ends = np.cumsum(numbers)[1::2]
    # +1 where a run begins and -1 behind its end; the running sum is 1 inside.
    edges = np.zeros(height * width + 1, np.int64)
    np.add.at(edges, ends - numbers[1::2], 1)
    np.add.at(edges, ends, -1)
    return np.cumsum(edges[:-1]).astype(np.bool_).reshape(width, height).T


def _runs(runs: str, height: int, width: int) -> npt.NDArray[np.int64]:
    """The numbers, once they are known to be good; see `decode_rle`."""
    try:
        numbers = np.array(runs.split(), np.int64)
    except (ValueError, OverflowError):
        raise DataError(f"run lengths hold something that is no whole number ({_short(runs)})") from None
    if len(numbers) % 2 or (numbers < 0).any():
        raise DataError(f"run lengths are no pairs of numbers from 0 up ({_short(runs)})")
    end = sum(numbers.tolist())  # whole numbers of any size
    if end > height * width:
        raise DataError(
            f"run lengths pass the end of the image ({_short(runs)}: the last one ends at pixel {end:,}; the image of"
            f" {width} x {height} has {height * width:,})"
        )
    return numbers


def encode_rle(mask: Mask) -> str:
    """Run lengths, in the form of `Rle`, of a (height, width) mask; "" of an empty one."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])  # begin, end, begin, end, ...
    return " ".join(map(str, np.diff(edges, prepend=0)))


EDGE: Final = 1.0
"""Pixels by which an outline may pass the edge of its image: some tools count both end pixels, others neither."""


def _not_finite(what: str, numbers: Sequence[float]) -> str | None:
    # Every comparison with NaN is False, so `_outside` would not notice.
    if all(map(math.isfinite, numbers)):
        return None
    return f"{what} with a number that is not finite ({_short(' '.join(f'{n:g}' for n in numbers))})"


def _of_a_box(
    what: str, x: float, y: float, across: float, down: float, height: int, width: int
) -> str | None:
    if wrong := _not_finite(what, [x, y, across, down]):
        return wrong
    if across <= 0 or down <= 0:
        return f"{what} without area ({across:g} x {down:g})"
    return _outside(what, x, y, x + across, y + down, height, width)


def _outside(
    what: str, left: float, top: float, right: float, bottom: float, height: int, width: int
) -> str | None:
    if min(left, top) >= -EDGE and right <= width + EDGE and bottom <= height + EDGE:
        return None
    at = f"{left:g}, {top:g} to {right:g}, {bottom:g}"
    return f"{what} outside its image ({at}; the image is {width} x {height})"


def _short(runs: str) -> str:
    return repr(runs if len(runs) <= 40 else f"{runs[:37]}...")
