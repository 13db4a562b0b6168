"""RSNA Pneumonia Detection Challenge 2018, training part: 26,684 films, boxes around pneumonia opacities.

    stage_2_train_labels.csv              patientId,x,y,width,height,Target: a row a box, or one row without
    stage_2_train_images/<patientId>.dcm  1024 x 1024, 8 bit

and, if the user has it, RSNA's own mapping to the films of NIH ChestX-ray14, which they come from:

    pneumonia-challenge-dataset-mappings_2018.json   [{"subset_img_id": patientId, "img_id": "<patient>_<number>.png"}]

A patientId is an id of a film. Whose film it is only the mapping says: the first eight digits of NIH's file name.

G. Shih et al., Radiology: Artificial Intelligence 2019, doi:10.1148/ryai.2019180041. The challenge's test
films have no public labels; the splits divide the training part.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem, source_of
from medbench.data.splits import PAIRS, Split, SplitSpec, SplitUnavailable, three_way
from medbench.data.verify import (
    box_problem,
    file_problem,
    folder_sizes,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

LABELS = "stage_2_train_labels.csv"
IMAGES = "stage_2_train_images"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"

_NIH_FILM = re.compile(r"(\d{8})_\d{3}\.png")
_BOX = ["x", "y", "width", "height"]


class Rsna(Dataset):
    """The challenge's own folder layout. Sample and study are the patientId; label: `pneumonia`.

    The patient is NIH's, "nih:00000001", where the mapping is there, else the patientId, too.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "mgca_det": SplitSpec(
            "mgca/preprocess/rsna.py: 60/20/20 of the patients, sklearn's train_test_split, random_state 0",
            (16_010, 5_337, 5_337),
            "cec516350de57e6a92e8966ca5f3073a52445100c872893bec7eb13f977c3849",
            leak="a patientId is a film's: by RSNA's mapping to NIH some 3,544 of the 5,337 test films are of patients "
            "with films in training",
            shared=PAIRS,
        ),
        "mgca_cls": SplitSpec(
            "mgca/preprocess/rsna.py: 70/15/15 of the patients, sklearn's train_test_split, random_state 0",
            (18_678, 4_003, 4_003),
            "9d5d1ae4f66ca93d908430602d2f37b472afd6f1ec6fd762444df4493bbd9b34",
            leak="a patientId is a film's: by RSNA's mapping to NIH some 2,717 of the 4,003 test films are of patients "
            "with films in training",
            shared=PAIRS,
        ),
        "clean_det": SplitSpec(
            "60/20/20 of NIH's patients, divided as mgca_det is; needs RSNA's mapping to NIH"
        ),
        "clean_cls": SplitSpec(
            "70/15/15 of NIH's patients, divided as mgca_cls is; needs RSNA's mapping to NIH"
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the labels and list the images; see `Dataset.index`. No image is opened."""
        labels = self._labels()
        problems = _row_problems(labels)
        unpack = f"Unpack {IMAGES}.zip next to {LABELS}."
        sizes = folder_sizes(self.spec, self.root, IMAGES, "images", ".dcm", unpack)
        films = [str(film) for film in labels["patientId"].unique()]
        images = [f"{IMAGES}/{film}.dcm" for film in films]
        for film, image in zip(films, images, strict=True):
            if (what := file_problem(sizes.get(image))) is not None:
                problems.append(Problem(film, image, what))
        problems += [
            Problem(PurePosixPath(image).stem, image, f"on disk, but not in {LABELS}")
            for image in sorted(set(sizes) - set(images))
        ]
        boxes = _boxes(labels, films)
        people = self._people(films)
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": films,
                "patient": films if people is None else [people[film] for film in films],
                "study": films,
                "image": images,
                "bytes": [sizes.get(image) or 0 for image in images],
                "boxes": boxes,
            },
            labels={"pneumonia": [len(found) > 0 for found in boxes]},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def notes(self) -> Sequence[str]:
        """Also says whose films they are taken for."""
        told = (
            f"patients are NIH's, by {MAPPING}"
            if (self.root / MAPPING).is_file()
            else f"every film counts as a patient: there is no {MAPPING}, which says whose it is"
        )
        phantom = source_of(self.root) == "phantom"  # whose films are of a patient each
        return (*super().notes(), *(() if phantom else (told,)))

    def split(self, index: Index, name: str) -> Split:
        """See `Dataset.split`. A phantom patient has one film, so there its splits leak nothing."""
        split = super().split(index, name)
        return replace(split, leak="") if index.source == "phantom" else split

    def divide(self, index: Index, name: str) -> Split:
        """`mgca_det` (60/20/20, for detection and segmentation) or `mgca_cls` (70/15/15, for classification).

        Of MGCA (mgca/preprocess/rsna.py): 16,010 / 5,337 / 5,337 and 18,678 / 4,003 / 4,003 films of the full
        release. `clean_det` and `clean_cls` divide NIH's patients in the same way. Divided is what the labels
        file has, so that a film that is left out moves nobody.
        """
        films = sorted(set(self._labels()["patientId"]))
        by: Literal["patient", "sample"] = "sample"
        if name.startswith("clean"):
            people = self._people(films)
            if people is None:
                raise SplitUnavailable(
                    f"{index.dataset}: the split {name} divides NIH's patients, and only {self.root / MAPPING} says "
                    "whose a film is: looked for it, found none. RSNA offers it where the challenge's data are"
                )
            films, by = sorted({people[film] for film in films}), "patient"
        # For detection the code holds out 2 x 5,337; of a subset, or of other patients, the same share.
        share = round(len(films) * 10_674 / 26_684) if name.endswith("det") else 0.3
        return three_way(index, name, share, films, by=by)

    def _people(self, films: Sequence[str]) -> dict[str, str] | None:
        """NIH's patient of each film; None where the mapping is not there.

        Raises:
            DataError: the mapping can not be read, or does not say of every film whose it is.
        """
        path = self.root / MAPPING
        if not path.is_file():
            return None
        try:
            rows: Any = json.loads(path.read_text(encoding="utf-8"))
            given = {row["subset_img_id"]: _NIH_FILM.fullmatch(row["img_id"]) for row in rows}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{self.spec.name}: {path} can not be read ({type(error).__name__}: {error}). Expected a list of "
                '{"subset_img_id": patientId, "img_id": "<patient>_<number>.png"}, as RSNA offers it; take it away to '
                "do without."
            ) from None
        found = {film: f"nih:{named[1]}" for film, named in given.items() if named is not None}
        missing = [film for film in films if film not in found]
        if missing:
            raise DataError(
                f"{self.spec.name}: {path} does not say whose films {len(missing):,} of {len(films):,} are (first: "
                f"{missing[0]}). Is it complete? Take it away to do without."
            )
        return found

    def _labels(self) -> pd.DataFrame:
        """All rows as text, "" for an empty cell."""
        path = require_file(self.spec, self.root, [LABELS], "the table of labels")
        labels = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
        require_columns(self.spec, self.root, path, labels.columns, ["patientId", *_BOX, "Target"])
        if labels.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        return labels


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
