"""Reading a radiograph, whatever it is stored as, into one 8-bit grey picture; and making it square.

What the grey values mean: 0 is black (air), 255 is white (bone), as on a viewer's screen.

- DICOM: modality LUT or rescale, then VOI LUT or window, then MONOCHROME1 turned round; padding pixels become
  black.
- More than 8 bits and nothing that says which values matter: the range between two percentiles is stretched.
- 8 bits: as stored, byte for byte, unless a window says otherwise.
- PNG and JPEG: colour becomes luminance, transparency is laid over black, the EXIF orientation is obeyed
  (viewers and annotation tools do, so boxes and masks refer to the upright picture).

A file that declares more pixels than any film has is refused by its header, before memory is taken for it.
"""

import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from medbench.data.dicom import dicom_size, open_dicom, read_dicom
from medbench.data.grey_values import bit_patterns, count_patterns, is_small, look_up, stretch
from medbench.data.refusals import TOO_MANY, Unreadable, one_line, refuse_bomb
from medbench.errors import DataError

Fit = Literal["pad", "stretch"]
"""How a film becomes square: `pad` keeps the aspect and adds black, `stretch` does not."""

READER = 1
"""Version of what these functions make of a file; a part of the prepared cache's key. Raised with it."""

SCALER = 1
"""Version of what `read_square` makes of large JPEG files beyond that; likewise a part of the key."""

SCALED_MARGIN = 3
"""A JPEG file is decoded at a half, a quarter or an eighth where at least this many pixels a pixel of the result
are left. At 3 films differ from full decoding by 0.3 to 0.6 grey values of 255 in the mean and 2 to 4 in the 99th
percentile; at 2 by up to twice that; at 4 a film of 2,000 px is decoded fully for 256."""


_quiet_lock = threading.Lock()


def read_image(path: Path) -> npt.NDArray[np.uint8]:
    """Decode one radiograph.

    The kind of file is told by its first bytes, not by its name.

    Args:
        path: a DICOM file of one frame, a PNG or a JPEG.

    Returns:
        (H, W) grey values, 0 black to 255 white.

    Raises:
        DataError: it can not be read, naming the file and the reason.
    """
    try:
        kind = _kind(path)
        with _warnings_silenced():
            return read_dicom(path) if kind == "DICOM" else _read_picture(path)
    except Unreadable as error:
        raise DataError(f"{path}: {error}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels of what `read_image` would return, from the header alone.

    Raises:
        DataError: the header can not be read, or declares what is no film.
    """
    try:
        kind = _kind(path)
        with _warnings_silenced():
            if kind == "DICOM":
                return dicom_size(open_dicom(path, pixels=False))
            return _picture_size(path)
    except Unreadable as error:
        raise DataError(f"{path}: {error}") from error


def read_square(path: Path, side: int, fit: Fit) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """Decode one radiograph for a square of this side, for the prepared cache.

    What `fit_square` makes of `read_image`, pixel for pixel, but for JPEG files (no DICOM) of more than twice
    `SCALED_MARGIN` times the result's size: those are decoded at a half, a quarter or an eighth, which takes a
    fraction of the time and differs by little more than rounding.

    Args:
        path: as for `read_image`.
        side: of `fit_square`.
        fit: of `fit_square`.

    Returns:
        (side, side) grey values; and height and width of the file in pixels, as `image_size` gives them.

    Raises:
        DataError: it can not be read, naming the file and the reason.
    """
    try:
        if _kind(path) == "JPEG":
            with _warnings_silenced():
                return _read_jpeg_square(path, side, fit)
    except Unreadable as error:
        raise DataError(f"{path}: {error}") from error
    image = read_image(path)
    return fit_square(image, side, fit), (image.shape[0], image.shape[1])


def fit_square(image: npt.NDArray[np.uint8], side: int, fit: Fit) -> npt.NDArray[np.uint8]:
    """Make a film square.

    Shrinking is PIL's BOX filter. Where the ratio of old to new side is whole, that is the mean over the area of
    each new pixel, the same as OpenCV's INTER_AREA, with which MGCA's released code shrinks
    (mgca/datasets/utils.py). At other ratios BOX averages the old pixels whose centres lie in the new one, each
    counted fully, whereas INTER_AREA counts those on its border by the share that lies inside. Enlarging, of
    either axis, is bilinear.

    Args:
        image: (H, W) grey values.
        side: pixels of the result's side, at least 1.
        fit: `pad` brings the longer side to `side` and adds black on both sides of the shorter one, the odd
            row or column at the bottom or right; `stretch` brings both to `side`.

    Returns:
        (side, side) grey values.
    """
    height, width = image.shape
    new_height, new_width = _fitted(height, width, side, fit)
    if (new_height, new_width) != (height, width):
        shrinks = new_height <= height and new_width <= width
        method = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
        image = np.asarray(Image.fromarray(image).resize((new_width, new_height), method))
    return _squared(image, side)


def _fitted(height: int, width: int, side: int, fit: Fit) -> tuple[int, int]:
    """Height and width of a film inside its square."""
    if fit == "stretch":
        return side, side
    longer = max(height, width)
    return max(1, round(height * side / longer)), max(1, round(width * side / longer))


def _squared(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """(H, W), neither above `side`, in the middle of a black square."""
    height, width = image.shape
    if (height, width) == (side, side):
        return np.ascontiguousarray(image)
    square = np.zeros((side, side), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _kind(path: Path) -> Literal["DICOM", "PNG", "JPEG"]:
    try:
        if stat.S_ISFIFO(path.stat().st_mode):
            raise Unreadable("a pipe, not a file")  # opening it would wait for somebody to write
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError as error:
        raise Unreadable("no such file") from error
    except OSError as error:
        raise Unreadable(f"can not be opened ({error.strerror})") from error
    if not head:
        raise Unreadable("file is empty; copy it again")
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.lstrip()[:1] == b"<":
        raise Unreadable("a web page, not an image: the download was refused; get it again")
    if head.startswith(b"version https://git-lfs"):
        raise Unreadable("a Git LFS pointer, not an image; run `git lfs pull` where it came from")
    hint = " (a DICOM file without its preamble and file meta information?)" if path.suffix == ".dcm" else ""
    raise Unreadable(f"neither DICOM, PNG nor JPEG: it starts with {head[:8]!r}{hint}")


# PNG and JPEG


def _read_picture(path: Path) -> npt.NDArray[np.uint8]:
    with _picture(path, "the image can not be decoded") as picture:
        return _upright_grey(picture)


def _upright_grey(picture: Image.Image) -> npt.NDArray[np.uint8]:
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith(("I", "F")):
        return _stretched_picture(np.asarray(upright))
    if "A" in upright.getbands() or "transparency" in upright.info:
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright.convert("RGBA"))
    if upright.mode not in ("1", "L"):
        upright = upright.convert("RGB")
    return np.array(upright.convert("L"))


def _stretched_picture(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """A grey picture of more than 8 bits, which never says what range matters."""
    if not is_small(values):
        return stretch(values.astype(np.float64))
    patterns, every = bit_patterns(values)
    return look_up(stretch(every.astype(np.float64), count_patterns(patterns)), patterns)


def _picture_size(path: Path) -> tuple[int, int]:
    with _picture(path, "the image header can not be read") as picture:
        width, height = picture.size
        if picture.format == "PNG" and not _may_hold_an_orientation(path):
            return height, width  # Pillow decodes a PNG file as a whole to be sure of that
        return (width, height) if _lies_on_its_side(picture) else (height, width)


def _may_hold_an_orientation(path: Path) -> bool:
    """Whether a PNG file has a chunk, anywhere, in which programs put one."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            if head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    return False


def _read_jpeg_square(path: Path, side: int, fit: Fit) -> tuple[npt.NDArray[np.uint8], tuple[int, int]]:
    """A JPEG file, decoded at a fraction of its size if it is large enough for that; see `read_square`."""
    with _picture(path, "the image can not be decoded") as picture:
        width, height = picture.size
        lies = _lies_on_its_side(picture)
        size = (width, height) if lies else (height, width)
        new_height, new_width = _fitted(*size, side, fit)
        across, down = (new_height, new_width) if lies else (new_width, new_height)
        wanted = (SCALED_MARGIN * across, SCALED_MARGIN * down)
        large = picture.mode in ("L", "RGB") and width >= 2 * wanted[0] and height >= 2 * wanted[1]
        drafted = picture.draft("L", wanted) if large else None
        if drafted is None:
            return fit_square(_upright_grey(picture), side, fit), size
        # The file's sides need not be multiples of the scale: `box` ends where the film does, not the last pixel.
        small = picture.resize((across, down), Image.Resampling.BOX, box=drafted[1])
        return _squared(np.asarray(ImageOps.exif_transpose(small)), side), size


@contextmanager
def _picture(path: Path, wrong: str) -> Iterator[Image.Image]:
    """An open PNG or JPEG file of bearable size; `wrong` opens the sentence if something is amiss."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            refuse_bomb(picture.height, picture.width)
            yield picture
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit is higher, but it looks first
        raise Unreadable(f"declares pixels without measure, {TOO_MANY}") from error
    except Exception as error:  # Pillow passes on whatever its parsers meet in a broken file
        raise Unreadable(f"{wrong} ({one_line(error)}); copy it again") from error


def _lies_on_its_side(picture: Image.Image) -> bool:
    return bool(picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5)


@contextmanager
def _warnings_silenced() -> Iterator[None]:
    """No warnings from the libraries inside. One thread at a time: the filters belong to the process."""
    log = logging.getLogger("pydicom")
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        was, log.disabled = log.disabled, True
        try:
            yield
        finally:
            log.disabled = was
