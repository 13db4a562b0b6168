"""COVIDx in both versions: layouts, labels, splits, and everything that can be wrong with a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import train_test_split
from typer.testing import CliRunner

from medbench.cli import app
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import covidx as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.covidx import CXR4, THREE_CLASS, Covidx

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "covidx")
THREE = {
    "train_COVIDx9A.txt": ["1 a.png normal rsna", "1 b.jpg pneumonia cohen", "2 c.png COVID-19 cohen"],
    "test_COVIDx9A.txt": ["1 d.png COVID-19 sirm"],
}
TWO = {
    "train.txt": ["p1 a.png positive ricord", "p2 b.png negative bimcv", "p1 a.png positive ricord"],
    "val.txt": ["p3 c.png negative bimcv"],
    "test.txt": ["p4 d.png positive ricord"],
}


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Covidx]:
    """Makes a folder of lists with a 16 x 16 film for every line."""

    def make(lists: dict[str, list[str]]) -> Covidx:
        root = tmp_path / "covidx"
        for name, lines in lists.items():
            folder = root / name.partition("_")[0].removesuffix(".txt")
            folder.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("".join(f"{line}\n" for line in lines))
            for line in lines:
                Image.new("L", (16, 16), 90).save(folder / line.split()[1])
        return Covidx(SPEC, root)

    return make


def test_three_classes(layout: Callable[..., Covidx]) -> None:
    dataset = layout(THREE)
    index = dataset.index()
    rows = index.table
    assert dataset.version is THREE_CLASS
    assert list(dataset.splits) == ["clean", "mgca"]
    assert (
        rows["sample"].tolist()
        == rows["image"].tolist()
        == ["train/a.png", "train/b.jpg", "train/c.png", "test/d.png"]
    )
    assert rows["patient"].tolist() == ["rsna/1", "cohen/1", "cohen/2", "sirm/1"]
    assert rows["split"].tolist() == ["train"] * 3 + ["test"]
    assert index.labels == ("normal", "pneumonia", "covid")
    labels = rows[["label_normal", "label_pneumonia", "label_covid"]].to_numpy()
    np.testing.assert_array_equal(labels, np.eye(3)[[0, 1, 2, 2]])
    assert index.subset == "4 of 30,386"


def test_the_lists_may_have_their_short_names(layout: Callable[..., Covidx]) -> None:
    assert (
        layout({name.replace("_COVIDx9A", ""): lines for name, lines in THREE.items()}).version is THREE_CLASS
    )


def test_two_classes(layout: Callable[..., Covidx]) -> None:
    dataset = layout(TWO)
    index = dataset.index()
    assert dataset.version is CXR4
    assert list(dataset.splits) == ["official"]
    assert index.table["sample"].tolist() == ["train/a.png", "train/b.png", "val/c.png", "test/d.png"]
    assert (index.labels, index.table["label_covid"].tolist()) == (("covid",), [1, 0, 0, 1])
    assert list(dataset.notes()) == ["1 lines of the lists name a film again"]
    split = dataset.split(index, "official")
    assert [rows.tolist() for rows in (split.train, split.val, split.test)] == [[0, 1], [2], [3]]
    assert index.subset == "4 of 84,818"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9 a.png COVID-19 rsna", "train/a.png: listed under two classes"),
        ("9 e.png positive rsna", "train/e.png: class that is none of normal, pneumonia, COVID-19"),
        ("9 gone.png normal rsna", "train/gone.png: no such file"),
        ("9 empty.png normal rsna", "train/empty.png: file is empty"),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., Covidx], line: str, message: str
) -> None:
    if "positive" in line:
        dataset = layout({**THREE, "test_COVIDx9A.txt": [*THREE["test_COVIDx9A.txt"], line]})
        message = message.replace("train/", "test/")
    else:
        dataset = layout({**THREE, "train_COVIDx9A.txt": [*THREE["train_COVIDx9A.txt"], line]})
    (dataset.root / "train" / "gone.png").unlink(missing_ok=True)
    if "empty" in line:
        (dataset.root / "train" / "empty.png").write_bytes(b"")
    with pytest.raises(BrokenSamples, match=message) as caught:
        dataset.index()
    index = dataset.index(exclude_broken=True)
    assert not set(index.table["sample"]) & {problem.sample for problem in caught.value.problems}


def test_lists_that_are_none(layout: Callable[..., Covidx]) -> None:
    dataset = layout(THREE)
    path = dataset.root / "train_COVIDx9A.txt"
    for text, message in {
        "1 a.png ill rsna\n": "has the classes ill; expected normal, pneumonia, COVID-19 .* or positive, negative",
        "a.png normal\n": "lines of patient id, file name, class and source; found line 1: 'a.png normal'",
        "": "found an empty file",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            dataset.index()
    path.unlink()
    with pytest.raises(DataError, match=r"looked for the train list, .*train_COVIDx9A\.txt or .*train\.txt"):
        dataset.index()
    assert list(Covidx(SPEC, dataset.root).splits) == ["clean", "mgca", "official"]


def test_a_missing_folder_of_images(layout: Callable[..., Covidx]) -> None:
    dataset = layout(TWO)
    (dataset.root / "val" / "c.png").unlink()
    (dataset.root / "val").rmdir()
    with pytest.raises(DataError, match="looked for the folder of val images"):
        dataset.index()


def test_splits_of_three_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "covidx"
    for part, count in (("train", 29_986), ("test", 400)):
        (root / part).mkdir(parents=True)
        classes = ("normal", "pneumonia", "COVID-19")
        lines = [f"{part}{number // 3} {number}.png {classes[number % 3]} cohen\n" for number in range(count)]
        (root / f"{part}_COVIDx9A.txt").write_text("".join(lines))

    # no film is opened for the index, and to write 30,386 takes long
    sizes = {f"{part}/{n}.png": 1 for part, count in (("train", 29_986), ("test", 400)) for n in range(count)}
    monkeypatch.setattr("medbench_tasks.datasets.covidx.folder_sizes", lambda *words: sizes)
    dataset = Covidx(SPEC, root)
    index = dataset.index()
    assert index.subset is None
    clean, coded = check_splits(dataset, index)
    assert (coded.published, coded.wrong) == ("sizes", "")
    assert coded.samples == {"train": 23_988, "val": 5_998, "test": 400}
    assert (clean.wrong, clean.leak) == ("", "")
    listed = pd.read_csv(root / "train_COVIDx9A.txt", sep=" ", header=None)
    train, val = train_test_split(listed, train_size=0.8, random_state=0)
    samples = index.table["sample"].to_numpy()
    split = dataset.split(index, "mgca")
    assert set(samples[split.train]) == set("train/" + train[1])
    assert set(samples[split.val]) == set("train/" + val[1])


def test_too_few_films_for_a_split_are_nothing_wrong(layout: Callable[..., Covidx]) -> None:
    dataset = layout({**THREE, "train_COVIDx9A.txt": THREE["train_COVIDx9A.txt"][:1]})
    index = dataset.index()
    with pytest.raises(SplitUnavailable, match=r"1 lines of the training list .* too few for the split mgca"):
        dataset.split(index, "mgca")
    assert [check.wrong for check in check_splits(dataset, index)] == ["", ""]


def test_patients_that_test_and_train_are_found(layout: Callable[..., Covidx]) -> None:
    dataset = layout({**TWO, "test.txt": ["p1 d.png positive ricord"]})
    (check,) = check_splits(dataset, dataset.index())
    assert check.wrong == "1 patients are in both train and test (first: ricord/p1)"


@pytest.mark.usefixtures("medbench_home")
def test_the_known_faults_of_benchx_are_found(layout: Callable[..., Covidx], test_data: Path) -> None:
    folder = test_data / "split_lists" / "benchx" / "COVIDx"
    if not folder.is_dir():
        pytest.skip("the real data hold no split lists")
    lists = {
        f"{part}.txt": (folder / f"{part}.txt").read_text().split()[:6] for part in ("train", "val", "test")
    }
    lines = {
        name: [f"p{name}{number} {Path(film).name} positive s" for number, film in enumerate(films)]
        for name, films in lists.items()
    }
    dataset = layout(lines)
    asked = [
        "data",
        "verify",
        "covidx",
        "--data",
        f"covidx={dataset.root}",
        "-q",
        "--split",
        f"lists:{folder}",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 3
    assert "train.txt: 317 duplicate lines" in done.stdout
    assert "val.txt: 34 duplicate lines" in done.stdout
    assert "train_10.txt: 12 duplicate lines" in done.stdout
    assert "not here: train.txt: 67,539 of 67,545 ids are not in covidx" in done.stdout


def test_the_phantom_twin(tmp_path: Path) -> None:
    phantom.write(tmp_path / "twin", patients=30, size=64)
    dataset = Covidx(SPEC, tmp_path / "twin")
    index, problems = verify(dataset, full=True, progress=Progress(quiet=True))
    assert problems == []
    assert (len(index), index.source, index.subset) == (phantom.total(30), "phantom", None)
    labels = index.table[[f"label_{name}" for name in index.labels]].to_numpy()
    assert (labels.sum(axis=1) == 1).all() and labels.any(axis=0).all()
    for check in check_splits(dataset, index):
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
