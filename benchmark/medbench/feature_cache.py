"""Features of frozen encoders on disk, under a name made of everything that they depend on.

    <cache>/features/<key>/          features.npy (M, V), a row a film; about.json with the checksums
    <cache>/features/<key>.partial/  the same while it is made
    <cache>/features/<key>.lock      held by the process that makes or frees it

A folder appears whole, by a rename, and never changes. What is opened is checked first, and made anew if it is not what
was written. Part of the name is what the encoder gives for a few films, bit for bit: so changed code, another library
or another device never meets features that it would not give itself.

Pooled features stay until `medbench features gc` frees them. Feature maps are large: those used longest ago are freed
as soon as all of them together take more than `MAPS_BYTES`.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from medbench.files import Hold, locked, unheld, write_atomic
from medbench.progress import Progress

FOLDER: Final = "features"
"""Of the user's cache."""

VERSION: Final = 1
"""Of how features are extracted and written; raised when the same inputs would give others."""

MAPS_BYTES: Final = 8 * 2**30
"""Disk that the feature maps of all encoders may take together once nobody uses them."""

BLOCK: Final = 8 * 2**20
"""Bytes under one checksum."""

CHECKED: Final = 32
"""Blocks that are checked when a folder is opened: all of a file of up to 256 MB, an even choice of a larger one."""

ARRAY, ABOUT = "features.npy", "about.json"

State = Literal["sound", "unfinished", "damaged", "of another version"]


@dataclass(frozen=True)
class Identity:
    """What features depend on.

    Attributes:
        encoder: SHA-256 that names the weights.
        probe: SHA-256 over what the encoder gives for a few films.
        preprocessing: fields of `medbench.model.Preprocessing`.
        fit: how the films became square.
        kind: `pooled`; or of feature maps `maps of N levels`, `patches`.
        dtype: numpy's name.
        films: SHA-256 over the pixels of all prepared films.
        rows: SHA-256 over the positions of those that were asked for.
    """

    encoder: str
    probe: str
    preprocessing: Mapping[str, Any]
    fit: str
    kind: str
    dtype: str
    films: str
    rows: str

    def key(self) -> str:
        """Name of the folder."""
        text = json.dumps({"version": VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Kept:
    """Features on disk.

    Attributes:
        array: (M, V), mapped; writing to it changes nothing on disk. As long as it or a view of it lives nobody frees
            the folder.
        folder: where it is.
    """

    array: npt.NDArray[Any]
    folder: Path


@dataclass(frozen=True)
class Entry:
    """A folder of the cache, for `medbench features ls`.

    Attributes:
        folder: where it is; ends in `.partial` if it is unfinished.
        about: what it says of itself, empty where it says nothing: `identity`, and whose features of what.
        bytes: of disk.
        used: when it was opened last, seconds since 1970.
        state: whether it can be used, and if not why.
    """

    folder: Path
    about: Mapping[str, Any]
    bytes: int
    used: float
    state: State

    @property
    def maps(self) -> bool:
        """Whether it holds feature maps."""
        kind: str = self.about.get("identity", {}).get("kind", "pooled")
        return kind != "pooled"


class FeatureCache:
    """A folder of features.

    Args:
        root: made if need be.
        progress: where to report to.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress

    def get(
        self,
        identity: Identity,
        shape: tuple[int, int],
        what: str,
        about: Mapping[str, Any],
        fill: Callable[[npt.NDArray[Any]], None],
    ) -> Kept | None:
        """The features, found or made now; a second process that asks for the same ones waits for the first.

        Args:
            identity: what they depend on.
            shape: of the array.
            what: they are, for the user ("features of 5,000 films").
            about: for the user who lists them: `method`, `dataset`, `split`, `films`.
            fill: writes into the array; called where they are not there or not sound.

        Returns:
            None where the disk does not take them, which is said.
        """
        folder = self.root / identity.key()
        kept = self._open(folder)
        if kept is not None:
            self.progress.say(f"{what}: found in {folder}")
            return kept
        try:
            with ExitStack() as lock:
                with self._refused():
                    self._begin_root()
                    lock.enter_context(
                        locked(folder.with_suffix(".lock"), "extracting the same features", self.progress)
                    )
                    if folder.exists() and (kept := self._open(folder)) is None:
                        self.progress.say(f"{folder} is not as it was written: its features are made anew")
                        shutil.rmtree(folder)
                if kept is None:
                    self._make(folder, identity, shape, what, about, fill)
                    kept = self._open(folder)
        except _NoRoomError as error:
            self.progress.say(f"{what} are not kept: {error}")
            return None
        return kept

    def trim(self, room: int = 0) -> None:
        """Free the feature maps used longest ago, until the others and `room` bytes more take at most `MAPS_BYTES`.

        Before them goes what killed processes left unfinished. What a process uses or makes is left alone, and so is
        what this one may not remove.
        """
        try:
            entries = held(self.root)
        except OSError:  # a cache that may not be listed
            return
        for entry in free(entry for entry in entries if entry.state == "unfinished"):
            self.progress.say(f"freed {entry.folder}, which a killed process left")
        maps = sorted((entry for entry in entries if entry.maps), key=lambda entry: entry.used)
        total = sum(entry.bytes for entry in maps)
        for entry in maps:
            if total + room <= MAPS_BYTES:
                return
            if free([entry]):
                total -= entry.bytes
                self.progress.say(
                    f"freed {entry.bytes / 1e9:,.2f} GB of feature maps in {entry.folder}, those used longest ago: "
                    f"at most {MAPS_BYTES / 1e9:,.1f} GB of maps are kept"
                )

    def _open(self, folder: Path) -> Kept | None:
        """What is in a folder, held; None if it is not there or not sound."""
        try:
            hold = Hold(folder / ABOUT)
            about = json.loads((folder / ABOUT).read_text())
            if not _sound(folder, about, CHECKED):
                return None
            array = np.load(folder / ARRAY, mmap_mode="c")
            array.hold = hold  # lives as long as the mapping
        except (OSError, ValueError, LookupError, TypeError):  # not there, or damaged in whatever way
            return None
        with suppress(OSError):  # a cache that may only be read
            os.utime(folder / ABOUT)
        return Kept(array, folder)

    def _make(
        self,
        folder: Path,
        identity: Identity,
        shape: tuple[int, int],
        what: str,
        about: Mapping[str, Any],
        fill: Callable[[npt.NDArray[Any]], None],
    ) -> None:
        array = self._begin(folder, identity, shape, what)
        try:
            fill(array)
        except BaseException:  # an interruption, too: nothing of it can be used
            shutil.rmtree(folder.with_suffix(".partial"), ignore_errors=True)
            raise
        with self._refused():
            self._finish(folder, identity, array, about)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        """What the system refuses costs the user the cache, not the run.

        Raises:
            _NoRoomError: in place of every other OSError.
        """
        try:
            yield
        except _NoRoomError:
            raise
        except OSError as error:
            raise _NoRoomError(f"{error.strerror or error} ({error.filename or self.root})") from error

    def _begin_root(self) -> None:
        """Make the cache's folder.

        Raises:
            OSError: it can not be made or written to.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if not os.access(self.root, os.W_OK):
            raise _NoRoomError(f"{self.root} can not be written to")

    def _begin(self, folder: Path, identity: Identity, shape: tuple[int, int], what: str) -> npt.NDArray[Any]:
        """An array on disk that has its whole length.

        Raises:
            _NoRoomError: the disk has not.
        """
        partial = folder.with_suffix(".partial")
        size = int(np.prod(shape)) * np.dtype(identity.dtype).itemsize
        if identity.kind != "pooled":
            self.trim(size)
        with self._refused():
            try:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                # The other half is for checkpoints and whoever else writes.
                if size > (free_bytes := shutil.disk_usage(partial).free) // 2:
                    raise _NoRoomError(
                        f"they take {size / 1e9:,.2f} GB, and {self.root} has {free_bytes / 1e9:,.2f} GB free, of "
                        "which half may be taken"
                    )
                array = np.lib.format.open_memmap(
                    partial / ARRAY, mode="w+", dtype=np.dtype(identity.dtype), shape=shape
                )
                # Otherwise the file has holes, and a disk that fills up later kills the process without a word.
                with (partial / ARRAY).open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        self.progress.say(f"{what} take {size / 1e6:,.0f} MB in {folder}")
        return array

    def _finish(
        self, folder: Path, identity: Identity, array: npt.NDArray[Any], about: Mapping[str, Any]
    ) -> None:
        partial = folder.with_suffix(".partial")
        array.flush()  # type: ignore[attr-defined]  # of a memmap
        file = partial / ARRAY
        with file.open("rb") as written:
            os.fsync(written.fileno())
        content = {
            "version": VERSION,
            "identity": asdict(identity),
            **about,
            "made": time.time(),
            "bytes": file.stat().st_size,
            "blocks": [digest for _, digest in _digests(file, None)],
        }
        write_atomic(partial / ABOUT, json.dumps(content).encode())
        partial.rename(folder)


class _NoRoomError(OSError):
    """The disk does not take the features."""


def held(root: Path, check: bool = False) -> list[Entry]:
    """Every folder of features below `root`, the one used last first.

    Args:
        root: of a `FeatureCache`.
        check: hold every block against its checksum, not only the length of the file.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    found = []
    for folder in folders:
        try:
            about = dict(json.loads((folder / ABOUT).read_text()))
            used = (folder / ABOUT).stat().st_mtime
        except (OSError, ValueError, TypeError):
            about, used = {}, _mtime(folder)
        found.append(Entry(folder, about, _size(folder), used, _state(folder, about, check)))
    return sorted(found, key=lambda entry: -entry.used)


def free(entries: Iterable[Entry]) -> list[Entry]:
    """Remove folders with their locks.

    Those that a process makes or uses are left alone, and those that this one may not remove, in a cache that several
    users share.

    Returns:
        What was removed.
    """
    from filelock import FileLock

    freed = []
    for entry in entries:
        lock = entry.folder.with_suffix(".lock")
        try:
            with FileLock(lock, timeout=0):
                with unheld(entry.folder / ABOUT):
                    shutil.rmtree(entry.folder)
                lock.unlink()  # while it is held: who comes later makes a new one
        except OSError:  # being made (filelock's Timeout is one), in use, gone already, or somebody else's
            continue
        freed.append(entry)
    return freed


def _state(folder: Path, about: Mapping[str, Any], check: bool) -> State:
    if folder.suffix == ".partial":
        return "unfinished"
    if about and about.get("version") != VERSION:
        return "of another version"
    try:
        return "sound" if _sound(folder, about, None if check else 0) else "damaged"
    except (OSError, LookupError, TypeError):
        return "damaged"


def _sound(folder: Path, about: Mapping[str, Any], blocks: int | None) -> bool:
    """Whether a folder is what was written, by the file's length and as many of its blocks; None: by all of them."""
    file = folder / ARRAY
    if file.stat().st_size != about["bytes"]:
        return False
    return all(digest == about["blocks"][number] for number, digest in _digests(file, blocks))


def _digests(file: Path, most: int | None) -> Iterator[tuple[int, str]]:
    """Number and SHA-256 of at most `most` blocks, the first (with the header) and the last among them."""
    count = -(-file.stat().st_size // BLOCK)
    numbers: Iterable[int] = range(count)
    if most is not None and most < count:
        numbers = sorted({round(k * (count - 1) / (most - 1)) for k in range(most)}) if most > 1 else ()
    with file.open("rb") as opened:
        for number in numbers:
            opened.seek(number * BLOCK)
            yield number, hashlib.sha256(opened.read(BLOCK)).hexdigest()


def _size(folder: Path) -> int:
    total = 0
    try:
        for path in folder.iterdir():
            total += path.lstat().st_size
    except FileNotFoundError:  # freed or renamed by a run beside this one
        return total
    return total


def _mtime(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
