"""The Indiana University collection: XML and PNG, the mirror's tables, the phantom, all real reports, real films."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medbench.data.reports import Reason
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError
from medbench.phantom import openi as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.openi import OpenI

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "openi")

REPORTS = [
    # uid, findings, impression, headings, films
    ("1", "Clear lungs here.", "Normal chest x-XXXX.", ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
    ("2", "", "Big heart, effusion.", ["Cardiomegaly/borderline", "Pleural Effusion/left"], ["CXR2_IM-0652-1001"]),
    ("3", "", "", ["No Indexing"], ["CXR3_IM-1384-1001"]),
    ("10", "Nothing to see here.", "", ["Spine/degenerative"], []),
]  # fmt: skip


def xml(uid: str, findings: str, impression: str, headings: list[str], films: list[str]) -> str:
    texts = {"INDICATION": "Cough.", "FINDINGS": findings, "IMPRESSION": impression}
    abstract = "".join(f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in texts.items())
    mesh = "".join(f"<major>{heading}</major>" for heading in headings)
    images = "".join(f'<parentImage id="{film}"/>' for film in films)
    head = f'<uId id="CXR{uid}"/><Abstract>{abstract}</Abstract><MeSH>{mesh}</MeSH>'
    return f'<?xml version="1.0" encoding="utf-8"?><eCitation>{head}{images}</eCitation>'


def film(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((12, 10, 3), 90, np.uint8)).save(path)


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., OpenI]:
    """The published folders, the films in a folder of any name."""

    def make(folder: str = "NLMCXR_png") -> OpenI:
        root = tmp_path / "openi"
        (root / "ecgen-radiology").mkdir(parents=True)
        for report in REPORTS:
            (root / "ecgen-radiology" / f"{report[0]}.xml").write_text(xml(*report))
            for name in report[-1]:
                film(root / folder / f"{name}.png")
        return OpenI(SPEC, root)

    return make


@pytest.fixture
def mirror(tmp_path: Path) -> Callable[..., OpenI]:
    """The tables on Kaggle, and the films beside them."""

    def make(films: str = "uid,filename,projection\n") -> OpenI:
        root = tmp_path / "kaggle"
        rows = ["uid,MeSH,Problems,image,indication,comparison,findings,impression"]
        for uid, findings, impression, headings, names in REPORTS:
            rows.append(f'{uid},"{";".join(headings)}",x,Xray,Cough.,,"{findings}","{impression}"')
            for number, name in enumerate(names):
                file = f"{name.removeprefix('CXR')}.dcm.png"
                films += f"{uid},{file},{('Frontal', 'Lateral')[number]}\n"
                film(root / "images" / "images_normalized" / file)
        (root / "indiana_reports.csv").write_text("\n".join(rows) + "\n")
        (root / "indiana_projections.csv").write_text(films)
        return OpenI(SPEC, root)

    return make


@pytest.mark.parametrize("folder", ["NLMCXR_png", "images", "."])
def test_the_index(layout: Callable[..., OpenI], folder: str) -> None:
    dataset = layout(folder)
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == [name for report in REPORTS for name in report[-1]]
    assert table["patient"].tolist() == table["study"].tolist() == ["CXR1", "CXR1", "CXR2", "CXR3"]
    assert table["report"].tolist() == [
        *["Normal chest x-XXXX. Clear lungs here."] * 2,
        "Big heart, effusion.",
        "",
    ]
    np.testing.assert_array_equal(table["label_normal"], [1, 1, 0, np.nan])
    np.testing.assert_array_equal(table["label_cardiomegaly"], [0, 0, 1, np.nan])
    np.testing.assert_array_equal(table["label_pleural_effusion"], [0, 0, 1, np.nan])
    assert (dataset.root / table["image"][0]).is_file()
    assert (table["bytes"] > 0).all()
    assert (index.source, index.subset) == ("real", "4 of 7,470")
    assert dataset.dropped == {Reason.NO_SECTION.value: 1, "report without a film": 1}


def test_the_mirror_says_the_same_and_has_views(
    layout: Callable[..., OpenI], mirror: Callable[..., OpenI]
) -> None:
    own, other = layout().index().table, mirror().index().table
    same = ["patient", "report", *(c for c in own.columns if c.startswith("label_"))]
    assert own[same].equals(other[same])
    assert other["sample"].tolist() == own["sample"].tolist()
    assert other["view"].tolist() == ["Frontal", "Lateral", "Frontal", "Frontal"]


@pytest.mark.parametrize(
    ("harm", "sample", "message"),
    [
        (lambda d: (d / "NLMCXR_png/CXR2_IM-0652-1001.png").unlink(), "CXR2_IM-0652-1001", "no such file"),
        (lambda d: (d / "NLMCXR_png/CXR2_IM-0652-1001.png").write_bytes(b""), "CXR2_IM-0652-1001", "file is empty"),
        (lambda d: film(d / "NLMCXR_png/CXR9_IM-1.png"), "CXR9_IM-1", "on disk, but no report names it"),
        (lambda d: (d / "ecgen-radiology/11.xml").write_text("<cut"), "11.xml", "not readable as XML"),
        (lambda d: (d / "ecgen-radiology/11.xml").write_text("<a/>"), "11.xml", "no report of the collection"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., OpenI], harm: Callable[[Path], None], sample: str, message: str
) -> None:
    dataset = layout()
    harm(dataset.root)
    with pytest.raises(BrokenSamples, match=message):
        dataset.index()
    assert [problem.sample for problem in dataset.index(exclude_broken=True).excluded] == [sample]


def test_what_is_missing_is_named(
    layout: Callable[..., OpenI], mirror: Callable[..., OpenI], tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"looked for the folder or the table of reports, .*indiana_reports\.csv"
    ):
        OpenI(SPEC, tmp_path).index()
    dataset = layout("elsewhere")
    with pytest.raises(DataError, match=r"found none of the 4 films .*Unpack NLMCXR_png\.tgz"):
        dataset.index()
    for path in (dataset.root / "ecgen-radiology").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"has no \.xml file"):
        dataset.index()
    with pytest.raises(
        DataError, match=r"names 1 reports that indiana_reports\.csv does not have \(first: 77\)"
    ):
        mirror("uid,filename,projection\n77,x.png,Frontal\n").index()


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path / "openi", patients=12, size=64)
    dataset = OpenI(SPEC, tmp_path / "openi")
    index = dataset.index()
    assert (len(index), index.source, index.subset) == (phantom.total(12), "phantom", None)
    assert dataset.dropped == {}
    for row, number in enumerate(range(12)):
        kinds = {finding.kind for finding in phantom.patient(number).studies[0].findings}
        assert index.table["label_cardiomegaly"][row] == ("cardiomegaly" in kinds)
        assert index.table["label_normal"][row] == (not kinds)
    assert not verify(dataset, full=True, progress=Progress(quiet=True))[1]
    split = dataset.split(index, "patient_70_10_20")
    assert [len(part) for part in (split.train, split.val, split.test)] == [9, 1, 2]


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]


# The real collection


def test_all_real_reports(label_files: Path, tmp_path: Path) -> None:
    with tarfile.open(label_files / "NLMCXR_reports.tgz") as files:
        files.extractall(tmp_path, filter="data")
    dataset = OpenI(SPEC, tmp_path)
    reports = dataset._xml([])
    (tmp_path / "NLMCXR_png").mkdir()
    for report in reports:
        for name in report.films:
            (tmp_path / "NLMCXR_png" / name).write_bytes(b"x")  # no film is opened for the index
    index = dataset.index()
    assert (len(index), index.subset) == (7_470, None)
    assert dataset.dropped["report without a film"] == 104
    assert sum(count for reason, count in dataset.dropped.items() if "film" not in reason) >= 28
    once = index.table.drop_duplicates("study")
    assert len(once) == 3_955 - 104
    assert index.table["label_normal"].isna().any()
    split = dataset.split(index, "patient_70_10_20")
    patients = index.table["patient"].to_numpy()
    sizes = [len(set(patients[part])) for part in (split.train, split.val, split.test)]
    assert sizes == [2_696, 385, 770]


def test_real_films(test_data: Path, tmp_path: Path) -> None:
    films = sorted((test_data / "openi" / "images").glob("*.png"))
    (tmp_path / "ecgen-radiology").mkdir()
    uids = sorted({path.name.split("_")[0].removeprefix("CXR") for path in films})
    for uid in uids:
        own = [path.stem for path in films if path.name.startswith(f"CXR{uid}_")]
        report = xml(uid, "", "No acute disease.", ["normal"], own)
        (tmp_path / "ecgen-radiology" / f"{uid}.xml").write_text(report)
    (tmp_path / "NLMCXR_png").symlink_to(test_data / "openi" / "images")
    index, problems = verify(OpenI(SPEC, tmp_path), full=True, progress=Progress(quiet=True))
    assert not problems
    assert sorted(index.table["sample"]) == [path.stem for path in films]
