"""MRM: most of a film and half of its report are hidden, and what is left of the film must tell both.

Zhou et al., "Advancing Radiograph Representation Learning with Masked Record Modeling" (ICLR 2023, arXiv 2301.13155).
Fidelity `official-code`: the authors' repository (RL4M/MRM-pytorch) was read: masking, encoders, decoders, the two
losses and the schedule are those built here. Not built, because the engine has one way to read films: its random crops
of 20 to 100 % of a film's area and its mirroring. Its code and its paper differ once, in `told_words`.

A quarter of the patches goes through a ViT. A decoder tells the pixels of the hidden ones, at twice the size that the
ViT saw them. The mean of the visible ones is added to the word-piece embeddings of a report with hidden words, which a
BERT tells.

L = w_image L_image + w_report L_report (`masked_patches`, `masked_words`)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.errors import UsageError
from medbench.method import Method, PretrainConfig, Recipe, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench_methods.losses.masked_patches import masked_patches
from medbench_methods.losses.masked_words import masked_words
from medbench_methods.modules.attention import attention_kernel
from medbench_methods.modules.image_encoder import ImageConfig, ImageEncoder
from medbench_methods.modules.masked_language import MaskedWordHead, encode, pick_words
from medbench_methods.modules.positions import grid_positions
from medbench_methods.modules.ranges import check_decoder, expect, expect_terms
from medbench_methods.modules.text_encoder import TextConfig, TextEncoder, build_text, rebuild_text
from medbench_methods.modules.tokenizer import ReportTokenizer
from medbench_methods.random import ImageOnly
from medbench_methods.recipes import MICRO, MICRO_PRETRAIN, TINY, TINY_PRETRAIN_GLOBAL

PATCH = 16
"""Side of a patch in the film that the ViT sees, pixels."""

ToldWords = Literal["hidden", "all"]


@dataclass(frozen=True, kw_only=True)
class MrmConfig(ImageConfig, TextConfig):
    """Encoders, masks and decoders. Defaults: MRM's released code."""

    backbone: str = "vit_base_patch16_224.mae"
    """ViT-B/16 from MAE's weights, as in paper and code. Any ViT of timm with 16 px patches; no CNN, whose maps can not
    leave patches out."""

    token_pooling: Literal["cls", "mean"] = "mean"
    """What stands for the film: the released code fine-tunes the mean of the patch tokens. No loss asks the CLS token
    for anything."""

    mean: float = 0.4978
    """Grey value that is subtracted (released code)."""

    std: float = 0.2449
    """What the difference is divided by (released code)."""

    text_encoder: str = "scratch"
    """The released code's BERT starts from random weights and a vocabulary of its corpus' word-pieces."""

    text_layers: int = 6
    """Transformer layers of the BERT (released code)."""

    text_width: int = 384
    """Width of the BERT (released code)."""

    text_heads: int = 6
    """Attention heads of the BERT (released code)."""

    text_vocabulary: int = 30_000
    """Most word-pieces (released code)."""

    text_max_tokens: int = 100
    """Longest report in word-pieces (released code)."""

    hidden_patches: float = 0.75
    """Share of the patches that the ViT does not see (paper and code)."""

    film_scale: int = 2
    """How many times as large as the ViT's film the one is whose pixels are told: 2 in paper and code (448 px for 224),
    so that a patch of 16 px stands for 32 x 32 pixels. 1 tells what the ViT sees."""

    decoder_layers: int = 4
    """Blocks of the decoder of patches (released code)."""

    decoder_width: int = 768
    """Width of that decoder (released code)."""

    decoder_heads: int = 6
    """Its attention heads (released code)."""

    hidden_words: float = 0.5
    """Share of the words that are hidden, each with all its word-pieces (paper and code)."""

    told_words: ToldWords = "hidden"
    """Which words the loss is over. The paper tells the `hidden` ones; the released code keeps the labels of those in
    sight, so its loss is over `all` of them (and over padding, which is left out here)."""

    image_weight: float = 1.0
    """Weight of the loss of the patches (released code: the two are added)."""

    report_weight: float = 1.0
    """Weight of the loss of the words (released code)."""

    def __post_init__(self) -> None:
        """Refuse what can not be computed.

        Raises:
            UsageError: it names the field.
        """
        ImageConfig.__post_init__(self)
        TextConfig.__post_init__(self)
        expect_terms(self)
        expect(self, "width", "heads", "film_scale", least=1)
        expect(self, "depth", least=2)
        expect(self, "decoder_layers", least=0)
        expect(self, "hidden_words", least=0, most=1)
        expect(self, "hidden_patches", least=0, below=1)
        check_decoder(self)
        if self.width is not None and (self.width % 4 or self.width % (self.heads or 1)):
            raise UsageError(
                f"method.width is {self.width}; expected a multiple of 4 and of method.heads ({self.heads})."
            )
        if self.size % PATCH:
            raise UsageError(
                f"method.size is {self.size}; expected a multiple of {PATCH}, the side of a patch."
            )
        patches = (self.size // PATCH) ** 2
        kept = int(patches * (1 - self.hidden_patches))
        if kept < 1:
            raise UsageError(
                f"method.hidden_patches is {self.hidden_patches}, which leaves {kept} of {patches} patches; expected a "
                "share from 0 that leaves at least one."
            )


class RecordModel(ImageOnly):
    """The ViT that tasks ask for features; the BERT beside it only reads reports together with a film.

    Attributes:
        tokenizer: of the reports.
    """

    def __init__(
        self,
        config: MrmConfig,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: ReportTokenizer,
    ) -> None:
        """Join the encoders."""
        super().__init__(config, image_encoder)
        self.text_encoder, self.tokenizer = text_encoder, tokenizer

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        """Reports, each a list of sentences -> a padded batch on the CPU."""
        return self.tokenizer(reports)


class PatchDecoder(nn.Module):
    """From the tokens of some patches to the pixels of all."""

    def __init__(self, config: MrmConfig, width: int) -> None:
        """A way in, a token for what is hidden, blocks, and a way out."""
        from timm.models.vision_transformer import Block  # takes seconds

        super().__init__()
        inner = config.decoder_width
        norm: Any = partial(nn.LayerNorm, eps=1e-6)  # the ViT's
        self.enter = nn.Linear(width, inner)
        self.hidden = nn.Parameter(torch.randn(inner) * 0.02)
        self.blocks = nn.ModuleList(
            Block(inner, config.decoder_heads, qkv_bias=True, norm_layer=norm)
            for _ in range(config.decoder_layers)
        )
        self.norm = norm(inner)
        self.leave = nn.Linear(inner, (PATCH * config.film_scale) ** 2)

    def forward(self, tokens: Tensor, visible: Tensor, patches: int) -> Tensor:
        """Predict pixels.

        Args:
            tokens: (B, 1 + K, D), [CLS] and the visible patches.
            visible: (B, K) int64, which patches those are.
            patches: P, of the whole grid.

        Returns:
            (B, P, C).
        """
        tokens = self.enter(tokens)
        batch, _, width = tokens.shape
        where = visible[:, :, None].expand(-1, -1, width)  # (B, K) -> (B, K, E)
        grid = self.hidden.to(tokens.dtype).expand(batch, patches, -1).scatter(1, where, tokens[:, 1:])
        grid = grid + grid_positions(patches, width, tokens.device)
        tokens = torch.cat([tokens[:, :1].to(grid.dtype), grid], 1)  # (B, 1 + P, E)
        with attention_kernel(tokens.device):
            for block in self.blocks:
                tokens = block(tokens)
        pixels: Tensor = self.leave(self.norm(tokens[:, 1:]))
        return pixels


def pixels_of_patches(films: Tensor, side: int) -> Tensor:
    """(B, H, W) films -> (B, P, side^2), the pixels of each patch, row by row from the top left."""
    batch, height, width = films.shape
    cut = films.reshape(batch, height // side, side, width // side, side)  # (B, rows, side, columns, side)
    return cut.transpose(2, 3).flatten(3).flatten(1, 2)


def pick_patches(batch: int, patches: int, share: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hide a share of the patches of each film, as many in every one.

    Returns:
        (B, K) int64, the visible ones, K = P (1 - share) rounded down; (B, P) bool, True where one is hidden.
    """
    order = torch.rand(batch, patches, device=device).argsort(1)  # (B, P)
    visible = order[:, : int(patches * (1 - share))]
    hidden = torch.ones(batch, patches, dtype=torch.bool, device=device).scatter(1, visible, False)
    return visible, hidden


_NOT_SHARED = ("backbone", "layers", "channels", "upsample", "text_mlm_epochs", "embed", "hidden")


def _small(sizes: Mapping[str, Any], **others: Any) -> MrmConfig:
    """A small recipe: what it shares with the other methods, and what not. Its BERT learns hidden words anyway."""
    shared = {name: value for name, value in sizes.items() if name not in _NOT_SHARED}
    return MrmConfig(**shared, mean=0.5, std=0.5, **others)


class Mrm(Method):
    """Masked record modelling."""

    recipes: ClassVar[Mapping[str, Recipe]] = {
        # A ViT of about the work of the others' ResNet, as only a quarter of its patches is seen.
        "tiny": Recipe(
            _small(
                TINY,
                backbone="vit_tiny_patch16_224",
                depth=6,
                decoder_layers=2,
                decoder_width=128,
                decoder_heads=4,
            ),
            TINY_PRETRAIN_GLOBAL,
        ),
        # Released code and its run.sh. The code spares biases and norms the weight decay.
        "paper": Recipe(
            MrmConfig(),
            PretrainConfig(
                epochs=200,
                batch_size=32,
                accumulate=8,  # 4 processes x 2 accumulated
                lr=1.5e-4,  # for 256 records, as many as a step has
                warmup=0.2,  # 40 of 200 epochs
                schedule="cosine",
                final_lr=0.0,
                betas=(0.9, 0.95),
                weight_decay=0.05,
                clip_gradient=None,  # there is none
                patience=None,
                keep="last",  # there is no validation
            ),
        ),
        "micro": Recipe(
            _small(
                MICRO,
                backbone="vit_tiny_patch16_224",
                width=48,
                depth=2,
                heads=3,
                decoder_layers=1,
                decoder_width=32,
                decoder_heads=2,
            ),
            MICRO_PRETRAIN,
        ),
    }
    config: MrmConfig
    model: RecordModel

    def __init__(self, config: MrmConfig, model: RecordModel) -> None:
        """Join the model and what only training needs.

        Raises:
            UsageError: the backbone is no ViT, or the vocabulary has no [MASK].
        """
        super().__init__()
        image, text = model.image_encoder, model.text_encoder
        if not image.vit:
            raise UsageError(
                f"method mrm hides patches from a ViT, but method.backbone is {config.backbone!r}. Set "
                "method.backbone=vit_base_patch16_224.mae or another ViT with 16 px patches."
            )
        if model.tokenizer.mask_id is None:
            raise UsageError(
                f"text encoder {config.text_encoder!r} has no [MASK] in its vocabulary, which method mrm hides words "
                "behind. Give a BERT with --set method.text_encoder=FOLDER, or `scratch`."
            )
        self.config, self.model, self.mask_id = config, model, model.tokenizer.mask_id
        positions: Any = image.body.pos_embed
        positions.requires_grad_(False)  # sines and cosines, as in MAE
        self.decoder = PatchDecoder(config, image.width) if config.image_weight else None
        self.report_head = self.film_to_words = None
        if config.report_weight:
            self.film_to_words = nn.Linear(image.width, text.width)
            self.report_head = MaskedWordHead(text.width, text.bert.config.vocab_size)

    @property
    def film_scale(self) -> int:
        """See the base class."""
        return self.config.film_scale

    @classmethod
    def from_corpus(cls, config: MrmConfig, reports: Sequence[Sequence[str]], setup: Setup) -> Self:
        """See the base class."""
        text_encoder, tokenizer = build_text(config, reports, setup)
        image_encoder = ImageEncoder(config, weights=True, offline=setup.offline)
        method = cls(config, RecordModel(config, image_encoder, text_encoder, tokenizer))
        if not config.pretrained:
            embedding = image_encoder.body.pos_embed  # (1, 1 + P, D), CLS first
            positions = grid_positions(embedding.shape[1] - 1, embedding.shape[2], embedding.device)
            with torch.no_grad():
                embedding.copy_(F.pad(positions, (0, 0, 1, 0))[None])
        return method

    @classmethod
    def from_assets(cls, config: MrmConfig, assets: Mapping[str, bytes]) -> Self:
        """See the base class."""
        text_encoder, tokenizer = rebuild_text(config, assets["text_encoder.json"], assets["tokenizer.json"])
        return cls(config, RecordModel(config, ImageEncoder(config, weights=False), text_encoder, tokenizer))

    def assets(self) -> Mapping[str, bytes]:
        """See the base class."""
        return {
            "text_encoder.json": self.model.text_encoder.to_bytes(),
            "tokenizer.json": self.model.tokenizer.to_bytes(),
        }

    def losses(self, batch: ImageTextBatch, epoch: int) -> dict[str, Tensor]:
        """The terms `image` and `report` whose weight is not 0; `batch.images` are `film_scale` times as large."""
        config, films, text = self.config, batch.images, batch.text
        # The mean, as when films are prepared for the tasks; the released code has bicubic interpolation.
        small = F.avg_pool2d(films, config.film_scale) if config.film_scale > 1 else films
        patches = (small.shape[2] // PATCH) * (small.shape[3] // PATCH)
        visible, hidden = pick_patches(len(films), patches, config.hidden_patches, films.device)
        tokens = self.model.image_encoder.encode_visible(small, visible)  # (B, 1 + K, D)
        terms: dict[str, Tensor] = {}

        if self.decoder is not None:
            # One channel: the three are the same film.
            pixels = pixels_of_patches(films[:, 0], PATCH * config.film_scale)  # (B, P, C)
            predicted = self.decoder(tokens, visible, patches)
            terms["image"] = config.image_weight * masked_patches(predicted, pixels, hidden)

        if self.report_head is not None and self.film_to_words is not None:
            film = self.film_to_words(tokens[:, 1:].mean(1))  # (B, D) -> (B, width of the BERT)
            asked = pick_words(text.word, config.hidden_words)  # (B, T)
            shown = torch.where(asked, self.mask_id, text.ids)
            bert = self.model.text_encoder.bert
            states = encode(bert, shown, text.mask, film)  # (B, T, width)
            logits = self.report_head(states, bert.embeddings.word_embeddings.weight)  # (B, T, V)
            told = asked if config.told_words == "hidden" else text.mask
            terms["report"] = config.report_weight * masked_words(logits, text.ids, told)

        return terms
