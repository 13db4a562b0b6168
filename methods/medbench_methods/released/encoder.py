"""The image encoder that released checkpoints are imported into: one class for all of them, and nothing to train.

Where each came from, and its paper (arXiv numbers among them), is in `layouts/`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import Method, Recipe, Setup
from medbench.model import ImageTextBatch
from medbench_methods.modules.image_encoder import EncodedImage, ImageConfig, ImageEncoder
from medbench_methods.random import ImageOnly
from medbench_methods.recipes import MICRO_IMAGE
from medbench_methods.released.swin import SwinEncoder, is_swin

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Of ImageNet's training images, by channel, as torchvision's models take them."""


@dataclass(frozen=True, kw_only=True)
class ReleasedConfig(ImageConfig):
    """A released image encoder: its backbone as it was trained, and the preprocessing that it was trained with."""

    pretrained: bool = False
    """ImageNet weights are never asked for: every tensor comes from the released file."""

    upsample: int = 0
    """CNNs only: side that images are enlarged to inside the encoder, pixels; 0 for none, as in most released code.
    MGCA and GLoRIA have 299."""

    stages: int = 4
    """CNNs only: residual stages. 3 where the authors train a ResNet without its last stage (MedKLIP, KAD at 224 px):
    features then come from layer3, as in their code, and the map at stride 32 is a mean over 2 x 2 cells."""


class ReleasedImageEncoder(ImageEncoder):
    """`ImageEncoder`, also for nets that were cut before they were trained."""

    def __init__(self, config: ReleasedConfig) -> None:
        """Build the net as it was released, without weights.

        Raises:
            UsageError: the net can not be cut as the config says.
        """
        super().__init__(config, weights=False)
        if config.stages != 4:
            if hasattr(self.body, "blocks") or config.stages != 3 or "layer4" not in self.body:
                raise UsageError(
                    f"method.stages is {config.stages} for backbone {config.backbone!r}; expected 4, or 3 for a ResNet."
                )
            del self.body["layer4"]
            self.width = self.local_width

    def forward(self, images: Tensor, pyramid: bool = False) -> EncodedImage:
        """See the base class."""
        features = super().forward(images, pyramid)
        maps = features.pyramid
        if maps is not None and len(maps) == 4:  # without layer4: coarser, and nothing that was never trained
            maps = (*maps, F.avg_pool2d(maps[-1], 2))
        return EncodedImage(features.pooled, features.local, maps, features.attention)


class ReleasedEncoder(Method):
    """An image encoder as its authors released it."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "paper": Recipe(ReleasedConfig()),
        "micro": Recipe(ReleasedConfig(**MICRO_IMAGE)),
    }
    config: ReleasedConfig
    model: ImageOnly

    def __init__(self, config: ReleasedConfig) -> None:
        """Build the encoder, for weights that are loaded next."""
        super().__init__()
        self.config = config
        swin = is_swin(config.backbone)
        self.model = ImageOnly(config, SwinEncoder(config) if swin else ReleasedImageEncoder(config))

    @classmethod
    def from_corpus(cls, config: ReleasedConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """There is nothing to begin with: a released encoder is imported.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a released encoder is not trained here; bring one in with `medbench weights import FILE --method NAME`."
        )

    @classmethod
    def from_assets(cls, config: ReleasedConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        return cls(config)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """There is nothing to minimise."""
        raise NotImplementedError("a released encoder is used as it is; it has no losses here")
