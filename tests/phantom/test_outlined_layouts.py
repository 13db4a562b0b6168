"""The twins with boxes and masks: the same bytes whatever the workers and the number of patients; what is drawn is what
is outlined."""

import hashlib
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medbench.data.images import read_image
from medbench.phantom import object_cxr

LAYOUTS = ("siim", "object_cxr", "vindr", "tbx11k")


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def module(name: str) -> ModuleType:
    return importlib.import_module(f"medbench.phantom.{name}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_bytes(tmp_path: Path, name: str) -> None:
    layout = module(name)
    films: list[int] = []
    layout.write(tmp_path / "one", patients=42, size=64, advance=films.append)
    assert sum(films) == layout.total(42) == 42
    layout.write(tmp_path / "two", patients=42, size=64, workers=2)
    whole = digest(tmp_path / "one")
    assert digest(tmp_path / "two") == whole
    layout.write(tmp_path / "few", patients=6, size=64)
    few = {file: found for file, found in digest(tmp_path / "few").items() if file.endswith(("m", "g"))}
    assert len(few) == 6  # films: .dcm, .dicom, .jpg, .png
    assert few.items() <= whole.items()
    layout.write(tmp_path / "other", patients=6, seed=1, size=64)
    assert not set(few.values()) & set(digest(tmp_path / "other").values())


def test_a_necklaces_polygon_holds_it(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 20:22] = mask[30, 20:40] = True
    corners = object_cxr._hull(mask)
    assert {(20, 10), (20, 30), (39, 30)} <= set(corners)
    line = np.zeros((64, 64), bool)
    line[5, 10:20] = True
    assert object_cxr._hull(line) == [(10, 5), (20, 5), (20, 6), (10, 6)]


def test_films_stored_upside_down_in_grey_come_out_alike(tmp_path: Path) -> None:
    from medbench.phantom.dicom import dicom_file

    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for inverted in (False, True):
        path = tmp_path / f"{inverted}.dcm"
        path.write_bytes(dicom_file(pixels, 7, "x", "M", "AP", inverted=inverted))
        np.testing.assert_array_equal(read_image(path), pixels)
