"""Hundreds of thousands of small files: how large they are, and what the text files among them say.

A listing of every folder would not help: MIMIC-CXR has 227,835 folders of one or two films, and the size of a file
takes a call of its own on Linux anyway. So each file is asked for by its name, several at a time, because on a network
disk it is the waiting that takes the time.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T")

MISSING = -1
"""The size of a file that is not there."""

_THREADS = 16
_BATCH = 8_192
"""Files asked for before what came of them is handed on: bounds the memory that texts take in between."""


def file_sizes(folder: Path, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N,) sizes in bytes of the files with these names below a folder; `MISSING` where there is no such file."""
    prefix = f"{folder}/"

    def size(name: str) -> int:
        try:
            return os.stat(prefix + name).st_size
        except OSError:
            return MISSING

    return np.fromiter(_each(size, names), np.int64, len(names))


def texts_below(folder: Path, names: Sequence[str]) -> Iterator[str | None]:
    """What the text files with these names below a folder say, in their order; None where there is no such file.

    Bytes that are no UTF-8 become U+FFFD.
    """
    prefix = f"{folder}/"

    def text(name: str) -> str | None:
        try:
            with open(prefix + name, "rb", buffering=0) as file:
                return file.read().decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError):
            return None

    return _each(text, names)


def texts_in_zip(path: Path, names: Sequence[str]) -> Iterator[str | None]:
    """What the text files of an archive say, in the order of the names; None where it does not have a file.

    Args:
        path: the archive.
        names: as they would be below a folder; the last three parts of a name decide ("p10/p10000032/s50414267.txt"),
            because archives of one release have been packed with and without the folders above.

    Raises:
        zipfile.BadZipFile: it is no archive, or broken.
    """
    with zipfile.ZipFile(path) as archive:
        members = {_tail(member.filename): member for member in archive.infolist()}
        for name in names:
            member = members.get(_tail(name))
            yield None if member is None else archive.read(member).decode("utf-8", "replace")


def _tail(name: str) -> str:
    return "/".join(name.rsplit("/", 3)[-3:])


def _each(ask: Callable[[str], _T], names: Sequence[str]) -> Iterator[_T]:
    with ThreadPool(_THREADS) as pool:
        for start in range(0, len(names), _BATCH):
            yield from pool.map(ask, names[start : start + _BATCH], chunksize=_BATCH // _THREADS)
