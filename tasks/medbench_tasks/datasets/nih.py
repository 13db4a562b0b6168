"""NIH ChestX-ray14: 112,120 frontal films of 30,805 patients, 14 labels read off reports, boxes for 880 of them.

    Data_Entry_2017_v2020.csv          (or Data_Entry_2017.csv, its first edition) a row a film
    train_val_list.txt, test_list.txt  the official split, a file name a line
    BBox_List_2017.csv                 a row a box: x, y, width, height in pixels of the 1024 x 1024 film
    images/00000001_000.png            or images_001/images/ to images_012/images/, as the archives unpack at Kaggle

X. Wang et al., CVPR 2017, pp. 3462-3471.
"""

import os
from collections.abc import Mapping
from typing import ClassVar, Final

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.patients import sexes, years
from medbench.data.splits import Split, SplitSpec, hashed_share
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

ENTRIES: Final = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS: Final = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
BOXES: Final = "BBox_List_2017.csv"

LABELS: Final = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""In the order that published tables of the 14 AUROCs have."""

_PATIENT_COLUMNS: Final = {"sex": ("Patient Gender", "Patient Sex"), "age": ("Patient Age",)}
"""What copies of the table of films call them; not needed."""

_BOX_NAMES: Final = {"Infiltrate": "Infiltration"}
"""Labels that the list of boxes spells in a way of its own."""


class Nih(Dataset):
    """The release's own folder layout. Sample: the file name, "00000001_000.png"; its first eight digits: the patient.

    Labels: `LABELS` in lower case, 1 or 0. Boxes: None for films that nobody drew boxes on, with names as the labels.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "official": SplitSpec(
            "train_val_list.txt and test_list.txt of the release; a tenth of the patients of train_val, by a hash of"
            " their ids, validate",
            (77_324, 9_200, 25_596),
            "9211a5743567461131a0dc01c63d8bd0fca530c5410b2c4dbf19fb759091ebbf",
        )
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables and list the images; see `Dataset.index`. No image is opened."""
        entries = self._entries()
        names = entries["Image Index"]
        found = entries["Finding Labels"].str.get_dummies("|").drop(columns="", errors="ignore")
        files = self._files()
        problems = _entry_problems(entries, found)
        for name in names:
            if (what := file_problem(files[name][1] if name in files else None)) is not None:
                problems.append(Problem(name, f"images/{name}", what))
        known = set(names)
        problems += [
            Problem(name, files[name][0], f"on disk, but not in {entries.attrs['name']}")
            for name in sorted(set(files) - known)
        ]
        boxes = self._boxes()
        strange = ~boxes["name"].isin(known)
        others, boxes = boxes[strange], boxes[~strange]
        problems += _box_problems(boxes)
        listed = self._lists().reindex(names, fill_value=False)
        for which, rows in (("neither list", ~listed.any(axis=1)), ("both lists", listed.all(axis=1))):
            problems += [
                Problem(name, " and ".join(LISTS.values()), f"in {which} of the official split (film {name})")
                for name in names[rows.to_numpy()]
            ]
        own = dict(iter(boxes.groupby("name", sort=False)))
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": names,
                "patient": names.str[:8],
                "split": np.where(
                    listed["test"], "test", np.where(listed["train_val"], "train_val", "")
                ).astype(object),
                "sex": sexes(entries["sex"]),
                "age": years(entries["age"]),
                "view": entries["View Position"],
                "image": [files[name][0] if name in files else f"images/{name}" for name in names],
                "bytes": [files[name][1] if name in files else 0 for name in names],
                "boxes": [
                    own[name][["x", "y", "w", "h"]].to_numpy() if name in own else None for name in names
                ],
                "box_labels": [tuple(own[name]["label"]) if name in own else None for name in names],
            },
            labels={name.lower(): found[name] if name in found else np.zeros(len(names)) for name in LABELS},
        )
        self.dropped = {}
        if index.subset is None:
            what = f"box of a film that is not in {entries.attrs['name']}"
            problems += [
                Problem(name, BOXES, f"{what} (film {name}, line {line})")
                for name, line in zip(others["name"], others["line"], strict=True)
            ]
        elif len(others):  # who cuts the table down keeps the whole list of boxes
            self.dropped["box of a film that is not in the table"] = len(others)
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`official`: as the lists say; a tenth of the patients of train_val validate.

        Divided are the patients of the table, so that a film that is left out moves nobody.
        """
        everyone = self._entries()["Image Index"]
        listed = self._lists().reindex(everyone, fill_value=False)
        trains = (listed["train_val"] & ~listed["test"]).to_numpy()
        validates = hashed_share(everyone[trains].str[:8], 0.1, "nih|official")
        table = index.table
        val = table["patient"].isin(validates).to_numpy()
        train_val = (table["split"] == "train_val").to_numpy()
        parts = (train_val & ~val, train_val & val, (table["split"] == "test").to_numpy())
        return Split(name, *(np.flatnonzero(part) for part in parts))

    def _entries(self) -> pd.DataFrame:
        """The table of films as text, `sex` and `age` as given or ""; `attrs["name"]` is its file's name."""
        path = require_file(self.spec, self.root, ENTRIES, "the table of films")
        entries = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
        wanted = ["Image Index", "Finding Labels", "Patient ID", "View Position"]
        require_columns(self.spec, self.root, path, entries.columns, wanted)
        if entries.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        known = {
            name: next((entries[own] for own in columns if own in entries), "")
            for name, columns in _PATIENT_COLUMNS.items()
        }
        entries = entries[wanted].assign(**known)
        entries.attrs["name"] = path.name
        return entries

    def _lists(self) -> pd.DataFrame:
        """By file name, whether it is in the list: a column for each of `LISTS`."""
        named: dict[str, list[str]] = {}
        for part, name in LISTS.items():
            path = require_file(self.spec, self.root, [name], "a list of the official split")
            # A byte that is no text makes an id that no film has.
            named[part] = path.read_text(encoding="utf-8", errors="replace").split()
        names = pd.Index([name for own in named.values() for name in own], dtype=object).unique()
        return pd.DataFrame({part: names.isin(own) for part, own in named.items()}, index=names)

    def _boxes(self) -> pd.DataFrame:
        """One row a box: name, label (as in `Index.labels`), x, y, w, h, line. The file's header has odd brackets."""
        path = require_file(self.spec, self.root, [BOXES], "the list of boxes")
        rows = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
        require_columns(self.spec, self.root, path, rows.columns, ["Image Index", "Finding Label", "Bbox [x"])
        first = rows.columns.get_loc("Bbox [x")
        assert isinstance(first, int)
        numbers = rows.iloc[:, first : first + 4].apply(pd.to_numeric, errors="coerce")
        numbers.columns = pd.Index(["x", "y", "w", "h"])
        label = rows["Finding Label"].replace(_BOX_NAMES).str.lower()
        boxes: pd.DataFrame = numbers.assign(
            name=rows["Image Index"], label=label, line=np.arange(len(rows)) + 2
        )
        return boxes

    def _files(self) -> dict[str, tuple[str, int]]:
        """Path below the root and bytes of every image on disk, by its name."""
        folders = [self.root / "images", *sorted(self.root.glob("images_*/images"))]
        folders = [folder for folder in folders if folder.is_dir()]
        if not folders:
            raise DataError(
                f"{self.spec.name}: looked for the folder of images, {self.root / 'images'} or"
                f" {self.root / 'images_001' / 'images'}, and found none. Unpack the archives of images there."
                f" {where_to_get(self.spec, self.root)}"
            )
        files: dict[str, tuple[str, int]] = {}
        for folder in folders:
            below = folder.relative_to(self.root).as_posix()
            with os.scandir(folder) as entries:
                files |= {
                    entry.name: (f"{below}/{entry.name}", entry.stat().st_size)
                    for entry in entries
                    if entry.name.endswith(".png")
                }
        return files


def _entry_problems(entries: pd.DataFrame, found: pd.DataFrame) -> list[Problem]:
    """What is wrong with rows; `found` holds a column of 0 and 1 for every name that labels have."""
    names, given = entries["Image Index"], entries["Finding Labels"]
    strange = [name for name in found if name not in (*LABELS, "No Finding")]
    healthy = found.get("No Finding", pd.Series(0, index=found.index))
    nothing = pd.Series("", index=entries.index)
    checks: list[tuple[str, pd.Series[bool], pd.Series[str]]] = [
        ("label that is none of the fourteen", found[strange].any(axis=1), given + ", "),
        ("No Finding and a finding", (healthy == 1) & (found.sum(axis=1) > 1), given + ", "),
        ("no label, not even No Finding", found.sum(axis=1) == 0, nothing),
        ("row given twice", names.duplicated(), nothing),
        (
            "Patient ID and file name name two patients",
            entries["Patient ID"].str.zfill(8) != names.str[:8],
            "Patient ID " + entries["Patient ID"] + ", ",
        ),
    ]
    return [
        Problem(
            str(names.iloc[row]),
            entries.attrs["name"],
            f"{what} ({detail.iloc[row]}film {names.iloc[row]}, line {row + 2})",
        )
        for what, rows, detail in checks
        for row in np.flatnonzero(rows).tolist()
    ]


def _box_problems(boxes: pd.DataFrame) -> list[Problem]:
    labels = {name.lower() for name in LABELS}
    problems = []
    for name, label, line, *box in boxes[["name", "label", "line", "x", "y", "w", "h"]].itertuples(
        index=False
    ):
        what = box_problem(np.array(box, np.float64))
        if what is None and label not in labels:
            what = f"box of a label that is none of the fourteen ({label})"
        if what is not None:
            problems.append(Problem(str(name), BOXES, f"{what}, film {name}, line {line}"))
    return problems
