"""One sentence of a report instead of the whole of it, as ConVIRT and GLoRIA train; and reports cut to a length.

Both work on token ids that are on the device, with no loop over reports and without waiting for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from medbench.errors import UsageError
from medbench.model import TextBatch
from medbench_methods.modules.text_encoder import TextConfig
from medbench_methods.modules.tokenizer import ReportTokenizer


@dataclass(frozen=True, kw_only=True)
class SentenceConfig(TextConfig):
    """What of a report is seen in training. Whole reports are seen wherever a task asks for features."""

    full_report: bool = False
    """Train with whole reports. False: with one sentence, drawn anew in each step (GLoRIA's released code by default,
    and ConVIRT)."""

    report_max_tokens: int = 512
    """Longest report that a sentence is drawn from, in word-pieces, [CLS] and [SEP] included; what comes after is never
    drawn. The released code of GLoRIA has no such end; 512, BERT's most, was chosen. What is drawn is then cut to
    `text_max_tokens`, as whole reports are."""

    def __post_init__(self) -> None:
        """Refuse to read less of a report than the encoder sees.

        Raises:
            UsageError: it names the two fields.
        """
        super().__post_init__()
        if self.report_max_tokens < self.text_max_tokens:
            raise UsageError(
                f"method.report_max_tokens is {self.report_max_tokens}; expected at least method.text_max_tokens"
                f" ({self.text_max_tokens})."
            )


def read_whole(tokenizer: ReportTokenizer, config: SentenceConfig) -> ReportTokenizer:
    """The tokenizer, made to keep whole reports, so that every sentence of them can be drawn."""
    tokenizer.max_tokens = config.report_max_tokens
    return tokenizer


def draw_sentences(text: TextBatch, drawn: Tensor) -> TextBatch:
    """One sentence of each report, every one equally likely.

    Args:
        text: whole reports, (B, T).
        drawn: (B,) float in [0, 1), which sentence.

    Returns:
        (B, T): [CLS], the sentence's word-pieces, [SEP], padding; words are numbered from 0, and the sentence is 0. Of
        a report without words [CLS] and [SEP].
    """
    inside = text.sentence >= 0
    # The first piece of each sentence; an empty one has none and is not counted.
    begins = inside & (text.sentence != text.sentence.roll(1, 1))
    number = begins.cumsum(1)  # (B, T), from 1
    count = number[:, -1]  # (B,), of sentences
    # float32 may round up to `count` what is below it
    wanted = torch.minimum((drawn * count).long(), (count - 1).clamp_min(0)) + 1
    chosen = inside & (number == wanted[:, None])
    width = text.ids.shape[1]
    first = text.word.masked_fill(~chosen, width).amin(
        1, keepdim=True
    )  # (B, 1), the number of its first word
    word = (text.word - first).masked_fill(~chosen, -1)
    sentence = TextBatch(text.ids, text.mask, word, torch.where(chosen, 0, -1))
    return _gathered(sentence, chosen | _specials(text.mask), width)


def cut(text: TextBatch, length: int) -> TextBatch:
    """(B, T) reports -> at most `length` tokens: [CLS], the first `length - 2` word-pieces, [SEP].

    On the CPU, where to look at a length is to wait for nothing, columns that are padding in every row go too.
    """
    if text.ids.shape[1] > length:
        before = text.mask.cumsum(1) < length  # the first length - 1 tokens
        text = _gathered(text, text.mask & before | _specials(text.mask), length)
    if text.ids.device.type == "cpu" and not torch.compiler.is_compiling():
        longest = max(int(text.mask.sum(1).max()), 2) if len(text.ids) else 2
        text = TextBatch(*(part[:, :longest] for part in (text.ids, text.mask, text.word, text.sentence)))
    return text


def _specials(mask: Tensor) -> Tensor:
    """(B, T) bool, True at [CLS] and [SEP]: the first and the last token that are there."""
    place = torch.arange(mask.shape[1], device=mask.device)
    return (place == 0) | (place == mask.sum(1, keepdim=True) - 1)


def _gathered(text: TextBatch, keep: Tensor, length: int) -> TextBatch:
    """The tokens of `keep` (B, T), moved together to the left, in `length` columns."""
    order = keep.logical_not().to(torch.uint8).sort(dim=1, stable=True).indices[:, :length]  # (B, length)
    kept = keep.gather(1, order)
    # What the mask hides may be any id that there is.
    ids = text.ids.gather(1, order).masked_fill(~kept, 0)
    word, sentence = (part.gather(1, order).masked_fill(~kept, -1) for part in (text.word, text.sentence))
    return TextBatch(ids, kept, word, sentence)
