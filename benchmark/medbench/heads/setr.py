"""A decoder over the patches of a ViT, for masks of one class: convolutions and bilinear steps up to full resolution.

The progressive decoder of SETR (Zheng et al., arXiv 2012.15840) with the numbers of MGCA's released code
(models/backbones/transformer_seg.py): the tokens pass a linear layer of their own width first, and the logits come from
a 3 x 3 convolution at full resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medbench.seeding import drawn_from

STRIDE = 16
"""Stride of the map that it looks at, pixels."""


@dataclass(frozen=True)
class SetrConfig:
    """Every number of the decoder."""

    widths: tuple[int, int, int, int] = (512, 256, 128, 64)
    """Channels of the four convolutions, each of which is followed by a doubling of the sides (MGCA's code)."""


class Setr(nn.Module):
    """Linear; four times 3 x 3 convolution, BatchNorm, ReLU, bilinear doubling; 3 x 3 convolution to one logit.

    Args:
        channels: of the one map: width of the tokens.
        config: the numbers.
        seed: of the initial weights; torch's generator is left as it was.

    Raises:
        ValueError: other than one map.
    """

    def __init__(self, channels: Sequence[int], config: SetrConfig, seed: int) -> None:
        super().__init__()
        if len(channels) != 1:
            raise ValueError(f"the decoder needs the patches of a ViT alone, found {len(channels)} maps")
        (width,) = channels
        steps: list[nn.Module] = []
        with drawn_from(seed):
            self.linear = nn.Linear(width, width)
            for inside, outside in zip((width, *config.widths), config.widths, strict=False):
                steps += [
                    nn.Conv2d(inside, outside, 3, padding=1),
                    nn.BatchNorm2d(outside),
                    nn.ReLU(inplace=True),
                    nn.Upsample(
                        scale_factor=2, mode="bilinear", align_corners=True
                    ),  # corners as in MGCA's code
                ]
            self.decoder = nn.Sequential(*steps, nn.Conv2d(config.widths[-1], 1, 3, padding=1))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits of the mask.

        Args:
            features: one map (B, D, side/16, side/16), the patches of a ViT.

        Returns:
            (B, 1, side, side) float32.
        """
        (patches,) = features
        rows, columns = patches.shape[2:]
        tokens = self.linear(patches.flatten(2).transpose(1, 2))  # (B, D, h, w) -> (B, P, D)
        logits: Tensor = self.decoder(tokens.transpose(1, 2).unflatten(2, (rows, columns)))
        return logits.float()
