"""Decoding films into the prepared cache, in as many processes as there are cores for it.

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

from medbench.data.images import Fit, fit_square, read_image
from medbench.errors import DataError


@dataclass(frozen=True)
class Chunk:
    """Films for one task of a worker.

    Attributes:
        target: the memory map, (N, side, side) uint8.
        root: folder that `images` are relative to.
        side, fit: of `fit_square`.
        rows: of the memory map.
        images: as many paths.
    """

    target: Path
    root: Path
    side: int
    fit: Fit
    rows: list[int]
    images: list[str]


@dataclass(frozen=True)
class Outcome:
    """What came of a chunk.

    Attributes:
        rows: of the memory map.
        sizes: height and width of each file in pixels; 0, 0 where it could not be decoded.
        problems: why it could not be; "" where it could.
    """

    rows: list[int]
    sizes: list[list[int]]
    problems: list[str]


def decode_one(path: Path, side: int, fit: Fit) -> tuple[npt.NDArray[np.uint8], tuple[int, int]] | str:
    """One film, (side, side), and the height and width of its file; or why there is none."""
    try:
        image = read_image(path)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ")
    return fit_square(image, side, fit), (image.shape[0], image.shape[1])


def _do(chunk: Chunk) -> Outcome:
    target = np.load(chunk.target, mmap_mode="r+")
    sizes, problems = [], []
    for row, image in zip(chunk.rows, chunk.images, strict=True):
        film = decode_one(chunk.root / image, chunk.side, chunk.fit)
        if isinstance(film, str):
            target[row] = 0
            sizes.append([0, 0])
            problems.append(film)
        else:
            target[row] = film[0]
            sizes.append(list(film[1]))
            problems.append("")
    target.flush()  # on disk before the log says so
    return Outcome(chunk.rows, sizes, problems)


def decode(work: Sequence[Chunk], workers: int, cache: Path) -> Iterator[Outcome]:
    """Decode chunks into their memory map.

    Args:
        work: what to do.
        workers: processes; 1 decodes in this one.
        cache: folder that a message names.

    Yields:
        Outcomes in the order in which they are finished.

    Raises:
        DataError: a process was killed.
    """
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
            f"A process that prepares images for {cache} was killed, most likely for want of memory. Run the "
            "same command again: it goes on where it stopped."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
