"""Splits from lists of ids, as published ones come: a text file a part, an id a line.

    train.txt  val.txt  test.txt          test.txt or val.txt may be missing
    train_1.txt  train_10.txt             label fractions, in percent, where there are some

The form of BenchX (github.com/yangzhou12/BenchX). An id is a sample's id, or the path or name of its image, with or
without the ending.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from medbench.data.index import Index
from medbench.data.splits import PAIRS, PARTS, Rows, Split, parts_sha256
from medbench.errors import DataError, UsageError

PREFIX = "lists:"
"""Before the folder, where a split is named."""

_FRACTION = re.compile(r"train_(\d+)")


@dataclass(frozen=True)
class ListedSplit:
    """Lists held against an index.

    Attributes:
        split: rows of the samples that are in the index.
        problems: what is wrong with the lists, in words; a run stops at those in `fatal`.
        fatal: how many of the first problems make the split worthless.
        absent: those of the problems that say only that the index is a subset: ids that it does not have.
    """

    split: Split
    problems: tuple[str, ...]
    fatal: int
    absent: tuple[str, ...] = ()


def read_lists(index: Index, folder: Path) -> ListedSplit:
    """The split that a folder of lists makes of an index.

    Ids that are listed twice in one part count once. Ids that the index does not have are left out, which is told, if
    it is a subset or samples were excluded from it; what is wrong with the lists themselves is told of them, too.

    Raises:
        DataError: there is no list of training samples.
    """
    lists = find_lists(folder)
    known = _names(index)
    # What an id stands for: a row of the index, or itself, where the index does not have it.
    meant = {name: {known.get(one, one): one for one in ids} for name, ids in lists.items()}
    partial = index.subset is not None or bool(index.excluded)
    fatal: list[str] = []
    faults: list[str] = []
    absent: list[str] = []
    for name, ids in lists.items():
        counts = Counter(ids)
        twice = [one for one, count in counts.items() if count > 1]
        if twice:
            faults.append(f"{name}.txt: {len(ids) - len(counts):,} duplicate lines (first: {twice[0]})")
        unknown = [one for one in counts if one not in known]
        if name == "train" and len(unknown) == len(counts):
            first = unknown[0] if unknown else "the file is empty"
            fatal.append(
                f"none of the {len(ids):,} ids of train.txt is in {index.dataset} in {index.root} (first: {first}). "
                "Are they lists of this dataset?"
            )
        elif unknown:
            told = f"{name}.txt: {len(unknown):,} of {len(counts):,} ids are not in {index.dataset}"
            told += f" (first: {unknown[0]})"
            (faults if partial else fatal).append(told)
            if partial:
                absent.append(told)
    patients = index.table["patient"].to_numpy()
    rows = {name: _rows(keys) for name, keys in meant.items()}
    nobody = np.zeros(0, np.int64)
    leaks = []
    for one, other in PAIRS:
        if samples := meant.get(one, {}).keys() & meant.get(other, {}).keys():
            fatal.append(f"{len(samples):,} samples are in both {one}.txt and {other}.txt")
        elif both := set(patients[rows.get(one, nobody)]) & set(patients[rows.get(other, nobody)]):
            leaks.append(
                f"{len(both):,} patients have films in both {one}.txt and {other}.txt (first: {min(both)})"
            )
    fractions = sorted((int(found[1]), name) for name in lists if (found := _FRACTION.fullmatch(name)))
    for _, name in fractions:
        if outside := meant[name].keys() - meant["train"].keys():
            fatal.append(f"{name}.txt: {len(outside):,} of {len(meant[name]):,} samples are not in train.txt")
    for (_, small), (_, large) in pairwise(fractions):
        if outside := meant[small].keys() - meant[large].keys():
            faults.append(
                f"{small}.txt: {len(outside):,} of {len(meant[small]):,} samples are not in {large}.txt"
            )
    parts = {part: rows.get(part, nobody) for part in PARTS}
    samples_of = index.table["sample"].to_numpy()
    digest = parts_sha256({part: samples_of[own] for part, own in parts.items()})
    split = Split(
        f"{PREFIX}{folder.name}@{digest[:12]}",
        **parts,
        leak="; ".join(leaks),
        fractions={percent / 100: rows[name] for percent, name in fractions},
    )
    return ListedSplit(split, (*fatal, *faults, *leaks), len(fatal), tuple(absent))


def folder_of(split: str) -> Path:
    """The folder of `lists:FOLDER`.

    Raises:
        UsageError: it names none.
    """
    named = split.removeprefix(PREFIX)
    if not named:
        raise UsageError(f"--split {split}: which folder? Expected {PREFIX}DIR.")
    return Path(named).expanduser()


def find_lists(folder: Path) -> dict[str, list[str]]:
    """The ids of each list of a folder, by its name without the ending ("train", "train_10").

    Raises:
        DataError: there is no list of training samples.
    """
    if not (folder / "train.txt").is_file():
        raise DataError(
            f"--split {PREFIX}{folder}: looked for {folder / 'train.txt'}, found none. Expected train.txt, val.txt and"
            f" test.txt with an id a line."
        )
    names = [
        *PARTS,
        *sorted(path.stem for path in folder.glob("train_*.txt") if _FRACTION.fullmatch(path.stem)),
    ]
    return {name: _ids(folder / f"{name}.txt") for name in names if (folder / f"{name}.txt").is_file()}


def _ids(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _names(index: Index) -> dict[str, int]:
    """Row of a sample by everything that a list may call it; what could mean two samples means none."""
    names: dict[str, int] = {}
    for form in (_id, _path, _tail, _stem):  # the surest first
        found: dict[str, int] = {}
        for row, (sample, image) in enumerate(zip(index.table["sample"], index.table["image"], strict=True)):
            name = form(str(sample), str(image))
            found[name] = row if name not in found else -1
        names |= {name: row for name, row in found.items() if row >= 0 and name not in names}
    return names


def _id(sample: str, image: str) -> str:
    return sample


def _path(sample: str, image: str) -> str:
    return image


def _tail(sample: str, image: str) -> str:
    return PurePosixPath(image).name


def _stem(sample: str, image: str) -> str:
    return PurePosixPath(image).stem


def _rows(meant: Iterable[int | str]) -> Rows:
    return np.unique(np.array([one for one in meant if isinstance(one, int)], np.int64))
