"""Many small files, in folders and in an archive."""

import contextlib
import errno
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medbench.data import many_files
from medbench.data.many_files import file_sizes, texts_below, texts_in_zip
from medbench.errors import DataError

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


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG])
def test_a_file_that_can_not_be_asked_for_is_not_missing(
    folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr("medbench.data.many_files.os.stat", fail)
    monkeypatch.setattr("builtins.open", fail)
    for ask in (lambda: file_sizes(folder, NAMES[:1]), lambda: list(texts_below(folder, NAMES[:1]))):
        with pytest.raises(DataError, match=rf"p10/p0/s0\.txt can not be read \({os.strerror(number)}\)"):
            ask()


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "s1.txt").mkdir()
    with pytest.raises(DataError, match=r"s1\.txt can not be read \(Is a directory\)"):
        list(texts_below(tmp_path, ["s1.txt"]))
    (tmp_path / "p1").write_text("")
    assert file_sizes(tmp_path, ["p1/s1.txt"]).tolist() == [-1]
    assert list(texts_below(tmp_path, ["p1/s1.txt"])) == [None]


KINDS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def packed(path: Path, kind: int) -> bytearray:
    """An archive of one report, its bytes."""
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr(NAMES[0], "".join(f"{n * n} opacities. " for n in range(200)))
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_damaged_data(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "a.zip"
    whole = packed(path, kind)
    start = 30 + len(NAMES[0])  # a local header, and its name
    for begin, end in ((start, start + 40), (start + 100, start + 140)):
        path.write_bytes(whole[:begin] + bytes(reversed(whole[begin:end])) + whole[end:])
        with pytest.raises(zipfile.BadZipFile, match=r"^files/p10/p0/s0\.txt: ."):
            list(texts_in_zip(path, NAMES[:1]))


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (6, 1, "encrypted, password required"),
        (8, 97, "compression method"),
        (6, 0x20, "compressed patched data"),
    ],
)
def test_an_archive_of_a_kind_that_is_not_read(tmp_path: Path, at: int, value: int, reason: str) -> None:
    path = tmp_path / "a.zip"
    data = packed(path, zipfile.ZIP_DEFLATED)
    for header in (0, data.index(b"PK\x01\x02") + 2):  # in the central directory there are two bytes more
        data[header + at] = value
    path.write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match=rf"^files/p10/p0/s0\.txt: .*{reason}"):
        list(texts_in_zip(path, NAMES[:1]))


def test_an_archive_that_is_cut_off_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    data = packed(path, zipfile.ZIP_DEFLATED)
    for part in (data[: len(data) // 2], b"", b"PK"):
        path.write_bytes(part)
        with pytest.raises(zipfile.BadZipFile, match="not a zip file"):
            list(texts_in_zip(path, NAMES[:1]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(KINDS.values())),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4),
)
def test_whatever_is_damaged_there_is_one_kind_of_error(
    tmp_path: Path, kind: int, flips: list[tuple[float, int]]
) -> None:
    path = tmp_path / "a.zip"
    data = packed(path, kind)
    for at, bits in flips:
        data[int(at * len(data))] ^= bits
    path.write_bytes(data)
    with contextlib.suppress(zipfile.BadZipFile, OSError):  # which `MimicCxr` says where and why
        assert len(list(texts_in_zip(path, NAMES[:1]))) == 1
