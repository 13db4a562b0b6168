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
from medbench.data.splits import PARTS, Rows, Split, parts_sha256
from medbench.errors import DataError

PREFIX = "lists:"
"""Before the folder, where a split is named."""

_FRACTION = re.compile(r"train_(\d+)\.txt")


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
    it is a subset or samples were excluded from it.

    Raises:
        DataError: there is no list of training samples, or no id of it is in the index.
    """
    paths = {part: folder / f"{part}.txt" for part in PARTS}
    if not paths["train"].is_file():
        raise DataError(
            f"--split {PREFIX}{folder}: looked for {paths['train']}, found none. Expected train.txt, val.txt and"
            f" test.txt with an id a line."
        )
    known = _names(index)
    patients = index.table["patient"].to_numpy()
    fatal: list[str] = []
    faults: list[str] = []
    absent: list[str] = []
    rows: dict[str, Rows] = {}
    lists = {part: _ids(path) for part, path in paths.items() if path.is_file()}
    fractions = {
        int(found[1]) / 100: _ids(path)
        for path in sorted(folder.iterdir())
        if (found := _FRACTION.fullmatch(path.name))
    }
    named = {f"{part}.txt": ids for part, ids in lists.items()} | {
        f"train_{round(100 * share)}.txt": ids for share, ids in fractions.items()
    }
    for name, ids in named.items():
        twice = [one for one, count in Counter(ids).items() if count > 1]
        if twice:
            faults.append(f"{name}: {len(ids) - len(set(ids)):,} duplicate lines (first: {twice[0]})")
        unknown = [one for one in dict.fromkeys(ids) if one not in known]
        if unknown:
            told = f"{name}: {len(unknown):,} of {len(set(ids)):,} ids are not in {index.dataset} (first: {unknown[0]})"
            if index.subset is not None or index.excluded:
                faults.append(told)
                absent.append(told)
            else:
                fatal.append(told)
    for part in PARTS:
        rows[part] = _rows(lists.get(part, []), known)
    if not len(rows["train"]):
        raise DataError(
            f"--split {PREFIX}{folder}: none of the {len(lists['train']):,} ids of train.txt is in {index.dataset} in"
            f" {index.root} (first: {lists['train'][0] if lists['train'] else 'the file is empty'}). Are they lists of"
            f" this dataset?"
        )
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        samples = np.intersect1d(rows[one], rows[other])
        both = set(patients[rows[one]]) & set(patients[rows[other]])
        if len(samples):
            fatal.append(f"{len(samples):,} samples are in both {one}.txt and {other}.txt")
        elif both:
            faults.append(
                f"{len(both):,} patients have films in both {one}.txt and {other}.txt (first: {min(both)})"
            )
    shares = {share: _rows(ids, known) for share, ids in fractions.items()}
    nested = [*sorted(shares.items()), (1.0, rows["train"])]
    for (small, inner), (large, outer) in pairwise(nested):
        outside = len(np.setdiff1d(inner, outer))
        if outside:
            told = f"train_{round(100 * small)}.txt: {outside:,} of {len(inner):,} samples are not in"
            faults.append(f"{told} {'train.txt' if large == 1 else f'train_{round(100 * large)}.txt'}")
    samples = index.table["sample"].to_numpy()
    digest = parts_sha256({part: samples[rows[part]] for part in PARTS})
    leak = "; ".join(fault for fault in faults if "patients" in fault)
    split = Split(f"{PREFIX}{folder.name}@{digest[:12]}", **rows, leak=leak, fractions=shares)
    return ListedSplit(split, (*fatal, *faults), len(fatal), tuple(absent))


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


def _rows(ids: Iterable[str], known: dict[str, int]) -> Rows:
    return np.unique(np.array([known[one] for one in ids if one in known], np.int64))
