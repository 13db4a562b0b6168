"""SIIM-ACR: the DICOM tree and its mirror, the real table at full size, and everything that can be wrong."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.data.index import Index
from medbench.data.regions import Rle, decode_rle, encode_rle, mask_of
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import siim as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.siim import Siim

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "siim")
QUIET = Progress(quiet=True)
GOOD = "a, -1\nb, 3 2 18 2\nb, 100 4\nc, -1\n"


@pytest.fixture
def tree(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., Siim]:
    def make(rows: str = GOOD, films: str = "abc", header: str = "ImageId, EncodedPixels") -> Siim:
        for name in films:
            make_film(tmp_path / "dicom-images-train" / f"study-{name}" / "series" / f"{name}.dcm")
        (tmp_path / "train-rle.csv").write_text(f"{header}\n{rows}")
        return Siim(SPEC, tmp_path)

    return make


def test_the_index(tree: Callable[..., Siim]) -> None:
    dataset = tree(films="abcd")  # d is not annotated, as 42 films of the challenge
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == table["patient"].tolist() == ["a", "b", "c"]
    assert table["image"][1] == "dicom-images-train/study-b/series/b.dcm"
    assert table["label_pneumothorax"].tolist() == [0, 1, 0]
    assert table["regions"].tolist() == [
        (),
        (Rle("pneumothorax", "3 2 18 2"), Rle("pneumothorax", "100 4")),
        (),
    ]
    assert table["boxes"].isna().all()
    assert (index.source, index.subset) == ("real", "3 of 12,047")
    mask = mask_of(table["regions"][1], 20, 30, dataset.root)
    # Column by column from the top left corner; 3, 4, 23, 24 and 100 to 103 down the columns of 20.
    assert sorted(map(tuple, np.argwhere(mask.T))) == [
        *((0, 3), (0, 4), (1, 3), (1, 4)),
        *((5, 0), (5, 1), (5, 2), (5, 3)),
    ]
    assert verify(dataset, full=True, progress=QUIET)[1] == []


@pytest.mark.parametrize("space", ["", " "])
def test_spaces_of_the_table_say_nothing(tree: Callable[..., Siim], space: str) -> None:
    rows = GOOD.replace(", ", f",{space}")
    index = tree(rows, header=f"ImageId,{space}EncodedPixels").index()
    assert index.table["label_pneumothorax"].tolist() == [0, 1, 0]
    assert len(index.table["regions"][1]) == 2


@pytest.mark.parametrize(
    ("rows", "films", "message"),
    [
        ("d, -1\n", "abc", "d.dcm: no such file"),
        ("d, \n", "abcd", r"neither run lengths nor -1 \(line 6\), ImageId d"),
        ("d, 1 two\n", "abcd", "neither run lengths nor -1"),
        ("d, -1 5\n", "abcd", "neither run lengths nor -1"),
        (", -1\n", "abc", r"row without an ImageId \(line 6\)"),
        ("d, -1\nd, 1 2\n", "abcd", "both with and without an outline"),
        ("d, 1 2\nd, 1 2\n", "abcd", "row given twice"),
    ],
)
def test_what_is_wrong_is_named(tree: Callable[..., Siim], rows: str, films: str, message: str) -> None:
    dataset = tree(GOOD + rows, films)
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert dataset.index(exclude_broken=True).table["sample"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("runs", ["1 2 3", "590 20"])
def test_run_lengths_that_do_not_fit_are_found_with_the_films(tree: Callable[..., Siim], runs: str) -> None:
    index, problems = verify(tree(f"{GOOD}d, {runs}\n", "abcd"), full=False, progress=QUIET)
    assert [problem.sample for problem in problems] == ["d"]
    assert "run lengths" in problems[0].what
    assert len(index) == 3


def test_missing_things(tree: Callable[..., Siim], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="looked for the table of run lengths"):
        Siim(SPEC, tmp_path).index()
    with pytest.raises(DataError, match="has no column EncodedPixels; it has ImageId, Mask"):
        tree(header="ImageId, Mask").index()
    shutil.rmtree(tmp_path / "dicom-images-train")
    with pytest.raises(DataError, match="looked for the folder of films"):
        tree(films="").index()
    with pytest.raises(DataError, match="has no rows"):
        tree("", films="a").index()


def test_real_rows_at_full_size(label_files: Path, tmp_path: Path) -> None:
    packed = label_files / "siim-pneumothorax-train-rle.csv.gz"
    (tmp_path / "train-rle.csv").write_bytes(gzip.decompress(packed.read_bytes()))
    dataset = Siim(SPEC, tmp_path)
    rows = dataset._runs()
    assert len(rows) == 12_954
    images = list(dict.fromkeys(rows["ImageId"]))
    sick = set(rows["ImageId"][rows["runs"] != "-1"])
    assert (len(images), len(sick)) == (12_047, 2_669)
    index = Index.of(
        SPEC,
        tmp_path,
        {"sample": images, "patient": images, "image": images, "bytes": np.ones(len(images))},
        labels={"pneumothorax": [image in sick for image in images]},
    )
    assert index.subset is None
    checks = {check.name: check for check in check_splits(dataset, index)}
    assert [checks[name].published for name in ("image", "mgca", "benchx")] == ["yes", "yes", "n/a"]
    assert [check.wrong for check in checks.values()] == ["", "", ""]
    assert tuple(checks["image"].samples.values()) == (8_433, 1_807, 1_807)
    # What the leak of the coded split says of itself.
    several = rows["ImageId"].value_counts()
    assert (several > 1).sum() == 624
    split = dataset.split(index, "mgca")
    parts = np.concatenate([split.train, split.val, split.test])
    assert (np.bincount(parts) > 1).sum() == 311
    assert "624" in split.leak and "311" in split.leak
    # Each run-length code is the mask that it is decoded to; areas are sums of the second numbers.
    drawn = rows["runs"][rows["runs"] != "-1"]
    for runs in drawn[::37]:
        mask = decode_rle(runs, 1024, 1024)
        numbers = np.array(runs.split(), np.int64)
        assert mask.sum() == numbers[1::2].sum()
        assert (decode_rle(encode_rle(mask), 1024, 1024) == mask).all()
    assert all(Rle("", runs).problem(1024, 1024, tmp_path) is None for runs in drawn)


def test_leaving_a_film_out_moves_no_other(tree: Callable[..., Siim]) -> None:
    names = "abcdefghijklmnopqrst"
    dataset = tree("".join(f"{name}, -1\n" for name in names), names)
    whole = dataset.index()
    before = {name: dataset.split(whole, name) for name in ("image", "mgca")}
    (dataset.root / "dicom-images-train/study-g/series/g.dcm").unlink()
    rest = dataset.index(exclude_broken=True)
    for name, split in before.items():
        after = dataset.split(rest, name)
        for part in ("train", "val", "test"):
            was = set(whole.table["sample"].to_numpy()[getattr(split, part)])
            assert set(rest.table["sample"].to_numpy()[getattr(after, part)]) == was - {"g"}


# The PNG mirror


@pytest.fixture
def mirror(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., Siim]:
    def make(below: str = "siim-acr-pneumothorax", films: int = 16) -> Siim:
        folder = tmp_path / below
        for stage, numbers in (("train", range(films)), ("test", range(4))):
            rows = []
            for number in numbers:
                sick = number % 2
                name = f"{number}_{stage}_{sick}_.png"
                rows.append(f"{name},{stage}.{number},{sick}\n")
                make_film(folder / "png_images" / name)
                mask = np.zeros((20, 30), np.uint8)
                mask[3:9, 4:10] = 255 * sick
                (folder / "png_masks").mkdir(exist_ok=True)
                Image.fromarray(mask).save(folder / "png_masks" / name)
            header = "new_filename,ImageId,has_pneumo\n"
            (folder / f"stage_1_{stage}_images.csv").write_text(header + "".join(rows))
        return Siim(SPEC, tmp_path)

    return make


@pytest.mark.parametrize("below", ["", "siim-acr-pneumothorax"])
def test_the_mirror(mirror: Callable[..., Siim], below: str) -> None:
    dataset = mirror(below)
    index = dataset.index()
    assert index.table["sample"].tolist()[:2] == ["train.0", "train.1"]
    assert index.table["split"].value_counts().to_dict() == {"train": 16, "test": 4}
    assert index.table["image"][1] == f"{below}/png_images/1_train_1_.png".lstrip("/")
    assert mask_of(index.table["regions"][1], 20, 30, dataset.root).sum() == 36
    assert index.table["regions"][0] == ()
    assert verify(dataset, full=True, progress=QUIET)[1] == []
    split = dataset.split(index, "benchx")
    assert (index.table["split"].to_numpy()[split.test] == "test").all()
    assert [len(part) for part in (split.train, split.val, split.test)] == [12, 4, 4]
    with pytest.raises(SplitUnavailable, match="made of the rows of train-rle"):
        dataset.split(index, "mgca")
    assert [check.wrong for check in check_splits(dataset, index)] == ["", "", ""]


def test_what_is_wrong_with_a_mirror(mirror: Callable[..., Siim], tmp_path: Path) -> None:
    dataset = mirror("")
    (tmp_path / "png_masks/1_train_1_.png").unlink()
    (tmp_path / "png_images/2_train_0_.png").unlink()
    Image.new("L", (8, 8)).save(tmp_path / "png_masks/3_train_1_.png")
    with pytest.raises(BrokenSamples, match="no such mask"):
        dataset.index()
    found = {problem.sample: problem.what for problem in verify(dataset, full=False, progress=QUIET)[1]}
    assert found["train.1"] == "no such mask (has_pneumo is 1)"
    assert found["train.2"].startswith("no such file")
    assert found["train.3"].startswith("mask of another size")
    assert len(found) == 3


def test_the_mirrors_split_is_benchxs(test_data: Path, tmp_path: Path) -> None:
    lists = test_data / "split_lists/benchx/SIIM"
    parts = {part: (lists / f"{part}.txt").read_text().split() for part in ("train", "val", "test")}
    for stage, names in (("train", parts["train"] + parts["val"]), ("test", parts["test"])):
        rows = [f"{name}.png,{name},{name.split('_')[2]}" for name in sorted(names)]
        text = "\n".join(["new_filename,ImageId,has_pneumo", *rows])
        (tmp_path / f"stage_1_{stage}_images.csv").write_text(text)
    dataset = Siim(SPEC, tmp_path)
    names = sorted(name for own in parts.values() for name in own)
    table = pd.DataFrame({"sample": names, "patient": names})
    index = Index("siim", tmp_path, "real", table, official_size=12_047)
    split = dataset.split(index, "benchx")
    for part, listed in parts.items():
        assert set(np.array(names)[getattr(split, part)]) == set(listed)
    assert tuple(map(len, parts.values())) == Siim.splits["benchx"].sizes


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path, patients=20, size=64)
    assert (tmp_path / "train-rle.csv").read_text().startswith("ImageId, EncodedPixels\n")
    dataset = Siim(SPEC, tmp_path)
    index, problems = verify(dataset, full=True, progress=QUIET)
    assert (len(index), problems, index.source, index.subset) == (20, [], "phantom", None)
    sick = index.table[index.table["label_pneumothorax"] == 1]
    assert len(sick) > 1
    assert max(len(regions) for regions in sick["regions"]) == 2
    for regions in sick["regions"]:
        assert 0 < mask_of(regions, 64, 64, tmp_path).mean() < 0.3


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
