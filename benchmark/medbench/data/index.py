"""The index: one row a sample, the same columns for every dataset."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.specs import DatasetSpec

Source = Literal["phantom", "real"]

_SILENT: Final = {"box_labels", "regions", "sex", "age"}
"""Columns that count for nothing in a fingerprint where no row of them says anything."""


def source_of(folder: Path) -> Source:
    """`phantom` if the folder says so of itself."""
    return "phantom" if (folder / "PHANTOM.json").is_file() else "real"


def _column(values: Any) -> Any:
    """Arrays and tuples in cells stay what they are."""
    if not isinstance(values, list):
        return values
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column


@dataclass(frozen=True)
class Problem:
    """Something wrong with one sample: which, in which file, and what."""

    sample: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


@dataclass(frozen=True)
class Index:
    """All samples of a dataset folder, in the order of its own table.

    Attributes:
        dataset: name of the dataset.
        root: folder that `image` paths are relative to.
        source: `phantom` if the folder says so of itself, else `real`.
        table: one row a sample, a fresh RangeIndex, with the columns
            sample (str, unique), patient (str), study (str), split (str; the official split of the row, "" if none),
            view (str), sex (str: "F", "M", "" where not known), age (float64: years, NaN where not known),
            image (str, path below root), bytes (int64, size of the image file),
            boxes (object: (N, 4) float64 array, x y width height in pixels of the file, top left origin, N >= 0;
            None where the sample was not annotated),
            box_labels (object: N names, one a box; None where the boxes have no names, or there are none),
            regions (object: tuple of `medbench.data.regions.Region`, which are outlines with a label; None where the
            sample was not annotated),
            report (str: the text a method reads, "" where there is none),
            and `label_<name>` (float64: 1, 0, or NaN where not known) for each of `labels`.
        labels: names of the label columns, without the prefix.
        official_size: images of the official release, None where there is none.
        excluded: samples left out on the user's word (`--exclude-broken`), with the reason.
    """

    dataset: str
    root: Path
    source: Source
    table: pd.DataFrame
    labels: tuple[str, ...] = ()
    official_size: int | None = None
    excluded: tuple[Problem, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(
        cls,
        spec: DatasetSpec,
        root: Path,
        columns: Mapping[str, Any],
        *,
        labels: Mapping[str, Any] | None = None,
        official_size: int | None = None,
    ) -> Self:
        """An index from those columns that a dataset has.

        Args:
            spec: of the dataset.
            root: its folder.
            columns: at least `sample`, `patient`, `image` and `bytes`. Without `study` a patient is one; the others
                are empty where they are not given.
            labels: (N,) values by name.
            official_size: images of the official release, where it is not the spec's.
        """
        n = len(columns["sample"])
        nothing = np.full(n, None, object)
        filled: dict[str, Any] = {
            "sample": columns["sample"],
            "patient": columns["patient"],
            "study": columns.get("study", columns["patient"]),
            **{name: columns.get(name, np.full(n, "", object)) for name in ("split", "view", "sex")},
            "age": np.asarray(columns.get("age", np.full(n, np.nan)), np.float64),
            "image": columns["image"],
            "bytes": np.asarray(columns["bytes"], np.int64),
            **{name: columns.get(name, nothing) for name in ("boxes", "box_labels", "regions")},
            "report": columns.get("report", np.full(n, "", object)),
        }
        unknown = columns.keys() - filled.keys()
        if unknown:
            raise ValueError(f"an index has no columns {', '.join(sorted(unknown))}")
        table = pd.DataFrame({name: _column(values) for name, values in filled.items()})
        for name, values in (labels or {}).items():
            table[f"label_{name}"] = np.asarray(values, np.float64)
        size = spec.official_size if official_size is None else official_size
        return cls(spec.name, root, source_of(root), table, tuple(labels or ()), size)

    @property
    def subset(self) -> str | None:
        """`"202 of 26,684"` for a folder smaller than the official release, else None. Phantoms are never subsets."""
        if self.source == "phantom" or self.official_size is None or len(self) >= self.official_size:
            return None
        return f"{len(self):,} of {self.official_size:,}"

    def select(self, keep: npt.NDArray[np.bool_]) -> "Index":
        """The same index with the rows where `keep` (length N) is True."""
        return replace(self, table=self.table[keep].reset_index(drop=True))

    def knows(self, column: str) -> bool:
        """Whether the table has the column, and a value other than "", None or NaN in it."""
        return column in self.table and bool((self.table[column].notna() & (self.table[column] != "")).any())

    def fingerprint(self) -> str:
        """SHA-256 over everything in the table, so over files by path and size, labels, boxes and reports."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        # What says nothing counts for nothing, so that a new kind of column changes no dataset without any.
        silent = {name for name in _SILENT & set(self.table) if not self.knows(name)}
        columns = sorted(set(self.table.columns) - silent)
        digest.update(json.dumps([self.dataset, columns]).encode())
        for row in self.table[columns].itertuples(index=False):
            values = [v.tolist() if isinstance(v, np.ndarray) else v for v in row]
            digest.update(json.dumps(values, default=str).encode())
        return digest.hexdigest()
