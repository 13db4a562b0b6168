"""Films in several files, read as if they were one array."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

SHARD_BYTES = 1_000_000_000
"""Pixels of one file at most: what is copied, checked and made again as a whole. MIMIC-CXR at 256 px is 25 files."""


def rows_a_shard(side: int) -> int:
    """Films of `side` pixels that one file holds."""
    return max(1, SHARD_BYTES // side**2)


class Shards:
    """(N, side, side) uint8 in parts, row after row.

    Args:
        parts: arrays (n, side, side), memory maps most likely, one at least.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[npt.NDArray[np.uint8]]) -> None:
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, side, side)."""
        return len(self), self._parts[0].shape[1], self._parts[0].shape[2]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, rows: Any) -> npt.NDArray[np.uint8]:
        """A copy of rows, which are given as to an array: (side, side) for a number, (M, side, side) for several."""
        wanted = self._all_rows[rows]
        out = np.empty((wanted.size, *self.shape[1:]), np.uint8)
        self.copy_rows(np.atleast_1d(wanted), out)
        return out if wanted.ndim else out[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(dtype or np.uint8, copy=False)

    def copy_rows(self, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]) -> None:
        """Copy rows (M,) into `out` (M, side, side). Sorted rows are read in the order of the files."""
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(which).tolist():
            at = np.flatnonzero(which == part)
            inside = rows[at] - self._starts[part]
            if at[-1] - at[0] + 1 == len(at):
                copy_rows(self._parts[part], inside, out[at[0] : at[-1] + 1])
            else:
                out[at] = self._parts[part][inside]

    @cached_property
    def _all_rows(self) -> npt.NDArray[np.int64]:
        return np.arange(len(self), dtype=np.int64)


Films: TypeAlias = npt.NDArray[np.uint8] | Shards
"""(N, side, side) uint8, in one piece or in several."""


def copy_rows(films: Films, rows: npt.NDArray[np.int64], out: npt.NDArray[np.uint8]) -> None:
    """Copy rows (M,), which must exist, into `out` (M, side, side), without a copy in between."""
    if isinstance(films, Shards):
        films.copy_rows(rows, out)
    else:
        np.take(films, rows, axis=0, out=out, mode="clip")  # "clip" lets numpy write straight into `out`
