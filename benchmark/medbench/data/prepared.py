"""The prepared cache: every film decoded once, made square, kept as raw bytes that the kernel pages in.

    <cache>/prepared/<key>/         images.npy (N, side, side) uint8; index.parquet, a row a film; done.json
    <cache>/prepared/<key>.partial/ the same while it is made; chunks.jsonl, a line for each finished chunk

The key is a hash of what the pixels depend on: the dataset's name, the samples, their files by relative path,
size and time of change, side, fit, and the version of the reader. Films that another folder of the cache
holds already (of a smaller or larger index of the same dataset, say) are copied from there, not decoded
again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.decoding import Chunk, Outcome, decode, decode_one
from medbench.data.images import READER, Fit
from medbench.data.index import Index, Problem
from medbench.data.verify import BrokenSamples, list_problems, outside
from medbench.errors import DataError
from medbench.files import locked
from medbench.progress import Progress

CHUNK = 64
"""Films that one task of a worker decodes; what a killed build loses at most, for each worker."""

BYTES_PER_ROW = 300
"""What the parquet and the log take beside the pixels, generously."""

IDENTITY = ["sample", "image", "bytes", "mtime_ns"]
"""Columns that tell whether a film in another folder of the cache is the same one."""


class BrokenImages(BrokenSamples):
    """Images that can not be decoded, or have boxes outside of them.

    With `--exclude-broken` the caller leaves these samples out of the index
    (`medbench.data.verify.leave_out`) and prepares again, which decodes nothing twice.
    """


@dataclass(frozen=True)
class PreparedImages:
    """Read-only view of prepared films.

    Pickles as the path of its folder, so that the workers of a loader map the file themselves.

    Attributes:
        images: (N, side, side) uint8, 0 black to 255 white; row i is row i of the index.
        sizes: (N, 2) int64, height and width of the file in pixels.
        sha256: over the pixels in row order, for the record.
        folder: of the cache, or None for films that are in memory only.
    """

    images: npt.NDArray[np.uint8]
    sizes: npt.NDArray[np.int64]
    sha256: str
    folder: Path | None = None

    def __reduce__(self) -> tuple[Callable[..., "PreparedImages"], tuple[Any, ...]]:
        if self.folder is None:
            return PreparedImages, (self.images, self.sizes, self.sha256)
        return _reopen, (self.folder,)


def prepare(
    index: Index, side: int, fit: Fit, cache: Path, *, workers: int, progress: Progress
) -> PreparedImages:
    """Decode and resize all films of an index, or find them done.

    May be called by several processes at once (the second one waits), be killed and called again (it goes on
    at the first unfinished chunk).

    Args:
        index: what to prepare; its rows are the rows of the result.
        side: pixels of the square's side.
        fit: how a film becomes square.
        cache: folder of the cache; made if need be.
        workers: processes that decode; 1 decodes in this one.
        progress: where to report to.

    Raises:
        BrokenImages: films can not be decoded, or boxes lie outside of them.
        DataError: the disk is too small, or a file vanished since the index was read.
    """
    films = _films(index)
    folder = cache / "prepared" / _key(index.dataset, films, side, fit)
    entry = _load(folder)
    if entry is None or entry.broken:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock"), "preparing the same images", progress):
            entry = _load(folder)
            if entry is not None and _mended(index.root, entry):
                shutil.rmtree(folder)
                entry = None
            if entry is None:
                _build(index, films, side, fit, folder, workers, progress)
                entry = _load(folder)
    if entry is None:
        raise DataError(
            f"The prepared images vanished from {folder} while they were opened. Run the command again."
        )
    problems = entry.broken + outside(index, entry.sizes)
    if problems:
        raise BrokenImages(
            f"{index.dataset}: {len({p.sample for p in problems}):,} of {len(index):,} images have problems "
            f"in {index.root}:\n{list_problems(problems)}\n"
            "Mend them (only what has changed is decoded again), or leave these samples out with "
            "--exclude-broken.",
            index,
            problems,
        )
    return PreparedImages(entry.images(), entry.sizes, entry.sha256, folder)


def _reopen(folder: Path) -> PreparedImages:
    entry = _load(folder)
    if entry is None:
        raise DataError(
            f"No prepared images in {folder}: were they removed meanwhile? Run the command again."
        )
    return PreparedImages(entry.images(), entry.sizes, entry.sha256, folder)


# A finished folder


@dataclass(frozen=True)
class _Entry:
    folder: Path
    films: pd.DataFrame
    sha256: str

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return self.films[["height", "width"]].to_numpy(np.int64)

    @property
    def broken(self) -> list[Problem]:
        """Films that could not be decoded. Their rows are black, so such a folder is never handed out."""
        bad = self.films[self.films["problem"] != ""]
        return [Problem(str(r.sample), str(r.image), str(r.problem)) for r in bad.itertuples()]

    def images(self) -> npt.NDArray[np.uint8]:
        return np.load(self.folder / "images.npy", mmap_mode="r")  # type: ignore[no-any-return]  # stub says Any


def _load(folder: Path) -> _Entry | None:
    """A finished folder, or None. Its pixels are all there; one with broken films needs none."""
    try:
        done = json.loads((folder / "done.json").read_text())
        entry = _Entry(folder, pd.read_parquet(folder / "index.parquet"), done["sha256"])
        if not entry.broken and entry.images().shape != (len(entry.films), done["side"], done["side"]):
            return None
    except (OSError, ValueError):  # not there, or damaged from outside: made again either way
        return None
    return entry


def _mended(root: Path, entry: _Entry) -> bool:
    """Whether a film that could not be decoded can be now (another decoder, a disk that is back)."""
    return any(not isinstance(decode_one(root / problem.path, 1, "pad"), str) for problem in entry.broken)


# Making one


def _films(index: Index) -> pd.DataFrame:
    """One row a film: the columns of `IDENTITY`."""
    films = index.table[["sample", "image"]].copy()
    stats = []
    for image in films["image"]:
        try:
            stats.append(os.stat(index.root / image))
        except OSError as error:
            raise DataError(
                f"{index.dataset}: {index.root / image} is gone since the index was read ({error.strerror}). "
                "Put it back, or run again with --exclude-broken."
            ) from error
    films["bytes"] = np.array([s.st_size for s in stats], np.int64)
    films["mtime_ns"] = np.array([s.st_mtime_ns for s in stats], np.int64)
    return films


def _key(dataset: str, films: pd.DataFrame, side: int, fit: Fit) -> str:
    digest = hashlib.sha256(json.dumps([dataset, side, fit, READER]).encode())
    for row in films[IDENTITY].itertuples(index=False):
        digest.update(json.dumps(list(row)).encode())
    return digest.hexdigest()[:32]


def _build(
    index: Index, films: pd.DataFrame, side: int, fit: Fit, folder: Path, workers: int, progress: Progress
) -> None:
    partial = folder.with_suffix(".partial")
    if folder.exists():  # damaged: `_load` refused it
        shutil.rmtree(folder)
    done = _begin(partial, len(films), side)
    copied, emptied = _copy_from_relatives(index.dataset, films, side, fit, partial, done)
    done |= copied
    todo = [row for row in range(len(films)) if row not in done]
    chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
    work = [
        Chunk(
            partial / "images.npy", index.root, side, fit, rows, [str(films["image"].iloc[r]) for r in rows]
        )
        for rows in chunks
    ]
    if work:
        what = f"preparing {index.dataset} at {side} px"
        with (
            (partial / "chunks.jsonl").open("a") as log,
            progress.track(what, len(films), "images", len(done)) as step,
        ):
            for outcome in decode(work, min(workers, len(work)), folder.parent):
                _note(log, outcome)
                step(len(outcome.rows))
    _finish(index.dataset, films, side, fit, partial, folder)
    for other in emptied:
        (other / "images.npy").unlink(missing_ok=True)


def _begin(partial: Path, count: int, side: int) -> set[int]:
    """Make the folder or take up the one that a killed build left; rows that are done there."""
    images = partial / "images.npy"
    if not images.exists():
        shutil.rmtree(partial, ignore_errors=True)
        need = count * (side * side + BYTES_PER_ROW)
        free = shutil.disk_usage(partial.parent).free
        if need > free:
            raise DataError(
                f"Preparing {count:,} images at {side} px takes {_gigabytes(need)}, and {partial.parent} has "
                f"{_gigabytes(free)} free. Make room there, or set MEDBENCH_CACHE to a folder on a larger "
                "disk."
            )
        partial.mkdir()
        made = partial / "making.npy"
        np.lib.format.open_memmap(made, mode="w+", dtype=np.uint8, shape=(count, side, side)).flush()
        try:
            # Otherwise the file has holes, and a disk that fills up later kills the process without a word.
            with made.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, made.stat().st_size)
        except OSError as error:
            shutil.rmtree(partial)
            raise DataError(
                f"{_gigabytes(need)} can not be reserved in {partial.parent} ({error.strerror})."
            ) from error
        made.rename(images)
    log = partial / "chunks.jsonl"
    if log.exists():
        content = log.read_bytes()
        os.truncate(log, content.rfind(b"\n") + 1)  # a kill can cut the last line short
    return {row for outcome in _logged(partial) for row in outcome.rows}


def _copy_from_relatives(
    dataset: str, films: pd.DataFrame, side: int, fit: Fit, partial: Path, done: set[int]
) -> tuple[set[int], list[Path]]:
    """Copy films that other folders of the cache hold.

    Returns:
        Rows that were copied; and folders that hold broken films and gave all their good ones, so that their
        pixels are of no more use (what is broken there stays on record).
    """
    wanted = {key: row for row, key in enumerate(_identities(films)) if row not in done}
    copied: set[int] = set()
    emptied = []
    kin = {"dataset": dataset, "side": side, "fit": fit, "reader": READER}
    for other in sorted(partial.parent.glob("*/done.json")):
        if not wanted:
            break
        try:
            meta = json.loads(other.read_text())
        except (OSError, ValueError):
            continue
        entry = _load(other.parent) if kin.items() <= meta.items() else None
        if entry is None or not (other.parent / "images.npy").exists():
            continue
        good = (entry.films["problem"] == "").to_numpy()
        pairs = [
            (row, wanted.pop(key))
            for row, key in enumerate(_identities(entry.films))
            if good[row] and key in wanted
        ]
        if not good.all() and len(pairs) == good.sum():
            emptied.append(other.parent)
        source = entry.images()
        target = np.load(partial / "images.npy", mmap_mode="r+")
        with (partial / "chunks.jsonl").open("a") as log:
            for start in range(0, len(pairs), CHUNK):
                theirs, ours = (list(rows) for rows in zip(*pairs[start : start + CHUNK], strict=True))
                target[ours] = source[theirs]
                target.flush()
                _note(log, Outcome(ours, entry.sizes[theirs].tolist(), [""] * len(ours)))
                copied.update(ours)
    return copied, emptied


def _identities(films: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return films[IDENTITY].itertuples(index=False, name=None)


def _finish(dataset: str, films: pd.DataFrame, side: int, fit: Fit, partial: Path, folder: Path) -> None:
    sizes = np.zeros((len(films), 2), np.int64)
    problems = np.full(len(films), "", dtype=object)
    for outcome in _logged(partial):
        sizes[outcome.rows] = np.array(outcome.sizes, np.int64).reshape(-1, 2)
        problems[outcome.rows] = outcome.problems
    table = films.assign(height=sizes[:, 0], width=sizes[:, 1], problem=problems)
    table.to_parquet(partial / "index.parquet", index=False)
    images = np.load(partial / "images.npy", mmap_mode="r")
    digest = hashlib.sha256()
    for start in range(0, len(images), 4096):
        digest.update(np.ascontiguousarray(images[start : start + 4096]).data)
    done = {"dataset": dataset, "side": side, "fit": fit, "reader": READER, "count": len(films)}
    done["sha256"] = digest.hexdigest()
    (partial / "done.json").write_text(json.dumps(done, indent=1) + "\n")
    (partial / "chunks.jsonl").unlink(missing_ok=True)
    partial.rename(folder)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


# The log of finished chunks


def _note(log: Any, outcome: Outcome) -> None:
    log.write(json.dumps([outcome.rows, outcome.sizes, outcome.problems]) + "\n")
    log.flush()


def _logged(partial: Path) -> Iterator[Outcome]:
    """Finished chunks, from the log."""
    log = partial / "chunks.jsonl"
    if log.exists():
        for line in log.read_text().splitlines():
            yield Outcome(*json.loads(line))
