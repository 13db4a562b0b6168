"""MIMIC-CXR-JPG 2.0.0 or 2.1.0 with the reports of MIMIC-CXR: the corpus of published pretraining.

    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz     (also 2.1.0; also unpacked to .csv)
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    files/p10/p10000032/s50414267.txt      the reports: here, or below mimic-cxr-reports/ as they unpack

A. Johnson et al., Scientific Data 2019, doi:10.1038/s41597-019-0322-0. Made into pairs as MGCA's released
code does (mgca/preprocess/mimic_cxr.py): PA and AP films of studies whose report has an impression or
findings, and at least three words in them.
"""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.reports import caption, sections, sentences
from medbench.data.splits import Split, SplitSpec
from medbench.data.verify import (
    file_problem,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

VERSIONS = ("2.0.0", "2.1.0")
FRONTAL = ("PA", "AP")
OFFICIAL_IMAGES = 377_110
"""Rows of the metadata table of the full release, laterals among them."""

_IDS = ["dicom_id", "subject_id", "study_id"]


class MimicCxr(Dataset):
    """The release's own folder layout.

    Attributes:
        dropped: after `index`, how many rows of the metadata table are no pairs, by reason.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "official": SplitSpec(
            "mimic-cxr-2.0.0-split.csv; as in mgca/preprocess/mimic_cxr.py, validation is the released validate and"
            " test parts together",
            leak="the test part is inside the validation part: choose nothing on it that is then scored on test",
        )
    }
    dropped: dict[str, int]

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables and the reports; see `Dataset.index`. No image is opened.

        Labels are CheXpert's: 1 and 0 as given, NaN for uncertain (-1) and for not mentioned. There are none
        if the chexpert table is not there.
        """
        rows = self._table("metadata", [*_IDS, "ViewPosition"])
        complete = len(rows) >= OFFICIAL_IMAGES
        split = self._table("split", [*_IDS, "split"])
        problems = [
            Problem(str(r.dicom_id), _image(r), "row given twice in the metadata table")
            for r in rows[rows["dicom_id"].duplicated()].itertuples()
        ]
        rows = rows.drop_duplicates("dicom_id")
        frontal = rows["ViewPosition"].isin(FRONTAL)
        dropped = Counter({"not frontal (ViewPosition is neither PA nor AP)": int((~frontal).sum())})
        rows = rows[frontal].merge(
            split.drop_duplicates("dicom_id")[["dicom_id", "split"]], on="dicom_id", how="left"
        )
        texts, missing = self._reports(rows)
        keep = []
        for row in rows.itertuples():
            study = str(row.study_id)
            if study in missing:
                what = f"no report (looked for {missing[study]})"
                problems.append(Problem(str(row.dicom_id), _image(row), what))
                keep.append(True)
            else:
                keep.append(bool(texts[study]))
                dropped["report without findings and impression, or fewer than 3 words in them"] += not texts[
                    study
                ]
        rows = rows[np.array(keep, np.bool_)].reset_index(drop=True)
        self.dropped = {reason: count for reason, count in dropped.items() if count}
        labels = self._labels(rows)
        images = [_image(row) for row in rows.itertuples()]
        sizes = [_size(self.root / image) for image in images]
        # Nobody knows how many pairs a full release gives; it is complete by its metadata.
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": rows["dicom_id"],
                "patient": rows["subject_id"],
                "study": rows["study_id"],
                "split": rows["split"].fillna(""),
                "view": rows["ViewPosition"],
                "image": images,
                "bytes": [size or 0 for size in sizes],
                "report": [texts.get(str(study), "") for study in rows["study_id"]],
            },
            labels={name: labels[name] for name in labels.columns},
            official_size=len(rows) if complete else OFFICIAL_IMAGES,
        )
        table = index.table
        for sample, image, part, size in zip(
            table["sample"], table["image"], table["split"], sizes, strict=True
        ):
            if (bad := file_problem(size)) is not None:
                problems.append(Problem(sample, image, bad))
            if part not in ("train", "validate", "test"):
                problems.append(Problem(sample, image, f"not in the split table ({part!r})"))
        if not len(table):
            raise DataError(
                f"{self.spec.name}: none of the {len(keep):,} frontal films in {self.root} has a report that "
                f"can be used ({self.dropped}). {where_to_get(self.spec, self.root)}"
            )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`official`: train as released; val the released validate and test together; test the released test.

        Published pretraining validates on both parts (mgca/preprocess/mimic_cxr.py), so `val` holds `test`: a
        task that scores on `test` must not choose anything on `val`.
        """
        part = index.table["split"].to_numpy()
        train, val, test = (
            np.flatnonzero(np.isin(part, p)) for p in (["train"], ["validate", "test"], ["test"])
        )
        return Split(name, train, val, test)

    def _find(self, table: str) -> list[str]:
        return [f"mimic-cxr-{v}-{table}.csv{packed}" for v in VERSIONS for packed in (".gz", "")]

    def _table(self, table: str, columns: list[str]) -> pd.DataFrame:
        path = require_file(self.spec, self.root, self._find(table), f"the {table} table")
        found = read_table(self.spec, self.root, path, nrows=0).columns
        require_columns(self.spec, self.root, path, found, columns)
        rows = read_table(self.spec, self.root, path, usecols=columns, dtype=str, keep_default_na=False)
        if rows.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        return rows

    def _reports(self, rows: pd.DataFrame) -> tuple[dict[str, str], dict[str, str]]:
        """Text of each study, "" if it can not be used; and for studies without, the file looked for."""
        places = [self.root, self.root / "mimic-cxr-reports"]
        trees = [place for place in places if (place / "files").is_dir()]
        texts: dict[str, str] = {}
        missing: dict[str, str] = {}
        for subject, study in rows[["subject_id", "study_id"]].drop_duplicates().itertuples(index=False):
            name = f"files/p{subject[:2]}/p{subject}/s{study}.txt"
            text = next((t for t in (_text(tree / name) for tree in reversed(trees)) if t is not None), None)
            if text is None:
                missing[study] = name
                continue
            parts = sections(text)
            report = caption(parts.get("impression", ""), parts.get("findings", ""))
            texts[study] = report if sentences(report) else ""
        if not texts and missing:
            raise DataError(
                f"{self.spec.name}: no reports found; looked for {next(iter(missing.values()))} and "
                f"{len(missing) - 1:,} others in {' and '.join(map(str, places))}. Unpack "
                "mimic-cxr-reports.zip of MIMIC-CXR (https://physionet.org/content/mimic-cxr/) there; "
                f"MIMIC-CXR-JPG itself has no reports. {where_to_get(self.spec, self.root)}"
            )
        return texts, missing

    def _labels(self, rows: pd.DataFrame) -> pd.DataFrame:
        """CheXpert labels of these rows, names in lower case with underscores; without the table, none."""
        path = next((self.root / n for n in self._find("chexpert") if (self.root / n).is_file()), None)
        if path is None:
            return pd.DataFrame(index=rows.index)
        labels = read_table(self.spec, self.root, path, dtype={"subject_id": str, "study_id": str})
        require_columns(self.spec, self.root, path, labels.columns, ["subject_id", "study_id"])
        names = [name for name in labels.columns if name not in ("subject_id", "study_id")]
        labels = (
            labels.drop_duplicates("study_id")
            .set_index("study_id")[names]
            .apply(pd.to_numeric, errors="coerce")
        )
        labels = labels.where(labels.isin([0, 1]))
        labels.columns = pd.Index([name.lower().replace(" ", "_") for name in names])
        aligned: pd.DataFrame = labels.reindex(rows["study_id"]).reset_index(drop=True)
        return aligned


def _image(row: object) -> str:
    """Path of a film below the root, from a row with the three ids."""
    dicom, subject, study = (str(getattr(row, name)) for name in _IDS)
    return f"files/p{subject[:2]}/p{subject}/s{study}/{dicom}.jpg"


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
