"""Many small files, in folders and in an archive."""

import zipfile
from pathlib import Path

import pytest

from medbench.data import many_files
from medbench.data.many_files import file_sizes, texts_below, texts_in_zip

NAMES = [f"files/p10/p{n}/s{n}.txt" for n in range(50)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the files with even numbers."""
    for number, name in enumerate(NAMES):
        if number % 2 == 0:
            path = tmp_path / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"\xe9" * number)
    return tmp_path


@pytest.mark.parametrize("batch", [8_192, 16])
def test_sizes_and_texts_are_in_the_order_of_the_names(
    folder: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(many_files, "_BATCH", batch)
    assert file_sizes(folder, NAMES).tolist() == [-1 if n % 2 else n for n in range(50)]
    assert list(texts_below(folder, NAMES)) == [None if n % 2 else "\ufffd" * n for n in range(50)]
    assert file_sizes(folder, []).tolist() == list(texts_below(folder, [])) == []


@pytest.mark.parametrize("prefix", ["files", "mimic-cxr-reports/files", "."])
def test_an_archive_may_have_other_folders_above(tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in NAMES[:3]:
            archive.writestr(name.replace("files", prefix, 1), name)
    assert list(texts_in_zip(tmp_path / "a.zip", NAMES[:4])) == [*NAMES[:3], None]
