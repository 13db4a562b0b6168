"""The ChestX-ray14 layout: phantom, real films, full label files, and everything that can be wrong with a folder."""

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.data.index import Index
from medbench.data.lists import read_lists
from medbench.data.split_check import check_splits
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import nih as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.nih import Nih

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "nih")
ENTRIES = """Image Index,Finding Labels,Follow-up #,Patient ID,View Position,
00000001_000.png,Cardiomegaly|Effusion,0,1,PA,
00000001_001.png,No Finding,1,1,AP,
00000002_000.png,Infiltration|Pleural_Thickening,0,2,PA,
00000003_000.png,No Finding,0,3,PA,
"""
BOXES = """Image Index,Finding Label,Bbox [x,y,w,h],,,
00000002_000.png,Infiltrate,1,2,10,12.5,,,
00000002_000.png,Nodule,20,3,5,6,,,
"""
NAMES = [f"{row.partition(',')[0]}" for row in ENTRIES.splitlines()[1:]]


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Nih]:
    """Makes a folder of 32 x 32 films; `films` are paths below it."""

    def make(
        entries: str = ENTRIES, boxes: str = BOXES, films: list[str] | None = None, test: str = NAMES[3]
    ) -> Nih:
        root = tmp_path / "nih"
        for film in films or [f"images/{name}" for name in NAMES]:
            path = root / film
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), 90).save(path)
        (root / "Data_Entry_2017_v2020.csv").write_text(entries)
        (root / "BBox_List_2017.csv").write_text(boxes)
        (root / "train_val_list.txt").write_text("\n".join(NAMES[:3]))
        (root / "test_list.txt").write_text(test)
        return Nih(SPEC, root)

    return make


def test_the_index(layout: Callable[..., Nih]) -> None:
    index = layout().index()
    rows = index.table
    assert rows["sample"].tolist() == NAMES
    assert rows["patient"].tolist() == ["00000001", "00000001", "00000002", "00000003"]
    assert rows["split"].tolist() == ["train_val"] * 3 + ["test"]
    assert rows["view"].tolist() == ["PA", "AP", "PA", "PA"]
    assert rows["image"].tolist() == [f"images/{name}" for name in NAMES]
    assert len(index.labels) == 14
    assert rows["label_cardiomegaly"].tolist() == rows["label_effusion"].tolist() == [1, 0, 0, 0]
    assert rows["label_pleural_thickening"].tolist() == [0, 0, 1, 0]
    assert rows["label_hernia"].tolist() == [0, 0, 0, 0]
    assert [boxes is None for boxes in rows["boxes"]] == [True, True, False, True]
    np.testing.assert_array_equal(rows["boxes"][2], [[1, 2, 10, 12.5], [20, 3, 5, 6]])
    assert rows["box_labels"][2] == ("infiltration", "nodule")
    assert index.subset == "4 of 112,120"


@pytest.mark.parametrize(("column", "ages"), [("Patient Gender", "058Y"), ("Patient Sex", "58")])
def test_sex_and_age_where_the_table_has_them(layout: Callable[..., Nih], column: str, ages: str) -> None:
    rows = layout().index().table
    assert rows["sex"].tolist() == [""] * 4 and rows["age"].isna().all()
    first, *films = ENTRIES.splitlines()
    entries = [f"{first}{column},Patient Age", f"{films[0]}F,{ages}", *(f"{film}M,414" for film in films[1:])]
    rows = layout(entries="\n".join(entries)).index().table
    assert rows["sex"].tolist() == ["F", "M", "M", "M"]
    assert rows["age"][0] == 58 and rows["age"][1:].isna().all()


def test_twelve_folders_and_the_first_edition(layout: Callable[..., Nih]) -> None:
    films = [f"images_0{number:02d}/images/{name}" for number, name in zip((1, 1, 2, 12), NAMES, strict=True)]
    dataset = layout(films=films)
    (dataset.root / "Data_Entry_2017_v2020.csv").rename(dataset.root / "Data_Entry_2017.csv")
    assert dataset.index().table["image"].tolist() == films


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"entries": ENTRIES.replace("No Finding,1", "No Finding|Mass,1")},
            rf"No Finding and a finding \(No Finding\|Mass, film {NAMES[1]}, line 3\)",
        ),
        (
            {"entries": ENTRIES.replace("No Finding,1", "Measles,1")},
            rf"none of the fourteen \(Measles, film {NAMES[1]}, line 3\)",
        ),
        (
            {"entries": ENTRIES.replace("No Finding,1", ",1")},
            rf"no label, not even No Finding \(film {NAMES[1]}, line 3\)",
        ),
        (
            {"entries": ENTRIES.replace("1,1,AP", "1,2,AP")},
            rf"file name name two patients \(Patient ID 2, film {NAMES[1]}, line 3\)",
        ),
        (
            {"entries": ENTRIES + ENTRIES.splitlines()[2] + "\n"},
            rf"row given twice \(film {NAMES[1]}, line 6\)",
        ),
        ({"films": [f"images/{name}" for name in NAMES if name != NAMES[1]]}, "no such file"),
        (
            {"films": [f"images/{name}" for name in (*NAMES, "00000009_000.png")]},
            "on disk, but not in Data_Entry",
        ),
        (
            {"boxes": BOXES.replace("Nodule", "Measles")},
            rf"box of a label that is none of the fourteen \(measles\), film {NAMES[2]}, line 3",
        ),
        ({"boxes": BOXES.replace("12.5", "0")}, rf"box without area \(.*\), film {NAMES[2]}, line 2"),
        ({"boxes": BOXES.replace("12.5", "wide")}, "box is not four numbers"),
        ({"test": ""}, rf"in neither list of the official split \(film {NAMES[3]}\)"),
        ({"test": "\n".join(NAMES[2:])}, rf"in both lists of the official split \(film {NAMES[2]}\)"),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., Nih], files: dict[str, object], message: str
) -> None:
    dataset = layout(**files)
    with pytest.raises(BrokenSamples, match=message) as caught:
        dataset.index()
    assert "nih: 1 samples have problems" in str(caught.value)
    index = dataset.index(exclude_broken=True)
    assert not set(index.table["sample"]) & {problem.sample for problem in caught.value.problems}


def test_two_things_wrong_with_a_film_are_both_named(layout: Callable[..., Nih]) -> None:
    dataset = layout(entries=ENTRIES.replace("No Finding,1,1", "Measles,1,2"))
    with pytest.raises(BrokenSamples) as caught:
        dataset.index()
    assert [problem.what.partition(" (")[0] for problem in caught.value.problems] == [
        "label that is none of the fourteen",
        "Patient ID and file name name two patients",
    ]


def test_a_list_that_is_not_text(layout: Callable[..., Nih]) -> None:
    dataset = layout()
    (dataset.root / "test_list.txt").write_bytes(b"\xff\xfe" + NAMES[3].encode())
    with pytest.raises(BrokenSamples, match=rf"in neither list of the official split \(film {NAMES[3]}\)"):
        dataset.index()


def test_boxes_of_films_that_the_table_does_not_have(layout: Callable[..., Nih]) -> None:
    dataset = layout(boxes=BOXES + "00000009_000.png,Mass,1,2,3,4,,,\n")
    assert len(dataset.index()) == 4  # of 112,120: the table was cut down, and the list of boxes was not
    assert dataset.notes() == ("not used: 1 x box of a film that is not in the table",)
    whole = Nih(replace(SPEC, official_size=4), dataset.root)
    with pytest.raises(BrokenSamples) as caught:
        whole.index()
    (problem,) = caught.value.problems
    assert (problem.sample, problem.path) == ("00000009_000.png", "BBox_List_2017.csv")
    assert problem.what == (
        "box of a film that is not in Data_Entry_2017_v2020.csv (film 00000009_000.png, line 4)"
    )
    assert len(whole.index(exclude_broken=True)) == 4
    assert whole.notes() == ()


def test_a_box_outside_its_film(layout: Callable[..., Nih]) -> None:
    dataset = layout(boxes=BOXES.replace("12.5", "100"))
    _, problems = verify(dataset, full=False, progress=Progress(quiet=True))
    assert [(p.sample, p.what.partition(" (")[0]) for p in problems] == [(NAMES[2], "box outside its image")]


@pytest.mark.parametrize(
    "name", ["BBox_List_2017.csv", "train_val_list.txt", "test_list.txt", "Data_Entry_2017_v2020.csv"]
)
def test_missing_files(layout: Callable[..., Nih], name: str) -> None:
    dataset = layout()
    (dataset.root / name).unlink()
    with pytest.raises(DataError, match=f"looked for .*{name}"):
        dataset.index()


def test_missing_images(layout: Callable[..., Nih]) -> None:
    dataset = layout()
    shutil.rmtree(dataset.root / "images")
    with pytest.raises(DataError, match="looked for the folder of images"):
        dataset.index()


# Real label files


class _Listed(Nih):
    """Every film of the table is there, one byte long."""

    def _files(self) -> dict[str, tuple[str, int]]:
        return {name: (f"images/{name}", 1) for name in self._entries()["Image Index"]}


@pytest.fixture(scope="module")
def full_release(
    label_files: Path, test_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Nih, Index]:
    root = tmp_path_factory.mktemp("nih")
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (root / name).write_bytes(gzip.decompress((label_files / f"{name}.gz").read_bytes()))
    for part in ("train_val", "test"):
        shutil.copy(test_data / "label_lists" / f"nih_{part}_list.txt", root / f"{part}_list.txt")
    dataset = _Listed(SPEC, root)
    return dataset, dataset.index()


def test_the_full_release(full_release: tuple[Nih, Index]) -> None:
    dataset, index = full_release
    table = index.table
    assert (len(index), index.subset, table["patient"].nunique()) == (112_120, None, 30_805)
    assert table["split"].value_counts().to_dict() == {"train_val": 86_524, "test": 25_596}
    positives = {name: int(table[f"label_{name}"].sum()) for name in index.labels}
    assert positives == {
        "atelectasis": 11_559,
        "cardiomegaly": 2_776,
        "effusion": 13_317,
        "infiltration": 19_894,
        "mass": 5_782,
        "nodule": 6_331,
        "pneumonia": 1_431,
        "pneumothorax": 5_302,
        "consolidation": 4_667,
        "edema": 2_303,
        "emphysema": 2_516,
        "fibrosis": 1_686,
        "pleural_thickening": 3_385,
        "hernia": 227,
    }
    assert table["sex"].value_counts().to_dict() == {"M": 63_340, "F": 48_780}
    assert (table["age"].min(), table["age"].max(), table["age"].isna().sum()) == (0, 95, 0)
    boxed = table[table["boxes"].notna()]
    assert (len(boxed), sum(map(len, boxed["boxes"]))) == (880, 984)
    assert set(boxed["split"]) == {"test"}
    names = pd.Series([name for own in boxed["box_labels"] for name in own]).value_counts()
    assert names["infiltration"] == 123 and names["atelectasis"] == 180
    (check,) = check_splits(dataset, index)
    assert (check.published, check.wrong, check.samples) == (
        "yes",
        "",
        {"train": 77_324, "val": 9_200, "test": 25_596},
    )


def test_the_lists_of_benchx(full_release: tuple[Nih, Index], test_data: Path) -> None:
    folder = test_data / "split_lists" / "benchx" / "NIH_Chest_Xray"
    if not folder.is_dir():
        pytest.skip("the real data hold no split lists")
    listed = read_lists(full_release[1], folder)
    assert [len(rows) for rows in (listed.split.train, listed.split.val, listed.split.test)] == [
        78_468,
        11_219,
        22_433,
    ]
    assert listed.problems == ("train_1.txt: 708 of 785 samples are not in train_10.txt",)
    assert (listed.fatal, listed.split.leak) == (0, "")


@pytest.fixture
def sample(test_data: Path, tmp_path: Path) -> Nih:
    """The release's layout made of 612 real films, which are half as large as the release's, and of their boxes."""
    root = tmp_path / "nih"
    (root / "images").mkdir(parents=True)
    labels = pd.read_csv(test_data / "nih" / "labels.csv", dtype=str)
    for image, name in zip(labels["image"], labels["image_index"], strict=True):
        os.symlink(test_data / "nih" / image, root / "images" / name)
    columns = {
        "image_index": "Image Index",
        "finding_labels": "Finding Labels",
        "patient_id": "Patient ID",
        "age": "Patient Age",
        "sex": "Patient Gender",
        "view": "View Position",
    }
    labels.rename(columns=columns)[list(columns.values())].to_csv(
        root / "Data_Entry_2017_v2020.csv", index=False
    )
    for part, own in labels.groupby("official_split"):
        (root / f"{part}_list.txt").write_text("\n".join(own["image_index"]))
    boxes = pd.read_csv(test_data / "nih" / "boxes.csv")
    boxes = boxes[boxes["source"] == "nih_bbox_list_2017"]
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for row in boxes.itertuples():
        lines.append(f"{row.image_index},{row.label},{row.x},{row.y},{row.width},{row.height},,,")
    (root / "BBox_List_2017.csv").write_text("\n".join(lines) + "\n")
    return Nih(SPEC, root)


def test_real_films(sample: Nih) -> None:
    index, problems = verify(sample, full=False, progress=Progress(quiet=True))
    assert problems == []
    assert (len(index), index.subset, index.table["patient"].nunique()) == (612, "612 of 112,120", 415)
    assert index.table["label_pneumonia"].sum() == 295
    assert index.table["label_infiltration"].sum() == 103
    assert index.table["sex"].value_counts().to_dict() == {"M": 318, "F": 294}
    assert index.table["age"].between(5, 85).all()
    assert sum(len(boxes) for boxes in index.table["boxes"] if boxes is not None) == 28
    assert set(index.table["split"]) == {"train_val", "test"}
    (check,) = check_splits(sample, index)
    assert (check.published, check.wrong, sum(check.samples.values())) == ("n/a", "", 612)


# Phantoms


def test_the_phantom_twin(tmp_path: Path) -> None:
    phantom.write(tmp_path / "twin", patients=24, size=64)
    dataset = Nih(SPEC, tmp_path / "twin")
    index, problems = verify(dataset, full=True, progress=Progress(quiet=True))
    assert problems == []
    assert (len(index), index.source, index.subset) == (phantom.total(24), "phantom", None)
    truth = [phantom.patient(int(patient) - 1).anatomy for patient in index.table["patient"]]
    assert index.table["sex"].tolist() == [anatomy.sex for anatomy in truth]
    assert index.table["age"].tolist() == [anatomy.age for anatomy in truth]
    boxed = index.table[index.table["boxes"].notna()]
    assert len(boxed) and set(boxed["split"]) == {"test"}
    for names, row in zip(boxed["box_labels"], boxed.itertuples(), strict=True):
        assert all(getattr(row, f"label_{name}") == 1 for name in names)
    (check,) = check_splits(dataset, index)
    assert check.wrong == "" and all(check.samples.values())


def test_the_twin_is_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for number, workers in enumerate((1, 2)):
        root = tmp_path / str(number)
        phantom.write(root, patients=4, size=64, workers=workers)
        contents.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
