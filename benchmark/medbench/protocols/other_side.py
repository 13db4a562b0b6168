"""A model that is shown films of another size than its own."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from medbench.model import ImageFeatures, TextBatch, TextFeatures, VisionLanguageModel
from medbench.protocols.dense_maps import from_patches


class OtherSide(nn.Module):
    """A model whose `preprocessing` says another size; all else is its own.

    A CNN takes any size. A ViT has to resample its positions, as those of medbench do.

    Args:
        model: any, on any device and in any mode.
        side: of the films, pixels.
    """

    def __init__(self, model: VisionLanguageModel, side: int) -> None:
        super().__init__()
        self.model = model
        own = model.preprocessing
        self.preprocessing = replace(own, size=side, resize=max(side, own.resize))

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        """See `medbench.model.VisionLanguageModel`."""
        return self.model.encode_image(images, pyramid)

    @property
    def pyramid_from_patches(self) -> bool:
        """See `medbench.model.PatchModel`."""
        return from_patches(self.model)

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        """See `medbench.model.VisionLanguageModel`."""
        return self.model.tokenize(reports)

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """See `medbench.model.VisionLanguageModel`."""
        return self.model.encode_text(text)

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """See `medbench.model.VisionLanguageModel`."""
        return self.model.embed_image(features)

    def embed_text(self, features: TextFeatures) -> Tensor:
        """See `medbench.model.VisionLanguageModel`."""
        return self.model.embed_text(features)
