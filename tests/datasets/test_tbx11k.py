"""TBX11K: COCO's tables, boxes, the film without any, and everything that can be wrong with a folder."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.data.index import Index
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import tbx11k as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.tbx11k import Tbx11k

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "tbx11k")
QUIET = Progress(quiet=True)
FILMS = {
    "train": ("health/h0001", "sick/s0001", "tb/tb0001", "tb/tb1199"),
    "val": ("health/h0002", "tb/tb0002"),
}
BOXES = {
    "train": [("tb/tb0001", 1, [1, 2, 10, 12]), ("tb/tb0001", 2, [20, 3, 5.5, 6])],
    "val": [("tb/tb0002", 2, [0, 0, 4, 4])],
}
CATEGORIES = [{"id": number, "name": name} for number, name in enumerate(phantom.CATEGORIES, 1)]


@pytest.fixture
def layout(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., Tbx11k]:
    def make(films: dict[str, Any] = FILMS, boxes: dict[str, Any] = BOXES, below: str = "TBX11K") -> Tbx11k:
        root = tmp_path / below
        (root / "annotations/json").mkdir(parents=True, exist_ok=True)
        for folder in ("health", "sick", "tb"):
            (root / "imgs" / folder).mkdir(parents=True, exist_ok=True)
        for part, names in films.items():
            for name in names:
                make_film(root / "imgs" / f"{name}.png", 32, 32)
            # Both tables of the release count their films from the same number on.
            ids = {name: number for number, name in enumerate(names)}
            table = {
                "images": [
                    {"id": n, "file_name": f"{name}.png", "width": 32, "height": 32}
                    for n, name in enumerate(names)
                ],
                "annotations": [
                    {"id": 9, "image_id": ids[name], "category_id": kind, "bbox": box}
                    for name, kind, box in boxes[part]
                ],
                "categories": CATEGORIES,
            }
            (root / f"annotations/json/TBX11K_{part}.json").write_text(json.dumps(table))
        return Tbx11k(SPEC, tmp_path)

    return make


@pytest.mark.parametrize("below", ["", "TBX11K"])
def test_the_index(layout: Callable[..., Tbx11k], below: str) -> None:
    dataset = layout(below=below)
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == ["h0001", "s0001", "tb0001", "tb1199", "h0002", "tb0002"]
    assert table["image"][2] == f"{below}/imgs/tb/tb0001.png".lstrip("/")
    assert table["split"].tolist() == ["train"] * 4 + ["val"] * 2
    assert table["label_healthy"].tolist() == [1, 0, 0, 0, 1, 0]
    assert table["label_sick_non_tb"].tolist() == [0, 1, 0, 0, 0, 0]
    assert table["label_tuberculosis"].tolist() == [0, 0, 1, 1, 0, 1]
    np.testing.assert_array_equal(table["label_active_tb"], [0, 0, 1, np.nan, 0, 0])
    np.testing.assert_array_equal(table["label_latent_tb"], [0, 0, 1, np.nan, 0, 1])
    np.testing.assert_array_equal(table["boxes"][2], [[1, 2, 10, 12], [20, 3, 5.5, 6]])
    assert table["box_labels"][2] == ("active_tb", "latent_tb")
    assert table["boxes"][0].shape == (0, 4)
    assert table["boxes"][3] is None and table["box_labels"][3] is None
    assert index.subset == "6 of 8,400"
    assert verify(dataset, full=True, progress=QUIET)[1] == []


def test_the_official_parts(layout: Callable[..., Tbx11k]) -> None:
    dataset = layout()
    split = dataset.split(dataset.index(), "official")
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0, 1, 2, 3], [4, 5], []]


@pytest.mark.parametrize(
    ("films", "boxes", "sample", "message"),
    [
        ((), [("tb/tb0001", 1, [1, 2, 0, 12])], "tb0001", r"box without area .*, film tb0001, annotation 9"),
        *(
            ((), [("tb/tb0001", 1, bbox)], "tb0001", rf"{message}, film tb0001, annotation 9")
            for bbox, message in (
                ([1, 2, 3], r"box is not four numbers \(bbox \[1, 2, 3\]\)"),
                ([1, 2, 3, 4, 5], r"box is not four numbers \(bbox \[1, 2, 3, 4, 5\]\)"),
                ([1, 2, "wide", 4], r"box is not four numbers \(bbox \[1, 2, 'wide', 4\]\)"),
                ([1, 2, None, 4], r"box is not four numbers \(bbox \[1, 2, None, 4\]\)"),
                ("1234", r"box is not four numbers \(bbox 1234\)"),
                (None, r"box is not four numbers \(bbox None\)"),
                ([1, 2, float("nan"), 4], r"box is not four numbers \(x, y, width, height: 1, 2, nan, 4\)"),
            )
        ),
        ((), [("tb/tb0001", 1, [-9, 2, 5, 12])], "tb0001", "box outside its image"),
        ((), [("sick/s0001", 1, [1, 2, 5, 12])], "s0001", r"film with a box outside the folder tb \(sick\)"),
        (("sick/s0001",), [], "s0001", "film given twice"),
        (("extra/x1",), [], "x1", "film in none of the folders health, sick, tb"),
    ],
)
def test_what_is_wrong_is_named(
    layout: Callable[..., Tbx11k], films: tuple[str, ...], boxes: list[Any], sample: str, message: str
) -> None:
    dataset = layout({**FILMS, "train": FILMS["train"] + films}, {**BOXES, "train": boxes})
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert {problem.sample for problem in dataset.index(exclude_broken=True).excluded} == {sample}


def test_boxes_of_films_that_the_table_does_not_have(layout: Callable[..., Tbx11k], tmp_path: Path) -> None:
    dataset = layout()
    path = tmp_path / "TBX11K/annotations/json/TBX11K_val.json"
    table = json.loads(path.read_text())
    table["annotations"].append({"id": 77, "image_id": 999, "category_id": 1, "bbox": [1, 2, 3, 4]})
    path.write_text(json.dumps(table))
    assert len(dataset.index()) == 6  # of 8,400: the list of films was cut down, and the annotations were not
    assert dataset.notes() == ("not used: 1 x box of a film that is not in the table",)
    whole = Tbx11k(replace(SPEC, official_size=6), tmp_path)
    with pytest.raises(BrokenSamples) as caught:
        whole.index()
    (problem,) = caught.value.problems
    assert (problem.sample, problem.path) == ("999", "TBX11K/annotations/json/TBX11K_val.json")
    assert problem.what == "box of a film that is not in the table (image_id 999, annotation 77)"
    assert len(whole.index(exclude_broken=True)) == 6


def test_too_few_films_for_a_split_are_nothing_wrong(layout: Callable[..., Tbx11k]) -> None:
    dataset = layout()
    index = dataset.index()
    with pytest.raises(SplitUnavailable, match=r"5 films in .* can not be divided as benchx is"):
        dataset.split(index, "benchx")
    assert [check.wrong for check in check_splits(dataset, index)] == ["", ""]


def test_files_and_tables(
    layout: Callable[..., Tbx11k], tmp_path: Path, make_film: Callable[..., None]
) -> None:
    dataset = layout(boxes={**BOXES, "val": [("tb/tb0002", 2, [20, 0, 14, 4])]})
    make_film(tmp_path / "TBX11K/imgs/sick/s0009.png")
    (tmp_path / "TBX11K/imgs/sick/s0001.png").unlink()
    found = {problem.sample: problem.what for problem in verify(dataset, full=False, progress=QUIET)[1]}
    assert found["s0001"].startswith("no such file")
    assert found["s0009"] == "on disk, but in neither table"
    assert found["tb0002"].startswith("box outside its image")
    table = tmp_path / "TBX11K/annotations/json/TBX11K_val.json"
    table.write_text('{"images": []}')
    with pytest.raises(DataError, match=r"TBX11K_val\.json is not in COCO's format .*KeyError: 'categories'"):
        dataset.index()
    table.write_text("{")
    with pytest.raises(DataError, match="can not be read as JSON"):
        dataset.index()
    table.unlink()
    with pytest.raises(DataError, match="looked for the table of the val films"):
        dataset.index()
    layout()
    shutil.rmtree(tmp_path / "TBX11K/imgs/sick")
    with pytest.raises(DataError, match="looked for the folder of films"):
        dataset.index()


def test_the_split_is_benchxs(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "split_lists/benchx/TBX11K"
    names = sorted(
        name for part in ("train", "val", "test") for name in (folder / f"{part}.txt").read_text().split()
    )
    names = sorted([*names, "tb1199"])  # in the release, without a box, and not in the lists
    where = {"h": "health", "s": "sick", "tb": "tb"}
    files = [f"{where[name.rstrip('0123456789')]}/{name}.png" for name in names]
    for part, own in (("train", files[::2]), ("val", files[1::2])):
        table = {
            "images": [{"id": n, "file_name": file} for n, file in enumerate(own)],
            "annotations": [
                {"image_id": n, "category_id": 1, "bbox": [1, 1, 2, 2]}
                for n, file in enumerate(own)
                if file.startswith("tb") and file != "tb/tb1199.png"
            ],
            "categories": CATEGORIES,
        }
        path = tmp_path / f"annotations/json/TBX11K_{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(table))
    dataset = Tbx11k(SPEC, tmp_path)
    index = Index(
        "tbx11k", tmp_path, "real", pd.DataFrame({"sample": names, "patient": names}), official_size=8_400
    )
    assert index.subset is None
    benchx, official = check_splits(dataset, index)
    assert (benchx.published, benchx.wrong) == ("yes", "")
    assert official.published == "no"  # the parts were made up here


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path, patients=50, size=64)
    dataset = Tbx11k(SPEC, tmp_path)
    index, problems = verify(dataset, full=True, progress=QUIET)
    assert (len(index), problems, index.source) == (50, [], "phantom")
    assert index.table["split"].value_counts().to_dict() == {"train": 40, "val": 10}
    sums = index.table[[f"label_{name}" for name in index.labels]].sum()
    assert (sums > 0).all()
    assert sums[:3].sum() == 50
    split = dataset.split(index, "benchx")
    assert len(split.train) + len(split.val) + len(split.test) == 50


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
