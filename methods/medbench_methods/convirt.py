"""ConVIRT: radiographs and sentences of their reports are told apart in a joint space.

Zhang, Jiang, Miura, Manning, Langlotz: "Contrastive Learning of Medical Visual Representations from Paired Images and
Text", arXiv 2010.00747. Fidelity `paper`: we know of no training code by its authors. Objective, encoders, freezing and
sizes are as later papers and the common re-implementation (github.com/edreisMD/ConVIRT-pytorch) give them; what they
leave open is a field that says so.

    L = 0.75 CE(image -> text) + 0.25 CE(text -> image),   cosines / 0.1

The text is one sentence of the report, drawn anew in each step. `clip` has the same contrast with MGCA's encoders and
heads, and whole reports.

Augmentation: after the random crop that every method has (224 of 256 px; the paper's has 60 to 100 % of the film),
films are mirrored, turned, shifted, lit differently and blurred, by the paper's numbers as the code of LoVT (ECCV 2022,
github.com/philip-mueller/lovt) states and uses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.data.film_augmentation import FilmAugmentation
from medbench.method import PretrainConfig, Recipe
from medbench.model import ImageTextBatch, TextBatch, TextFeatures
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod
from medbench_methods.modules.image_encoder import ImageEncoder
from medbench_methods.modules.ranges import expect
from medbench_methods.modules.sentences import SentenceConfig, cut, draw_sentences, read_whole
from medbench_methods.modules.text_encoder import TextEncoder, TextPooling
from medbench_methods.modules.tokenizer import ReportTokenizer
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN_GLOBAL, WHOLE_REPORTS


@dataclass(frozen=True, kw_only=True)
class ConvirtConfig(DualEncoderConfig, SentenceConfig):
    """Encoders, heads and the contrast.

    The image half is that of `ImageConfig`, MGCA's: size, grey values and enlarging to 299 px are not ConVIRT's own,
    but the same for every method here.
    """

    temperature: float = 0.1
    """Of the contrast (paper)."""

    image_weight: float = 0.75
    """Weight of the direction from an image to the texts (paper: lambda). That of the other direction is what is left
    to 1."""

    embed: int = 512
    """Width of the joint space (paper)."""

    hidden: int = 2048
    """Width of the hidden layer of the image's head. The paper has one hidden layer; as wide as ResNet-50's features in
    the re-implementation."""

    augment: bool = True
    """Train on changed films: mirrored (probability 0.5), turned by up to 20 degrees, shifted by up to a tenth, scaled
    by 0.95 to 1.05, brightness and contrast times 0.6 to 1.4, blurred with a deviation of 0.1 to 3 px. Parts and
    numbers are the paper's, as LoVT's code restates them; their order, and blurring every film, are that code's. `tiny`
    and `micro` leave films as they are: they show the same crops to every method, so that a table compares
    objectives."""

    text_hidden: int = 768
    """Width of the hidden layer of the text's head; as wide as BERT's features in the re-implementation."""

    text_layers: int = 12
    """Transformer layers: all of Bio_ClinicalBERT's 12."""

    text_frozen_layers: int = 6
    """First layers that are not trained, and with them the embeddings (paper)."""

    text_pooling: TextPooling = "max"
    """What stands for the text: the largest value of each number over the tokens, which is how reviews tell the paper;
    the re-implementation has their mean."""

    text_max_tokens: int = 97
    """Longest sentence or report that the encoder sees, in word-pieces, [CLS] and [SEP] included; the rest is cut off.
    Not known; GLoRIA's, which also reads one sentence, was chosen."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        SentenceConfig.__post_init__(self)
        expect(self, "image_weight", least=0, most=1)
        expect(self, "text_hidden", least=1)


AUGMENTATION = FilmAugmentation(
    flip=0.5,
    rotation=(-20, 20),
    translation=0.1,
    scale=(0.95, 1.05),
    brightness=(0.6, 1.4),
    contrast=(0.6, 1.4),
    blur=(0.1, 3.0),
)
"""See `ConvirtConfig.augment`."""


class PlainHead(nn.Module):
    """Linear, ReLU, Linear: one hidden layer and no normalisation (paper)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        """Widths of the layers."""
        super().__init__()
        self.expand, self.reduce = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs) float32."""
        out: Tensor = self.reduce(F.relu(self.expand(features)))
        return out.float()


class ConvirtModel(DualEncoder):
    """Two encoders with plain heads; reports are tokenised whole and encoded up to `text_max_tokens`."""

    def __init__(
        self,
        config: ConvirtConfig,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: ReportTokenizer,
        *,
        local: bool = False,
    ) -> None:
        """Join the encoders and add fresh heads."""
        super().__init__(config, image_encoder, text_encoder, read_whole(tokenizer, config), local=local)
        self.text_max_tokens = config.text_max_tokens
        self.image_head = PlainHead(image_encoder.width, config.hidden, config.embed)  # type: ignore[assignment]  # plain for MGCA's
        self.text_head = PlainHead(text_encoder.width, config.text_hidden, config.embed)  # type: ignore[assignment]  # the same

    def encode_text(self, text: TextBatch) -> TextFeatures:
        """Tokenised reports -> features."""
        return super().encode_text(cut(text, self.text_max_tokens))


class Convirt(DualEncoderMethod):
    """Image-sentence InfoNCE with weighted directions."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            ConvirtConfig(
                **TINY,
                **WHOLE_REPORTS,
                augment=False,
                text_hidden=128,
                text_frozen_layers=1,
                report_max_tokens=256,
            ),
            TINY_PRETRAIN_GLOBAL,
        ),
        # Batch, learning rate and weight decay are the paper's. The rest is LoVT's (ECCV 2022), which trains ConVIRT
        # again and whose configuration was read. Not kept: Adam (AdamW decays weights apart from the gradient; at
        # 1e-6 neither decays anything).
        "paper": Recipe(
            ConvirtConfig(),
            PretrainConfig(
                epochs=500,  # LoVT; early stopping ends it
                batch_size=32,
                accumulate=1,
                lr=1e-4,
                warmup=0.0,  # LoVT has none
                schedule="plateau",  # LoVT
                plateau_factor=0.5,
                plateau_patience=12,
                final_lr=0.0,  # torch's default
                betas=(0.9, 0.999),  # torch's default
                weight_decay=1e-6,
                clip_gradient=None,  # not known of either
                patience=15,  # LoVT
            ),
        ),
        "micro": Recipe(
            ConvirtConfig(**MICRO, augment=False, text_hidden=64, text_frozen_layers=0, report_max_tokens=96),
            MICRO_PRETRAIN,
        ),
    }
    config: ConvirtConfig
    model: ConvirtModel

    @classmethod
    def model_class(cls, config: ConvirtConfig) -> type[DualEncoder]:
        """With plain heads."""
        return ConvirtModel

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """One term, `contrast`."""
        config, text = self.config, batch.text
        if not config.full_report:
            text = draw_sentences(text, torch.rand(len(text.ids), device=text.ids.device))
        images = batch.images
        if config.augment and self.training:
            images = AUGMENTATION(images, self.model.preprocessing)
        films = self.model.embed_image(self.model.encode_image(images))  # (B, E)
        told = self.model.embed_text(self.model.encode_text(text))  # (B, E)
        weights = (config.image_weight, 1 - config.image_weight)
        return {"contrast": info_nce(films, told, config.temperature, weights=weights, gather=config.gather)}
