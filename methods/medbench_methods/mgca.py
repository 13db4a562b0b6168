"""MGCA: multi-granularity cross-modal alignment.

Wang, Zhou, Wang, Vardhanabhuti, Yu: "Multi-Granularity Cross-modal Alignment for Generalized Medical Visual
Representation Learning", NeurIPS 2022, arXiv 2210.06044. Fidelity `official-code`: built from the authors' repository,
github.com/HKU-MedAI/MGCA.

Three terms over pairs of a film and its report:

- ITA, instance: an image finds its report in the batch, and a report its image (losses/info_nce.py);
- CTA, token: words find their patches within a pair, and patches their words (losses/token_alignment.py);
- CPA, prototype: both predict each other's cluster over the batch (losses/prototype_alignment.py).

Total: L = w_ita L_ita + w_cta L_cta + w_cpa L_cpa. A weight of 0 leaves out its term and modules. Only the global
projections are there in any case; without both ITA and CPA, they and the last stage of a ResNet stay as they started.

The released code does some things that no reader would expect (docs/methods/mgca.md lists them). The default is the
clean reading; `compat` computes what the code computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.errors import UsageError
from medbench.method import SAME_NUMBERS, PretrainConfig, Recipe
from medbench.model import ImageTextBatch, TextFeatures
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.prototype_alignment import prototype_alignment
from medbench_methods.losses.token_alignment import attention_weights, token_alignment
from medbench_methods.losses.token_alignment_compat import token_alignment_compat
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod
from medbench_methods.modules.image_encoder import EncodedImage
from medbench_methods.modules.mgca_text import MgcaDualEncoder
from medbench_methods.modules.ranges import expect
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN

SCHEDULE = PretrainConfig(
    epochs=50,
    batch_size=72,
    accumulate=2,
    lr=2e-5,
    final_lr=1e-8,
    warmup=0.4,
    betas=(0.9, 0.999),
    weight_decay=0.05,
    clip_gradient=None,
    patience=5,
)
"""Optimisation of MGCA's released code, number by number; of methods whose own is not known, too. AdamW with decay on
every parameter, linear warm-up for 40 % of all steps, then one cosine; at most 50 epochs, stopped after 5 without a
better validation loss; gradients are not clipped. An optimiser step takes 144 pairs, 72 on each of two GPUs: here two
batches of 72 after one another. Negatives and batch statistics are those of 72 pairs, as there; only the prototype
term's Sinkhorn, there over all 144, is over 72."""


@dataclass(frozen=True, kw_only=True)
class MgcaConfig(DualEncoderConfig):
    """Encoders as in the released code (see the fields of `DualEncoderConfig`), and the three terms.

    The code's default backbone is ViT-B/16 (`backbone="deit_base_patch16_224"`); the default here is ResNet-50, with
    which detection and segmentation are reported.
    """

    compat: bool = False
    """Compute what the released code computes, quirks included: no positions and no token types in the text encoder,
    111 word slots with padding in the batch statistics and among the negatives, [SEP] as a word, attention of the
    next token, and with a ViT no normalisation of what words say about a patch. Needed for the authors'
    checkpoints. False is the clean reading."""

    ita_weight: float = 1.0
    """Weight of the instance term. 1 is what the released code runs with (command line); 1 also in its class."""

    ita_temperature: float = 0.07
    """Temperature of the instance term (released code)."""

    cta_weight: float = 1.0
    """Weight of the token term. The released code runs with 1 (command line), its class says 0.7; which one the
    paper states was not seen."""

    cta_temperature: float = 0.1
    """Temperature of the token term, attention and contrast (released code)."""

    chunk: int | None = field(default=None, metadata=SAME_NUMBERS)
    """Pairs of the token term that are computed at a time and, backward, once more (docs/memory.md); none for all at
    once. It bounds memory and changes no number."""

    cpa_weight: float = 1.0
    """Weight of the prototype term. The released code runs with 1 (command line), its class says 0.5; which one the
    paper states was not seen."""

    cpa_temperature: float = 0.2
    """Temperature of the predictions of prototypes (released code)."""

    prototypes: int = 500
    """K, prototypes (released code)."""

    sinkhorn_epsilon: float = 0.05
    """Entropy of the codes (released code)."""

    sinkhorn_iterations: int = 3
    """Of Sinkhorn (released code)."""

    prototypes_frozen_epochs: int = 1
    """First epochs in which prototypes do not learn (released code: their gradients are set to zero)."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "prototypes", "sinkhorn_iterations", "chunk", least=1)
        expect(self, "prototypes_frozen_epochs", least=0)
        if not self.sinkhorn_epsilon >= 0.025:
            raise UsageError(
                f"method.sinkhorn_epsilon is {self.sinkhorn_epsilon}; expected at least 0.025, or exp(-2 / epsilon) is"
                " 0 in float32."
            )


class Prototypes(nn.Module):
    """K unit vectors in the joint space, a linear layer without bias in the released code.

    Attributes:
        weight: (K, E); brought to unit rows before every use, in place, as in the released code: what an optimiser
            step adds to their length is taken off.
    """

    def __init__(self, number: int, width: int) -> None:
        """Directions as a fresh linear layer has them."""
        super().__init__()
        self.weight = nn.Parameter(F.normalize(nn.Linear(width, number, bias=False).weight.detach(), dim=1))

    def forward(self, *, frozen: bool) -> Tensor:
        """(K, E) unit vectors; `frozen`: with gradients of zero."""
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight, dim=1))
        # A copy, because what the backward pass keeps must not be written to by the next call.
        return self.weight.detach() + 0 * self.weight if frozen else self.weight.clone()


class Mgca(DualEncoderMethod):
    """Alignment of instances, tokens and prototypes."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(MgcaConfig(**TINY), TINY_PRETRAIN),
        "paper": Recipe(MgcaConfig(), SCHEDULE),
        # Batches of 4 in tests can not be shared out among 500 prototypes.
        "micro": Recipe(
            MgcaConfig(**MICRO, prototypes=16),
            MICRO_PRETRAIN,
        ),
    }
    ablations: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "ita": {"method.ita_weight": "0"},
        "cta": {"method.cta_weight": "0"},
        "cpa": {"method.cpa_weight": "0"},
    }
    config: MgcaConfig
    model: DualEncoder

    def __init__(self, config: MgcaConfig, model: DualEncoder) -> None:
        """Join the model and what only training needs."""
        super().__init__(config, model)
        self.prototypes = Prototypes(config.prototypes, config.embed) if config.cpa_weight else None

    @classmethod
    def model_class(cls, config: MgcaConfig) -> type[DualEncoder]:
        """With the released code's text side where that is asked for."""
        return MgcaDualEncoder if config.compat else DualEncoder

    @classmethod
    def local(cls, config: MgcaConfig) -> bool:
        """For token alignment."""
        return bool(config.cta_weight)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `ita`, `cta`, `cpa` whose weight is not 0."""
        config, model = self.config, self.model
        image, text = model.encode_image(batch.images), model.encode_text(batch.text)
        terms: dict[str, Tensor] = {}

        if config.ita_weight or self.prototypes is not None:
            images, reports = model.embed_image(image), model.embed_text(text)  # (B, E), (B, E)

        if config.ita_weight:
            terms["ita"] = config.ita_weight * info_nce(
                images, reports, config.ita_temperature, gather=config.gather
            )

        if config.cta_weight:
            terms["cta"] = config.cta_weight * self._token_term(image, text)

        if self.prototypes is not None:
            terms["cpa"] = config.cpa_weight * prototype_alignment(
                images,
                reports,
                self.prototypes(frozen=epoch < config.prototypes_frozen_epochs),
                temperature=config.cpa_temperature,
                epsilon=config.sinkhorn_epsilon,
                iterations=config.sinkhorn_iterations,
            )

        return terms

    def _token_term(self, image: EncodedImage, text: TextFeatures) -> Tensor:
        config, model = self.config, self.model
        patches, words = model.embed_patches(image), model.embed_words(text)  # (B, P, E), (B, W, E)
        assert text.attention is not None
        patch_weights = None if image.attention is None else attention_weights(image.attention)
        if not config.compat:
            return token_alignment(
                patches,
                words,
                text.mask,
                word_weights=attention_weights(text.attention, text.mask),
                patch_weights=patch_weights,
                temperature=config.cta_temperature,
                gather=config.gather,
                chunk=config.chunk,
            )
        return token_alignment_compat(
            patches,
            words,
            text.mask,
            # [SEP] has an attention of 0 and so no weight: percentiles are over what is not 0.
            word_weights=attention_weights(text.attention, text.attention > 0),
            patch_weights=patch_weights,
            normalise_told=image.attention is None,
            temperature=config.cta_temperature,
            chunk=config.chunk,
        )
