"""Splits held against what is published of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from medbench.data.dataset import Dataset
from medbench.data.index import Index
from medbench.data.split_check import check_splits
from medbench.data.splits import Split, SplitSpec, ids_sha256, parts_sha256, three_way
from medbench.specs import DatasetSpec

SPEC = DatasetSpec(name="halves", target="", summary="", reference="", official_size=4)
WHOLE = parts_sha256({"train": ["s0", "s1"], "val": [], "test": ["s2", "s3"]})
TRAIN = ids_sha256(["s0", "s1"])


class Halves(Dataset):
    splits: ClassVar[Mapping[str, SplitSpec]] = {"half": SplitSpec("a test")}

    def index(self, *, exclude_broken: bool = False) -> Index:
        names = [f"s{number}" for number in range(4)]
        columns = {"sample": names, "patient": names, "image": names, "bytes": [1] * 4}
        return Index.of(self.spec, self.root, columns)

    def divide(self, index: Index, name: str) -> Split:
        return Split(name, np.arange(2), np.zeros(0, np.int64), np.arange(2, 4))


@pytest.mark.parametrize(
    ("known", "published", "wrong"),
    [
        (SplitSpec("a test"), "n/a", ""),
        (SplitSpec("a test", (2, 0, 2)), "sizes", ""),
        (SplitSpec("a test", (2, 0, 2), WHOLE), "yes", ""),
        (SplitSpec("a test", (2, 0, 2), parts={"train": TRAIN}), "yes", ""),
        (SplitSpec("a test", (1, 1, 2)), "no", "found 2 / 0 / 2 samples, published are 1 / 1 / 2"),
        (
            SplitSpec("a test", (2, 0, 2), "abc"),
            "no",
            f"the ids have the hash {WHOLE[:12]}, published is abc",
        ),
        (
            SplitSpec("a test", (2, 0, 2), WHOLE, parts={"train": "abc"}),
            "no",
            f"the ids have the hash {TRAIN[:12]}, published is abc",
        ),
    ],
)
def test_a_split_is_held_against_sizes_and_hashes(
    known: SplitSpec, published: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Halves, "splits", {"half": known})
    dataset = Halves(SPEC, Path("/nowhere"))
    (check,) = check_splits(dataset, dataset.index())
    assert (check.published, check.wrong) == (published, wrong)


def test_a_leak_excuses_the_parts_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SplitSpec("a test", leak="validation is in training", shared=(("train", "val"),))
    monkeypatch.setattr(Halves, "splits", {"half": known})
    dataset = Halves(SPEC, Path("/nowhere"))
    for held_out, wrong in (("val", ""), ("test", "2 patients are in both train and test (first: s0)")):
        rows = {"val": np.zeros(0, np.int64), "test": np.zeros(0, np.int64), held_out: np.arange(2)}
        monkeypatch.setattr(
            Halves, "divide", lambda self, index, name, rows=rows: Split(name, np.arange(2), **rows)
        )
        (check,) = check_splits(dataset, dataset.index())
        assert (check.wrong, check.leak) == (wrong, "validation is in training")


def test_too_few_patients_are_nothing_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Halves, "divide", lambda self, index, name: three_way(index, name, 0.5, ["s0", "s1"]))
    dataset = Halves(SPEC, Path("/nowhere"))
    (check,) = check_splits(dataset, dataset.index())
    assert (check.sha256, check.published, check.wrong) == ("", "n/a", "")
    assert "2 patients in /nowhere are too few for the split half" in check.source
