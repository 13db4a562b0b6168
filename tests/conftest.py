"""What all tests share: where real data are, a home of their own, and which tests this machine can run."""

import os
from pathlib import Path

import pytest

# Before anything imports torch: in many small computations more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real films and reports, from MEDBENCH_TEST_DATA."""
    given = os.environ.get("MEDBENCH_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    if given:
        pytest.fail(f"MEDBENCH_TEST_DATA={given} is no folder")
    pytest.skip("no real data: MEDBENCH_TEST_DATA is not set")


@pytest.fixture
def medbench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MEDBENCH_HOME of this test alone, without any other setting of the user's."""
    for name in [
        name for name in os.environ if name.startswith("MEDBENCH_") and name != "MEDBENCH_TEST_DATA"
    ]:
        monkeypatch.delenv(name)
    # Set, not deleted: what the command line sets for its own process is then undone as well.
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    home = tmp_path / "home"
    monkeypatch.setenv("MEDBENCH_HOME", str(home))
    monkeypatch.setenv("MEDBENCH_RESULTS", str(tmp_path / "results"))
    return home
