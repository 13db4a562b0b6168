"""The decoder of a U-Net over the five maps of an encoder, for masks of one class.

Ronneberger et al. (arXiv 1505.04597) as segmentation-models-pytorch builds it: its decoder and its last convolution,
with its initial weights, over maps of an encoder that is not its own. MGCA's released code takes the same net for
ResNets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medbench.seeding import drawn_from

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the maps it looks at, pixels."""


@dataclass(frozen=True)
class UNetConfig:
    """Every number of the decoder."""

    widths: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16)
    """Channels after each of the five blocks, at strides 16, 8, 4, 2, 1 (segmentation-models-pytorch, MGCA)."""


class UNet(nn.Module):
    """Five blocks, each of which doubles the sides, takes in the map of that size and convolves twice.

    Args:
        channels: of the encoder's maps at strides 2, 4, 8, 16, 32.
        config: the numbers.
        seed: of the initial weights; torch's generator is left as it was.

    Raises:
        ValueError: other than five maps.
    """

    def __init__(self, channels: Sequence[int], config: UNetConfig, seed: int) -> None:
        super().__init__()
        if len(channels) != len(STRIDES):
            raise ValueError(f"a U-Net needs maps at strides {STRIDES}, found {len(channels)} maps")
        # Imported here: it imports timm, which takes seconds.
        from segmentation_models_pytorch.base import SegmentationHead
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        with drawn_from(seed):
            # Any: not typed. The first number is for the image itself, which the decoder leaves out.
            self.decoder: Any = UnetDecoder(encoder_channels=(0, *channels), decoder_channels=config.widths)
            self.out: Any = SegmentationHead(config.widths[-1], 1)
            initialize_decoder(self.decoder)
            initialize_head(self.out)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the mask.

        Args:
            features: maps (B, C_s, side/s, side/s) at strides s = 2, 4, 8, 16, 32.

        Returns:
            (B, 1, side, side) float32.
        """
        batch, _, height, width = features[0].shape
        image = features[0].new_empty(batch, 0, 2 * height, 2 * width)  # stands for its size alone
        logits: Tensor = self.out(self.decoder([image, *features]))
        return logits.float()
