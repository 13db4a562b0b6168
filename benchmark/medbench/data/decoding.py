"""Decoding films, into the prepared cache or only to see whether they can be, in as many processes as there are cores.

A worker imports this file and what it needs, and no more: neither pandas nor torch, which take longer to
start than many films take to decode.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medbench.data.images import Fit, read_image, read_square
from medbench.errors import DataError
from medbench.memory import keep_freed_memory

CHANGED = "changed while it was read; run again"
"""Problem of a file that is not the one any more that was asked for."""


@dataclass(frozen=True)
class Chunk:
    """Films for one task of a worker.

    Attributes:
        root: folder that `images` are relative to.
        rows: of the index.
        images: as many paths.
        target: where the films go to; None where it is enough to see that they can be decoded.
        stats: size and time of change (mtime_ns) that each file of a target has to have still when it was read; None
            if that does not matter.
    """

    root: Path
    rows: list[int]
    images: list[str]
    target: "Target | None" = None
    stats: list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Target:
    """A memory map that films are written into.

    Attributes:
        path: of a .npy file, (n, side, side) uint8.
        first: row of the index that is its row 0.
        side, fit: of `fit_square`.
    """

    path: Path
    first: int
    side: int
    fit: Fit


@dataclass(frozen=True)
class Outcome:
    """What came of a chunk.

    Attributes:
        rows: of the index.
        sizes: height and width of each file in pixels; 0, 0 where it could not be decoded.
        problems: why it could not be; "" where it could.
    """

    rows: list[int]
    sizes: list[list[int]]
    problems: list[str]


def decode_one(path: Path, side: int, fit: Fit) -> tuple[npt.NDArray[np.uint8], tuple[int, int]] | str:
    """One film, (side, side), and the height and width of its file; or why there is none."""
    try:
        return read_square(path, side, fit)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")


def _size_of(path: Path) -> tuple[int, int] | str:
    """Height and width of a film that was decoded; or why it can not be."""
    try:
        height, width = read_image(path).shape
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return height, width


def _stat(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None for a file that is gone."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _do(chunk: Chunk) -> Outcome:
    return _check(chunk) if chunk.target is None else _write(chunk, chunk.target)


def _check(chunk: Chunk) -> Outcome:
    found = [_size_of(chunk.root / image) for image in chunk.images]
    sizes = [[0, 0] if isinstance(size, str) else list(size) for size in found]
    return Outcome(chunk.rows, sizes, [size if isinstance(size, str) else "" for size in found])


def _write(chunk: Chunk, target: Target) -> Outcome:
    films = np.load(target.path, mmap_mode="r+")
    sizes, problems = [], []
    for k, (row, image) in enumerate(zip(chunk.rows, chunk.images, strict=True)):
        film = decode_one(chunk.root / image, target.side, target.fit)
        asked = chunk.stats[k] if chunk.stats else None
        if asked and not isinstance(film, str) and _stat(chunk.root / image) != asked:
            film = CHANGED  # what was read belongs under another key
        if isinstance(film, str):
            films[row - target.first] = 0
            sizes.append([0, 0])
            problems.append(film)
        else:
            films[row - target.first] = film[0]
            sizes.append(list(film[1]))
            problems.append("")
    films.flush()  # on disk before the log says so
    return Outcome(chunk.rows, sizes, problems)


def decode(work: Sequence[Chunk], workers: int, what: str) -> Iterator[Outcome]:
    """Decode chunks of films.

    Args:
        work: what to do.
        workers: processes; 1 decodes in this one.
        what: it is that a process does, for a message ("prepares images for FOLDER").

    Yields:
        Outcomes in the order in which they are finished.

    Raises:
        DataError: a process was killed.
    """
    workers = min(workers, len(work))
    if workers <= 1:
        yield from map(_do, work)
        return
    # Spawned, not forked: torch's threads and locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    queue = iter(work)
    try:
        pending: set[Future[Outcome]] = {
            pool.submit(_do, c) for _, c in zip(range(2 * workers), queue, strict=False)
        }
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                outcome = future.result()
                pending |= {pool.submit(_do, c) for _, c in zip(range(1), queue, strict=False)}
                yield outcome
    except BrokenProcessPool as error:
        raise DataError(
            f"A process that {what} was killed, most likely for want of memory. Run the same command again: what was "
            "prepared is kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, do not outlive it, and keep memory from film to film."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
