"""Anyone's table: guessed columns, options, boxes, splits, and everything that can be wrong with it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.data.prepared import prepare
from medbench.data.reports import sentences
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples
from medbench.errors import DataError, UsageError
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.table import Table

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "table")


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Table]:
    """Makes a table and the films a.png, b.png, ... beside it."""

    def make(content: str | pd.DataFrame, films: str = "abc", name: str = "t.csv", **options: Any) -> Table:
        for film in films:
            Image.fromarray(np.full((20, 30), 50, np.uint8)).save(tmp_path / f"{film}.png")
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content)
        elif path.suffix == ".parquet":
            content.to_parquet(path)
        else:
            content.to_csv(path, index=False)
        return Table(SPEC, path, options)

    return make


def test_real_films_without_options(test_data: Path, tmp_path: Path) -> None:
    dataset = Table(SPEC, test_data / "images_text" / "metadata.csv")
    index = dataset.index()
    assert dataset.mapping == {
        "image": "file",
        "sample": "image_id",
        "patient": "patient_id",
        "sex": "sex",
        "age": "age",
        "view": "view",
        "report": "text",
    }
    assert dataset.notes()[0] == (
        "metadata.csv: image = file, sample = image_id, patient = patient_id, sex = sex, age = age, view = view,"
        " report = text"
    )
    assert dataset.notes()[1:] == ("not used: 68 x empty report",)
    assert len(index) == 201
    assert index.table["patient"].nunique() == 94
    assert index.table["sex"].value_counts().to_dict() == {"M": 138, "F": 59, "": 4}
    assert (index.table["age"].isna().sum(), index.table["age"].max()) == (77, 85)
    assert (
        sum(bool(sentences(report)) for report in index.table["report"])
        == (index.table["report"] != "").sum()
        == 133
    )
    assert (index.source, index.subset, index.labels) == ("real", None, ())
    split = dataset.split(index, "default")
    patients = index.table["patient"].to_numpy()
    assert split.name == "patient_90_10"
    assert len(set(patients[split.val])) == 9
    assert not set(patients[split.train]) & set(patients[split.val])
    assert len(split.train) + len(split.val) == 201
    assert len(split.test) == 0
    some = index.select(np.arange(201) % 20 == 0)
    films = prepare(some, 64, "pad", tmp_path, workers=1, progress=Progress(quiet=True))
    metadata = pd.read_csv(dataset.root)[["height", "width"]].to_numpy()
    np.testing.assert_array_equal(films.sizes, metadata[np.arange(201) % 20 == 0])


def test_real_boxes_of_a_file_of_their_own(test_data: Path) -> None:
    options = {"boxes_file": "lung_boxes.csv", "mask": "lung_mask"}
    dataset = Table(SPEC, test_data / "images_text" / "metadata.csv", options)
    table = dataset.index().table
    annotated = [boxes for boxes in table["boxes"] if boxes is not None]
    assert sum(map(len, annotated)) == 58
    assert 0 < len(annotated) < 201
    assert dataset.mapping["boxes"] == "x, y, width, height of lung_boxes.csv"
    assert table["regions"].notna().sum() == 125


def test_an_image_column_is_enough(table: Callable[..., Table]) -> None:
    dataset = table("path\na.png\nb.png\n")
    index = dataset.index()
    assert index.table["sample"].tolist() == index.table["patient"].tolist() == ["a.png", "b.png"]
    assert index.table["report"].tolist() == ["", ""]
    assert index.table["boxes"].tolist() == [None, None]
    assert (
        dataset.notes()[0]
        == "t.csv: image = path; no patient column: each film is taken for a patient of its own"
    )


def test_sex_and_age_and_what_they_do_not_say(table: Callable[..., Table]) -> None:
    dataset = table("path,Patient Sex,Age\na.png,female,058Y\nb.png,2,\nc.png,,60-70\n")
    rows = dataset.index().table
    assert rows["sex"].tolist() == ["F", "", ""]
    np.testing.assert_array_equal(rows["age"], [58, np.nan, np.nan])
    assert dataset.notes()[0] == (
        "t.csv: image = path, sex = Patient Sex, age = Age; no patient column: each film is taken for a patient of its"
        " own; 1 cells of Patient Sex are no sex that is understood; 1 cells of Age are no age that is understood"
    )
    told = table("path,gender,years\na.png,M,7\nb.png,F,90\n", age="years", sex="")
    assert told.index().table["age"].tolist() == [7, 90]
    assert not told.index().knows("sex") and "sex" not in told.mapping


def test_guessed_names_are_not_particular(table: Callable[..., Table]) -> None:
    dataset = table(
        "Image Path,Subject-ID,Findings,Impression,label_edema\na.png,007,Clear.,Fine.,1\nb.png,008,,Bad.,\n"
    )
    index = dataset.index()
    assert index.table["patient"].tolist() == ["007", "008"]
    assert index.table["report"].tolist() == ["Fine. Clear.", "Bad."]
    assert index.labels == ("edema",)
    np.testing.assert_array_equal(index.table["label_edema"], [1, np.nan])
    assert dataset.mapping["patient"] == "Subject-ID"


def test_options_win_and_can_say_no(table: Callable[..., Table]) -> None:
    content = "image,film,patient,text,words,fracture\nx.png,a.png,p,one,two,0\ny.png,b.png,p,three,four,1\n"
    dataset = table(content, image="film", patient="", report="words", labels="fracture", sample="image")
    rows = dataset.index().table
    assert rows["image"].tolist() == ["a.png", "b.png"]
    assert rows["sample"].tolist() == rows["patient"].tolist() == ["x.png", "y.png"]
    assert rows["report"].tolist() == ["two", "four"]
    assert rows["label_fracture"].tolist() == [0, 1]


def test_parquet_keeps_ids_whole(table: Callable[..., Table]) -> None:
    frame = pd.DataFrame({"image": ["a.png", "b.png"], "patient_id": [12.0, np.nan], "report": ["yes", None]})
    rows = table(frame, name="t.parquet").index().table
    assert rows["patient"].tolist() == ["12", "b.png"]
    assert rows["report"].tolist() == ["yes", ""]


def test_a_repeated_id_is_no_sample(table: Callable[..., Table]) -> None:
    rows = table("image,id\na.png,1\nb.png,1\n").index().table
    assert rows["sample"].tolist() == ["a.png", "b.png"]


def test_several_rows_for_several_boxes(table: Callable[..., Table]) -> None:
    dataset = table("image,patient,x,y,width,height\na.png,p,1,2,3,4\na.png,p,5,6,7,8\nb.png,q,,,,\n")
    index = dataset.index()
    np.testing.assert_array_equal(index.table["boxes"][0], [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert index.table["boxes"][1].shape == (0, 4)
    assert dataset.mapping["boxes"] == "x, y, width, height"


def test_boxes_file_by_image(table: Callable[..., Table], tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,left,top,w,h\na.png,1,2,3,4\nb.png,,,,\n")
    dataset = table("image\na.png\nb.png\nc.png\n", boxes_file="boxes.csv", boxes="left, top, w, h")
    boxes = dataset.index().table["boxes"]
    assert boxes[0].tolist() == [[1, 2, 3, 4]]
    assert boxes[1].shape == (0, 4)
    assert boxes[2] is None


def test_phantom_folder(table: Callable[..., Table], tmp_path: Path) -> None:
    (tmp_path / "PHANTOM.json").write_text("{}")
    assert table("image\na.png\n").index().source == "phantom"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("image\na.png\nz.png\n", {}, r"z\.png: no such file"),
        ("image\na.png\na.png\n", {}, r"row given twice \(sample a\.png\)"),
        ("image,id\na.png,1\n,2\n", {"sample": "id"}, r"row without an image \(sample 2\)"),
        (
            "image,label_x\na.png,1\nb.png,maybe\n",
            {},
            r"label is none of 1, 0 and nothing \(label_x: 'maybe'\)",
        ),
        (
            "image,x,y,width,height\na.png,,,,\nb.png,1,2,three,4\n",
            {},
            r"box is not four numbers \(1, 2, three, 4\)",
        ),
        ("image,x,y,width,height\na.png,,,,\nb.png,1,2,0,4\n", {}, "box without area"),
        (
            "image,x,y,width,height,patient\na.png,,,,,p\nb.png,1,2,3,4,p\nb.png,1,2,3,4,q\n",
            {},
            "rows that disagree",
        ),
        ("image,mask\na.png,a.png\nb.png,no.png\n", {}, r"no\.png: no such mask file"),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    table: Callable[..., Table], content: str, options: dict[str, str], message: str
) -> None:
    dataset = table(content, **options)
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    if "twice" not in message:
        assert dataset.index(exclude_broken=True).table["image"].tolist() == ["a.png"]


def test_a_box_of_nobody(table: Callable[..., Table], tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("image,x,y,width,height\nq.png,1,2,3,4\n")
    with pytest.raises(BrokenSamples, match=r"box of an image that the table does not have \(q\.png\)"):
        table("image\na.png\n", boxes_file="boxes.csv").index()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("foo,bar\n1,2\n", {}, "no column of .* looks like the image files; it has foo, bar"),
        (
            "image\nu.png\nv.png\n",
            {},
            r"none of the 2 images .* was found; the first one was looked for at .*u\.png",
        ),
        (
            "image\na.png\n",
            {"report": "words"},
            r"no column 'words' \(--column report=words\) in .*; it has image",
        ),
        ("image\na.png\n", {"labels": "edema"}, r"no column edema \(--column labels=...\)"),
        ("image\na.png\n", {"boxes": "x,y"}, "--column boxes names 2 columns"),
        ("image\na.png\n", {"boxes_file": "boxes.csv"}, r"looked for .*boxes\.csv and found no file there"),
        ("image\n", {}, "has no rows"),
        ("", {}, "can not be read as a table"),
        ('image\n"a.png\n', {}, "was found|can not be read as a table"),
    ],
)
def test_tables_that_are_refused(
    table: Callable[..., Table], content: str, options: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table(content, **options).index()


def test_files_that_are_refused(table: Callable[..., Table], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for .* and found no file there"):
        Table(SPEC, tmp_path / "none.csv").index()
    with pytest.raises(DataError, match=r"t\.xlsx is neither \.csv, \.tsv nor \.parquet"):
        table("image\na.png\n", name="t.xlsx").index()
    (tmp_path / "t.parquet").write_text("no")
    with pytest.raises(DataError, match=r"t\.parquet can not be read as a table"):
        Table(SPEC, tmp_path / "t.parquet").index()
    with pytest.raises(DataError, match="no kind of column colour for --column"):
        Table(SPEC, tmp_path / "t.csv", {"colour": "x"})


# Splits


def test_the_tables_own_split(table: Callable[..., Table]) -> None:
    dataset = table("image,split\na.png,Train\nb.png,valid\nc.png,testing\n")
    split = dataset.split(dataset.index(), "default")
    assert split.name == "given"
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0], [1], [2]]
    assert dataset.split(dataset.index(), "patient_90_10").name == "patient_90_10"


def test_a_split_without_validation_gives_a_tenth_of_its_patients(table: Callable[..., Table]) -> None:
    dataset = table("image,split\na.png,train_val\nb.png,train\nc.png,test\n")
    split = dataset.split(dataset.index(), "default")
    assert len(split.train) == len(split.val) == 1
    assert split.test.tolist() == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "image,split\na.png,train\nb.png,fold1\n",
            "the split column of .* says 'fold1'; known are train, training",
        ),
        (
            "image,split,patient\na.png,train,p\nb.png,test,p\n",
            r"1 patients of .* are in both train and test \(first: p\)",
        ),
        ("image,patient\na.png,p\nb.png,p\n", "1 patient in .* can not be divided"),
    ],
)
def test_splits_that_are_refused(table: Callable[..., Table], content: str, message: str) -> None:
    dataset = table(content)
    with pytest.raises(DataError, match=message):
        dataset.split(dataset.index(), "default")


def test_too_few_patients_for_a_split_are_nothing_wrong(table: Callable[..., Table]) -> None:
    dataset = table("image,patient\na.png,p\nb.png,p\n")
    index = dataset.index()
    with pytest.raises(SplitUnavailable, match="1 patient in"):
        dataset.split(index, "default")
    assert [check.wrong for check in check_splits(dataset, index)] == [""] * len(dataset.splits)


def test_an_unknown_split(table: Callable[..., Table]) -> None:
    dataset = table("image\na.png\n")
    with pytest.raises(UsageError, match=r"table has no split 'x'\. It has default, patient_90_10"):
        dataset.split(dataset.index(), "x")


def test_tasks_have_somebody_to_test(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(20)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    own = pd.DataFrame({"image": names, "split": ["train"] * 10 + ["val"] * 4 + ["test"] * 6})
    for table, sizes in ((own, (10, 4, 6)), (own.drop(columns="split"), (12, 4, 4))):
        table.to_csv(tmp_path / "films.csv", index=False)
        dataset = Table(SPEC, tmp_path / "films.csv")
        split = dataset.split(dataset.index(), "tested")
        assert (len(split.train), len(split.val), len(split.test)) == sizes
