"""FCOS over three feature maps: mmdetection's FPN, head, assignment and losses, without a backbone.

Tian et al., FCOS (arXiv 1904.01355): no anchors; every cell of a map says which class it lies in, how far away the
four sides of its box are, and how close to the middle it is ("centerness", which makes boxes seen from the edge give
way). Built with the improvements of the authors' later version (arXiv 2006.09214), as mmdetection's configuration
`fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco` has them: only cells near the middle of a box
learn it, distances are predicted in strides, centerness comes from the branch of the box, and boxes have the GIoU loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from medbench.devices import to_device
from medbench.heads.detector import STRIDES, Detector
from medbench.heads.mmdet_ops import import_mmdet
from medbench.heads.suppression import without_doubles
from medbench.seeding import drawn_from

_COARSER = (64, 128)  # strides that the FPN adds below the encoder's maps
_EVER = 1e8  # mmdet's word for infinity


@dataclass(frozen=True)
class FcosConfig:
    """Every number of the head."""

    width: int = 256
    """Channels of the FPN and of both branches (FCOS)."""
    convs: int = 4
    """Convolutions of each branch before its outputs (FCOS)."""
    groups: int = 32
    """Of the GroupNorm behind each of them; they divide `width` (FCOS's code, mmdet)."""
    reach: int = 8
    """A map of stride s takes a box where its farthest side is up to `reach` x s pixels from the cell, from the bound
    of the finer map on; the coarsest one takes all larger ones (FCOS: 64, 128, 256, 512 at strides 8, 16, 32, 64). Not
    shrunk with the film, as the anchors of YOLOv3 are: boxes of a few cells might then have no cell in them."""
    centre_radius: float = 1.5
    """Cells up to this many strides from the middle of a box, in x and in y, learn it (arXiv 2006.09214)."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss (FCOS, from RetinaNet)."""
    focal_alpha: float = 0.25
    """Weight of positives in the focal loss (FCOS, from RetinaNet)."""
    min_probability: float = 0.001
    """Classes less probable than this give no box. Far below mmdet's 0.05 for COCO: a detector that saw 30 films ranks
    boxes by probabilities of that size, and where the list is cut the precision-recall curve ends."""
    nms_iou: float = 0.5
    """Of two predicted boxes of a class that overlap more, the worse is dropped, as for YOLOv3 here (FCOS: 0.5; mmdet's
    configuration has 0.6)."""
    max_boxes: int = 100
    """Boxes an image, best first (COCO's limit)."""


@dataclass(frozen=True)
class Targets:
    """What one image's boxes ask of its A cells.

    Attributes:
        positive: (K,) int64, cells that stand for a box.
        labels: (K,) int64, class of it.
        distances: (K, 4) float32, pixels from the cell's centre to its left, top, right and bottom side.
    """

    positive: Tensor
    labels: Tensor
    distances: Tensor


class Fcos(Detector):
    """Neck and head. A score is the probability of the class times the centerness, as mmdet ranks boxes.

    The FPN makes two coarser maps, at strides 64 and 128, where films are large enough to hold a box of theirs: with
    the default `reach` above 256 and above 512 px. At 96 to 224 px there are the encoder's three maps alone, with 784,
    196 and 49 cells at 224 px.

    Args:
        channels: of the encoder's maps at strides 8, 16, 32.
        side: of the images, pixels; a multiple of 32.
        config: the numbers.
        seed: of the initial weights; torch's generator is left as it was.
        classes: C.

    Raises:
        ValueError: `side` is no multiple of 32.
        PluginError: mmdetection can not be loaded.
    """

    def __init__(
        self, channels: Sequence[int], side: int, config: FcosConfig, seed: int, classes: int = 1
    ) -> None:
        super().__init__()
        if side % STRIDES[-1]:
            raise ValueError(
                f"FCOS needs images whose side is a multiple of {STRIDES[-1]} pixels, found {side}"
            )
        import_mmdet()
        from mmdet.registry import MODELS
        from mmengine.config import ConfigDict
        from mmengine.registry import DefaultScope

        self.side = side
        self.classes = classes
        self.config = config
        self.strides = (*STRIDES, *(stride for stride in _COARSER if config.reach * stride // 2 < side))
        self._cells = [_centres(side, stride) for stride in self.strides]  # on the CPU
        neck = {
            "type": "FPN",
            "in_channels": list(channels),
            "out_channels": config.width,
            "num_outs": len(self.strides),
            "add_extra_convs": "on_output",
            "relu_before_extra_convs": True,
        }
        with drawn_from(seed), DefaultScope.overwrite_default_scope("mmdet"):
            # Any: mmdet is not typed, and more of both than of a plain module is used.
            self.neck: Any = MODELS.build(ConfigDict(neck))
            self.neck.init_weights()
            self.head: Any = MODELS.build(ConfigDict(self._head()))
            self.head.init_weights()

    def _head(self) -> dict[str, Any]:
        config = self.config
        bounds = [-1.0, *(float(config.reach * stride) for stride in self.strides[:-1]), _EVER]
        return {
            "type": "FCOSHead",
            "num_classes": self.classes,
            "in_channels": config.width,
            "feat_channels": config.width,
            "stacked_convs": config.convs,
            "strides": list(self.strides),
            "regress_ranges": tuple(pairwise(bounds)),
            "center_sampling": True,
            "center_sample_radius": config.centre_radius,
            "norm_on_bbox": True,
            "centerness_on_reg": True,
            "conv_bias": True,
            "norm_cfg": {"type": "GN", "num_groups": config.groups, "requires_grad": True},
            "loss_cls": {
                "type": "FocalLoss",
                "use_sigmoid": True,
                "gamma": config.focal_gamma,
                "alpha": config.focal_alpha,
            },
            "loss_bbox": {"type": "GIoULoss"},
            "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True},
        }

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Raw predictions of all cells.

        Args:
            features: maps (B, C, side/s, side/s) at strides s = 8, 16, 32.

        Returns:
            (B, A, 5 + C) float32: distances to the left, top, right and bottom side of the box in pixels, at least 0;
            logits of the centerness and of the classes. Cells from fine to coarse, row by row.
        """
        classes, distances, centerness = self.head(self.neck(tuple(features)))
        flat = []
        for stride, *maps in zip(self.strides, distances, centerness, classes, strict=True):
            in_strides, *logits = (m.float() for m in maps)
            # mmdet's head says strides in train mode and pixels in eval mode.
            in_pixels = in_strides * stride if self.head.training else in_strides
            flat.append(
                torch.cat([in_pixels, *logits], dim=1).flatten(2).transpose(1, 2)
            )  # (B, H x W, 5 + C)
        return torch.cat(flat, dim=1)

    @torch.no_grad()
    def targets(self, boxes: Tensor, labels: Tensor) -> Targets:
        """The assignment of mmdet for one image; of boxes that share a cell, the smallest has it.

        Args:
            boxes: (G, 4) float32 on the CPU, x1 y1 x2 y2 in pixels of the square.
            labels: (G,) int64, class of each box.
        """
        from mmengine.structures import InstanceData

        truth = InstanceData(bboxes=boxes, labels=labels)
        by_level, in_strides = self.head.get_targets(self._cells, [truth])
        found = torch.cat(by_level)  # (A,), C where there is no box
        distances = torch.cat([d * stride for d, stride in zip(in_strides, self.strides, strict=True)])
        positive = (found < self.classes).nonzero()[:, 0]
        return Targets(positive, found[positive], distances[positive])

    def losses(self, predictions: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The terms of mmdet's loss; their sum is minimised.

        Focal loss of the classes over all cells, and cross entropy of the centerness over the positive ones, both
        divided by the number of positive cells in the batch; GIoU loss of the boxes, a mean weighted by the true
        centerness.

        Args:
            predictions: (B, A, 5 + C), what `forward` gave.
            targets: of the B images.
        """
        device, cells = predictions.device, predictions.shape[1]
        index = torch.cat([i * cells + target.positive for i, target in enumerate(targets)])  # (K,)
        wanted = torch.full((len(targets) * cells,), self.classes)
        wanted[index] = torch.cat([target.labels for target in targets])
        distances = to_device(torch.cat([target.distances for target in targets]), device)
        head, flat = self.head, predictions.flatten(0, 1)  # (B x A, 5 + C)
        count = max(len(index), 1)
        terms = {"class": head.loss_cls(flat[:, 5:], to_device(wanted, device), avg_factor=count)}
        found = flat[to_device(index, device)]  # (K, 5 + C)
        if len(index) == 0:  # sums over nothing, which backward can pass
            return terms | {"box": found[:, :4].sum(), "centerness": found[:, 4].sum()}
        centerness = head.centerness_target(distances)
        cell = distances.new_zeros(len(index), 2)  # where a cell is does not matter to an overlap
        terms["box"] = head.loss_bbox(
            head.bbox_coder.decode(cell, found[:, :4]),
            head.bbox_coder.decode(cell, distances),
            weight=centerness,
            avg_factor=centerness.sum().clamp(min=1e-6),
        )
        terms["centerness"] = head.loss_centerness(found[:, 4], centerness, avg_factor=count)
        return terms

    @torch.no_grad()
    def boxes(self, predictions: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes that are probable enough, cut at the border of the film, without doubles of a class.

        The steps are those of mmdet's `predict_by_feat`, where a cell can give a box of every class; its limit of 1,000
        boxes a map is left out, and boxes of no area are dropped.

        Args:
            predictions: (B, A, 5 + C), what `forward` gave.

        Returns:
            As `Detector.boxes` says; at most `max_boxes` an image.
        """
        config = self.config
        cells = torch.cat(self._cells).to(predictions.device)  # (A, 2)
        corners = [cells - predictions[..., :2], cells + predictions[..., 2:4]]
        boxes = torch.cat(corners, dim=2).clamp(0, self.side)  # (B, A, 4)
        probabilities = predictions[..., 5:].sigmoid()
        scores = probabilities * predictions[..., 4:5].sigmoid()  # (B, A, C)
        solid = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        good = (probabilities >= config.min_probability) & solid[..., None]
        found = []
        for box, score, keep in zip(boxes, scores, good, strict=True):
            cell, label = keep.nonzero(as_tuple=True)
            ranked, order = score[cell, label].sort(descending=True, stable=True)
            box, label = box[cell][order], label[order]
            best = without_doubles(
                box, ranked, label, classes=self.classes, iou=config.nms_iou, most=config.max_boxes
            )
            found.append((box[best], ranked[best], label[best]))
        return found


def _centres(side: int, stride: int) -> Tensor:
    """(H x W, 2) float32, x and y of the middles of a map's cells, row by row; the map covers the film."""
    middles = (torch.arange(-(-side // stride)) + 0.5) * stride
    return torch.stack([middles.repeat(len(middles)), middles.repeat_interleave(len(middles))], dim=1)
