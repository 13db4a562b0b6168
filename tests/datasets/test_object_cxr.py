"""Object-CXR: the challenge's syntax of outlines, its splits, and everything that can be wrong with a folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.index import Index
from medbench.data.regions import Ellipse, Polygon, Rectangle
from medbench.data.split_check import check_splits
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import object_cxr as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.object_cxr import ObjectCxr, outlines, polygon_box

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "object_cxr")
QUIET = Progress(quiet=True)
TRAIN = {
    "00001": "",
    "00002": "0 1 2 11 8;1 20 3 28 9",
    "00003": "2 2 2 12 2 12 14 2 14",
    "00004": "",
    "00005": "",
}
DEV = {"08001": "1 4 4 8 8", "08002": ""}


@pytest.fixture
def layout(tmp_path: Path, make_film: Callable[..., None]) -> Callable[..., ObjectCxr]:
    def make(
        train: dict[str, str] = TRAIN, dev: dict[str, str] = DEV, test: dict[str, str] | None = None
    ) -> ObjectCxr:
        for part, rows in (("train", train), ("dev", dev), ("test", test)):
            if rows is None:
                continue
            for name in rows:
                make_film(tmp_path / part / f"{name}.jpg")
            column = "image_path" if part == "test" else "image_name"
            folder = "/some/where/" if part == "test" else ""
            lines = [f"{folder}{name}.jpg,{annotation}" for name, annotation in rows.items()]
            (tmp_path / f"{part}.csv").write_text("\n".join([f"{column},annotation", *lines]) + "\n")
        return ObjectCxr(SPEC, tmp_path)

    return make


def test_the_index(layout: Callable[..., ObjectCxr]) -> None:
    dataset = layout()
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == [*TRAIN, *DEV]
    assert table["image"].tolist()[4:6] == ["train/00005.jpg", "dev/08001.jpg"]
    assert table["split"].tolist() == ["train"] * 5 + ["dev"] * 2
    assert table["label_foreign_object"].tolist() == [0, 1, 1, 0, 0, 1, 0]
    assert [len(boxes) for boxes in table["boxes"]] == [0, 2, 1, 0, 0, 1, 0]
    np.testing.assert_array_equal(table["boxes"][1], [[1, 2, 10, 6], [20, 3, 8, 6]])
    assert table["regions"][1] == (
        Rectangle("foreign_object", 1, 2, 10, 6),
        Ellipse("foreign_object", 20, 3, 8, 6),
    )
    assert table["regions"][2] == (Polygon("foreign_object", ((2, 2), (12, 2), (12, 14), (2, 14))),)
    assert index.subset == "7 of 9,000"
    assert verify(dataset, full=True, progress=QUIET)[1] == []


def test_a_copy_with_the_test_part(layout: Callable[..., ObjectCxr]) -> None:
    dataset = layout(test={"09001": "0 1 1 5 5"})
    index = dataset.index()
    assert index.table["image"].iloc[-1] == "test/09001.jpg"
    assert index.subset == "8 of 10,000"
    split = dataset.split(index, "official")
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0, 1, 2, 3, 4], [5, 6], [7]]
    assert [check.wrong for check in check_splits(dataset, index)] == ["", "", ""]


def test_a_polygons_box_has_its_label_point_in_the_middle() -> None:
    square = ((400.0, 300.0), (500.0, 300.0), (500.0, 400.0), (400.0, 400.0))
    x, y, across, down = polygon_box(square)
    # The label point is known to within 10 pixels; the box of a small convex outline is its own to within twice that.
    np.testing.assert_allclose((x, y, across, down), (400, 300, 100, 100), atol=20)
    assert x <= 400 and y <= 300 and x + across >= 500 and y + down >= 400


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 2000)), min_size=3, max_size=12, unique=True))
def test_a_polygons_box_holds_it(corners: list[tuple[int, int]]) -> None:
    x, y, across, down = polygon_box(corners)
    across_all, down_all = np.array(corners).T
    assert x - 1e-6 <= across_all.min() and across_all.max() <= x + across + 1e-6
    assert y - 1e-6 <= down_all.min() and down_all.max() <= y + down + 1e-6


def test_a_polygons_box_ends_at_the_films_edges(layout: Callable[..., ObjectCxr]) -> None:
    index = layout(dev={"08001": "2 0 0 29 0 29 19"}).index()
    x, y, across, down = index.table["boxes"].iloc[-1][0]
    assert (x, y) == (0, 0)
    assert 29 <= x + across <= 30 and 19 <= y + down <= 20


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("3 1 1 2 2", "annotation is no outline .'3 1 1 2 2'; expected 0 or 1 and four numbers"),
        ("0 1 1 2", "annotation is no outline"),
        ("2 1 1 2 2", "annotation is no outline"),
        ("2 1 1 2 2 3 3 4", "annotation is no outline"),
        ("0 1 1 2 x", "annotation with something that is no number"),
        (
            "2 1 2 nan 5 6 7",
            r"annotation with a number that is not finite \('2 1 2 nan 5 6 7'\), dev/08001\.jpg",
        ),
        ("1 1 2 inf 5", r"annotation with a number that is not finite \('1 1 2 inf 5'\), dev/08001\.jpg"),
        ("0 1 2 1e999 5", r"annotation with a number that is not finite \('0 1 2 1e999 5'\)"),
        ("0 1 1 1 5", "box without area"),
        ("0 -9 1 4 5", "box outside its image"),
    ],
)
def test_what_is_wrong_with_an_annotation(
    layout: Callable[..., ObjectCxr], annotation: str, message: str
) -> None:
    dataset = layout(dev={"08001": annotation, "08002": ""})
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert dataset.index(exclude_broken=True).table["sample"].tolist() == [*TRAIN, "08002"]


def test_what_else_can_be_wrong(layout: Callable[..., ObjectCxr], tmp_path: Path) -> None:
    dataset = layout(dev={"08001": "0 20 5 40 9", "08002": "", "00001": ""})
    (tmp_path / "dev/08002.jpg").unlink()
    with pytest.raises(BrokenSamples, match="no such file"):
        dataset.index()
    found = {problem.sample: problem.what for problem in verify(dataset, full=False, progress=QUIET)[1]}
    assert found["00001"] == "film given twice"
    assert found["08001"].startswith("box outside its image")
    assert len(found) == 3
    (tmp_path / "dev.csv").write_text("image,annotation\n")
    with pytest.raises(DataError, match=r"dev\.csv has no column image_name; it has image, annotation"):
        dataset.index()
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(DataError, match="looked for the table of the dev films"):
        dataset.index()


def test_boxes_given_from_right_to_left() -> None:
    assert outlines("0 11 8 1 2")[0][1] == (1, 2, 10, 6)
    assert outlines("") == ()
    assert len(outlines("0 1 1 2 2;")) == 1


def test_splits_of_the_full_release(tmp_path: Path) -> None:
    names = [f"{number:05d}" for number in range(1, 10_001)]
    for part, own in (("train", names[:8000]), ("dev", names[8000:9000]), ("test", names[9000:])):
        lines = "".join(f"{name}.jpg,\n" for name in own)
        (tmp_path / f"{part}.csv").write_text(f"image_name,annotation\n{lines}")
    table = pd.DataFrame({"sample": names, "patient": names})
    index = Index("object_cxr", tmp_path, "real", table, official_size=10_000)
    checks = check_splits(ObjectCxr(SPEC, tmp_path), index)
    assert [check.published for check in checks] == ["yes", "yes", "yes"]
    assert [check.wrong for check in checks] == ["", "", ""]


def test_the_official_parts_are_benchxs_lists(test_data: Path) -> None:
    from medbench.data.splits import parts_sha256

    folder = test_data / "split_lists/benchx/Object-CXR"
    parts = {part: (folder / f"{part}.txt").read_text().split() for part in ("train", "val", "test")}
    assert parts_sha256(parts) == ObjectCxr.splits["official"].sha256


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path, patients=45, size=64)
    dataset = ObjectCxr(SPEC, tmp_path)
    index, problems = verify(dataset, full=True, progress=QUIET)
    assert (len(index), problems, index.source) == (45, [], "phantom")
    assert index.table["split"].value_counts().to_dict() == {"train": 40, "dev": 5}
    kinds = {type(region) for regions in index.table["regions"] for region in regions}
    assert kinds == {Ellipse, Polygon, Rectangle}
    assert 0.3 < index.table["label_foreign_object"].mean() < 0.7


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
