"""Boxes of a split, and their names, in pixels of the file and in pixels of the square that a model looks at."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.errors import DataError
from medbench.metrics.detection import OBJECT

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.object_]


def named_boxes(boxes: Any, names: Any, wanted: Sequence[str]) -> tuple[Floats, Names]:
    """The boxes of a film that count.

    Args:
        boxes: of the index; not None.
        names: one a box, of the index; None where they have none.
        wanted: names that count; empty: all.

    Returns:
        (G, 4) x y width height in pixels of the file, and (G,) names, `OBJECT` where there is none.
    """
    found = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    given = np.full(len(found), OBJECT, object)
    if names is not None:
        given[:] = [str(name) for name in names]
    keep = np.isin(given.astype(str), list(wanted)) if wanted else np.ones(len(found), np.bool_)
    return found[keep], given[keep]


class SquareBoxes:
    """Boxes in both frames.

    Attributes:
        classes: names that boxes of the training part have, sorted: what a detector can learn, at every fraction.

    Args:
        index: of the dataset.
        split: whose films are read.
        sizes: (N, 2) height and width of the files, pixels.
        side: of the square, pixels.
        wanted: names that count; empty: all.

    Raises:
        DataError: a film was not annotated, or no training film has a box.
    """

    def __init__(
        self,
        index: Index,
        split: Split,
        sizes: npt.NDArray[np.int64],
        side: int,
        wanted: Sequence[str] = (),
    ) -> None:
        self.side = side
        self._sizes = sizes
        self._found: dict[int, tuple[Floats, Names]] = {}
        samples, boxes, names = (index.table[column].tolist() for column in ("sample", "boxes", "box_labels"))
        for row in np.concatenate([split.train, split.val, split.test]).tolist():
            if boxes[row] is None:
                raise DataError(
                    f"{index.dataset}: {samples[row]} is in the split but nobody annotated boxes. A film without "
                    "findings has an empty list of boxes; leave out films that nobody looked at."
                )
            self._found[row] = named_boxes(boxes[row], names[row], wanted)
        self.classes = tuple(sorted({name for row in split.train.tolist() for name in self._found[row][1]}))
        if not self.classes:
            what = f" of {', '.join(wanted)}" if wanted else ""
            raise DataError(
                f"{index.dataset}: no box{what} in the {len(split.train):,} training films of the split "
                f"{split.name}, so a detector has nothing to learn."
            )
        self._place = {name: k for k, name in enumerate(self.classes)}

    def boxes(self, row: int) -> Floats:
        """(G, 4) x y width height in pixels of the file."""
        return self._found[row][0]

    def names(self, row: int) -> list[str]:
        """One a box."""
        return list(self._found[row][1])

    def known(self, row: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        """The boxes whose names are in `classes`, and (G,) where they are there."""
        boxes, names = self._found[row]
        labels = np.array([self._place.get(name, -1) for name in names], np.int64)
        return boxes[labels >= 0], labels[labels >= 0]

    def square(self, row: int, most: int | None = None) -> tuple[Tensor, Tensor]:
        """What a detector trains on.

        Args:
            row: of the index.
            most: boxes that count, the first ones; None: all.

        Returns:
            (G, 4) float32, x1 y1 x2 y2 in pixels of the square and inside it (datasets may pass the border by a pixel),
            and (G,) int64 labels.
        """
        found, labels = self.known(row)
        boxes = found[:most] * self._scale(row)
        boxes[:, 2:] = (boxes[:, 2:] + boxes[:, :2]).clip(0, self.side)
        boxes[:, :2] = boxes[:, :2].clip(0, self.side - 1)  # the centre then lies in a cell of the grid
        return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(labels[:most])

    def restore(self, row: int, square: Tensor) -> Floats:
        """(P, 4) boxes of the square -> x y width height in pixels of the file, rounded to float32, as stored."""
        boxes = square.cpu().numpy().astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return (boxes / self._scale(row)).astype(np.float32).astype(np.float64)

    def _scale(self, row: int) -> Floats:
        height, width = self._sizes[row]
        x, y = self.side / width, self.side / height
        return np.array([x, y, x, y])
