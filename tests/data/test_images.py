"""Reading radiographs: every kind of file, against pydicom's and Pillow's own numbers; and what is
refused."""

import csv
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from medbench.data import dicom as reader
from medbench.data import grey_values, images
from medbench.data.grey_values import PERCENTILES
from medbench.data.images import Fit, fit_square, image_size, read_image, read_square
from medbench.errors import DataError

REFUSED = {
    "JPEG-lossy.dcm": "pixels in JPEG Extended .* can not be decoded",
    "MR_truncated.dcm": "can not be decoded .*8130 vs 8192 bytes",
    "OBXXXX1A_rle_2frame.dcm": "holds 2 frames, and a radiograph has one",
    "chrJapMulti.dcm": "holds no pixels",
    "no_meta.dcm": "neither DICOM, PNG nor JPEG.*without its preamble",
}


def dicom(path: Path, pixels: npt.NDArray[Any], **attributes: Any) -> Path:
    """A DICOM file of one grey frame; `attributes` come last and win."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    data.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="module")
def ramp() -> npt.NDArray[np.uint8]:
    return np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture(scope="module")
def deep() -> npt.NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)


# Real files


def dicom_rows(test_data: Path) -> list[dict[str, str]]:
    with (test_data / "dicom" / "files.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_file_of_the_dicom_collection_reads_or_is_refused(test_data: Path) -> None:
    rows = dicom_rows(test_data)
    assert len(rows) == 23
    for row in rows:
        path = test_data / "dicom" / row["file"]
        if path.name in REFUSED:
            with pytest.raises(DataError, match=REFUSED[path.name]) as caught:
                read_image(path)
            assert str(caught.value).startswith(f"{path}: ")
        else:
            image = read_image(path)
            assert image.dtype == np.uint8
            assert image.shape == (int(row["rows"]), int(row["columns"])) == image_size(path), path.name
            assert image.min() < image.max(), path.name


def test_the_files_that_read_decode_to_the_listed_stored_values(test_data: Path) -> None:
    compared = 0
    for row in dicom_rows(test_data):
        path = test_data / "dicom" / row["file"]
        if row["decodes"] != "yes" or path.name in REFUSED:
            continue
        with images._warnings_silenced():
            stored = reader._decode(reader.open_dicom(path, pixels=True))
        assert "x".join(map(str, stored.shape)) == row["array_shape"], path.name
        if row["photometric"] == "YBR_FULL":
            continue  # listed in YBR, used as RGB
        assert (stored.min(), stored.max()) == (float(row["min"]), float(row["max"])), path.name
        assert stored.mean() == pytest.approx(float(row["mean"]), abs=1e-4), path.name
        compared += 1
    assert compared == 17


def test_windowed_files_agree_with_pydicom(test_data: Path) -> None:
    compared = 0
    for row in dicom_rows(test_data):
        path = test_data / "dicom" / row["file"]
        if not row["window_center"] or path.name in REFUSED or path.name == "RG1_J2KR.dcm":
            continue  # the last one is RG1_J2KI.dcm again, and takes seconds
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pydicom

            data = pydicom.dcmread(path)
            stored = pixel_array(data)
            values = apply_modality_lut(stored, data)
            out = np.asarray(apply_windowing(values, data, index=0), np.float64)
        bits, signed = int(row["bits_stored"]), row["pixel_representation"] == "1"
        ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1], np.float64)
        low, high = ends * float(row["rescale_slope"] or 1) + float(row["rescale_intercept"] or 0)
        unit = (out - low) / (high - low)
        expected = 255 * (1 - unit if row["photometric"] == "MONOCHROME1" else unit)
        padded = stored == data.PixelPaddingValue if "PixelPaddingValue" in data else np.False_
        expected = np.where(padded, 0, expected)
        # Rounding; and for a window of (nearly) the whole 8-bit range the stored values are kept.
        most = 2 if bits == 8 else 0.51
        np.testing.assert_allclose(read_image(path).astype(float), expected, atol=most, err_msg=path.name)
        compared += 1
    assert compared >= 8


def test_the_same_film_in_five_transfer_syntaxes_is_the_same(test_data: Path) -> None:
    folder = test_data / "dicom" / "files"
    names = ("RLE", "bigendian", "implicit", "jpeg_ls_lossless")
    films = [read_image(folder / f"MR_small_{name}.dcm") for name in names]
    for film in films[1:]:
        np.testing.assert_array_equal(film, films[0])


def test_voi_lut_sequence(test_data: Path) -> None:
    import pydicom

    path = test_data / "dicom" / "files" / "vlut_04.dcm"
    data = pydicom.dcmread(path)
    bits = data.VOILUTSequence[0].LUTDescriptor[2]
    expected = np.rint(apply_voi(data.pixel_array, data) / (2.0**bits - 1) * 255)
    np.testing.assert_array_equal(read_image(path), expected)


def test_colour_and_palette_become_luminance(test_data: Path) -> None:
    folder = test_data / "dicom" / "files"
    for name in ("SC_rgb_small_odd.dcm", "SC_rgb_jpeg_dcmtk.dcm"):
        rgb = pixel_array(folder / name).astype(np.float64)
        expected = rgb @ [0.299, 0.587, 0.114]
        np.testing.assert_allclose(read_image(folder / name), expected, atol=2.5)
    assert read_image(folder / "examples_palette.dcm").max() > 200


def test_one_bit_is_black_and_white(test_data: Path) -> None:
    assert set(np.unique(read_image(test_data / "dicom" / "files" / "liver_1frame.dcm"))) == {0, 255}


def test_rsna_films_come_out_as_stored(test_data: Path) -> None:
    with (test_data / "nih" / "labels.csv").open() as file:
        names = {r["rsna_patient_id"]: r["image"] for r in csv.DictReader(file) if r["rsna_patient_id"]}
    films = sorted((test_data / "rsna_layout" / "stage_2_train_images").iterdir())[::10]
    for path in films:
        picture = next(
            p
            for p in (test_data / "nih" / names[path.stem], test_data / "nih" / "images" / names[path.stem])
            if p.exists()
        )
        np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(picture)))


def test_original_pictures(test_data: Path) -> None:
    with (test_data / "images_text" / "original_files.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        path = test_data / "images_text" / row["file"]
        image = read_image(path)
        assert image.shape == (int(row["height"]), int(row["width"])) == image_size(path)
        # No orientation but 1 and no transparent pixel among them: Pillow's own grey is the oracle.
        np.testing.assert_array_equal(image, np.asarray(Image.open(path).convert("RGB").convert("L")))


# DICOM, made here


def test_eight_bits_without_window_are_kept(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "a.dcm", ramp)), ramp)


@pytest.mark.parametrize(("centre", "width"), [(128, 256), (127, 255), (127.5, 255), (128, 255), (127, 254)])
def test_a_window_of_the_whole_range_changes_nothing(
    tmp_path: Path, ramp: npt.NDArray[np.uint8], centre: float, width: float
) -> None:
    path = dicom(tmp_path / "a.dcm", ramp, WindowCenter=centre, WindowWidth=width)
    np.testing.assert_array_equal(read_image(path), ramp)


def test_a_sigmoid_of_the_whole_range_is_applied(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    window = {"WindowCenter": 128, "WindowWidth": 256, "VOILUTFunction": "SIGMOID"}
    expected = [[by_the_standard(x, 128, 256, "SIGMOID") * 255 for x in row] for row in ramp.astype(float)]
    np.testing.assert_allclose(read_image(dicom(tmp_path / "a.dcm", ramp, **window)), expected, atol=0.501)


def test_a_narrow_window_of_eight_bits_is_applied(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    image = read_image(dicom(tmp_path / "a.dcm", ramp, WindowCenter=100, WindowWidth=51))
    assert image.ravel()[:75].max() == 0
    assert image.ravel()[125:].min() == 255


def test_monochrome1_is_turned_round(tmp_path: Path, deep: npt.NDArray[np.uint16]) -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 3000}
    light = read_image(dicom(tmp_path / "a.dcm", deep, **window))
    dark = read_image(dicom(tmp_path / "b.dcm", deep, PhotometricInterpretation="MONOCHROME1", **window))
    np.testing.assert_array_equal(dark, 255 - light)


def by_the_standard(x: float, centre: float, width: float, function: str) -> float:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 for one value, output from 0 to 1."""
    if function == "SIGMOID":
        return float(1 / (1 + np.exp(min(-4 * (x - centre) / width, 700))))
    if function == "LINEAR_EXACT":
        if x <= centre - width / 2:
            return 0.0
        return 1.0 if x > centre + width / 2 else (x - centre) / width + 0.5
    if x <= centre - 0.5 - (width - 1) / 2:
        return 0.0
    if x > centre - 0.5 + (width - 1) / 2:
        return 1.0
    return (x - (centre - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40.0, 400.0), (-500.0, 1.0), (0.5, 2.0)])
def test_window_functions(tmp_path: Path, function: str, centre: float, width: float) -> None:
    stored = np.random.default_rng(1).integers(-700, 700, (9, 7)).astype(np.int16)
    path = dicom(
        tmp_path / "a.dcm",
        stored,
        WindowCenter=[centre, 7],
        WindowWidth=[width, 7],
        VOILUTFunction=function,
        RescaleSlope=2,
        RescaleIntercept=-10,
    )
    expected = [[by_the_standard(2.0 * x - 10, centre, width, function) * 255 for x in row] for row in stored]
    np.testing.assert_allclose(read_image(path), expected, atol=0.501)


def test_deep_film_without_window_is_stretched_between_percentiles(
    tmp_path: Path, deep: npt.NDArray[np.uint16]
) -> None:
    image = read_image(dicom(tmp_path / "a.dcm", deep, BitsStored=12, HighBit=11))
    low, high = np.percentile(deep, PERCENTILES)
    np.testing.assert_array_equal(image, np.rint(np.clip((deep - low) / (high - low), 0, 1) * 255))


def test_a_few_dead_pixels_do_not_flatten_the_film(tmp_path: Path, deep: npt.NDArray[np.uint16]) -> None:
    broken = deep.copy()
    broken[0, :2] = 65_535
    spread = [read_image(dicom(tmp_path / "a.dcm", film)).std() for film in (deep, broken)]
    assert spread[1] == pytest.approx(spread[0], rel=0.05)


def test_constant_film_is_black_and_nearly_constant_one_is_not(tmp_path: Path) -> None:
    film = np.full((30, 30), 700, np.uint16)
    assert read_image(dicom(tmp_path / "a.dcm", film)).max() == 0
    film[3, 3] = 900
    assert read_image(dicom(tmp_path / "b.dcm", film))[3, 3] == 255


def test_padding_is_black_and_does_not_count(tmp_path: Path, deep: npt.NDArray[np.uint16]) -> None:
    film = deep + np.uint16(1000)
    film[:, :10] = 0
    path = dicom(tmp_path / "a.dcm", film, PixelPaddingValue=0, PhotometricInterpretation="MONOCHROME1")
    image = read_image(path)
    assert (image[:, :10] == 0).all()
    low, high = np.percentile(film[:, 10:], PERCENTILES)
    expected = 255 - np.rint(np.clip((film[:, 10:] - low) / (high - low), 0, 1) * 255)
    np.testing.assert_array_equal(image[:, 10:], expected)


def test_padding_range(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    image = read_image(dicom(tmp_path / "a.dcm", ramp, PixelPaddingValue=250, PixelPaddingRangeLimit=255))
    assert (image.ravel()[250:] == 0).all()
    np.testing.assert_array_equal(image.ravel()[:250], ramp.ravel()[:250])


def test_negative_slope_turns_eight_bits_round(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    path = dicom(tmp_path / "a.dcm", ramp, RescaleSlope=-1, RescaleIntercept=255)
    np.testing.assert_array_equal(read_image(path), 255 - ramp)


def test_modality_lut(tmp_path: Path) -> None:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [256, 0, 16])
    lut.add_new("LUTData", "US", list(range(1000, 1000 + 256 * 5, 5)))
    lut.ModalityLUTType = "US"
    film = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = read_image(dicom(tmp_path / "a.dcm", film, ModalityLUTSequence=[lut])).ravel().astype(int)
    assert (np.diff(image) >= 0).all()
    assert (image[0], image[-1]) == (0, 255)


def test_bad_patient_age_warns_nobody_and_leaves_the_filters(
    tmp_path: Path, ramp: npt.NDArray[np.uint8]
) -> None:
    path = tmp_path / "a.dcm"
    dicom(path, ramp)
    import pydicom
    from pydicom import config

    data = pydicom.dcmread(path)
    data[0x00101010] = DataElement(0x00101010, "AS", "31", validation_mode=config.IGNORE)
    data.save_as(path)
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_image(path)
        image_size(path)
    assert not caught
    assert list(warnings.filters) == before


@pytest.mark.parametrize("bits", [8, 10, 12, 15, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_every_depth_within_its_window(tmp_path: Path, bits: int, signed: bool) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    kind = np.dtype(f"{'' if signed else 'u'}int{8 if bits == 8 else 16}")
    stored = np.linspace(low, low + 2**bits - 1, 400).round().astype(kind).reshape(20, 20)
    window = {"WindowCenter": low + 2 ** (bits - 1), "WindowWidth": 2**bits}
    image = read_image(dicom(tmp_path / "a.dcm", stored, BitsStored=bits, HighBit=bits - 1, **window))
    np.testing.assert_allclose(image.ravel(), np.linspace(0, 255, 400), atol=1.1)


def test_an_overlay_above_the_stored_bits_does_not_count(
    tmp_path: Path, deep: npt.NDArray[np.uint16]
) -> None:
    depth = {"BitsStored": 12, "HighBit": 11}
    clean = read_image(dicom(tmp_path / "a.dcm", deep, **depth))
    overlaid = deep | (np.arange(deep.size, dtype=np.uint16).reshape(deep.shape) % 2 << 13)
    path = dicom(tmp_path / "b.dcm", overlaid, **depth)
    import pydicom

    data = pydicom.dcmread(path)
    data.add_new(0x60020102, "US", 13)  # Overlay Bit Position of the second plane
    data.save_as(path)
    np.testing.assert_array_equal(read_image(path), clean)


@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_values_of_more_bits_than_stored_are_refused_not_wrapped(
    tmp_path: Path, deep: npt.NDArray[np.uint16], kind: str
) -> None:
    deep = deep.copy()
    deep[:1, :2] = [0, 4095]
    path = dicom(tmp_path / "a.dcm", deep.astype(kind), BitsStored=8, HighBit=7)
    message = (
        "8 of 16 bits are pixels .*values go from 0 to 4095, and it names no overlay.*correct BitsStored"
    )
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_signed_values_whose_sign_was_not_copied_upwards(tmp_path: Path) -> None:
    stored = np.random.default_rng(7).integers(-2048, 2048, (20, 30)).astype(np.int16)
    depth = {"BitsStored": 12, "HighBit": 11}
    copied = read_image(dicom(tmp_path / "a.dcm", stored, **depth))
    np.testing.assert_array_equal(read_image(dicom(tmp_path / "b.dcm", stored & 0xFFF, **depth)), copied)
    assert copied[stored == stored.max()].min() == 255


@pytest.mark.parametrize("kind", ["<u2", "<i2"])
def test_the_depth_of_a_compressed_stream_goes_before_that_of_the_header(
    tmp_path: Path, deep: npt.NDArray[np.uint16], kind: str
) -> None:
    import pydicom

    film = np.tile(deep, (4, 4)).astype(kind)
    whole = read_image(dicom(tmp_path / "a.dcm", film - film.dtype.type(0 if kind == "<u2" else 900)))
    data = pydicom.dcmread(tmp_path / "a.dcm")
    data.compress(JPEG2000Lossless)
    data.BitsStored, data.HighBit = 8, 7
    data.save_as(tmp_path / "b.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm"), whole)


# Values are mapped, films looked up


@pytest.mark.parametrize("kind", ["u1", "i1", "<u2", "<i2"])
@pytest.mark.parametrize("colours", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "header",
    [
        {},
        {"RescaleSlope": -0.37, "RescaleIntercept": 11},
        {"PixelPaddingValue": 3, "PixelPaddingRangeLimit": 40},
        {"WindowCenter": 31, "WindowWidth": 77.5},
        {
            "WindowCenter": 31,
            "WindowWidth": 77,
            "VOILUTFunction": "SIGMOID",
            "RescaleSlope": 2,
            "RescaleIntercept": -9,
        },
    ],
    ids=lambda header: "-".join(header) or "plain",
)
def test_a_film_looked_up_is_as_one_mapped_pixel_by_pixel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, colours: str, header: dict[str, Any]
) -> None:
    random = np.random.default_rng(8)
    dtype = np.dtype(kind)
    low, high = (-60, 120) if dtype.itemsize == 1 else (-900, 3000)
    monkeypatch.setattr(grey_values, "_BLOCK", 101)  # several blocks, and a rest
    for shape in ((1, 1), (1, 2), (3, 5), (31, 40)):
        values = random.normal((low + high) / 2, (high - low) / 5, shape).clip(low, high)
        stored = (values if dtype.kind == "i" else values - low).astype(dtype)
        path = dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation=colours, **header)
        fast = read_image(path)
        with monkeypatch.context() as patch:
            patch.setattr(reader, "is_small", lambda values: False)
            np.testing.assert_array_equal(fast, read_image(path))


@given(
    values=st.lists(st.integers(-3, 40), min_size=1, max_size=400), scale=st.sampled_from([1.0, 0.1, -7.3])
)
def test_percentiles_of_counted_values(values: list[int], scale: float) -> None:
    distinct, counts = np.unique(values, return_counts=True)
    expected = np.percentile(np.array(values) * scale, PERCENTILES)
    assert grey_values._percentiles_of(distinct * scale, counts) == tuple(expected)


LARGE = """
import sys
from pathlib import Path
import pydicom.pixels.utils, pydicom.pixels.processing
from medbench.data.images import read_image
read_image(Path(sys.argv[1]))
def peak():  # ru_maxrss would start at what the parent had
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
base = peak()
assert read_image(Path(sys.argv[2])).shape == (2000, 2500)
print((peak() - base) / (2000 * 2500))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its peak memory from /proc")
@pytest.mark.parametrize("window", [{}, {"WindowCenter": 2000, "WindowWidth": 3000}], ids=["none", "window"])
def test_a_deep_film_takes_few_bytes_a_pixel(tmp_path: Path, window: dict[str, float]) -> None:
    film = np.random.default_rng(9).integers(0, 4096, (2000, 2500)).astype(np.uint16)
    small = dicom(tmp_path / "a.dcm", film[:20, :20].copy(), BitsStored=12, HighBit=11, **window)
    large = dicom(tmp_path / "b.dcm", film, BitsStored=12, HighBit=11, **window)
    answer = subprocess.run(
        [sys.executable, "-c", LARGE, small, large], capture_output=True, text=True, check=True
    )
    assert 3 < float(answer.stdout) < 12  # file 2, stored values 2, grey 1, blocks of some megabytes


# Lookup tables


def voi(first: int, bits: int, entries: list[int], *, packed: bool = False) -> Dataset:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    if packed:
        table.add_new("LUTData", "OW", bytes(entries))
    else:
        table.add_new("LUTData", "US", entries)
    return table


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_of_8_bit_entries_for_12_bit_values(tmp_path: Path, packed: bool) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = voi(0, 8, [value // 16 for value in range(4096)], packed=packed)
    path = dicom(tmp_path / "a.dcm", ramp, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(path), ramp // 16)


def test_values_beyond_a_table_get_its_first_or_last_entry(tmp_path: Path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = voi(100, 8, list(range(256)))
    path = dicom(tmp_path / "a.dcm", ramp, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    np.testing.assert_array_equal(read_image(path), np.clip(ramp.astype(int) - 100, 0, 255))


def test_a_table_described_as_deeper_than_it_is(tmp_path: Path) -> None:
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = dicom(
        tmp_path / "a.dcm", ramp, BitsStored=12, HighBit=11, VOILUTSequence=[voi(0, 16, list(range(4096)))]
    )
    np.testing.assert_array_equal(read_image(path), np.rint(ramp / 4095 * 255))


def test_a_table_that_is_too_short_is_refused(tmp_path: Path, deep: npt.NDArray[np.uint16]) -> None:
    table = voi(0, 12, list(range(4096)))
    table.LUTDescriptor = [9000, 0, 12]
    with pytest.raises(DataError, match=r"a table of 9,000 entries has 4,096.*export the film again"):
        read_image(dicom(tmp_path / "a.dcm", deep, VOILUTSequence=[table]))


def test_a_modality_table_for_more_values_than_8_bits(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    table = voi(0, 16, list(range(3000, 3000 + 4096)))
    table.ModalityLUTType = "US"
    window = {"WindowCenter": 3128, "WindowWidth": 257}
    image = read_image(dicom(tmp_path / "a.dcm", ramp, ModalityLUTSequence=[table], **window))
    np.testing.assert_allclose(image, ramp, atol=1)


@pytest.mark.parametrize(("name", "kind"), [("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")])
def test_float_pixels(tmp_path: Path, deep: npt.NDArray[np.uint16], name: str, kind: str) -> None:
    values = (deep / 7 - 100).astype(kind)
    values[0, 0] = np.nan
    path = dicom(tmp_path / "a.dcm", deep, BitsAllocated=8 * values.dtype.itemsize)
    import pydicom

    data = pydicom.dcmread(path)
    for unused in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(data, unused)
    setattr(data, name, values.tobytes())
    data.save_as(path)
    low, high = np.percentile(values.ravel()[1:].astype(np.float64), PERCENTILES)
    expected = np.rint(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255)
    expected[0, 0] = 0
    np.testing.assert_array_equal(read_image(path), expected)
    windowed = pydicom.dcmread(path)
    windowed.WindowCenter, windowed.WindowWidth = 0, 200
    windowed.save_as(path)
    image = read_image(path)
    assert image[values > 100].min() == 255 and image[values < -100].max(initial=0) == 0


@pytest.mark.parametrize("entries", [8, 16])
def test_palette(tmp_path: Path, ramp: npt.NDArray[np.uint8], entries: int) -> None:
    tables = {"Red": 255 - np.arange(256), "Green": np.arange(256) // 2, "Blue": np.full(256, 9)}
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour, table in tables.items():
        palette[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, entries]
        wide = table * 257 if entries == 16 else table
        palette[f"{colour}PaletteColorLookupTableData"] = wide.astype(f"<u{entries // 8}").tobytes()
    image = read_image(dicom(tmp_path / "a.dcm", ramp, **palette)).ravel()
    expected = 0.299 * tables["Red"] + 0.587 * tables["Green"] + 0.114 * tables["Blue"]
    np.testing.assert_allclose(image, expected, atol=1)


def test_ybr_becomes_luminance(tmp_path: Path) -> None:
    ycbcr = np.zeros((16, 16, 3), np.uint8)
    ycbcr[..., 0] = np.arange(256).reshape(16, 16)
    ycbcr[..., 1:] = 128
    colour = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "YBR_FULL"}
    image = read_image(dicom(tmp_path / "a.dcm", ycbcr, **colour))
    np.testing.assert_allclose(image, ycbcr[..., 0], atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (4300, 4298)])
def test_tiny_and_very_large_films(tmp_path: Path, shape: tuple[int, int]) -> None:
    film = np.full(shape, 77, np.uint8)
    film[0, 0] = 78
    paths = [dicom(tmp_path / "a.dcm", film)]
    paths += [saved(tmp_path, Image.fromarray(film), name) for name in ("a.png", "a.jpg")]
    for path in paths:
        assert image_size(path) == shape
        square, size = read_square(path, 16, "pad")
        assert size == shape
        assert int(square.max()) in (76, 77, 78)


# What declares more than there can be

BOMB = 60_000


def png_header(side: int) -> bytes:
    import struct
    import zlib

    def block(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = block(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + block(b"IDAT", zlib.compress(bytes(99))) + block(b"IEND", b"")


def jpeg_header(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = side.to_bytes(2, "big") * 2
    return bytes(content)


def bombs(folder: Path, side: int) -> dict[str, Path]:
    """Small files that declare `side` x `side` pixels, in their header or in the compressed pixels alone."""
    small = np.zeros((8, 8), np.uint8)
    (folder / "a.png").write_bytes(png_header(side))
    (folder / "a.jpg").write_bytes(jpeg_header(side))
    found = {"png": folder / "a.png", "jpeg": folder / "a.jpg"}
    found["dicom"] = dicom(folder / "a.dcm", small, Rows=side, Columns=side)
    j2k = b"\xff\x4f\xff\x51" + bytes([0, 41, 0, 0]) + side.to_bytes(4, "big") * 2 + bytes(40)
    for name, syntax, stream in (
        ("dicom_jpeg", JPEGBaseline8Bit, jpeg_header(side)),
        ("dicom_j2k", JPEG2000Lossless, j2k),
    ):
        import pydicom

        data = pydicom.dcmread(dicom(folder / f"{name}.dcm", small))
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([stream])
        data["PixelData"].VR = "OB"
        data.save_as(folder / f"{name}.dcm")
        found[name] = folder / f"{name}.dcm"
    return found


@pytest.mark.parametrize("side", [11_000, BOMB])  # below and above the limit that Pillow has of its own
@pytest.mark.parametrize("name", ["png", "jpeg", "dicom", "dicom_jpeg", "dicom_j2k"])
def test_a_decompression_bomb_is_refused_before_memory_goes(tmp_path: Path, name: str, side: int) -> None:
    import tracemalloc

    path = bombs(tmp_path, side)[name]
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"declares .*more than the 100,000,000 that any film has"
        ) as caught:
            read_image(path)
        with pytest.raises(DataError, match="that any film has"):
            read_square(path, 64, "pad")
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    if name in ("png", "jpeg", "dicom"):
        with pytest.raises(DataError, match="that any film has"):
            image_size(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"NumberOfFrames": 800, "Rows": 256, "Columns": 256}, "holds 800 frames"),
        ({"Rows": 12_000, "Columns": 12_000}, "declares 12,000 x 12,000 pixels"),
    ],
    ids=["frames", "size"],
)
@pytest.mark.parametrize("rest", ["whole", "cut"])
def test_a_header_is_judged_before_pixels_are_read(
    tmp_path: Path, header: dict[str, int], message: str, rest: str
) -> None:
    import tracemalloc

    path = dicom(tmp_path / "a.dcm", np.zeros((2, 2), np.uint8), **header)
    content = bytearray(path.read_bytes())
    count = header.get("NumberOfFrames", 1) * header["Rows"] * header["Columns"]
    content[-8:-4] = count.to_bytes(4, "little")  # the length of the pixels, which come last
    path.write_bytes(content[:-4])
    if rest == "whole":
        os.truncate(path, len(content) - 4 + count)  # a hole, which takes no disk
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom

    film = np.zeros((2000, 2000), np.uint8)
    film[5, 5] = 200
    data = pydicom.dcmread(dicom(tmp_path / "a.dcm", film))
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(tmp_path / "a.dcm")
    assert (tmp_path / "a.dcm").stat().st_size < 20_000
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), film)
    monkeypatch.setattr(reader, "_DEFLATED_MOST", 3_000_000)
    with pytest.raises(DataError, match="inflates to more than 3,000,000 bytes"):
        read_image(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"NumberOfFrames": 2}, "holds 2 frames"),
        (
            {"WindowCenter": 3, "WindowWidth": 0},
            r"window width 0\); export the film again, or correct the window",
        ),
        ({"WindowCenter": 3, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "unknown VOI LUT function CUBIC"),
        ({"Rows": 999}, "can not be decoded"),
        ({"PhotometricInterpretation": "GREY"}, "is GREY, expected one of MONOCHROME1, .*; export the film"),
        ({"PhotometricInterpretation": ""}, "is missing, expected one of"),
    ],
)
def test_dicom_that_is_refused(
    tmp_path: Path, ramp: npt.NDArray[np.uint8], attributes: dict[str, Any], message: str
) -> None:
    path = dicom(tmp_path / "a.dcm", ramp, **attributes)
    with pytest.raises(DataError, match=message):
        read_image(path)


# PNG and JPEG


def saved(tmp_path: Path, picture: Image.Image, name: str = "a.png", **options: Any) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_png_modes(tmp_path: Path, ramp: npt.NDArray[np.uint8], mode: str) -> None:
    picture = Image.fromarray(ramp).convert(mode)
    expected = np.asarray(picture.convert("RGB").convert("L"))
    np.testing.assert_array_equal(read_image(saved(tmp_path, picture)), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparent_pixels_are_black(tmp_path: Path, ramp: npt.NDArray[np.uint8], mode: str) -> None:
    picture = Image.fromarray(ramp).convert(mode)
    alpha = np.full((16, 16), 255, np.uint8)
    alpha[:8], alpha[8] = 0, 128
    picture.putalpha(Image.fromarray(alpha))
    image = read_image(saved(tmp_path, picture))
    assert image[:8].max() == 0
    np.testing.assert_allclose(image[8], ramp[8] / 255 * 128, atol=1)
    np.testing.assert_array_equal(image[9:], ramp[9:])


def test_sixteen_bit_png_is_stretched(tmp_path: Path, deep: npt.NDArray[np.uint16]) -> None:
    low, high = np.percentile(deep, PERCENTILES)
    image = read_image(saved(tmp_path, Image.fromarray(deep)))
    np.testing.assert_array_equal(image, np.rint(np.clip((deep - low) / (high - low), 0, 1) * 255))


def test_sixteen_bit_colour_and_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    film = np.linspace(0, 65535, 300).astype(np.uint16).reshape(15, 20)
    cv2.imwrite(str(tmp_path / "deep.png"), np.dstack([film] * 3))
    np.testing.assert_allclose(read_image(tmp_path / "deep.png"), film / 257, atol=1)
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    picture.putpalette([250, 250, 250, 90, 90, 90, 10, 10, 10])
    path = saved(tmp_path, picture, "palette.png", transparency=1)
    np.testing.assert_array_equal(read_image(path), [[250, 0], [10, 0]])


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_modes(tmp_path: Path, mode: str) -> None:
    smooth = np.linspace(0, 255, 64 * 48).reshape(48, 64).astype(np.uint8)
    path = saved(tmp_path, Image.fromarray(smooth).convert("RGB").convert(mode), "a.jpg", quality=98)
    np.testing.assert_allclose(read_image(path).astype(int), smooth.astype(int), atol=6)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.T),
        (7, lambda a: a[::-1, ::-1].T),
        (6, lambda a: np.rot90(a, -1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_obeyed(
    tmp_path: Path, orientation: int, upright: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> None:
    film = np.arange(24, dtype=np.uint8).reshape(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(film), exif=exif)
    np.testing.assert_array_equal(read_image(path), upright(film))
    assert image_size(path) == upright(film).shape
    photo = saved(tmp_path, Image.fromarray(film), "a.jpg", exif=exif)
    plain = saved(tmp_path, Image.fromarray(film), "b.jpg")
    np.testing.assert_array_equal(read_image(photo), upright(read_image(plain)))


def test_the_size_of_a_png_is_read_without_decoding_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deep: npt.NDArray[np.uint16]
) -> None:
    path = saved(tmp_path, Image.fromarray(deep))

    def refuse(picture: Any) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.PngImagePlugin.PngImageFile.load", refuse)
        assert image_size(path) == deep.shape
    # An orientation behind the pixels counts.
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(tmp_path, Image.fromarray(deep), "turned.png", exif=exif).read_bytes()
    at = content.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(content[at : at + 4], "big")
    path.write_bytes(content[:at] + content[end:-12] + content[at:end] + content[-12:])
    assert image_size(path) == read_image(path).shape == deep.shape[::-1]


def test_the_first_bytes_count_not_the_name(tmp_path: Path, ramp: npt.NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    (tmp_path / "a.dcm").write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), ramp)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "file is empty"),
        (b"<!DOCTYPE html><html>", "a web page, not an image"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer"),
        (b"GIF89a..", "neither DICOM, PNG nor JPEG: it starts with b'GIF89a"),
        (b"\x89PNG\r\n\x1a\n", "the image can not be decoded"),
        (b"\xff\xd8\xff", "the image can not be decoded"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 40, "holds no pixels"),
        (b"\0" * 128 + b"DICM", "holds no pixels"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "film.dcm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(DataError):
        image_size(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "a.png")
    with pytest.raises(DataError, match="can not be opened"):
        read_image(tmp_path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(2).integers(0, 256, (40, 50)).astype(np.uint8)
    buffers = {kind: io.BytesIO() for kind in ("PNG", "JPEG")}
    for kind, buffer in buffers.items():
        Image.fromarray(noise).save(buffer, kind)
    found = {kind: buffer.getvalue() for kind, buffer in buffers.items()}
    deep = noise.astype(np.uint16) * 9
    found["DICOM"] = dicom(folder / "a.dcm", deep, WindowCenter=900, WindowWidth=2000).read_bytes()
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["PNG", "JPEG", "DICOM"]), share=st.floats(0, 0.98))
def test_truncated_files_are_refused(
    files: dict[str, bytes], tmp_path: Path, kind: str, share: float
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(files[kind][: int(len(files[kind]) * share)])
    with pytest.raises(DataError):
        read_image(path)


def test_an_element_of_no_known_kind_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "corrupt"
    samples = b"\x28\x00\x02\x00U"  # SamplesPerPixel, US
    assert files["DICOM"].count(samples + b"S") == 1
    path.write_bytes(files["DICOM"].replace(samples + b"S", samples + b"\0"))
    with pytest.raises(DataError, match="an element of its header can not be read"):
        read_image(path)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["PNG", "JPEG", "DICOM"]),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
)
def test_corrupt_files_read_or_are_refused(
    files: dict[str, bytes], tmp_path: Path, kind: str, changes: list[tuple[float, int]]
) -> None:
    content = bytearray(files[kind])
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path / "corrupt"
    path.write_bytes(content)
    try:
        image = read_image(path)
    except DataError:
        return
    assert image.dtype == np.uint8
    assert image.ndim == 2


# Square


def test_shrinking_averages_over_areas() -> None:
    film = np.random.default_rng(3).integers(0, 256, (64, 96)).astype(np.uint8)
    expected = film.reshape(16, 4, 16, 6).mean((1, 3))
    np.testing.assert_allclose(fit_square(film, 16, "stretch"), expected, atol=1)
    padded = fit_square(film, 48, "pad")
    np.testing.assert_allclose(padded[8:40], film.reshape(32, 2, 48, 2).mean((1, 3)), atol=1)
    assert padded[:8].max() == padded[40:].max() == 0


def test_a_square_film_of_the_right_size_is_kept() -> None:
    film = np.random.default_rng(4).integers(0, 256, (32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(fit_square(film, 32, "pad"), film)
    np.testing.assert_array_equal(fit_square(film, 32, "stretch"), film)


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(1, 48), grey=st.integers(1, 255))
def test_fit_square_of_a_constant_film(height: int, width: int, side: int, grey: int) -> None:
    film = np.full((height, width), grey, np.uint8)
    assert (fit_square(film, side, "stretch") == grey).all()
    square = fit_square(film, side, "pad")
    assert square.shape == (side, side)
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    inside = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert (inside == grey).all()
    longer = max(height, width)
    assert inside.shape == (max(1, round(height * side / longer)), max(1, round(width * side / longer)))
    for part, whole in ((rows, side), (columns, side)):
        before, after = part[0], whole - 1 - part[-1]
        assert after - before in (0, 1)


# Large JPEG files for a small square


def chest(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Something like a film: soft shapes, fine lines, noise, a marker with hard edges."""
    down, across = np.mgrid[:height, :width].astype(np.float32)
    y, x = down / height - 0.5, across / width - 0.5
    film = (
        150 - 110 * np.exp(-(((abs(x) - 0.2) / 0.13) ** 2 + (y / 0.3) ** 2)) + 25 * np.sin(40 * y + 9 * x**2)
    )
    film += 12 * np.sin(across / 3) * (abs(y) < 0.2) + np.random.default_rng(5).normal(0, 5, film.shape)
    film[height // 12 : height // 10, width // 12 : width // 8] = 250
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("side", "fit"), [(48, "pad"), (200, "pad"), (200, "stretch")])
def test_scaled_decoding_differs_little(tmp_path: Path, mode: str, side: int, fit: Fit) -> None:
    path = saved(tmp_path, Image.fromarray(chest(1501, 1307)).convert(mode), "a.jpg", quality=92)
    square, size = read_square(path, side, fit)
    assert size == (1501, 1307)
    assert_close(square, fit_square(read_image(path), side, fit))


def assert_close(scaled: npt.NDArray[np.uint8], full: npt.NDArray[np.uint8]) -> None:
    difference = scaled.astype(int) - full
    assert np.abs(difference).any(), "nothing was scaled"
    assert np.abs(difference).mean() < 1
    assert np.percentile(np.abs(difference), 99) <= 6
    assert abs(difference.mean()) < 0.5


def test_scaled_decoding_of_a_real_film(test_data: Path) -> None:
    [path] = (test_data / "images_text" / "original_files").glob("post-intub*.jpg")
    square, size = read_square(path, 256, "pad")
    assert size == (2708, 3600)
    assert_close(square, fit_square(read_image(path), 256, "pad"))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_scaled_decoding_obeys_the_orientation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(chest(813, 601)), "a.jpg", quality=92, exif=exif)
    square, size = read_square(path, 64, "pad")
    assert size == image_size(path) == read_image(path).shape
    assert_close(square, fit_square(read_image(path), 64, "pad"))


def test_geometry_survives_scaled_decoding(tmp_path: Path) -> None:
    film = np.zeros((1999, 1603), np.uint8)
    film[640:1280, 400:1200] = 255
    path = saved(tmp_path, Image.fromarray(film), "a.jpg", quality=95)
    square, (height, width) = read_square(path, 100, "stretch")
    rows, columns = (np.flatnonzero((square > 127).any(axis)) for axis in (1, 0))
    assert (height, width) == film.shape
    for found, start, end, side in ((rows, 640, 1280, height), (columns, 400, 1200, width)):
        np.testing.assert_allclose(
            [found[0], found[-1] + 1], [start * 100 / side, end * 100 / side], atol=0.75
        )


@pytest.mark.parametrize("name", ["small.jpg", "film.png", "film.dcm", "cmyk.jpg"])
def test_other_files_are_as_fully_decoded(tmp_path: Path, name: str) -> None:
    film = chest(300, 260) if name == "small.jpg" else chest(900, 800)
    path = tmp_path / name
    if name.endswith("dcm"):
        dicom(path, film)
    else:
        Image.fromarray(film).convert("CMYK" if name == "cmyk.jpg" else "L").save(path)
    square, size = read_square(path, 64, "pad")
    assert size == film.shape
    np.testing.assert_array_equal(square, fit_square(read_image(path), 64, "pad"))
