"""The prepared cache: right, found again, gone on with after a kill, safe for two at once, honest about what
is broken."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

from medbench.data import decoding, prepared, shards
from medbench.data.images import Fit, fit_square, read_image, read_square
from medbench.data.index import Index
from medbench.data.prepared import CHUNK, BrokenImages, PreparedImages, prepare, require_room
from medbench.data.shards import Shards
from medbench.data.verify import leave_out
from medbench.errors import DataError
from medbench.files import sha256_file
from medbench.progress import Progress

COUNT = 2 * CHUNK + 22
SIDE = 16


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        shape = (int(random.integers(10, 40)), int(random.integers(10, 40)))
        film = random.integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(film).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def folder(pictures: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(pictures, tmp_path / "pictures"))


def index_of(folder: Path, boxes: dict[int, list[float]] | None = None) -> Index:
    names = sorted(path.name for path in folder.glob("*.png"))
    table = pd.DataFrame({"sample": [name[:3] for name in names], "image": names})
    table["bytes"] = [(folder / name).stat().st_size for name in names]
    given = [np.array([(boxes or {})[n]]) if n in (boxes or {}) else None for n in range(len(names))]
    table["boxes"] = pd.Series(given, dtype=object)
    return Index("tests", folder, "real", table)


def do(index: Index, cache: Path, side: int = SIDE, workers: int = 1) -> PreparedImages:
    return prepare(index, side, "pad", cache, workers=workers, progress=Progress(quiet=True))


def expected(index: Index, side: int = SIDE) -> npt.NDArray[np.uint8]:
    return np.stack([fit_square(read_image(index.root / name), side, "pad") for name in index.table["image"]])


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the films that this process decodes from now on."""
    names: list[str] = []

    def counting(path: Path, side: int, fit: Fit) -> Any:
        names.append(path.name)
        return read_square(path, side, fit)

    monkeypatch.setattr(decoding, "read_square", counting)
    return names


def test_pixels_sizes_and_hash(pictures: Path, tmp_path: Path) -> None:
    index = index_of(pictures)
    films = do(index, tmp_path)
    np.testing.assert_array_equal(films.images, expected(index))
    assert films.images.dtype == np.uint8
    assert films.sizes.dtype == np.int64
    assert films.sizes.tolist() == [list(read_image(pictures / name).shape) for name in index.table["image"]]
    assert films.sha256 == hashlib.sha256(expected(index).tobytes()).hexdigest()
    with pytest.raises(ValueError, match="read-only"):
        films.images[0] = 0


def test_workers_change_nothing(pictures: Path, tmp_path: Path) -> None:
    index = index_of(pictures)
    one, two = do(index, tmp_path / "1"), do(index, tmp_path / "2", workers=2)
    assert one.sha256 == two.sha256
    assert one.folder is not None
    assert two.folder is not None
    assert one.folder.name == two.folder.name


def test_nothing_is_decoded_twice(pictures: Path, tmp_path: Path, decoded: list[str]) -> None:
    index = index_of(pictures)
    first = do(index, tmp_path)
    assert len(decoded) == COUNT
    again = do(index, tmp_path)
    assert len(decoded) == COUNT
    assert again.sha256 == first.sha256


def test_a_smaller_index_is_copied_not_decoded(pictures: Path, tmp_path: Path, decoded: list[str]) -> None:
    index = index_of(pictures)
    do(index, tmp_path)
    decoded.clear()
    some = index.select(np.arange(COUNT) % 3 == 1)
    films = do(some, tmp_path)
    assert not decoded
    np.testing.assert_array_equal(films.images, expected(some))
    np.testing.assert_array_equal(films.sizes, [read_image(pictures / n).shape for n in some.table["image"]])


def test_another_side_fit_or_file_is_another_folder(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    index = index_of(folder)
    folders = {do(index, tmp_path).folder, do(index, tmp_path, side=SIDE + 1).folder}
    stretched = prepare(index, SIDE, "stretch", tmp_path, workers=1, progress=Progress(quiet=True))
    assert len(folders | {stretched.folder}) == 3
    decoded.clear()
    Image.fromarray(np.full((20, 20), 9, np.uint8)).save(folder / "007.png")
    films = do(index, tmp_path)
    assert decoded == ["007.png"]  # the others are copied
    assert (films.images[7] == 9).all()


def test_it_pickles_as_its_path(pictures: Path, tmp_path: Path) -> None:
    films = do(index_of(pictures), tmp_path)
    content = pickle.dumps(films)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, films.images)
    in_memory = PreparedImages(np.zeros((1, 2, 2), np.uint8), np.ones((1, 2), np.int64), "x")
    assert pickle.loads(pickle.dumps(in_memory)).sha256 == "x"


# Killed, damaged, two at once


def test_an_interrupted_build_goes_on(
    pictures: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = index_of(pictures)
    whole = prepared.decode

    def one_chunk(*args: Any) -> Iterator[Any]:
        yield next(whole(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared, "decode", one_chunk)
    with pytest.raises(KeyboardInterrupt):
        do(index, tmp_path)
    assert len(decoded) == CHUNK
    monkeypatch.setattr(prepared, "decode", whole)
    (log,) = (tmp_path / "prepared").glob("*.partial/chunks.jsonl")
    with log.open("a") as file:
        file.write("[[64, 65], [[1")  # as a kill in the middle of a line leaves it
    films = do(index, tmp_path)
    assert len(decoded) == COUNT
    np.testing.assert_array_equal(films.images, expected(index))
    assert not list((tmp_path / "prepared").glob("*.partial"))


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
import test_prepared as t
from medbench.progress import Progress
from medbench.data.prepared import prepare
if __name__ == "__main__":
    prepare(t.index_of(Path(sys.argv[1])), 400, "pad", Path(sys.argv[2]), workers=2,
    progress=Progress(quiet=True))
"""


def children(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_kill_9_leaves_no_workers_and_the_next_run_goes_on(pictures: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    cache = tmp_path / "cache"
    run = subprocess.Popen([sys.executable, script, pictures, cache, Path(__file__).parent])
    wait_for(lambda: list(cache.glob("prepared/*.partial/chunks.jsonl")) or run.poll() is not None)
    workers = children(run.pid)
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    index = index_of(pictures)
    films = do(index, cache, side=400)
    np.testing.assert_array_equal(films.images, expected(index, 400))


def test_the_second_of_two_waits_and_finds_it_done(
    pictures: Path, tmp_path: Path, decoded: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    index = index_of(pictures)
    done = do(index, tmp_path / "other")
    assert done.folder is not None
    decoded.clear()
    folder = tmp_path / "prepared" / done.folder.name
    folder.parent.mkdir()
    first = FileLock(folder.with_suffix(".lock"))
    first.acquire()
    found: list[PreparedImages] = []
    second = threading.Thread(
        target=lambda: found.append(prepare(index, SIDE, "pad", tmp_path, workers=1, progress=Progress()))
    )
    second.start()
    said = ""

    def waits() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return "another process is preparing the same images; waiting" in said

    wait_for(waits)
    shutil.copytree(done.folder, folder)  # what the first one makes meanwhile
    first.release()
    second.join()
    assert not decoded
    assert found[0].sha256 == done.sha256


def test_a_damaged_folder_is_made_again(pictures: Path, tmp_path: Path) -> None:
    index = index_of(pictures)
    films = do(index, tmp_path)
    assert films.folder is not None
    with (films.folder / "images-0000.npy").open("r+b") as file:
        file.truncate(1000)
    np.testing.assert_array_equal(do(index, tmp_path).images, expected(index))


@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_a_damaged_table_is_made_again(
    pictures: Path, tmp_path: Path, decoded: list[str], damage: str
) -> None:
    index = index_of(pictures)
    first = do(index, tmp_path)
    assert first.folder is not None
    table = first.folder / "index.parquet"
    if damage == "gone":
        table.unlink()
    else:
        films = pd.read_parquet(table)
        films.loc[4, "height"] += 1
        films.to_parquet(table, index=False)
    decoded.clear()
    again = do(index, tmp_path)
    assert len(decoded) == COUNT
    np.testing.assert_array_equal(again.sizes, first.sizes)
    done = json.loads((first.folder / "done.json").read_text())
    assert done["table"] == sha256_file(table)


def test_a_film_that_changes_while_it_is_read_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    white = np.full((20, 20), 255, np.uint8)

    def meddling(path: Path, side: int, fit: Fit) -> Any:
        if path.name == "004.png":
            Image.fromarray(white).save(path)  # a copy that goes on, say
        return read_square(path, side, fit)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_square", meddling)
        with pytest.raises(BrokenImages, match=r"004\.png: changed while it was read; run again"):
            do(index_of(folder), tmp_path)
    films = do(index_of(folder), tmp_path)
    assert (films.images[4] == 255).all()
    np.testing.assert_array_equal(films.images, expected(index_of(folder)))


# Several files


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of 40 films."""
    monkeypatch.setattr(shards, "SHARD_BYTES", 40 * SIDE**2 + 7)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("workers", [1, 2])
def test_several_files_hold_the_same_pixels(pictures: Path, tmp_path: Path, workers: int) -> None:
    index = index_of(pictures)
    films = do(index, tmp_path, workers=workers)
    assert isinstance(films.images, Shards)
    np.testing.assert_array_equal(films.images, expected(index))
    assert films.sha256 == hashlib.sha256(expected(index).tobytes()).hexdigest()
    assert films.folder is not None
    done = json.loads((films.folder / "done.json").read_text())
    assert [shard["file"] for shard in done["shards"]] == [f"images-{k:04d}.npy" for k in range(4)]
    for shard in done["shards"]:
        assert sha256_file(films.folder / shard["file"]) == shard["sha256"]
    content = pickle.dumps(films)
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).images, films.images)
    some = index.select(np.arange(COUNT) % 7 == 3)
    np.testing.assert_array_equal(do(some, tmp_path).images, expected(some))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("damage", ["a bit", "cut short", "gone"])
def test_only_a_damaged_file_is_made_again(
    pictures: Path,
    tmp_path: Path,
    decoded: list[str],
    damage: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = index_of(pictures)
    films = do(index, tmp_path)
    assert films.folder is not None
    file = films.folder / "images-0001.npy"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "a bit" else content[:-9])
    decoded.clear()
    settings: dict[str, Any] = {"workers": 1, "progress": Progress()}
    if damage == "a bit":  # its length is right, so that only a look at the checksums finds it
        prepare(index, SIDE, "pad", tmp_path, **settings)
        assert not decoded
    again = prepare(index, SIDE, "pad", tmp_path, check=damage == "a bit", **settings)
    assert decoded == [f"{number:03d}.png" for number in range(40, 80)]
    assert again.sha256 == films.sha256
    np.testing.assert_array_equal(again.images, expected(index))
    assert ("images-0001.npy does not agree with its checksum" in capsys.readouterr().err) == (
        damage == "a bit"
    )


@pytest.mark.usefixtures("small_shards")
def test_films_are_not_copied_from_a_damaged_file(
    pictures: Path,
    tmp_path: Path,
    decoded: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    index = index_of(pictures)
    other = do(index, tmp_path).folder
    assert other is not None
    file = other / "images-0001.npy"
    content = bytearray(file.read_bytes())
    content[-5] ^= 4
    file.write_bytes(content)
    decoded.clear()
    compared: list[str] = []

    def counting(path: Path) -> str:
        compared.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(prepared, "sha256_file", counting)
    some = index.select(np.arange(COUNT) < 100)
    films = prepare(some, SIDE, "pad", tmp_path, workers=1, progress=Progress())
    assert decoded == [f"{number:03d}.png" for number in range(40, 80)]
    np.testing.assert_array_equal(films.images, expected(some))
    said = capsys.readouterr().err
    assert f"{other}: images-0001.npy does not agree with its checksum: its films are decoded" in said
    # Each file once, and the last one, from which nothing is taken, not at all.
    assert [name for name in compared if name.endswith(".npy")] == [f"images-000{k}.npy" for k in range(3)]


class Killed(BaseException):
    pass


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("begun", ["anew", "damaged"])
def test_killed_at_any_step_it_goes_on(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: str
) -> None:
    """A kill before and after every change that the build makes to the folder."""
    index = index_of(pictures).select(np.arange(COUNT) < 90)
    want = expected(index)
    monkeypatch.setattr(prepared, "CHUNK", 17)
    whole = do(index, tmp_path / "whole")
    assert whole.folder is not None
    left = -1

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            result = call(*args, **kwargs)
            left -= 1
            if left == 0:
                raise Killed
            return result

        return counted

    for owner, name in (
        (Path, "rename"),
        (Path, "unlink"),
        (Path, "mkdir"),
        (os, "replace"),
        (os, "posix_fallocate"),
        (shutil, "rmtree"),
        (prepared, "_note"),
        (decoding, "_write"),
    ):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    step = 0
    while True:
        cache = tmp_path / f"{begun}{step}"
        if begun == "damaged":
            shutil.copytree(tmp_path / "whole", cache)
            (cache / "prepared" / whole.folder.name / "images-0001.npy").write_bytes(b"cut short")
        left = step = step + 1
        try:
            films = do(index, cache)
        except Killed:
            left = -1
            films = do(index, cache)
            assert not list(cache.glob("prepared/*.partial"))
            np.testing.assert_array_equal(films.images, want)
            np.testing.assert_array_equal(films.sizes, whole.sizes)
        else:
            break
        shutil.rmtree(cache)
    assert films.sha256 == whole.sha256
    assert step > 15


def test_a_dataset_that_was_moved_is_the_same(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    first = do(index_of(folder), tmp_path)
    moved = folder.rename(tmp_path / "elsewhere")
    decoded.clear()
    second = do(index_of(moved), tmp_path)
    assert not decoded
    assert first.folder == second.folder
    assert second.folder is not None
    assert json.loads((second.folder / "done.json").read_text())["root"] == str(moved)


def test_a_folder_that_was_freed_is_not_made_again_to_note_where_the_films_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = do(index_of(folder), tmp_path).folder
    assert made is not None
    moved = folder.rename(tmp_path / "elsewhere")
    whole = prepared.load

    def then_freed(folder: Path) -> Any:
        entry = whole(folder)
        shutil.rmtree(folder)
        return entry

    monkeypatch.setattr(prepared, "load", then_freed)
    with pytest.raises(DataError, match=r"vanished from .* while they were opened. Run the command again"):
        do(index_of(moved), tmp_path)
    assert not made.exists()


def test_where_the_films_are_is_noted_by_one_process_at_a_time(folder: Path, tmp_path: Path) -> None:
    made = do(index_of(folder), tmp_path).folder
    assert made is not None
    moved = folder.rename(tmp_path / "elsewhere")
    found: list[PreparedImages] = []
    with FileLock(made.with_suffix(".lock")):
        second = threading.Thread(target=lambda: found.append(do(index_of(moved), tmp_path)))
        second.start()
        second.join(0.3)
        assert json.loads((made / "done.json").read_text())["root"] == str(folder)
    second.join()
    assert found[0].folder == made
    assert json.loads((made / "done.json").read_text())["root"] == str(moved)


def test_a_moved_dataset_is_read_from_a_cache_that_can_not_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = do(index_of(folder), tmp_path).folder
    moved = folder.rename(tmp_path / "elsewhere")

    def read_only(*args: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(prepared, "locked", read_only)
    films = do(index_of(moved), tmp_path)
    assert films.folder == made
    np.testing.assert_array_equal(films.images, expected(index_of(moved)))


def test_films_that_vanish_while_they_are_opened(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = do(index_of(pictures), tmp_path).folder
    assert made is not None

    def freed(entry: prepared.Entry) -> Any:
        shutil.rmtree(entry.folder)
        return np.load(entry.folder / "images-0000.npy")

    monkeypatch.setattr(prepared.Entry, "images", freed)
    with pytest.raises(DataError, match=r"vanished from .* while they were opened. Run the command again"):
        do(index_of(pictures), tmp_path)
    with pytest.raises(DataError, match="were they removed meanwhile"):
        prepared._reopen(made)


def test_a_dead_worker_is_an_error_not_a_traceback(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_start_worker", _die)
    with pytest.raises(DataError, match=r"was killed.*what was prepared is kept"):
        do(index_of(pictures), tmp_path, workers=2)


def _die() -> None:
    os._exit(1)


# Broken films, boxes, the disk


def break_some(folder: Path) -> None:
    (folder / "003.png").write_bytes(b"no picture")
    content = (folder / "100.png").read_bytes()
    (folder / "100.png").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_films_are_all_named_and_can_be_left_out(
    folder: Path, tmp_path: Path, decoded: list[str], workers: int
) -> None:
    break_some(folder)
    index = index_of(folder)
    cache = tmp_path / "cache"
    with pytest.raises(BrokenImages) as caught:
        do(index, cache, workers=workers)
    message = str(caught.value)
    assert f"tests: 2 of {COUNT} images have problems in {folder}" in message
    assert "003.png: neither DICOM, PNG nor JPEG: it starts with b'no pictu'" in message
    assert "100.png: the image can not be decoded" in message
    assert "--exclude-broken" in message
    assert [(p.sample, p.path) for p in caught.value.problems] == [("003", "003.png"), ("100", "100.png")]
    assert (caught.value.dataset, caught.value.root) == ("tests", folder)

    decoded.clear()
    rest = leave_out(index, caught.value.problems)
    films = do(rest, cache, workers=workers)
    assert not decoded
    assert len(rest.excluded) == 2
    np.testing.assert_array_equal(films.images, expected(rest))
    # Asked for all of them again, only the broken ones are looked at.
    with pytest.raises(BrokenImages):
        do(index, cache)
    assert sorted(set(decoded)) <= ["003.png", "100.png"]
    # Their pixels are kept once.
    assert len(list(cache.glob("prepared/*/images-*.npy"))) == 1


def test_mended_films_alone_are_decoded(folder: Path, tmp_path: Path, decoded: list[str]) -> None:
    good = (folder / "003.png").read_bytes()
    (folder / "003.png").write_bytes(b"no picture")
    cache = tmp_path / "cache"
    with pytest.raises(BrokenImages):
        do(index_of(folder), cache)
    decoded.clear()
    (folder / "003.png").write_bytes(good)
    films = do(index_of(folder), cache)
    assert decoded == ["003.png"]
    np.testing.assert_array_equal(films.images, expected(index_of(folder)))


def test_a_film_that_could_not_be_read_for_a_while(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_decoder(path: Path, side: int, fit: Fit) -> Any:
        raise DataError(f"{path}: no decoder")

    index = index_of(pictures)
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "read_square", no_decoder)
        with pytest.raises(BrokenImages, match=rf"{COUNT} of {COUNT} images have problems"):
            do(index, tmp_path)
    np.testing.assert_array_equal(do(index, tmp_path).images, expected(index))


def test_boxes_outside_their_image(pictures: Path, tmp_path: Path, decoded: list[str]) -> None:
    height, width = read_image(pictures / "005.png").shape
    inside = [0.0, 0.0, width + 0.5, height]
    assert len(do(index_of(pictures, {5: inside}), tmp_path).images) == COUNT
    outside = [width - 5.0, 2.0, 7.0, 3.0]
    index = index_of(pictures, {5: inside, 8: [0, 0, 5, 5], 9: [0, 0, 5, 999]})
    boxes = index.table["boxes"].tolist()
    boxes[5] = np.array([inside, outside])
    index.table["boxes"] = pd.Series(boxes, dtype=object)
    decoded.clear()
    with pytest.raises(BrokenImages) as caught:
        do(index, tmp_path)
    assert "2 x box outside its image" in str(caught.value)
    where = f"(x, y, width, height: {width - 5}, 2, 7, 3; the image is {width} x {height})"
    assert f"005.png: box outside its image {where}" in str(caught.value)
    assert len(do(leave_out(index, caught.value.problems), tmp_path).images) == COUNT - 2
    assert not decoded


def test_many_broken_films_are_counted(folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        (folder / f"{number:03d}.png").write_bytes(b"")
    with pytest.raises(BrokenImages, match="30 x file is empty") as caught:
        do(index_of(folder), tmp_path)
    assert "... and 20 more" in str(caught.value)
    assert "010.png" not in str(caught.value)


def test_a_disk_that_is_too_small_is_refused_with_numbers(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        DataError, match=r"Preparing 150 images at 1000 px takes 0\.15 GB, and .* has 0\.00 GB free"
    ):
        do(index_of(pictures), tmp_path, side=1000)
    assert not list(tmp_path.glob("prepared/*.partial"))


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_can_not_be_reserved_keeps_the_finished_files(
    pictures: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 40 * SIDE**2 + 7)
    index = index_of(pictures)
    made = do(index, tmp_path).folder
    assert made is not None
    for number in (1, 2):
        (made / f"images-000{number}.npy").unlink()
    reserved = os.posix_fallocate
    calls = []

    def second_is_too_much(*args: Any) -> None:
        calls.append(args)
        (full if len(calls) == 2 else reserved)(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", second_is_too_much)
        with pytest.raises(
            DataError, match=r"can not be reserved in .*No space left.*`medbench data gc`.*MEDBENCH_CACHE"
        ):
            do(index, tmp_path)
    left = sorted(path.name for path in made.with_suffix(".partial").glob("*.npy"))
    assert left == ["images-0000.npy", "images-0003.npy"]
    decoded.clear()
    np.testing.assert_array_equal(do(index, tmp_path).images, expected(index))
    assert decoded == [f"{number:03d}.png" for number in range(40, 120)]


def test_a_disk_that_can_not_be_reserved_is_left_empty(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="can not be reserved"):
        do(index_of(pictures), tmp_path)
    assert not list(tmp_path.glob("prepared/*.partial"))


@pytest.mark.parametrize("where", ["log", "table", "at the end", "about"])
def test_a_disk_that_fills_up_is_no_traceback(
    pictures: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    index = index_of(pictures)
    parquet = pd.DataFrame.to_parquet
    with monkeypatch.context() as patch:
        if where == "log":
            patch.setattr(prepared, "_note", full)
        elif where == "table":
            patch.setattr(pd.DataFrame, "to_parquet", full)
        elif where == "at the end":
            patch.setattr(
                pd.DataFrame,
                "to_parquet",
                lambda films, *a, **k: (full if "height" in films else parquet)(films, *a, **k),
            )
        else:
            patch.setattr(prepared, "write_atomic", full)
        with pytest.raises(DataError) as caught:
            do(index, tmp_path)
    message = str(caught.value)
    assert f"can not be prepared in {tmp_path / 'prepared'} (No space left on device" in message
    assert "`medbench data gc`" in message and "the same command goes on" in message
    if where == "at the end":
        decoded.clear()
    np.testing.assert_array_equal(do(index, tmp_path).images, expected(index))
    assert len(decoded) == (0 if where == "at the end" else COUNT + CHUNK * (where == "log"))


def test_a_cache_that_can_not_be_written_is_no_traceback(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"can not be prepared in .*prepared.*set MEDBENCH_CACHE to another"):
        do(index_of(pictures), tmp_path)


def test_a_file_that_vanished(folder: Path, tmp_path: Path) -> None:
    index = index_of(folder)
    (folder / "004.png").unlink()
    with pytest.raises(DataError, match=r"004\.png is gone since the index was read"):
        do(index, tmp_path)


def test_disk_use_and_progress_are_shown(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(index_of(pictures), 200, "pad", tmp_path, workers=1, progress=Progress("phantom"))
    use, start, *_ = capsys.readouterr().err.splitlines()
    assert use.startswith(f"[phantom] tests at 200 px (pad): {COUNT} images take 0.01 GB of the ")
    assert use.endswith(f" GB that {tmp_path / 'prepared'} has free")
    assert start == f"[phantom] preparing tests at 200 px: {COUNT} images"


def test_importing_is_cheap() -> None:
    code = (
        "import sys, medbench.data.decoding; assert 'pandas' not in sys.modules, 'pandas';"
        "import medbench.data.prepared, medbench.data.verify;"
        "print([m for m in ('torch', 'sklearn', 'pydicom', 'cv2') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_all_sizes_are_held_against_the_disk_at_once(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, cache = index_of(pictures), tmp_path / "cache"
    usage = shutil.disk_usage(tmp_path)._replace(free=COUNT * (30**2 + 500))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    require_room(index, [(30, "pad")], cache)
    with pytest.raises(
        DataError, match=r"150 images at 30 px and 20 px takes 0\.00 GB, and .* has 0\.00 GB free"
    ):
        require_room(index, [(30, "pad"), (20, "pad")], cache)
    do(index, cache, side=30)
    require_room(index, [(30, "pad"), (20, "pad")], cache)  # what is there takes no more
