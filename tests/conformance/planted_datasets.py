"""A folder of films and a table of them, once for every check of a dataset with a bug that this check has to find."""

import random
from dataclasses import replace
from itertools import count
from typing import ClassVar

import numpy as np
import pandas as pd
from PIL import Image

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.splits import Split, SplitSpec, hashed_three_way
from medbench.data.verify import settle
from medbench.hookspecs import hookimpl
from medbench.specs import DatasetSpec

SOUND = DatasetSpec(
    name="sound_data",
    target="planted_datasets:Films",
    summary="no bug",
    reference="tests",
    licence="none",
    access="https://example.org",
    official_size=1000,
    phantom="planted_datasets:write",
    phantom_patients={"default": 40, "micro": 20},
)


def total(patients):
    return patients


def write(root, *, patients, workers=1, advance=None, first=0):
    root.mkdir(parents=True)
    rows = []
    for number in range(patients):
        Image.fromarray(np.full((16, 16), 7 * number % 256, np.uint8)).save(root / f"{number}.png")
        rows.append({"image": f"{number}.png", "patient": f"p{number}", "ill": number % 2})
    rows[0]["ill"] = first
    pd.DataFrame(rows).to_csv(root / "films.csv", index=False)
    (root / "PHANTOM.json").write_text("{}")


WRITTEN = count()


def write_anew(root, *, patients, workers=1, advance=None):
    write(root, patients=patients, first=next(WRITTEN) % 2)


class Films(Dataset):
    """No bug."""

    splits: ClassVar = {"thirds": SplitSpec("patients divided by a hash of their ids")}

    def columns(self, rows):
        sizes = [
            (self.root / name).stat().st_size if (self.root / name).is_file() else 0 for name in rows["image"]
        ]
        return {
            "sample": list(rows["image"]),
            "patient": list(rows["patient"]),
            "image": list(rows["image"]),
            "bytes": sizes,
        }

    def index(self, *, exclude_broken=False):
        rows = pd.read_csv(self.root / "films.csv", dtype={"patient": str})
        columns = self.columns(rows)
        problems = [
            Problem(name, name, "no such file") for name in rows["image"] if not (self.root / name).is_file()
        ]
        index = Index.of(self.spec, self.root, columns, labels={"ill": rows["ill"]})
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index, name):
        return hashed_three_way(index, name, val=0.3, test=0.3)


class NoSplits(Films):
    """Nobody says who tests."""

    splits: ClassVar = {}


class Twice(Films):
    """Two samples of one name."""

    def columns(self, rows):
        found = super().columns(rows)
        return found | {"sample": [found["sample"][1], *found["sample"][1:]]}


class Sizes(Films):
    """Sizes that are not those of the files."""

    def columns(self, rows):
        return super().columns(rows) | {"bytes": [7] * len(rows)}


class NotFilms(Films):
    """Files that are no images."""

    def index(self, *, exclude_broken=False):
        (self.root / "0.png").write_text("no image")
        return super().index(exclude_broken=exclude_broken)


class Shared(Films):
    """One patient of all films, on both sides."""

    def columns(self, rows):
        return super().columns(rows) | {"patient": ["p0"] * len(rows)}

    def divide(self, index, name):
        third = len(index) // 3
        rows = np.arange(len(index))
        return Split(name, rows[:third], rows[third : 2 * third], rows[2 * third :])


class Shuffled(Films):
    """Rows in any order."""

    def index(self, *, exclude_broken=False):
        found = super().index(exclude_broken=exclude_broken)
        order = random.SystemRandom().sample(range(len(found)), len(found))
        return replace(found, table=found.table.iloc[order].reset_index(drop=True))


class Blind(Films):
    """Films that are gone are samples as before."""

    def index(self, *, exclude_broken=False):
        rows = pd.read_csv(self.root / "films.csv", dtype={"patient": str})
        return Index.of(self.spec, self.root, self.columns(rows), labels={"ill": rows["ill"]})


BUGS = {
    "declaration": {"target": "planted_datasets:NoSplits"},
    "docs": {"summary": ""},
    "access": {"licence": ""},
    "index": {"target": "planted_datasets:Twice"},
    "index__sizes": {"target": "planted_datasets:Sizes"},
    "images": {"target": "planted_datasets:NotFilms"},
    "splits": {"target": "planted_datasets:Shared"},
    "repeatable": {"target": "planted_datasets:Shuffled"},
    "reports": {"paired": True},
    "phantom": {"phantom": "planted_datasets:write_anew"},
    "missing_file": {"target": "planted_datasets:Blind"},
}


@hookimpl
def medbench_datasets():
    yield SOUND
    for name, changes in BUGS.items():
        yield replace(SOUND, name=f"bug_data_{name}", **changes)
