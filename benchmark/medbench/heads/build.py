"""Detectors by name, over any encoder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medbench.heads.detector import Detector
from medbench.heads.fcos import Fcos
from medbench.heads.feature_pyramid import FeaturePyramid, OverPatches
from medbench.heads.yolov3 import YoloV3, YoloV3Config
from medbench.heads.yolov3_mgca import YoloV3Mgca
from medbench.seeding import derive_seed

DETECTORS: Mapping[str, Any] = {"yolov3": YoloV3, "yolov3_mgca": YoloV3Mgca, "fcos": Fcos}
"""Classes by name; each is made from channels, side, config, seed and classes."""

_WIDER = 4
"""Over a pyramid of patches the neck of YOLOv3 has this many times as large a share of the channels."""


def detector(
    name: str,
    channels: Sequence[int],
    side: int,
    classes: int,
    config: Any,
    seed: int,
    patches: bool = False,
) -> Detector:
    """Build a detector for an encoder.

    Over the patches of a ViT it gets a trainable pyramid in front (`medbench.heads.feature_pyramid`). A ViT-B's has 256
    channels, where a ResNet-50 has 2,048 at stride 32, so the neck of YOLOv3, whose widths are shares of that, takes
    four times as large a share: 256, 128 and 64 channels, where it has 512, 256 and 128 over a ResNet-50 (ours).

    Args:
        name: one of `DETECTORS`.
        channels: of the encoder's maps at strides 8, 16, 32; of its patches alone where `patches`.
        side: of the films, pixels; a multiple of 32.
        classes: number of classes.
        config: of this detector.
        seed: of the initial weights; torch's generator is left as it was.
        patches: the encoder is a ViT, which gives one map at stride 16 (`Pyramids.patches`).

    Raises:
        ValueError: other maps or another side than the detector can look at.
        PluginError: mmdetection can not be loaded.
    """
    make = DETECTORS[name]
    if not patches:
        plain: Detector = make(channels, side, config, seed, classes)
        return plain
    if isinstance(config, YoloV3Config):
        coarse, middle, fine = (max(share // _WIDER, 1) for share in config.neck_shares)
        config = replace(config, neck_shares=(coarse, middle, fine))
    (width,) = channels
    pyramid = FeaturePyramid(width, derive_seed("feature pyramid", seed))
    return OverPatches(pyramid, make(pyramid.channels, side, config, seed, classes))
