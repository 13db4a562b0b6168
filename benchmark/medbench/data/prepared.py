"""The prepared cache: every film decoded once, made square, kept as raw bytes that the kernel pages in.

    <cache>/prepared/<key>/         images-0000.npy ... (n, side, side) uint8, of 1 GB at most; index.parquet, a row a
                                    film; about.json; done.json, with a checksum of each file but about.json
    <cache>/prepared/<key>.partial/ the same while it is made; chunks.jsonl, a line for each finished chunk

The key is a hash of what the pixels depend on: the dataset's name, the samples, their files by relative path,
size and time of change, side, fit, and the versions of the reader. Films that another folder of the cache
holds already (of a smaller or larger index of the same dataset, say) are copied from there, not decoded
again. `medbench.data.cache` lists the folders and frees what is of no more use.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.decoding import Chunk, Outcome, Target, decode, decode_one
from medbench.data.images import READER, SCALER, Fit
from medbench.data.index import Index, Problem
from medbench.data.shards import Films, Shards, rows_a_shard
from medbench.data.verify import BrokenSamples, list_problems, outside
from medbench.errors import DataError
from medbench.files import Hold, locked, replacing, sha256_file, write_atomic
from medbench.progress import Progress

CHUNK = 64
"""Films that one task of a worker decodes; what a killed build loses at most, for each worker."""

BYTES_PER_ROW = 300
"""What the parquet and the log take beside the pixels, generously."""

ABOUT, TABLE, DONE, LOG = "about.json", "index.parquet", "done.json", "chunks.jsonl"
"""Files of a folder beside the pixels."""

MAKE_ROOM = (
    "Make room there (`medbench data gc` frees what is of no more use), or set MEDBENCH_CACHE to a folder on a "
    "larger disk."
)

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
        images: (N, side, side) uint8, 0 black to 255 white; row i is row i of the index. One array, or `Shards`,
            which are read like one.
        sizes: (N, 2) int64, height and width of the file in pixels.
        sha256: over the pixels in row order, for the record.
        folder: of the cache, or None for films that are in memory only. As long as this object lives,
            `medbench data gc` leaves the folder alone.
    """

    images: Films
    sizes: npt.NDArray[np.int64]
    sha256: str
    folder: Path | None = None
    _hold: Hold | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., "PreparedImages"], tuple[Any, ...]]:
        if self.folder is None:
            return PreparedImages, (self.images, self.sizes, self.sha256)
        return _reopen, (self.folder,)


def prepare(
    index: Index,
    side: int,
    fit: Fit,
    cache: Path,
    *,
    workers: int,
    progress: Progress,
    check: bool = False,
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
        check: compare what is there with its checksums, and make again what does not agree.

    Raises:
        BrokenImages: films can not be decoded, or boxes lie outside of them.
        DataError: the disk is too small or can not be written, or a file vanished since the index was read.
    """
    films = _films(index)
    about = {
        "dataset": index.dataset,
        "root": str(index.root.absolute()),
        "side": side,
        "fit": fit,
        "reader": READER,
        "scaler": SCALER,
        "count": len(films),
        "rows_a_shard": rows_a_shard(side),
    }
    folder = cache / "prepared" / _key(index.dataset, films, side, fit)
    entry = load(folder)
    if entry is None or entry.broken or check:
        try:
            entry = _made(index.root, films, about, folder, workers, progress, check)
        except OSError as error:
            raise _unwritable(folder.parent, error) from error
    try:
        if entry is None:
            raise FileNotFoundError(folder)
        if entry.about["root"] != about["root"]:
            _move_root(folder, str(about["root"]), progress)
        prepared = None if entry.broken else _opened(entry)
    except FileNotFoundError as error:
        raise DataError(
            f"The prepared images vanished from {folder} while they were opened. Run the command again."
        ) from error
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
    assert prepared is not None  # a broken film is a problem
    return prepared


def _made(
    root: Path,
    films: pd.DataFrame,
    about: dict[str, Any],
    folder: Path,
    workers: int,
    progress: Progress,
    check: bool,
) -> "Entry | None":
    """The folder, made or mended if need be, by one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock"), "preparing the same images", progress):
        entry = load(folder)
        if entry is not None and _mended(root, entry):
            shutil.rmtree(folder)
            entry = None
        if entry is not None and check and not entry.broken and (damaged := entry.damaged()):
            progress.say(f"{folder}: {', '.join(damaged)} does not agree with its checksum: made again")
            entry = None
        if entry is None:
            _build(root, films, about, folder, workers, progress)
            entry = load(folder)
    return entry


def _unwritable(where: Path, error: OSError) -> DataError:
    """What to tell of a disk that is full or can not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    advice = MAKE_ROOM if full else "See that it can be written, or set MEDBENCH_CACHE to another folder."
    file = f", {error.filename}" if error.filename else ""
    return DataError(
        f"The images can not be prepared in {where} ({error.strerror or error}{file}). {advice} What is prepared "
        "already is kept: the same command goes on with it."
    )


def _move_root(folder: Path, root: str, progress: Progress) -> None:
    """Note where the dataset was moved to, for `medbench.data.cache`. Never makes a folder that was freed."""
    temporary = folder / f".{DONE}.{os.getpid()}.tmp"
    try:
        with locked(folder.with_suffix(".lock"), "preparing the same images", progress):
            about = json.loads((folder / DONE).read_text())
            try:
                temporary.write_text(json.dumps({**about, "root": root}, indent=1))
                os.replace(temporary, folder / DONE)
            finally:
                temporary.unlink(missing_ok=True)
    except FileNotFoundError:
        raise
    except OSError:  # a cache that may only be read, or a full disk: the films are there nevertheless
        return


def _opened(entry: "Entry") -> PreparedImages:
    """A sound folder's films, held.

    Raises:
        FileNotFoundError: it was removed since it was looked at.
    """
    hold = Hold(entry.folder / TABLE)
    return PreparedImages(entry.images(), entry.sizes, entry.sha256, entry.folder, hold)


def require_room(index: Index, sizes: Sequence[tuple[int, Fit]], cache: Path) -> None:
    """See that films fit the disk at all of these sizes, before hours are spent on the first of them.

    Raises:
        DataError: they do not; what is there already is not counted.
    """
    films = _films(index)
    todo = [
        side
        for side, fit in sizes
        if load(cache / "prepared" / _key(index.dataset, films, side, fit)) is None
    ]
    need = sum(len(films) * (side**2 + BYTES_PER_ROW) for side in todo)
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise DataError(
            f"Preparing {len(films):,} images at {' and '.join(f'{side} px' for side in todo)} takes "
            f"{_gigabytes(need)}, and {there} has {_gigabytes(free)} free. {MAKE_ROOM}"
        )


def _reopen(folder: Path) -> PreparedImages:
    entry = load(folder)
    try:
        if entry is None:
            raise FileNotFoundError(folder)
        return _opened(entry)
    except FileNotFoundError as error:
        raise DataError(
            f"No prepared images in {folder}: were they removed meanwhile? Run the command again."
        ) from error


# A finished folder


@dataclass(frozen=True)
class Entry:
    """A finished folder of the cache.

    Attributes:
        folder: where it is.
        about: `dataset`, `root`, `side`, `fit`, `reader`, `scaler`, `count`, `sha256` over the pixels in row order, and
            `shards`: `file`, `bytes` and `sha256` of each file; `table`: SHA-256 of index.parquet.
        films: a row a film: the columns of `IDENTITY`, `height`, `width` and `problem`.
    """

    folder: Path
    about: dict[str, Any]
    films: pd.DataFrame

    @property
    def sha256(self) -> str:
        """Over the pixels in row order."""
        return str(self.about["sha256"])

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """(N, 2) height and width of each file in pixels."""
        return self.films[["height", "width"]].to_numpy(np.int64)

    @property
    def broken(self) -> list[Problem]:
        """Films that could not be decoded. Their rows are black, so such a folder is never handed out."""
        bad = self.films[self.films["problem"] != ""]
        return [Problem(str(r.sample), str(r.image), str(r.problem)) for r in bad.itertuples()]

    @property
    def whole(self) -> bool:
        """Whether all of its pixels are there, by the length of the files."""
        try:
            return all(
                (self.folder / shard["file"]).stat().st_size == shard["bytes"]
                for shard in self.about["shards"]
            )
        except FileNotFoundError:
            return False

    def images(self) -> Films:
        """The pixels."""
        parts = [np.load(self.folder / shard["file"], mmap_mode="r") for shard in self.about["shards"]]
        return parts[0] if len(parts) == 1 else Shards(parts)

    def rows(self) -> Iterator[tuple[dict[str, Any], int, int]]:
        """Each shard of `about`, its first row and its end."""
        for shard, (_, first, end) in zip(self.about["shards"], _shards(self.about), strict=True):
            yield shard, first, end

    def damaged(self) -> list[str]:
        """Files that do not agree with their checksum; reads all of them."""
        shards = self.about["shards"]
        return [s["file"] for s in shards if not _agrees(self.folder / s["file"], s["sha256"])]


def _agrees(file: Path, sha256: str) -> bool:
    return file.exists() and sha256_file(file) == sha256


def load(folder: Path) -> Entry | None:
    """A finished folder, or None. Its table is sound and its pixels are all there; one with broken films needs none."""
    try:
        about = json.loads((folder / "done.json").read_text())
        if not _agrees(folder / TABLE, about["table"]):
            return None
        entry = Entry(folder, about, pd.read_parquet(folder / "index.parquet"))
        return entry if entry.broken or entry.whole else None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ):  # not there, damaged from outside, or of an older layout: made again in any case
        return None


def _mended(root: Path, entry: Entry) -> bool:
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
    digest = hashlib.sha256(json.dumps([dataset, side, fit, READER, SCALER]).encode())
    for row in films[IDENTITY].itertuples(index=False):
        digest.update(json.dumps(list(row)).encode())
    return digest.hexdigest()[:32]


def _build(
    root: Path, films: pd.DataFrame, about: dict[str, Any], folder: Path, workers: int, progress: Progress
) -> None:
    partial = folder.with_suffix(".partial")
    if folder.exists():  # damaged: `load` refused it; what is whole of it is kept
        shutil.rmtree(partial, ignore_errors=True)
        folder.rename(partial)
    about, done = _begin(partial, films, about, progress)
    copied, emptied = _copy_from_relatives(films, about, partial, done, progress)
    done |= copied
    work = _chunks(root, films, about, partial, done)
    if work:
        what = f"preparing {about['dataset']} at {about['side']} px"
        with (
            (partial / LOG).open("a") as log,
            progress.track(what, len(films), "images", len(done)) as step,
        ):
            for outcome in decode(work, workers, f"prepares images for {folder.parent}"):
                _note(log, outcome)
                step(len(outcome.rows))
    _finish(films, about, partial, folder)
    for other in emptied:
        for shard in other.glob("images-*.npy"):
            shard.unlink(missing_ok=True)


def _shards(about: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """Name, first row and end of each file."""
    for number, first in enumerate(range(0, about["count"], about["rows_a_shard"])):
        yield f"images-{number:04d}.npy", first, min(first + about["rows_a_shard"], about["count"])


def _chunks(
    root: Path, films: pd.DataFrame, about: dict[str, Any], partial: Path, done: set[int]
) -> list[Chunk]:
    """What is left to decode; a chunk goes into one file."""
    images = films["image"].astype(str).tolist()
    stats = list(films[["bytes", "mtime_ns"]].itertuples(index=False, name=None))
    chunks = []
    for name, first, end in _shards(about):
        target = Target(partial / name, first, about["side"], about["fit"])
        todo = [row for row in range(first, end) if row not in done]
        for start in range(0, len(todo), CHUNK):
            rows = todo[start : start + CHUNK]
            chunks.append(
                Chunk(root, rows, [images[row] for row in rows], target, [stats[row] for row in rows])
            )
    return chunks


def _begin(
    partial: Path, films: pd.DataFrame, about: dict[str, Any], progress: Progress
) -> tuple[dict[str, Any], set[int]]:
    """Make the folder, or take up the one that a killed build or a damaged folder left.

    Returns:
        What about.json says, and the rows that are done there.
    """
    try:
        found = json.loads((partial / ABOUT).read_text())
        moves = {"root": "", "rows_a_shard": 0}  # neither changes a pixel
        if {**found, **moves} != {**about, **moves}:
            raise ValueError("made from something else")
        found["root"] = about["root"]
        about = found
        _reopen_finished(partial)
    except (OSError, ValueError, KeyError, TypeError):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        films.to_parquet(
            partial / TABLE, index=False
        )  # for `medbench.data.cache`, and to be filled in at the end
        write_atomic(partial / ABOUT, json.dumps(about, indent=1).encode())
    missing = [shard for shard in _shards(about) if not (partial / shard[0]).exists()]
    if missing:
        _forget(partial, missing)
        _reserve(partial, missing, about, progress)
    log = partial / LOG
    if log.exists():
        content = log.read_bytes()
        os.truncate(log, content.rfind(b"\n") + 1)  # a kill can cut the last line short
    return about, {row for outcome in _logged(partial) for row in outcome.rows}


def _reopen_finished(partial: Path) -> None:
    """Files of a folder that was finished once count as far as they agree with their checksum."""
    if not (partial / DONE).exists():
        return
    done = json.loads((partial / DONE).read_text())
    if not _agrees(partial / TABLE, done["table"]):
        raise ValueError("sizes and problems are not known")
    films = pd.read_parquet(partial / TABLE)
    sizes = films[["height", "width"]].to_numpy(np.int64).tolist()
    with replacing(partial / LOG) as log, log.open("w") as file:
        _note(file, Outcome(list(range(len(films))), sizes, films["problem"].tolist()))
    for shard in done["shards"]:
        if not _agrees(partial / shard["file"], shard["sha256"]):
            (partial / shard["file"]).unlink(missing_ok=True)
    (partial / DONE).unlink()


def _forget(partial: Path, missing: list[tuple[str, int, int]]) -> None:
    """Take the rows of files that are not there out of the log."""
    if not (partial / LOG).exists():
        return
    lost = {row for _, first, end in missing for row in range(first, end)}
    with replacing(partial / LOG) as log, log.open("w") as file:
        for outcome in _logged(partial):
            keep = [k for k, row in enumerate(outcome.rows) if row not in lost]
            _note(
                file,
                Outcome(
                    [outcome.rows[k] for k in keep],
                    [outcome.sizes[k] for k in keep],
                    [outcome.problems[k] for k in keep],
                ),
            )


def _reserve(
    partial: Path, missing: list[tuple[str, int, int]], about: dict[str, Any], progress: Progress
) -> None:
    """Make files of full length; the disk is theirs from then on."""
    side, count = about["side"], about["count"]
    need = sum(end - first for _, first, end in missing) * side**2 + count * BYTES_PER_ROW
    free = shutil.disk_usage(partial.parent).free
    if need > free:
        if not (partial / LOG).exists():
            shutil.rmtree(partial)
        raise DataError(
            f"Preparing {count:,} images at {side} px takes {_gigabytes(need)}, and {partial.parent} has "
            f"{_gigabytes(free)} free. {MAKE_ROOM}"
        )
    progress.say(
        f"{about['dataset']} at {side} px ({about['fit']}): {count:,} images take {_gigabytes(need)} of the "
        f"{_gigabytes(free)} that {partial.parent} has free"
    )
    made = partial / "making.npy"
    for number, (name, first, end) in enumerate(missing):
        try:
            shape = (end - first, side, side)
            np.lib.format.open_memmap(made, mode="w+", dtype=np.uint8, shape=shape).flush()
            # Otherwise the file has holes, and a disk that fills up later kills the process without a word.
            with made.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, made.stat().st_size)
        except OSError as error:
            if (partial / LOG).exists():  # the other files hold films
                for path in (made, *(partial / name for name, _, _ in missing[:number])):
                    path.unlink(missing_ok=True)
            else:
                shutil.rmtree(partial)
            raise DataError(
                f"{_gigabytes(need)} can not be reserved in {partial.parent} ({error.strerror}). {MAKE_ROOM}"
            ) from error
        made.rename(partial / name)


def _copy_from_relatives(
    films: pd.DataFrame, about: dict[str, Any], partial: Path, done: set[int], progress: Progress
) -> tuple[set[int], list[Path]]:
    """Copy films that other folders of the cache hold.

    Returns:
        Rows that were copied; and folders that hold broken films and gave all their good ones, so that their
        pixels are of no more use (what is broken there stays on record).
    """
    wanted = {key: row for row, key in enumerate(_identities(films)) if row not in done}
    copied: set[int] = set()
    emptied = []
    kin = {name: about[name] for name in ("dataset", "side", "fit", "reader", "scaler")}
    for other in sorted(partial.parent.glob(f"*/{DONE}")):
        if not wanted:
            break
        try:
            if not kin.items() <= json.loads(other.read_text()).items():
                continue
            hold = Hold(other.parent / TABLE)
        except (OSError, ValueError):
            continue
        entry = load(other.parent)
        if entry is None or not entry.whole:
            continue
        pairs = _pairs(entry, wanted, progress)
        good = entry.films["problem"] == ""
        if not good.all() and len(pairs) == good.sum():
            emptied.append(other.parent)
        sizes, pixels = entry.sizes, entry.images()
        with (partial / LOG).open("a") as log:
            for start in range(0, len(pairs), CHUNK):
                theirs, ours = (list(rows) for rows in zip(*pairs[start : start + CHUNK], strict=True))
                _put(partial, about, ours, pixels[theirs])
                _note(log, Outcome(ours, sizes[theirs].tolist(), [""] * len(ours)))
                copied.update(ours)
        del hold
    return copied, emptied


def _pairs(entry: Entry, wanted: dict[tuple[Any, ...], int], progress: Progress) -> list[tuple[int, int]]:
    """Rows of a folder that are wanted, and which they are here; from files that agree with their checksum alone.

    What is found is taken out of `wanted`.
    """
    good = (entry.films["problem"] == "").to_numpy()
    keys = list(_identities(entry.films))
    pairs = []
    for shard, first, end in entry.rows():
        rows = [row for row in range(first, end) if good[row] and keys[row] in wanted]
        if rows and not _agrees(entry.folder / shard["file"], shard["sha256"]):
            progress.say(
                f"{entry.folder}: {shard['file']} does not agree with its checksum: its films are decoded, not copied"
            )
            continue
        pairs += [(row, wanted.pop(keys[row])) for row in rows if keys[row] in wanted]
    return pairs


def _put(partial: Path, about: dict[str, Any], rows: list[int], films: npt.NDArray[np.uint8]) -> None:
    """Write films to rows."""
    for name, first, end in _shards(about):
        here = [(row - first, film) for row, film in zip(rows, films, strict=True) if first <= row < end]
        if here:
            target = np.load(partial / name, mmap_mode="r+")
            for row, film in here:
                target[row] = film
            target.flush()


def _identities(films: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    return films[IDENTITY].itertuples(index=False, name=None)


def _finish(films: pd.DataFrame, about: dict[str, Any], partial: Path, folder: Path) -> None:
    sizes = np.zeros((len(films), 2), np.int64)
    problems = np.full(len(films), "", dtype=object)
    for outcome in _logged(partial):
        sizes[outcome.rows] = np.array(outcome.sizes, np.int64).reshape(-1, 2)
        problems[outcome.rows] = outcome.problems
    table = films.assign(height=sizes[:, 0], width=sizes[:, 1], problem=problems)
    with replacing(partial / TABLE) as path:
        table.to_parquet(path, index=False)
    pixels = hashlib.sha256()
    shards = [
        {"file": name, "bytes": (partial / name).stat().st_size, "sha256": _hash(partial / name, pixels)}
        for name, _, _ in _shards(about)
    ]
    done = {**about, "sha256": pixels.hexdigest(), "shards": shards, "table": sha256_file(partial / TABLE)}
    write_atomic(partial / DONE, (json.dumps(done, indent=1) + "\n").encode())
    (partial / LOG).unlink(missing_ok=True)
    partial.rename(folder)


def _hash(shard: Path, pixels: Any) -> str:
    """SHA-256 of a file; its pixels go to `pixels`, too. Read, not mapped: a map counts as this process's memory."""
    whole = hashlib.sha256()
    with shard.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        length = file.tell()
        file.seek(0)
        whole.update(file.read(length))
        while block := file.read(1 << 20):
            whole.update(block)
            pixels.update(block)
    return whole.hexdigest()


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f} GB"


# The log of finished chunks


def _note(log: Any, outcome: Outcome) -> None:
    log.write(json.dumps([outcome.rows, outcome.sizes, outcome.problems]) + "\n")
    log.flush()


def _logged(partial: Path) -> Iterator[Outcome]:
    """Finished chunks, from the log."""
    log = partial / LOG
    if log.exists():
        with log.open() as file:
            for line in file:
                if line.endswith("\n"):
                    yield Outcome(*json.loads(line))
