"""Files that are whole or not there, and their hashes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medbench.progress import Progress


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write the file that is yielded; if nothing is raised it takes the place of `path`, whole, also after a power cut.

    Folders above `path` are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> None:
    """Write bytes, so that a reader sees all of them or the file that was there before."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(path: Path, what: str, progress: "Progress") -> Iterator[None]:
    """Hold a lock among processes; says so where another one has it. The system frees it when a process dies.

    Args:
        path: of the lock's file.
        what: what a process that holds it is doing, for the user who waits.
        progress: where to say it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"another process is {what}; waiting for it ({path})")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
