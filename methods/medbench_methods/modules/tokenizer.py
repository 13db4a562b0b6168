"""Reports to token ids, keeping which word and which sentence each word-piece belongs to."""

from collections.abc import Iterable, Sequence
from typing import Self

import torch
from tokenizers import Encoding, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from medbench.errors import UsageError
from medbench.model import TextBatch

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Special tokens of BERT; in a vocabulary trained here they are ids 0 to 4."""


class ReportTokenizer:
    """A WordPiece tokenizer over sentences.

    A report becomes [CLS], the word-pieces of its sentences one after another, [SEP], cut to `max_tokens`.
    MGCA joins the sentences to one caption before; BERT splits at blanks, so the ids are the same.

    Attributes:
        max_tokens: longest sequence, [CLS] and [SEP] included.
        unknown: id of [UNK], a word that the vocabulary does not have; None if it knows no such token.
        mask_id: id of [MASK], which stands for a hidden word-piece; None if it knows no such token.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Wrap a tokenizer that knows BERT's special tokens.

        Raises:
            ValueError: one of them is missing.
        """
        ids = {token: tokenizer.token_to_id(token) for token in ("[PAD]", "[CLS]", "[SEP]")}
        known = {token: number for token, number in ids.items() if number is not None}
        if len(known) < len(ids):
            missing = ", ".join(token for token in ids if token not in known)
            raise ValueError(f"the tokenizer has no {missing}; expected a BERT tokenizer (WordPiece)")
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._pad, self._cls, self._sep = known["[PAD]"], known["[CLS]"], known["[SEP]"]
        self.max_tokens = max_tokens
        self.unknown: int | None = tokenizer.token_to_id("[UNK]")
        self.mask_id: int | None = tokenizer.token_to_id("[MASK]")

    def __len__(self) -> int:
        """Number of tokens in the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    @classmethod
    def train(cls, reports: Iterable[Sequence[str]], *, vocabulary: int, max_tokens: int) -> Self:
        """Learn a lower-case WordPiece vocabulary; the same reports give the same one, byte for byte.

        Args:
            reports: each a list of sentences.
            vocabulary: most tokens it may have, special tokens included.
            max_tokens: see the class.
        """
        texts = [sentence for report in reports for sentence in report]
        learner = _bert(models.WordPiece(unk_token="[UNK]"))
        normalise = normalizers.BertNormalizer(lowercase=True).normalize_str
        # The trainer numbers continuation letters (##a) in the order of a hash map, which differs from
        # process to process, and breaks ties between merges by these numbers. Naming them first, sorted,
        # fixes both.
        letters = sorted({c for text in texts for c in normalise(text) if not c.isspace()})
        continuations = [f"##{c}" for c in letters]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocabulary,
            min_frequency=2,
            special_tokens=[*SPECIAL, *continuations],
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        tokens = {token: i for i, token in enumerate(SPECIAL)}
        for token, _ in sorted(learner.get_vocab().items(), key=lambda item: item[1]):
            tokens.setdefault(token, len(tokens))
        tokenizer = _bert(models.WordPiece(tokens, unk_token="[UNK]"))
        return cls(tokenizer, max_tokens)

    def to_bytes(self) -> bytes:
        """The tokenizer as the JSON of the `tokenizers` library."""
        return str(self._tokenizer.to_str()).encode()

    @classmethod
    def from_bytes(cls, data: bytes, max_tokens: int) -> Self:
        """What `to_bytes` gave, as a tokenizer."""
        return cls(Tokenizer.from_str(data.decode()), max_tokens)

    def __call__(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        """Tokenise reports, each a list of sentences, padded to the longest of them; on the CPU."""
        flat = [sentence for report in reports for sentence in report]
        encodings = iter(self._tokenizer.encode_batch(flat, add_special_tokens=False))
        rows = [self._row([next(encodings) for _ in report]) for report in reports]
        longest = max((len(ids) for ids, _, _ in rows), default=2)
        shape = (len(rows), longest)
        ids = torch.full(shape, self._pad, dtype=torch.int64)
        word, sentence = torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -1, dtype=torch.int64)
        mask = torch.zeros(shape, dtype=torch.bool)
        for i, (row_ids, row_words, row_sentences) in enumerate(rows):
            n = len(row_ids)
            ids[i, :n] = torch.tensor(row_ids)
            word[i, 1 : n - 1] = torch.tensor(row_words, dtype=torch.int64)
            sentence[i, 1 : n - 1] = torch.tensor(row_sentences, dtype=torch.int64)
            mask[i, :n] = True
        return TextBatch(ids, mask, word, sentence)

    def from_ids(self, ids: Tensor, mask: Tensor) -> TextBatch:
        """Token ids of this vocabulary, made elsewhere, as one sentence a text.

        Args:
            ids: (B, T) whole numbers; a text begins with [CLS] and ends with [SEP].
            mask: (B, T), 1 or True where there is a token; padding comes behind a text.

        Raises:
            UsageError: they are of another shape or form, more than `max_tokens` a text, or not in this vocabulary.
        """
        if ids.ndim != 2 or ids.shape != mask.shape:
            raise UsageError(
                f"token ids of shape {tuple(ids.shape)} and a mask of {tuple(mask.shape)}, expected (B, T) of both."
            )
        if ids.is_floating_point() or ids.is_complex():
            raise UsageError(f"token ids of type {ids.dtype}, expected whole numbers.")
        if ids.shape[1] > self.max_tokens:
            raise UsageError(
                f"{ids.shape[1]} token ids a text, expected at most {self.max_tokens} ([CLS] and [SEP] included)."
                f" Cut them before, or give strings, which are cut here."
            )
        ids, mask = ids.cpu().long(), mask.cpu().bool()
        unknown = (ids < 0) | (ids >= len(self))
        if unknown.any():
            raise UsageError(
                f"token id {int(ids[unknown][0])}, expected 0 to {len(self) - 1}: the vocabulary of this model. Make"
                f" them with its own tokenizer, or give strings."
            )
        length = mask.sum(1)
        if not torch.equal(mask, torch.arange(mask.shape[1]) < length[:, None]):
            raise UsageError("the mask has tokens behind padding, expected all padding at the end of a text.")
        last = ids.gather(1, (length - 1).clamp(min=0)[:, None])[:, 0]  # (B,)
        framed = (length >= 2) & (ids[:, 0] == self._cls) & (last == self._sep)
        if not framed.all():
            row = int((~framed).nonzero()[0])
            raise UsageError(
                f"text {row} is {ids[row, mask[row]].tolist()[:8]}, expected [CLS] ({self._cls}) first and [SEP]"
                f" ({self._sep}) last. Let the tokenizer add them."
            )
        special = (ids == self._cls) | (ids == self._sep) | (ids == self._pad) | ~mask
        pieces = [
            bool(token and token.startswith("##"))
            for token in map(self._tokenizer.id_to_token, range(len(self)))
        ]
        starts = ~special & ~torch.tensor(pieces)[ids]  # a word-piece that continues no word
        word = torch.where(special, -1, starts.cumsum(1) - 1)
        return TextBatch(ids, mask, word, torch.where(word >= 0, 0, -1))

    def _row(self, encodings: Sequence[Encoding]) -> tuple[list[int], list[int], list[int]]:
        """Ids with [CLS] and [SEP], and for what is between them the words and the sentences."""
        ids: list[int] = []
        words: list[int] = []
        sentences: list[int] = []
        seen = 0  # words of the sentences before
        for number, encoding in enumerate(encodings):
            within = [w for w in encoding.word_ids if w is not None]  # None: special tokens, not asked for
            ids += encoding.ids
            words += [seen + w for w in within]
            sentences += [number] * len(within)
            seen += within[-1] + 1 if within else 0
        room = self.max_tokens - 2
        return [self._cls, *ids[:room], self._sep], words[:room], sentences[:room]


def _bert(model: models.WordPiece) -> Tokenizer:
    """BERT's normaliser (lower case, no accents) and splitting at blanks and punctuation, then `model`."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
