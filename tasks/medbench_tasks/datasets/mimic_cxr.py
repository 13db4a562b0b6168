"""MIMIC-CXR-JPG 2.0.0 or 2.1.0 with the reports of MIMIC-CXR: the corpus of published pretraining.

    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz, -chexpert.csv.gz     (also 2.1.0; also unpacked to .csv)
    files/p10/p10000032/s50414267/<dicom_id>.jpg
    mimic-cxr-reports.zip                  the reports of MIMIC-CXR, as they are downloaded, or
    files/p10/p10000032/s50414267.txt      unpacked: here, or below mimic-cxr-reports/

A. Johnson et al., Scientific Data 2019, doi:10.1038/s41597-019-0322-0. Made into pairs as MGCA's released
code does (mgca/preprocess/mimic_cxr.py): PA and AP films of studies whose report has an impression or
findings, and at least three words in them.
"""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.many_files import MISSING, file_sizes, texts_below, texts_in_zip
from medbench.data.reports import Reason, Text
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

REPORTS = "mimic-cxr-reports"
"""Name of the archive of reports, and of the folder that some unpack it to."""

_IDS = ["dicom_id", "subject_id", "study_id"]
_NO_REPORT = Text("", Reason.MISSING)


class MimicCxr(Dataset):
    """The release's own folder layout.

    `dropped` counts how many rows of the metadata table are no pairs, by reason.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "official": SplitSpec(
            "mimic-cxr-2.0.0-split.csv; as in mgca/preprocess/mimic_cxr.py, validation is the released validate and"
            " test parts together",
            leak="the test part is inside the validation part: choose nothing on it that is then scored on test",
            shared=(("val", "test"),),
        ),
        "clean": SplitSpec(
            "mimic-cxr-2.0.0-split.csv, the released split table: train, validate and test apart; for tasks that score"
            " on the test part"
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables and the reports; see `Dataset.index`. No image is opened.

        Labels are CheXpert's: 1 and 0 as given, NaN for uncertain (-1) and for not mentioned. There are none
        if the chexpert table is not there.
        """
        rows = self._table("metadata", [*_IDS, "ViewPosition"])
        complete = len(rows) >= OFFICIAL_IMAGES
        split = self._table("split", ["dicom_id", "split"])
        again = rows["dicom_id"].duplicated()
        problems = [
            Problem(sample, image, "row given twice in the metadata table")
            for sample, image in zip(rows["dicom_id"][again], _images(rows[again]), strict=True)
        ]
        rows = rows[~again]
        again = split["dicom_id"].duplicated()
        split, repeated = split[~again], split[again]
        frontal = rows["ViewPosition"].isin(FRONTAL)
        dropped = Counter({"not frontal (ViewPosition is neither PA nor AP)": int((~frontal).sum())})
        rows = rows[frontal].merge(split, on="dicom_id", how="left")
        studies = rows.drop_duplicates("study_id")
        names = _reports(studies)
        read = self._texts(names)
        # Position of each film's study among the studies.
        where = pd.Index(studies["study_id"]).get_indexer(rows["study_id"])
        reasons = np.array([text.reason for text in read], object)[where]
        for reason in Reason:
            if reason is not Reason.MISSING:
                dropped[reason.value] = int((reasons == reason).sum())
        self.dropped = {reason: count for reason, count in dropped.items() if count}
        keep = np.array([reason in (None, Reason.MISSING) for reason in reasons], np.bool_)
        found = len(rows)
        rows, where, reasons = rows[keep].reset_index(drop=True), where[keep], reasons[keep]
        if not len(rows):
            raise DataError(
                f"{self.spec.name}: none of the {found:,} frontal films in {self.root} has a report that "
                f"can be used ({self.dropped}). {where_to_get(self.spec, self.root)}"
            )
        torn = rows.merge(repeated.drop_duplicates(), on="dicom_id", suffixes=("", "_again"))
        torn = torn[torn["split"] != torn["split_again"]]
        problems += [
            Problem(film, image, f"in two parts of the split table ({one} and {other}, film {film})")
            for film, image, one, other in zip(
                torn["dicom_id"], _images(torn), torn["split"], torn["split_again"], strict=True
            )
        ]
        labels, strange = self._labels(rows)
        problems += strange
        images = _images(rows)
        sizes = file_sizes(self.root, images)
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
                "bytes": np.maximum(sizes, 0),
                "report": [read[study].text for study in where],
            },
            labels={name: labels[name] for name in labels.columns},
            official_size=len(rows) if complete else OFFICIAL_IMAGES,
        )
        samples, parts = index.table["sample"].to_numpy(), index.table["split"].to_numpy()
        for row in np.flatnonzero(reasons == Reason.MISSING):
            what = f"no report (looked for {names[where[row]]})"
            problems.append(Problem(samples[row], images[row], what))
        for row in np.flatnonzero(sizes <= 0):
            bad = file_problem(None if sizes[row] == MISSING else int(sizes[row]))
            problems.append(Problem(samples[row], images[row], str(bad)))
        for row in np.flatnonzero(~np.isin(parts, ["train", "validate", "test"])):
            problems.append(Problem(samples[row], images[row], f"not in the split table ({parts[row]!r})"))
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`official`: train as released; val the released validate and test together; test the released test.

        Published pretraining validates on both parts (mgca/preprocess/mimic_cxr.py), so `val` holds `test`: a
        task that scores on `test` takes `clean`, where `val` is the released validate alone.
        """
        part = index.table["split"].to_numpy()
        validates = ["validate"] if name == "clean" else ["validate", "test"]
        train, val, test = (np.flatnonzero(np.isin(part, p)) for p in (["train"], validates, ["test"]))
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

    def _texts(self, names: Sequence[str]) -> list[Text]:
        """What is read of each study's report: from the unpacked folder, else the archive, else beside the films."""
        archive = self.root / f"{REPORTS}.zip"
        places: list[tuple[Path, Callable[[Path, Sequence[str]], Iterator[str | None]]]] = []
        if (self.root / REPORTS / "files").is_dir():
            places.append((self.root / REPORTS, texts_below))
        if archive.is_file():
            places.append((archive, texts_in_zip))
        places.append((self.root, texts_below))
        read = [_NO_REPORT] * len(names)
        missing = list(range(len(names)))
        for place, texts in places:
            try:
                for study, text in zip(missing, texts(place, [names[s] for s in missing]), strict=True):
                    if text is not None:
                        read[study] = self.cleaning.of_report(text)
            except (zipfile.BadZipFile, OSError, EOFError) as error:
                raise DataError(
                    f"{self.spec.name}: the reports in {place} can not be read ({error}). Download it again. "
                    f"{where_to_get(self.spec, self.root)}"
                ) from None
            missing = [study for study in missing if read[study] is _NO_REPORT]
            if not missing:
                break
        if names and len(missing) == len(names):
            raise DataError(
                f"{self.spec.name}: no reports found; looked for {names[0]} and {len(names) - 1:,} others in "
                f"{self.root}, {self.root / REPORTS} and {archive}. Put {REPORTS}.zip of MIMIC-CXR "
                "(https://physionet.org/content/mimic-cxr/) there, or unpack it there; MIMIC-CXR-JPG itself has no "
                f"reports. {where_to_get(self.spec, self.root)}"
            )
        return read

    def _labels(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
        """CheXpert labels of these rows, names in lower case with underscores; without the table, none.

        With them, a problem for each film and cell of the table that is none of 1, 0, -1 and blank.
        """
        path = next((self.root / n for n in self._find("chexpert") if (self.root / n).is_file()), None)
        if path is None:
            return pd.DataFrame(index=rows.index), []
        found = read_table(self.spec, self.root, path, nrows=0).columns
        ids = ["subject_id", "study_id"]
        require_columns(self.spec, self.root, path, found, ids)
        names = [name for name in found if name not in ids]
        kinds: dict[str, type] = dict.fromkeys(ids, str) | dict.fromkeys(names, float)
        try:
            cells = read_table(self.spec, self.root, path, dtype=kinds)
        except DataError:  # a cell is no number; to read all as text takes three times as long
            cells = read_table(self.spec, self.root, path, dtype=str)
        cells = cells.drop_duplicates("study_id").set_index("study_id")[names]
        labels = cells.apply(pd.to_numeric, errors="coerce")
        known = labels.isin([0, 1])
        strange = np.argwhere((cells.notna() & ~known & (labels != -1)).to_numpy())
        wrong = pd.DataFrame(
            {
                "study_id": cells.index[strange[:, 0]],
                "name": [names[column] for column in strange[:, 1]],
                "value": [cells.iloc[row, column] for row, column in strange.tolist()],
            }
        )
        wrong = rows[["dicom_id", "study_id"]].merge(wrong, on="study_id")
        problems = [
            Problem(
                film,
                path.name,
                f"label is none of 1, 0, -1 and blank ({name}: {str(value)!r}, study {study}, film {film})",
            )
            for film, study, name, value in wrong.itertuples(index=False)
        ]
        labels = labels.where(known)
        labels.columns = pd.Index([name.lower().replace(" ", "_") for name in names])
        aligned: pd.DataFrame = labels.reindex(rows["study_id"]).reset_index(drop=True)
        return aligned, problems


def _images(rows: pd.DataFrame) -> list[str]:
    """(N,) paths of films below the root, from rows with the three ids."""
    return (_studies(rows) + "/" + rows["dicom_id"] + ".jpg").tolist()


def _reports(rows: pd.DataFrame) -> list[str]:
    """Paths of reports below the root, or in the archive."""
    return (_studies(rows) + ".txt").tolist()


def _studies(rows: pd.DataFrame) -> pd.Series:
    subject = rows["subject_id"]
    return "files/p" + subject.str[:2] + "/p" + subject + "/s" + rows["study_id"]
