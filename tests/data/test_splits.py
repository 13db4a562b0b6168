"""Splits and label fractions: MGCA's counts, patients in one part only, nested lists, no chance involved."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from medbench.data.index import Index
from medbench.data.splits import (
    FractionList,
    Split,
    fraction_rows,
    hashed_share,
    rows_of,
    three_way,
)
from medbench.errors import DataError


def an_index(patients: list[str]) -> Index:
    """An index with these patients, a sample a row."""
    seen: dict[str, int] = {}
    samples = []
    for patient in patients:
        seen[patient] = seen.get(patient, 0) + 1
        samples.append(f"{patient}/{seen[patient]}")
    return Index("tests", Path("/nowhere"), "real", pd.DataFrame({"sample": samples, "patient": patients}))


def all_train(index: Index) -> Split:
    nothing = np.zeros(0, np.int64)
    return Split("all", np.arange(len(index)), nothing, nothing)


def ids(index: Index, rows: npt.NDArray[np.int64]) -> set[str]:
    return set(index.table["sample"].to_numpy()[rows])


RELEASE = [f"{number:08x}" for number in range(26_684)]


@pytest.mark.parametrize(
    ("held_out", "counts"), [(10_674, (16_010, 5_337, 5_337)), (0.3, (18_678, 4_003, 4_003))]
)
def test_counts_of_the_full_release(held_out: float, counts: tuple[int, int, int]) -> None:
    split = three_way(an_index(RELEASE), "s", held_out)
    assert (len(split.train), len(split.val), len(split.test)) == counts
    assert len(set(split.train) | set(split.val) | set(split.test)) == 26_684


def test_it_is_sklearns_division_of_the_sorted_patients() -> None:
    index = an_index([f"p{n}" for n in np.random.default_rng(0).permutation(101)])
    frame = pd.DataFrame({"patient": sorted(index.table["patient"])})
    train, rest = train_test_split(frame, test_size=40, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    split = three_way(index, "s", 40)
    for rows, part in ((split.train, train), (split.val, val), (split.test, test)):
        assert set(index.table["patient"].to_numpy()[rows]) == set(part["patient"])
        assert (np.diff(rows) > 0).all()


def test_the_division_is_the_same_on_every_machine() -> None:
    index = an_index(RELEASE)
    # It comes from numpy's legacy generator through sklearn; should either change, published splits are lost.
    assert three_way(index, "s", 10_674).sha256(index) == (
        "dec1c01cb01ecf9797477799c0bd2a734a747c3e48e92d9aef778108d1168c55"
    )


def test_leaving_a_sample_out_moves_nobody() -> None:
    patients = [f"p{n:03d}" for n in range(200)]
    whole = an_index(patients)
    keep = np.ones(200, np.bool_)
    keep[[3, 77]] = False
    rest = whole.select(keep)
    before, after = (three_way(index, "s", 0.4, patients) for index in (whole, rest))
    gone = {"p003/1", "p077/1"}
    for part in ("train", "val", "test"):
        assert ids(rest, getattr(after, part)) == ids(whole, getattr(before, part)) - gone


def test_too_few_patients() -> None:
    with pytest.raises(DataError, match=r"1 patients in /nowhere are too few for the split s"):
        three_way(an_index(["a"]), "s", 0.3)


def test_sha256_says_which_samples_are_where() -> None:
    index = an_index(["b", "a", "c", "d"])
    other = Index("tests", index.root, "real", index.table.sort_values("sample", ignore_index=True))
    split = three_way(index, "s", 2)
    assert split.sha256(index) == three_way(other, "s", 2).sha256(other)
    swapped = Split("s", split.train, split.test, split.val)
    assert swapped.sha256(index) != split.sha256(index)


# Label fractions

some_patients = st.lists(st.integers(0, 300).map("p{}".format), min_size=1, max_size=150)
fractions = st.sampled_from([0.01, 0.05, 0.1, 0.29, 0.5, 0.99, 1.0])


def a_list(index: Index, fraction: float, number: int) -> FractionList:
    return fraction_rows(index, all_train(index), fraction, number, np.ones(len(index), np.bool_))


@given(patients=some_patients, one=fractions, other=fractions, number=st.integers(0, 5))
def test_lists_are_nested(patients: list[str], one: float, other: float, number: int) -> None:
    index = an_index(patients)
    small, large = (set(a_list(index, f, number).rows) for f in sorted((one, other)))
    assert small <= large


@given(patients=some_patients, fraction=fractions, number=st.integers(0, 5))
def test_whole_patients_are_drawn(patients: list[str], fraction: float, number: int) -> None:
    index = an_index(patients)
    drawn = a_list(index, fraction, number)
    names = index.table["patient"].to_numpy()
    inside = set(names[drawn.rows])
    assert drawn.rows.tolist() == [row for row, name in enumerate(names) if name in inside]
    assert len(inside) == drawn.patients == max(1, int(round(fraction * 100) * len(set(patients)) // 100))


@given(patients=some_patients, fraction=fractions, number=st.integers(0, 5), order=st.randoms())
def test_the_order_of_rows_does_not_matter(
    patients: list[str], fraction: float, number: int, order: object
) -> None:
    index = an_index(patients)
    rows = np.random.default_rng(len(patients)).permutation(len(index))
    shuffled = Index("tests", index.root, "real", index.table.iloc[rows].reset_index(drop=True))
    one, other = a_list(index, fraction, number), a_list(shuffled, fraction, number)
    assert one.sha256 == other.sha256
    assert ids(index, one.rows) == ids(shuffled, other.rows)


def test_lists_differ_and_are_stable() -> None:
    index = an_index([f"p{n}" for n in range(500)])
    lists = [a_list(index, 0.1, number) for number in range(3)]
    assert len({drawn.sha256 for drawn in lists}) == 3
    # A change of this hash would make every record's label fractions others than those of records before.
    assert lists[0].sha256 == "1088ad95d95db1b1ba23f8a02c1c5b7e32df4ea1bd28bc9191d3e13d177ac09a"


def test_only_patients_of_the_training_part_matter() -> None:
    index = an_index([f"p{n}" for n in range(300)])
    split = three_way(index, "s", 100)
    alone = index.select(np.isin(np.arange(300), split.train))
    positives = np.ones(300, np.bool_)
    assert fraction_rows(index, split, 0.1, 1, positives).sha256 == a_list(alone, 0.1, 1).sha256


def test_sizes_round_down_as_published_lists_do() -> None:
    index = an_index(RELEASE[:18_678])
    assert a_list(index, 0.01, 0).patients == 186
    assert a_list(index, 0.1, 0).patients == 1_867
    assert len(hashed_share([str(n) for n in range(100)], 0.29, "s")) == 29


def test_too_small_says_why() -> None:
    index = an_index([f"p{n}" for n in range(100)])
    assert a_list(index, 0.1, 0).too_small is None
    few = a_list(index, 0.07, 0).too_small
    assert few == "7% of 100 training patients is 7; a label fraction must hold at least 8"
    nobody = fraction_rows(index, all_train(index), 0.5, 0, np.zeros(100, np.bool_))
    assert nobody.too_small == "none of the 50 samples at 50% is positive"


def test_an_empty_training_part() -> None:
    index = an_index(["a"])
    nothing = np.zeros(0, np.int64)
    drawn = fraction_rows(index, Split("s", nothing, nothing, nothing), 1.0, 0, np.ones(1, np.bool_))
    assert (len(drawn.rows), drawn.patients) == (0, 0)
    assert drawn.too_small is not None


def test_rows_of_finds_every_sample_of_a_patient() -> None:
    index = an_index(["b", "a", "b", "c"])
    assert rows_of(index, ["b", "nobody"]).tolist() == [0, 2]
