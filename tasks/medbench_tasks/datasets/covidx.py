"""COVIDx: films with and without COVID-19 from many sources, in the two versions that papers use.

    train_COVIDx9A.txt, test_COVIDx9A.txt     three classes: normal, pneumonia, COVID-19 (or train.txt, test.txt)
    train.txt, val.txt, test.txt              COVIDx CXR-4: two classes, positive and negative
    train/<file>, val/<file>, test/<file>     the films, PNG and JPEG

A line of a list: patient id, file name, class, source, with blanks between them. Which version a folder holds is told
by the classes of its training list.

L. Wang, Z. Q. Lin, A. Wong, Scientific Reports 2020, arXiv 2003.09871; Y. Wu et al. (CXR-4), arXiv 2311.17677.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, hashed_share
from medbench.data.verify import file_problem, folder_sizes, require_file, settle, where_to_get
from medbench.errors import DataError

LISTS: Final = {
    "train": ("train_COVIDx9A.txt", "train.txt"),
    "val": ("val.txt",),
    "test": ("test_COVIDx9A.txt", "test.txt"),
}


@dataclass(frozen=True)
class Version:
    """What the lists of a version hold.

    Attributes:
        classes: as the lists write them, with the value of each label.
        parts: its lists.
        rows: of all lists together.
        splits: names of those of `Covidx.splits` that it has; the first one is the default.
    """

    classes: Mapping[str, Mapping[str, int]]
    parts: tuple[str, ...]
    rows: int
    splits: tuple[str, ...]


THREE_CLASS: Final = Version(
    {
        "normal": {"normal": 1, "pneumonia": 0, "covid": 0},
        "pneumonia": {"normal": 0, "pneumonia": 1, "covid": 0},
        "COVID-19": {"normal": 0, "pneumonia": 0, "covid": 1},
    },
    ("train", "test"),
    29_986 + 400,
    ("clean", "mgca"),
)
CXR4: Final = Version(
    {"positive": {"covid": 1}, "negative": {"covid": 0}},
    ("train", "val", "test"),
    67_863 + 8_473 + 8_482,
    ("official",),
)


class Covidx(Dataset):
    """Sample: the path, "train/<file>". Patient: source and patient id of the list, for sources number from 1 each.

    Labels: `normal`, `pneumonia` and `covid`, one of them 1; of CXR-4 `covid` alone. `splits` are those of the version
    that the folder holds; of both where it holds neither.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "clean": SplitSpec(
            "three classes: test is the test list; a fifth of the patients of the training list, by a hash of their"
            " ids, validate"
        ),
        "mgca": SplitSpec(
            "three classes, mgca/preprocess/covidx.py: 80/20 of the rows of the training list, sklearn's"
            " train_test_split, random_state 0; test is the test list",
            (23_988, 5_998, 400),
            leak="films are divided, not patients: who has several films is in the training and in the validation part",
            shared=(("train", "val"),),
        ),
        "official": SplitSpec("COVIDx CXR-4: train.txt, val.txt, test.txt as released"),
    }

    def opened(self) -> None:
        """Leave only the splits of the version whose lists are here."""
        self._again = 0
        try:
            own = self.version.splits
        except DataError:
            return  # what is wrong is said once the folder is read
        self.splits = {name: type(self).splits[name] for name in own}  # type: ignore[misc]  # no class knows the folder

    @property
    def version(self) -> Version:
        """Told by the classes of the training list.

        Raises:
            DataError: there is no list, or its classes are those of neither version.
        """
        found = set(self._list("train")["class"])
        for version in (THREE_CLASS, CXR4):
            if found <= set(version.classes):
                return version
        raise DataError(
            f"{self.spec.name}: the training list in {self.root} has the classes {', '.join(sorted(found)[:6])};"
            f" expected {', '.join(THREE_CLASS.classes)} (versions 6 to 9A) or {', '.join(CXR4.classes)} (CXR-4)."
            f" {where_to_get(self.spec, self.root)}"
        )

    def notes(self) -> Sequence[str]:
        """How many lines name a film again."""
        return [f"{self._again:,} lines of the lists name a film again"] if self._again else []

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the lists and list the images; see `Dataset.index`. No image is opened.

        The released lists name some films twice; such a film counts once.
        """
        version = self.version
        rows = pd.concat([self._list(part) for part in version.parts], ignore_index=True)
        complete = len(rows) >= version.rows
        classes = rows.groupby("sample", sort=False)["class"]
        two = classes.transform("nunique") > 1
        rows["wrong"] = ""
        rows.loc[two, "wrong"] = "listed under two classes"
        strange = ~rows["class"].isin(version.classes)
        rows.loc[strange, "wrong"] = "class that is none of " + ", ".join(version.classes)
        again = rows["sample"].duplicated()
        self._again = int(again.sum())
        rows = rows[~again].reset_index(drop=True)
        sizes: dict[str, int] = {}
        for part in version.parts:
            sizes |= folder_sizes(self.spec, self.root, part, f"{part} images")
        problems = []
        for sample, wrong in zip(rows["sample"], rows["wrong"], strict=True):
            if wrong or (wrong := file_problem(sizes.get(sample)) or ""):
                problems.append(Problem(sample, sample, wrong))
        names = next(iter(version.classes.values()))
        nothing = dict.fromkeys(names, 0)
        values = pd.DataFrame([version.classes.get(own, nothing) for own in rows["class"]])
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": rows["sample"],
                "patient": rows["patient"],
                "split": rows["part"],
                "image": rows["sample"],
                "bytes": [sizes.get(sample, 0) for sample in rows["sample"]],
            },
            labels={name: values[name] for name in names},
            official_size=len(rows) if complete else version.rows,
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`clean` and `mgca` of the three-class version, `official` of CXR-4.

        Divided are the lines of the training list, so that a film that is left out moves nobody.
        """
        table = index.table
        test = (table["split"] == "test").to_numpy()
        if name == "official":
            train, val = ((table["split"] == part).to_numpy() for part in ("train", "val"))
        else:
            listed = self._list("train")
            if name == "mgca":
                from sklearn.model_selection import train_test_split  # 2 s to import

                try:
                    held_out = train_test_split(listed["sample"], train_size=0.8, random_state=0)[1]
                except ValueError as error:
                    raise SplitUnavailable(
                        f"{index.dataset}: {len(listed)} lines of the training list in {index.root} are too few for the"
                        f" split {name} ({error}). Use more of the dataset."
                    ) from error
                val = table["sample"].isin(held_out).to_numpy()
            else:
                val = table["patient"].isin(hashed_share(listed["patient"], 0.2, "covidx|clean")).to_numpy()
            trains = (table["split"] == "train").to_numpy()
            train, val = trains & ~val, trains & val
        return Split(name, *(np.flatnonzero(part) for part in (train, val, test)))

    def _list(self, part: str) -> pd.DataFrame:
        """One list: sample, patient, class, part."""
        path = require_file(self.spec, self.root, LISTS[part], f"the {part} list")
        lines = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line]
        odd = next((number for number, line in enumerate(lines, 1) if len(line) != 4), None)
        if odd is not None or not lines:
            found = f"line {odd}: {' '.join(lines[odd - 1])[:80]!r}" if odd is not None else "an empty file"
            raise DataError(
                f"{self.spec.name}: {path} has lines of patient id, file name, class and source; found {found}."
                f" {where_to_get(self.spec, self.root)}"
            )
        rows = pd.DataFrame(lines, columns=["id", "file", "class", "source"], dtype=object)
        return pd.DataFrame(
            {
                "sample": f"{part}/" + rows["file"],
                "patient": rows["source"] + "/" + rows["id"],
                "class": rows["class"],
                "part": part,
            }
        )
