"""What a `paper` step is measured on: captions of given lengths, and a Bio_ClinicalBERT with random weights."""

from collections.abc import Sequence
from pathlib import Path

import torch

from medbench.model import TextBatch

VOCABULARY = 28_996
"""Word-pieces of Bio_ClinicalBERT; here the upper half go on with a word."""

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS_A_SENTENCE = 8
CONTINUED = 0.25
"""Share of word-pieces that go on with a word."""


def vocabulary() -> list[str]:
    """Made-up word-pieces by id."""
    half = VOCABULARY // 2
    return [*SPECIAL, *(f"w{i}" if i < half else f"##w{i}" for i in range(len(SPECIAL), VOCABULARY))]


def captions(lengths: Sequence[int], longest: int) -> TextBatch:
    """Reports of these many tokens, [CLS] and [SEP] included, padded to `longest`; always the same ones."""
    draw = torch.Generator().manual_seed(0)
    half = VOCABULARY // 2
    shape = (len(lengths), longest)
    ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    word = torch.full(shape, -1)
    for row, length in enumerate(lengths):
        inner = length - 2
        goes_on = torch.rand(inner, generator=draw) < CONTINUED
        goes_on[:1] = False
        whole = torch.randint(len(SPECIAL), half, (inner,), generator=draw)
        ids[row, 0], ids[row, length - 1] = SPECIAL.index("[CLS]"), SPECIAL.index("[SEP]")
        ids[row, 1 : length - 1] = whole + goes_on * half
        word[row, 1 : length - 1] = (~goes_on).cumsum(0) - 1
        mask[row, :length] = True
    return TextBatch(ids, mask, word, torch.where(word < 0, word, word // WORDS_A_SENTENCE))


def write_bert(folder: Path, layers: int = 6) -> None:
    """The files of a pretrained BERT, with the size of Bio_ClinicalBERT and random weights; some of its 12 layers."""
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = BertConfig(vocab_size=VOCABULARY, num_hidden_layers=layers)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary()) + "\n")
