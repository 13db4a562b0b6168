"""PadChest: 160,861 films of 67,625 patients of one hospital in Alicante, with Spanish reports and 174 findings.

    PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz     (also unpacked to .csv)
    0/<ImageID>  1/<ImageID>  ...  54/<ImageID>                 0.zip ... 54.zip unpacked: 16-bit PNG
    <ImageID> of all folders together in images/, images-224/ or the root is read, too

A. Bustos et al., PadChest: A large chest x-ray image dataset with multi-label annotated reports, Medical Image
Analysis 2020, doi:10.1016/j.media.2020.101797. 39,053 films carry labels of physicians, the others those of a network
that read the reports.
"""

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.many_files import MISSING, file_sizes
from medbench.data.patients import OLDEST, sexes
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, hashed_share, hashed_three_way
from medbench.data.verify import (
    file_problem,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
FOLDERS = ("images", "images-224", ".")
"""Where films are looked for that are not in a folder of their `ImageDir`."""

LABELS: Mapping[str, tuple[str, ...]] = {
    "normal": ("normal",),
    "atelectasis": (
        *("atelectasis", "laminar atelectasis", "lobar atelectasis", "segmental atelectasis"),
        *("round atelectasis", "total atelectasis", "atelectasis basal"),
    ),
    "cardiomegaly": ("cardiomegaly",),
    "consolidation": ("consolidation",),
    "edema": ("pulmonary edema",),
    "emphysema": ("emphysema",),
    "fibrosis": ("pulmonary fibrosis",),
    "fracture": (
        *("fracture", "rib fracture", "clavicle fracture", "humeral fracture", "vertebral fracture"),
        "callus rib fracture",
    ),
    "hiatal_hernia": ("hiatal hernia",),
    "infiltrates": ("infiltrates",),
    "mass": ("mass", "pulmonary mass"),
    "nodule": ("nodule", "multiple nodules"),
    "pleural_effusion": ("pleural effusion", "loculated pleural effusion"),
    "pleural_thickening": ("pleural thickening", "apical pleural thickening", "calcified pleural thickening"),
    "pneumonia": ("pneumonia", "atypical pneumonia"),
    "pneumothorax": ("pneumothorax", "hydropneumothorax"),
    "tuberculosis": ("tuberculosis", "tuberculosis sequelae"),
}
"""Labels, and the names of PadChest's own tree of findings that mean them."""

UNUSABLE = "exclude"
"""A label of reports that say nothing about the film: none of the labels is known."""

_COLUMNS = ["ImageID", "ImageDir", "StudyID", "PatientID", "Projection", "Report", "MethodLabel", "Labels"]
_PATIENT_COLUMNS = ["StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM"]
"""Not needed."""

_STOP = re.compile(r"(?:\s*\.)+\s*")


class PadChest(Dataset):
    """The release's own table and folders; a row a film. The official split of a row is how its labels were made.

    Reports are Spanish, in lower case, cut to word stems and without stop words, as they are released. Films of a
    report without text stay, with an empty report.

    `dropped` counts how many films have a report that gives no text, by reason.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "patient_80_10_10": SplitSpec(
            "80/10/10 of the patients, chosen by a hash of their ids; the release has no split"
        ),
        "physician": SplitSpec(
            "tested on the films that physicians labelled (all 39,053 of them, as E. Tiu et al., Nature Biomedical"
            " Engineering 2022, test CheXzero); of the patients without any, 90 % train and 10 % validate, by hash"
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the table and look at the files; see `Dataset.index`. No image is opened.

        Labels are 1 and 0 by the names of `LABELS`; NaN where a film has no labels, or `exclude` among them.
        """
        path = require_file(self.spec, self.root, [f"{TABLE}.gz", TABLE], "the table of films")
        found = read_table(self.spec, self.root, path, nrows=0).columns
        require_columns(self.spec, self.root, path, found, _COLUMNS)
        columns = [*_COLUMNS, *(name for name in _PATIENT_COLUMNS if name in found)]
        rows = read_table(self.spec, self.root, path, usecols=columns, dtype=str, keep_default_na=False)
        rows = rows.reindex(columns=[*_COLUMNS, *_PATIENT_COLUMNS], fill_value="")
        if rows.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        again = rows["ImageID"].duplicated()
        problems = [
            Problem(sample, path.name, f"row given twice ({sample})") for sample in rows["ImageID"][again]
        ]
        rows = rows[~again].reset_index(drop=True)
        images, sizes = self._films(rows)
        for row in np.flatnonzero(sizes <= 0):
            what = file_problem(None if sizes[row] == MISSING else int(sizes[row]))
            problems.append(Problem(rows["ImageID"].iloc[row], images[row], str(what)))
        for row in np.flatnonzero((rows["PatientID"] == "").to_numpy()):
            problems.append(Problem(rows["ImageID"].iloc[row], path.name, "row without a PatientID"))
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": rows["ImageID"],
                "patient": rows["PatientID"],
                "study": rows["StudyID"],
                "split": rows["MethodLabel"],
                "sex": sexes(rows["PatientSex_DICOM"]),
                "age": _ages(rows["StudyDate_DICOM"], rows["PatientBirth"]),
                "view": rows["Projection"],
                "image": images,
                "bytes": np.maximum(sizes, 0),
                "report": self._texts(rows["Report"]),
            },
            labels=_labels(rows["Labels"]),
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`patient_80_10_10`, or `physician`, which tests on what physicians labelled."""
        if name == "patient_80_10_10":
            return hashed_three_way(index, name, 0.1, 0.1)
        labelled = (index.table["split"] == "Physician").to_numpy()
        patients = index.table["patient"]
        rest = ~patients.isin(patients[labelled]).to_numpy()
        if not labelled.any() or patients[rest].nunique() < 2:
            raise SplitUnavailable(
                f"{self.spec.name}: {int(labelled.sum()):,} films in {self.root} have labels of physicians, and "
                f"{patients[rest].nunique():,} patients have none such; the split physician needs both."
            )
        held = patients.isin(hashed_share(patients[rest], 0.1, name)).to_numpy()
        train, val = np.flatnonzero(rest & ~held), np.flatnonzero(rest & held)
        return Split(name, train, val, np.flatnonzero(labelled))

    def _films(self, rows: pd.DataFrame) -> tuple[list[str], npt.NDArray[np.int64]]:
        """(N,) paths below the root, and (N,) sizes."""
        own: list[str] = (rows["ImageDir"] + "/" + rows["ImageID"]).tolist()
        sizes = file_sizes(self.root, own)
        if (sizes != MISSING).any():
            return own, sizes
        wanted = set(rows["ImageID"])
        for folder in FOLDERS:
            path = self.root / folder
            if path.is_dir() and not wanted.isdisjoint(os.listdir(path)):
                above = "" if folder == "." else f"{folder}/"
                images = [f"{above}{name}" for name in rows["ImageID"]]
                return images, file_sizes(self.root, images)
        raise DataError(
            f"{self.spec.name}: found none of the {len(rows):,} films (first: {own[0]}) in {self.root}, nor in "
            f"{', '.join(FOLDERS[:-1])} below it. Unpack 0.zip to 54.zip into folders of these numbers. "
            f"{where_to_get(self.spec, self.root)}"
        )

    def _texts(self, reports: pd.Series) -> list[str]:
        """The text of each report; each that occurs is read once."""
        read = {report: self.cleaning.of_text(_plain(report)) for report in reports.unique()}
        reasons = reports.map({report: text.reason for report, text in read.items() if text.reason})
        self.dropped = {str(reason): int(count) for reason, count in Counter(reasons.dropna()).items()}
        return reports.map({report: text.text for report, text in read.items()}).tolist()


def _plain(report: str) -> str:
    """A report without the spaces before its full stops, and those of the sentences that were removed."""
    text = _STOP.sub(". ", "" if report == "nan" else report).strip()
    return "" if text == "." else text.removeprefix(". ")


def _ages(dates: pd.Series, births: pd.Series) -> npt.NDArray[np.float64]:
    """(N,) years from cells like "20140915" and "1930.0", which is all that is told of a birth: off by one at most."""
    taken = pd.to_numeric(dates.str[:4], errors="coerce").to_numpy(np.float64)
    age = taken - pd.to_numeric(births, errors="coerce").to_numpy(np.float64)
    return np.where((age >= 0) & (age <= OLDEST), age, np.nan)


def _labels(cells: pd.Series) -> dict[str, npt.NDArray[np.float64]]:
    """(N,) 1, 0 or NaN by label, from cells like "['pleural effusion', ' pneumonia']"."""
    kinds = cells.unique()
    names = [{name.strip() for name in re.findall(r"'([^']*)'", cell)} - {""} for cell in kinds]
    known = np.array([bool(own) and UNUSABLE not in own for own in names])
    where = pd.Index(kinds).get_indexer(cells)
    labels = {}
    for label, meant in LABELS.items():
        held = np.array([not own.isdisjoint(meant) for own in names], np.float64)
        labels[label] = np.where(known, held, np.nan)[where]
    return labels
