"""Splits from lists of ids."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medbench.data.index import Index
from medbench.data.lists import folder_of, read_lists
from medbench.data.splits import fraction_rows
from medbench.errors import DataError, UsageError


def an_index(official: int | None = None) -> Index:
    samples = [f"s{row}" for row in range(20)]
    table = pd.DataFrame(
        {
            "sample": samples,
            "patient": [f"p{row // 2}" for row in range(20)],
            "image": [f"images/{'ab'[row % 2]}/{name}.png" for row, name in enumerate(samples)],
        }
    )
    return Index("tests", Path("/nowhere"), "real", table, official_size=official)


def write(folder: Path, **lists: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(ids) + "\n")
    return folder


def test_ids_are_samples_or_images_in_any_form(tmp_path: Path) -> None:
    lists = write(tmp_path / "mine", train=["s0", "images/b/s1.png"], val=["s2.png"], test=["s4", " "])
    found = read_lists(an_index(), lists)
    assert found.problems == ()
    assert [rows.tolist() for rows in (found.split.train, found.split.val, found.split.test)] == [
        [0, 1],
        [2],
        [4],
    ]
    assert found.split.name.startswith("lists:mine@")
    assert found.split.sha256(an_index())[:12] == found.split.name.partition("@")[2]
    (lists / "val.txt").unlink()
    assert not len(read_lists(an_index(), lists).split.val)


def test_faults_are_told(tmp_path: Path) -> None:
    ids = [f"s{row}" for row in range(12)]
    lists = write(
        tmp_path / "mine", train=[*ids[:9], "s0"], test=ids[9:], train_10=["s3", "s4"], train_1=["s5"]
    )
    found = read_lists(an_index(), lists)
    assert (found.problems, found.fatal) == (
        (
            "train.txt: 1 duplicate lines (first: s0)",
            "train_1.txt: 1 of 1 samples are not in train_10.txt",
            "1 patients have films in both train.txt and test.txt (first: p4)",
        ),
        0,
    )
    assert found.split.leak == "1 patients have films in both train.txt and test.txt (first: p4)"
    assert len(found.split.train) == 9


def test_the_lists_of_fractions_are_list_0(tmp_path: Path) -> None:
    index = an_index()
    ids = index.table["sample"].tolist()
    split = read_lists(index, write(tmp_path / "m", train=ids[:18], test=ids[18:], train_10=ids[4:6])).split
    everyone = np.ones(len(index), np.bool_)
    assert fraction_rows(index, split, 0.1, 0, everyone).rows.tolist() == [4, 5]
    assert fraction_rows(index, split, 0.1, 0, everyone).patients == 1
    assert len(fraction_rows(index, split, 0.5, 0, everyone).rows) == 8
    drawn = {tuple(fraction_rows(index, split, 0.1, number, everyone).rows) for number in range(1, 9)}
    assert len(drawn) > 1


def test_what_makes_a_split_worthless(tmp_path: Path) -> None:
    lists = write(tmp_path / "mine", train=["s0", "s1", "x7"], test=["s1"])
    found = read_lists(an_index(), lists)
    assert found.problems[: found.fatal] == (
        "train.txt: 1 of 3 ids are not in tests (first: x7)",
        "1 samples are in both train.txt and test.txt",
    )
    subset = read_lists(an_index(official=30), lists)  # it lacks some ids
    assert (subset.fatal, subset.absent) == (1, ("train.txt: 1 of 3 ids are not in tests (first: x7)",))
    with pytest.raises(
        DataError, match=r"looked for .*nothing/train.txt, found none. Expected train.txt, val.txt"
    ):
        read_lists(an_index(), tmp_path / "nothing")


def test_a_fraction_must_be_of_the_training_part(tmp_path: Path) -> None:
    lists = write(
        tmp_path / "mine", train=["s0", "s2"], test=["s4", "s6"], train_10=["s0", "images/a/s4.png"]
    )
    found = read_lists(an_index(), lists)
    assert found.problems[: found.fatal] == ("train_10.txt: 1 of 2 samples are not in train.txt",)


def test_lists_of_films_that_are_not_here_are_looked_at_all_the_same(tmp_path: Path) -> None:
    lists = write(tmp_path / "m", train=["x", "x", "y"], val=["y"], test=["z"], train_10=["y"], train_1=["x"])
    found = read_lists(an_index(official=30), lists)
    assert found.problems == (
        "none of the 3 ids of train.txt is in tests in /nowhere (first: x). Are they lists of this dataset?",
        "1 samples are in both train.txt and val.txt",
        "train.txt: 1 duplicate lines (first: x)",
        "val.txt: 1 of 1 ids are not in tests (first: y)",
        "test.txt: 1 of 1 ids are not in tests (first: z)",
        "train_1.txt: 1 of 1 ids are not in tests (first: x)",
        "train_10.txt: 1 of 1 ids are not in tests (first: y)",
        "train_1.txt: 1 of 1 samples are not in train_10.txt",
    )
    assert found.fatal == 2
    assert not len(found.split.train)
    with pytest.raises(UsageError, match="--split lists:: which folder"):
        folder_of("lists:")


def test_the_known_faults_of_published_lists(test_data: Path) -> None:
    folder = test_data / "split_lists" / "benchx"
    if not folder.is_dir():
        pytest.skip("the real data hold no split lists")
    for name, expected in {
        "COVIDx": {
            "train.txt: 317 duplicate lines",
            "val.txt: 34 duplicate lines",
            "train_10.txt: 12 duplicate lines",
        },
        "NIH_Chest_Xray": {"train_1.txt: 708 of 785 samples are not in train_10.txt"},
    }.items():
        ids = [
            line
            for part in ("train", "val", "test")
            for line in (folder / name / f"{part}.txt").read_text().split()
        ]
        table = pd.DataFrame({"sample": sorted(set(ids))}).assign(
            patient=lambda t: t["sample"], image=lambda t: t["sample"]
        )
        found = read_lists(Index(name, Path("/nowhere"), "real", table), folder / name)
        told = {problem.partition(" (first")[0] for problem in found.problems}
        assert expected <= told, told
