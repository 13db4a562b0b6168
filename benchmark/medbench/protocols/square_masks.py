"""Masks of films in the square that the model sees, drawn once and kept as bits."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from medbench.data.images import fit_square
from medbench.data.index import Index
from medbench.data.regions import Mask, boxes_mask, mask_of
from medbench.errors import DataError
from medbench.progress import Progress

Rows = npt.NDArray[np.int64]


class SquareMasks:
    """Masks of films that are stretched to a square; only those with something in them take memory, a bit a pixel.

    A mask is drawn in the pixels of its file, stretched as its film is, and a pixel of the square belongs to it if half
    of its area does. A region much smaller than a pixel of the square leaves nothing.

    Attributes:
        side: of the square, pixels.

    Args:
        index: whose `regions`, or `boxes` where the dataset has no regions, are drawn.
        rows: positions in the index; those of others can not be asked for.
        sizes: (N, 2) height and width of all files of the index in pixels, as `PreparedImages.sizes`.
        side: of the square, pixels.
        labels: of the regions or boxes that count; empty: all.
        progress: where to report to.

    Raises:
        DataError: a film was not annotated, or a mask can not be read or has another size than its film.
    """

    def __init__(
        self,
        index: Index,
        rows: Rows,
        sizes: npt.NDArray[np.int64],
        side: int,
        labels: Sequence[str],
        progress: Progress,
    ) -> None:
        self.side = side
        self._rows = np.unique(rows)
        check_annotated(index, self._rows)
        drawn = np.zeros(len(index), np.bool_)
        drawn[self._rows] = positive_rows(index, labels)[self._rows]
        self._at = np.full(len(index), -1, np.int64)  # row of `_bits`, -1 for an empty mask
        todo = np.flatnonzero(drawn)
        column = outlined_by(index)
        bits = np.zeros((len(todo), -(-(side * side) // 8)), np.uint8)
        kept = 0
        with progress.track("drawing masks", len(todo), "films") as advance:
            for row in todo.tolist():
                mask = file_mask(index, column, row, labels, *sizes[row].tolist())
                square = fit_square(mask.astype(np.uint8) * np.uint8(255), side, "stretch") > 127
                if square.any():
                    bits[kept] = np.packbits(square)
                    self._at[row] = kept
                    kept += 1
                advance(1)
        self._bits = bits[:kept].copy() if kept < len(bits) else bits
        progress.say(
            f"masks of {len(self._rows):,} films at {side} px: {kept:,} are not empty and take "
            f"{self._bits.nbytes / 1e6:,.1f} MB"
        )

    def batch(self, rows: Rows) -> Tensor:
        """(B, side, side) bool on the CPU, of these positions in the index."""
        at = self._at[rows]
        masks = np.zeros((len(rows), self.side**2), np.bool_)
        full = at >= 0
        masks[full] = np.unpackbits(self._bits[at[full]], axis=1, count=self.side**2)
        return torch.from_numpy(masks).view(len(rows), self.side, self.side)


def outlined_by(index: Index) -> str:
    """The column that masks are drawn from: `regions` where any film has them, else `boxes`."""
    return "regions" if bool(index.table["regions"].notna().any()) else "boxes"


def positive_rows(index: Index, labels: Sequence[str]) -> npt.NDArray[np.bool_]:
    """(N,) whether a film has an outline with one of these labels (any, if there are none). No file is opened."""
    column = outlined_by(index)
    names = index.table["box_labels"] if column == "boxes" else pd.Series([None] * len(index), dtype=object)
    return np.array(
        [
            found is not None and any(_counting(found, own, labels))
            for found, own in zip(index.table[column], names, strict=True)
        ],
        dtype=np.bool_,
    )


def check_annotated(index: Index, rows: Rows) -> None:
    """Refuse films that nobody annotated.

    Raises:
        DataError: one of these rows has neither a list of outlines nor an empty one.
    """
    column = outlined_by(index)
    missing = rows[index.table[column].iloc[rows].isna().to_numpy()]
    if len(missing):
        raise DataError(
            f"{index.dataset}: {len(missing):,} of {len(rows):,} films of the split have no {column} (the first is "
            f"{index.table['sample'].iloc[missing[0]]}): nobody annotated them. A film that shows nothing has an empty "
            "list of them (in a table: a mask that is black all over); leave out films that nobody looked at."
        )


def file_mask(index: Index, column: str, row: int, labels: Sequence[str], height: int, width: int) -> Mask:
    """The mask of one film in the pixels of its file: the union of its regions, or of its boxes, filled.

    Args:
        index: of the dataset.
        column: from `outlined_by`, which looks at all films: asked once, not once a film.
        row: position in the index.
        labels: of the regions or boxes that count; empty: all.
        height: of the file, pixels.
        width: of the file, pixels.

    Raises:
        DataError: a mask file can not be read or has another size, or run lengths leave the film.
    """
    found = index.table[column].iloc[row]
    if column == "regions":
        keep = _counting(found, None, labels)
        return mask_of([r for r, k in zip(found, keep, strict=True) if k], height, width, index.root)
    boxes = np.asarray(found, np.float64).reshape(-1, 4)
    names = index.table["box_labels"].iloc[row]
    return boxes_mask(boxes[_counting(list(boxes), names, labels)], height, width)


def _counting(found: Sequence[object], names: Sequence[str] | None, labels: Sequence[str]) -> list[bool]:
    """Which of the regions, or boxes with these names, count."""
    if not labels:
        return [True] * len(found)
    own = [getattr(one, "label", "") for one in found] if names is None else names
    return [name in labels for name in own]
