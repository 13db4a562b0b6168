import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from medbench.errors import UsageError
from medbench_methods.modules.tokenizer import SPECIAL, ReportTokenizer

REPORTS = [
    ["heart size is normal", "no pleural effusion or pneumothorax"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["right upper lobe opacity suspicious for pneumonia"],
    ["mild cardiomegaly", "mild interstitial edema", "small bilateral effusions"],
] * 3


def trained(vocabulary: int = 200, max_tokens: int = 64) -> ReportTokenizer:
    return ReportTokenizer.train(REPORTS, vocabulary=vocabulary, max_tokens=max_tokens)


def test_the_same_reports_give_the_same_bytes() -> None:
    # The trainer of the library alone gives another vocabulary every time.
    assert len({trained().to_bytes() for _ in range(6)}) == 1


def test_bytes_there_and_back() -> None:
    tokenizer = trained()
    again = ReportTokenizer.from_bytes(tokenizer.to_bytes(), 64)
    assert again.to_bytes() == tokenizer.to_bytes()
    assert len(again) == len(tokenizer)
    for a, b in zip(vars(tokenizer(REPORTS)).values(), vars(again(REPORTS)).values(), strict=True):
        assert torch.equal(a, b)


def test_vocabulary_starts_with_the_special_tokens_and_keeps_its_size() -> None:
    vocabulary = json.loads(trained(vocabulary=120).to_bytes())["model"]["vocab"]
    assert [vocabulary[token] for token in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert len(vocabulary) <= 120
    assert "pneumothorax" in vocabulary


def pieces_of(tokenizer: ReportTokenizer, text: str) -> list[int]:
    library = Tokenizer.from_str(tokenizer.to_bytes().decode())
    return list(library.encode(text, add_special_tokens=False).ids)


def test_words_and_sentences_of_every_piece() -> None:
    tokenizer = trained(vocabulary=60)  # small, so that words fall into pieces
    batch = tokenizer([["no effusion", "left atelectasis"], ["mild edema"]])
    ids: list[int] = [2]
    words, sentences, number = [-1], [-1], 0
    for s, text in enumerate(["no effusion", "left atelectasis"]):
        for word in text.split():
            pieces = pieces_of(tokenizer, word)
            ids += pieces
            words += [number] * len(pieces)
            sentences += [s] * len(pieces)
            number += 1
    n = len(ids) + 1
    assert len(ids) > 5  # there are words of several pieces
    assert batch.ids[0].tolist() == [*ids, 3]
    assert batch.word[0].tolist() == [*words, -1]
    assert batch.sentence[0].tolist() == [*sentences, -1]
    assert batch.mask.sum(1).tolist() == [n, len(pieces_of(tokenizer, "mild edema")) + 2]
    padding = ~batch.mask[1]
    assert batch.ids[1][padding].unique().tolist() == [0]
    assert batch.word[1][padding].unique().tolist() == [-1]


def test_sentences_one_by_one_are_the_joined_caption() -> None:
    tokenizer = trained(vocabulary=60)
    for report in REPORTS[:4]:
        (ids,) = tokenizer([report]).ids.tolist()
        assert ids[1:-1] == pieces_of(tokenizer, " ".join(report))


def test_long_reports_are_cut_and_keep_the_last_special_token() -> None:
    tokenizer = trained(max_tokens=6)
    batch = tokenizer([REPORTS[0], ["normal"]])
    assert batch.ids.shape == (2, 6)
    assert batch.ids[0, -1] == 3
    assert batch.word[0].tolist() == [-1, 0, 1, 2, 3, -1]


def test_empty_reports_and_batches() -> None:
    batch = trained()([[], ["", "normal heart"], ["  "]])
    assert batch.ids[0, :2].tolist() == [2, 3]
    assert batch.mask.sum(1)[0] == 2
    assert batch.word[0].max() == -1
    assert batch.sentence[1].max() == 1
    assert trained()([]).ids.shape == (0, 2)


def test_unknown_letters_are_one_unknown_word() -> None:
    batch = trained()([["normal ßq∂ heart"]])
    assert (batch.ids == 1).sum() == 1
    assert batch.word.max() == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.text(max_size=20), max_size=4), min_size=1, max_size=4))
def test_any_text_gives_a_sound_batch(reports: list[list[str]]) -> None:
    batch = trained(max_tokens=16)(reports)
    assert batch.ids.shape == batch.mask.shape == batch.word.shape == batch.sentence.shape
    assert 2 <= batch.ids.shape[1] <= 16
    for i in range(len(reports)):
        n = int(batch.mask[i].sum())
        assert batch.mask[i, :n].all()
        assert batch.ids[i, 0] == 2
        assert batch.ids[i, n - 1] == 3
        inside = batch.word[i, 1 : n - 1].tolist()
        assert inside == sorted(inside)
        assert set(inside) == set(range(len(set(inside))))  # no number is left out
        assert batch.sentence[i, 1 : n - 1].ge(0).all()
        assert batch.word[i].lt(0).equal(batch.sentence[i].lt(0))


def test_ids_from_elsewhere_must_be_of_this_vocabulary_and_fit() -> None:
    tokenizer = trained(max_tokens=6)
    text = tokenizer(REPORTS[:2])
    again = tokenizer.from_ids(text.ids, text.mask)
    assert torch.equal(again.ids, text.ids) and torch.equal(again.word, text.word)
    for ids, mask, message in (
        (torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7), "7 token ids a text, expected at most 6"),
        (
            torch.tensor([[2, 5000, 3]]),
            torch.ones(1, 3),
            f"token id 5000, expected 0 to {len(tokenizer) - 1}",
        ),
        (torch.tensor([[2, -1, 3]]), torch.ones(1, 3), "token id -1"),
        (torch.zeros(3, dtype=torch.int64), torch.ones(3), r"shape \(3,\)"),
        (torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 2), r"a mask of \(1, 2\)"),
        (torch.zeros(1, 3), torch.ones(1, 3), "expected whole numbers"),
        (torch.tensor([[0, 2, 3]]), torch.tensor([[0, 1, 1]]), "expected all padding at the end"),
        (
            torch.tensor([[2, 7, 3], [7, 8, 0]]),
            torch.tensor([[1, 1, 1], [1, 1, 0]]),
            r"text 1 is \[7, 8\], expected \[CLS\] \(2\)",
        ),
        (torch.tensor([[2, 7, 7]]), torch.ones(1, 3), r"\[SEP\] \(3\) last"),
        (torch.tensor([[2, 3]]), torch.zeros(1, 2), r"text 0 is \[\]"),
    ):
        with pytest.raises(UsageError, match=message):
            tokenizer.from_ids(ids, mask)


def test_a_tokenizer_of_another_family_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no \[PAD\], \[CLS\], \[SEP\]; expected a BERT tokenizer"):
        ReportTokenizer(Tokenizer(models.BPE()), 8)
