"""SISTA: semantics-aware instance-level and sparse token-level alignment.

Bui, Nguyen, Bum, Le, Choo: "SISTA", arXiv 2601.08165. Fidelity `reconstruction`: only the abstract, the names of the
modules and second-hand summaries could be read (docs/methods/sista.md).

Confirmed by them:
- SIA, semantics-aware instance-level alignment: the image-report contrast takes in how similar reports are, so that
  unpaired samples that say the same are no false negatives;
- STA, sparse token-level alignment: patches are aligned with relevant words only.

Reconstructed, each choice a field of `SistaConfig`:
- encoders, heads and optimisation: MGCA's;
- what becomes of a false negative (`soft`, `mask`), from which similarity on, and whose similarity: that of the text
  encoder as it is before training, which SAT (TMI 2023) does with Bio_ClinicalBERT's [CLS];
- STA: the mechanism of SPARC (arXiv 2401.09865).

Total: L = w_sia L_sia + w_sta L_sta. A weight of 0 leaves out its term and modules. Only the global projections are
there in any case; without SIA, they and the last stage of a ResNet stay as they started.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import Method, PretrainConfig, Recipe, Setup
from medbench.model import ImageTextBatch
from medbench_methods.losses.semantic_alignment import FalseNegatives, semantic_alignment
from medbench_methods.losses.sparse_alignment import sparse_alignment
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig
from medbench_methods.modules.ranges import expect
from medbench_methods.modules.report_encoder import ReportEncoder, similarity_quantile
from medbench_methods.modules.text_encoder import (
    SCRATCH,
    TextEncoder,
    TextPooling,
    build_text,
    rebuild_text,
)
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN


@dataclass(frozen=True, kw_only=True)
class SistaConfig(DualEncoderConfig):
    """Every open choice. Encoders: `DualEncoderConfig`, with MGCA's values."""

    sia_weight: float = 1.0
    """Weight of the image-report contrast. Not known; 1 was chosen, as MGCA's code has."""

    sia_temperature: float = 0.07
    """Temperature of the image-report contrast. Not known; MGCA's code has 0.07."""

    false_negatives: FalseNegatives = "soft"
    """What becomes of unpaired samples whose reports say the same. That they are eliminated by report similarity is
    confirmed; how is not known. `soft` shares the target among them, `mask` takes them out of the denominator (a
    second-hand summary says "identify and then remove"). `soft` was chosen: it contains what `mask` does and needs
    one number more. `keep` is the ablation: they stay negatives."""

    report_layers: int = 12
    """Layers of the encoder that compares reports: of `text_encoder`, the first so many, as they are before training.
    Not known; all 12 of Bio_ClinicalBERT were chosen, as SAT does. From scratch it has the layers of the text tower,
    whatever stands here."""

    report_pooling: TextPooling = "cls"
    """What it takes for the whole report: the output of [CLS] or the mean over all tokens. Not known; [CLS] of
    Bio_ClinicalBERT is SAT's choice. A [CLS] that was never pretrained tells nothing: from scratch, take the mean."""

    report_threshold: float | None = 0.98
    """delta, the cosine from which two reports say the same; None to take `report_quantile`. Not known. It depends on
    the embedding: cosines of Bio_ClinicalBERT's [CLS] crowd near 1, and SAT takes pairs above 0.98 for positives; for
    an encoder trained to embed sentences, 0.8 to 0.9 is usual."""

    report_quantile: float = 0.98
    """Only without a threshold: the share of pairs of different training reports that count as different; their
    cosine at this quantile becomes delta. Our addition, for encoders of which no threshold is known; 0.98 leaves one
    report in fifty, less than one a batch of 32."""

    sta_weight: float = 1.0
    """Weight of sparse word-patch alignment. Not known; 1 like the other."""

    sta_temperature: float = 0.07
    """Temperature of the contrast among the words of a report. Not known; that of the image-report contrast was
    chosen (MGCA's token alignment has 0.1)."""

    sta_mirror: bool = False
    """Also align each patch with few words. Not known whether the paper does so; SPARC does not."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "report_layers", least=1)
        expect(self, "report_threshold", least=-1, most=1)
        expect(self, "report_quantile", least=0, most=1)


class Sista(Method):
    """Image-report contrast without false negatives, and sparse word-patch alignment."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            SistaConfig(**TINY, report_pooling="mean", report_threshold=None),
            TINY_PRETRAIN,
        ),
        "paper": Recipe(SistaConfig(), PretrainConfig(epochs=50, batch_size=72, lr=2e-5)),
        "micro": Recipe(
            SistaConfig(**MICRO, report_pooling="mean", report_threshold=None),
            MICRO_PRETRAIN,
        ),
    }
    ablations: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "sia": {"method.sia_weight": "0"},
        "sta": {"method.sta_weight": "0"},
        "false_negatives": {"method.false_negatives": "keep"},
    }
    config: SistaConfig
    model: DualEncoder
    threshold: Tensor

    def __init__(
        self, config: SistaConfig, model: DualEncoder, report_encoder: ReportEncoder | None, threshold: float
    ) -> None:
        """Join the model and what only training needs.

        Args:
            config: of the method.
            model: the encoders.
            report_encoder: compares reports; None where no term needs it.
            threshold: delta.
        """
        super().__init__()
        self.config, self.model, self.report_encoder = config, model, report_encoder
        self.setup = Setup()
        # Part of the weights: a quantile of the training reports can not be found again without them.
        self.register_buffer("threshold", torch.tensor(threshold))

    @classmethod
    def from_corpus(cls, config: SistaConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class.

        Raises:
            UsageError: a quantile of fewer than two reports is asked for.
        """
        model = DualEncoder.from_corpus(config, reports, setup, local=config.sta_weight != 0)
        if not _compares(config):
            return cls(config, model, None, 1.0)
        encoder = ReportEncoder(_frozen(config, model.text_encoder, setup))
        threshold = config.report_threshold
        if threshold is None:
            if len(reports) < 2:
                raise UsageError(
                    f"sista: {len(reports)} training reports; a quantile of their similarities needs at least 2. "
                    "Give the cosine itself with --set method.report_threshold=0.98."
                )
            vectors = encoder.of_corpus(reports, model.tokenizer, setup)
            threshold = similarity_quantile(vectors, config.report_quantile)
        method = cls(config, model, encoder, threshold)
        method.setup = setup
        return method

    @classmethod
    def from_assets(cls, config: SistaConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        model = DualEncoder.from_assets(config, assets, local=config.sta_weight != 0)
        encoder = None
        if _compares(config):
            frozen, _ = rebuild_text(
                _frozen_config(config), assets["report_encoder.json"], assets["tokenizer.json"]
            )
            encoder = ReportEncoder(frozen)
        return cls(config, model, encoder, 1.0)

    def assets(self) -> Mapping[str, bytes]:
        """See the base class."""
        own = {} if self.report_encoder is None else {"report_encoder.json": self.report_encoder.to_bytes()}
        return {**self.model.assets(), **own}

    def report_vectors(self, reports: Sequence[Sequence[str]]) -> Tensor | None:
        """See the base class."""
        if self.report_encoder is None:
            return None
        return self.report_encoder.of_corpus(reports, self.model.tokenizer, self.setup)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `sia`, `sta` whose weight is not 0."""
        config, model = self.config, self.model
        image, text = model.encode_image(batch.images), model.encode_text(batch.text)
        terms: dict[str, Tensor] = {}

        if config.sia_weight:
            vectors = batch.report_vectors
            if vectors is None and self.report_encoder is not None:  # a batch that was made by hand
                vectors = self.report_encoder(batch.text)  # (B, R)
            terms["sia"] = config.sia_weight * semantic_alignment(
                model.embed_image(image),
                model.embed_text(text),
                vectors,
                threshold=self.threshold,
                false_negatives=config.false_negatives,
                temperature=config.sia_temperature,
                gather=config.gather,
            )

        if config.sta_weight:
            terms["sta"] = config.sta_weight * sparse_alignment(
                model.embed_patches(image),
                model.embed_words(text),
                text.mask,
                temperature=config.sta_temperature,
                mirror=config.sta_mirror,
                gather=config.gather,
            )

        return terms


def _compares(config: SistaConfig) -> bool:
    """Whether reports are compared at all."""
    return config.sia_weight != 0 and config.false_negatives != "keep"


def _frozen_config(config: SistaConfig) -> SistaConfig:
    """What the encoder that compares reports is built from."""
    layers = config.text_layers if config.text_encoder == SCRATCH else config.report_layers
    return replace(
        config,
        text_layers=layers,
        text_pooling=config.report_pooling,
        text_summed_layers=1,
        text_frozen_layers=0,
    )


def _frozen(config: SistaConfig, encoder: TextEncoder, setup: Setup) -> TextEncoder:
    """The text encoder as it is before training, with the layers and the pooling that compare reports."""
    if config.text_encoder == SCRATCH:
        return TextEncoder(copy.deepcopy(encoder.bert), _frozen_config(config))
    try:
        return build_text(_frozen_config(config), [], setup)[0]
    except UsageError as error:
        raise UsageError(
            f"sista: the encoder that compares reports has method.report_layers={config.report_layers} layers. {error}"
        ) from None
