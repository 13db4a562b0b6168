"""Hundreds of thousands of small files: how large they are, and what the text files among them say.

A listing of every folder would not help: MIMIC-CXR has 227,835 folders of one or two films, and the size of a file
takes a call of its own on Linux anyway. So each file is asked for by its name, several at a time, because on a network
disk it is the waiting that takes the time.
"""

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from medbench.errors import DataError

_T = TypeVar("_T")

MISSING = -1
"""The size of a file that is not there."""

MOST_TEXT = 16 * 2**20
"""Bytes of the longest text that is read. The longest report known here has some ten thousand."""

_THREADS = 16
_BATCH = 8_192
"""Files asked for before what came of them is handed on: bounds the memory that texts take in between."""

_ABSENT = (FileNotFoundError, NotADirectoryError)
"""All that says a file is not there. Of any other trouble (no permission, a broken disk) nobody can know that."""

_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError, ValueError)
"""What `zipfile` raises for an archive it can not read; an encrypted one is a RuntimeError, an unknown compression a
NotImplementedError, which is one, too."""


def file_sizes(folder: Path, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N,) sizes in bytes of the files with these names below a folder; `MISSING` where there is no such file.

    Raises:
        DataError: it can not be told whether a file is there.
    """
    prefix = f"{folder}/"

    def size(name: str) -> int:
        try:
            return os.stat(prefix + name).st_size
        except (*_ABSENT, ValueError):  # a name that no file can have is a ValueError
            return MISSING
        except OSError as error:
            raise _unreadable(prefix + name, error) from None

    return np.fromiter(_each(size, names), np.int64, len(names))


def texts_below(folder: Path, names: Sequence[str]) -> Iterator[str | None]:
    """What the text files with these names below a folder say, in their order; None where there is no such file.

    Bytes that are no UTF-8 become U+FFFD.

    Raises:
        DataError: a file is there and can not be read, or it can not be told whether it is there.
    """
    prefix = f"{folder}/"

    def text(name: str) -> str | None:
        try:
            with open(prefix + name, "rb", buffering=0) as file:
                if (size := os.fstat(file.fileno()).st_size) > MOST_TEXT:
                    raise OSError(_too_long(size))
                return file.read().decode("utf-8", "replace")
        except (*_ABSENT, ValueError):
            return None
        except OSError as error:
            raise _unreadable(prefix + name, error) from None

    return _each(text, names)


def texts_in_zip(path: Path, names: Sequence[str]) -> Iterator[str | None]:
    """What the text files of an archive say, in the order of the names; None where it does not have a file.

    Args:
        path: the archive.
        names: as they would be below a folder; the last three parts of a name decide ("p10/p10000032/s50414267.txt"),
            because archives of one release have been packed with and without the folders above.

    Raises:
        zipfile.BadZipFile: it is no archive, or broken, or encrypted; with the reason, and the file inside it.
        OSError: it can not be read from the disk.
    """
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGED as error:
        raise zipfile.BadZipFile(_reason(error)) from error
    with archive:
        members = {_tail(member.filename): member for member in archive.infolist()}
        for name in names:
            member = members.get(_tail(name))
            yield None if member is None else _member(archive, member).decode("utf-8", "replace")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.file_size > MOST_TEXT:  # `read` stops at what the archive declares
        raise zipfile.BadZipFile(f"{member.filename}: {_too_long(member.file_size)}")
    try:
        return archive.read(member)
    except _DAMAGED as error:
        raise zipfile.BadZipFile(f"{member.filename}: {_reason(error)}") from error
    except OSError as error:
        if error.errno is None:  # what bz2 raises for damaged data; the disk's errors have a number
            raise zipfile.BadZipFile(f"{member.filename}: {_reason(error)}") from error
        raise


def _too_long(size: int) -> str:
    return f"{size:,} bytes, and no report has more than {MOST_TEXT:,}"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _unreadable(path: str, error: OSError) -> DataError:
    return DataError(
        f"{path} can not be read ({error.strerror or error}); expected a file that you may read, or none. Mend its "
        "permissions or the disk, and run the command again."
    )


def _tail(name: str) -> str:
    return "/".join(name.rsplit("/", 3)[-3:])


def _each(ask: Callable[[str], _T], names: Sequence[str]) -> Iterator[_T]:
    with ThreadPool(_THREADS) as pool:
        for start in range(0, len(names), _BATCH):
            yield from pool.map(ask, names[start : start + _BATCH], chunksize=_BATCH // _THREADS)
