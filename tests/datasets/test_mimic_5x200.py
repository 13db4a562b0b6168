"""MIMIC 5x200: who is chosen, from which part, and that it is the same every time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.data.index import Index
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable
from medbench.data.verify import BrokenSamples
from medbench.errors import DataError
from medbench.phantom import mimic_5x200 as phantom
from medbench.phantom.grammar import CHEXPERT
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.mimic_5x200 import Mimic5x200

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "mimic_5x200")
CLASSES = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Thirty studies of as many patients, six of each class, two films each; every third patient tests."""
    rows, labels = [], []
    names = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    for number in range(30):
        subject, study = 10_000_000 + number, 50_000_000 + number
        folder = tmp_path / "files" / "p10" / f"p{subject}"
        (folder / f"s{study}").mkdir(parents=True)
        (folder / f"s{study}.txt").write_text("\n IMPRESSION: A report of some words.\n")
        part = "test" if number % 3 == 0 else "train"
        for view in ("a", "b"):
            Image.new("L", (16, 16), 90).save(folder / f"s{study}" / f"{number:02d}{view}.jpg")
            rows.append((f"{number:02d}{view}", subject, study, "PA", part))
        labels.append({"subject_id": subject, "study_id": study, names[number // 6]: 1.0, "No Finding": None})
    table = pd.DataFrame(rows, columns=["dicom_id", "subject_id", "study_id", "ViewPosition", "split"])
    table.drop(columns="split").to_csv(tmp_path / "mimic-cxr-2.0.0-metadata.csv", index=False)
    table.drop(columns="ViewPosition").to_csv(tmp_path / "mimic-cxr-2.0.0-split.csv", index=False)
    columns = ["subject_id", "study_id", *CHEXPERT]
    pd.DataFrame(labels, columns=columns).to_csv(tmp_path / "mimic-cxr-2.0.0-chexpert.csv", index=False)
    return tmp_path


def relabel(root: Path, study: int, **values: float | str) -> None:
    path = root / "mimic-cxr-2.0.0-chexpert.csv"
    table = pd.read_csv(path).astype(dict.fromkeys(CHEXPERT, object)).set_index("study_id")
    for name, value in values.items():
        table.loc[study, name.replace("_", " ")] = value
    table.reset_index().to_csv(path, index=False)


def classes(index: Index) -> pd.Series:
    return index.table[[f"label_{name}" for name in CLASSES]].idxmax(axis=1).str.removeprefix("label_")


def test_the_index(root: Path) -> None:
    index = Mimic5x200(SPEC, root).index()
    assert index.labels == CLASSES
    # one film a study, the first by its id, and as many studies of each class
    assert index.table["sample"].is_unique and set(index.table["sample"].str[2]) == {"a"}
    assert classes(index).value_counts().to_dict() == dict.fromkeys(CLASSES, 6)
    assert (index.table["report"] == "a report of some words").all() or index.table["report"].str.len().all()
    assert index.subset == "30 of 377,110"
    assert index.table["sample"].tolist() == Mimic5x200(SPEC, root).index().table["sample"].tolist()


def test_who_has_something_else_is_none(root: Path) -> None:
    relabel(root, 50_000_001, Pneumonia=1.0)
    relabel(root, 50_000_002, Edema=-1.0)
    relabel(root, 50_000_003, Fracture=0.0, No_Finding=1.0)
    relabel(root, 50_000_004, Atelectasis=-1.0)
    index = Mimic5x200(SPEC, root).index()
    chosen = set(index.table["sample"])
    assert not {"01a", "02a", "04a"} & chosen and {"00a", "03a", "05a"} <= chosen
    dataset = Mimic5x200(SPEC, root)
    split = dataset.split(index, "all_parts")
    assert classes(index).iloc[split.test].value_counts().to_dict() == dict.fromkeys(CLASSES, 3)


def test_a_label_that_is_none(root: Path) -> None:
    relabel(root, 50_000_001, Pneumonia="banana")
    dataset = Mimic5x200(SPEC, root)
    message = r"label is none of 1, 0, -1 and blank \(Pneumonia: 'banana', study 50000001, film 01a\)"
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    index = dataset.index(exclude_broken=True)
    assert "50000001" not in set(index.table["study"])
    assert {problem.sample for problem in index.excluded} == {"01a", "01b"}


def test_too_few_studies_for_a_split_are_nothing_wrong(root: Path) -> None:
    dataset = Mimic5x200(SPEC, root)
    path = root / "mimic-cxr-2.0.0-split.csv"
    path.write_text(path.read_text().replace("test", "train"))
    index = dataset.index()
    with pytest.raises(SplitUnavailable, match="has no study with one finding alone of some class"):
        dataset.split(index, "clean")
    assert [check.wrong for check in check_splits(dataset, index)] == ["", ""]


def test_splits(root: Path) -> None:
    dataset = Mimic5x200(SPEC, root)
    index = dataset.index()
    clean, everywhere = (dataset.split(index, name) for name in ("clean", "all_parts"))
    assert list(dataset.splits) == ["clean", "all_parts"]
    assert (len(clean.train), len(clean.val), len(clean.test)) == (0, 0, 10)
    assert set(index.table["split"].iloc[clean.test]) == {"test"}
    assert classes(index).iloc[clean.test].value_counts().to_dict() == dict.fromkeys(CLASSES, 2)
    assert (len(everywhere.test), clean.leak) == (30, "")
    assert "training part" in everywhere.leak
    assert all(check.wrong == "" for check in check_splits(dataset, index))


def test_the_order_of_the_tables_does_not_matter(root: Path) -> None:
    before = Mimic5x200(SPEC, root).index().table["sample"].tolist()
    for path in root.glob("*.csv"):
        pd.read_csv(path).iloc[::-1].to_csv(path, index=False)
    assert Mimic5x200(SPEC, root).index().table["sample"].tolist() == before


def test_a_class_that_nobody_has(root: Path) -> None:
    for study in range(50_000_000, 50_000_006):
        relabel(root, study, Pneumonia=1.0)
    with pytest.raises(DataError, match=r"some of the five classes only \(Atelectasis 0, Cardiomegaly 6"):
        Mimic5x200(SPEC, root).index()
    (root / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    with pytest.raises(DataError, match="looked for the chexpert table"):
        Mimic5x200(SPEC, root).index()


def test_the_phantom_twin(tmp_path: Path) -> None:
    phantom.write(tmp_path / "twin", patients=120, size=64)
    dataset = Mimic5x200(SPEC, tmp_path / "twin")
    index = dataset.index()
    assert (index.source, index.subset) == ("phantom", None)
    counts = np.unique(classes(index), return_counts=True)[1]
    assert len(counts) == 5
    for check in check_splits(dataset, index):
        assert check.wrong == "" and check.samples["test"] >= 5


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
