"""Kept features: whole or not there, checked when they are opened, made by one process at a time."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from medbench import feature_cache
from medbench.feature_cache import ABOUT, ARRAY, FeatureCache, Identity, Kept, free, held
from medbench.progress import Progress

IDENTITY = Identity("weights", "probe", {"size": 8}, "pad", "pooled", "float32", "films", "rows")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


def get(
    root: Path,
    identity: Identity = IDENTITY,
    rows: npt.NDArray[np.float32] = ROWS,
    fill: Callable[[npt.NDArray[Any]], None] | None = None,
) -> Kept | None:
    def copy(array: npt.NDArray[Any]) -> None:
        array[:] = rows

    return FeatureCache(root, Progress()).get(identity, rows.shape, "features", {"method": "m"}, fill or copy)


def never(array: npt.NDArray[Any]) -> None:
    raise AssertionError("they are there")


def test_what_was_written_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, found = get(tmp_path), get(tmp_path, fill=never)
    assert made is not None and found is not None
    np.testing.assert_array_equal(made.array, ROWS)
    np.testing.assert_array_equal(found.array, ROWS)
    assert isinstance(found.array, np.memmap) and found.array.flags.writeable
    [entry] = held(tmp_path, check=True)
    assert (entry.state, entry.about["method"], entry.maps) == ("sound", "m", False)
    assert entry.folder == made.folder == tmp_path / IDENTITY.key()
    said = capsys.readouterr().err.splitlines()
    assert said == [f"features take 0 MB in {made.folder}", f"features: found in {made.folder}"]


def test_every_part_of_the_identity_is_in_the_key() -> None:
    keys = {IDENTITY.key()}
    for name in ("encoder", "probe", "fit", "kind", "dtype", "films", "rows"):
        keys.add(replace(IDENTITY, **{name: "another"}).key())
    keys.add(replace(IDENTITY, preprocessing={"size": 9}).key())
    assert len(keys) == 9


def test_another_version_makes_another_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    get(tmp_path)
    monkeypatch.setattr(feature_cache, "VERSION", 99)
    get(tmp_path)
    assert sorted(entry.state for entry in held(tmp_path)) == ["of another version", "sound"]


def cut(folder: Path) -> None:
    with (folder / ARRAY).open("r+b") as file:
        file.truncate(130)


def flip(folder: Path) -> None:
    content = bytearray((folder / ARRAY).read_bytes())
    content[-1] ^= 1
    (folder / ARRAY).write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        flip,
        lambda folder: (folder / ARRAY).unlink(),
        lambda folder: (folder / ABOUT).unlink(),
        lambda folder: (folder / ABOUT).write_text('{"bytes": '),
        lambda folder: (folder / ABOUT).write_text("[]"),
        lambda folder: (folder / ABOUT).write_text("{}"),
    ],
    ids=["cut", "flipped", "no array", "no about", "half of about", "a list", "nothing said"],
)
def test_what_is_not_as_it_was_written_is_made_anew(
    damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = get(tmp_path)
    assert made is not None
    damage(made.folder)
    [entry] = held(tmp_path, check=True)
    assert entry.state == "damaged"
    again = get(tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.array, ROWS)
    assert f"{made.folder} is not as it was written: its features are made anew" in capsys.readouterr().err
    assert [entry.state for entry in held(tmp_path, check=True)] == ["sound"]


def test_of_a_large_file_some_blocks_are_checked_at_once_and_all_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "BLOCK", 64)
    monkeypatch.setattr(feature_cache, "CHECKED", 3)
    rows = np.zeros((100, 10), np.float32)
    made = get(tmp_path, rows=rows)
    assert made is not None
    about = json.loads((made.folder / ABOUT).read_text())
    count = len(about["blocks"])
    assert count == -(-about["bytes"] // 64) > 60
    noticed = []
    for number in range(count):
        content = bytearray((made.folder / ARRAY).read_bytes())
        content[64 * number] ^= 1
        (made.folder / ARRAY).write_bytes(content)
        noticed.append(not feature_cache._sound(made.folder, about, 3))
        assert [entry.state for entry in held(tmp_path, check=True)] == ["damaged"]
        assert [entry.state for entry in held(tmp_path)] == ["sound"]
        content[64 * number] ^= 1
        (made.folder / ARRAY).write_bytes(content)
    assert [number for number in range(count) if noticed[number]] == [0, round((count - 1) / 2), count - 1]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(array: npt.NDArray[Any]) -> None:
        array[0] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, fill=interrupted)
    assert held(tmp_path) == []
    assert get(tmp_path) is not None


def test_what_a_killed_process_leaves_is_not_opened_and_can_be_freed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from medbench.feature_cache import FeatureCache, Identity; from medbench.progress import Progress;"
        "identity = Identity('weights', 'probe', {'size': 8}, 'pad', 'pooled', 'float32', 'films', 'rows');"
        "FeatureCache(Path(sys.argv[1]), Progress()).get("
        "    identity, (4, 3), 'features', {}, lambda array: os.kill(os.getpid(), signal.SIGKILL))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60)
    assert done.returncode == -9
    [left] = held(tmp_path)
    assert (left.state, left.folder.suffix) == ("unfinished", ".partial")
    kept = get(tmp_path)
    assert kept is not None
    np.testing.assert_array_equal(kept.array, ROWS)
    assert [entry.state for entry in held(tmp_path)] == ["sound"]
    shutil.copytree(kept.folder, kept.folder.with_name("other.partial"))
    assert [entry.folder.name for entry in free(held(tmp_path))] == ["other.partial"]


def test_a_second_process_waits_and_takes_what_the_first_made(tmp_path: Path) -> None:
    """The first one holds the lock until the second one says that it waits."""
    code = (
        "import sys; from pathlib import Path;"
        "from medbench.feature_cache import FeatureCache, Identity; from medbench.progress import Progress;"
        "identity = Identity('weights', 'probe', {'size': 8}, 'pad', 'pooled', 'float32', 'films', 'rows');"
        "kept = FeatureCache(Path(sys.argv[1]), Progress()).get(identity, (4, 3), 'features', {}, None);"
        "print(kept.array.sum())"
    )
    other: list[subprocess.Popen[str]] = []

    def fill(array: npt.NDArray[Any]) -> None:
        other.append(
            subprocess.Popen(
                [sys.executable, "-c", code, tmp_path],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        assert other[0].stderr is not None
        assert "another process is extracting the same features" in other[0].stderr.readline()
        array[:] = ROWS

    assert get(tmp_path, fill=fill) is not None
    out, error = other[0].communicate(timeout=60)
    assert float(out) == ROWS.sum(), error


def test_what_is_in_use_or_being_made_is_not_freed(tmp_path: Path) -> None:
    kept = get(tmp_path)
    assert kept is not None
    assert free(held(tmp_path)) == []
    del kept
    with FileLock(tmp_path / f"{IDENTITY.key()}.lock"):
        assert free(held(tmp_path)) == []
    assert len(free(held(tmp_path))) == 1
    assert held(tmp_path) == []


def test_the_last_use_is_noted(tmp_path: Path) -> None:
    for name in "ab":
        kept = get(tmp_path, replace(IDENTITY, encoder=name))
        assert kept is not None
        os.utime(kept.folder / ABOUT, (1000 + ord(name), 1000 + ord(name)))
    assert [entry.about["identity"]["encoder"] for entry in held(tmp_path)] == ["b", "a"]
    start = time.time()
    get(tmp_path, replace(IDENTITY, encoder="a"), fill=never)
    first, second = held(tmp_path)
    assert first.about["identity"]["encoder"] == "a"
    assert first.used > start - 60 > second.used


def test_a_disk_that_does_not_take_them_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert get(tmp_path) is None
    assert "features are not kept: No space left on device" in capsys.readouterr().err
    assert held(tmp_path) == []
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": 2 * ROWS.nbytes - 2}))
    assert get(tmp_path) is None
    assert "of which half may be taken" in capsys.readouterr().err
    monkeypatch.undo()
    (tmp_path / "file").touch()
    assert get(tmp_path / "file") is None
    assert "features are not kept: File exists" in capsys.readouterr().err
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert get(tmp_path) is None
    assert f"features are not kept: {tmp_path} can not be written to" in capsys.readouterr().err


def test_a_cache_of_somebody_else_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what may not be locked, nor what may not be removed, nor what may not be listed."""
    lock = tmp_path / f"{IDENTITY.key()}.lock"
    lock.mkdir()  # opening it fails, as that of a file of another user does
    assert get(tmp_path) is None
    assert f"features are not kept: Is a directory ({lock})" in capsys.readouterr().err
    lock.rmdir()
    kept = get(tmp_path)
    assert kept is not None
    cut(kept.folder)
    del kept

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert get(tmp_path) is None
    assert "features are not kept: Permission denied" in capsys.readouterr().err
    assert free(held(tmp_path)) == []
    maps = replace(IDENTITY, kind="patches")
    monkeypatch.setattr(feature_cache, "MAPS_BYTES", 0)
    for encoder in "ab":  # eviction is asked for, and refused
        assert get(tmp_path, replace(maps, encoder=encoder)) is not None
    FeatureCache(tmp_path, Progress()).trim()
    assert [entry.maps for entry in held(tmp_path)].count(True) == 2

    def unlisted(root: Path) -> list[Any]:
        raise PermissionError(13, "Permission denied", str(root))

    monkeypatch.setattr(feature_cache, "held", unlisted)
    FeatureCache(tmp_path, Progress()).trim()


def test_an_error_of_the_extraction_is_not_taken_for_one_of_the_cache(tmp_path: Path) -> None:
    def fill(array: npt.NDArray[Any]) -> None:
        raise FileNotFoundError("a film")

    with pytest.raises(FileNotFoundError, match="a film"):
        get(tmp_path, fill=fill)
    assert held(tmp_path) == []


@pytest.mark.parametrize("kind", ["patches", "maps of 3 levels"])
def test_all_maps_count_and_what_a_killed_process_left_goes_first(kind: str, tmp_path: Path) -> None:
    identity = replace(IDENTITY, kind=kind)
    kept = get(tmp_path, identity)
    assert kept is not None
    shutil.copytree(kept.folder, tmp_path / "left.partial")
    shutil.copytree(kept.folder, tmp_path / "made.partial")
    (tmp_path / "made.partial" / ABOUT).unlink()
    del kept
    with FileLock(tmp_path / "made.lock"):
        FeatureCache(tmp_path, Progress()).trim()
        names = {entry.folder.name: entry.maps for entry in held(tmp_path)}
        assert names == {identity.key(): True, "made.partial": False}
    FeatureCache(tmp_path, Progress()).trim()
    assert [entry.folder.name for entry in held(tmp_path)] == [identity.key()]


def test_nothing_stays_of_what_was_freed(tmp_path: Path) -> None:
    get(tmp_path)
    assert len(free(held(tmp_path))) == 1
    assert list(tmp_path.iterdir()) == []
    assert get(tmp_path) is not None


def test_features_are_in_use_as_long_as_a_part_of_them_is(tmp_path: Path) -> None:
    kept = get(tmp_path)
    assert kept is not None
    part = kept.array[1:, :2]
    del kept
    assert free(held(tmp_path)) == []
    np.testing.assert_array_equal(part, ROWS[1:, :2])
    del part
    assert len(free(held(tmp_path))) == 1


def test_nothing_is_held_where_nothing_is(tmp_path: Path) -> None:
    assert held(tmp_path / "nowhere") == []
    FeatureCache(tmp_path / "nowhere", Progress()).trim()
