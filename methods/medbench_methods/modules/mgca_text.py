"""The text side of MGCA's released code, quirks included: for its checkpoints and for `compat` runs of `mgca`.

What differs from `TextEncoder`:

- every token has position 0 and no token type: the encoder sees no order of words;
- words are padded to one slot less than the longest report has tokens (111 of 112), whatever the batch; slots
  without a word hold zeros;
- [SEP] is the last word. A report of full length loses it, and its last word, because the loop over tokens ends
  one early;
- attention is shifted: a token gets that of the next one, so [SEP] gets that of padding, 0;
- all slots pass the projection, enter its batch statistics and come out as unit vectors.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import UsageError
from medbench.model import TextBatch, TextFeatures
from medbench_methods.modules.dual_encoder import DualEncoder, DualEncoderConfig, Local
from medbench_methods.modules.image_encoder import ImageEncoder
from medbench_methods.modules.text_encoder import EncodedText, TextConfig, TextEncoder
from medbench_methods.modules.tokenizer import ReportTokenizer

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertModel


class MgcaTextEncoder(TextEncoder):
    """BERT without positions and token types, its words in a fixed number of slots, [SEP] among them."""

    def __init__(self, bert: "BertModel", config: TextConfig) -> None:
        """Take the token types out of a BERT.

        Raises:
            UsageError: the config asks for what the released code does not have.
        """
        super().__init__(bert, config)
        for field, asked, has in (
            ("text_pooling", config.text_pooling, "cls"),
            ("text_summed_layers", config.text_summed_layers, 1),
        ):
            if asked != has:
                raise UsageError(
                    f"method.{field} is {asked}; with method.compat=true expected {has}, as MGCA's released code has"
                    f" it. Set --set method.{field}={has}, or leave out compat."
                )
        self.tokens = config.text_max_tokens
        types: Any = bert.embeddings.token_type_embeddings
        torch.nn.init.zeros_(types.weight)
        types.weight.requires_grad_(False)

    def forward(self, text: TextBatch) -> EncodedText:
        """Tokenised reports (B, T) -> features with N = longest report - 1 word slots.

        Reports need not be padded to the longest there can be: padding changes no other token.
        """
        hidden, seen = self._transform(text.ids, text.mask)  # (B, T, D), (B, T)
        slot = self.slots_of(text)  # (B, T)
        slots = torch.arange(self.tokens - 1, device=slot.device)
        pieces = slot[:, None, :] == slots[None, :, None]  # (B, N, T), True where a piece belongs to the word
        attention = F.pad(seen[:, 1:], (0, 1))  # (B, T), of the next token
        mask = pieces.any(2)
        return EncodedText(
            first=hidden[:, 0],
            pooled=hidden[:, 0],
            local=pieces.to(hidden.dtype) @ hidden,  # (B, N, T) x (B, T, D) -> (B, N, D)
            mask=mask,
            sentence=(pieces * (text.sentence[:, None, :] + 1)).amax(2) - 1,
            attention=(pieces * attention[:, None, :]).sum(2),
        )

    def _positions(self, ids: Tensor) -> Tensor:
        """Position 0 for every token."""
        return torch.zeros_like(ids)

    def slots_of(self, text: TextBatch) -> Tensor:
        """(B, T) int64: the word slot of each token, -1 for [CLS], padding and what the loop does not reach."""
        last = text.word.amax(1, keepdim=True)  # (B, 1), -1 in a report without words
        length = text.mask.sum(1, keepdim=True)  # (B, 1)
        place = torch.arange(text.ids.shape[1], device=text.ids.device)[None]  # (1, T)
        slot = torch.where(place == length - 1, last + 1, text.word)  # [SEP] after the last word
        lost = (length == self.tokens) & (slot >= last)
        return slot.masked_fill(lost, -1)


class MgcaDualEncoder(DualEncoder):
    """`DualEncoder` with this text side."""

    def __init__(
        self,
        config: DualEncoderConfig,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        tokenizer: ReportTokenizer,
        *,
        local: Local,
    ) -> None:
        """As the base class; the text encoder's BERT goes on without positions and token types."""
        text_encoder = MgcaTextEncoder(text_encoder.bert, config)
        super().__init__(config, image_encoder, text_encoder, tokenizer, local=local)

    def embed_words(self, features: TextFeatures) -> Tensor:
        """(B, N, E) float32 unit vectors of all slots, also of those without a word."""
        return F.normalize(self.word_head(features.local), dim=-1)
