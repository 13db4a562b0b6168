"""Films of a few pixels in the formats of the datasets, and the real label files of torchxrayvision."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medbench.phantom.dicom import dicom_file


@pytest.fixture(scope="session")
def label_files() -> Path:
    """Folder of real label files at full size; the package is looked for, never imported."""
    found = importlib.util.find_spec("torchxrayvision")
    if found is None or found.origin is None:
        pytest.skip("torchxrayvision, which ships the label files, is not installed")
    return Path(found.origin).parent / "data"


def film(path: Path, height: int = 20, width: int = 30, *, inverted: bool = False) -> None:
    """A film that holds a gradient, in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)
    if path.suffix in (".dcm", ".dicom"):
        path.write_bytes(dicom_file(pixels, 123, "x", "F", "PA", inverted=inverted))
    else:
        Image.fromarray(pixels).save(path)


@pytest.fixture
def make_film() -> object:
    """The function `film`."""
    return film
