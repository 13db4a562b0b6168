"""Which pairs make up which batch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.data import pairs as module
from medbench.data.index import Index
from medbench.data.pairs import Batch, Pairs, Share, TrainingBatches, ValidationBatches, read_reports
from medbench.data.prepared import PreparedImages
from medbench.errors import DataError, UsageError
from medbench.model import Preprocessing, TextBatch

SIDE, SIZE = 7, 5


class Model:
    """Of a model only what pairs need: each word's length is its token; padding is token 99."""

    preprocessing = Preprocessing(size=SIZE, resize=SIDE)

    def __init__(self) -> None:
        self.calls: list[int] = []

    def tokenize(self, reports: Sequence[Sequence[str]]) -> TextBatch:
        self.calls.append(len(reports))
        tokens = [[(len(w), s) for s, line in enumerate(r) for w in line.split()] for r in reports]
        length = max(map(len, tokens))
        ids = torch.tensor([[t for t, _ in row] + [99] * (length - len(row)) for row in tokens])
        sentence = torch.tensor([[s for _, s in row] + [-1] * (length - len(row)) for row in tokens])
        word = torch.where(sentence >= 0, torch.arange(length).expand_as(ids), -1)
        return TextBatch(ids, sentence >= 0, word, sentence)


def make(
    reports: Sequence[str],
    rows: Sequence[int] | None = None,
    vectors: torch.Tensor | None = None,
    *,
    scale: int = 1,
) -> tuple[Pairs, np.ndarray[Any, Any]]:
    table = pd.DataFrame({"report": list(reports), "sample": [str(i) for i in range(len(reports))]})
    index = Index("toy", Path("/nowhere"), "phantom", table)
    side = scale * SIDE
    films = np.arange(len(reports) * side * side).reshape(-1, side, side).astype(np.uint8)
    films[:, 0, 0] = np.arange(len(reports))  # tells which row it is
    every = np.arange(len(reports)) if rows is None else np.array(rows)
    prepared = PreparedImages(films, np.full((len(reports), 2), side), "")
    model: Any = Model()
    return Pairs(read_reports(index, every), prepared, model, vectors, scale=scale), films


def texts(n: int) -> list[str]:
    return [f"{'a' * (i + 1)} word here. and another one" for i in range(n)]


def rows_of(batch: Batch) -> list[int]:
    return batch.images[:, 0, 0].tolist()


def test_a_batch_holds_films_and_reports_of_the_same_rows() -> None:
    pairs, films = make(texts(11), rows=[9, 2, 4, 7, 0, 5])
    assert pairs.rows.tolist() == [0, 2, 4, 5, 7, 9]
    batches = TrainingBatches(pairs, seed=1, batch_size=2)
    assert len(batches) == 3
    seen = []
    for batch in batches:
        rows = rows_of(batch)
        seen += rows
        assert rows == sorted(rows)
        assert torch.equal(batch.images, torch.from_numpy(films[rows]))
        assert batch.text.ids[:, 0].tolist() == [
            row + 1 for row in rows
        ]  # the first word is as long as its row says
        assert batch.text.ids.dtype == batch.text.word.dtype == batch.text.sentence.dtype == torch.int64
        assert batch.text.sentence[0].tolist() == [0, 0, 0, 1, 1, 1]
        assert batch.films(SIZE).shape == (2, SIZE, SIZE)
        for film, (top, left), row in zip(batch.films(SIZE), batch.corners.tolist(), rows, strict=True):
            assert torch.equal(film, torch.from_numpy(films[row, top : top + SIZE, left : left + SIZE]))
    assert sorted(seen) == [0, 2, 4, 5, 7, 9]


def test_every_epoch_is_another_order_and_every_crop_another_place() -> None:
    pairs, _ = make(texts(60))
    batches = TrainingBatches(pairs, seed=1, batch_size=60)
    orders = [batches.order(epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(60)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    corners = torch.stack([batches.batch(epoch, 0).corners for epoch in range(20)])
    assert set(corners.flatten().tolist()) == {0, 1, 2}
    assert TrainingBatches(pairs, seed=2, batch_size=60).order(0).tolist() != orders[0]


def test_the_crop_of_a_film_does_not_depend_on_its_batch_or_on_the_rest_of_the_corpus() -> None:
    def corner(n: int, size: int) -> list[int]:
        batches = TrainingBatches(make(texts(n))[0], seed=5, batch_size=size)
        every = [batches.batch(3, k) for k in range(len(batches))]
        return next(b.corners[rows_of(b).index(7)].tolist() for b in every if 7 in rows_of(b))

    assert corner(12, 12) == corner(12, 3) == corner(40, 40)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 30), size=st.integers(1, 40), accumulate=st.integers(1, 6), data=st.data())
def test_starting_at_batch_k_gives_the_batches_of_an_uninterrupted_run(
    n: int, size: int, accumulate: int, data: st.DataObject
) -> None:
    pairs, _ = make(texts(n))
    whole = TrainingBatches(pairs, seed=4, batch_size=size, accumulate=accumulate)
    assert len(whole) % whole.accumulate == 0
    assert 1 <= len(whole) <= max(1, n // whole.batch_size)
    expected = [batch for _ in range(3) for batch in whole]
    assert [(b.epoch, b.number) for b in expected] == [(e, k) for e in range(3) for k in range(len(whole))]
    assert all(len(b) == min(size, n) for b in expected)
    start = data.draw(st.integers(0, 2 * len(whole)))
    resumed = TrainingBatches(pairs, seed=4, batch_size=size, accumulate=accumulate)
    resumed.start_at(*divmod(start, len(whole)))
    found = [batch for _ in range(3 - start // len(whole)) for batch in resumed]
    assert len(found) == len(expected) - start
    for a, b in zip(found, expected[start:], strict=True):
        assert (a.epoch, a.number) == (b.epoch, b.number)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.corners, b.corners)
        assert torch.equal(a.text.ids, b.text.ids)


def test_the_rest_that_fills_no_batch_is_another_one_each_epoch() -> None:
    batches = TrainingBatches(make(texts(10))[0], seed=0, batch_size=4)
    left_out = [set(range(10)) - {row for b in batches for row in rows_of(b)} for _ in range(6)]
    assert all(len(rest) == 2 for rest in left_out)
    assert len(set().union(*left_out)) > 4


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_pairs(n: int) -> None:
    pairs, _ = make(texts(3), rows=list(range(n)))
    with pytest.raises(
        DataError, match=rf"at least 2 training pairs of an image and a report with words in it, found {n}"
    ):
        TrainingBatches(pairs, seed=0, batch_size=4)


def test_reports_that_are_empty_after_cleaning_are_left_out() -> None:
    table = pd.DataFrame({"report": ["the lungs are clear.", "", " . 1. ", "no acute process seen"]})
    reports = read_reports(Index("toy", Path("/nowhere"), "real", table), np.array([3, 2, 0, 1]))
    assert reports.rows.tolist() == [0, 3]
    assert reports.sentences == [["the lungs are clear"], ["no acute process seen"]]
    assert reports.without_text == 2
    assert len(reports) == 2


def test_reports_are_cut_as_the_cleaning_says() -> None:
    index = Index("toy", Path("/nowhere"), "real", pd.DataFrame({"report": ["Nodule of 2.5 cm.", "Clear."]}))
    assert read_reports(index, np.arange(2)).sentences == [["nodule of", "5 cm"]]
    assert read_reports(index, np.arange(2), "clean").sentences == [["nodule of 2.5 cm"], ["clear"]]


def test_validation_has_every_pair_once_in_order_with_centre_crops() -> None:
    pairs, _ = make(texts(10))
    batches = ValidationBatches(pairs, 4)
    for _ in range(2):  # and again
        found = list(batches)
        assert [len(b) for b in found] == [4, 4, 2]
        assert len(batches) == 3
        assert [row for b in found for row in rows_of(b)] == list(range(10))
        assert all((b.corners == 1).all() for b in found)
    assert len(list(ValidationBatches(pairs, 400))) == 1


@settings(deadline=None, max_examples=30)
@given(n=st.integers(2, 40), size=st.integers(1, 40), most=st.integers(2, 50))
def test_gallery_is_the_same_for_every_batch_size(n: int, size: int, most: int) -> None:
    pairs, _ = make(texts(n))
    batches = ValidationBatches(pairs, size)
    chosen = [
        k * batches.batch_size + place
        for k in range(len(batches))
        for place in batches.in_gallery(k, most)[0]
    ]
    assert len(chosen) == len(set(chosen)) == min(n, most)
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] == n - 1
    assert batches.gallery_text_ids(most).tolist() == pairs.text_ids(np.array(chosen)).tolist()


@settings(deadline=None, max_examples=30)
@given(n=st.integers(4, 40), half=st.integers(2, 10), of=st.integers(1, 3))
def test_shares_of_several_processes_are_the_batches_of_one(n: int, half: int, of: int) -> None:
    pairs, _ = make(texts(n))
    shares = [Share(number, of) for number in range(of)]
    size = half * of
    if size <= n:
        whole = TrainingBatches(pairs, 1, size)
        parts = [TrainingBatches(pairs, 1, size, share=share) for share in shares]
        for batch, *own in zip(whole, *parts, strict=True):
            assert {len(part) for part in own} == {half}
            assert [row for part in own for row in rows_of(part)] == rows_of(batch)
            assert torch.equal(torch.cat([part.corners for part in own]), batch.corners)
    checked = [ValidationBatches(pairs, size, share=share) for share in shares]
    found = [list(batches) for batches in checked]
    assert len({len(batches) for batches in found}) == 1  # or a process waits for another one
    for number, own in enumerate(zip(*found, strict=True)):
        if checked[0].is_full(number):
            assert len({len(part) for part in own}) == 1  # losses that gather need it
    assert [row for own in zip(*found, strict=True) for part in own for row in rows_of(part)] == list(
        range(n)
    )
    places = [p for b in checked for number in range(len(b)) for p in b.in_gallery(number, 7)[1].tolist()]
    assert sorted(places) == list(range(min(n, 7)))


def test_a_batch_that_processes_can_not_share_is_refused() -> None:
    pairs, _ = make(texts(10))
    for size, of in ((7, 2), (6, 4), (2, 2)):
        with pytest.raises(UsageError, match=rf"A batch of {size} pairs can not be shared by {of} processes"):
            TrainingBatches(pairs, 0, size, share=Share(0, of))


def test_equal_reports_share_a_text_id() -> None:
    pairs, _ = make(["lungs are clear", "lungs are clear now", "lungs are clear.", "heart is clear"])
    ids = pairs.text_ids(np.arange(4)).tolist()
    assert ids[0] == ids[2]
    assert len(set(ids)) == 3


def test_chunks_of_reports_are_padded_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    reports = ["one two three four five six", "one two three", "one two three four", "one two three"]
    whole, _ = make(reports)
    monkeypatch.setattr(module, "_TOKENIZE_CHUNK", 2)
    cut, _ = make(reports)
    every = np.arange(4)
    for a, b in zip(whole._text, cut._text, strict=True):
        assert a.shape == b.shape == (4, 6)
    a, b = (p.batch(every, np.zeros((4, 2), np.int64), 0, 0, pin=False).text for p in (whole, cut))
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.word, b.word)
    assert torch.equal(a.sentence, b.sentence)
    assert torch.equal(a.ids[a.mask], b.ids[a.mask])


def test_vectors_of_reports_come_with_their_pairs() -> None:
    rows = [9, 2, 4, 7, 0, 5]
    vectors = torch.tensor(sorted(rows))[:, None].float()
    pairs, _ = make(texts(11), rows=rows, vectors=vectors)
    for batch in (*TrainingBatches(pairs, seed=1, batch_size=2), *ValidationBatches(pairs, batch_size=4)):
        assert batch.report_vectors is not None
        assert batch.report_vectors[:, 0].tolist() == rows_of(batch)
        moved = batch.to(torch.device("cpu")).report_vectors
        assert moved is not None
        assert torch.equal(moved, batch.report_vectors)
    without, _ = make(texts(11))
    assert next(iter(TrainingBatches(without, seed=1, batch_size=2))).report_vectors is None


def test_films_are_read_from_a_memory_map(tmp_path: Path) -> None:
    np.save(tmp_path / "films.npy", np.arange(5 * SIDE * SIDE).reshape(5, SIDE, SIDE).astype(np.uint8))
    films = np.load(tmp_path / "films.npy", mmap_mode="r")
    table = pd.DataFrame({"report": texts(5)})
    model: Any = Model()
    pairs = Pairs(
        read_reports(Index("toy", tmp_path, "phantom", table), np.arange(5)),
        PreparedImages(films, np.full((5, 2), SIDE), ""),
        model,
    )
    batch = pairs.batch(np.array([1, 3]), np.zeros((2, 2), np.int64), 0, 0, pin=False)
    assert torch.equal(batch.images, torch.from_numpy(np.array(films[[1, 3]])))
    batch.images.zero_()  # a copy: the file is read-only
    assert films[1].any()


@pytest.mark.gpu
def test_pinned_batches_arrive_whole_on_the_gpu() -> None:
    pairs, films = make(texts(8))
    batches = TrainingBatches(pairs, seed=0, batch_size=4, pin=True)
    for batch in batches:
        assert batch.images.is_pinned()
        assert batch.text.ids.is_pinned()
        there = batch.to(torch.device("cuda", 0))
        assert torch.equal(there.images.cpu(), torch.from_numpy(films[rows_of(batch)]))
        assert torch.equal(there.films(SIZE).cpu(), batch.films(SIZE))


@pytest.mark.parametrize("scale", [1, 2])
def test_films_and_crops_are_as_large_as_asked(scale: int) -> None:
    pairs, films = make(texts(6), scale=scale)
    assert (pairs.side, pairs.size) == (scale * SIDE, scale * SIZE)
    batch = TrainingBatches(pairs, seed=0, batch_size=6).batch(0, 0)
    for row, (top, left), crop in zip(range(6), batch.corners.tolist(), batch.films(pairs.size), strict=True):
        wanted = films[row, top : top + scale * SIZE, left : left + scale * SIZE]
        np.testing.assert_array_equal(crop.numpy(), wanted)
