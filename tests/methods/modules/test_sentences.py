import dataclasses

import pytest
import torch

from medbench.errors import UsageError
from medbench.model import TextBatch
from medbench_methods.modules.sentences import SentenceConfig, cut, draw_sentences
from medbench_methods.modules.tokenizer import ReportTokenizer

REPORTS = [
    ["heart size is normal", "no pleural effusion", "", "lines are in place"],
    ["opacity"],
    ["", "small effusion", "no pneumothorax at all today"],
    [],
]
TOKENIZER = ReportTokenizer.train([r for r in REPORTS if r] * 3, vocabulary=70, max_tokens=64)


def columns(text: TextBatch, row: int) -> tuple[list[int], list[int], list[int]]:
    n = int(text.mask[row].sum())
    assert text.mask[row, :n].all()
    assert text.word[row, n:].eq(-1).all()
    assert text.sentence[row, n:].eq(-1).all()
    return text.ids[row, :n].tolist(), text.word[row, :n].tolist(), text.sentence[row, :n].tolist()


def test_what_is_drawn_is_what_the_tokenizer_makes_of_that_sentence() -> None:
    """Every sentence with words is met, each for an equal part of the numbers in [0, 1)."""
    whole = TOKENIZER(REPORTS)
    for row, report in enumerate(REPORTS):
        spoken = [sentence for sentence in report if sentence]
        steps = 4 * max(len(spoken), 1)
        for step in range(steps):
            drawn = torch.full((len(REPORTS),), step / steps)
            found = columns(draw_sentences(whole, drawn), row)
            wanted = [spoken[step // 4]] if spoken else []
            assert found == columns(TOKENIZER([wanted]), 0)


def test_the_largest_number_below_one_gives_the_last_sentence() -> None:
    many = TOKENIZER([["no effusion"] * 11 + ["heart size"]])
    drawn = torch.tensor([1 - 2**-24])
    assert columns(draw_sentences(many, drawn), 0) == columns(TOKENIZER([["heart size"]]), 0)
    # float32 rounds 0.99999994 * count up to the count
    assert columns(draw_sentences(many, torch.ones(1)), 0) == columns(TOKENIZER([["heart size"]]), 0)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 13, 40])
def test_reports_are_cut_as_the_tokenizer_would(length: int) -> None:
    shorter = ReportTokenizer.from_bytes(TOKENIZER.to_bytes(), length)(REPORTS)
    found = cut(TOKENIZER(REPORTS), length)
    assert found.ids.shape == shorter.ids.shape
    for row in range(len(REPORTS)):
        assert columns(found, row) == columns(shorter, row)


def test_columns_of_padding_go_on_the_cpu_and_stay_in_a_graph() -> None:
    text = TOKENIZER(REPORTS)
    wide = TextBatch(
        *(
            torch.nn.functional.pad(getattr(text, f.name), (0, 9), value=v)
            for f, v in zip(dataclasses.fields(text), (0, False, -1, -1), strict=True)
        )
    )
    assert cut(wide, 64).ids.shape == text.ids.shape
    graph = torch.compile(
        lambda text, drawn: cut(draw_sentences(text, drawn), 20), fullgraph=True, backend="eager"
    )
    drawn = torch.tensor([0.5, 0.0, 0.9, 0.3])
    traced, plain = graph(wide, drawn), cut(draw_sentences(wide, drawn), 20)
    assert traced.ids.shape == (4, 20)
    for row in range(len(REPORTS)):
        assert columns(traced, row) == columns(plain, row)


def test_an_empty_batch_stays_one() -> None:
    assert cut(TOKENIZER([]), 10).ids.shape == (0, 2)


def test_reports_shorter_than_what_the_encoder_sees_are_refused() -> None:
    with pytest.raises(UsageError, match=r"report_max_tokens is 96; .*text_max_tokens \(97\)"):
        SentenceConfig(text_max_tokens=97, report_max_tokens=96)
