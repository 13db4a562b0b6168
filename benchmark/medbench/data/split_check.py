"""What a dataset's splits come out as, held against what is known of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medbench.data.dataset import Dataset
from medbench.data.index import Index
from medbench.data.splits import PAIRS, PARTS, Split, SplitUnavailable, ids_sha256
from medbench.errors import DataError
from medbench.files import write_atomic


@dataclass(frozen=True)
class SplitCheck:
    """One split of an index.

    Attributes:
        name: of the split.
        source: where it comes from.
        samples: of each part.
        patients: of each part.
        sha256: over the ids; "" where the split can not be made.
        published: "yes" if sizes and hash are the published ones, "sizes" if only sizes are known and equal, "no" if
            they differ, "n/a" for a subset, a phantom, or where nothing is published.
        leak: why scores on it are too good, as declared.
        wrong: what is not as declared; "" if nothing is.
    """

    name: str
    source: str
    samples: Mapping[str, int]
    patients: Mapping[str, int]
    sha256: str
    published: str
    leak: str
    wrong: str


def check_splits(dataset: Dataset, index: Index) -> list[SplitCheck]:
    """Every split of a dataset, in its order."""
    return [_check(dataset, index, name) for name in dataset.splits]


def _check(dataset: Dataset, index: Index, name: str) -> SplitCheck:
    spec = dataset.splits[name]
    try:
        split = dataset.split(index, name)
    except SplitUnavailable as error:  # nothing is wrong with the folder
        return SplitCheck(name, f"{spec.source} (not here: {error})", {}, {}, "", "n/a", spec.leak, "")
    except DataError as error:
        return SplitCheck(name, spec.source, {}, {}, "", "n/a", spec.leak, str(error))
    everyone = index.table["patient"].to_numpy()
    rows = {part: getattr(split, part) for part in PARTS}
    patients = {part: set(everyone[own]) for part, own in rows.items()}
    digest = split.sha256(index)
    wrong = []
    for one, two in PAIRS:
        both = patients[one] & patients[two]
        if both and (one, two) not in spec.shared:
            wrong.append(f"{len(both):,} patients are in both {one} and {two} (first: {min(both)})")
    sizes = tuple(len(own) for own in rows.values())
    whole = index.source == "real" and index.official_size is not None and index.subset is None
    published = "n/a"
    if whole and spec.sizes is not None:
        samples = index.table["sample"].to_numpy()
        hashes = [(digest, spec.sha256)] if spec.sha256 else []
        hashes += [(ids_sha256(samples[rows[part]]), known) for part, known in spec.parts.items()]
        other = [(found, known) for found, known in hashes if found != known]
        same = sizes == spec.sizes and not other
        published = ("yes" if hashes else "sizes") if same else "no"
        if not same:
            expected = " / ".join(f"{size:,}" for size in spec.sizes)
            found = " / ".join(f"{size:,}" for size in sizes)
            wrong.append(
                f"found {found} samples, published are {expected}"
                if sizes != spec.sizes
                else f"the ids have the hash {other[0][0][:12]}, published is {other[0][1][:12]}"
            )
    return SplitCheck(
        name,
        spec.source,
        {part: len(own) for part, own in rows.items()},
        {part: len(own) for part, own in patients.items()},
        digest,
        published,
        split.leak,
        "; ".join(wrong),
    )


def rows(checks: Iterable[SplitCheck]) -> list[dict[str, str]]:
    """Rows for a table."""
    return [
        {
            "split": check.name,
            **{part: f"{check.samples.get(part, 0):,}" for part in PARTS},
            "patients": " / ".join(f"{check.patients.get(part, 0):,}" for part in PARTS),
            "hash": check.sha256[:12] or "-",
            "as published": check.published,
            "leaks": check.leak or "no",
            "wrong": check.wrong or "-",
            "source": check.source,
        }
        for check in checks
    ]


def write_lists(index: Index, split: Split, folder: Path) -> None:
    """Write a split as lists of sample ids, in the form that `--split lists:FOLDER` reads."""
    samples = index.table["sample"].to_numpy(object)
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        rows = getattr(split, part)
        if len(rows):
            write_atomic(folder / f"{part}.txt", ("\n".join(np.sort(samples[rows])) + "\n").encode())
