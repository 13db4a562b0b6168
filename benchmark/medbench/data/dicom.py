"""DICOM files of one frame: refused by their header, or decoded and windowed into 8-bit grey.

Modality LUT or rescale, then VOI LUT or window, then MONOCHROME1 turned round; padding pixels become black.
"""

import zlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medbench.data.grey_values import (
    bit_patterns,
    count_patterns,
    is_small,
    look_up,
    luminance,
    stretch,
    to_grey,
)
from medbench.data.refusals import MOST_PIXELS, TOO_MANY, Unreadable, one_line, refuse_bomb

if TYPE_CHECKING:
    from pydicom import Dataset as DicomDataset
    from pydicom.tag import BaseTag

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


@lru_cache(maxsize=1)
def _needed_tags() -> list["BaseTag"]:
    from pydicom.tag import Tag

    return [Tag(name) for name in _NEEDED] + _overlay_tags()


@lru_cache(maxsize=1)
def _overlay_tags() -> list["BaseTag"]:
    """Overlay Bit Position of all overlay planes; not 0 where a plane is in the pixels' unused bits."""
    from pydicom.tag import Tag

    return [Tag(0x6000 + plane, 0x0102) for plane in range(0, 0x20, 2)]


def read_dicom(path: Path) -> npt.NDArray[np.uint8]:
    """(H, W) grey values of a file of one frame, 0 black to 255 white.

    Raises:
        Unreadable: it is refused by its header, or can not be decoded.
    """
    try:
        return _read(path)
    except NotImplementedError as error:  # pydicom parses an element when it is asked for
        raise Unreadable(
            f"an element of its header can not be read ({one_line(error)}); copy it again"
        ) from error


def _read(path: Path) -> npt.NDArray[np.uint8]:
    header = open_dicom(path, pixels=False)
    if "Rows" in header:  # else there may be no pixels at all, which is said below
        dicom_size(header)
    data = open_dicom(path, pixels=True)
    if not any(name in data for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise Unreadable("holds no pixels (a DICOM header alone, or a file cut short); get it again")
    dicom_size(data)
    _refuse_unknown_colours(data)
    stored = _decode(data)
    if stored.ndim == 3:
        return luminance(stored, int(data.BitsStored))
    if data.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        colours = apply_color_lut(stored, data)
        return luminance(colours, 8 * colours.dtype.itemsize)
    return _windowed(data, _within_depth(data, stored))


def open_dicom(path: Path, *, pixels: bool) -> "DicomDataset":
    """The elements that are needed of a file, with or without its pixels.

    Raises:
        Unreadable: it is no DICOM file, or damaged.
    """
    from pydicom import dcmread

    try:
        _refuse_inflated(path)
        return dcmread(path, stop_before_pixels=not pixels, specific_tags=[*_needed_tags()])
    except Unreadable:
        raise
    except Exception as error:  # pydicom passes on whatever its parsers meet in a broken file
        raise Unreadable(f"the DICOM header can not be read ({one_line(error)}); copy it again") from error


def dicom_size(data: "DicomDataset") -> tuple[int, int]:
    """Height and width, if the header declares one frame of bearable size."""
    frames = data.get("NumberOfFrames")
    if frames is not None and str(frames).strip().lstrip("0") != "1":
        raise Unreadable(f"holds {frames} frames, and a radiograph has one; export the one that is meant")
    height, width = _whole(data, "Rows"), _whole(data, "Columns")
    refuse_bomb(height, width)
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
                raise Unreadable(f"inflates to more than {_DEFLATED_MOST:,} bytes, {TOO_MANY}")
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
        refuse_bomb(*size)


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
        raise Unreadable(
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
        raise Unreadable(
            "its file meta information names no transfer syntax, so its pixels can not be decoded"
        )
    if not (isinstance(syntax, UID) and syntax.is_transfer_syntax):
        raise Unreadable(
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
        raise Unreadable(
            f"pixels in {syntax.name} can not be decoded ({one_line(error)}); copy it again"
        ) from error
    if stored.ndim not in (2, 3) or 0 in stored.shape:
        raise Unreadable(f"pixels of shape {stored.shape}, expected one grey or colour picture")
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
        raise Unreadable(
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
    if not is_small(stored):
        return _grey_values(data, stored)
    patterns, every = bit_patterns(stored)
    return look_up(_grey_values(data, every, patterns), patterns)


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
            grey = _through((to_grey(table / white), first), values)
        elif (window := _window(data)) is not None:
            centre, width, function = window
            low, high = centre - width / 2, centre + width / 2
            whole = abs(low) <= 1 and abs(high - 256) <= 2 and function != "SIGMOID"
            if as_stored and values.dtype == np.uint8 and whole:
                grey = stored.copy()  # the whole range, give or take how the writer counted its ends
            else:
                grey = to_grey(_apply_window(values, centre, width, function))
        elif (
            np.issubdtype(stored.dtype, np.unsignedinteger)
            and bits <= 8
            and "ModalityLUTSequence" not in data
        ):
            # A rescale moves the range and the values alike; what is left of it is the sign of the slope.
            full = stored if as_stored else to_grey(stored / (2.0**bits - 1))
            grey = 255 - full if float(data.get("RescaleSlope") or 1) < 0 else full.copy()
        else:
            counts = ~padding if film is None else np.where(padding, 0, count_patterns(film))
            grey = stretch(values.astype(np.float64), counts)
    except (
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        NotImplementedError,
        OverflowError,
    ) as error:
        raise Unreadable(
            f"its grey-value lookup can not be applied ({one_line(error)}); export the film again, or correct the "
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


def _whole(data: "DicomDataset", name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int):
        raise Unreadable(f"its DICOM header names no {name}")
    return value
