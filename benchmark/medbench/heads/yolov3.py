"""YOLOv3 over three feature maps: mmdetection's neck, head, assigner and losses, without a backbone.

Redmon and Farhadi, YOLOv3 (arXiv 1804.02767). It is the detector of MGCA's released code, which
shrinks the COCO anchors from 416 px to the image's side. The loss is mmdetection's own, not the one of MGCA's
code: binary cross entropy for centre, objectness and class, squared error for size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medbench.devices import to_device
from medbench.heads.detector import STRIDES, Detector
from medbench.heads.mmdet_ops import import_mmdet
from medbench.heads.suppression import without_doubles
from medbench.seeding import drawn_from

_MIN_CHANNELS = 8  # of a neck level: what is left for encoders with few channels (recipe `micro`)


@dataclass(frozen=True)
class YoloV3Config:
    """Every number of the head."""

    anchors: tuple[tuple[tuple[int, int], ...], ...] = (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    )
    """Width and height of the anchors at strides 8, 16, 32: those of COCO, from the YOLOv3 paper."""
    anchor_side: int = 416
    """Side of the image that `anchors` are for; they are scaled by side / anchor_side (MGCA: 224 / 416)."""
    neck_shares: tuple[int, int, int] = (4, 8, 16)
    """The neck has C divided by these channels at strides 32, 16, 8, where C is the encoder's at stride 32:
    512, 256, 128 for ResNet-50, as in MGCA. `tiny` halves them: on a CPU a step then costs about a third."""
    assign_iou: float = 0.5
    """An anchor that overlaps a box more than this in the box's cell is positive, elsewhere ignored (mmdet,
    MGCA)."""
    weight_class: float = 1.0
    """Weight of the class loss (mmdet, yolov3_d53)."""
    weight_objectness: float = 1.0
    """Weight of the objectness loss (mmdet, yolov3_d53)."""
    weight_centre: float = 2.0
    """Weight of the centre loss (mmdet, yolov3_d53; MGCA has 2.5)."""
    weight_size: float = 2.0
    """Weight of the size loss (mmdet, yolov3_d53; MGCA has 2.5)."""
    min_objectness: float = 0.001
    """Anchors below it give no box. Far below mmdet's 0.005 for COCO: a detector that saw 30 films ranks
    boxes by objectness of that size, and where the list is cut the precision-recall curve ends."""
    nms_iou: float = 0.5
    """Of two predicted boxes of one class that overlap more, the worse is dropped (MGCA). It is the threshold of
    `map_mgca`, which drops more only among boxes that the border of the film has cut."""
    max_boxes: int = 100
    """Boxes an image, best first, all classes together (mmdet, yolov3_d53)."""


@dataclass(frozen=True)
class Targets:
    """What one image's boxes ask of its A anchors. They depend on the boxes alone, so they are made once.

    Attributes:
        positive: (K,) int64, anchors that stand for a box.
        values: (K, 5 + C) float32, what these are to predict: centre, size, objectness, 1 for the box's class.
        negative: (A,) bool, anchors that are to say "nothing here"; the others are ignored.
    """

    positive: Tensor
    values: Tensor
    negative: Tensor


class YoloV3(Detector):
    """Neck and head. A box has an objectness and a probability of each class; its score is their product.

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
        self, channels: Sequence[int], side: int, config: YoloV3Config, seed: int, classes: int = 1
    ) -> None:
        super().__init__()
        if side % STRIDES[-1]:
            raise ValueError(
                f"YOLOv3 needs images whose side is a multiple of {STRIDES[-1]} pixels, found {side}"
            )
        import_mmdet()
        from mmdet.registry import MODELS
        from mmengine.config import ConfigDict
        from mmengine.registry import DefaultScope

        self.side = side
        self.classes = classes
        self.config = config
        self._grids = [(side // s, side // s) for s in reversed(STRIDES)]  # mmdet goes from coarse to fine
        inputs = list(reversed(channels))
        widths = [max(inputs[0] // share, _MIN_CHANNELS) for share in config.neck_shares]
        neck = {"type": "YOLOV3Neck", "num_scales": 3, "in_channels": inputs, "out_channels": widths}
        with drawn_from(seed), DefaultScope.overwrite_default_scope("mmdet"):
            self.neck: nn.Module = MODELS.build(ConfigDict(neck))
            # Any: mmdet is not typed, and more of the head than of a plain module is used.
            self.head: Any = MODELS.build(ConfigDict(self._head(widths)))
            self.head.init_weights()

    def _head(self, widths: Sequence[int]) -> dict[str, Any]:
        config = self.config
        scale = self.side / config.anchor_side

        def entropy(weight: float) -> dict[str, Any]:
            return {
                "type": "CrossEntropyLoss",
                "use_sigmoid": True,
                "loss_weight": weight,
                "reduction": "sum",
            }

        return {
            "type": "YOLOV3Head",
            "num_classes": self.classes,
            "in_channels": list(widths),
            "out_channels": [2 * width for width in widths],
            "featmap_strides": list(reversed(STRIDES)),
            "anchor_generator": {
                "type": "YOLOAnchorGenerator",
                "base_sizes": [
                    [(w * scale, h * scale) for w, h in level] for level in reversed(config.anchors)
                ],
                "strides": list(reversed(STRIDES)),
            },
            "bbox_coder": {"type": "YOLOBBoxCoder"},
            "loss_cls": entropy(config.weight_class),
            "loss_conf": entropy(config.weight_objectness),
            "loss_xy": entropy(config.weight_centre),
            "loss_wh": {"type": "MSELoss", "loss_weight": config.weight_size, "reduction": "sum"},
            "train_cfg": {
                "assigner": {
                    "type": "GridAssigner",
                    "pos_iou_thr": config.assign_iou,
                    "neg_iou_thr": config.assign_iou,
                    "min_pos_iou": 0,
                }
            },
        }

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Raw predictions of all anchors.

        Args:
            features: maps (B, C, side/s, side/s) at strides s = 8, 16, 32.

        Returns:
            (B, A, 5 + C) float32: centre, size, objectness, classes; anchors from coarse to fine, row by row.
        """
        (maps,) = self.head(self.neck(tuple(features)))
        # (B, 3 x (5 + C), H, W) -> (B, H x W x 3 x (5 + C))
        flat = [m.float().permute(0, 2, 3, 1).flatten(1) for m in maps]
        return torch.cat([m.unflatten(1, (-1, 5 + self.classes)) for m in flat], dim=1)

    @torch.no_grad()
    def targets(self, boxes: Tensor, labels: Tensor) -> Targets:
        """The assignment of mmdet for one image; see `Detector.targets`."""
        from mmengine.structures import InstanceData

        anchors = self.head.prior_generator.grid_priors(self._grids, device="cpu")
        flags = self.head.responsible_flags(self._grids, boxes, "cpu")
        truth = InstanceData(bboxes=boxes, labels=labels)
        values, negative = self.head.get_targets([anchors], [flags], [truth])
        every = torch.cat(values, dim=1)[0]  # (A, 5 + C)
        positive = every[:, 4].nonzero()[:, 0]
        return Targets(positive, every[positive], torch.cat(negative, dim=1)[0].bool())

    def losses(self, predictions: Tensor, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """The terms of mmdet's loss, each summed over anchors, mean over images; their sum is minimised.

        Args:
            predictions: (B, A, 5 + C), what `forward` gave.
            targets: of the B images.
        """
        wanted = torch.zeros(predictions.shape)
        for row, target in zip(wanted, targets, strict=True):
            row[target.positive] = target.values
        weight = torch.stack([target.negative for target in targets]).float()  # (B, A)
        device = predictions.device
        wanted, weight = to_device(wanted, device), to_device(weight, device)
        positive = wanted[..., 4]
        head, b = self.head, len(predictions)
        return {
            "class": head.loss_cls(predictions[..., 5:], wanted[..., 5:], weight=positive[..., None]) / b,
            "objectness": head.loss_conf(predictions[..., 4], positive, weight=weight + positive) / b,
            "centre": head.loss_xy(predictions[..., :2], wanted[..., :2], weight=positive[..., None]) / b,
            "size": head.loss_wh(predictions[..., 2:4], wanted[..., 2:4], weight=positive[..., None]) / b,
        }

    @torch.no_grad()
    def boxes(self, predictions: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes that are confident enough, without doubles of a class, cut at the border of the film.

        The steps are those of mmdet's `predict_by_feat` but for two, which do not fit one class: it takes the best
        1,000 by class alone, and a threshold on the class alone. As there, an anchor can give a box of every class.

        Args:
            predictions: (B, A, 5 + C), what `forward` gave.

        Returns:
            As `Detector.boxes` says; at most `max_boxes` an image.
        """
        config = self.config
        anchors = torch.cat(self.head.prior_generator.grid_priors(self._grids, device=predictions.device))
        strides = torch.cat(
            [anchors.new_full((3 * side * side, 1), self.side // side) for side, _ in self._grids]
        )
        offsets = torch.cat([predictions[..., :2].sigmoid(), predictions[..., 2:4]], dim=2)
        boxes = self.head.bbox_coder.decode(anchors, offsets, strides)  # (B, A, 4)
        objectness = predictions[..., 4].sigmoid()
        scores = self.scores(predictions)
        confident = (objectness >= config.min_objectness) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        found = []
        for box, score, keep in zip(boxes, scores, confident, strict=True):
            ranked, order = score[keep].flatten().sort(descending=True, stable=True)  # (K x C,)
            ranked, order = ranked[ranked > 0], order[ranked > 0]
            box = box[keep][order // self.classes]
            labels = order % self.classes
            best = without_doubles(
                box, ranked, labels, classes=self.classes, iou=config.nms_iou, most=config.max_boxes
            )
            found.append((box[best].clamp(0, self.side), ranked[best], labels[best]))
        return found

    def scores(self, predictions: Tensor) -> Tensor:
        """(B, A, 5 + C) predictions -> (B, A, C) objectness times the probability of a class."""
        return predictions[..., 4:5].sigmoid() * predictions[..., 5:].sigmoid()
