"""Two encoders and their projections: the vision-language model that MGCA-like methods share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.method import ADDED_LATER, Method, Setup
from medbench.model import ImageFeatures, Preprocessing, TextBatch, TextFeatures
from medbench_methods.modules.image_encoder import EncodedImage, ImageConfig, ImageEncoder
from medbench_methods.modules.projection import HeadNorm, ProjectionHead
from medbench_methods.modules.ranges import expect, expect_terms
from medbench_methods.modules.text_encoder import TextConfig, TextEncoder, build_text, rebuild_text
from medbench_methods.modules.tokenizer import ReportTokenizer

Local = bool | Literal["words"]
"""Which local heads a model has: both, none, or that of words alone."""


@dataclass(frozen=True, kw_only=True)
class DualEncoderConfig(ImageConfig, TextConfig):
    """Encoders and projections. Defaults: MGCA's released code.

    Of a method whose fidelity is `reconstruction`, none of them is known unless its own config says so.
    """

    embed: int = 128
    """Width of the joint space (MGCA's code)."""

    hidden: int = 2048
    """Width of the hidden layer of the projection heads (MGCA's code)."""

    head_norm: HeadNorm = field(default="batch", metadata=ADDED_LATER)
    """Normalisation in the projection heads: over the `batch` (MGCA's code) or of each vector by itself, `layer`. Ours;
    with a ViT it leaves no statistics of a batch, so that several processes train as one does."""

    gather: bool = False
    """Training in several processes (docs/distributed.md): contrast with the pairs of all of them, with gradients
    through all. False: MGCA's code takes the pairs of the same device only. In one process it changes nothing."""

    def __post_init__(self) -> None:
        """Refuse what can not be built: see both halves."""
        ImageConfig.__post_init__(self)
        TextConfig.__post_init__(self)
        expect(self, "embed", "hidden", least=1)
        expect_terms(self)


class DualEncoder(nn.Module):
    """Fulfils `medbench.model.VisionLanguageModel`; with `local`, also projects patches and words.

    The global heads are always there, because retrieval and zero-shot classification read them. They stay as they were
    drawn where no term of a method contrasts whole films with whole reports.

    Attributes:
        preprocessing: the input contract for images.
        tokenizer: of the reports.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        config: DualEncoderConfig,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: ReportTokenizer,
        *,
        local: Local,
    ) -> None:
        """Join the encoders and add fresh projection heads; the local ones only if asked for."""
        super().__init__()
        self.preprocessing = config.preprocessing
        self.tokenizer = tokenizer
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.image_head = ProjectionHead(image_encoder.width, config.hidden, config.embed, config.head_norm)
        self.text_head = ProjectionHead(text_encoder.width, config.hidden, config.embed, config.head_norm)
        if local is True:
            self.patch_head = ProjectionHead(
                image_encoder.local_width, config.hidden, config.embed, config.head_norm
            )
        if local:
            self.word_head = ProjectionHead(text_encoder.width, config.hidden, config.embed, config.head_norm)

    @classmethod
    def from_corpus(
        cls, config: DualEncoderConfig, reports: Sequence[Sequence[str]], setup: Setup, *, local: Local
    ) -> Self:
        """See `medbench.method.Method.from_corpus`."""
        text_encoder, tokenizer = build_text(config, reports, setup)
        image_encoder = ImageEncoder(config, weights=True, offline=setup.offline)
        return cls(config, image_encoder, text_encoder, tokenizer, local=local)

    @classmethod
    def from_assets(cls, config: DualEncoderConfig, assets: Mapping[str, bytes], *, local: Local) -> Self:
        """See `medbench.method.Method.from_assets`."""
        text_encoder, tokenizer = rebuild_text(config, assets["text_encoder.json"], assets["tokenizer.json"])
        return cls(config, ImageEncoder(config, weights=False), text_encoder, tokenizer, local=local)

    def assets(self) -> Mapping[str, bytes]:
        """See `medbench.method.Method.assets`."""
        return {
            "text_encoder.json": self.text_encoder.to_bytes(),
            "tokenizer.json": self.tokenizer.to_bytes(),
        }

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
        """Reports, each a list of sentences -> a padded batch on the CPU."""
        return self.tokenizer(reports)

    def text_from_ids(self, ids: Tensor, mask: Tensor) -> TextBatch:
        """Token ids of the tokenizer's vocabulary and their mask, both (B, T), as a batch on the CPU."""
        return self.tokenizer.from_ids(ids, mask)

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """Tokenised reports -> features."""
        features: TextFeatures = self.text_encoder(text)
        return features

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """(B, E) float32 unit vectors."""
        return F.normalize(self.image_head(features.pooled), dim=-1)

    def embed_text(self, features: TextFeatures) -> Tensor:
        """(B, E) float32 unit vectors."""
        return F.normalize(self.text_head(features.pooled), dim=-1)

    def embed_patches(self, features: ImageFeatures) -> Tensor:
        """(B, P, E) float32 unit vectors; needs the local heads."""
        assert features.local is not None
        return F.normalize(self.patch_head(features.local), dim=-1)

    def embed_words(self, features: TextFeatures) -> Tensor:
        """(B, W, E) float32 unit vectors, zero where there is no word; needs the local heads."""
        words = F.normalize(self.word_head(features.local, features.mask), dim=-1)
        return words * features.mask[:, :, None]

    def embed_sentences(self, words: Tensor, features: TextFeatures, most: int) -> tuple[Tensor, Tensor]:
        """Mean of the words of each sentence.

        Args:
            words: (B, W, E), from `embed_words`.
            features: what they were made of.
            most: sentences a report; later ones are left out.

        Returns:
            (B, most, E) unit vectors, zero where there is no sentence; (B, most) bool, True where there is
            one.
        """
        number = torch.arange(most, device=words.device)
        members = features.sentence[:, None, :] == number[None, :, None]  # (B, S, W)
        members &= features.mask[:, None, :]
        # The length of the mean does not matter, so the sum will do.
        total = members.to(words.dtype) @ words  # (B, S, W) x (B, W, E) -> (B, S, E)
        return F.normalize(total, dim=-1), members.any(2)


class DualEncoderMethod(Method):
    """A method over a `DualEncoder`, built from the corpus and kept in the same way whatever its losses are."""

    config: Any
    model: DualEncoder

    def __init__(self, config: Any, model: DualEncoder) -> None:
        """Take the model. What only training needs is added by the method."""
        super().__init__()
        self.config, self.model = config, model

    @classmethod
    def model_class(cls, config: Any) -> type[DualEncoder]:
        """The model that `config` asks for. Default: a `DualEncoder`."""
        return DualEncoder

    @classmethod
    def local(cls, config: Any) -> Local:
        """Whether patches and words are projected too. Default: no."""
        return False

    @classmethod
    def from_corpus(cls, config: Any, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class."""
        kind = cls.model_class(config)
        return cls(config, kind.from_corpus(config, reports, setup, local=cls.local(config)))

    @classmethod
    def from_assets(cls, config: Any, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        return cls(config, cls.model_class(config).from_assets(config, assets, local=cls.local(config)))

    def assets(self) -> Mapping[str, bytes]:
        """See the base class."""
        return self.model.assets()
