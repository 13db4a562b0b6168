"""RSNA Pneumonia Detection Challenge 2018, training part: 26,684 films, boxes around pneumonia opacities.

    stage_2_train_labels.csv              patientId,x,y,width,height,Target: a row a box, or one row without
    stage_2_train_images/<patientId>.dcm  one film a patient, 1024 x 1024, 8 bit

G. Shih et al., Radiology: Artificial Intelligence 2019, doi:10.1148/ryai.2019180041. The challenge's test
films have no public labels; the splits divide the training part.
"""

import os
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.splits import Split, SplitSpec, three_way_by_patient
from medbench.data.verify import (
    box_problem,
    file_problem,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"

_BOX = ["x", "y", "width", "height"]


class Rsna(Dataset):
    """The challenge's own folder layout. Sample, patient and study are the patientId; label: `pneumonia`."""

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "mgca_det": SplitSpec(
            "mgca/preprocess/rsna.py: 60/20/20 of the patients, sklearn's train_test_split, random_state 0",
            (16_010, 5_337, 5_337),
            "cec516350de57e6a92e8966ca5f3073a52445100c872893bec7eb13f977c3849",
        ),
        "mgca_cls": SplitSpec(
            "mgca/preprocess/rsna.py: 70/15/15 of the patients, sklearn's train_test_split, random_state 0",
            (18_678, 4_003, 4_003),
            "9d5d1ae4f66ca93d908430602d2f37b472afd6f1ec6fd762444df4493bbd9b34",
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the labels and list the images; see `Dataset.index`. No image is opened."""
        labels = self._labels()
        problems = _row_problems(labels)
        sizes = self._sizes()
        patients = [str(patient) for patient in labels["patientId"].unique()]
        for patient in patients:
            if (what := file_problem(sizes.get(patient))) is not None:
                problems.append(Problem(patient, f"{IMAGES}/{patient}.dcm", what))
        known = set(patients)
        problems += [
            Problem(patient, f"{IMAGES}/{patient}.dcm", f"on disk, but not in {LABELS}")
            for patient in sorted(set(sizes) - known)
        ]
        boxes = _boxes(labels, patients)
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": patients,
                "patient": patients,
                "image": [f"{IMAGES}/{patient}.dcm" for patient in patients],
                "bytes": [sizes.get(patient) or 0 for patient in patients],
                "boxes": boxes,
            },
            labels={"pneumonia": [len(found) > 0 for found in boxes]},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`mgca_det` (60/20/20, for detection and segmentation) or `mgca_cls` (70/15/15, for classification).

        Of MGCA (mgca/preprocess/rsna.py): 16,010 / 5,337 / 5,337 and 18,678 / 4,003 / 4,003 patients of the
        full release. Divided are the patients of the labels file, so that a film that is left out moves
        nobody.
        """
        patients = sorted(set(self._labels()["patientId"]))
        if name == "mgca_det":
            # The code holds out 2 x 5,337 patients; of a subset, the same share.
            return three_way_by_patient(index, name, round(len(patients) * 10_674 / 26_684), patients)
        return three_way_by_patient(index, name, 0.3, patients)

    def _labels(self) -> pd.DataFrame:
        """All rows as text, "" for an empty cell."""
        path = require_file(self.spec, self.root, [LABELS], "the table of labels")
        labels = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
        require_columns(self.spec, self.root, path, labels.columns, ["patientId", *_BOX, "Target"])
        if labels.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        return labels

    def _sizes(self) -> dict[str, int]:
        """Bytes of each image on disk, by patientId."""
        folder = self.root / IMAGES
        if not folder.is_dir():
            raise DataError(
                f"{self.spec.name}: looked for the folder of images, {folder}, and it is not there. Unpack "
                f"{IMAGES}.zip next to {LABELS}. {where_to_get(self.spec, self.root)}"
            )
        with os.scandir(folder) as entries:
            return {e.name.removesuffix(".dcm"): e.stat().st_size for e in entries if e.name.endswith(".dcm")}


def _numbers(labels: pd.DataFrame) -> npt.NDArray[np.float64]:
    """(rows, 4) coordinates; NaN where a cell is empty or no number."""
    return np.column_stack([pd.to_numeric(labels[c], errors="coerce").to_numpy(np.float64) for c in _BOX])


def _row_problems(labels: pd.DataFrame) -> list[Problem]:
    """What the rows themselves show to be wrong."""
    empty = (labels[_BOX] == "").all(axis=1).to_numpy()
    numbers = _numbers(labels)
    again = labels.duplicated().to_numpy()
    targets = labels.groupby("patientId")["Target"].transform("nunique").to_numpy()
    problems = []
    for row, (patient, target) in enumerate(zip(labels["patientId"], labels["Target"], strict=True)):
        what = None
        if patient == "":
            what = f"row without a patientId (line {row + 2})"
        elif target not in ("0", "1"):
            what = f"Target is neither 0 nor 1 ({target!r}, line {row + 2})"
        elif targets[row] > 1:
            what = f"both with and without pneumonia (line {row + 2})"
        elif again[row]:
            what = f"row given twice (line {row + 2})"
        elif target == "0" and not empty[row]:
            what = f"Target 0, but with a box (line {row + 2})"
        elif target == "1" and empty[row]:
            what = f"Target 1, but without a box (line {row + 2})"
        elif target == "1":
            given = ", ".join(labels[c].iloc[row] for c in _BOX) if np.isnan(numbers[row]).any() else ""
            what = f"box is not four numbers ({given})" if given else box_problem(numbers[row])
        if what is not None:
            problems.append(
                Problem(str(patient), LABELS, f"{what}, patientId {patient}" if patient else what)
            )
    return problems


def _boxes(labels: pd.DataFrame, patients: list[str]) -> list[npt.NDArray[np.float64]]:
    """(N, 4) x, y, width, height for each of the patients; N is 0 for the negative ones."""
    positive = (labels["Target"] == "1").to_numpy()
    by_patient: dict[str, list[npt.NDArray[np.float64]]] = {}
    for patient, box in zip(labels["patientId"][positive], _numbers(labels)[positive], strict=True):
        by_patient.setdefault(patient, []).append(box)
    return [np.array(by_patient.get(patient, []), np.float64).reshape(-1, 4) for patient in patients]
