"""Anyone's own data: a CSV or parquet file with a row a film, images beside it.

    image,patient,report,view
    films/a.png,p1,"Lungs are clear. No effusion.",PA

Which column is what is said by options or guessed from the names (`CANDIDATES`); what was taken
for what is printed (`Table.notes`). Only the image column is needed.
"""

import os
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.csv_tables import read_csv
from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.patients import sexes, years
from medbench.data.regions import MaskFile
from medbench.data.reports import caption
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, hashed_share, hashed_three_way, rows_of
from medbench.data.verify import box_problem, file_problem, settle
from medbench.errors import DataError

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "image": (
        *(
            "image",
            "image_path",
            "image_file",
            "img",
            "img_path",
            "file",
            "file_path",
            "filepath",
            "filename",
        ),
        *("file_name", "path", "dicom", "dicom_path", "dicom_file", "image_index", "image_name"),
    ),
    "sample": ("sample", "sample_id", "image_id", "dicom_id", "sop_instance_uid", "id"),
    "patient": ("patient", "patient_id", "patientid", "subject", "subject_id", "patient_number"),
    "study": ("study", "study_id", "studyid", "study_instance_uid", "accession_number"),
    "sex": ("sex", "patient_sex", "patientsex", "gender", "patient_gender"),
    "age": ("age", "patient_age", "patientage", "age_years"),
    "view": ("view", "view_position", "viewposition", "projection"),
    "split": ("split", "official_split", "partition", "subset"),
    "report": ("report", "report_text", "text", "caption", "note"),
    "findings": ("findings",),
    "impression": ("impression",),
    "mask": ("mask", "mask_path", "mask_file"),
}
"""Names that are taken for a column of each kind, the first one that the table has; case, spaces and dashes
aside."""

BOX = ("x", "y", "width", "height")

PARTS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "train_val"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing"),
}
"""What a split column may say."""

_OPTIONS = (*CANDIDATES, "labels", "boxes", "boxes_file")


class Table(Dataset):
    """A table of films, its paths relative to its folder. `root` is the file.

    Options, all of them names of columns (or "" for: there is none, do not guess):
        image, sample, patient, study, view, split, report, findings, impression, mask.
        sex: F, female, woman, M, male or man in any case; anything else is not known, and `notes` counts it.
        age: years, or an age string of DICOM ("058Y", "011M"); likewise.
        labels: columns with 1, 0 or nothing, as a list or separated by commas; guessed: all called
            `label_...`.
        boxes: four columns (x, y, width, height in pixels of the file, top left origin), guessed by these
            names; a film has as many rows as it has boxes, or one without coordinates if it was annotated and
            has none.
        boxes_file: another CSV, relative to the table's folder, with the image or sample column and the
            boxes; films that it does not name are not annotated.

    Without a patient column each film is taken for a patient of its own, which `notes` says.

    Attributes:
        mapping: after `index`, what was read from which column.
        strange: after `index`, how many cells of `sex` and `age` say something that is not understood.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "default": SplitSpec("the table's split column; without one, patient_90_10"),
        "patient_90_10": SplitSpec(
            "a tenth of the patients, chosen by a hash of their ids, validates; nobody tests"
        ),
        "tested": SplitSpec("as default where the split column names who tests; otherwise patient_60_20_20"),
        "patient_60_20_20": SplitSpec(
            "a fifth of the patients, chosen by a hash of their ids, tests, another fifth validates"
        ),
    }
    mapping: dict[str, str]
    strange: dict[str, int]

    def opened(self) -> None:
        """Refuse options that are no kind of column."""
        self.mapping, self.strange = {}, {}
        unknown = sorted(set(self.options) - set(_OPTIONS))
        if unknown:
            raise DataError(
                f"{self.spec.name}: no kind of column {', '.join(unknown)} for --column. Known: {', '.join(_OPTIONS)}."
            )

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the table and look at the files; see `Dataset.index`. No image is opened."""
        rows = self._read(self.root)
        self.mapping = self._columns(rows)
        folder = self.root.parent
        box_columns = self._box_columns(rows)
        label_columns = self._label_columns(rows)
        labels = tuple(name.removeprefix("label_") for name in label_columns)
        problems: list[Problem] = []

        def text(kind: str) -> pd.Series:
            column = self.mapping.get(kind)
            if column is None:
                return pd.Series("", index=rows.index, dtype=object)
            return rows[column].map(_as_text)

        image = text("image")
        sample = text("sample") if "sample" in self.mapping else image
        if image.eq("").all():
            raise DataError(
                f"table: the column {self.mapping['image']} of {self.root} is empty. {self._hint()}"
            )
        # A film may have several rows only to hold several boxes.
        first = ~sample.duplicated()
        several = not first.all()
        if several and (box_columns is None or "boxes_file" in self.options):
            problems += [
                Problem(name, self.root.name, f"row given twice (sample {name})")
                for name in sorted(set(sample[~first]))
            ]
        table = pd.DataFrame({"sample": sample})
        table["patient"] = text("patient").where(lambda s: s != "", sample)
        table["study"] = text("study").where(lambda s: s != "", sample)
        table["split"] = text("split")
        table["sex"], table["age"] = sexes(text("sex")), years(text("age"))
        self._count_strange("sex", text("sex"), table["sex"] == "")
        self._count_strange("age", text("age"), table["age"].isna())
        table["view"] = text("view")
        table["image"] = image
        table["report"] = self._reports(text)
        if "mask" in self.mapping:
            table["mask"] = text("mask")
        for name, column in zip(labels, label_columns, strict=True):
            table[f"label_{name}"], wrong = _label(rows[column])
            problems += [
                Problem(
                    sample[row], self.root.name, f"label is none of 1, 0 and nothing ({column}: {value!r})"
                )
                for row, value in wrong
            ]
        if several:
            own = [c for c in table.columns if c != "sample"]
            differs = table.groupby("sample", sort=False)[own].nunique(dropna=False).gt(1).any(axis=1)
            problems += [
                Problem(str(name), self.root.name, f"rows that disagree (sample {name})")
                for name in differs[differs].index
            ]
        table = table[first].reset_index(drop=True)
        if {"report", "findings", "impression"} & self.mapping.keys():
            reasons = Counter(self.cleaning.of_text(report).reason for report in table["report"])
            self.dropped = {reason.value: count for reason, count in reasons.items() if reason is not None}
        boxes, box_problems = self._boxes(rows, sample, table, box_columns)
        problems += box_problems
        sizes = [_size(folder / path) if path else None for path in table["image"]]
        if not any(size is not None for size in sizes):
            raise DataError(
                f"table: none of the {len(table):,} images of {self.root} was found; the first one was "
                f"looked for at {folder / table['image'].iloc[0]}. Paths are relative to the table's folder, "
                f"and come from the column {self.mapping['image']}. {self._hint()}"
            )
        table["bytes"] = np.array([size or 0 for size in sizes], np.int64)
        table["boxes"] = pd.Series(boxes, index=table.index, dtype=object)
        for row, size in enumerate(sizes):
            name, path = table["sample"].iloc[row], table["image"].iloc[row]
            if not path:
                problems.append(Problem(name, self.root.name, f"row without an image (sample {name})"))
            elif (what := file_problem(size)) is not None:
                problems.append(Problem(name, path, what))
            if (
                "mask" in table
                and table["mask"].iloc[row]
                and _size(folder / table["mask"].iloc[row]) is None
            ):
                problems.append(Problem(name, table["mask"].iloc[row], "no such mask file"))
        columns: dict[str, Any] = {
            str(name): table[name] for name in table.columns if not str(name).startswith("label_")
        }
        if "mask" in columns:
            masks = columns.pop("mask")
            columns["regions"] = [(MaskFile("mask", path),) if path else None for path in masks]
        index = Index.of(self.spec, folder, columns, labels={name: table[f"label_{name}"] for name in labels})
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`default`: the table's own split column, or `patient_90_10` if it has none.

        `patient_90_10`: a tenth of the patients, chosen by a hash of their ids, validates; nobody tests. The
        same is done to the training part of a split column that names no validation.

        `tested`, which tasks take: the table's own split column where it names who tests, otherwise
        `patient_60_20_20`.
        """
        given = index.table["split"].str.strip().str.lower().to_numpy(dtype=object)
        if name == "patient_60_20_20" or (name == "tested" and not np.isin(given, PARTS["test"]).any()):
            return hashed_three_way(index, "patient_60_20_20", 0.2, 0.2)
        if name == "patient_90_10" or not (given != "").any():
            return _ninety_ten(index, "patient_90_10", np.arange(len(index)), np.zeros(0, np.int64))
        unknown = sorted(set(given) - {value for values in PARTS.values() for value in values} - {""})
        if unknown:
            known = ", ".join(value for values in PARTS.values() for value in values)
            raise DataError(
                f"table: the split column of {self.root} says {', '.join(map(repr, unknown[:10]))}; known "
                f"are {known}. Correct it, or name another column with --column split=NAME."
            )
        train, val, test = (np.flatnonzero(np.isin(given, PARTS[part])) for part in ("train", "val", "test"))
        patients = index.table["patient"].to_numpy()
        parts = {part: set(patients[rows]) for part, rows in (("train", train), ("val", val), ("test", test))}
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            if both := sorted(parts[one] & parts[other]):
                raise DataError(
                    f"table: {len(both):,} patients of {self.root} are in both {one} and {other} (first: "
                    f"{both[0]}). Put each patient into one part; scores would be too good otherwise."
                )
        if not len(val):
            return _ninety_ten(index, "given", train, test)
        return Split("given", train, val, test)

    def notes(self) -> Sequence[str]:
        """What was taken for what."""
        said = ", ".join(f"{kind} = {column}" for kind, column in self.mapping.items())
        if "patient" not in self.mapping:
            said += "; no patient column: each film is taken for a patient of its own"
        for kind, count in self.strange.items():
            said += f"; {count:,} cells of {self.mapping[kind]} are no {kind} that is understood"
        return (f"{self.root.name}: {said}", *super().notes())

    # Which column is what.

    def _read(self, path: Path) -> pd.DataFrame:
        try:
            if path.suffix.lower() in (".parquet", ".pq"):
                rows = pd.read_parquet(path)
            elif path.suffix.lower() in (".csv", ".tsv", ".gz"):
                # Text as it stands: ids like 007 keep their zeros, and "NA" may be a name.
                separator = "\t" if ".tsv" in path.suffixes else ","
                rows = read_csv(path, sep=separator, dtype=str, keep_default_na=False)
            else:
                raise DataError(f"table: {path} is neither .csv, .tsv nor .parquet.")
        except FileNotFoundError as error:
            raise DataError(f"table: looked for {path} and found no file there.") from error
        except (
            ValueError,
            OSError,
            EOFError,
            zlib.error,
        ) as error:  # pandas' parser errors are ValueErrors, and so are Arrow's
            raise DataError(f"table: {path} can not be read as a table ({error}).") from error
        if rows.empty:
            raise DataError(f"table: {path} has no rows.")
        return rows.rename(columns=str)

    def _columns(self, rows: pd.DataFrame) -> dict[str, str]:
        plain = {_plain(column): column for column in reversed(rows.columns)}
        mapping: dict[str, str] = {}
        for kind, candidates in CANDIDATES.items():
            chosen = self.options.get(kind)
            if chosen:
                if chosen not in rows.columns:
                    raise DataError(
                        f"table: no column {chosen!r} (--column {kind}={chosen}) in {self.root}; it has "
                        f"{', '.join(rows.columns)}."
                    )
                mapping[kind] = chosen
            elif chosen is None:
                guesses = [plain[name] for name in candidates if name in plain]
                if kind == "sample":  # an id that repeats is something else
                    guesses = [c for c in guesses if rows[c].nunique() == rows[mapping["image"]].nunique()]
                if guesses:
                    mapping[kind] = guesses[0]
            if kind == "image" and kind not in mapping:
                raise DataError(
                    f"table: no column of {self.root} looks like the image files; it has "
                    f"{', '.join(rows.columns)}. {self._hint()}"
                )
        if "report" in mapping and self.options.get("report") is None:
            # Sections say more about what is what than a whole text, unless that was asked for.
            if "findings" in mapping or "impression" in mapping:
                del mapping["report"]
        elif "report" in mapping:
            mapping.pop("findings", None)
            mapping.pop("impression", None)
        return mapping

    def _hint(self) -> str:
        return "Name the column with --column image=NAME."

    def _label_columns(self, rows: pd.DataFrame) -> list[str]:
        wanted = self.options.get("labels")
        if wanted is None:
            columns = [c for c in rows.columns if c.startswith("label_")]
        else:
            columns = [c.strip() for c in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
            columns = [c for c in columns if c]
            self._need(rows, columns, "labels", self.root)
        if columns:
            self.mapping["labels"] = ", ".join(columns)
        return columns

    def _box_columns(self, rows: pd.DataFrame) -> list[str] | None:
        """Columns of the boxes in this table (not in a file of their own)."""
        wanted = self.options.get("boxes")
        if wanted is None:
            plain = {_plain(column): column for column in reversed(rows.columns)}
            columns = [plain[name] for name in BOX if name in plain]
            if len(columns) < 4:
                return None
        else:
            columns = [c.strip() for c in wanted.split(",")] if isinstance(wanted, str) else list(wanted)
            columns = [c for c in columns if c]
            if not columns:
                return None
            if len(columns) != 4:
                raise DataError(
                    f"table: --column boxes names {len(columns)} columns; x, y, width, height are four."
                )
            if "boxes_file" not in self.options:
                self._need(rows, columns, "boxes", self.root)
        if "boxes_file" not in self.options:
            self.mapping["boxes"] = ", ".join(columns)
        return columns

    def _need(self, rows: pd.DataFrame, columns: Sequence[str], option: str, path: Path) -> None:
        missing = [c for c in columns if c not in rows.columns]
        if missing:
            raise DataError(
                f"table: no column {', '.join(missing)} (--column {option}=...) in {path}; it has "
                f"{', '.join(rows.columns)}."
            )

    # What is in them.

    def _count_strange(self, kind: str, cells: pd.Series, unknown: pd.Series) -> None:
        if count := int((unknown & (cells != "")).sum()):
            self.strange[kind] = count

    def _reports(self, text: Any) -> pd.Series:
        if "report" in self.mapping:
            reports: pd.Series = text("report")
            return reports.map(lambda report: caption(report, ""))
        pairs = zip(text("impression"), text("findings"), strict=True)
        return pd.Series([caption(impression, findings) for impression, findings in pairs], dtype=object)

    def _boxes(
        self, rows: pd.DataFrame, sample: pd.Series, table: pd.DataFrame, columns: list[str] | None
    ) -> tuple[list[npt.NDArray[np.float64] | None], list[Problem]]:
        """Boxes of each row of `table`, None where it is not annotated."""
        path = self.root
        if "boxes_file" in self.options:
            path = self.root.parent / self.options["boxes_file"]
            rows = self._read(path)
            columns = columns or list(BOX)
            self._need(rows, columns, "boxes", path)
            sample = self._owners(rows, table, path)
            self.mapping["boxes"] = f"{', '.join(columns)} of {path.name}"
        if columns is None:
            return [None] * len(table), []
        values = [rows[c].map(_as_text) for c in columns]
        numbers = np.column_stack([pd.to_numeric(v, errors="coerce").to_numpy(np.float64) for v in values])
        empty = np.logical_and.reduce([(v == "").to_numpy() for v in values])
        found: dict[str, list[npt.NDArray[np.float64]]] = {}
        problems = []
        known = set(table["sample"])
        for row, name in enumerate(sample):
            boxes = found.setdefault(name, [])
            if name not in known:
                problems.append(
                    Problem(name, path.name, f"box of an image that the table does not have ({name})")
                )
            elif not empty[row]:
                given = ", ".join(v.iloc[row] for v in values)
                broken = np.isnan(numbers[row]).any()
                what = f"box is not four numbers ({given})" if broken else box_problem(numbers[row])
                if what is not None:
                    problems.append(Problem(name, path.name, f"{what}, sample {name}"))
                boxes.append(numbers[row])
        arrays = {name: np.array(boxes, np.float64).reshape(-1, 4) for name, boxes in found.items()}
        return [arrays.get(name) for name in table["sample"]], problems

    def _owners(self, rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> pd.Series:
        """The sample that each row of the boxes file belongs to."""
        for kind in ("sample", "image"):
            column = self.mapping.get(kind)
            if column in rows.columns:
                owner = dict(zip(table[kind], table["sample"], strict=True))
                return rows[column].map(_as_text).map(lambda value, o=owner: o.get(value, value))
        wanted = " or ".join(self.mapping[kind] for kind in ("sample", "image") if kind in self.mapping)
        raise DataError(
            f"table: {path} has no column {wanted} to tell whose boxes they are; it has "
            f"{', '.join(rows.columns)}."
        )


def _ninety_ten(index: Index, name: str, train: npt.NDArray[np.int64], test: npt.NDArray[np.int64]) -> Split:
    """Take a tenth of the patients of `train` for validation."""
    patients = index.table["patient"].to_numpy()[train]
    if len(set(patients)) < 2:
        raise SplitUnavailable(
            f"table: {len(set(patients))} patient in {index.root} can not be divided into training and "
            "validation. At least two are needed; is the patient column the right one?"
        )
    chosen = rows_of(index, hashed_share(patients, 0.1, "patient_90_10"))
    val = np.intersect1d(train, chosen)
    return Split(name, np.setdiff1d(train, val), val, test)


def _plain(column: str) -> str:
    return column.strip().lower().replace(" ", "_").replace("-", "_")


def _as_text(value: Any) -> str:
    """A cell as text: "" for nothing, and whole numbers without the `.0` that gaps in a column give them."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _label(column: pd.Series) -> tuple[npt.NDArray[np.float64], list[tuple[int, str]]]:
    """Labels as 1, 0 or NaN, and (row, cell) of those that are neither."""
    cells = column.map(_as_text)
    empty = cells.str.lower().isin(["", "nan", "na"])
    numbers = pd.to_numeric(cells.where(~empty), errors="coerce").to_numpy(np.float64)
    wrong = ~empty.to_numpy() & ~np.isin(numbers, [0, 1])
    return np.where(wrong, np.nan, numbers), [(int(row), cells.iloc[row]) for row in np.flatnonzero(wrong)]


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size if path.is_file() else None
    except (OSError, ValueError):  # a name that no file can have is a ValueError
        return None
