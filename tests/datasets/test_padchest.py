"""PadChest: the layout and its variants, labels by name, Spanish reports, the phantom, the full table."""

import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medbench.data.index import Index
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import padchest as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.padchest import LABELS, TABLE, PadChest

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "padchest")

HEADER = ",ImageID,ImageDir,StudyID,PatientID,Projection,Report,MethodLabel,Labels\n"
ROWS = """0,a.png,0,s1,p1,PA, sin hallazg patolog . . estudi normal .,Physician,['normal']
1,b.png,0,s2,p1,L, derram pleural izquierd . neumoni .,RNN_model,"['pleural effusion', ' pneumonia']"
2,c.png,54,s3,p2,AP_horizontal,nan,RNN_model,nan
3,d.png,54,s4,p3,PA, . cardiomegali .,RNN_model,"['cardiomegaly', '']"
4,e.png,0,s5,p4,PA, estudi no valor tecnic .,RNN_model,"['exclude', 'unchanged']"
"""


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., PadChest]:
    """Makes the folder; `flat`: all films in one folder of this name."""

    def make(
        rows: str = ROWS, header: str = HEADER, packed: bool = True, flat: str | None = None
    ) -> PadChest:
        root = tmp_path / "padchest"
        for row in ROWS.splitlines():
            _, name, folder = row.split(",")[:3]
            path = root / (folder if flat is None else flat) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10), 9_000, np.uint16)).save(path)
        content = (header + rows).encode()
        (root / (f"{TABLE}.gz" if packed else TABLE)).write_bytes(
            gzip.compress(content) if packed else content
        )
        return PadChest(SPEC, root)

    return make


@pytest.mark.parametrize(("packed", "flat"), [(True, None), (False, "images-224"), (True, ".")])
def test_the_index(layout: Callable[..., PadChest], packed: bool, flat: str | None) -> None:
    dataset = layout(packed=packed, flat=flat)
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert table["patient"].tolist() == ["p1", "p1", "p2", "p3", "p4"]
    assert table["view"].tolist() == ["PA", "L", "AP_horizontal", "PA", "PA"]
    assert table["report"].tolist() == [
        "sin hallazg patolog. estudi normal.",
        "derram pleural izquierd. neumoni.",
        "",
        "",
        "estudi no valor tecnic.",
    ]
    assert dataset.dropped == {"empty report": 1, "report with fewer words than are needed": 1}
    np.testing.assert_array_equal(table["label_normal"], [1, 0, np.nan, 0, np.nan])
    np.testing.assert_array_equal(table["label_pneumonia"], [0, 1, np.nan, 0, np.nan])
    np.testing.assert_array_equal(table["label_pleural_effusion"], [0, 1, np.nan, 0, np.nan])
    assert (dataset.root / table["image"][2]).is_file()
    assert (index.source, index.subset) == ("real", "5 of 160,861")


def test_sex_and_age_where_the_table_has_them(layout: Callable[..., PadChest]) -> None:
    rows = layout().index().table
    assert set(rows["sex"]) == {""} and rows["age"].isna().all()
    more = ["20140915,1930.0,F", "20140915,,M", "20140915,1830.0,O", "20140915,2014.0,nan", ",1930.0,"]
    films = [f"{row},{own}\n" for row, own in zip(ROWS.splitlines(), more, strict=True)]
    header = HEADER.replace("\n", ",StudyDate_DICOM,PatientBirth,PatientSex_DICOM\n")
    rows = layout("".join(films), header).index().table
    assert rows["sex"].tolist() == ["F", "M", "", "", ""]
    np.testing.assert_array_equal(rows["age"], [84, np.nan, np.nan, 0, np.nan])


def test_reports_can_be_read_in_another_way(layout: Callable[..., PadChest]) -> None:
    dataset = PadChest(SPEC, layout().root, cleaning="clean")
    assert dataset.index().table["report"][3] == "cardiomegali."
    assert dataset.dropped == {"empty report": 1}


@pytest.mark.parametrize(
    ("rows", "harm", "sample", "message"),
    [
        (ROWS + "5,f.png,0,s6,p5,PA, sin hallazg .,RNN_model,['normal']\n", None, "f.png", r"0/f\.png: no such file"),
        (ROWS, "0/b.png", "b.png", r"0/b\.png: file is empty"),
        (ROWS + ROWS.splitlines()[0], None, "a.png", r"row given twice \(a\.png\)"),
        (ROWS.replace("s3,p2", "s3,"), None, "c.png", "row without a PatientID"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., PadChest], rows: str, harm: str | None, sample: str, message: str
) -> None:
    dataset = layout(rows)
    if harm is not None:
        (dataset.root / harm).write_bytes(b"")
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert [problem.sample for problem in dataset.index(exclude_broken=True).excluded] == [sample]


def test_what_is_missing_is_named(layout: Callable[..., PadChest], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for the table of films, .*01\.02\.19\.csv\.gz or"):
        PadChest(SPEC, tmp_path).index()
    with pytest.raises(DataError, match="has no column Labels"):
        layout(header=HEADER.replace("Labels", "Findings")).index()
    dataset = layout(rows="")
    with pytest.raises(DataError, match="has no rows"):
        dataset.index()
    dataset = layout()
    for folder in ("0", "54"):
        shutil.rmtree(dataset.root / folder)
    with pytest.raises(
        DataError, match=r"found none of the 5 films \(first: 0/a\.png\).*Unpack 0\.zip to 54\.zip"
    ):
        dataset.index()


def test_splits(layout: Callable[..., PadChest]) -> None:
    dataset = layout()
    index = dataset.index()
    split = dataset.split(index, "physician")
    assert split.test.tolist() == [0]
    # The other film of that patient is in no part.
    assert sorted([*split.train, *split.val]) == [2, 3, 4]
    with pytest.raises(SplitUnavailable, match=r"0 films .* have labels of physicians"):
        dataset.split(index.select(np.arange(5) > 1), "physician")
    tiny = index.select(np.arange(5) < 3)
    with pytest.raises(
        SplitUnavailable, match=r"2 patients .* are too few for the three parts of patient_80_10_10"
    ):
        dataset.split(tiny, "patient_80_10_10")


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path / "padchest", patients=12, size=64)
    dataset = PadChest(SPEC, tmp_path / "padchest")
    index = dataset.index()
    assert (len(index), index.source, index.subset) == (phantom.total(12), "phantom", None)
    studies = [study for number in range(12) for study in phantom.patient(number).studies]
    for label, kind in (
        ("cardiomegaly", "cardiomegaly"),
        ("pneumonia", "pneumonia"),
        ("fracture", "fracture"),
    ):
        there = [any(finding.kind == kind for finding in study.findings) for study in studies]
        assert index.table[f"label_{label}"].tolist() == there
    truth = [
        phantom.patient(number).anatomy
        for number in range(12)
        for study in phantom.patient(number).studies
        for _ in study.films
    ]
    assert index.table["sex"].tolist() == [anatomy.sex for anatomy in truth]
    assert index.table["age"].tolist() == [anatomy.age for anatomy in truth]
    assert not verify(dataset, full=True, progress=Progress(quiet=True))[1]
    for name in dataset.splits:
        split = dataset.split(index, name)
        patients = index.table["patient"].to_numpy()
        parts = [set(patients[part]) for part in (split.train, split.val, split.test)]
        assert all(parts) and not (parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2])


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]


def test_the_real_table(label_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = label_files / f"{TABLE}.gz"
    os.symlink(source, tmp_path / f"{TABLE}.gz")
    module = "medbench_tasks.datasets.padchest.file_sizes"
    monkeypatch.setattr(module, lambda root, names: np.ones(len(names), np.int64))
    dataset = PadChest(SPEC, tmp_path)
    index: Index = dataset.index()
    assert (len(index), index.subset, index.table["patient"].nunique()) == (160_861, None, 67_625)
    assert index.labels == tuple(LABELS)
    with gzip.open(source, "rt") as lines:
        names = {name.strip() for line in lines for name in re.findall(r"'([^']*)'", line)}
    assert {name for meant in LABELS.values() for name in meant} <= names
    assert index.table["sex"].value_counts().to_dict() == {"M": 80_920, "F": 79_919, "": 22}
    ages = index.table["age"]
    assert (ages.isna().sum(), ages.min(), ages.max()) == (6, 0, 105)
    assert index.table["label_normal"].sum() == 50_616
    assert index.table["label_pneumonia"].sum() == 8_174
    assert dataset.dropped == {"report with fewer words than are needed": 11_522, "empty report": 133}
    assert len(dataset.split(index, "physician").test) == 39_053
    split = dataset.split(index, "patient_80_10_10")
    patients = index.table["patient"].to_numpy()
    assert [len(set(patients[part])) for part in (split.train, split.val, split.test)] == [
        54_101,
        6_762,
        6_762,
    ]
