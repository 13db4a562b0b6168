"""Films that declare more than they hold, or hold more than they should: refused before memory is taken."""

import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless

from medbench.data.images import image_size, read_image, read_square
from medbench.errors import DataError

SYNTAXES = {
    "plain": ExplicitVRLittleEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "run lengths": RLELossless,
    "JPEG": JPEGBaseline8Bit,
}


def png(path: Path, side: int) -> None:
    """A PNG file that declares side x side pixels and holds some kilobytes of packed zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10**6))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def png_with_a_text_bomb(path: Path, side: int) -> None:
    """One whose comment unpacks to 50 MB."""
    png(path, 8)
    packed = zlib.compress(bytes(50 * 10**6))
    data = b"Comment\0\0" + packed
    text = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + text + whole[33:])


def jpeg(path: Path, side: int) -> None:
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 11, 8, side, side, 1) + b"\x01\x11\x00"
    path.write_bytes(b"\xff\xd8" + frame + b"\xff\xd9")


def dicom(syntax: str, **changes: Any) -> Callable[[Path, int], None]:
    def make(path: Path, side: int) -> None:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
        data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = "1.2.3", "1.2.4"
        data.Rows = data.Columns = min(side, 65_535)
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        for name, value in changes.items():
            setattr(data, name, value)
        pixels = bytes(10_000)
        data.PixelData = encapsulate([pixels]) if SYNTAXES[syntax].is_encapsulated else pixels
        data["PixelData"].VR = "OB"
        data.save_as(path, enforce_file_format=True)

    return make


BOMBS: dict[str, Callable[[Path, int], None]] = {
    "PNG": png,
    "PNG with a text": png_with_a_text_bomb,
    "JPEG": jpeg,
    **{f"DICOM, {syntax}": dicom(syntax) for syntax in SYNTAXES},
    "DICOM of many frames": dicom("plain", Rows=64, Columns=64, NumberOfFrames=2**31 - 1),
    "DICOM of many colours": dicom("plain", Rows=64, Columns=64, SamplesPerPixel=65_535),
    "DICOM of few bytes": dicom("plain", Rows=9000, Columns=9000),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_takes_no_memory(what: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    BOMBS[what](path, 60_000)
    assert path.stat().st_size < 1_000_000
    for read in (read_image, lambda p: read_square(p, 64, "pad")):
        tracemalloc.start()
        try:
            with pytest.raises(DataError, match=str(path)):
                read(path)
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert taken < 40 * 2**20, f"{taken:,} bytes"


@pytest.mark.parametrize("what", BOMBS)
def test_its_size_alone_is_refused_or_known(what: str, tmp_path: Path) -> None:
    path = tmp_path / "film"
    BOMBS[what](path, 60_000)
    if what in ("DICOM of few bytes", "DICOM of many colours"):  # bearable: reading them all is refused
        height, width = image_size(path)
        assert height * width <= 100_000_000
    else:
        with pytest.raises(DataError, match=str(path)):
            image_size(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "film.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("film.png", "folder.png", "loop.png", "none.png"):
        with pytest.raises(DataError, match=name):
            read_image(tmp_path / name)


def test_a_link_leads_to_pixels_or_to_nothing(tmp_path: Path) -> None:
    """Of a file that is no film, no more than its first eight bytes are said."""
    secret = tmp_path / "secret"
    secret.write_text("password=swordfish and more of it" * 10)
    (tmp_path / "film.png").symlink_to(secret)
    with pytest.raises(DataError) as caught:
        read_image(tmp_path / "film.png")
    assert "swordfish" not in str(caught.value)


def test_a_film_that_is_one_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "film.dcm"
    dicom("plain", Rows=100, Columns=100)(path, 0)
    assert read_image(path).shape == (100, 100)
    assert read_image(path).dtype == np.uint8
