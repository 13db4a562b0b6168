"""SIIM-ACR Pneumothorax Segmentation 2019: 12,047 annotated films, outlines of pneumothorax as run lengths.

As downloaded for the challenge:

    train-rle.csv                                    "ImageId, EncodedPixels": a row an outline; -1: none
    dicom-images-train/<study>/<series>/<ImageId>.dcm

The header and the values of the second column may begin with a space (they do in the challenge's file, not in every
copy). A film with several outlines has several rows; the pneumothorax is their union. Films on disk that no row names
are not annotated and are left alone: the challenge has 42 of them.

Or the PNG mirror (`pneumothorax-chest-xray-images-and-masks` on Kaggle), alone or below `siim-acr-pneumothorax/`:

    stage_1_train_images.csv, stage_1_test_images.csv   new_filename,ImageId,has_pneumo: a row a film
    png_images/<new_filename>   png_masks/<new_filename>

S. Zawacki et al., SIIM-ACR Pneumothorax Segmentation, Kaggle 2019.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.regions import MaskFile, Region, Rle
from medbench.data.splits import PAIRS, Split, SplitSpec, SplitUnavailable, split_of, three_way
from medbench.data.verify import file_problem, read_table, require_columns, require_file, settle, where_to_get
from medbench.errors import DataError

RUNS = "train-rle.csv"
FILMS = "dicom-images-train"
MIRROR = "siim-acr-pneumothorax"
STAGES = {"train": "stage_1_train_images.csv", "test": "stage_1_test_images.csv"}
LABEL = "pneumothorax"


class Siim(Dataset):
    """The challenge's DICOM tree or its PNG mirror. Sample and patient are the ImageId; label: `pneumothorax`.

    The release does not say which films are of one patient.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "image": SplitSpec(
            "70/15/15 of the images, the sizes that MGCA's numbers are printed with (G2D, Table 6): ids sorted, 2 x "
            "1,807 held out by sklearn's train_test_split, random_state 0, and halved",
            (8_433, 1_807, 1_807),
            "c1da84e8ffb6503bcc83e8ba5b7f9d6c90039c839b74288481403a11554da257",
        ),
        "mgca": SplitSpec(
            "mgca/preprocess/siim.py: 70/15/15 of the table's rows by sklearn's train_test_split, random_state 0",
            (8_578, 1_910, 1_903),
            "81b8a298ab86055f47f6fad328bd9fc69135256e82e6e9c9d9e0b03dda38d9f5",
            leak="624 images have several rows, and 311 of them lie in more than one part",
            shared=PAIRS,
        ),
        "benchx": SplitSpec(
            "BenchX, preprocess_siim.py: the mirror's test films; of the others as many for validation, stratified, "
            "sklearn's train_test_split, random_state 42",
            (9_303, 1_372, 1_372),
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the table and list the films; see `Dataset.index`. No film is opened."""
        below = self._mirror()
        return self._tree(exclude_broken) if below is None else self._pictures(below, exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`image` (70/15/15 of the images), `mgca` (of the rows, as coded) or `benchx` (of the PNG mirror).

        Divided is what the tables name, so that a film that is left out moves no other.
        """
        below = self._mirror()
        images = (self._runs() if below is None else self._stages(below))["ImageId"]
        if name == "image":
            everyone = sorted(set(images))
            return three_way(index, name, round(len(everyone) * 3_614 / 12_047), everyone)
        if name == "mgca":
            if below is not None:
                raise SplitUnavailable(
                    f"{index.dataset}: the split {name} is made of the rows of {RUNS}, "
                    "which the PNG mirror does not have"
                )
            return _by_row(index, name, images)
        if below is None:
            raise SplitUnavailable(
                f"{index.dataset}: the split {name} is made of the file names of the PNG mirror, "
                "which the DICOM tree does not have"
            )
        return _benchx(index, name, self._stages(below))

    # The challenge's tree

    def _tree(self, exclude_broken: bool) -> Index:
        rows = self._runs()
        films = self._films()
        problems = _row_problems(rows)
        drawn = rows[rows["runs"] != "-1"]
        outlines: dict[str, list[Region]] = {}
        for image, runs in zip(drawn["ImageId"], drawn["runs"], strict=True):
            outlines.setdefault(image, []).append(Rle(LABEL, runs))
        images = list(dict.fromkeys(rows["ImageId"]))
        paths = [films.get(image, (f"{FILMS}/<study>/<series>/{image}.dcm", None)) for image in images]
        problems += _file_problems(images, paths)
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": images,
                "patient": images,
                "image": [path for path, _ in paths],
                "bytes": [size or 0 for _, size in paths],
                "regions": [tuple(outlines.get(image, ())) for image in images],
            },
            labels={LABEL: [image in outlines for image in images]},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def _runs(self) -> pd.DataFrame:
        """Rows of the table as text without the spaces: ImageId, runs."""
        path = require_file(self.spec, self.root, [RUNS, STAGES["train"]], "the table of run lengths")
        table = read_table(
            self.spec, self.root, path, dtype=str, keep_default_na=False, skipinitialspace=True
        )
        table.columns = pd.Index([str(column).strip() for column in table.columns])
        require_columns(self.spec, self.root, path, table.columns, ["ImageId", "EncodedPixels"])
        if table.empty:
            raise DataError(f"{self.spec.name}: {path} has no rows. {where_to_get(self.spec, self.root)}")
        return pd.DataFrame(
            {"ImageId": table["ImageId"].str.strip(), "runs": table["EncodedPixels"].str.strip()}
        )

    def _films(self) -> dict[str, tuple[str, int | None]]:
        """Path below the root and bytes of each film on disk, by ImageId."""
        folder = self.root / FILMS
        if not folder.is_dir():
            raise DataError(
                f"{self.spec.name}: looked for the folder of films, {folder}, and it is not there. Put {FILMS} next to "
                f"{RUNS}. {where_to_get(self.spec, self.root)}"
            )
        found: dict[str, tuple[str, int | None]] = {}
        for above, _, _ in os.walk(folder):
            with os.scandir(above) as entries:
                for entry in entries:
                    if entry.name.endswith(".dcm"):
                        path = Path(entry.path).relative_to(self.root).as_posix()
                        found[entry.name.removesuffix(".dcm")] = path, entry.stat().st_size
        return found

    # The PNG mirror

    def _mirror(self) -> str | None:
        """Path of the PNG mirror below the root, with its slash, "" for the root itself; None where there is none."""
        for folder in ("", MIRROR):
            if (self.root / folder / STAGES["train"]).is_file() and not (self.root / RUNS).is_file():
                return f"{folder}/" if folder else ""
        return None

    def _pictures(self, below: str, exclude_broken: bool) -> Index:
        rows = self._stages(below)
        films, masks = (_sizes(self.root / below / name) for name in ("png_images", "png_masks"))
        names = rows["new_filename"].tolist()
        images = rows["ImageId"].tolist()
        paths = [(f"{below}png_images/{name}", films.get(name)) for name in names]
        sick = (rows["has_pneumo"] == "1").tolist()
        problems = _file_problems(images, paths)
        for image, name, flag in zip(images, names, rows["has_pneumo"], strict=True):
            if flag not in ("0", "1"):
                problems.append(Problem(image, name, f"has_pneumo is neither 0 nor 1 ({flag!r})"))
            elif flag == "1" and name not in masks:
                problems.append(Problem(image, f"{below}png_masks/{name}", "no such mask (has_pneumo is 1)"))
        again = rows["ImageId"].duplicated().to_numpy()
        problems += [Problem(i, i, "ImageId given twice") for i in rows["ImageId"][again]]
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": images,
                "patient": images,
                "split": rows["stage"].tolist(),
                "image": [path for path, _ in paths],
                "bytes": [size or 0 for _, size in paths],
                "regions": [
                    (MaskFile(LABEL, f"{below}png_masks/{name}"),) if ill else ()
                    for name, ill in zip(names, sick, strict=True)
                ],
            },
            labels={LABEL: sick},
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def _stages(self, below: str) -> pd.DataFrame:
        """Rows of both tables as text, and `stage`: train or test."""
        tables = []
        for stage, name in STAGES.items():
            path = require_file(self.spec, self.root, [f"{below}{name}"], f"the {stage} table")
            table = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
            require_columns(
                self.spec, self.root, path, table.columns, ["new_filename", "ImageId", "has_pneumo"]
            )
            tables.append(table.assign(stage=stage))
        return pd.concat(tables, ignore_index=True)


def _row_problems(rows: pd.DataFrame) -> list[Problem]:
    """What the rows themselves show to be wrong; run lengths that leave the image are found with its size."""
    runs = rows["runs"]
    both = (runs == "-1").groupby(rows["ImageId"]).transform("nunique") > 1
    wrong = {
        "row without an ImageId": rows["ImageId"] == "",
        "neither run lengths nor -1": ~runs.str.fullmatch(r"-1|\d+( +\d+)*"),
        "both with and without an outline": both,
        "row given twice": rows.duplicated(),
    }
    return [
        Problem(
            str(rows["ImageId"].iloc[row]),
            RUNS,
            f"{what} (line {row + 2}), ImageId {rows['ImageId'].iloc[row]}",
        )
        for what, found in wrong.items()
        for row in np.flatnonzero(found.to_numpy())
    ]


def _file_problems(images: list[str], paths: list[tuple[str, int | None]]) -> list[Problem]:
    problems = []
    for image, (path, size) in zip(images, paths, strict=True):
        if (what := file_problem(size)) is not None:
            problems.append(Problem(image, path, what))
    return problems


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file of a folder; none where there is no folder."""
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}


def _by_row(index: Index, name: str, images: "pd.Series[str]") -> Split:
    """The rows of the table divided, so that an image with several rows may be in several parts."""
    from sklearn.model_selection import train_test_split

    try:
        train, rest = train_test_split(images.to_numpy(object), test_size=0.3, random_state=0)
        test, val = train_test_split(rest, test_size=0.5, random_state=0)
    except ValueError as error:
        raise SplitUnavailable(
            f"{index.dataset}: {len(images)} rows in {index.root} are too few for the split {name} ({error}). Use more "
            "of the dataset."
        ) from error
    return split_of(index, name, train, val, test)


def _benchx(index: Index, name: str, rows: pd.DataFrame) -> Split:
    """BenchX's division of the mirror: films that show a pneumothorax first, each kind in the order of file names."""
    from sklearn.model_selection import train_test_split

    rows = rows.sort_values("new_filename")
    first = rows[rows["stage"] == "train"]
    sick = first["has_pneumo"] == "1"
    ordered = pd.concat([first[sick], first[~sick]])
    test = rows["ImageId"][rows["stage"] == "test"]
    try:
        train, val = train_test_split(
            ordered["ImageId"].to_numpy(object),
            test_size=len(test),
            stratify=ordered["has_pneumo"].to_numpy(object),
            random_state=42,
        )
    except ValueError as error:
        raise SplitUnavailable(
            f"{index.dataset}: {len(ordered)} training and {len(test)} test films in {index.root} can not be divided "
            f"as {name} is ({error}). Use more of the dataset."
        ) from error
    return split_of(index, name, train, val, test.to_numpy(object))
