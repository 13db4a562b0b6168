"""VinDr-CXR: what readers agree on, both releases, the real boxes at full size, and everything that can be wrong."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.images import read_image
from medbench.data.index import Index
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable, parts_sha256
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import vindr as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.vindr import VinDr, _boxes, consensus

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "vindr")
QUIET = Progress(quiet=True)
TRAIN = """\
a,R1,Cardiomegaly,2,2,12,12
a,R2,Cardiomegaly,4,2,14,12
a,R3,No finding,,,,
b,R1,No finding,,,,
b,R2,No finding,,,,
b,R3,ILD,1,1,5,5
c,R1,Nodule/Mass,1,1,5,5
c,R2,Nodule/Mass,20,10,25,15
c,R3,Other lesion,1,1,5,5
"""
TEST = "t,Edema,1,2,9,10\nu,No finding,,,,\n"
NAMES = ["Cardiomegaly", "Edema", "ILD", "Nodule/Mass", "Other lesion", "Other diseases", "No finding"]


def label_table(rows: str, part: str) -> str:
    """The label table that goes with rows of boxes."""
    found: dict[tuple[str, ...], set[str]] = {}
    for row in rows.splitlines():
        image, *rest = row.split(",")
        reader, name = (rest[0], rest[1]) if part == "train" else ("", rest[0])
        found.setdefault((image, reader) if part == "train" else (image,), set()).add(name)
    # The release spells one column in two ways.
    names = [n.removesuffix("s") if part == "train" and n == "Other diseases" else n for n in NAMES]
    header = ["image_id", *(["rad_id"] if part == "train" else []), *names]
    lines = [[*key, *(str(int(name in own)) for name in names)] for key, own in found.items()]
    return "".join(",".join(line) + "\n" for line in [header, *lines])


@pytest.fixture
def physionet(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., VinDr]:
    def make(train: str = TRAIN, test: str = TEST) -> VinDr:
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for part, rows in (("train", train), ("test", test)):
            for name in {row.split(",")[0] for row in rows.splitlines()}:
                make_film(tmp_path / part / f"{name}.dicom", inverted=name == "a")
            reader = "rad_id," if part == "train" else ""
            header = f"image_id,{reader}class_name,x_min,y_min,x_max,y_max\n"
            (tmp_path / f"annotations/annotations_{part}.csv").write_text(header + rows)
            (tmp_path / f"annotations/image_labels_{part}.csv").write_text(label_table(rows, part))
        return VinDr(SPEC, tmp_path)

    return make


@pytest.fixture
def kaggle(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., VinDr]:
    def make(rows: str = TRAIN) -> VinDr:
        lines = []
        for row in rows.splitlines():
            image, reader, name, *corners = row.split(",")
            make_film(tmp_path / "train" / f"{image}.dicom")
            lines.append(",".join([image, name, "3", reader, *corners]))
        header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
        (tmp_path / "train.csv").write_text("\n".join([header, *lines]))
        return VinDr(SPEC, tmp_path)

    return make


def test_the_index(physionet: Callable[..., VinDr]) -> None:
    dataset = physionet()
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == ["a", "b", "c", "t", "u"]
    assert table["image"].tolist()[2:4] == ["train/c.dicom", "test/t.dicom"]
    assert table["split"].tolist() == ["train"] * 3 + ["test"] * 2
    assert table["label_cardiomegaly"].tolist() == [1, 0, 0, 0, 0]
    assert table["label_nodule_mass"].tolist() == [0, 0, 1, 0, 0]
    assert table["label_ild"].sum() == 0  # one reader of three
    assert table["label_edema"].tolist() == [0, 0, 0, 1, 0]
    assert table["label_no_finding"].tolist() == [0, 1, 0, 0, 1]
    assert table["label_other_diseases"].tolist() == [0] * 5
    np.testing.assert_array_equal(table["boxes"][0], [[3, 2, 10, 10]])
    assert [len(boxes) for boxes in table["boxes"]] == [1, 0, 0, 1, 0]
    assert table["box_labels"].tolist() == [("cardiomegaly",), (), (), ("edema",), ()]
    assert index.subset == "5 of 18,000"
    assert verify(dataset, full=True, progress=QUIET)[1] == []
    split = dataset.split(index, "official")
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0, 1, 2], [], [3, 4]]
    # A film stored as MONOCHROME1 comes out as the others do.
    inverted, plain = (read_image(dataset.root / f"train/{name}.dicom") for name in "ab")
    assert (inverted == plain).all()


def test_kaggles_release(kaggle: Callable[..., VinDr]) -> None:
    dataset = kaggle()
    index = dataset.index()
    assert index.table["sample"].tolist() == ["a", "b", "c"]
    assert index.table["label_nodule_mass"].tolist() == [0, 0, 1]
    assert [len(boxes) for boxes in index.table["boxes"]] == [1, 0, 0]
    assert index.subset == "3 of 18,000"
    with pytest.raises(SplitUnavailable, match="take the split train"):
        dataset.split(index, "clean")
    checks = {check.name: check for check in check_splits(dataset, index)}
    assert checks["clean"].wrong == checks["official"].wrong == ""
    # Too few films for a split are nothing wrong with a folder.
    assert checks["train"].wrong == ""
    with pytest.raises(SplitUnavailable, match=r"3 training films in .* can not be divided as train is"):
        dataset.split(index, "train")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("d,R1,ILD,5,5,5,9\n", r"box without area .*line 11, image_id d"),
        ("d,R1,ILD,5,5,4,9\n", "box without area"),
        ("d,R1,ILD,-5,5,4,9\n", "box outside its image"),
        ("d,R1,ILD,5,5,,9\n", "box is not four numbers"),
        ("d,R1,ILD,5,5,wide,9\n", "box is not four numbers"),
        ("d,R1,No finding,5,5,6,9\n", "No finding, but with a box"),
        ("d,R1,No finding,,,,\nd,R1,ILD,5,5,6,9\n", "a reader gave findings and No finding"),
    ],
)
def test_what_is_wrong_is_named(physionet: Callable[..., VinDr], rows: str, message: str) -> None:
    dataset = physionet(TRAIN + rows)
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert dataset.index(exclude_broken=True).table["sample"].tolist() == ["a", "b", "c", "t", "u"]


@pytest.mark.parametrize(
    ("part", "film", "line", "value"),
    [("train", "b", 6, "banana"), ("train", "b", 6, ""), ("train", "b", 6, "2"), ("test", "u", 3, "-1")],
)
def test_labels_that_are_neither_0_nor_1(
    physionet: Callable[..., VinDr], tmp_path: Path, part: str, film: str, line: int, value: str
) -> None:
    dataset = physionet()
    path = tmp_path / f"annotations/image_labels_{part}.csv"
    table = pd.read_csv(path, dtype=str)
    assert table["image_id"][line - 2] == film
    table.loc[line - 2, "Edema"] = value
    table.to_csv(path, index=False)
    with pytest.raises(BrokenSamples) as caught:
        dataset.index()
    (problem,) = caught.value.problems
    assert (problem.sample, problem.path) == (film, f"annotations/image_labels_{part}.csv")
    assert problem.what == f"label is neither 0 nor 1 (Edema: {value!r}, line {line}, image_id {film})"
    assert film not in set(dataset.index(exclude_broken=True).table["sample"])


def test_annotations_of_films_that_the_labels_do_not_have(
    physionet: Callable[..., VinDr], tmp_path: Path
) -> None:
    dataset = physionet()
    path = tmp_path / "annotations/annotations_test.csv"
    path.write_text(path.read_text() + "x,Edema,1,2,9,10\nx,Edema,9,9,9,9\n")
    assert len(dataset.index()) == 5  # of 18,000: the labels were cut down, and the annotations were not
    assert dataset.notes() == ("not used: 2 x annotation of a film that is not in the table of labels",)
    whole = VinDr(replace(SPEC, official_size=5), tmp_path)
    with pytest.raises(BrokenSamples) as caught:
        whole.index()
    assert [(problem.sample, problem.path, problem.what) for problem in caught.value.problems] == [
        (
            "x",
            "annotations/annotations_test.csv",
            f"annotation of a film that is not in the table of labels (line {line}, image_id x)",
        )
        for line in (4, 5)
    ]
    assert len(whole.index(exclude_broken=True)) == 5


def test_missing_things(physionet: Callable[..., VinDr], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looked for the train boxes"):
        VinDr(SPEC, tmp_path).index()
    dataset = physionet()
    (tmp_path / "test/t.dicom").unlink()
    with pytest.raises(BrokenSamples, match=r"test/t\.dicom: no such file"):
        dataset.index()
    (tmp_path / "annotations/image_labels_test.csv").unlink()
    with pytest.raises(DataError, match="looked for the labels of the test films"):
        dataset.index()


def test_agreement() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [50, 50, 60, 60]], float)
    np.testing.assert_array_equal(consensus(boxes, ["R1", "R2", "R3", "R1"]), [[1, 0, 11, 10]])
    # Two boxes of one reader are two findings, however much they overlap.
    assert len(consensus(boxes[:2], ["R1", "R1"])) == 0
    np.testing.assert_array_equal(consensus(boxes[:3], ["R1", "R1", "R2"]), [[1.5, 0, 11.5, 10]])
    assert consensus(np.zeros((0, 4)), []).shape == (0, 4)


@given(st.data())
def test_agreement_does_not_depend_on_the_order(data: st.DataObject) -> None:
    numbers = st.integers(0, 12)
    given_boxes = data.draw(
        st.lists(
            st.tuples(numbers, numbers, numbers, numbers, st.sampled_from(["R1", "R2", "R3"])), max_size=8
        )
    )
    rows = [((x, y, x + 1 + w, y + 1 + h), reader) for x, y, w, h, reader in given_boxes]
    shuffled = data.draw(st.permutations(rows))
    one, other = (
        consensus(np.array([box for box, _ in some], float).reshape(-1, 4), [reader for _, reader in some])
        for some in (rows, shuffled)
    )
    np.testing.assert_allclose(one, other)


def test_real_boxes_at_full_size(label_files: Path, tmp_path: Path, test_data: Path) -> None:
    packed = label_files / "vinbigdata-train.csv.gz"
    (tmp_path / "train.csv").write_bytes(gzip.decompress(packed.read_bytes()))
    dataset = VinDr(SPEC, tmp_path)
    rows = dataset._rows()
    assert len(rows) == 67_914
    labels, _ = dataset._labels(rows)
    assert len(labels) == 15_000
    assert labels[["cardiomegaly", "aortic_enlargement", "no_finding"]].sum().tolist() == [
        1_817,
        2_346,
        10_606,
    ]
    samples = labels["image_id"].tolist()
    boxes, kinds = _boxes(rows[rows["class_name"] != "No finding"], samples)
    assert (sum(map(len, boxes)), sum(map(bool, kinds))) == (8_824, 4_239)
    # A box of the consensus always has its label; of 8,825 labels 990 have no box.
    given_labels = labels.set_index("image_id")
    pairs = {(sample, kind) for sample, own in zip(samples, kinds, strict=True) for kind in own}
    positive = {
        (sample, name)
        for name in given_labels.columns.drop(["part", "no_finding"])
        for sample in given_labels.index[given_labels[name] == 1]
    }
    assert pairs <= positive
    assert (len(positive), len(positive - pairs)) == (8_825, 990)
    index = Index("vindr", tmp_path, "real", pd.DataFrame({"sample": samples, "patient": samples}))
    split = dataset.split(index, "train")
    assert split.sha256(index) == VinDr.splits["train"].sha256
    assert tuple(map(len, (split.train, split.val, split.test))) == VinDr.splits["train"].sizes
    # The test films of PhysioNet's release, which Kaggle's has no labels of, are those of BenchX's lists.
    test = (test_data / "split_lists/benchx/VinDr_CXR/test.txt").read_text().split()
    assert parts_sha256({"train": samples, "val": [], "test": test}) == VinDr.splits["official"].sha256


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path, patients=42, size=64)
    dataset = VinDr(SPEC, tmp_path)
    index, problems = verify(dataset, full=True, progress=QUIET)
    assert (len(index), problems, index.source) == (42, [], "phantom")
    assert index.table["split"].value_counts().to_dict() == {"train": 35, "test": 7}
    assert len(index.labels) == 28
    assert sum(map(len, index.table["boxes"])) > 20
    assert all(check.wrong == "" for check in check_splits(dataset, index))


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
