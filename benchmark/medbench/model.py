"""The words between methods and tasks: what a model takes and what it gives.

Everything here is data and a protocol; no network is defined in the core.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from medbench.errors import UsageError


@dataclass(frozen=True)
class Preprocessing:
    """A model's input contract.

    A film is padded to a square, resized to `resize`, cropped to `size` (detection and segmentation stretch it to
    `size` instead, as the task says), scaled to [0, 1], repeated to three channels and normalised.

    Attributes:
        size: side of the square that the model sees, pixels.
        resize: side of the padded square that `size` is cropped from, pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
    """

    size: int
    resize: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Refuse what would cut crops from beside the film, or divide by nothing.

        Raises:
            UsageError: it names the field.
        """
        if not 0 < self.size <= self.resize:
            raise UsageError(
                f"size is {self.size} and resize {self.resize} px; expected 0 < size <= resize, since the one is cut "
                "from the other."
            )
        if not all(value > 0 for value in self.std):
            raise UsageError(f"std is {self.std}; expected numbers above 0.")

    def normalise(self, images: Tensor) -> Tensor:
        """(B, H, W) uint8 grey -> (B, 3, H, W) float32, on the device of `images`."""
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        # In place, since memory for another batch takes longer to get than the division.
        return (images[:, None].float() / 255 - mean).div_(std)  # (B, 1, H, W) -> (B, 3, H, W)


@dataclass(frozen=True)
class _Batch:
    def to(self, device: torch.device, non_blocking: bool = True) -> Self:
        """The same batch on another device."""

        def move(value: object) -> object:
            if isinstance(value, Tensor | _Batch):
                return value.to(device, non_blocking=non_blocking)
            return value

        return type(self)(**{f.name: move(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True)
class TextBatch(_Batch):
    """Tokenised reports.

    Attributes:
        ids: (B, T) int64, token ids, padded.
        mask: (B, T) bool, True where there is a token (special tokens included).
        word: (B, T) int64, index of the word that a word-piece belongs to, -1 for special tokens and padding.
        sentence: (B, T) int64, index of the sentence in its report, -1 for special tokens and padding.
    """

    ids: Tensor
    mask: Tensor
    word: Tensor
    sentence: Tensor


@dataclass(frozen=True)
class ImageTextBatch(_Batch):
    """Pairs for pretraining.

    Attributes:
        images: (B, 3, H, W) float32, normalised by the model's `preprocessing`.
        text: their reports.
        report_vectors: (B, R) float32, what `Method.report_vectors` gave for them before training; None where it gave
            nothing, and in batches that do not come from the engine.
    """

    images: Tensor
    text: TextBatch
    report_vectors: Tensor | None = None


@dataclass(frozen=True)
class ImageFeatures(_Batch):
    """What an image encoder sees, before any projection.

    Attributes:
        pooled: (B, D).
        local: (B, P, C) patch tokens, row by row from the top left; None where the encoder has none.
        pyramid: maps (B, C_s, H/s, W/s) at strides s = 2, 4, 8, 16, 32; None where not asked for.
    """

    pooled: Tensor
    local: Tensor | None = None
    pyramid: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class TextFeatures(_Batch):
    """What a text encoder sees, before any projection.

    Attributes:
        pooled: (B, D).
        local: (B, W, C) one vector a word.
        mask: (B, W) bool, True where there is a word.
        sentence: (B, W) int64, sentence of each word, -1 where there is none.
        attention: (B, W) float, attention of the pooled token to each word, 0 where there is none; or None.
    """

    pooled: Tensor
    local: Tensor
    mask: Tensor
    sentence: Tensor
    attention: Tensor | None = None


@runtime_checkable
class VisionLanguageModel(Protocol):
    """Image encoder + text encoder + projections, with its own preprocessing and tokenizer.

    A model without text (`random`) raises `NotImplementedError` in the text half; its spec does not provide it.
    """

    preprocessing: Preprocessing

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        """Features of (B, 3, H, W) normalised images; the five maps only when asked for."""

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        """Reports, each a list of sentences, as a padded batch on the CPU."""

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """Features of tokenised reports."""

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """(B, E) unit vectors in the joint space."""

    def embed_text(self, features: TextFeatures) -> Tensor:
        """(B, E) unit vectors in the joint space."""


@runtime_checkable
class LayeredModel(Protocol):
    """What a model can say beside that: the order of its image encoder's parameters.

    Fine-tuning then lets rates fall towards the input. Without it, all of an encoder learns at one rate
    (`medbench.protocols.unfrozen`).
    """

    def image_layers(self) -> Sequence[Sequence[nn.Parameter]]:
        """Parameters that `encode_image` uses, by layer, from input to output; each is in one layer."""


@runtime_checkable
class PatchModel(Protocol):
    """What a model can say beside that: that it has one resolution, and made the maps of its pyramid of it.

    A ViT sees patches of 16 px. Its five maps are that grid, enlarged and shrunk without parameters, so heads of
    detection and segmentation do better with the grid alone and a pyramid that they train, and what is computed and
    stored is the grid alone (`medbench.protocols.dense_maps`). A model that does not say so keeps its five maps: their
    shapes would not tell, since a net with a feature pyramid of its own has equally wide maps as well.
    """

    @property
    def pyramid_from_patches(self) -> bool:
        """Whether `local` holds all that the pyramid shows.

        `local` is then the map at stride 16, (B, H/16 x W/16, C), also where no pyramid is asked for.
        """


@runtime_checkable
class LocallySimilar(Protocol):
    """What a model may give besides: a similarity of words and the regions that they speak of.

    Retrieval and zero-shot classification then take the mean of it and of the cosine of embeddings, as GLoRIA does.
    A model without it is compared by the cosine alone.
    """

    def local_similarity(self, images: ImageFeatures, texts: TextFeatures) -> Tensor:
        """(I, T) float, higher is closer, of every image to every text.

        It is on the scale on which the method itself adds it to the cosine. What it gives for an image and a text
        does not depend on the other ones: reports that are word for word the same would else be told apart by the
        batches that they come in. Called in autocast if the precision is bf16, on features that were made in it.
        """
