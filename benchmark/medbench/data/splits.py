"""Who trains, who validates, who tests, and with how few labels. By patient; the same every time."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.index import Index
from medbench.errors import DataError

MIN_PATIENTS = 8
"""A label fraction with fewer patients is not trained: its score would say which patients were drawn, and no
more."""

PARTS = ("train", "val", "test")

PAIRS = tuple(combinations(PARTS, 2))
"""("train", "val"), ("train", "test"), ("val", "test")."""

Rows = npt.NDArray[np.int64]


class SplitUnavailable(DataError):
    """This folder does not hold what the split is made of: a table is another layout's, or there are too few patients.

    Nothing is wrong with the folder. The message says what is missing.
    """


@dataclass(frozen=True)
class SplitSpec:
    """What is known of a split of the whole official release.

    Attributes:
        source: where it comes from: paper, code file, list.
        sizes: samples for training, validation and test, where they are published; None where they are not.
        sha256: `Split.sha256` of the whole release; "" where nobody has worked it out yet.
        leak: why scores on it are too good or too hard to compare; "" for a split whose parts share no patient.
        shared: which two parts share patients, as far as `leak` tells of it.
        parts: `ids_sha256` of single parts, where not all of them are known.
    """

    source: str
    sizes: tuple[int, int, int] | None = None
    sha256: str = ""
    leak: str = ""
    shared: tuple[tuple[str, str], ...] = ()
    parts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Rows of an index for training, validation and test.

    Attributes:
        name: of the split ("mgca_det").
        train, val, test: sorted row positions; a part that a split does not have is empty.
        leak: as in `SplitSpec`; goes into every record.
        fractions: training rows of label fractions that come with the split, by fraction; others are drawn.
    """

    name: str
    train: Rows
    val: Rows
    test: Rows
    leak: str = field(default="", kw_only=True)
    fractions: Mapping[float, Rows] = field(default_factory=dict, kw_only=True)

    def sha256(self, index: Index) -> str:
        """SHA-256 over the sample ids of the three parts; the same for any order of the index."""
        samples = index.table["sample"].to_numpy()
        return parts_sha256({part: samples[getattr(self, part)] for part in PARTS})


@dataclass(frozen=True)
class FractionList:
    """The training samples of one label fraction.

    Attributes:
        rows: sorted row positions in the index, all of them of the split's training part.
        sha256: over their sample ids; the same for any order of the index.
        patients: how many patients they belong to.
        too_small: why it is not worth training on, or None.
    """

    rows: Rows
    sha256: str
    patients: int
    too_small: str | None


def three_way(
    index: Index,
    name: str,
    held_out: int | float,
    ids: Iterable[str] | None = None,
    *,
    by: Literal["patient", "sample"] = "patient",
) -> Split:
    """Split as MGCA's released code does (mgca/preprocess/rsna.py).

    The ids, sorted (the code groups the label table by id, which sorts it), are divided by sklearn's
    `train_test_split` with random_state 0 and without stratification: first `held_out` of them from the
    training part, then those into halves, test and validation.

    Args:
        index: what to split.
        name: of the split.
        held_out: validation and test together: a number of ids, or a share as sklearn takes it (rounded up).
        ids: everyone that the division is made over, where samples were left out of the index; leaving a
            broken film out then moves nobody from one part to another. Default: those of the index.
        by: whose ids they are.

    Raises:
        SplitUnavailable: there are too few for three parts.
    """
    from sklearn.model_selection import train_test_split  # 2 s to import, and only some datasets need it

    everyone = np.array(sorted(set(index.table[by] if ids is None else ids)), dtype=object)
    try:
        train, rest = train_test_split(everyone, test_size=held_out, random_state=0)
        test, val = train_test_split(rest, test_size=0.5, random_state=0)
    except ValueError as error:
        raise SplitUnavailable(
            f"{index.dataset}: {len(everyone)} {by}s in {index.root} are too few for the split {name}, "
            f"which holds out {held_out} of them for validation and test ({error}). Use more of the dataset."
        ) from error
    return Split(name, *(rows_of(index, part, by) for part in (train, val, test)))


def hashed_share(patients: Iterable[str], share: float, salt: str) -> list[str]:
    """A share of the patients that depends on their ids and on `salt` only, at least one of them.

    Patients are put into the order of a hash, and the first ones are taken: a larger share holds every
    smaller one.

    Args:
        patients: ids, in any order, with or without repetition.
        share: in (0, 1]; the number of patients is rounded down.
        salt: another salt, another order.
    """
    ranked = sorted(set(patients), key=lambda p: hashlib.sha256(f"{salt}|{p}".encode()).digest())
    # 0.1 * 70 is 7.000000000000001 and 0.29 * 100 is 28.999999999999996: neither may cost or give a patient.
    return ranked[: max(1, int(share * len(ranked) + 1e-9))]


def fraction_rows(
    index: Index, split: Split, fraction: float, list_number: int, positives: npt.NDArray[np.bool_]
) -> FractionList:
    """The training rows at a label fraction.

    Whole patients are drawn, by the hash of `hashed_share`; so a list depends on `list_number` and on the
    patient ids of the training part only, and rows(1 %) are inside rows(10 %), and those inside the training
    part. List 0 is the split's own, where it comes with one.

    Args:
        index: the dataset.
        split: its split.
        fraction: share of the training patients in (0, 1], rounded down (as BenchX's lists: 186 of 18,678).
        list_number: which of the stored lists.
        positives: (N,) True for samples of the index that hold something to learn.
    """
    everyone = index.table["patient"].to_numpy()
    patients = everyone[split.train]
    if list_number == 0 and fraction in split.fractions:
        rows = split.fractions[fraction]
        drawn = set(everyone[rows])
    else:
        drawn = set(hashed_share(patients, fraction, f"fraction|{list_number}")) if len(patients) else set()
        rows = split.train[np.fromiter((p in drawn for p in patients), np.bool_, len(patients))]
    too_small = None
    if len(drawn) < MIN_PATIENTS:
        too_small = (
            f"{fraction:.0%} of {len(set(patients)):,} training patients is {len(drawn)}; a label fraction must hold "
            f"at least {MIN_PATIENTS}"
        )
    elif not positives[rows].any():
        too_small = f"none of the {len(rows):,} samples at {fraction:.0%} is positive"
    return FractionList(rows, ids_sha256(index.table["sample"].to_numpy()[rows]), len(drawn), too_small)


def untrained_rows() -> FractionList:
    """Those of a task that trains nothing: none, which is no reason to skip it."""
    return FractionList(np.zeros(0, np.int64), ids_sha256(()), 0, None)


def rows_of(index: Index, ids: Iterable[str], by: Literal["patient", "sample"] = "patient") -> Rows:
    """Sorted positions of the samples of these patients, or of these samples."""
    return np.flatnonzero(index.table[by].isin(pd.Series(list(ids), dtype=object))).astype(np.int64)


def split_of(index: Index, name: str, train: Iterable[str], val: Iterable[str], test: Iterable[str]) -> Split:
    """The split whose parts are these samples; ids that the index does not have are left out."""
    samples = index.table["sample"]
    return Split(
        name,
        *(np.flatnonzero(samples.isin(set(part))).astype(np.int64) for part in (train, val, test)),
    )


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 over sample ids; the same for any order of them."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def parts_sha256(parts: Mapping[str, Iterable[str]]) -> str:
    """SHA-256 over the sample ids of the three parts of a split."""
    lines = "".join(f"{part}:{ids_sha256(parts[part])}\n" for part in PARTS)
    return hashlib.sha256(lines.encode()).hexdigest()


def hashed_three_way(index: Index, name: str, val: float, test: float) -> Split:
    """Patients divided by a hash of their ids and of the name: for a dataset without a published split.

    Adding patients moves nobody who is far from a border; two folders with the same patients divide the same way.

    Args:
        index: what to split.
        name: of the split; another name, another division.
        val: share of the patients that validate, rounded down, at least one.
        test: share of the patients that test, likewise.

    Raises:
        SplitUnavailable: there are too few patients for three parts.
    """
    everyone = sorted(set(index.table["patient"]))
    if len(everyone) < 3:
        raise SplitUnavailable(
            f"{index.dataset}: {len(everyone)} patients in {index.root} are too few for the three parts of {name}."
        )
    ranked = hashed_share(everyone, 1.0, name)
    tested = len(hashed_share(everyone, test, name))
    held_out = tested + len(hashed_share(everyone, val, name))
    return Split(
        name,
        rows_of(index, ranked[held_out:]),
        rows_of(index, ranked[tested:held_out]),
        rows_of(index, ranked[:tested]),
    )
