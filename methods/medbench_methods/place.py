"""PLACE: pathological-level alignment and correlation exploration.

Wang, Zhu, Yu, Bhalerao, He: "PLACE", arXiv 2506.10573. Fidelity `reconstruction`: only the abstract and a
third-party summary could be read (docs/methods/place.md).

Confirmed by them:
- two parts are added to image-report learning: PCMA, pathological-level cross-modal alignment, and CCE,
  cross-modal correlation exploration, a proxy task;
- a visual pathology observation extractor (VPOE) has pathology queries that draw visual observations (V-PORs)
  from the image's local tokens; these are paired with their textual counterparts (T-PORs) and aligned; no
  disease labels;
- CCE predicts the covariance among patches, conditioned on the report.

Reconstructed, each choice a field of `PlaceConfig`:
- the base: MGCA's encoders, instance term (ITA) and token term (CTA); MGCA's prototypes are left out, because
  the paper contrasts pathology-level alignment with clusters;
- T-PORs: the mean of a sentence's projected words; VPOE: a small transformer decoder;
- the pairing and contrast of PCMA; the target, the masking and the decoder of CCE; all weights, widths and
  numbers.

Total: L = w_ita L_ita + w_cta L_cta + w_pcma L_pcma + w_cce L_cce. A weight of 0 leaves out its term and modules. Only
the global projections are there in any case; without ITA, which alone looks at whole films, they and the last stage of
a ResNet stay as they started.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.method import SAME_NUMBERS, Recipe
from medbench.model import ImageTextBatch
from medbench_methods.losses._precision import full_precision
from medbench_methods.losses.correlation_exploration import Distance, Relation, correlation_exploration
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.pathology_alignment import Negatives, Pairing, pathology_alignment
from medbench_methods.losses.token_alignment import attention_weights, token_alignment
from medbench_methods.mgca import SCHEDULE
from medbench_methods.modules.attention import attention_kernel
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod, Local
from medbench_methods.modules.positions import grid_positions
from medbench_methods.modules.ranges import check_decoder, expect
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN


@dataclass(frozen=True, kw_only=True)
class PlaceConfig(DualEncoderConfig):
    """Every open choice.

    Encoders, projections and preparation of films and reports are MGCA's: none of that is known of PLACE. Which
    backbones the paper has is not known either. The default is ResNet-50, because detection and segmentation are
    compared with it in the literature; ViT-B/16 is `backbone="deit_base_patch16_224"`.
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

    ita_weight: float = 1.0
    """Weight of the image-report contrast. Not known; MGCA's code has 1."""

    ita_temperature: float = 0.07
    """Temperature of the image-report contrast. Not known; MGCA's code has 0.07."""

    cta_weight: float = 1.0
    """Weight of word-patch alignment. Not known whether the paper keeps this term; MGCA's code has 1."""

    cta_temperature: float = 0.1
    """Temperature of word-patch alignment, attention and contrast. Not known; MGCA's code has 0.1."""

    chunk: int | None = field(default=None, metadata=SAME_NUMBERS)
    """Pairs of word-patch alignment, and of pathology-level alignment, that are computed at a time and, backward, once
    more (docs/memory.md); none for all at once. It bounds memory and changes no number."""

    pcma_weight: float = 1.0
    """Weight of pathology-level alignment. Not known; 1 like the others."""

    queries: int = 14
    """K, pathology queries of VPOE. Not known; 14, as many as CheXpert's observations, was chosen."""

    vpoe_layers: int = 2
    """Decoder layers of VPOE. Not known; 2 was chosen."""

    decoder_width: int = 512
    """Width of the decoders of VPOE and CCE. Not known; 512 was chosen."""

    decoder_heads: int = 8
    """Attention heads of both decoders. Not known; 8 was chosen."""

    sentences: int = 12
    """S, most sentences of a report that give a T-POR; later ones are left out. Not known; 12 was chosen."""

    pairing: Pairing = "soft"
    """How V-PORs and T-PORs are paired. That they are is confirmed, the rule is not known. `soft` lets a
    sentence attend over all observations, which suits a varying number of sentences; `hungarian` assigns one
    to one."""

    pairing_temperature: float = 0.1
    """Temperature of the soft pairing. Not known; CTA's value was chosen."""

    pcma_temperature: float = 0.07
    """Temperature of the pathology-level contrast. Not known; ITA's value was chosen."""

    negatives: Negatives = "batch"
    """Which sentences a sentence is told apart from: all of the `batch` or those of its own `report`. Not
    known; the batch gives more, PRIOR (ICCV 2023) found its own report better for its sentence loss."""

    false_negative_cosine: float = 0.95
    """T-PORs at least this similar are not told apart, because normal statements repeat across patients. Not
    known whether the paper does so; 0.95 was chosen. Above 1 switches it off."""

    cce_weight: float = 1.0
    """Weight of correlation exploration. Not known; 1 like the others."""

    cce_grid: int = 7
    """Side of the grid that patches are averaged to for CCE; a smaller map stays as it is. Not known; 7 keeps
    the matrix at 49 x 49."""

    cce_mask: float = 0.5
    """Share of each film's patches that are hidden from the CCE decoder, to the nearest number of patches. Our
    addition: with all of them in sight the answer can be copied. Not known whether the paper masks; 0.5 was chosen."""

    cce_layers: int = 1
    """Decoder layers of CCE. Not known; 1 was chosen."""

    cce_relation: Relation = "correlation"
    """Target of CCE. The abstract says covariance, and correlation among patches; `correlation` is covariance
    of normalised patches, which can not be lowered by shrinking the features. `covariance` is the plain
    one."""

    cce_distance: Distance = "mse"
    """Distance of CCE, `mse` or `smooth_l1`. Not known; the square was chosen."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "queries", "sentences", "chunk", least=1)
        expect(self, "cce_grid", least=2)  # of one patch there are no pairs
        expect(self, "false_negative_cosine", least=-1)
        expect(self, "vpoe_layers", "cce_layers", least=1)
        expect(self, "cce_mask", least=0, most=1)
        check_decoder(self)


class ObservationExtractor(nn.Module):
    """VPOE: learnt pathology queries look at the patches; each comes back with what it observed."""

    def __init__(self, config: PlaceConfig, patch_width: int) -> None:
        """K queries, a decoder, a way in and a way out."""
        super().__init__()
        self.queries = nn.Parameter(torch.randn(config.queries, config.decoder_width) * 0.02)
        self.enter = _entry(patch_width, config)
        self.layers = _decoder(config, config.vpoe_layers)
        self.leave = nn.Linear(config.decoder_width, config.embed)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, P, C) patches, not projected -> (B, K, E) unit vectors, the V-PORs."""
        memory = self.enter(patches) + grid_positions(patches.shape[1], self.queries.shape[1], patches.device)
        observed: Tensor = self.queries.expand(len(patches), -1, -1)  # (K, D) -> (B, K, D)
        with attention_kernel(patches.device):
            for layer in self.layers:
                observed = layer(observed, memory)
        return F.normalize(self.leave(observed).float(), dim=-1)


class CorrelationDecoder(nn.Module):
    """CCE: half of the patches are hidden; the report helps to tell how all of them relate."""

    def __init__(self, config: PlaceConfig, patch_width: int, text_width: int) -> None:
        """A mask token, a decoder, ways in for patches and words, and a way out."""
        super().__init__()
        self.hidden_share = config.cce_mask
        self.hidden = nn.Parameter(torch.randn(config.decoder_width) * 0.02)
        self.enter_patches, self.enter_words = _entry(patch_width, config), _entry(text_width, config)
        self.layers = _decoder(config, config.cce_layers)
        self.leave = nn.Linear(config.decoder_width, config.embed)

    def forward(self, patches: Tensor, report: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Predict one vector a patch.

        Args:
            patches: (B, N, C), not projected.
            report: (B, D) pooled text feature; it is always in sight, also of a report without words.
            words: (B, W, D) text features.
            mask: (B, W) bool, True where there is a word.

        Returns:
            (B, N, E).
        """
        tokens = self.enter_patches(patches)
        number = round(self.hidden_share * tokens.shape[1])  # of each film
        order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(1)  # (B, N), a permutation
        hide = order < number  # (B, N)
        tokens = torch.where(hide[:, :, None], self.hidden.to(tokens.dtype), tokens)
        tokens = tokens + grid_positions(tokens.shape[1], tokens.shape[2], tokens.device)
        memory = self.enter_words(torch.cat([report[:, None], words], 1))  # (B, 1 + W, D)
        padding = ~F.pad(mask, (1, 0), value=True)
        with attention_kernel(patches.device):
            for layer in self.layers:
                tokens = layer(tokens, memory, memory_key_padding_mask=padding)
        predicted: Tensor = self.leave(tokens)
        return predicted


def _entry(width: int, config: PlaceConfig) -> nn.Sequential:
    """From an encoder's features to the width of a decoder; they come in any scale."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.decoder_width))


def _decoder(config: PlaceConfig, layers: int) -> nn.ModuleList:
    """Pre-norm decoder layers: self-attention, cross-attention, feed-forward of four times the width."""
    width = config.decoder_width
    return nn.ModuleList(
        nn.TransformerDecoderLayer(
            width,
            config.decoder_heads,
            4 * width,
            dropout=0.0,
            activation=F.gelu,
            batch_first=True,
            norm_first=True,
        )
        for _ in range(layers)
    )


@full_precision
def _coarser(patches: Tensor, grid: int) -> Tensor:
    """(B, P, C) patches of a square map -> (B, min(P, grid^2), C), means over grid x grid cells, at least float32."""
    side = math.isqrt(patches.shape[1])
    if side <= grid:
        return patches
    # As a matrix, because the gradient of adaptive pooling is not deterministic on CUDA.
    unit = torch.eye(side * side, device=patches.device, dtype=patches.dtype).view(-1, side, side)
    cells = F.adaptive_avg_pool2d(unit, grid).flatten(1)  # (P, side, side) -> (P, N)
    return cells.T @ patches  # (N, P) x (B, P, C) -> (B, N, C)


class Place(DualEncoderMethod):
    """MGCA's instance and token alignment, pathology-level alignment, correlation exploration."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            PlaceConfig(**TINY, decoder_width=128, decoder_heads=4, vpoe_layers=1),
            TINY_PRETRAIN,
        ),
        "paper": Recipe(PlaceConfig(), SCHEDULE),
        "micro": Recipe(
            PlaceConfig(**MICRO, decoder_width=32, decoder_heads=2, vpoe_layers=1),
            MICRO_PRETRAIN,
        ),
    }
    ablations: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "ita": {"method.ita_weight": "0"},
        "cta": {"method.cta_weight": "0"},
        "pcma": {"method.pcma_weight": "0"},
        "cce": {"method.cce_weight": "0"},
        "cce_masking": {"method.cce_mask": "0"},
        "false_negatives": {"method.false_negative_cosine": "2"},
    }
    config: PlaceConfig
    model: DualEncoder

    def __init__(self, config: PlaceConfig, model: DualEncoder) -> None:
        """Join the model and what only training needs."""
        super().__init__(config, model)
        patch_width, text_width = model.image_encoder.local_width, model.text_encoder.width
        self.vpoe = ObservationExtractor(config, patch_width) if config.pcma_weight else None
        self.cce = CorrelationDecoder(config, patch_width, text_width) if config.cce_weight else None

    @classmethod
    def local(cls, config: PlaceConfig) -> Local:
        """Patches for token alignment, words also for sentences; VPOE and CCE take patches in by ways of their own."""
        if config.cta_weight:
            return True
        return "words" if config.pcma_weight else False

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `ita`, `cta`, `pcma`, `cce` whose weight is not 0."""
        config, model = self.config, self.model
        image, text = model.encode_image(batch.images), model.encode_text(batch.text)
        assert image.local is not None
        terms: dict[str, Tensor] = {}
        if config.cta_weight or config.pcma_weight:
            words = model.embed_words(text)  # (B, W, E)

        if config.ita_weight:
            terms["ita"] = config.ita_weight * info_nce(
                model.embed_image(image), model.embed_text(text), config.ita_temperature, gather=config.gather
            )

        if config.cta_weight:
            assert text.attention is not None
            terms["cta"] = config.cta_weight * token_alignment(
                model.embed_patches(image),
                words,
                text.mask,
                word_weights=attention_weights(text.attention, text.mask),
                patch_weights=None if image.attention is None else attention_weights(image.attention),
                temperature=config.cta_temperature,
                gather=config.gather,
                chunk=config.chunk,
            )

        if self.vpoe is not None:
            # The T-PORs: (B, S, E), and (B, S), True where there is one.
            sentences, present = model.embed_sentences(words, text, config.sentences)
            terms["pcma"] = config.pcma_weight * pathology_alignment(
                self.vpoe(image.local),  # V-PORs: (B, K, E)
                sentences,
                present,
                pairing=config.pairing,
                negatives=config.negatives,
                temperature=config.pcma_temperature,
                pairing_temperature=config.pairing_temperature,
                false_negative_cosine=config.false_negative_cosine,
                gather=config.gather,
                chunk=config.chunk,
            )

        if self.cce is not None:
            patches = _coarser(image.local, config.cce_grid)  # (B, N, C)
            predicted = self.cce(patches, text.pooled, text.local, text.mask)
            terms["cce"] = config.cce_weight * correlation_exploration(
                predicted, patches, relation=config.cce_relation, distance=config.cce_distance
            )

        return terms
