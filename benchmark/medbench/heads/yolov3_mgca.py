"""The YOLOv3 head of MGCA's released code: the network of `YoloV3` with that code's assignment, losses and scores.

mgca/utils/yolo_loss.py and mgca/models/ssl_detector.py. What it does otherwise than mmdetection:

- on every scale the anchor whose shape fits a box best stands for it, so that a box has three positives;
- shapes are compared in cells of the scale's grid with a cell added to each side, which makes small boxes and anchors
  look alike: an overlap that counts pixels as whole is applied to sides that are measured in cells;
- a positive whose shape overlaps the box by 0.5 or less is asked for an object by one term, for none by another;
- losses are means over all anchors of a scale, whether they stand for a box or not;
- a box's score is its objectness alone, and an anchor gives a box of its likeliest class only;
- weights start as torch starts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from medbench.devices import to_device
from medbench.heads.yolov3 import Targets, YoloV3, YoloV3Config
from medbench.seeding import drawn_from

_TINY = 1e-16  # the released code adds it before a logarithm


@dataclass(frozen=True)
class YoloV3MgcaConfig(YoloV3Config):
    """Every number of the head; where nothing is said, as the class that it comes from."""

    weight_centre: float = 2.5
    """Weight of the centre loss (yolo_loss.py)."""
    weight_size: float = 2.5
    """Weight of the size loss (yolo_loss.py)."""
    weight_nothing: float = 0.5
    """Weight of the objectness of anchors that are to say "nothing here" (yolo_loss.py)."""
    added_cells: float = 1.0
    """Added to the sides of shapes when they are compared, in cells of the grid (yolo_loss.py)."""


class YoloV3Mgca(YoloV3):
    """As `YoloV3`; the neck has 512, 256 and 128 channels over a ResNet-50, as the released embeddings have.

    Args:
        channels: of the encoder's maps at strides 8, 16, 32.
        side: of the images, pixels; a multiple of 32.
        config: the numbers.
        seed: of the initial weights; torch's generator is left as it was.
        classes: C.
    """

    config: YoloV3MgcaConfig

    def __init__(
        self, channels: Sequence[int], side: int, config: YoloV3MgcaConfig, seed: int, classes: int = 1
    ) -> None:
        super().__init__(channels, side, config, seed, classes)
        with drawn_from(seed):
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.reset_parameters()
        cells = [height * width for height, width in self._grids]
        anchors = len(config.anchors[0])
        # One over the anchors of its scale, for each anchor: sums over all anchors are then sums of means.
        share = torch.cat([torch.full((anchors * n,), 1 / (anchors * n)) for n in cells])
        self.register_buffer("_share", share, persistent=False)
        self._share: Tensor

    @torch.no_grad()
    def targets(self, boxes: Tensor, labels: Tensor) -> Targets:
        """The assignment of the released code for one image; see `Detector.targets`.

        Of two boxes that one anchor stands for, the later one decides centre and size, and both classes are asked for.
        """
        config = self.config
        centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]  # (G, 2)
        total = len(self._share)
        negative = torch.ones(total, dtype=torch.bool)
        values = boxes.new_zeros(total, 5 + self.classes)
        start = 0
        for (height, width), level in zip(self._grids, reversed(config.anchors), strict=True):
            stride = self.side / width
            shapes = torch.tensor(level, dtype=boxes.dtype) * (
                self.side / config.anchor_side / stride
            )  # (3, 2) in cells
            wanted = size / stride  # (G, 2)
            fit = _shape_iou(wanted, shapes, config.added_cells)  # (G, 3)
            best = fit.argmax(dim=1)
            cell = (centre / stride).floor()
            first = start + (cell[:, 1] * width + cell[:, 0]).long() * len(
                level
            )  # (G,) its cell's first anchor
            every = first[:, None] + torch.arange(len(level))  # (G, 3)
            negative[every[fit > config.assign_iou]] = False
            offsets = torch.cat(
                [
                    centre / stride - cell,
                    (wanted / shapes[best] + _TINY).log(),
                    boxes.new_ones(len(boxes), 1),
                ],
                dim=1,
            )  # (G, 5)
            # Boxes one by one, since the last one at an anchor has to win; a film has few.
            for anchor, offset, label in zip((first + best).tolist(), offsets, labels.tolist(), strict=True):
                values[anchor, :5] = offset
                values[anchor, 5 + label] = 1
            start += height * width * len(level)
        positive = values[:, 4].nonzero()[:, 0]
        return Targets(positive, values[positive], negative)

    def losses(self, predictions: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The terms of the released loss: of each scale a mean over images and anchors, summed over scales.

        Args:
            predictions: (B, A, 5 + C), what `forward` gave.
            targets: of the B images.

        Returns:
            `class`, `objectness`, `nothing`, `centre` and `size`, weighted.
        """
        config, device = self.config, predictions.device
        wanted = torch.zeros(predictions.shape, dtype=predictions.dtype)
        for row, target in zip(wanted, targets, strict=True):
            row[target.positive] = target.values
        negative = torch.stack([target.negative for target in targets])  # (B, A)
        wanted, negative = to_device(wanted, device), to_device(negative, device)
        share = self._share / len(predictions)  # (A,)
        positive = wanted[..., 4] * share  # (B, A) weights
        # Where an anchor counts for nothing the released code compares 0 with 0, so that it adds nothing.
        entropy = functional.binary_cross_entropy_with_logits(predictions, wanted, reduction="none")
        square = (predictions[..., 2:4] - wanted[..., 2:4]) ** 2
        silence = functional.softplus(predictions[..., 4])  # cross entropy with 0
        return {
            "class": config.weight_class * (positive * entropy[..., 5:].mean(dim=2)).sum(),
            "objectness": config.weight_objectness * (positive * entropy[..., 4]).sum(),
            "nothing": config.weight_nothing * (negative * share * silence).sum(),
            "centre": config.weight_centre * (positive * entropy[..., :2].sum(dim=2)).sum(),
            "size": config.weight_size * (positive * square.sum(dim=2)).sum(),
        }

    def scores(self, predictions: Tensor) -> Tensor:
        """(B, A, C): the objectness at the likeliest class of an anchor, 0 elsewhere."""
        likeliest = functional.one_hot(predictions[..., 5:].argmax(dim=2), self.classes)
        return predictions[..., 4:5].sigmoid() * likeliest


def _shape_iou(a: Tensor, b: Tensor, added: float) -> Tensor:
    """(G, 2) and (K, 2) widths and heights -> (G, K) intersections over unions of what starts in one corner."""
    a, b = a + added, b + added
    inside = torch.minimum(a[:, None], b[None]).prod(dim=2)
    return inside / (a.prod(dim=1)[:, None] + b.prod(dim=1)[None] - inside + _TINY)
