"""What a protocol asks of a detector: one interface for every head, whatever it does inside.

A detector looks at an encoder's maps at strides 8, 16 and 32 and has no backbone of its own. Classes are whole
numbers from 0; their names belong to the task.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

STRIDES = (8, 16, 32)
"""Strides of the maps that a detector looks at, pixels."""


class Detector(nn.Module, ABC):
    """A head that finds boxes.

    What `forward` gives and what `targets` makes is the detector's own affair: a protocol hands the one to `losses`
    and `boxes`, and the other to `losses`, and looks into neither.

    Attributes:
        side: of the square films, pixels.
        classes: number of classes, at least 1.
    """

    side: int
    classes: int

    @abstractmethod
    def forward(self, features: Sequence[Tensor]) -> Any:
        """Raw predictions.

        Args:
            features: maps (B, C, side/s, side/s) at strides s = 8, 16, 32.
        """

    @abstractmethod
    def targets(self, boxes: Tensor, labels: Tensor) -> Any:
        """What a film's boxes ask of the predictions; made once a film, on the CPU.

        Args:
            boxes: (G, 4) float32, x1 y1 x2 y2 in pixels of the square, centres inside it; G may be 0.
            labels: (G,) int64, class of each box.
        """

    @abstractmethod
    def losses(self, predictions: Any, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Terms by name, scalars in float32; their sum is minimised.

        Args:
            predictions: what `forward` gave for B films.
            targets: B of what `targets` made.
        """

    @abstractmethod
    def boxes(self, predictions: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """What is found, without doubles.

        Args:
            predictions: what `forward` gave for B films.

        Returns:
            For each film (P, 4) float32, x1 y1 x2 y2 in pixels of the square and inside it; (P,) float32, scores
            from 0 to 1, falling; (P,) int64, labels.
        """
