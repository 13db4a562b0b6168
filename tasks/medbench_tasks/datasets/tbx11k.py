"""TBX11K: 8,400 annotated films of 512 x 512 pixels; boxes around active and healed ("latent") tuberculosis.

    annotations/json/TBX11K_train.json   TBX11K_val.json   COCO's format; file_name is below imgs/
    imgs/health/h0001.png   imgs/sick/s0001.png   imgs/tb/tb0001.png

at the root or below `TBX11K/`, as the archive unpacks. The folder of a film is its class: healthy, sick but without
tuberculosis, tuberculosis. The boxes of the JSON files are in pixels of the 512 x 512 films; those of annotations/xml
are in pixels of the much larger originals, which were not released, and are not read. imgs/test (3,302 films) has no
public labels and imgs/extra is of other datasets: neither is read.

Y. Liu et al., Rethinking Computer-Aided Tuberculosis Diagnosis, CVPR 2020.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, split_of
from medbench.data.verify import box_problem, file_problem, folder_sizes, require_file, settle, where_to_get
from medbench.errors import DataError

TABLES = {"train": "annotations/json/TBX11K_train.json", "val": "annotations/json/TBX11K_val.json"}
FILMS = "imgs"
FOLDERS = {"health": "healthy", "sick": "sick_non_tb", "tb": "tuberculosis"}
KINDS = {
    "ActiveTuberculosis": "active_tb",
    "ObsoletePulmonaryTuberculosis": "latent_tb",
    "PulmonaryTuberculosis": "uncertain_tb",
}
"""Names of boxes by the release's; the third one is declared there and not used."""

_STRAY = "box of a film that is not in the table"


@dataclass(frozen=True)
class _Box:
    """An annotation of a table: image_id of its film, the table it is in, its own id, its kind, and its bbox."""

    film: str
    table: str
    annotation: str
    kind: str
    given: Any

    @property
    def corner_and_size(self) -> list[float] | None:
        """x, y, width, height in pixels; None if they are not four numbers."""
        try:
            numbers = [float(number) for number in self.given] if isinstance(self.given, list) else []
        except (TypeError, ValueError, OverflowError):
            return None
        return numbers if len(numbers) == 4 else None

    def problem(self) -> str | None:
        """What is wrong with it, as far as can be told without its film."""
        if self.corner_and_size is None:
            return f"box is not four numbers (bbox {str(self.given)[:60]})"
        return box_problem(np.array(self.corner_and_size, np.float64))


class Tbx11k(Dataset):
    """The release's own layout. Sample and patient are the film's name, as `tb0001`; labels as below.

    `healthy`, `sick_non_tb`, `tuberculosis` by folder; `active_tb`, `latent_tb` by boxes, and not known for a film with
    tuberculosis and no box (tb1199), which counts as not annotated. The release does not say which films are of one
    patient.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "benchx": SplitSpec(
            "BenchX, preprocess_tbx11k.py: 70/15/15 of the films with a box or without tuberculosis, sorted, by "
            "sklearn's train_test_split, stratified by tuberculosis, random_state 42",
            (5_879, 1_260, 1_260),
            "53335e87af42fa0f7cf84b11faaa5d33446e02fe6d129c4ebd441068bc608a94",
        ),
        "official": SplitSpec(
            "the release's TBX11K_train and TBX11K_val; the labels of its test films are not public",
            (6_600, 1_800, 0),
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables and list the films; see `Dataset.index`. No film is opened."""
        below = self._below()
        films, boxes = self._tables(below)
        names = films["file_name"].tolist()
        images = [f"{below}{FILMS}/{name}" for name in names]
        samples = [PurePosixPath(name).stem for name in names]
        folders = [PurePosixPath(name).parent.name for name in names]
        sizes: dict[str, int] = {}
        for folder in FOLDERS:
            sizes |= folder_sizes(self.spec, self.root, f"{below}{FILMS}/{folder}", "films", ".png")
        problems = [
            Problem(sample, image, what)
            for sample, image in zip(samples, images, strict=True)
            if (what := file_problem(sizes.get(image))) is not None
        ]
        listed = set(images)
        problems += [
            Problem(PurePosixPath(image).stem, image, "on disk, but in neither table")
            for image in sorted(sizes)
            if image not in listed
        ]
        twice = pd.Series(samples).duplicated()
        problems += [Problem(s, f"{s}.png", "film given twice") for s in np.array(samples, object)[twice]]
        for sample, image, folder in zip(samples, images, folders, strict=True):
            if folder not in FOLDERS:
                problems.append(Problem(sample, image, f"film in none of the folders {', '.join(FOLDERS)}"))
        own, kinds = [], []
        for film, sample, folder in zip(films["key"], samples, folders, strict=True):
            found = boxes.get(film, [])
            problems += [
                Problem(sample, f"{sample}.png", f"{what}, film {sample}, annotation {box.annotation}")
                for box in found
                if (what := box.problem()) is not None
            ]
            if found and folder != "tb":
                problems.append(
                    Problem(sample, f"{sample}.png", f"film with a box outside the folder tb ({folder})")
                )
            unknown = folder == "tb" and not found
            # Of a film with a box that is none the index holds the others, until the film is left out.
            drawn = [box for box in found if box.corner_and_size is not None]
            own.append(
                None
                if unknown
                else np.array([box.corner_and_size for box in drawn], np.float64).reshape(-1, 4)
            )
            kinds.append(None if unknown else tuple(box.kind for box in drawn))
        labels: dict[str, list[float]] = {
            name: [float(folder == f) for f in folders] for folder, name in FOLDERS.items()
        }
        for kind in ("active_tb", "latent_tb"):
            labels[kind] = [np.nan if have is None else kind in have for have in kinds]
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": samples,
                "patient": samples,
                "split": films["part"].tolist(),
                "image": images,
                "bytes": [sizes.get(image) or 0 for image in images],
                "boxes": own,
                "box_labels": kinds,
            },
            labels=labels,
        )
        self.dropped = {}
        known = set(films["key"])
        others = [box for key, found in boxes.items() if key not in known for box in found]
        if index.subset is None:
            problems += [
                Problem(box.film, box.table, f"{_STRAY} (image_id {box.film}, annotation {box.annotation})")
                for box in others
            ]
        elif others:  # who cuts the list of films down keeps the annotations
            self.dropped[_STRAY] = len(others)
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`benchx` (70/15/15) or `official` (no test part).

        Divided is what the tables name, so that a film that is left out moves no other.
        """
        films, boxes = self._tables(self._below())
        films = films.assign(sample=[PurePosixPath(n).stem for n in films["file_name"]])
        if name == "official":
            train, val = (films["sample"][films["part"] == part] for part in ("train", "val"))
            return split_of(index, name, train, val, [])
        sick = films["file_name"].str.startswith("tb/")
        films = films.assign(sick=sick)[~sick | films["key"].isin(set(boxes))].sort_values("sample")
        from sklearn.model_selection import train_test_split

        everyone, kind = films["sample"].to_numpy(object), films["sick"].to_numpy(bool)
        try:
            train, rest, _, kinds = train_test_split(
                everyone, kind, test_size=0.3, stratify=kind, random_state=42
            )
            val, test = train_test_split(rest, test_size=0.5, stratify=kinds, random_state=42)
        except ValueError as error:
            raise SplitUnavailable(
                f"{index.dataset}: {len(everyone)} films in {index.root} can not be divided as {name} is ({error}). "
                "Use more of the dataset."
            ) from error
        return split_of(index, name, train, val, test)

    def _below(self) -> str:
        """Path of the release below the root, with its slash."""
        return "TBX11K/" if (self.root / "TBX11K" / TABLES["train"]).is_file() else ""

    def _tables(self, below: str) -> tuple[pd.DataFrame, dict[str, list["_Box"]]]:
        """Films of both tables (key, file_name, part), and the boxes of each key."""
        films: list[dict[str, str]] = []
        boxes: dict[str, list[_Box]] = {}
        for part, name in TABLES.items():
            path = require_file(self.spec, self.root, [f"{below}{name}"], f"the table of the {part} films")
            table = self._read(path)
            try:
                kinds = {entry["id"]: KINDS[entry["name"]] for entry in table["categories"]}
                films += [
                    {"key": f"{part}/{entry['id']}", "file_name": str(entry["file_name"]), "part": part}
                    for entry in table["images"]
                ]
                for entry in table["annotations"]:
                    box = _Box(
                        film=str(entry["image_id"]),
                        table=f"{below}{name}",
                        annotation=str(entry.get("id", "without an id")),
                        kind=kinds[entry["category_id"]],
                        given=entry["bbox"],
                    )
                    boxes.setdefault(f"{part}/{box.film}", []).append(box)
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{self.spec.name}: {path} is not in COCO's format with the release's categories "
                    f"({type(error).__name__}: {error}). Is it the original file? {where_to_get(self.spec, self.root)}"
                ) from error
        return pd.DataFrame(films, columns=["key", "file_name", "part"], dtype=object), boxes

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{self.spec.name}: {path} can not be read as JSON ({error}). {where_to_get(self.spec, self.root)}"
            ) from error
