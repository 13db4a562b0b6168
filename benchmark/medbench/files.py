"""Files that are whole or not there, and their hashes."""

import fcntl
import hashlib
import os
import re
import secrets
import stat
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from medbench.errors import REFUSALS, DataError, MedbenchError

if TYPE_CHECKING:
    from medbench.progress import Progress


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write the file that is yielded; if nothing is raised it takes the place of `path`, whole, also after a power cut.

    Folders above `path` are made. A power cut may bring back the file that was there before (`sync_folder`).

    Raises:
        OSError: the disk refuses, whatever library found out; it names `path`.
    """
    with _whole(path) as temporary:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)


def write_atomic(path: Path, data: bytes) -> None:
    """Write bytes, so that a reader sees all of them or the file that was there before."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def regular_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file that somebody else may have written.

    Raises:
        DataError: it is no file (a pipe would be waited for, a device never ends), or larger than `most`.
        FileNotFoundError: it is not there.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise DataError(f"{path}: not a file. Move it away.")
    if about.st_size > most:
        raise DataError(f"{path}: {about.st_size:,} bytes, expected at most {most:,}. Move it away.")
    return path.read_bytes()


def create_atomic(path: Path, data: bytes) -> bool:
    """Write bytes to a name that is free, whole; of several who do so at once one succeeds.

    Returns:
        False where a file of that name is there, or somebody was faster; it stays as it is.
    """
    with _whole(path) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: only whoever holds the lease comes here
            if path.exists():
                return False
            os.replace(temporary, path)
        sync_folder(path.parent)  # with the names of what was written beside it before
    return True


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside `path` that no other process, of any host, uses; its file goes in the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
    except MedbenchError:
        raise
    except Exception as error:
        number = _system_error(error)
        if number not in REFUSALS:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    finally:
        with suppress(OSError):  # what was refused before is what the user has to know
            temporary.unlink(missing_ok=True)


def _system_error(error: BaseException | None) -> int:
    """The system's error number behind an exception, 0 for none: torch chains it, a library in Rust prints it."""
    while error is not None:
        if isinstance(error, OSError):
            return error.errno or 0
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return int(found[1])
        error = error.__cause__ or error.__context__
    return 0


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk before going on, where the file system can do that."""
    with suppress(OSError):
        _sync(folder)


def _sync(path: Path) -> None:
    """Have what was written to a file or a folder on disk before going on."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sha256_bytes(data: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(data).hexdigest()


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


class Hold:
    """Keeps a file's folder from being freed, by a shared lock on the file, for as long as this object lives.

    Args:
        file: one that every such folder has.

    Raises:
        FileNotFoundError: there is none.
    """

    def __init__(self, file: Path) -> None:
        opened = os.open(file, os.O_RDONLY)
        weakref.finalize(self, os.close, opened)
        try:
            fcntl.flock(opened, fcntl.LOCK_SH)
        except OSError:  # a file system without locks: nothing keeps it from being freed there
            return


@contextmanager
def unheld(file: Path) -> Iterator[None]:
    """Keep everyone from holding a file (`Hold`); without the file there is nothing to hold.

    Raises:
        BlockingIOError: somebody holds it.
    """
    if not file.exists():
        yield
        return
    with file.open("r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks, where readers have none either
            pass
        yield
