"""VinDr-CXR: 15,000 training films read by 3 radiologists each, 3,000 test films by a consensus of 5.

PhysioNet's release, 1.0.0:

    train/<image_id>.dicom   test/<image_id>.dicom
    annotations/annotations_train.csv      image_id,rad_id,class_name,x_min,y_min,x_max,y_max: a row a box and reader
    annotations/annotations_test.csv       the same without rad_id
    annotations/image_labels_train.csv     image_id,rad_id and 28 columns of 0 and 1: a row a film and reader
    annotations/image_labels_test.csv      the same without rad_id

or Kaggle's (VinBigData, 2021), whose 14 classes sum up the 22 local ones, and whose test films have no labels:

    train.csv   image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max
    train/<image_id>.dicom

Labels of training films are those that at least two of the three readers gave. Boxes of training films are a
consensus, too (`consensus`). So a film can have a label without a box: the readers agreed on the finding and not on the
place. What each reader said is not kept.

H. Q. Nguyen et al., Scientific Data 2022, doi:10.1038/s41597-022-01498-w.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, split_of
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

KAGGLE = "train.csv"
BOXES = {part: f"annotations/annotations_{part}.csv" for part in ("train", "test")}
LABELS = {part: f"annotations/image_labels_{part}.csv" for part in ("train", "test")}
NOTHING = "No finding"

AGREE = 2
"""Readers, of three, that must agree."""

OVERLAP = 0.4
"""Intersection over union from which boxes of two readers are taken for one. Own choice: the evaluation of the Kaggle
challenge asked for more than 0.4."""

_STRAY = "annotation of a film that is not in the table of labels"

_CORNERS = ["x_min", "y_min", "x_max", "y_max"]

Boxes = npt.NDArray[np.float64]


class VinDr(Dataset):
    """PhysioNet's layout or Kaggle's. Sample and patient are the image_id; a label for each class.

    The release does not say which films are of one patient.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "clean": SplitSpec(
            "official test films; own validation: 20 % of the training films, sorted, sklearn's train_test_split, "
            "random_state 0. BenchX's lists have the same sizes and another validation part",
            (12_000, 3_000, 3_000),
            "714983fa7640e6f0c5a34504d08d4b3f5d64ad0f37fe7c93628bc381639796ab",
        ),
        "official": SplitSpec(
            "the release's train and test; no validation part",
            (15_000, 0, 3_000),
            "3737b15499438c31d0e0ce92c113aac45ef9c06f6c589d1a144b6a9c642ac55d",
        ),
        "train": SplitSpec(
            "own, for Kaggle's release: 70/15/15 of the training films, sorted, train_test_split, random_state 0",
            (10_500, 2_250, 2_250),
            "eb7aa20c1b24429336fbe9238af2632b4f5eed836c35f10758e6e3a6d936cf52",
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables, come to a consensus and list the films; see `Dataset.index`. No film is opened."""
        rows = self._rows()
        given, problems = self._labels(rows)
        known = rows["image_id"].isin(given["image_id"])
        others, rows = rows[~known], rows[known]
        problems += _row_problems(rows)
        samples = given["image_id"].tolist()
        parts = given["part"].tolist()
        files = {part: self._files(part) for part in dict.fromkeys(parts)}
        paths = [
            files[part].get(s, (f"{part}/{s}.dicom", None)) for s, part in zip(samples, parts, strict=True)
        ]
        problems += [
            Problem(sample, path, what)
            for sample, (path, size) in zip(samples, paths, strict=True)
            if (what := file_problem(size)) is not None
        ]
        sound = rows[~rows["image_id"].isin({problem.sample for problem in problems})]
        boxes, kinds = _boxes(sound[sound["class_name"] != NOTHING], samples)
        names = [name for name in given.columns if name not in ("image_id", "part")]
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": samples,
                "patient": samples,
                "split": parts,
                "image": [path for path, _ in paths],
                "bytes": [size or 0 for _, size in paths],
                "boxes": boxes,
                "box_labels": kinds,
            },
            labels={name: given[name].to_numpy(np.float64) for name in names},
        )
        self.dropped = {}
        if index.subset is None:
            problems += [_problem(others, row, _STRAY) for row in range(len(others))]
        elif len(others):  # who cuts the table of labels down keeps the annotations
            self.dropped[_STRAY] = len(others)
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`clean`, `official` or `train`.

        Divided is what the tables name, so that a film that is left out moves no other.
        """
        rows = self._rows()
        train = np.array(sorted(set(rows["image_id"][rows["part"] == "train"])), object)
        test = set(rows["image_id"][rows["part"] == "test"])
        if name != "train" and not test:
            raise SplitUnavailable(
                f"{index.dataset}: the split {name} needs test films, which have no labels in Kaggle's release; "
                "take the split train"
            )
        if name == "official":
            return split_of(index, name, train, [], test)
        from sklearn.model_selection import train_test_split

        try:
            if name == "train":
                first, rest = train_test_split(train, test_size=0.3, random_state=0)
                last, val = train_test_split(rest, test_size=0.5, random_state=0)
                return split_of(index, name, first, val, last)
            # 3,000 of 15,000; of a subset, the same share.
            first, val = train_test_split(train, test_size=round(len(train) / 5), random_state=0)
        except ValueError as error:
            raise SplitUnavailable(
                f"{index.dataset}: {len(train)} training films in {index.root} can not be divided as {name} "
                f"is ({error}). Use more of the dataset."
            ) from error
        return split_of(index, name, first, val, test)

    def _rows(self) -> pd.DataFrame:
        """Rows of boxes: image_id, rad_id ("" for the consensus), class_name, four corners, part, line."""
        tables = []
        kaggle = (self.root / KAGGLE).is_file()
        for part in ("train",) if kaggle else ("train", "test"):
            path = require_file(
                self.spec, self.root, [KAGGLE if kaggle else BOXES[part]], f"the {part} boxes"
            )
            table = read_table(
                self.spec, self.root, path, dtype={"image_id": str, "class_name": str, "rad_id": str}
            )
            wanted = ["image_id", "class_name", *_CORNERS, *(["rad_id"] if part == "train" else [])]
            require_columns(self.spec, self.root, path, table.columns, wanted)
            table = table.assign(
                part=part, table=path.relative_to(self.root).as_posix(), line=np.arange(len(table)) + 2
            )
            if part == "test":
                table["rad_id"] = ""
            tables.append(table[["image_id", "rad_id", "class_name", *_CORNERS, "part", "table", "line"]])
        rows = pd.concat(tables, ignore_index=True)
        if rows.empty:
            raise DataError(
                f"{self.spec.name}: the tables in {self.root} have no rows. {where_to_get(self.spec, self.root)}"
            )
        rows[_CORNERS] = rows[_CORNERS].apply(pd.to_numeric, errors="coerce")
        return rows

    def _labels(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
        """One row a film, training films first, each part sorted: image_id, part, and 1 or 0 for each class.

        With it, what is wrong with the cells of the tables of labels.
        """
        if (self.root / KAGGLE).is_file():
            said = rows.drop_duplicates(["image_id", "rad_id", "class_name"])
            votes = pd.crosstab(said["image_id"], said["class_name"])
            table = (votes >= AGREE).astype(float)
            table.columns = pd.Index([_name(column) for column in table.columns])
            one_part: pd.DataFrame = table.reset_index().assign(part="train")
            return one_part, []
        tables = []
        problems: list[Problem] = []
        for part, name in LABELS.items():
            path = require_file(self.spec, self.root, [name], f"the labels of the {part} films")
            table = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
            require_columns(self.spec, self.root, path, table.columns, ["image_id", NOTHING])
            cells = table.drop(columns=["image_id", "rad_id"], errors="ignore")
            numbers = cells.apply(pd.to_numeric, errors="coerce")
            for row, column in np.argwhere(~numbers.isin([0, 1]).to_numpy()).tolist():
                film, cell = table["image_id"].iloc[row], cells.iloc[row, column]
                where = f"{cells.columns[column]}: {cell!r}, line {row + 2}, image_id {film}"
                problems.append(Problem(str(film), name, f"label is neither 0 nor 1 ({where})"))
            numbers.columns = pd.Index([_name(column) for column in numbers.columns])
            votes = numbers.groupby(table["image_id"]).sum()
            labels = (votes >= (AGREE if part == "train" else 1)).astype(float)
            tables.append(labels.reset_index().assign(part=part))
        both: pd.DataFrame = pd.concat(tables, ignore_index=True)
        return both, problems

    def _files(self, part: str) -> dict[str, tuple[str, int]]:
        """Path below the root and bytes of each film of a part, by image_id."""
        sizes = folder_sizes(self.spec, self.root, part, "films", (".dicom", ".dcm"))
        return {PurePosixPath(path).stem: (path, size) for path, size in sizes.items()}


def consensus(boxes: Boxes, readers: Sequence[str]) -> Boxes:
    """What readers agree on, of one class on one film.

    The two boxes of different readers that overlap most become one group, then the next two, and so on down to an
    overlap of `OVERLAP`; groups are joined if no reader is in both. A group of at least `AGREE` readers is a box of the
    consensus: the mean of its corners. The order of the rows does not matter.

    Args:
        boxes: (N, 4) x_min, y_min, x_max, y_max in pixels.
        readers: N names.

    Returns:
        (M, 4) likewise, from left to right.
    """
    order = sorted(range(len(boxes)), key=lambda i: (*boxes[i].tolist(), readers[i]))
    boxes = boxes[order]
    names = [readers[i] for i in order]
    groups = {i: [i] for i in range(len(boxes))}
    of = list(range(len(boxes)))
    overlaps = _overlaps(boxes)
    pairs = [
        (-overlaps[i, j], i, j) for i in range(len(boxes)) for j in range(i) if overlaps[i, j] >= OVERLAP
    ]
    for _, i, j in sorted(pairs):
        one, other = of[i], of[j]
        if one == other or {names[k] for k in groups[one]} & {names[k] for k in groups[other]}:
            continue
        groups[one] += groups.pop(other)
        for k in groups[one]:
            of[k] = one
    agreed = [boxes[group].mean(axis=0) for group in groups.values() if len(group) >= AGREE]
    return np.array(sorted(agreed, key=lambda box: tuple(box)), np.float64).reshape(-1, 4)


def _overlaps(boxes: Boxes) -> npt.NDArray[np.float64]:
    """(N, N) intersection over union."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    share: npt.NDArray[np.float64] = shared / (area[:, None] + area[None, :] - shared)
    return share


def _boxes(rows: pd.DataFrame, samples: Sequence[str]) -> tuple[list[Boxes], list[tuple[str, ...]]]:
    """Boxes (x, y, width, height) and their names for each of the films."""
    by_film: dict[str, list[tuple[Boxes, str]]] = {}
    voices = rows.groupby(["image_id", "class_name"])["rad_id"].transform("nunique")
    rows = rows[(voices >= AGREE) | (rows["rad_id"] == "")]
    corners = rows[_CORNERS].to_numpy(np.float64)
    readers = rows["rad_id"].to_numpy(object)
    for key, group in rows.groupby(["image_id", "class_name"], sort=True).indices.items():
        image, name = cast(tuple[str, str], key)
        found = corners[group]
        if readers[group[0]] != "":
            found = consensus(found, readers[group].tolist())
        if len(found):
            by_film.setdefault(image, []).append((found, _name(name)))
    boxes, kinds = [], []
    for sample in samples:
        own = by_film.get(sample, [])
        merged = np.concatenate([found for found, _ in own]) if own else np.zeros((0, 4))
        boxes.append(np.concatenate([merged[:, :2], merged[:, 2:] - merged[:, :2]], axis=1))
        kinds.append(tuple(name for found, name in own for _ in range(len(found))))
    return boxes, kinds


def _row_problems(rows: pd.DataFrame) -> list[Problem]:
    """What the rows themselves show to be wrong."""
    corners = rows[_CORNERS].to_numpy(np.float64)
    nothing = (rows["class_name"] == NOTHING).to_numpy()
    finite = np.isfinite(corners).all(axis=1)
    sound = (
        finite
        & (corners[:, 2] > corners[:, 0])
        & (corners[:, 3] > corners[:, 1])
        & (corners[:, :2] >= 0).all(axis=1)
    )
    problems = []
    for row in np.flatnonzero(~nothing & ~sound).tolist():
        x, y, right, bottom = corners[row].tolist()
        what = box_problem(np.array([x, y, right - x, bottom - y]))
        if what is not None:
            problems.append(_problem(rows, row, what))
    problems += [
        _problem(rows, row, f"{NOTHING}, but with a box") for row in np.flatnonzero(nothing & finite).tolist()
    ]
    # The training films only: of three readers one may find nothing.
    given = (rows["image_id"] + "|" + rows["rad_id"]).to_numpy()
    both = pd.Series(nothing).groupby(given).transform("nunique").to_numpy() > 1
    problems += [
        _problem(rows, row, f"a reader gave findings and {NOTHING}")
        for row in np.flatnonzero(nothing & both).tolist()
    ]
    return problems


def _problem(rows: pd.DataFrame, row: int, what: str) -> Problem:
    at = rows.iloc[row]
    return Problem(
        str(at["image_id"]), str(at["table"]), f"{what} (line {at['line']}, image_id {at['image_id']})"
    )


def _name(column: str) -> str:
    """Name of a label: lower case with underscores; "Other disease" is one of the two spellings of the release."""
    name = column.strip().lower().replace(" ", "_").replace("/", "_")
    return "other_diseases" if name == "other_disease" else name
