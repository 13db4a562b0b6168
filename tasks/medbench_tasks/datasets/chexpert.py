"""CheXpert v1.0, original or small: 223,414 films for training and 234 for validation, 14 observations.

    train.csv, valid.csv           Path, Sex, Age, Frontal/Lateral, AP/PA and 14 observations: 1, 0, -1 or blank
    train/patient00001/study1/view1_frontal.jpg
    valid/patient64541/study1/view1_frontal.jpg
    df_chexpert_plus_240401.csv    reports, if there: CheXpert Plus, see chexpert_plus.py

The folder may be the one that holds these, or the one above it (`CheXpert-v1.0`, `CheXpert-v1.0-small`), or the one
that the four batches of the original were unpacked into: the tables are then in `CheXpert-v1.0 batch 1 (validate &
csv)`, and the training films in `CheXpert-v1.0 batch 2 (train 1)`, `batch 3 (train 2)` and `batch 4 (train 3)`.

J. Irvin et al., AAAI 2019, arXiv 1901.07031. The labels are the five of the competition. Those of train.csv were read
off the reports by a program, those of valid.csv are the consensus of three radiologists.
"""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.patients import sexes, years
from medbench.data.reports import Reason
from medbench.data.splits import Rows, Split, SplitSpec, hashed_share
from medbench.data.verify import file_problem, read_table, require_columns, require_file, settle, where_to_get
from medbench.errors import DataError
from medbench_tasks.datasets.chexpert_plus import TABLES, find_table, read_reports

COMPETITION: Final = {
    "Atelectasis": 1.0,
    "Cardiomegaly": 0.0,
    "Consolidation": 0.0,
    "Edema": 1.0,
    "Pleural Effusion": 1.0,
}
"""The labels of the competition, and what an uncertain one (-1) is taken for, as in
mgca/datasets/classification_dataset.py (CheXpertImageDataset). A blank is 0."""

OBSERVATIONS: Final = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""In the order of the tables."""

TRAIN_ROWS: Final = 223_414
VALIDATION_ROWS: Final = 5_000
"""Rows that MGCA's code draws for validation (CHEXPERT_VALID_NUM)."""

_HOMES = ("", "CheXpert-v1.0/", "CheXpert-v1.0-small/", "CheXpert-v1.0 batch 1 (validate & csv)/")
_BATCHES = ("batch 2 (train 1)", "batch 3 (train 2)", "batch 4 (train 3)")
_PATH = r"(?:^|/)(?P<sample>(?P<part>train|valid)/(?P<patient>patient\d+)/(?P<study>study\d+)/[^/]+\.jpe?g)$"


class Chexpert(Dataset):
    """The release's own folder layout.

    Sample: the path below the release, "train/patient00001/study1/view1_frontal.jpg". Patient and study: its folders.
    Labels: `COMPETITION`, lower case with underscores, 1 or 0, never unknown.
    Laterals are in the index; the splits take frontal films only, as published work does.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "clean": SplitSpec(
            "by patient: test is valid.csv; patients of CheXpert 5x200 are in no part; of the others in train.csv"
            " 5,000 in 223,414, by a hash of their ids, validate; frontal films",
            (180_546, 4_291, 202),
            parts={
                "train": "525bcdfcb7aac2c1b548598f3fa191a96cf0ce2b9cbcfd450cbc2504a844a2af",
                "val": "c45cc0b0c3e4a0d443223df6ab6fc5328f7844c19a88042381ec93f223d93085",
            },
        ),
        "mgca": SplitSpec(
            "mgca/preprocess/chexpert.py: train.csv without CheXpert 5x200 gives 217,433 rows for training and"
            " 5,000, drawn with seed 0, for validation; test is valid.csv; then frontal films",
            (185_771, 4_284, 202),
            leak="of the 5,000 rows drawn for validation 4,907 stay in the training part, and 4,566 of their 4,576"
            " patients: choosing on validation is choosing on training data",
            shared=(("train", "val"),),
            parts={
                "train": "71785c45cbe2ac127a15e978a93febe28a54303465e797d2214ee9bbeda9af76",
                "val": "3e48f17a419a47c091e3c8ea76f356202926e922843ab03b2ad8578da66b7f8f",
            },
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables; see `Dataset.index`. No image is opened."""
        rows = pd.concat([self.train, self._rows("valid")], ignore_index=True)
        labels = {
            name: rows[name].replace(-1.0, uncertain).fillna(0.0) for name, uncertain in COMPETITION.items()
        }
        return self._index_of(rows, labels, exclude_broken=exclude_broken)

    def notes(self) -> Sequence[str]:
        """Also says that there are no reports, where there are none."""
        if find_table(self.root) is not None:
            return super().notes()
        return (*super().notes(), f"no reports: they are in {TABLES[0]} of CheXpert Plus, not in {self.root}")

    def divide(self, index: Index, name: str) -> Split:
        """`clean` or `mgca`; the test part of both is the frontal films of valid.csv.

        Divided are the rows of train.csv, so that a film that is left out moves nobody. Of a subset the same shares
        are taken as of the whole.
        """
        if name == "mgca":
            train, val = as_coded(self.train)
        else:
            train, val = _by_patient(self.train)
        table = index.table
        frontal = (table["view"] != "Lateral").to_numpy()
        samples = self.train["sample"].to_numpy()
        parts = [table["sample"].isin(samples[own]).to_numpy() & frontal for own in (train, val)]
        parts.append((table["split"] == "valid").to_numpy() & frontal)
        return Split(name, *(np.flatnonzero(part) for part in parts))

    @cached_property
    def train(self) -> pd.DataFrame:
        """The rows of train.csv in its order, see `_rows`."""
        return self._rows("train")

    def _rows(self, part: str) -> pd.DataFrame:
        """One table: sample, patient, study, split, sex, age, view, wrong ("" or what is) and the observations.

        Observations are 1, 0, -1 for uncertain or NaN for a blank.
        """
        path = require_file(
            self.spec,
            self.root,
            [f"{home}{part}.csv" for home in _HOMES],
            f"the table of {part} films",
        )
        cells = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
        require_columns(
            self.spec, self.root, path, cells.columns, ["Path", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
        )
        if cells.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        ids = cells["Path"].str.extract(_PATH)
        numbers = cells[list(OBSERVATIONS)].apply(pd.to_numeric, errors="coerce")
        odd = (cells[list(OBSERVATIONS)] != "") & ~numbers.isin([1, 0, -1])
        side = cells["Frontal/Lateral"]
        wrong = pd.Series("", index=cells.index, dtype=object)
        wrong[odd.any(axis=1)] = f"a value in {part}.csv that is none of 1, 0, -1 and blank"
        wrong[~side.isin(["Frontal", "Lateral"])] = f"neither Frontal nor Lateral in {part}.csv"
        wrong[ids["sample"].duplicated() & ids["sample"].notna()] = f"row given twice in {part}.csv"
        wrong[ids["part"] != part] = f"Path in {part}.csv is not {part}/PATIENT/STUDY/FILM.jpg"
        age = years(cells["Age"] if "Age" in cells else [""] * len(cells))
        rows: pd.DataFrame = pd.concat(
            [
                pd.DataFrame(
                    {
                        "sample": ids["sample"].fillna(cells["Path"]),
                        "patient": ids["patient"].fillna(""),
                        "study": ids["patient"].fillna("") + "/" + ids["study"].fillna(""),
                        "split": part,
                        "sex": sexes(cells["Sex"] if "Sex" in cells else [""] * len(cells)),
                        "age": np.where(age > 0, age, np.nan),  # of adults: 0 stands for not known
                        "view": np.where(side == "Lateral", "Lateral", cells["AP/PA"]),
                        "wrong": wrong,
                    }
                ),
                numbers,
            ],
            axis=1,
        )
        return rows

    def _index_of(
        self, rows: pd.DataFrame, labels: Mapping[str, npt.ArrayLike], *, exclude_broken: bool
    ) -> Index:
        """The index of some rows of the tables, once their films are found."""
        images = self._images(rows)
        below = f"{self.root}/"  # to join 223,414 paths by pathlib takes longer than all the rest
        sizes = [_size(below + image) for image in images]
        problems: list[Problem] = []
        for sample, image, wrong, size in zip(rows["sample"], images, rows["wrong"], sizes, strict=True):
            if wrong or (wrong := file_problem(size) or ""):
                problems.append(Problem(str(sample), image, str(wrong)))
        index = Index.of(
            self.spec,
            self.root,
            {
                **{
                    name: rows[name].to_numpy(object)
                    for name in ("sample", "patient", "study", "split", "sex", "view")
                },
                "age": rows["age"],
                "image": images,
                "bytes": [size or 0 for size in sizes],
                **({} if (reports := self._reports(rows)) is None else {"report": reports}),
            },
            labels={name.lower().replace(" ", "_"): values for name, values in labels.items()},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def _reports(self, rows: pd.DataFrame) -> list[str] | None:
        """Text of each film's report, "" where there is none; None without the table of reports."""
        path = find_table(self.root)
        if path is None:
            return None
        texts, self.dropped = read_reports(self.spec, self.root, path, self.cleaning)
        if missing := int((~rows["sample"].isin(texts)).sum()):
            self.dropped[Reason.MISSING] = missing
        return [texts.get(sample, "") for sample in rows["sample"]]

    def _images(self, rows: pd.DataFrame) -> Sequence[str]:
        """Path of each film below the root."""
        home = next(
            home
            for home in _HOMES
            if any((self.root / f"{home}{part}.csv").is_file() for part in ("train", "valid"))
        )
        samples = rows["sample"].astype(str)
        if "batch" not in home:
            return (home + samples).tolist()
        batch: dict[str, str] = {}
        for number in _BATCHES:
            folder = self.root / f"CheXpert-v1.0 {number}"
            if folder.is_dir():
                with os.scandir(folder) as entries:
                    batch |= {entry.name: f"{folder.name}/" for entry in entries}
        # films of valid.csv are beside it, the others in their patient's batch
        moved = rows["patient"].map(batch) + samples.str.removeprefix("train/")
        return moved.fillna(home + samples).tolist()


def five_by(train: pd.DataFrame, each: int) -> Rows:
    """Positions in train.csv of CheXpert 5x200: `each` frontal films of every label of the competition.

    As mgca/preprocess/chexpert.py (which follows GLoRIA's): the candidates of a label are the frontal films that have
    it and no other observation (uncertain ones count as there; No Finding is not looked at), and pandas'
    `sample(random_state=0)` draws among them in the order of the table. Classes stand one after the other.
    """
    chosen = [own.sample(n=each, random_state=0).to_numpy() for own in candidates(train).values()]
    return np.concatenate(chosen).astype(np.int64)


def candidates(train: pd.DataFrame) -> dict[str, "pd.Series[int]"]:
    """Positions in train.csv of the films that have one label of the competition alone; by label."""
    looked_at = [name for name in OBSERVATIONS if name != "No Finding"]
    values = train[looked_at].fillna(0.0).to_numpy(np.float64)
    alone = ((values != 0).sum(axis=1) == 1) & (train["view"] != "Lateral").to_numpy()
    return {
        name: pd.Series(np.flatnonzero(alone & (values[:, looked_at.index(name)] == 1)))
        for name in COMPETITION
    }


def as_coded(train: pd.DataFrame) -> tuple[Rows, Rows]:
    """Positions in train.csv that MGCA's code trains on and validates on, laterals among them.

    5,000 rows are drawn by position among those that are left without CheXpert 5x200; but from the training part the
    rows go that had these numbers before 5x200 was taken out. So most rows that validate also train.
    """
    left = np.setdiff1d(np.arange(len(train)), _five_of(train))
    count = min(len(left), round(VALIDATION_ROWS * len(train) / TRAIN_ROWS))
    # the legacy generator is what the code draws with
    drawn = np.random.RandomState(0).choice(len(left), size=count, replace=False)
    return np.setdiff1d(left, drawn), np.sort(left[drawn])


def _by_patient(train: pd.DataFrame) -> tuple[Rows, Rows]:
    """Positions in train.csv for training and validation, no patient in both, none of CheXpert 5x200 in either."""
    patients = train["patient"]
    free = ~patients.isin(patients.iloc[_five_of(train)])
    validates = patients.isin(hashed_share(patients[free], VALIDATION_ROWS / TRAIN_ROWS, "chexpert|clean"))
    return np.flatnonzero(free & ~validates), np.flatnonzero(free & validates)


def _five_of(train: pd.DataFrame) -> Rows:
    """CheXpert 5x200 of train.csv; of a subset as large a share, as far as it has candidates."""
    fewest = min(map(len, candidates(train).values()))
    return five_by(train, min(fewest, round(200 * len(train) / TRAIN_ROWS)))


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None
