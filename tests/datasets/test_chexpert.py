"""CheXpert and CheXpert 5x200: layouts, labels, what can be wrong, and the published splits on the real train.csv."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medbench.data.index import Index
from medbench.data.split_check import check_splits
from medbench.data.splits import ids_sha256
from medbench.data.verify import BrokenSamples
from medbench.errors import DataError
from medbench.phantom import chexpert as twin
from medbench.phantom import chexpert_5x200 as single_twin
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.chexpert import OBSERVATIONS, Chexpert, as_coded, candidates, five_by
from medbench_tasks.datasets.chexpert_5x200 import Chexpert5x200

SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in medbench_datasets()}
COLUMNS = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *OBSERVATIONS]
Rows = list[tuple[str, dict[str, str]]]
TRAIN: Rows = [
    ("train/patient00001/study1/view1_frontal.jpg", {"Edema": "-1.0", "Support Devices": "1.0"}),
    ("train/patient00001/study1/view2_lateral.jpg", {"Edema": "-1.0", "Support Devices": "1.0"}),
    ("train/patient00002/study1/view1_frontal.jpg", {"Atelectasis": "-1.0", "Cardiomegaly": "-1.0"}),
    ("train/patient00002/study2/view1_frontal.jpg", {"Consolidation": "-1.0", "Pleural Effusion": "-1.0"}),
    ("train/patient00003/study1/view1_frontal.jpg", {"Cardiomegaly": "1.0", "Edema": "0.0"}),
]
VALID: Rows = [("valid/patient64541/study1/view1_frontal.jpg", dict.fromkeys(OBSERVATIONS, "0.0"))]


def table(rows: Rows, release: str) -> str:
    lines = [",".join(COLUMNS)]
    for path, found in rows:
        lateral = "lateral" in path
        cells = {
            "Path": f"{release}/{path}",
            "Sex": "Female",
            "Age": "68",
            "Frontal/Lateral": "Lateral" if lateral else "Frontal",
            "AP/PA": "" if lateral else "AP",
            **found,
        }
        lines.append(",".join(cells.get(column, "") for column in COLUMNS))
    return "\n".join(lines) + "\n"


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Chexpert]:
    """Makes a folder of the rows of train.csv and valid.csv, with a stand-in for every film."""

    def make(
        train: Rows = TRAIN, valid: Rows = VALID, home: str = "", release: str = "CheXpert-v1.0-small"
    ) -> Chexpert:
        root = tmp_path / "chexpert"
        (root / home).mkdir(parents=True)
        for part, rows in (("train", train), ("valid", VALID)):
            (root / home / f"{part}.csv").write_text(table(rows, release))
            for path, _ in rows:
                film = root / home / path
                film.parent.mkdir(parents=True, exist_ok=True)
                film.write_bytes(b"jpeg")
        return Chexpert(SPECS["chexpert"], root)

    return make


def test_the_index(layout: Callable[..., Chexpert]) -> None:
    dataset = layout()
    index = dataset.index()
    rows = index.table
    assert rows["sample"].tolist() == rows["image"].tolist() == [path for path, _ in TRAIN + VALID]
    assert rows["patient"].tolist()[2:] == ["patient00002", "patient00002", "patient00003", "patient64541"]
    assert rows["study"].tolist()[2:4] == ["patient00002/study1", "patient00002/study2"]
    assert rows["split"].tolist() == ["train"] * 5 + ["valid"]
    assert rows["view"].tolist() == ["AP", "Lateral", "AP", "AP", "AP", "AP"]
    assert (index.subset, rows["bytes"].tolist()) == ("6 of 223,648", [4] * 6)
    assert index.labels == ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
    assert (set(rows["sex"]), set(rows["age"])) == ({"F"}, {68.0})
    # an uncertain one is 1 for atelectasis, edema and effusion, 0 for the two others; a blank is 0
    assert rows["label_atelectasis"].tolist() == [0, 0, 1, 0, 0, 0]
    assert rows["label_cardiomegaly"].tolist() == [0, 0, 0, 0, 1, 0]
    assert rows["label_consolidation"].tolist() == [0, 0, 0, 0, 0, 0]
    assert rows["label_edema"].tolist() == [1, 1, 0, 0, 0, 0]
    assert rows["label_pleural_effusion"].tolist() == [0, 0, 0, 1, 0, 0]


def test_sex_and_age_that_are_not_known(layout: Callable[..., Chexpert]) -> None:
    dataset = layout()
    train = dataset.root / "train.csv"
    train.write_text(train.read_text().replace("Female,68", "Unknown,0", 1))
    rows = dataset.index().table
    assert rows["sex"].tolist() == ["", *["F"] * 5]
    assert np.isnan(rows["age"][0]) and set(rows["age"][1:]) == {68.0}
    train.write_text(train.read_text().replace("Sex,Age", "x,y"))
    rows = Chexpert(SPECS["chexpert"], dataset.root).index().table
    assert set(rows["sex"][:5]) == {""} and rows["age"][:5].isna().all()


def test_reports_come_with_chexpert_plus(layout: Callable[..., Chexpert]) -> None:
    dataset = layout()
    assert (dataset.index().table["report"] == "").all()
    assert dataset.notes()[-1].startswith(
        "no reports: they are in df_chexpert_plus_240401.csv of CheXpert Plus"
    )
    (dataset.root / "df_chexpert_plus_240401.csv").write_text(
        "path_to_image,section_findings,section_impression\n"
        "train/patient00001/study1/view1_frontal.jpg,Clear lungs.,No change today.\n"
        "train/patient00002/study1/view1_frontal.jpg,,Normal.\n"
    )
    assert dataset.index().table["report"].tolist() == ["No change today. Clear lungs.", *[""] * 5]
    assert dataset.notes() == (
        "not used: 1 x report with fewer words than are needed",
        "not used: 4 x no report",
    )
    clean = Chexpert(SPECS["chexpert"], dataset.root, cleaning="clean")
    assert clean.index().table["report"].tolist()[:3] == ["No change today. Clear lungs.", "", "Normal."]


@pytest.mark.parametrize(
    ("home", "release"),
    [
        ("CheXpert-v1.0-small", "CheXpert-v1.0-small"),
        ("CheXpert-v1.0", "CheXpert-v1.0"),
        ("", "CheXpert-v1.0"),
    ],
)
def test_original_and_small_are_the_same_samples(
    layout: Callable[..., Chexpert], home: str, release: str
) -> None:
    rows = layout(home=home, release=release).index().table
    assert rows["sample"].tolist() == [path for path, _ in TRAIN + VALID]
    assert rows["image"].tolist() == [f"{home}/{path}".lstrip("/") for path, _ in TRAIN + VALID]


def test_the_batches_of_the_original(layout: Callable[..., Chexpert]) -> None:
    home = "CheXpert-v1.0 batch 1 (validate & csv)"
    dataset = layout(home=home, release="CheXpert-v1.0")
    films = dataset.root / home / "train"
    for patient, batch in (
        ("patient00001", "2 (train 1)"),
        ("patient00002", "3 (train 2)"),
        ("patient00003", "4 (train 3)"),
    ):
        (dataset.root / f"CheXpert-v1.0 batch {batch}").mkdir()
        (films / patient).rename(dataset.root / f"CheXpert-v1.0 batch {batch}" / patient)
    images = dataset.index().table["image"].tolist()
    assert images[0] == "CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg"
    assert images[3] == "CheXpert-v1.0 batch 3 (train 2)/patient00002/study2/view1_frontal.jpg"
    assert images[5] == f"{home}/valid/patient64541/study1/view1_frontal.jpg"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("train/patient00003/study1/view1_frontal.jpg", {}), "row given twice in train.csv"),
        (("valid/patient00009/study1/view1_frontal.jpg", {}), "Path in train.csv is not train/PATIENT/STUDY"),
        (("train/patient00009/study1/view1_frontal.jpg", {"Edema": "2"}), "none of 1, 0, -1 and blank"),
        (("train/patient00009/study1/view1_frontal.jpg", {"Edema": "yes"}), "none of 1, 0, -1 and blank"),
        (
            ("train/patient00009/study1/view1_frontal.jpg", {"Frontal/Lateral": "Oblique"}),
            "neither Frontal nor Lateral in train.csv",
        ),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., Chexpert], row: tuple[str, dict[str, str]], message: str
) -> None:
    dataset = layout([*TRAIN, row])
    with pytest.raises(BrokenSamples, match=message) as caught:
        dataset.index()
    assert {problem.sample for problem in caught.value.problems} == {row[0]}
    index = dataset.index(exclude_broken=True)
    assert row[0] not in set(index.table["sample"])
    assert len(index) >= 5


def test_missing_and_empty_films(layout: Callable[..., Chexpert]) -> None:
    dataset = layout()
    (dataset.root / TRAIN[0][0]).unlink()
    (dataset.root / TRAIN[4][0]).write_bytes(b"")
    with pytest.raises(BrokenSamples, match="2 samples have problems") as caught:
        dataset.index()
    assert "no such file" in str(caught.value) and "file is empty" in str(caught.value)


def test_missing_tables_and_columns(layout: Callable[..., Chexpert]) -> None:
    dataset = layout()
    path = dataset.root / "valid.csv"
    text = path.read_text()
    path.unlink()
    with pytest.raises(DataError, match=r"looked for the table of valid films, .*valid\.csv or"):
        dataset.index()
    path.write_text(text.replace("Pneumothorax", "Pneumo"))
    with pytest.raises(DataError, match=r"valid\.csv has no column Pneumothorax"):
        dataset.index()
    path.write_text(text.partition("\n")[0] + "\n")
    with pytest.raises(DataError, match=r"valid\.csv has no rows"):
        dataset.index()


# The real train.csv


@pytest.fixture(scope="module")
def real(label_files: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The rows of train.csv."""
    root = tmp_path_factory.mktemp("chexpert")
    pd.read_csv(label_files / "chexpert_train.csv.gz", dtype=str).to_csv(root / "train.csv", index=False)
    return Chexpert(SPECS["chexpert"], root).train


def index_of(rows: pd.DataFrame) -> Index:
    columns = {name: rows[name] for name in ("sample", "patient", "split", "view")}
    columns |= {"image": rows["sample"], "bytes": np.ones(len(rows))}
    return Index.of(SPECS["chexpert"], Path("/nowhere"), columns)


def test_nothing_is_wrong_with_the_real_table(real: pd.DataFrame) -> None:
    assert (len(real), real["patient"].nunique()) == (223_414, 64_540)
    assert (real["wrong"] == "").all()
    assert (real["view"] != "Lateral").sum() == 191_027
    assert real["sex"].value_counts().to_dict() == {"M": 132_636, "F": 90_777, "": 1}
    assert (real["age"].isna().sum(), real["age"].min(), real["age"].max()) == (3, 18, 90)


def test_candidates_of_5x200(real: pd.DataFrame) -> None:
    assert {name: len(found) for name, found in candidates(real).items()} == {
        "Atelectasis": 1_087,
        "Cardiomegaly": 1_034,
        "Consolidation": 537,
        "Edema": 2_257,
        "Pleural Effusion": 2_425,
    }


def coded_again(label_files: Path) -> dict[str, pd.DataFrame]:
    """The published procedure, written again on the table itself."""
    everything = pd.read_csv(label_files / "chexpert_train.csv.gz")
    everything["sample"] = everything["Path"].str.removeprefix("CheXpert-v1.0-small/")
    frontal = everything[everything["Frontal/Lateral"] == "Frontal"].fillna(0)
    drawn = []
    for name in ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"):
        others = [other for other in OBSERVATIONS if other not in (name, "No Finding")]
        alone = frontal[(frontal[name] == 1) & (frontal[others] == 0).all(axis=1)]
        drawn.append(alone.sample(n=200, random_state=0))
    five = pd.concat(drawn)
    left = everything[~everything["sample"].isin(five["sample"])]
    positions = np.random.RandomState(0).choice(len(left), size=5_000, replace=False)
    return {"five": five, "val": left.iloc[positions], "train": left.drop(positions, errors="ignore")}


def test_the_procedure_as_coded(real: pd.DataFrame, label_files: Path) -> None:
    theirs = coded_again(label_files)
    train, val = as_coded(real)
    assert real["sample"].iloc[five_by(real, 200)].tolist() == theirs["five"]["sample"].tolist()
    assert set(real["sample"].iloc[train]) == set(theirs["train"]["sample"])
    assert set(real["sample"].iloc[val]) == set(theirs["val"]["sample"])
    assert (len(train), len(val), len(np.intersect1d(train, val))) == (217_433, 5_000, 4_907)
    patients = [set(real["patient"].iloc[own]) for own in (train, val)]
    assert (len(patients[1]), len(patients[0] & patients[1])) == (4_576, 4_566)


@pytest.mark.parametrize("name", ["clean", "mgca"])
def test_splits_of_the_full_release(real: pd.DataFrame, name: str) -> None:
    dataset = Chexpert(SPECS["chexpert"], Path("/nowhere"))
    vars(dataset)["train"] = real
    index = index_of(real)
    split = dataset.split(index, name)
    spec = dataset.splits[name]
    assert spec.sizes is not None
    assert (len(split.train), len(split.val)) == spec.sizes[:2]
    samples = index.table["sample"].to_numpy()
    assert {part: ids_sha256(samples[getattr(split, part)]) for part in ("train", "val")} == spec.parts
    assert (index.table["view"].to_numpy()[split.train] != "Lateral").all()
    assert bool(split.leak) == (name == "mgca")
    if name == "clean":
        everyone = index.table["patient"].to_numpy()
        apart = [
            set(everyone[split.train]),
            set(everyone[split.val]),
            set(real["patient"].iloc[five_by(real, 200)]),
        ]
        assert not apart[0] & apart[1] and not (apart[0] | apart[1]) & apart[2]


def test_5x200_of_the_full_release(real: pd.DataFrame) -> None:
    index = index_of(real.iloc[five_by(real, 200)])
    assert (len(index), index.table["patient"].nunique()) == (1_000, 969)
    dataset = Chexpert5x200(SPECS["chexpert_5x200"], Path("/nowhere"))
    assert dataset.split(index, "mgca").sha256(index) == dataset.splits["mgca"].sha256


# Phantoms


def test_the_phantom_twin(tmp_path: Path) -> None:
    twin.write(tmp_path / "twin", patients=40, size=64)
    dataset = Chexpert(SPECS["chexpert"], tmp_path / "twin")
    index = dataset.index()
    assert (len(index), index.source, index.subset) == (twin.total(40), "phantom", None)
    assert set(index.table["split"]) == {"train", "valid"}
    values = index.table[[f"label_{name}" for name in index.labels]].to_numpy()
    assert set(np.unique(values)) == {0, 1}
    for check in check_splits(dataset, index):
        assert (check.wrong, check.published) == ("", "n/a")
    assert dataset.split(index, "mgca").leak and not dataset.split(index, "clean").leak


def test_the_phantom_twin_of_5x200(tmp_path: Path) -> None:
    single_twin.write(tmp_path / "twin", patients=60, size=64)
    dataset = Chexpert5x200(SPECS["chexpert_5x200"], tmp_path / "twin")
    index = dataset.index()
    labels = index.table[[f"label_{name}" for name in index.labels]].to_numpy()
    assert (labels.sum(axis=1) == 1).all() and len(set(labels.sum(axis=0))) == 1
    assert len(dataset.split(index, "mgca").test) == len(index) >= 5


def test_5x200_of_a_folder_without_candidates(layout: Callable[..., Chexpert]) -> None:
    dataset = Chexpert5x200(SPECS["chexpert_5x200"], layout().root)
    with pytest.raises(
        DataError, match=r"of some of the five classes only \(Atelectasis 0, Cardiomegaly 1, "
    ):
        dataset.index()


def test_twins_are_the_same_every_time(tmp_path: Path) -> None:
    contents = []
    for number, workers in enumerate((1, 2)):
        root = tmp_path / str(number)
        twin.write(root, patients=4, size=64, workers=workers)
        contents.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantoms_are_the_writers(size: str) -> None:
    assert SPECS["chexpert"].phantom_patients[size] == twin.SIZES[size]
    assert SPECS["chexpert_5x200"].phantom_patients[size] == single_twin.SIZES[size]
