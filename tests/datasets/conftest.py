"""Where the label files of public datasets are, at full size."""

from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def label_files() -> Path:
    """Folder of the label files that the package torchxrayvision carries. The package is not imported."""
    found = find_spec("torchxrayvision")
    if found is None or found.origin is None:
        pytest.skip("torchxrayvision is not installed; it has the label files")
    return Path(found.origin).parent / "data"
