"""Text encoders: a pretrained BERT or a small one from scratch, with features word by word."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medbench.errors import UsageError
from medbench.method import Setup, from_disk
from medbench.model import TextBatch, TextFeatures
from medbench_methods.modules.masked_language import MaskedWordTraining, pretrained_on_words
from medbench_methods.modules.packing import Packing
from medbench_methods.modules.ranges import expect
from medbench_methods.modules.tokenizer import SPECIAL, ReportTokenizer
from medbench_methods.modules.word_aggregation import aggregate_words

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertModel

SCRATCH = "scratch"

PACKED_WIDTH = 512
"""Narrower encoders take reports with their padding: shapes that change with every batch cost them more, in kernels
that are made for each, than the padding does."""

TextPooling = Literal["cls", "mean", "max"]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The text half of a model. Defaults: MGCA's released code."""

    text_encoder: str = field(default="emilyalsentzer/Bio_ClinicalBERT", metadata=from_disk(SCRATCH))
    """Folder or hub name of a pretrained BERT with its tokenizer; `scratch` for a small one without
    pretraining, whose vocabulary is learnt from the corpus."""

    text_layers: int = 6
    """Transformer layers; of a pretrained BERT the first so many. MGCA keeps 6 of Bio_ClinicalBERT's 12, all
    trainable."""

    text_summed_layers: int = 1
    """Last layers whose outputs are summed: 1 in MGCA's code, 4 in GLoRIA's."""

    text_frozen_layers: int = 0
    """First layers that are not trained, and with any of them the embeddings. MGCA's code trains all; ConVIRT
    freezes 6 of 12."""

    text_pooling: TextPooling = "cls"
    """What stands for the whole report: the output of [CLS], as in MGCA, or the mean over all tokens, or, as in
    ConVIRT, the largest value of each number over them. A [CLS] that was never pretrained looks everywhere alike
    and hardly tells reports apart: cosines of 1.0000 on average, against 0.97 for the mean. From scratch, take the
    mean."""

    text_max_tokens: int = 112
    """Longest report in word-pieces, [CLS] and [SEP] included; the rest is cut off (MGCA's code)."""

    text_dropout: float = 0.1
    """Dropout in the transformer, hidden states and attention (BERT's value, kept by MGCA)."""

    text_width: int = 768
    """Only from scratch: width of the transformer."""

    text_heads: int = 12
    """Only from scratch: attention heads."""

    text_vocabulary: int = 28_996
    """Only from scratch: most word-pieces in the vocabulary. Default: size of Bio_ClinicalBERT's."""

    text_init: float = 0.02
    """Only from scratch: standard deviation of the weights to begin with (BERT's value, for a width of 768)."""

    text_mlm_epochs: int = 0
    """Only from scratch: passes over the corpus' reports in which the encoder learns to tell hidden words, before the
    method's own pretraining; 0 leaves it out. It stands in for the pretrained language model that every published
    method starts from. The encoder is kept and shared by all methods with the same architecture, corpus and seed."""

    text_mlm_share: float = 0.15
    """Only with `text_mlm_epochs`: share of the words that are hidden (BERT's value, there of word-pieces)."""

    text_mlm_lr: float = 2e-3
    """Only with `text_mlm_epochs`: peak learning rate. BERT's 1e-4 is for a net fifty times as wide in parameters; that
    of the small recipes' pretraining was chosen."""

    text_mlm_batch: int = 32
    """Only with `text_mlm_epochs`: reports a step. BERT's is 256; a corpus of some thousand gives more steps with
    fewer."""

    def __post_init__(self) -> None:
        """Refuse sizes that no transformer has.

        Raises:
            UsageError: it names the field.
        """
        expect(self, "text_layers", "text_width", "text_heads", least=1)
        expect(self, "text_summed_layers", least=1, most=self.text_layers)
        expect(self, "text_frozen_layers", least=0, most=self.text_layers)
        expect(self, "text_max_tokens", least=3)  # [CLS], a word-piece, [SEP]
        expect(self, "text_vocabulary", least=len(SPECIAL) + 1)
        expect(self, "text_dropout", least=0, most=1)
        expect(self, "text_init", above=0)
        expect(self, "text_mlm_epochs", least=0)
        expect(self, "text_mlm_share", above=0, below=1)
        expect(self, "text_mlm_lr", above=0)
        expect(self, "text_mlm_batch", least=1)
        if self.text_width % self.text_heads:
            raise UsageError(
                f"method.text_width is {self.text_width}; expected a multiple of method.text_heads ({self.text_heads})."
            )


@dataclass(frozen=True)
class EncodedText(TextFeatures):
    """Text features, with the one token before the words that a method may want among them.

    Attributes:
        first: (B, D), [CLS], of the same layers as the words.
    """

    first: Tensor | None = None


class TextEncoder(nn.Module):
    """BERT, with word-pieces summed to words.

    The clean reading of MGCA: tokens have real positions, special tokens are no words, and a
    word's attention is its own. (In MGCA's released code all positions are 0, [SEP] is a word, and a word
    gets the attention of the next one.)

    Attributes:
        width: D of the features.
    """

    def __init__(self, bert: "BertModel", config: TextConfig) -> None:
        """Wrap a BERT without pooling layer, whose attention is `attend` of attention.py."""
        super().__init__()
        self.bert, self.pooling, self.summed = bert, config.text_pooling, config.text_summed_layers
        self.width = int(bert.config.hidden_size)
        self.checkpointing = False
        if config.text_frozen_layers:
            bert.embeddings.requires_grad_(False)
            bert.encoder.layer[: config.text_frozen_layers].requires_grad_(False)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each layer again backward instead of keeping what it computed; the name is timm's."""
        self.checkpointing = enable

    def forward(self, text: TextBatch) -> EncodedText:
        """Tokenised reports (B, T) -> features, with W = max(T - 2, 1) word slots: a word takes a token."""
        hidden, attention = self._transform(text.ids, text.mask)  # (B, T, D), (B, T)
        slots = max(text.ids.shape[1] - 2, 1)
        words = aggregate_words(hidden, attention, text.word, text.sentence, slots)
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            present = text.mask[:, :, None]  # [CLS] and [SEP] too: a report without words has a mean
            if self.pooling == "mean":
                pooled = (hidden * present).sum(1) / present.sum(1)  # (B, D)
            else:
                pooled = hidden.masked_fill(~present, float("-inf")).amax(1)  # (B, D)
        return EncodedText(
            pooled, words.local, words.mask, words.sentence, words.attention, first=hidden[:, 0]
        )

    def _transform(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) ids and mask -> (B, T, D) hidden states, (B, T) attention of [CLS] in the last layer.

        On the CPU a wide one takes tokens without their padding, whose hidden states are then zero. Elsewhere padding
        costs little, and a look at the lengths would wait for the device; what is compiled is that path.
        """
        on_cpu = ids.device.type == "cpu" and not torch.compiler.is_compiling()
        packing = Packing(mask) if on_cpu and self.width >= PACKED_WIDTH and not mask.all() else None
        # Layer by layer and not through BertModel: it looks into the mask (a host sync) and, asked for more than
        # its last output, can not be compiled as one graph.
        positions = self._positions(ids)
        if packing is None:
            outputs = [self.bert.embeddings(ids, position_ids=positions)]
            for layer in self.bert.encoder.layer:
                outputs.append(self._through(layer, outputs[-1], mask[:, None, None, :]))
        else:
            outputs = [
                self.bert.embeddings(packing.pack(ids)[None], position_ids=packing.pack(positions)[None])
            ]
            for layer in self.bert.encoder.layer:
                outputs.append(self._through(layer, outputs[-1], packing=packing))  # (1, N, D)
            outputs = [packing.unpack(output[0]) for output in outputs[-max(self.summed, 2) :]]
        # One layer is the usual case; GLoRIA sums the last four.
        hidden = outputs[-1] if self.summed == 1 else torch.stack(outputs[-self.summed :]).sum(0)  # (B, T, D)
        return hidden, self._cls_attention(outputs[-2], mask)

    def _through(self, layer: nn.Module, hidden: Tensor, *mask: Tensor, **named: Any) -> Tensor:
        if self.checkpointing and self.training:
            layer = partial(checkpoint, layer, use_reentrant=False)  # type: ignore[assignment]  # called alike
        out: Tensor = layer(hidden, *mask, **named)
        return out

    def _positions(self, ids: Tensor) -> Tensor:
        """(B, T) int64: the position that each token is given."""
        return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

    @torch.no_grad()
    def _cls_attention(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) input of the last layer -> (B, T) float32 attention of [CLS] there, mean over heads.

        Computed again for this one row, because no attention matrix is kept.
        """
        layer: Any = self.bert.encoder.layer[-1]
        inner = layer.attention.self
        batch, n, _ = hidden.shape
        heads = inner.num_attention_heads
        query = inner.query(hidden[:, :1]).view(batch, 1, heads, -1).transpose(1, 2)  # (B, heads, 1, d)
        key = inner.key(hidden).view(batch, n, heads, -1).transpose(1, 2)  # (B, heads, T, d)
        scores = (query @ key.transpose(2, 3)).float() * inner.scaling  # (B, heads, 1, T)
        scores = scores.masked_fill(~mask[:, None, None, :], float("-inf"))  # [CLS] itself is never masked
        attention: Tensor = scores.softmax(-1).mean(1)[:, 0]
        return attention

    def to_bytes(self) -> bytes:
        """The architecture, as the JSON of transformers."""
        return str(self.bert.config.to_json_string()).encode()


def build_text(
    config: TextConfig, reports: Sequence[Sequence[str]], setup: Setup
) -> tuple[TextEncoder, ReportTokenizer]:
    """Text encoder and tokenizer for a new pretraining run.

    Args:
        config: what to build.
        reports: the training reports, each a list of sentences; only used from scratch.
        setup: whether a hub may be asked, and the seed and the store of masked-word pretraining.

    Raises:
        UsageError: the config asks for more layers or tokens than the pretrained encoder has, or for masked-word
            pretraining that can not be done.
        WeightsError: the pretrained encoder is in neither place, or its weights do not cover the model.
    """
    from medbench_methods.modules.bert import (  # transformers takes seconds to import
        pretrained_bert,
        small_bert,
    )

    if config.text_encoder != SCRATCH:
        bert, tokenizer = pretrained_bert(config, setup.offline)
        return TextEncoder(bert, config), tokenizer
    architecture = {
        "vocabulary": config.text_vocabulary,
        "max_tokens": config.text_max_tokens,
        "layers": config.text_layers,
        "width": config.text_width,
        "heads": config.text_heads,
        "dropout": config.text_dropout,
        "init": config.text_init,
    }

    def make_tokenizer() -> ReportTokenizer:
        return ReportTokenizer.train(
            reports, vocabulary=config.text_vocabulary, max_tokens=config.text_max_tokens
        )

    def make_bert(vocabulary: int) -> "BertModel":
        return small_bert(config, vocabulary)

    if config.text_mlm_epochs:
        training = _masked_word_training(config, reports)
        bert, tokenizer = pretrained_on_words(
            make_tokenizer, make_bert, architecture, reports, training, setup
        )
    else:
        tokenizer = make_tokenizer()
        bert = make_bert(len(tokenizer))
    return TextEncoder(bert, config), tokenizer


def _masked_word_training(config: TextConfig, reports: Sequence[Sequence[str]]) -> MaskedWordTraining:
    if not any(any(report) for report in reports):
        raise UsageError(
            f"method.text_mlm_epochs is {config.text_mlm_epochs}, but there is no report with a word to learn from. "
            "Set method.text_mlm_epochs=0, or give a corpus with reports."
        )
    return MaskedWordTraining(
        epochs=config.text_mlm_epochs,
        share=config.text_mlm_share,
        lr=config.text_mlm_lr,
        batch_size=config.text_mlm_batch,
    )


def rebuild_text(
    config: TextConfig, architecture: bytes, vocabulary: bytes
) -> tuple[TextEncoder, ReportTokenizer]:
    """The same, without weights, from what `TextEncoder.to_bytes` and `ReportTokenizer.to_bytes` gave."""
    from medbench_methods.modules.bert import bert_of

    return TextEncoder(bert_of(architecture), config), ReportTokenizer.from_bytes(
        vocabulary, config.text_max_tokens
    )
