"""The planted plugins, and the example plugin that the methods among them are made of."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from medbench.plugins import Catalogue, load_catalogue

HERE = Path(__file__).resolve().parent
PLANTED = ("planted_methods", "planted_tasks", "planted_datasets")


@pytest.fixture(scope="session")
def planted() -> Iterator[Catalogue]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE.parent / "plugin_example"))
        files = [str(HERE / f"{name}.py") for name in PLANTED]
        yield load_catalogue([*files, "medbench_example"], third_party=False)
    for name in [name for name in sys.modules if name.split(".")[0] in (*PLANTED, "medbench_example")]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where phantoms are written once for all checks."""
    return tmp_path_factory.mktemp("conformance")
