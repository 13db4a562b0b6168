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
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from medbench.errors import DataError

if TYPE_CHECKING:
    from pydicom import Dataset as DicomDataset
    from pydicom.tag import BaseTag

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

MOST_PIXELS = 100_000_000
"""Pixels of the largest file that is read. The largest chest film known here has 18 million (4,298 x 4,300)."""

PERCENTILES = (0.5, 99.5)
"""Bounds of the stretched range where a file of more than 8 bits names no window. Own choice: markers,
collimator edges and dead pixels make up less than one percent of a film, and minimum and maximum would follow
them."""

_NEEDED = [
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "RedPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableDescriptor",
    "GreenPaletteColorLookupTableData",
    "BluePaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
]
"""The only elements read of a DICOM file: faster, and a bad PatientAge is never looked at, so never warned
about."""

_COLOURS = (
    "MONOCHROME1",
    "MONOCHROME2",
    "PALETTE COLOR",
    "RGB",
    "YBR_FULL",
    "YBR_FULL_422",
    "YBR_ICT",
    "YBR_RCT",
)
"""Photometric interpretations that are read. The retired ones (HSV, ARGB, CMYK) would pass for RGB."""

_PLUGINS = {"1.2.840.10008.1.2.4.50": "pillow", "1.2.840.10008.1.2.5": "pydicom"}
"""Decoder by transfer syntax; pylibjpeg for the others. Named, because pydicom would take GDCM where it
happens to be installed, and lossy decoders differ by a grey level. JPEG baseline goes to Pillow: 3.2 ms a
film against 7.7 ms."""

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
            return _read_dicom(path) if kind == "DICOM" else _read_picture(path)
    except _Unreadable as error:
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
                return _dicom_size(_open_dicom(path, pixels=False))
            return _picture_size(path)
    except _Unreadable as error:
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
    except _Unreadable as error:
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


class _Unreadable(Exception):
    """Why a file is refused; the caller adds its name."""


def _kind(path: Path) -> Literal["DICOM", "PNG", "JPEG"]:
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except FileNotFoundError as error:
        raise _Unreadable("no such file") from error
    except OSError as error:
        raise _Unreadable(f"can not be opened ({error.strerror})") from error
    if not head:
        raise _Unreadable("file is empty; copy it again")
    if head[128:132] == b"DICM":
        return "DICOM"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.lstrip()[:1] == b"<":
        raise _Unreadable("a web page, not an image: the download was refused; get it again")
    if head.startswith(b"version https://git-lfs"):
        raise _Unreadable("a Git LFS pointer, not an image; run `git lfs pull` where it came from")
    hint = " (a DICOM file without its preamble and file meta information?)" if path.suffix == ".dcm" else ""
    raise _Unreadable(f"neither DICOM, PNG nor JPEG: it starts with {head[:8]!r}{hint}")


def _refuse_bomb(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise _Unreadable(f"declares {width:,} x {height:,} pixels, {_TOO_MANY}")


_TOO_MANY = (
    f"more than the {MOST_PIXELS:,} that any film has; refused before it fills the memory. Its header is damaged: "
    "copy it again"
)


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
    if not _is_small(values):
        return _stretched(values.astype(np.float64))
    patterns, every = _patterns(values)
    return _looked_up(_stretched(every.astype(np.float64), _counts(patterns)), patterns)


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
            _refuse_bomb(picture.height, picture.width)
            yield picture
    except _Unreadable:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit is higher, but it looks first
        raise _Unreadable(f"declares pixels without measure, {_TOO_MANY}") from error
    except Exception as error:  # Pillow passes on whatever its parsers meet in a broken file
        raise _Unreadable(f"{wrong} ({_one_line(error)}); copy it again") from error


def _lies_on_its_side(picture: Image.Image) -> bool:
    return bool(picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5)


# DICOM


@lru_cache(maxsize=1)
def _needed_tags() -> list["BaseTag"]:
    from pydicom.tag import Tag

    return [Tag(name) for name in _NEEDED] + _overlay_tags()


@lru_cache(maxsize=1)
def _overlay_tags() -> list["BaseTag"]:
    """Overlay Bit Position of all overlay planes; not 0 where a plane is in the pixels' unused bits."""
    from pydicom.tag import Tag

    return [Tag(0x6000 + plane, 0x0102) for plane in range(0, 0x20, 2)]


def _read_dicom(path: Path) -> npt.NDArray[np.uint8]:
    header = _open_dicom(path, pixels=False)
    if "Rows" in header:  # else there may be no pixels at all, which is said below
        _dicom_size(header)
    data = _open_dicom(path, pixels=True)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise _Unreadable("holds no pixels (a DICOM header alone, or a file cut short); get it again")
    _dicom_size(data)
    _refuse_unknown_colours(data)
    stored = _decode(data)
    if stored.ndim == 3:
        return _luminance(stored, int(data.BitsStored))
    if data.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        colours = apply_color_lut(stored, data)
        return _luminance(colours, 8 * colours.dtype.itemsize)
    return _windowed(data, _within_depth(data, stored))


def _open_dicom(path: Path, *, pixels: bool) -> "DicomDataset":
    from pydicom import dcmread

    try:
        _refuse_inflated(path)
        return dcmread(path, stop_before_pixels=not pixels, specific_tags=[*_needed_tags()])
    except _Unreadable:
        raise
    except Exception as error:  # pydicom passes on whatever its parsers meet in a broken file
        raise _Unreadable(f"the DICOM header can not be read ({_one_line(error)}); copy it again") from error


def _dicom_size(data: "DicomDataset") -> tuple[int, int]:
    """Height and width, if the header declares one frame of bearable size."""
    frames = data.get("NumberOfFrames")
    if frames is not None and str(frames).strip().lstrip("0") != "1":
        raise _Unreadable(f"holds {frames} frames, and a radiograph has one; export the one that is meant")
    height, width = _whole(data, "Rows"), _whole(data, "Columns")
    _refuse_bomb(height, width)
    return height, width


_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DEFLATED_MOST = 4 * MOST_PIXELS
"""Bytes that a deflated file may grow to: any film that is read, and room for its header."""


def _refuse_inflated(path: Path) -> None:
    """A deflated file is inflated as a whole before any of its elements can be looked at; count, keep nothing."""
    with path.open("rb") as file:
        head = file.read(1024)
        if _DEFLATED not in head:
            return
        # (0002,0000) UL, the first element, says how long the rest of the file meta information is
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        rest = file.read(1 << 16)
        while rest and not inflater.eof:
            try:
                total += len(inflater.decompress(rest, 1 << 24))
            except zlib.error:
                return  # pydicom says what is wrong with it
            if total > _DEFLATED_MOST:
                raise _Unreadable(f"inflates to more than {_DEFLATED_MOST:,} bytes, {_TOO_MANY}")
            rest = inflater.unconsumed_tail or file.read(1 << 16)


def _refuse_large_stream(data: "DicomDataset") -> None:
    """Compressed pixels declare their size once more, and decoders go by that."""
    from pydicom.encaps import generate_frames

    try:
        stream = next(generate_frames(data.PixelData, number_of_frames=1))
    except Exception:  # the decoder says what is wrong with it
        return
    size = _stream_size(stream)
    if size is not None:
        _refuse_bomb(*size)


def _stream_size(stream: bytes) -> tuple[int, int] | None:
    """Height and width that a JPEG, JPEG-LS or JPEG 2000 stream declares; None where it does not say."""

    def number(at: int, count: int) -> int:
        return int.from_bytes(stream[at : at + count], "big")

    start = stream.find(
        b"\xff\x4f\xff\x51", 0, 1024
    )  # JPEG 2000: start, then size of image and of its offset
    if start >= 0:
        right, bottom, left, top = (number(start + 8 + 4 * k, 4) for k in range(4))
        return bottom - top, right - left
    at = 2
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):  # start of frame
            return number(at + 5, 2), number(at + 7, 2)
        at += 1 if marker == 0xFF else 2 + number(at + 2, 2)  # a fill byte, or the next segment
    return None


def _refuse_unknown_colours(data: "DicomDataset") -> None:
    found = data.get("PhotometricInterpretation")
    if found not in _COLOURS:
        raise _Unreadable(
            f"its PhotometricInterpretation is {found or 'missing'}, expected one of {', '.join(_COLOURS)}; export "
            "the film again, or correct this element of its header (MONOCHROME1 if its lowest value is white, "
            "MONOCHROME2 if it is black)"
        )


def _decode(data: "DicomDataset") -> npt.NDArray[Any]:
    """Stored values (H, W), or (H, W, 3) in RGB."""
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        raise _Unreadable(
            "its file meta information names no transfer syntax, so its pixels can not be decoded"
        )
    if not (isinstance(syntax, UID) and syntax.is_transfer_syntax):
        raise _Unreadable(
            f"its file meta information names {syntax!s}, which is no transfer syntax; copy it again"
        )
    plugin = ""
    if syntax.is_encapsulated and syntax.is_compressed:
        plugin = _PLUGINS.get(str(syntax), "pylibjpeg")
        _refuse_large_stream(data)
    # Bits above the stored ones in grey pixels are looked at in `_within_depth`, not cut off unseen.
    cut = data.get("SamplesPerPixel") != 1 or data.get("PhotometricInterpretation") == "PALETTE COLOR"
    try:
        stored = pixel_array(data, decoding_plugin=plugin, correct_unused_bits=cut)
    except Exception as error:  # decoders raise what they like on broken files
        raise _Unreadable(
            f"pixels in {syntax.name} can not be decoded ({_one_line(error)}); copy it again"
        ) from error
    if stored.ndim not in (2, 3) or 0 in stored.shape:
        raise _Unreadable(f"pixels of shape {stored.shape}, expected one grey or colour picture")
    return stored


def _within_depth(data: "DicomDataset", stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Grey values of no more than BitsStored bits, or of as many as a JPEG stream has.

    What unused bits hold is undefined (PS3.5 8.1.1): an overlay in old files, copies of the sign or nothing in
    others. A header that names too few bits looks the same; cutting off would then wrap the bright parts to dark.
    """
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    if not np.issubdtype(stored.dtype, np.integer):
        return stored
    bits, allocated = int(data.BitsStored), 8 * stored.dtype.itemsize
    low, high = int(stored.min()), int(stored.max())
    signed = np.issubdtype(stored.dtype, np.signedinteger)
    if (-(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1)) if signed else high < 2**bits:
        return stored
    unsigned_cells = signed and low >= 0 and high < 2**bits  # the sign was not copied upwards
    syntax = data.file_meta.TransferSyntaxUID
    if syntax in JPEGTransferSyntaxes and not unsigned_cells:
        return stored  # the stream says how many bits there are, and no others are in it
    if syntax in (*JPEG2000TransferSyntaxes, *JPEGLSTransferSyntaxes):
        return stored  # likewise, and pydicom has set the signs by it
    if not unsigned_cells and not any(data.get(tag) for tag in _overlay_tags()):
        raise _Unreadable(
            f"its header says that {bits} of {allocated} bits are pixels (BitsStored), but values go from {low} to "
            f"{high}, and it names no overlay in the others; export the film again, or correct BitsStored and "
            "HighBit in its header"
        )
    np.left_shift(stored, allocated - bits, out=stored)
    np.right_shift(stored, allocated - bits, out=stored)
    return stored


def _windowed(data: "DicomDataset", stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The grey pipeline of the standard (PS3.3 C.11) for a film.

    It maps each stored value by itself. Of at most 16 bits there are 65,536 values, fewer than pixels, so that the
    values are mapped and the film is looked up.
    """
    if not _is_small(stored):
        return _grey_values(data, stored)
    patterns, every = _patterns(stored)
    return _looked_up(_grey_values(data, every, patterns), patterns)


def _grey_values(
    data: "DicomDataset", stored: npt.NDArray[Any], film: npt.NDArray[np.unsignedinteger[Any]] | None = None
) -> npt.NDArray[np.uint8]:
    """Modality, VOI and presentation of stored values.

    Args:
        data: header.
        stored: the film, or every value that there can be, in the order of their bit patterns.
        film: bit patterns of the film in the second case.
    """
    from pydicom.pixels.processing import apply_modality_lut

    pixels = stored if film is None else film
    bits = int(data.get("BitsStored", 16))
    if np.issubdtype(stored.dtype, np.unsignedinteger):
        bits = max(bits, int(pixels.max()).bit_length())  # see `_within_depth`
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    padding = _padding(data, stored)
    as_stored = bits == 8 and stored.dtype == np.uint8
    try:
        if data.get("ModalityLUTSequence"):
            values = _through(_lut(data.ModalityLUTSequence[0], data), stored)
        else:
            values = apply_modality_lut(stored, data)
        if data.get("VOILUTSequence"):
            table, first = _lut(data.VOILUTSequence[0], data)
            # By the depth of its entries, not by what the descriptor says: tables of 12 bits are described as of 16.
            white = 2.0 ** max(1, int(table.max()).bit_length()) - 1
            grey = _through((_grey(table / white), first), values)
        elif (window := _window(data)) is not None:
            centre, width, function = window
            low, high = centre - width / 2, centre + width / 2
            whole = abs(low) <= 1 and abs(high - 256) <= 2 and function != "SIGMOID"
            if as_stored and values.dtype == np.uint8 and whole:
                grey = stored.copy()  # the whole range, give or take how the writer counted its ends
            else:
                grey = _grey(_apply_window(values, centre, width, function))
        elif (
            np.issubdtype(stored.dtype, np.unsignedinteger)
            and bits <= 8
            and "ModalityLUTSequence" not in data
        ):
            # A rescale moves the range and the values alike; what is left of it is the sign of the slope.
            full = stored if as_stored else _grey(stored / (2.0**bits - 1))
            grey = 255 - full if float(data.get("RescaleSlope") or 1) < 0 else full.copy()
        else:
            counts = ~padding if film is None else np.where(padding, 0, _counts(film))
            grey = _stretched(values.astype(np.float64), counts)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise _Unreadable(
            f"its grey-value lookup can not be applied ({_one_line(error)}); export the film again, or correct the "
            "window and lookup tables of its header, or remove them (its values are stretched then)"
        ) from error
    if inverted:
        grey = 255 - grey
    grey[padding] = 0
    return grey


def _lut(item: "DicomDataset", data: "DicomDataset") -> tuple[npt.NDArray[np.uint16], int]:
    """Entries of a lookup table (PS3.3 C.11.1.1.1), and the value that the first one is for."""
    count, first = (int(number) for number in item.LUTDescriptor[:2])
    count = count % 65_536 or 65_536
    given = item.LUTData
    if isinstance(given, bytes):
        order = "<" if data.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = np.frombuffer(given[: len(given) // 2 * 2], f"{order}u2")
    else:
        words = np.atleast_1d(np.asarray(given, np.int64)) % 65_536
    if len(words) < count <= 2 * len(words):  # 8-bit entries, two a word, the first one in the lower half
        words = words.astype("<u2").view(np.uint8)
    if len(words) < count:
        raise ValueError(f"a table of {count:,} entries has {len(words):,}")
    return words[:count].astype(np.uint16), first


def _through(lut: tuple[npt.NDArray[Any], int], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values by a table and the value of its first entry; what lies outside gets the first or the last entry."""
    table, first = lut
    index = np.fmin(np.fmax(np.rint(values.astype(np.float64)) - first, 0), len(table) - 1).astype(np.int64)
    found: npt.NDArray[Any] = table[index]
    return found


def _window(data: "DicomDataset") -> tuple[float, float, str] | None:
    """Centre, width and function of the first window that the file names, None if it names none."""
    centre, width = data.get("WindowCenter"), data.get("WindowWidth")
    if centre in (None, "") or width in (None, ""):
        return None
    first = [float(v[0]) if hasattr(v, "__getitem__") else float(v) for v in (centre, width)]
    function = str(data.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"unknown VOI LUT function {function}")
    if (first[1] < 1 and function == "LINEAR") or first[1] <= 0:
        raise ValueError(f"window width {first[1]:g}")
    return first[0], first[1], function


def _apply_window(
    values: npt.NDArray[Any], centre: float, width: float, function: str
) -> npt.NDArray[np.float64]:
    """Grey values in [0, 1] by the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
    x = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -700, 700)))
    if function == "LINEAR":
        if width == 1:
            return (x > centre - 0.5).astype(np.float64)
        centre, width = centre - 0.5, width - 1
    return np.clip((x - centre) / width + 0.5, 0, 1)


def _padding(data: "DicomDataset", stored: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(H, W) True where the film was filled up (PS3.3 C.7.5.1.1.2)."""
    value = data.get("PixelPaddingValue")
    if not isinstance(value, int):
        return np.zeros(stored.shape, np.bool_)
    limit = data.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    padded: npt.NDArray[np.bool_] = (stored >= low) & (stored <= high)
    return padded


def _stretched(
    values: npt.NDArray[np.float64], counts: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.uint8]:
    """The range between the two percentiles, stretched over black to white.

    Args:
        values: of the pixels, or the distinct ones.
        counts: of the same shape, how often each of them counts for the percentiles; None, or an array of bool, is for
            once or not at all.
    """
    finite = np.isfinite(values)
    counted = finite if counts is None else finite & (counts > 0)
    if not counted.any():
        return np.zeros(values.shape, np.uint8)
    if counts is None or counts.dtype == np.bool_:
        low, high = np.percentile(values[counted], PERCENTILES)
    else:
        low, high = _percentiles_of(values[counted], counts[counted])
    if low == high:  # nearly all one value: what differs would be lost between equal percentiles
        low, high = values[counted].min(), values[counted].max()
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return _grey((np.where(finite, values, low) - low) / (high - low))


def _percentiles_of(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """What `np.percentile(np.repeat(values, counts), PERCENTILES)` is, to the last bit, without that array."""
    order = np.argsort(values)
    values, ends = values[order], np.cumsum(counts[order])
    found = []
    for percentile in PERCENTILES:
        place = float(ends[-1] - 1) * (percentile / 100)
        rank = int(place)
        a = float(values[np.searchsorted(ends, rank, "right")])
        b = float(values[np.searchsorted(ends, min(rank + 1, int(ends[-1]) - 1), "right")])
        share = place - rank
        # From the nearer end, as numpy does, so that both round alike.
        found.append(a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share))
    return found[0], found[1]


_BLOCK = 1 << 20
"""Pixels that are counted or looked up at a time: numpy widens them to 8 bytes each."""


def _is_small(values: npt.NDArray[Any]) -> bool:
    """Whether there are at most 65,536 values that these can have."""
    return bool(np.issubdtype(values.dtype, np.integer)) and values.dtype.itemsize <= 2


def _patterns(stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Small integers as unsigned bit patterns, without a copy; and every value, at the place that is its pattern."""
    kind = stored.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{kind.itemsize}")
    every = np.arange(256**kind.itemsize, dtype=unsigned)
    return stored.astype(kind, copy=False).view(unsigned), every.view(kind)


def _counts(patterns: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How often each pattern occurs."""
    flat, size = patterns.reshape(-1), 256**patterns.dtype.itemsize
    total = np.zeros(size, np.int64)
    for start in range(0, len(flat), _BLOCK):
        total += np.bincount(flat[start : start + _BLOCK], minlength=size)
    return total


def _looked_up(table: npt.NDArray[np.uint8], patterns: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The table's entry for each pattern."""
    if patterns.dtype == np.uint8 and (table == np.arange(256)).all():
        return patterns.copy()
    if patterns.dtype == np.uint8:  # numpy takes three times as long
        grey = bytearray(np.ascontiguousarray(patterns)).translate(table.tobytes())
        return np.frombuffer(grey, np.uint8).reshape(patterns.shape)
    flat = patterns.reshape(-1)
    out = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        out[start : start + _BLOCK] = table[flat[start : start + _BLOCK]]
    return out.reshape(patterns.shape)


def _luminance(colours: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3 or 4) RGB to (H, W), by ITU-R 601 as PIL does for PNG and JPEG."""
    if colours.dtype != np.uint8 or bits != 8:
        if _is_small(colours):
            patterns, every = _patterns(colours)
            colours = _looked_up(_grey(every / (2.0**bits - 1)), patterns)
        else:
            colours = _grey(colours / (2.0**bits - 1))
    return np.array(Image.fromarray(np.ascontiguousarray(colours[..., :3])).convert("L"))


def _grey(unit: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """[0, 1] to 0..255, to the nearest."""
    grey: npt.NDArray[np.uint8] = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return grey


def _whole(data: "DicomDataset", name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int):
        raise _Unreadable(f"its DICOM header names no {name}")
    return value


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__


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
