"""M-FLAG: a frozen language model, and image features that are kept orthogonal.

Liu et al., "M-FLAG: Medical Vision-Language Pre-training with Frozen Language Models and Latent Space Geometry
Optimization" (MICCAI 2023, arXiv 2307.08347). Fidelity `official-code`: the authors' repository
(cheliu-computation/M-FLAG-MICCAI2023) was read: its model, its two losses, its optimiser and its configuration are
those built here.

Only the image encoder and the two projection heads learn:

L = 1/B sum_i 2 (2 - 2 cos(v_i, t_i)) + 1/2 [ sum_i (G_ii - 1)^2 + w sum_{i != j} G_ij^2 ],  G = X^T X / B
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from medbench.data.film_augmentation import FilmAugmentation
from medbench.errors import UsageError
from medbench.method import PretrainConfig, Recipe
from medbench.model import ImageTextBatch
from medbench_methods.losses.cosine_alignment import cosine_alignment
from medbench_methods.losses.orthogonality import orthogonality
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod
from medbench_methods.modules.ranges import expect
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN_GLOBAL


@dataclass(frozen=True, kw_only=True)
class MflagConfig(DualEncoderConfig):
    """Encoders, heads and weights. Defaults: M-FLAG's released code."""

    backbone: str = "resnet50.tv_in1k"
    """torchvision's first ResNet-50, which `pretrained=True` gave the released code."""

    upsample: int = 0
    """The released code feeds the 224 px crop as it is."""

    text_encoder: str = "microsoft/BiomedVLP-CXR-BERT-general"
    """CXR-BERT-general (released code, and its configuration: `general`, not `specialized`)."""

    text_layers: int = 12
    """All of CXR-BERT's (released code)."""

    text_frozen_layers: int = 12
    """All of them, and with them the embeddings: the language model is frozen, which is the method's point. Of a tower
    from scratch, frozen after it has learnt hidden words."""

    text_max_tokens: int = 512
    """Released code; it pads every report to as many, which changes nothing for a frozen encoder."""

    text_dropout: float = 0.0
    """None: the released code leaves the language model in eval mode, in which it was loaded."""

    embed: int = 1024
    """Width of the space where pairs are aligned (released code; its configuration says 768, and is not read)."""

    hidden: int = 2048
    """Width of the hidden layer of the projection heads (released code)."""

    alignment_weight: float = 1.0
    """Weight of the alignment (released code: the two losses are added)."""

    orthogonality_weight: float = 1.0
    """Weight of the orthogonality (released code)."""

    off_diagonal: float = 0.0051
    """w, of pairs of features in the orthogonality (released code)."""

    augment: bool = True
    """Train on changed films: turned by 0 to 90 degrees, half of them warped (each corner drawn in by up to a quarter
    of the side), half of them stretched to full contrast (released code; its random change to grey does nothing to a
    film). `tiny` and `micro` leave films as they are: they show the same crops to every method, so that a table
    compares objectives."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "off_diagonal", least=0)
        if self.gather:
            raise UsageError(
                "method.gather is true, but method mflag has no negatives to gather, and its orthogonality is over the "
                "films of one process, as in the released code; leave it false."
            )


AUGMENTATION = FilmAugmentation(
    rotation=(0, 90), distortion=0.5, distortion_probability=0.5, autocontrast_probability=0.5
)
"""See `MflagConfig.augment`."""


class Mflag(DualEncoderMethod):
    """Alignment to a frozen language model, and orthogonal image features."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            MflagConfig(**TINY, augment=False, text_frozen_layers=TINY["text_layers"]),
            replace(TINY_PRETRAIN_GLOBAL, keep="last"),
        ),
        # Released code and configuration. 512 a process, and four processes, as the code divides the steps by 4; the
        # moments are those of one process, so accumulating four batches is the same.
        "paper": Recipe(
            MflagConfig(),
            PretrainConfig(
                epochs=50,  # its configuration; the code's loop then makes one more
                batch_size=512,
                accumulate=4,
                lr=2e-5,
                warmup=0.0,  # there is none
                schedule="restarts",  # torch's CosineAnnealingWarmRestarts, stepped after each batch
                restart_epochs=20,  # T_0: 40 % of the steps of all 50 epochs
                restart_factor=1,  # T_mult
                final_lr=1e-8,  # eta_min
                betas=(0.9, 0.999),
                weight_decay=0.05,
                clip_gradient=None,  # there is none
                patience=None,
                keep="last",  # there is no validation
            ),
        ),
        "micro": Recipe(
            MflagConfig(**MICRO, augment=False, text_frozen_layers=MICRO["text_layers"]),
            MICRO_PRETRAIN,
        ),
    }
    config: MflagConfig
    model: DualEncoder

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `alignment` and `orthogonality` whose weight is not 0."""
        config, model = self.config, self.model
        images = batch.images
        if config.augment and self.training:
            images = AUGMENTATION(images, model.preprocessing)
        image, text = model.encode_image(images), model.encode_text(batch.text)
        terms: dict[str, Tensor] = {}
        if config.alignment_weight:
            terms["alignment"] = config.alignment_weight * cosine_alignment(
                model.image_head(image.pooled), model.text_head(text.pooled)
            )
        if config.orthogonality_weight:
            terms["orthogonality"] = config.orthogonality_weight * orthogonality(
                image.pooled, config.off_diagonal
            )
        return terms
