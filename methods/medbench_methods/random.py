"""Random: the image encoder of the other methods as it was initialised, without any pretraining.

The floor of every table (row 'Random' in MGCA, arXiv 2210.06044): the same backbone, image
size and downstream code as the methods beside it, and weights that only the seed decides.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn, Self

from torch import Tensor, nn

from medbench.errors import UsageError
from medbench.method import Method, Recipe, Setup
from medbench.model import ImageFeatures, ImageTextBatch, Preprocessing, TextBatch, TextFeatures
from medbench_methods.modules.image_encoder import EncodedImage, ImageConfig, ImageEncoder
from medbench_methods.recipes import MICRO_IMAGE, TINY_IMAGE


class ImageOnly(nn.Module):
    """A `VisionLanguageModel` without its text half."""

    preprocessing: Preprocessing

    def __init__(self, config: ImageConfig, image_encoder: ImageEncoder | None = None) -> None:
        """Take an encoder, or build one from scratch."""
        super().__init__()
        self.preprocessing = config.preprocessing
        self.image_encoder = ImageEncoder(config, weights=False) if image_encoder is None else image_encoder

    def encode_image(self, images: Tensor, pyramid: bool = False) -> EncodedImage:
        """(B, 3, H, W) normalised images -> features."""
        features: EncodedImage = self.image_encoder(images, pyramid)
        return features

    @property
    def pyramid_from_patches(self) -> bool:
        """See `medbench.model.PatchModel`."""
        return self.image_encoder.vit

    def image_layers(self) -> list[list[nn.Parameter]]:
        """See `medbench.model.LayeredModel`."""
        return self.image_encoder.layers()

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        """There is no text half."""
        self._no_text()

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """There is no text half."""
        self._no_text()

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """There is no joint space."""
        self._no_text()

    def embed_text(self, features: TextFeatures) -> Tensor:
        """There is no joint space."""
        self._no_text()

    def _no_text(self) -> NoReturn:
        raise NotImplementedError(
            "this model has no text half; its method provides neither text nor embedding"
        )


class Random(Method):
    """An untrained encoder."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(ImageConfig(**TINY_IMAGE)),
        "paper": Recipe(ImageConfig(pretrained=False)),
        "micro": Recipe(ImageConfig(**MICRO_IMAGE)),
    }
    config: ImageConfig
    model: ImageOnly

    def __init__(self, config: ImageConfig) -> None:
        """Build the encoder.

        Raises:
            UsageError: the config asks for pretrained weights.
        """
        super().__init__()
        if config.pretrained:
            raise UsageError(
                "method random is never pretrained, but its config says pretrained=true; leave out "
                "--set method.pretrained."
            )
        self.config = config
        self.model = ImageOnly(config)

    @classmethod
    def from_corpus(cls, config: ImageConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class; needs no corpus."""
        return cls(config)

    @classmethod
    def from_assets(cls, config: ImageConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        return cls(config)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """There is nothing to minimise."""
        raise NotImplementedError("method random does not pretrain; its encoder is used as initialised")
