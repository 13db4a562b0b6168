"""A trainable pyramid over the patches of a ViT: maps at strides 8, 16 and 32 from the one at stride 16.

The simple feature pyramid of ViTDet (Li et al., arXiv 2203.16527), which makes every level from the last map
and needs no path from coarse to fine: a deconvolution for the finer level, the map as it is, and max pooling for the
coarser one; then a 1 x 1 and a 3 x 3 convolution, each followed by a LayerNorm over the channels of a cell. Its level
at stride 4 is left out, because no detector here looks at it.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from medbench.heads.detector import Detector
from medbench.seeding import drawn_from

SHARE = 3
"""A map has a third of the ViT's channels: 256 for ViT-B, as in ViTDet, and less where the ViT is narrow."""

_MIN_CHANNELS = 8  # what is left for very small encoders (recipe `micro`)


class FeaturePyramid(nn.Module):
    """One map in, three maps out.

    Attributes:
        channels: of the three maps.

    Args:
        width: D of the patches.
        seed: of the initial weights, which are torch's for each layer; torch's generator is left as it was.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        out = max(width // SHARE, _MIN_CHANNELS)
        self.channels = (out, out, out)
        with drawn_from(seed):
            finer = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
            self.levels = nn.ModuleList(
                nn.Sequential(
                    resample,
                    nn.Conv2d(inside, out, 1, bias=False),
                    _ChannelNorm(out),
                    nn.Conv2d(out, out, 3, padding=1, bias=False),
                    _ChannelNorm(out),
                )
                for resample, inside in (
                    (finer, width // 2),
                    (nn.Identity(), width),
                    (nn.MaxPool2d(2), width),
                )
            )

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, side/s, side/s) at strides s = 8, 16, 32 of one map (B, D, side/16, side/16)."""
        (patches,) = features
        return tuple(level(patches) for level in self.levels)


class OverPatches(Detector):
    """A detector that looks at a pyramid of patches, trained with it.

    Args:
        pyramid: what it looks at.
        detector: made for the pyramid's channels.
    """

    def __init__(self, pyramid: FeaturePyramid, detector: Detector) -> None:
        super().__init__()
        self.pyramid, self.detector = pyramid, detector
        self.side, self.classes = detector.side, detector.classes

    def forward(self, features: Sequence[Tensor]) -> Any:
        """Raw predictions of one map (B, D, side/16, side/16)."""
        return self.detector(self.pyramid(features))

    def targets(self, boxes: Tensor, labels: Tensor) -> Any:
        """See the base class."""
        return self.detector.targets(boxes, labels)

    def losses(self, predictions: Any, targets: Sequence[Any]) -> dict[str, Tensor]:
        """See the base class."""
        return self.detector.losses(predictions, targets)

    def boxes(self, predictions: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """See the base class."""
        return self.detector.boxes(predictions)


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each cell of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
