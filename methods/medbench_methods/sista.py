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
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import SAME_NUMBERS, Method, Recipe, Setup, from_disk
from medbench.model import ImageTextBatch
from medbench_methods.losses.semantic_alignment import FalseNegatives, semantic_alignment
from medbench_methods.losses.sparse_alignment import sparse_alignment
from medbench_methods.mgca import SCHEDULE
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig
from medbench_methods.modules.ranges import expect
from medbench_methods.modules.report_encoder import ReportEncoder, share_alike, similarity_quantile
from medbench_methods.modules.text_encoder import (
    SCRATCH,
    TextEncoder,
    TextPooling,
    build_text,
    rebuild_text,
)
from medbench_methods.modules.tokenizer import ReportTokenizer
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN

ReportKind = Literal["language", "sentence"]

LANGUAGE_THRESHOLD = 0.98
"""delta for [CLS] of a pretrained language model: cosines of Bio_ClinicalBERT's crowd near 1, and SAT (TMI 2023) takes
pairs above this for positives."""

SENTENCE_THRESHOLD = 0.85
"""delta for a model that was trained to embed sentences: the middle of the 0.8 to 0.9 that is usual for them."""

MOST_ALIKE = 0.5
"""A larger share of the pairs of different reports can not say the same: the embedding does not tell them apart."""


@dataclass(frozen=True, kw_only=True)
class SistaConfig(DualEncoderConfig):
    """Every open choice.

    Encoders, projections and preparation of films and reports are MGCA's: none of that is known of SISTA.
    """

    text_layers: int = 6
    """Transformer layers; of a pretrained BERT the first so many. Not known; MGCA's 6 of Bio_ClinicalBERT's 12 were
    chosen."""

    text_max_tokens: int = 112
    """Longest report in word-pieces, [CLS] and [SEP] included; the rest is cut off. Not known; MGCA's value was
    chosen."""

    embed: int = 128
    """Width of the joint space. Not known; MGCA's value was chosen."""

    hidden: int = 2048
    """Width of the hidden layer of the projection heads. Not known; MGCA's value was chosen."""

    gather: bool = False
    """Training in several processes: contrast with the pairs of all of them, with gradients through all. Not known;
    MGCA's code takes the pairs of the same device only."""

    sia_weight: float = 1.0
    """Weight of the image-report contrast. Not known; 1 was chosen, as MGCA's code has."""

    sia_temperature: float = 0.07
    """Temperature of the image-report contrast. Not known; MGCA's code has 0.07."""

    false_negatives: FalseNegatives = "soft"
    """What becomes of unpaired samples whose reports say the same. That they are eliminated by report similarity is
    confirmed; how is not known. `soft` shares the target among them, `mask` takes them out of the denominator (a
    second-hand summary says "identify and then remove"). `soft` was chosen: it contains what `mask` does and needs
    one number more. `keep` is the ablation: they stay negatives."""

    report_encoder: str | None = field(default=None, metadata=from_disk())
    """Folder or hub name of a pretrained BERT with its tokenizer that compares reports and is never trained; None for
    `text_encoder` as it is before training. Not known; SAT compares with Bio_ClinicalBERT, which this is by default."""

    report_kind: ReportKind = "language"
    """What the encoder that compares reports was trained for: as a `language` model, or to embed a `sentence`, so that
    cosines tell them apart. It decides which cosine stands for `report_threshold` where none is given."""

    report_layers: int = 12
    """Layers of the encoder that compares reports, the first so many. Not known; all 12 of Bio_ClinicalBERT were
    chosen, as SAT does. From scratch it has the layers of the text tower, whatever stands here."""

    report_pooling: TextPooling = "cls"
    """What it takes for the whole report: the output of [CLS] or the mean over all tokens. Not known; [CLS] of
    Bio_ClinicalBERT is SAT's choice. A [CLS] that was never pretrained tells nothing: from scratch, take the mean."""

    report_threshold: float | None = None
    """delta, the cosine from which two reports say the same; None to go by the embedding: 0.85 where `report_kind` is
    `sentence`, 0.98 (SAT's) for [CLS] of a pretrained language model, and for all else, a text tower from scratch or a
    mean over tokens, of which no threshold is known, the `report_quantile`. Not known, and neither is how the paper
    embeds reports. Where more than half of the pairs of different reports reach it, training does not begin."""

    report_quantile: float = 0.98
    """Only where no threshold is given or known: the share of pairs of training reports that count as different;
    their cosine at this quantile becomes delta. Our addition; 0.98 leaves one report in fifty, less than one a batch
    of 32."""

    sta_weight: float = 1.0
    """Weight of sparse word-patch alignment. Not known; 1 like the other."""

    sta_temperature: float = 0.07
    """Temperature of the contrast among the words of a report. Not known; that of the image-report contrast was
    chosen (MGCA's token alignment has 0.1)."""

    sta_mirror: bool = False
    """Also align each patch with few words. Not known whether the paper does so; SPARC does not."""

    chunk: int | None = field(default=None, metadata=SAME_NUMBERS)
    """Pairs of sparse word-patch alignment that are computed at a time and, backward, once more (docs/memory.md); none
    for all at once. It bounds memory and changes no number."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "report_layers", "chunk", least=1)
        expect(self, "report_threshold", least=-1, most=1)
        expect(self, "report_quantile", least=0, most=1)
        if self.report_encoder == SCRATCH:
            raise UsageError(
                f"method.report_encoder is {SCRATCH}; expected the folder or hub name of a pretrained BERT, or none for"
                " method.text_encoder as it is before training."
            )


class Sista(Method):
    """Image-report contrast without false negatives, and sparse word-patch alignment."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            SistaConfig(**TINY, report_pooling="mean"),
            TINY_PRETRAIN,
        ),
        "paper": Recipe(SistaConfig(), SCHEDULE),
        "micro": Recipe(
            SistaConfig(**MICRO, report_pooling="mean"),
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
        self,
        config: SistaConfig,
        model: DualEncoder,
        report_encoder: ReportEncoder | None,
        threshold: float,
        report_tokenizer: ReportTokenizer | None = None,
    ) -> None:
        """Join the model and what only training needs.

        Args:
            config: of the method.
            model: the encoders.
            report_encoder: compares reports; None where no term needs it.
            threshold: delta.
            report_tokenizer: of `report_encoder`; None where it reads what the model's text encoder reads.
        """
        super().__init__()
        self.config, self.model, self.report_encoder = config, model, report_encoder
        self.report_tokenizer = report_tokenizer
        self.setup = Setup()
        # Part of the weights: a quantile of the training reports can not be found again without them.
        self.register_buffer("threshold", torch.tensor(threshold))

    @classmethod
    def from_corpus(cls, config: SistaConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class.

        Raises:
            UsageError: a quantile of fewer than two reports is asked for, or most of the different ones reach delta.
        """
        model = DualEncoder.from_corpus(config, reports, setup, local=config.sta_weight != 0)
        if not _compares(config):
            return cls(config, model, None, 1.0)
        frozen, tokenizer = _frozen(config, model.text_encoder, setup)
        encoder = ReportEncoder(frozen)
        threshold, source = _threshold(config)
        if threshold is None and len(reports) < 2:
            raise UsageError(
                f"sista: {len(reports)} training reports; a quantile of their similarities needs at least 2. "
                "Give the cosine itself with --set method.report_threshold=0.98."
            )
        vectors = encoder.of_corpus(reports, tokenizer or model.tokenizer, setup)
        if threshold is None:
            threshold = similarity_quantile(vectors, config.report_quantile)
        _check_tells_apart(config, share_alike(vectors, reports, threshold), threshold, source, setup)
        method = cls(config, model, encoder, threshold, tokenizer)
        method.setup = setup
        return method

    @classmethod
    def from_assets(cls, config: SistaConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        model = DualEncoder.from_assets(config, assets, local=config.sta_weight != 0)
        if not _compares(config):
            return cls(config, model, None, 1.0)
        own = config.report_encoder is not None
        frozen, tokenizer = rebuild_text(
            _frozen_config(config),
            assets["report_encoder.json"],
            assets["report_tokenizer.json" if own else "tokenizer.json"],
        )
        return cls(config, model, ReportEncoder(frozen), 1.0, tokenizer if own else None)

    def assets(self) -> Mapping[str, bytes]:
        """See the base class."""
        own = {} if self.report_encoder is None else {"report_encoder.json": self.report_encoder.to_bytes()}
        if self.report_tokenizer is not None:
            own["report_tokenizer.json"] = self.report_tokenizer.to_bytes()
        return {**self.model.assets(), **own}

    def report_vectors(self, reports: Sequence[Sequence[str]]) -> Tensor | None:
        """See the base class."""
        if self.report_encoder is None:
            return None
        tokenizer = self.report_tokenizer or self.model.tokenizer
        return self.report_encoder.of_corpus(reports, tokenizer, self.setup)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `sia`, `sta` whose weight is not 0.

        Raises:
            UsageError: the batch has no `report_vectors`, and its token ids are not those of the encoder that
                compares reports.
        """
        config, model = self.config, self.model
        image, text = model.encode_image(batch.images), model.encode_text(batch.text)
        terms: dict[str, Tensor] = {}

        if config.sia_weight:
            vectors = batch.report_vectors
            if vectors is None and self.report_encoder is not None:  # a batch that was made by hand
                if self.report_tokenizer is not None:
                    raise UsageError(
                        "sista: a batch without report_vectors, whose tokens method.report_encoder="
                        f"{config.report_encoder} can not read: it has a vocabulary of its own. Give the batch what"
                        " report_vectors(reports) of this method makes."
                    )
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
                chunk=config.chunk,
            )

        return terms


def _compares(config: SistaConfig) -> bool:
    """Whether reports are compared at all."""
    return config.sia_weight != 0 and config.false_negatives != "keep"


def _threshold(config: SistaConfig) -> tuple[float | None, str]:
    """Delta by the embedding, None where it is a quantile of the training reports' similarities; and whence it is."""
    if config.report_threshold is not None:
        return config.report_threshold, "method.report_threshold"
    if config.report_kind == "sentence":
        return SENTENCE_THRESHOLD, "usual for embeddings of sentences"
    if _report_name(config) != SCRATCH and config.report_pooling == "cls":
        return LANGUAGE_THRESHOLD, "for [CLS] of a language model"
    return None, f"quantile {config.report_quantile:g} of the training reports' pairs"


def _check_tells_apart(
    config: SistaConfig, share: float, threshold: float, source: str, setup: Setup
) -> None:
    """Say what delta does to the training reports, and refuse one that most of them reach."""
    told = f"{share:.1%} of the sampled pairs of different training reports reach delta={threshold:.4f} ({source})"
    if share > MOST_ALIKE:
        raise UsageError(
            f"sista: {told}; expected at most {MOST_ALIKE:.0%}, because they would all count as saying the same. Give a"
            " greater --set method.report_threshold, another --set method.report_encoder, or compare by means with"
            " --set method.report_pooling=mean --set method.report_threshold=none."
        )
    setup.say(f"sista: {told}")


def _report_name(config: SistaConfig) -> str:
    """Folder or hub name of the encoder that compares reports, or `scratch`."""
    return config.text_encoder if config.report_encoder is None else config.report_encoder


def _frozen_config(config: SistaConfig) -> SistaConfig:
    """What the encoder that compares reports is built from."""
    layers = config.text_layers if _report_name(config) == SCRATCH else config.report_layers
    return replace(
        config,
        text_encoder=_report_name(config),
        text_layers=layers,
        text_pooling=config.report_pooling,
        text_summed_layers=1,
        text_frozen_layers=0,
    )


def _frozen(
    config: SistaConfig, encoder: TextEncoder, setup: Setup
) -> tuple[TextEncoder, ReportTokenizer | None]:
    """An encoder with the layers and the pooling that compare reports, and its tokenizer if it is not the model's.

    Without a `report_encoder` it is the text encoder as it is before training.
    """
    if _report_name(config) == SCRATCH:
        return TextEncoder(copy.deepcopy(encoder.bert), _frozen_config(config)), None
    try:
        frozen, tokenizer = build_text(_frozen_config(config), [], setup)
        return frozen, tokenizer if config.report_encoder is not None else None
    except UsageError as error:
        raise UsageError(
            f"sista: the encoder that compares reports has method.report_layers={config.report_layers} layers. {error}"
        ) from None
