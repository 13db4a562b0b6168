"""GLoRIA: images and reports are aligned as wholes, and words with the regions that they speak of.

Huang, Shen, Lungren, Yeung: "GLoRIA: A Multimodal Global-Local Representation Learning Framework for Label-efficient
Medical Image Recognition", ICCV 2021 (not on arXiv; code: github.com/marshuang80/gloria). Fidelity `official-code`:
built from the released code; docs/methods/gloria.md lists every difference.

    L = w_local L_local + w_global L_global

L_local is in losses/gloria_local.py. L_global is InfoNCE over cosines, both directions summed, times 10.

The text is one sentence of the report, drawn anew in each step from torch's generator, which the engine seeds from
(seed, step): a run that was interrupted draws what it would have drawn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.method import SAME_NUMBERS, Method, PretrainConfig, Recipe, Setup
from medbench.model import ImageFeatures, ImageTextBatch, Preprocessing, TextBatch, TextFeatures
from medbench_methods.losses.gather import pad_words
from medbench_methods.losses.gloria_local import gloria_local
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.modules.image_encoder import EncodedImage, ImageConfig, ImageEncoder
from medbench_methods.modules.ranges import expect, expect_terms
from medbench_methods.modules.sentences import SentenceConfig, cut, draw_sentences, read_whole
from medbench_methods.modules.text_encoder import (
    EncodedText,
    TextEncoder,
    TextPooling,
    build_text,
    rebuild_text,
)
from medbench_methods.modules.tokenizer import ReportTokenizer
from medbench_methods.modules.word_region_similarity import word_region_similarity
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN, WHOLE_REPORTS

SCHEDULE = PretrainConfig(
    epochs=50,
    batch_size=48,
    accumulate=1,
    lr=5e-5,
    warmup=0.0,
    schedule="plateau",
    plateau_factor=0.5,
    plateau_patience=5,
    final_lr=0.0,
    betas=(0.5, 0.999),
    weight_decay=1e-6,
    clip_gradient=0.25,
    patience=10,
)
"""Optimisation of GLoRIA's released code and its pretraining configuration, number by number: no warm-up, torch's
ReduceLROnPlateau on the validation loss, which has no lowest rate. But for Adam: AdamW decays weights apart from the
gradient; at 1e-6 neither decays anything. fp16 is left to --precision."""


@dataclass(frozen=True, kw_only=True)
class GloriaConfig(ImageConfig, SentenceConfig):
    """Encoders and losses. Defaults: GLoRIA's released code.

    The joint space is that of the text encoder (768 for BERT), which has no projection. The image half is that of
    `ImageConfig`, where GLoRIA's code and MGCA's agree (224 of 256 px, 0.5 and 0.5, enlarged to 299), but for the
    ImageNet weights.
    """

    backbone: str = "resnet50.tv_in1k"
    """torchvision's first ResNet-50, which `pretrained=True` gave the released code; MGCA, and the methods that follow
    it, start from torchvision's second."""

    text_layers: int = 12
    """Transformer layers; of a pretrained BERT the first so many. GLoRIA keeps all 12 of Bio_ClinicalBERT, all
    trainable (released code)."""

    text_summed_layers: int = 4
    """Last layers whose outputs are summed (released code: last_n_layers 4, aggregate_method sum)."""

    text_pooling: TextPooling = "mean"
    """What stands for the whole text: the mean. In the released code it is over word slots, of which those that pad the
    text to 97 are zero, and a word is the sum of its pieces; here over word-pieces. Only the length of the vector
    differs, and no loss or score sees that."""

    text_max_tokens: int = 97
    """Longest sentence or report that the encoder sees, in word-pieces, [CLS] and [SEP] included; the rest is cut off
    (released code: word_num 97)."""

    local_weight: float = 1.0
    """Weight of the word-region contrast (released code; one of its configuration files, named after ConVIRT,
    has 0)."""

    global_weight: float = 1.0
    """Weight of the image-report contrast (released code)."""

    attention_scale: float = 4.0
    """What a region's share of a word is multiplied by before the softmax over regions (released code: temp1). The
    softmax over words before it has no factor."""

    matching_scale: float = 5.0
    """What the cosine of a word and its regions is multiplied by before words are pooled (released code: temp2)."""

    contrast_scale: float = 10.0
    """What matchings and cosines are multiplied by in both contrasts (released code: temp3)."""

    gather: bool = False
    """Training in several processes: contrast with the pairs of all of them, with gradients through all. The released
    code trains on one GPU (and with Lightning's `dp` computes its loss on each device alone)."""

    chunk: int | None = field(default=None, metadata=SAME_NUMBERS)
    """Images of the word-region contrast that are matched with all reports at a time and, backward, once more
    (docs/memory.md); none for all at once. It bounds memory and changes no number."""

    compat: bool = False
    """Repeat the one place where the released code plainly does not do what it means to: it counts a sentence's words
    by leaving out those that begin with a bracket, so each [UNK] takes the last word of its sentence from the local
    loss. With Bio_ClinicalBERT's vocabulary that is rare. All else is the same in both readings; [CLS] is one of the
    local words and [SEP] is not, as released."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        ImageConfig.__post_init__(self)
        SentenceConfig.__post_init__(self)
        expect_terms(self)
        expect(self, "chunk", least=1)
        expect(self, "attention_scale", "matching_scale", "contrast_scale", above=0)


def _encoders(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A small recipe's encoders, without the widths of projections that GLoRIA does not have."""
    return {name: value for name, value in recipe.items() if name not in {"embed", "hidden"}}


class GloriaModel(nn.Module):
    """Fulfils `medbench.model.VisionLanguageModel`. Images are projected to the width of the text encoder.

    Attributes:
        preprocessing: the input contract for images.
        tokenizer: of the reports; keeps `report_max_tokens`.
    """

    preprocessing: Preprocessing

    def __init__(
        self,
        config: GloriaConfig,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: ReportTokenizer,
    ) -> None:
        """Join the encoders and add the two projections of images."""
        super().__init__()
        self.preprocessing = config.preprocessing
        self.tokenizer = read_whole(tokenizer, config)
        self.text_max_tokens = config.text_max_tokens
        self.attention_scale, self.matching_scale = config.attention_scale, config.matching_scale
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.image_head = nn.Linear(image_encoder.width, text_encoder.width)
        # The released 1x1 convolution over the map is a Linear over its cells.
        self.patch_head = nn.Linear(image_encoder.local_width, text_encoder.width, bias=False)

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
        """Reports, each a list of sentences -> a padded batch on the CPU; longer than what is encoded."""
        return self.tokenizer(reports)

    def text_from_ids(self, ids: Tensor, mask: Tensor) -> TextBatch:
        """Token ids of the tokenizer's vocabulary and their mask, both (B, T), as a batch on the CPU."""
        return self.tokenizer.from_ids(ids, mask)

    def shorten(self, text: TextBatch) -> TextBatch:
        """What of tokenised reports is encoded: the first `text_max_tokens`."""
        return cut(text, self.text_max_tokens)

    def encode_text(self, text: TextBatch) -> EncodedText:
        """Tokenised reports -> features."""
        features: EncodedText = self.text_encoder(self.shorten(text))
        return features

    def embed_image(self, features: ImageFeatures) -> Tensor:
        """(B, E) float32 unit vectors."""
        return F.normalize(self.image_head(features.pooled).float(), dim=-1)

    def embed_text(self, features: TextFeatures) -> Tensor:
        """(B, E) float32 unit vectors."""
        return F.normalize(features.pooled.float(), dim=-1)

    def embed_patches(self, features: ImageFeatures) -> Tensor:
        """(B, P, E), not normalised: the dot products of the local loss are over these."""
        assert features.local is not None
        regions: Tensor = self.patch_head(features.local)
        return regions

    def embed_words(self, features: EncodedText) -> tuple[Tensor, Tensor]:
        """(B, 1 + W, E), not normalised, [CLS] and the words; (B, 1 + W) bool, True where there is one."""
        assert features.first is not None
        words = torch.cat([features.first[:, None], features.local], 1)
        return words, F.pad(features.mask, (1, 0), value=True)

    def local_similarity(self, images: ImageFeatures, texts: TextFeatures) -> Tensor:
        """(I, T) float32, how well each image holds its best word of each text; [CLS] is no word here, as released."""
        regions = self.embed_patches(images)
        scales = (self.attention_scale, self.matching_scale)
        return word_region_similarity(regions, texts.local, texts.mask, *scales)


class Gloria(Method):
    """Global and local contrast of images and sentences."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            GloriaConfig(**_encoders(TINY), **WHOLE_REPORTS, text_summed_layers=2, report_max_tokens=256),
            TINY_PRETRAIN,
        ),
        "paper": Recipe(GloriaConfig(), SCHEDULE),
        "micro": Recipe(
            GloriaConfig(**_encoders(MICRO), text_summed_layers=1, report_max_tokens=96),
            MICRO_PRETRAIN,
        ),
    }
    config: GloriaConfig
    model: GloriaModel

    def __init__(self, config: GloriaConfig, model: GloriaModel) -> None:
        """Join the model and what only training needs."""
        super().__init__()
        self.config, self.model = config, model

    @classmethod
    def from_corpus(cls, config: GloriaConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class."""
        text_encoder, tokenizer = build_text(config, reports, setup)
        image_encoder = ImageEncoder(config, weights=True, offline=setup.offline)
        return cls(config, GloriaModel(config, image_encoder, text_encoder, tokenizer))

    @classmethod
    def from_assets(cls, config: GloriaConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        text_encoder, tokenizer = rebuild_text(config, assets["text_encoder.json"], assets["tokenizer.json"])
        image_encoder = ImageEncoder(config, weights=False)
        return cls(config, GloriaModel(config, image_encoder, text_encoder, tokenizer))

    def assets(self) -> Mapping[str, bytes]:
        """See the base class."""
        return {
            "text_encoder.json": self.model.text_encoder.to_bytes(),
            "tokenizer.json": self.model.tokenizer.to_bytes(),
        }

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `local` and `global` whose weight is not 0."""
        config, model = self.config, self.model
        text = batch.text
        if not config.full_report:
            text = draw_sentences(text, torch.rand(len(text.ids), device=text.ids.device))
        text = model.shorten(text)
        image, report = model.encode_image(batch.images), model.encode_text(text)
        terms: dict[str, Tensor] = {}

        if config.local_weight:
            words, mask = model.embed_words(report)  # (B, 1 + W, E)
            if config.compat:
                mask = self._as_counted(text, mask)
            if config.gather:  # all processes' words in one shape
                words, mask = (pad_words(part, config.text_max_tokens) for part in (words, mask))
            terms["local"] = config.local_weight * gloria_local(
                model.embed_patches(image),
                words,
                mask,
                attention_scale=config.attention_scale,
                matching_scale=config.matching_scale,
                contrast_scale=config.contrast_scale,
                gather=config.gather,
                chunk=config.chunk,
            )

        if config.global_weight:
            terms["global"] = config.global_weight * info_nce(
                model.embed_image(image),
                model.embed_text(report),
                1 / config.contrast_scale,
                gather=config.gather,
            )

        return terms

    def _as_counted(self, text: TextBatch, mask: Tensor) -> Tensor:
        """(B, 1 + W) without as many words at the end as there are unknown ones in the sentence."""
        unknown = self.model.tokenizer.unknown
        missed = (text.ids == (-1 if unknown is None else unknown)) & text.mask  # (B, T)
        counted = mask.sum(1) - missed.sum(1)
        return torch.arange(mask.shape[1], device=mask.device) < counted[:, None]
