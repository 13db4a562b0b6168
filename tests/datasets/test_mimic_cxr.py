"""The MIMIC-CXR-JPG layout: pairs, labels, the official split, and everything that can be wrong with a
folder."""

import gzip
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medbench.data.split_check import check_splits
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError, UsageError
from medbench.phantom import mimic_cxr as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.mimic_cxr import MimicCxr

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "mimic_cxr")

METADATA = """dicom_id,subject_id,study_id,ViewPosition,Rows
d1,10000032,50000001,PA,10
d2,10000032,50000001,LATERAL,10
d3,10000032,50000002,AP,10
d4,11000001,50000003,AP,10
d5,11000002,50000004,PA,10
d6,11000003,50000005,,10
d7,11000004,50000006,PA,10
"""
SPLIT = """dicom_id,study_id,subject_id,split
d1,50000001,10000032,train
d2,50000001,10000032,train
d3,50000002,10000032,train
d4,50000003,11000001,validate
d5,50000004,11000002,test
d6,50000005,11000003,train
d7,50000006,11000004,train
"""
CHEXPERT = """subject_id,study_id,Edema,No Finding,Pleural Effusion
10000032,50000001,1.0,,
10000032,50000002,-1.0,,0.0
11000001,50000003,,1.0,
"""
REPORTS = {
    "10000032/s50000001": " FINAL REPORT\n FINDINGS: Mild edema is seen.\n\n IMPRESSION: Edema, mild.\n",
    "10000032/s50000002": "\n IMPRESSION: No acute process.\n",
    "11000001/s50000003": "\n FINDINGS: Clear lungs today.\n",
    "11000002/s50000004": "\n IMPRESSION: Small effusion again.\n",
    "11000003/s50000005": "\n IMPRESSION: Not a frontal film.\n",
    "11000004/s50000006": "\n INDICATION: Cough.\n\n IMPRESSION: Normal.\n",
}


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., MimicCxr]:
    """Makes the folder; `packed` as in the release, else the reports next to the images and .csv unpacked."""

    def make(
        metadata: str = METADATA, split: str = SPLIT, packed: bool = True, version: str = "2.0.0"
    ) -> MimicCxr:
        root = tmp_path / "mimic"
        for row in METADATA.splitlines()[1:]:
            dicom_id, subject, study = row.split(",")[:3]
            path = root / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((12, 10), 90, np.uint8)).save(path)
        for name, text in REPORTS.items():
            tree = root / "mimic-cxr-reports" if packed else root
            path = tree / f"files/p{name[:2]}/p{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name, content in (("metadata", metadata), ("split", split), ("chexpert", CHEXPERT)):
            path = root / f"mimic-cxr-{version}-{name}.csv"
            if packed:
                path.with_suffix(".csv.gz").write_bytes(gzip.compress(content.encode()))
            else:
                path.write_text(content)
        return MimicCxr(SPEC, root)

    return make


@pytest.mark.parametrize(("packed", "version"), [(True, "2.0.0"), (False, "2.1.0")])
def test_the_index(layout: Callable[..., MimicCxr], packed: bool, version: str) -> None:
    dataset = layout(packed=packed, version=version)
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == ["d1", "d3", "d4", "d5"]
    assert table["patient"].tolist() == ["10000032", "10000032", "11000001", "11000002"]
    assert table["study"].tolist() == ["50000001", "50000002", "50000003", "50000004"]
    assert table["view"].tolist() == ["PA", "AP", "AP", "PA"]
    assert table["split"].tolist() == ["train", "train", "validate", "test"]
    assert table["image"][0] == "files/p10/p10000032/s50000001/d1.jpg"
    assert table["report"].tolist() == [
        "Edema, mild. Mild edema is seen.",
        "No acute process.",
        "Clear lungs today.",
        "Small effusion again.",
    ]
    assert index.labels == ("edema", "no_finding", "pleural_effusion")
    np.testing.assert_array_equal(table["label_edema"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(table["label_pleural_effusion"], [np.nan, 0, np.nan, np.nan])
    assert dataset.dropped == {
        "not frontal (ViewPosition is neither PA nor AP)": 2,
        "report with fewer words than are needed": 1,
    }
    assert dataset.notes()[1] == "not used: 1 x report with fewer words than are needed"
    assert index.subset == "4 of 377,110"
    assert all(boxes is None for boxes in table["boxes"])


def test_the_official_split_validates_on_both_held_out_parts(layout: Callable[..., MimicCxr]) -> None:
    dataset = layout()
    split = dataset.split(dataset.index(), "official")
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0, 1], [2, 3], [3]]
    assert list(dataset.splits) == ["official", "clean"]  # the first one is what pretraining takes
    assert "inside the validation part" in split.leak
    with pytest.raises(UsageError, match="mimic_cxr has no split 'mine'"):
        dataset.split(dataset.index(), "mine")


def test_the_clean_split_keeps_the_released_parts_apart(layout: Callable[..., MimicCxr]) -> None:
    dataset = layout()
    index = dataset.index()
    split = dataset.split(index, "clean")
    assert [part.tolist() for part in (split.train, split.val, split.test)] == [[0, 1], [2], [3]]
    assert split.leak == ""
    assert [check.wrong for check in check_splits(dataset, index)] == ["", ""]


@pytest.mark.parametrize("value", ["banana", "True", "2.0", "inf", "-0.5"])
def test_labels_that_are_none(layout: Callable[..., MimicCxr], value: str) -> None:
    dataset = layout()
    table = CHEXPERT.replace("50000003,,1.0,", f"50000003,{value},1.0,")
    # Nobody reads the labels of a study that gives no pair.
    table += f"11000003,50000005,{value},,\n"
    path = dataset.root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    path.write_bytes(gzip.compress(table.encode()))
    with pytest.raises(BrokenSamples) as caught:
        dataset.index()
    (problem,) = caught.value.problems
    assert (problem.sample, problem.path) == ("d4", path.name)
    assert problem.what == f"label is none of 1, 0, -1 and blank (Edema: {value!r}, study 50000003, film d4)"
    index = dataset.index(exclude_broken=True)
    assert index.table["sample"].tolist() == ["d1", "d3", "d5"]


def test_labels_are_optional(layout: Callable[..., MimicCxr]) -> None:
    dataset = layout()
    (dataset.root / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    assert dataset.index().labels == ()


@pytest.mark.parametrize("prefix", ["files/", "mimic-cxr-reports/files/", ""])
def test_reports_are_read_from_the_archive(layout: Callable[..., MimicCxr], prefix: str) -> None:
    dataset = layout()
    whole = dataset.index().fingerprint()
    with zipfile.ZipFile(dataset.root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in REPORTS.items():
            archive.writestr(f"{prefix}p{name[:2]}/p{name}.txt", text)
    shutil.rmtree(dataset.root / "mimic-cxr-reports")
    assert dataset.index().fingerprint() == whole
    # What the archive does not have may lie beside the films.
    with zipfile.ZipFile(dataset.root / "mimic-cxr-reports.zip", "w") as archive:
        archive.writestr("files/p10/p10000032/s50000001.txt", REPORTS["10000032/s50000001"])
    with pytest.raises(BrokenSamples, match=r"d3\.jpg: no report \(looked for .*s50000002\.txt\)"):
        dataset.index()
    for name, text in REPORTS.items():
        (dataset.root / f"files/p{name[:2]}/p{name}.txt").write_text(text)
    assert dataset.index().fingerprint() == whole
    (dataset.root / "mimic-cxr-reports.zip").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(DataError, match=r"mimic-cxr-reports\.zip can not be read .*Download it again"):
        dataset.index()


def test_reports_can_be_read_in_another_way(layout: Callable[..., MimicCxr]) -> None:
    root = layout().root
    clean = MimicCxr(SPEC, root, cleaning="clean")
    assert clean.index().table["report"].tolist()[-1] == "Normal."
    assert clean.dropped == {"not frontal (ViewPosition is neither PA nor AP)": 2}


def path_of(dataset: MimicCxr, name: str) -> Path:
    return next(dataset.root.rglob(name))


@pytest.mark.parametrize(
    ("harm", "sample", "message"),
    [
        (lambda d: path_of(d, "d4.jpg").unlink(), "d4", r"s50000003/d4\.jpg: no such file"),
        (lambda d: path_of(d, "d4.jpg").write_bytes(b""), "d4", r"d4\.jpg: file is empty"),
        (lambda d: path_of(d, "s50000003.txt").unlink(), "d4", r"no report \(looked for .*s50000003\.txt\)"),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., MimicCxr], harm: Callable[[MimicCxr], None], sample: str, message: str
) -> None:
    dataset = layout()
    harm(dataset)
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    index = dataset.index(exclude_broken=True)
    assert [p.sample for p in index.excluded] == [sample]
    assert sample not in set(index.table["sample"])


def test_rows_that_the_other_table_does_not_have(layout: Callable[..., MimicCxr]) -> None:
    with pytest.raises(BrokenSamples, match=r"d5\.jpg: not in the split table"):
        layout(split=SPLIT.replace("d5,50000004,11000002,test\n", "")).index()
    with pytest.raises(
        BrokenSamples, match=r"d5\.jpg: in two parts of the split table \(test and train, film d5\)"
    ):
        layout(split=SPLIT + "d5,50000004,11000002,train\n").index()
    assert len(layout(split=SPLIT + "d5,50000004,11000002,test\n").index()) == 4  # said twice
    with pytest.raises(BrokenSamples, match="row given twice in the metadata table"):
        layout(metadata=METADATA + "d5,11000002,50000004,PA,10\n").index()


def test_missing_tables_columns_and_reports(layout: Callable[..., MimicCxr], tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"looked for the metadata table, .*mimic-cxr-2\.0\.0-metadata\.csv\.gz or .*2\.1\.0"
    ):
        MimicCxr(SPEC, tmp_path).index()
    with pytest.raises(
        DataError, match=r"has no column ViewPosition; it has dicom_id, subject_id, study_id, View, Rows"
    ):
        layout(metadata=METADATA.replace("ViewPosition", "View")).index()
    dataset = layout()
    for path in dataset.root.rglob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no reports found; .*Put mimic-cxr-reports\.zip"):
        dataset.index()


def test_no_frontal_film(layout: Callable[..., MimicCxr]) -> None:
    with pytest.raises(DataError, match="none of the 0 frontal films"):
        layout(metadata=METADATA.replace(",PA,", ",LL,").replace(",AP,", ",LL,")).index()


def test_phantom_pairs(tmp_path: Path) -> None:
    phantom.write(tmp_path / "mimic", patients=12, size=64)
    dataset = MimicCxr(SPEC, tmp_path / "mimic")
    index = dataset.index()
    assert (index.source, index.subset) == ("phantom", None)
    assert len(index) == phantom.total(12)
    assert dataset.dropped == {}
    assert len(index.labels) == 14
    assert index.table["report"].str.len().min() > 10
    assert not verify(dataset, full=True, progress=Progress(quiet=True))[1]
    split = dataset.split(index, "official")
    patients = index.table["patient"].to_numpy()
    assert not set(patients[split.train]) & set(patients[split.val])


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
