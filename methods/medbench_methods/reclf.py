"""RECLF: relations among local matchings of words and regions, and how much each matters.

Li, Meng, Fulham, Feng, Bi, Kim: "RECLF", arXiv 2401.10501; IEEE TMI 2025 (doi 10.1109/TMI.2025.3534436).
Fidelity `reconstruction`: only the abstract could be read (docs/methods/reclf.md).

Confirmed by it:
- it starts from local matchings, image regions with report words, as in GLoRIA, which others pool simply;
- SRM reasons about semantic relations between local matchings (that of a disease with that of its place);
- IRM learns their importance: the matchings of uninformative words count less.

Reconstructed, each choice a field of `ReclfConfig`:
- SRM and IRM: similarity graph reasoning and similarity attention filtration of SGRAF (Diao et al., AAAI 2021), whose
  pair of modules they resemble;
- the attention of GLoRIA's local matchings, on unit vectors;
- InfoNCE over the scores of both modules, and GLoRIA's global term; weights and temperatures;
- encoders and optimisation: GLoRIA's.

Total: L = w_global L_global + w_srm L_srm + w_irm L_irm. A weight of 0 leaves out its term and modules.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medbench.method import Recipe
from medbench.model import ImageTextBatch
from medbench_methods.gloria import SCHEDULE
from medbench_methods.losses.gather import gather as gather_rows
from medbench_methods.losses.gather import pad_words
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.local_matching import attended_regions
from medbench_methods.losses.score_contrast import score_contrast
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, DualEncoderMethod
from medbench_methods.modules.projection import MaskedBatchNorm
from medbench_methods.modules.ranges import expect
from medbench_methods.modules.text_encoder import TextPooling
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN


@dataclass(frozen=True, kw_only=True)
class ReclfConfig(DualEncoderConfig):
    """Every open choice. Which encoders the paper has is not known.

    Downstream code that seems to be its first author's evaluates a ViT-B/16 that starts from OpenAI's CLIP
    (`backbone="vit_base_patch16_clip_224.openai"`) and a ResNet-50, both with ImageNet's mean and deviation. The
    default is ResNet-50, which detection and segmentation are compared with in the literature. What is inherited and
    not declared here, such as the sizes of films, has MGCA's values: it is not known of RECLF.
    """

    mean: float | tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Grey value of each channel that is subtracted: ImageNet's, as in that downstream code."""

    std: float | tuple[float, float, float] = (0.229, 0.224, 0.225)
    """What the difference is divided by: ImageNet's, as in that downstream code."""

    text_layers: int = 12
    """Transformer layers; of a pretrained BERT the first so many. Not known; GLoRIA's 12 were chosen."""

    text_summed_layers: int = 4
    """Last layers whose outputs are summed. Not known; GLoRIA's released code and ViLMedic's GLoRIA have 4."""

    text_pooling: TextPooling = "mean"
    """What stands for the whole report. Not known; the mean over all tokens was chosen, [CLS] and [SEP] among them.
    GLoRIA's code takes a mean too, over word slots, empty ones included, of words that are sums of their pieces."""

    text_max_tokens: int = 97
    """Longest report in word-pieces, [CLS] and [SEP] included; the rest is cut off. Not known; GLoRIA's value. GLoRIA
    reads one random sentence of a report, here it is the whole."""

    embed: int = 768
    """Width of the joint space. Not known; GLoRIA's was chosen, the width of its text encoder. Projections are the
    heads of the other methods, of which GLoRIA has none for text."""

    hidden: int = 2048
    """Width of the hidden layer of the projection heads. Not known, nor whether there are such heads; MGCA's value was
    chosen."""

    gather: bool = False
    """Training in several processes: match and contrast with the pairs of all of them, with gradients through all. Not
    known; GLoRIA's code trains on one GPU."""

    words: int = 95
    """Most words of a report that are matched with regions; later ones take part in the global term only. Cost grows
    with it. Not known; by default as many as a report can have."""

    word_scale: float = 10.0
    """What cosines are multiplied by before the softmax over words. Not known. GLoRIA has 1 on features that are not
    normalised; ours are unit vectors, for which 1 would leave all words alike. MGCA's word attention has 10."""

    region_scale: float = 4.0
    """What a region's share of a word is multiplied by before the softmax over regions (GLoRIA's code: 4)."""

    matching_width: int = 256
    """Width of a matching's vector. Not known; SGRAF's code has 256."""

    srm_steps: int = 3
    """Steps of graph reasoning, each with weights of its own. Not known; SGRAF's code has 3."""

    temperature: float = 0.1
    """Of all three contrasts. Not known; GLoRIA multiplies by 10."""

    global_weight: float = 1.0
    """Weight of the image-report contrast. Not known whether the paper has it; GLoRIA does, with 1."""

    srm_weight: float = 1.0
    """Weight of the contrast over scores of the semantic relation module. Not known; 1 like the others."""

    irm_weight: float = 1.0
    """Weight of the contrast over scores of the importance relation module. Not known; 1 like the others."""

    chunk: int = 8
    """Reports that are matched with all images at a time. It bounds memory and changes no number."""

    recompute: bool = True
    """Compute matchings and relations again in the backward pass instead of keeping them: a third more time, memory
    that does not grow with regions times words of all pairs. It changes no number."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        super().__post_init__()
        expect(self, "words", "matching_width", "srm_steps", "chunk", least=1)
        expect(self, "word_scale", "region_scale", above=0)


class Matchings(nn.Module):
    """A vector for each word of a report with what an image holds about it, and one for image and report as wholes.

    With unit vectors c_l (attended region) and w_l (word), g_v and g_t:
    s_l = norm(W (c_l - w_l)^2), s_0 = norm(W_g (g_v - g_t)^2), squares by element (SGRAF).
    """

    def __init__(self, config: ReclfConfig) -> None:
        """W and W_g."""
        super().__init__()
        self.word_scale, self.region_scale = config.word_scale, config.region_scale
        self.local = _linear(config.embed, config.matching_width)
        self.whole = _linear(config.embed, config.matching_width)

    def forward(self, regions: Tensor, image: Tensor, words: Tensor, mask: Tensor, report: Tensor) -> Tensor:
        """All images with all reports.

        Args:
            regions: (A, P, E) unit vectors.
            image: (A, E) unit vectors.
            words: (B, W, E) unit vectors where `mask` is True.
            mask: (B, W) bool, True where there is a word.
            report: (B, E) unit vectors.

        Returns:
            (A, B, 1 + W, S) unit vectors, the first of each pair that of the wholes.
        """
        found = attended_regions(
            regions, words, mask, word_scale=self.word_scale, region_scale=self.region_scale
        )
        local = self.local((F.normalize(found, dim=-1) - words).square())  # (A, B, W, E) -> (A, B, W, S)
        whole = self.whole((image[:, None] - report[None]).square())  # (A, B, E) -> (A, B, S)
        return F.normalize(torch.cat([whole[:, :, None], local], 2), dim=-1)


class SemanticRelation(nn.Module):
    """SRM: matchings are the nodes of a full graph; after some steps of reasoning node 0 scores the pair.

    E_pq = softmax_q( (W_q s_p) . (W_k s_q) ),  s_p <- ReLU( W_r sum_q E_pq s_q ),  score = w . s_0.
    """

    def __init__(self, config: ReclfConfig) -> None:
        """Weights of each step, and of the score, which needs no bias: a contrast does not see it."""
        super().__init__()
        width, steps = config.matching_width, range(config.srm_steps)
        self.query = nn.ModuleList(_linear(width, width, bias=False) for _ in steps)
        self.key = nn.ModuleList(_linear(width, width, bias=False) for _ in steps)
        self.relate = nn.ModuleList(_linear(width, width) for _ in steps)
        self.score = _linear(width, 1, bias=False)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """(N, L, S) matchings of N pairs, (N, L) bool, True where there is one -> (N,) scores."""
        floor = torch.finfo(nodes.dtype).min / 2
        last = len(self.relate) - 1
        for step, relate in enumerate(self.relate):
            asking = nodes[:, :1] if step == last else nodes  # of the last step only node 0 is read
            both = cast(Tensor, self.query[step].weight).T @ cast(Tensor, self.key[step].weight)  # (S, S)
            edges = asking @ both @ nodes.transpose(1, 2)  # (N, L or 1, L)
            edges = edges.masked_fill(~mask[:, None, :], floor).softmax(2)
            nodes = F.relu(relate(edges @ nodes))
        scores: Tensor = self.score(nodes[:, 0])[:, 0]
        return scores


class MatchingNorm(MaskedBatchNorm):
    """Batch normalisation of one number a matching, over the matchings of all pairs and, if asked for, processes."""

    def __init__(self, gather: bool) -> None:
        """`gather`: the values are own images with all reports, so those of all processes are all pairs."""
        super().__init__(1)
        self.synchronised = gather

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """(A, B, L) -> (A, B, L); `mask` (B, L) bool, True where there is a matching."""
        assert mask is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, variance = self.running_mean, self.running_var
        if self.training:
            counts = mask.to(features.dtype).expand_as(features)
            sums = self.over_processes(torch.stack([counts.sum(), (features * counts).sum()]))
            n, mean = sums[:1], sums[1:] / sums[:1]
            squares = ((features - mean).square() * counts).sum()
            variance = self.over_processes(squares[None]) / n
            self._track(mean.detach(), variance.detach() * n / (n - 1).clamp_min(1))
        return (features - mean) * (torch.rsqrt(variance + self.eps) * self.weight) + self.bias


class ImportanceRelation(nn.Module):
    """IRM: each matching gets a weight of its own; their weighted mean scores the pair.

    b_l = sigmoid(BN(w_f . s_l)),  s = norm( sum_l b_l s_l / sum_l b_l ),  score = w . s.
    """

    def __init__(self, config: ReclfConfig) -> None:
        """w_f, its normalisation, and the score, which needs no bias: a contrast does not see it."""
        super().__init__()
        self.weigh = _linear(config.matching_width, 1, bias=False)
        self.norm = MatchingNorm(config.gather)
        self.score = _linear(config.matching_width, 1, bias=False)

    def forward(self, nodes: Tensor, mask: Tensor) -> Tensor:
        """(A, B, L, S) matchings, (B, L) bool, True where there is one -> (A, B) scores."""
        weights = torch.sigmoid(self.norm(self.weigh(nodes)[..., 0], mask)) * mask  # (A, B, L)
        weights = weights / weights.sum(2, keepdim=True)  # a pair always has the matching of the wholes
        kept = (weights[:, :, None] @ nodes)[:, :, 0]  # (A, B, 1, L) x (A, B, L, S) -> (A, B, S)
        scores: Tensor = self.score(F.normalize(kept, dim=-1))[..., 0]
        return scores


class PairScores(nn.Module):
    """Scores of all images with all reports by SRM and IRM, in memory that is bounded.

    Vectors of matchings, A x B x (1 + W) x S numbers, are kept; what leads to them, with a factor of regions or of the
    joint width, and the graphs of SRM are made for some pairs at a time and, with `recompute`, once more backward.
    IRM's batch statistics are over all vectors at once: neither chunks nor recomputing touch them.
    """

    def __init__(self, config: ReclfConfig) -> None:
        """The modules whose weight is not 0."""
        super().__init__()
        self.chunk, self.recompute = config.chunk, config.recompute
        self.matchings = Matchings(config)
        self.srm = SemanticRelation(config) if config.srm_weight else None
        self.irm = ImportanceRelation(config) if config.irm_weight else None

    def forward(
        self, regions: Tensor, image: Tensor, words: Tensor, mask: Tensor, report: Tensor
    ) -> dict[str, Tensor]:
        """Arguments as `Matchings` -> (A, B) float32 scores by name, `srm` and `irm`."""
        with torch.autocast(regions.device.type, enabled=False):
            parts = [
                self._again(self.matchings, regions, image, *some)
                for some in _cut(self.chunk, words, mask, report)
            ]
            nodes = torch.cat(parts, 1)  # (A, B, L, S), L = 1 + W
            present = F.pad(mask, (1, 0), value=True)  # (B, L)
            scores: dict[str, Tensor] = {}
            if self.srm is not None:
                graphs = nodes.flatten(0, 1)  # (A B, L, S)
                masks = present.expand(len(nodes), -1, -1).flatten(0, 1)  # (A B, L)
                pairs = self.chunk * len(nodes)
                found = [self._again(self.srm, *some) for some in _cut(pairs, graphs, masks)]
                scores["srm"] = torch.cat(found).view(nodes.shape[:2])
            if self.irm is not None:
                scores["irm"] = self.irm(nodes, present)
        return scores

    def _again(self, part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call `part`; with `recompute`, forget what it computed, until the backward pass computes it again."""
        if not (self.recompute and torch.is_grad_enabled()):
            return part(*inputs)
        # No random numbers are drawn in there, so their state needs no keeping.
        found: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
        return found


def _cut(rows: int, *tensors: Tensor) -> list[list[Tensor]]:
    """Tensors of one length, in pieces of so many rows; the last piece may have fewer."""
    return [[t[start : start + rows] for t in tensors] for start in range(0, len(tensors[0]), rows)]


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map that starts as in SGRAF's code: Xavier's uniform weights, bias 0."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Reclf(DualEncoderMethod):
    """Contrast of images and reports as wholes, by related matchings, and by weighted matchings."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": Recipe(
            ReclfConfig(
                **TINY,
                mean=0.5,
                std=0.5,
                text_summed_layers=2,
                words=48,
                matching_width=64,
                recompute=False,
            ),
            TINY_PRETRAIN,
        ),
        "paper": Recipe(ReclfConfig(), SCHEDULE),
        "micro": Recipe(
            ReclfConfig(
                **MICRO,
                mean=0.5,
                std=0.5,
                text_summed_layers=1,
                words=32,
                matching_width=16,
                recompute=False,
            ),
            MICRO_PRETRAIN,
        ),
    }
    ablations: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "global": {"method.global_weight": "0"},
        "srm": {"method.srm_weight": "0"},
        "irm": {"method.irm_weight": "0"},
    }
    config: ReclfConfig
    model: DualEncoder

    def __init__(self, config: ReclfConfig, model: DualEncoder) -> None:
        """Join the model and what only training needs."""
        super().__init__(config, model)
        self.scores = PairScores(config) if _matches(config) else None

    @classmethod
    def local(cls, config: ReclfConfig) -> bool:
        """For the matchings."""
        return _matches(config)

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `global`, `srm`, `irm` whose weight is not 0."""
        config, model = self.config, self.model
        image, text = model.encode_image(batch.images), model.encode_text(batch.text)
        film, report = model.embed_image(image), model.embed_text(text)  # (B, E)
        terms: dict[str, Tensor] = {}

        if config.global_weight:
            terms["global"] = config.global_weight * info_nce(
                film, report, config.temperature, gather=config.gather
            )

        if self.scores is not None:
            words, mask = model.embed_words(text)[:, : config.words], text.mask[:, : config.words]
            if config.gather:  # own images with the reports of all processes, in one shape
                words, mask = (gather_rows(pad_words(part, config.words)) for part in (words, mask))
                report = gather_rows(report)
            found = self.scores(model.embed_patches(image), film, words, mask, report)
            for name, weight in (("srm", config.srm_weight), ("irm", config.irm_weight)):
                if name in found:
                    terms[name] = weight * score_contrast(
                        found[name], temperature=config.temperature, gather=config.gather
                    )

        return terms


def _matches(config: ReclfConfig) -> bool:
    """Whether words and regions are matched at all."""
    return config.srm_weight != 0 or config.irm_weight != 0
