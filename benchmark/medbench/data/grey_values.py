"""From values of any depth to 8-bit grey: stretched between percentiles, or looked up in a table.

Values of at most 16 bits are never copied as floating point numbers: there are 65,536 of them, and a table says what
each becomes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

PERCENTILES = (0.5, 99.5)
"""Bounds of the stretched range where a file of more than 8 bits names no window. Own choice: markers,
collimator edges and dead pixels make up less than one percent of a film, and minimum and maximum would follow
them."""


def stretch(values: npt.NDArray[np.float64], counts: npt.NDArray[Any] | None = None) -> npt.NDArray[np.uint8]:
    """The range between the two percentiles, stretched over black to white.

    Args:
        values: of the pixels, or the distinct ones.
        counts: of the same shape, how often each of them counts for the percentiles; None, or an array of bool, is for
            once or not at all.
    """
    finite = np.isfinite(values)
    counted = finite if counts is None else finite & (counts > 0)
    if not counted.any():
        return np.zeros(values.shape, np.uint8)
    if counts is None or counts.dtype == np.bool_:
        low, high = np.percentile(values[counted], PERCENTILES)
    else:
        low, high = _percentiles_of(values[counted], counts[counted])
    if low == high:  # nearly all one value: what differs would be lost between equal percentiles
        low, high = values[counted].min(), values[counted].max()
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return to_grey((np.where(finite, values, low) - low) / (high - low))


def _percentiles_of(values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """What `np.percentile(np.repeat(values, counts), PERCENTILES)` is, to the last bit, without that array."""
    order = np.argsort(values)
    values, ends = values[order], np.cumsum(counts[order])
    found = []
    for percentile in PERCENTILES:
        place = float(ends[-1] - 1) * (percentile / 100)
        rank = int(place)
        a = float(values[np.searchsorted(ends, rank, "right")])
        b = float(values[np.searchsorted(ends, min(rank + 1, int(ends[-1]) - 1), "right")])
        share = place - rank
        # From the nearer end, as numpy does, so that both round alike.
        found.append(a + (b - a) * share if share < 0.5 else b - (b - a) * (1 - share))
    return found[0], found[1]


_BLOCK = 1 << 20
"""Pixels that are counted or looked up at a time: numpy widens them to 8 bytes each."""


def is_small(values: npt.NDArray[Any]) -> bool:
    """Whether there are at most 65,536 values that these can have."""
    return bool(np.issubdtype(values.dtype, np.integer)) and values.dtype.itemsize <= 2


def bit_patterns(stored: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Small integers as unsigned bit patterns, without a copy; and every value, at the place that is its pattern."""
    kind = stored.dtype.newbyteorder("=")
    unsigned = np.dtype(f"u{kind.itemsize}")
    every = np.arange(256**kind.itemsize, dtype=unsigned)
    return stored.astype(kind, copy=False).view(unsigned), every.view(kind)


def count_patterns(patterns: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How often each pattern occurs."""
    flat, size = patterns.reshape(-1), 256**patterns.dtype.itemsize
    total = np.zeros(size, np.int64)
    for start in range(0, len(flat), _BLOCK):
        total += np.bincount(flat[start : start + _BLOCK], minlength=size)
    return total


def look_up(table: npt.NDArray[np.uint8], patterns: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The table's entry for each pattern."""
    if patterns.dtype == np.uint8 and (table == np.arange(256)).all():
        return patterns.copy()
    if patterns.dtype == np.uint8:  # numpy takes three times as long
        grey = bytearray(np.ascontiguousarray(patterns)).translate(table.tobytes())
        return np.frombuffer(grey, np.uint8).reshape(patterns.shape)
    flat = patterns.reshape(-1)
    out = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        out[start : start + _BLOCK] = table[flat[start : start + _BLOCK]]
    return out.reshape(patterns.shape)


def luminance(colours: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3 or 4) RGB to (H, W), by ITU-R 601 as PIL does for PNG and JPEG."""
    if colours.dtype != np.uint8 or bits != 8:
        if is_small(colours):
            patterns, every = bit_patterns(colours)
            colours = look_up(to_grey(every / (2.0**bits - 1)), patterns)
        else:
            colours = to_grey(colours / (2.0**bits - 1))
    return np.array(Image.fromarray(np.ascontiguousarray(colours[..., :3])).convert("L"))


def to_grey(unit: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """[0, 1] to 0..255, to the nearest."""
    grey: npt.NDArray[np.uint8] = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return grey
