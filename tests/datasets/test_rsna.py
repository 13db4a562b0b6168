"""The RSNA layout: phantom, real subset, the full label list, and everything that can be wrong with a
folder."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sklearn.model_selection import train_test_split

from medbench.data.index import Index
from medbench.data.lists import read_lists
from medbench.data.prepared import BrokenImages, prepare
from medbench.data.split_check import check_splits
from medbench.data.splits import SplitUnavailable, fraction_rows
from medbench.data.verify import BrokenSamples, verify
from medbench.errors import DataError, UsageError
from medbench.phantom import rsna as phantom
from medbench.progress import Progress
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.rsna import MAPPING, Rsna

SPEC: DatasetSpec = next(spec for spec in medbench_datasets() if spec.name == "rsna")
HEADER = "patientId,x,y,width,height,Target\n"
GOOD = "a,,,,,0\nb,1,2,10,12,1\nb,20,3,5.5,6,1\nc,,,,,0\n"


def film(path: Path, side: int = 32) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows = data.Columns = side
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = np.arange(side * side, dtype=np.uint8).tobytes()
    data.save_as(path, enforce_file_format=True)


@pytest.fixture
def layout(tmp_path: Path) -> Callable[..., Rsna]:
    """Makes a folder of films a, b, c, ... from the rows of its labels file."""

    def make(rows: str = GOOD, films: str = "abc", header: str = HEADER) -> Rsna:
        root = tmp_path / "rsna"
        (root / "stage_2_train_images").mkdir(parents=True, exist_ok=True)
        for name in films:
            film(root / "stage_2_train_images" / f"{name}.dcm")
        (root / "stage_2_train_labels.csv").write_text(header + rows)
        return Rsna(SPEC, root)

    return make


def test_the_index(layout: Callable[..., Rsna]) -> None:
    dataset = layout()
    index = dataset.index()
    table = index.table
    assert table["sample"].tolist() == table["patient"].tolist() == ["a", "b", "c"]
    assert table["image"].tolist() == [f"stage_2_train_images/{p}.dcm" for p in "abc"]
    assert table["label_pneumonia"].tolist() == [0, 1, 0]
    assert [len(boxes) for boxes in table["boxes"]] == [0, 2, 0]
    np.testing.assert_array_equal(table["boxes"][1], [[1, 2, 10, 12], [20, 3, 5.5, 6]])
    assert table["boxes"][0].shape == (0, 4)
    assert (table["bytes"] == (dataset.root / table["image"][0]).stat().st_size).all()
    assert (index.source, index.subset) == ("real", "3 of 26,684")
    assert index.fingerprint() == dataset.index().fingerprint()


@pytest.mark.parametrize(
    ("rows", "films", "message"),
    [
        (GOOD + "d,,,,,0\n", "abc", "stage_2_train_images/d.dcm: no such file"),
        (GOOD, "abcd", "stage_2_train_images/d.dcm: on disk, but not in stage_2_train_labels.csv"),
        (GOOD + "a,,,,,0\n", "abc", r"row given twice \(line 6\), patientId a"),
        (GOOD + "b,1,2,10,12,1\n", "abc", r"row given twice \(line 6\), patientId b"),
        (GOOD + "d,1,2,,12,1\n", "abcd", r"box is not four numbers \(1, 2, , 12\), patientId d"),
        (GOOD + "d,1,2,wide,12,1\n", "abcd", r"box is not four numbers \(1, 2, wide, 12\)"),
        (GOOD + "d,1,2,inf,12,1\n", "abcd", "box is not four numbers"),
        (GOOD + "d,1,2,0,12,1\n", "abcd", r"box without area \(x, y, width, height: 1, 2, 0, 12\)"),
        (GOOD + "d,-9,2,10,12,1\n", "abcd", r"box outside its image \(x, y, width, height: -9, 2, 10, 12\)"),
        (GOOD + "d,,,,,1\n", "abcd", "Target 1, but without a box"),
        (GOOD + "d,1,2,10,12,0\n", "abcd", "Target 0, but with a box"),
        (GOOD + "d,,,,,yes\n", "abcd", "Target is neither 0 nor 1 .'yes', line 6"),
        (GOOD + "c,1,2,10,12,1\n", "abc", "both with and without pneumonia"),
        (GOOD + ",,,,,0\n", "abc", "row without a patientId"),
    ],
)
def test_what_is_wrong_is_named_and_can_be_left_out(
    layout: Callable[..., Rsna], rows: str, films: str, message: str
) -> None:
    dataset = layout(rows, films)
    with pytest.raises(BrokenSamples, match=message) as caught:
        dataset.index()
    said = str(caught.value)
    assert said.startswith("rsna: 1 samples have problems in ")
    assert "--exclude-broken" in said
    assert f"medbench data verify rsna --data rsna={dataset.root}" in said
    assert SPEC.access in said
    index = dataset.index(exclude_broken=True)
    assert {p.sample for p in index.excluded} == {p.sample for p in caught.value.problems}
    assert not set(index.table["sample"]) & {p.sample for p in index.excluded}
    assert len(index) >= 2


def test_an_empty_file_is_found_without_opening_it(layout: Callable[..., Rsna]) -> None:
    dataset = layout()
    (dataset.root / "stage_2_train_images" / "c.dcm").write_bytes(b"")
    with pytest.raises(BrokenSamples, match=r"c\.dcm: file is empty"):
        dataset.index()


def test_problems_are_counted_by_kind(layout: Callable[..., Rsna]) -> None:
    rows = GOOD + "".join(f"x{n},,,,,0\n" for n in range(40)) + "d,1,2,0,12,1\n"
    with pytest.raises(BrokenSamples) as caught:
        layout(rows, "abcd").index()
    said = str(caught.value)
    assert "rsna: 41 samples have problems" in said
    assert "40 x no such file" in said
    assert "1 x box without area" in said
    assert "... and 31 more" in said


def test_a_missing_labels_file(layout: Callable[..., Rsna]) -> None:
    dataset = layout()
    (dataset.root / "stage_2_train_labels.csv").unlink()
    with pytest.raises(
        DataError, match=r"looked for the table of labels, .*stage_2_train_labels\.csv, and found"
    ):
        dataset.index()
    missing = Rsna(SPEC, dataset.root / "nowhere")
    with pytest.raises(DataError, match="found no folder there"):
        missing.index()


def test_a_missing_column(layout: Callable[..., Rsna]) -> None:
    dataset = layout(header=HEADER.replace("width", "w"))
    with pytest.raises(
        DataError, match=r"stage_2_train_labels\.csv has no column width; it has patientId, x, y, w,"
    ):
        dataset.index()


def test_no_rows_and_no_images(layout: Callable[..., Rsna]) -> None:
    with pytest.raises(DataError, match="has no rows"):
        layout("").index()
    dataset = layout()
    shutil.rmtree(dataset.root / "stage_2_train_images")
    with pytest.raises(DataError, match=r"looked for the folder of images.*Unpack stage_2_train_images\.zip"):
        dataset.index()
    with pytest.raises(DataError, match=r"no sample in .* is without problems"):
        layout("z,,,,,0\n", "").index(exclude_broken=True)


def test_what_only_the_pixels_show_is_caught_before_training(
    layout: Callable[..., Rsna], tmp_path: Path
) -> None:
    dataset = layout(GOOD + "d,30,3,9,6,1\ne,,,,,0\n", "abcde")
    path = dataset.root / "stage_2_train_images" / "e.dcm"
    path.write_bytes(path.read_bytes()[:-100])
    index = dataset.index()
    with pytest.raises(BrokenImages) as caught:
        prepare(index, 16, "stretch", tmp_path / "cache", workers=1, progress=Progress(quiet=True))
    assert [p.sample for p in caught.value.problems] == ["e", "d"]
    assert "d.dcm: box outside its image (x, y, width, height: 30, 3, 9, 6; the image is 32 x 32)" in str(
        caught.value
    )
    quiet = Progress(quiet=True)
    rest, problems = verify(dataset, full=True, progress=quiet)
    assert {p.sample for p in problems} == {"d", "e"}
    assert rest.table["sample"].tolist() == ["a", "b", "c"]
    # Without `full` only the headers of films with boxes are read.
    assert {p.sample for p in verify(dataset, full=False, progress=quiet)[1]} == {"d"}


def test_leaving_a_film_out_moves_no_patient(layout: Callable[..., Rsna]) -> None:
    names = "abcdefghijklmnopqrst"
    rows = "".join(f"{name},,,,,0\n" for name in names)
    dataset = layout(rows, names)
    mapped(dataset.root, {name: f"{n // 2:08d}_{n:03d}.png" for n, name in enumerate(names)})
    whole = dataset.index()
    before = {name: dataset.split(whole, name) for name in dataset.splits}
    (dataset.root / "stage_2_train_images" / "g.dcm").unlink()
    rest = dataset.index(exclude_broken=True)
    for name, split in before.items():
        after = dataset.split(rest, name)
        for part in ("train", "val", "test"):
            was = set(whole.table["sample"].to_numpy()[getattr(split, part)])
            assert set(rest.table["sample"].to_numpy()[getattr(after, part)]) == was - {"g"}


def test_an_unknown_split(layout: Callable[..., Rsna]) -> None:
    dataset = layout()
    with pytest.raises(
        UsageError, match=r"rsna has no split 'official'\. It has mgca_det, mgca_cls, clean_det, cle"
    ):
        dataset.split(dataset.index(), "official")


# Whose films they are


def mapped(root: Path, names: Mapping[str, str]) -> None:
    rows = [{"subset_img_id": film, "img_id": nih, "orig_labels": []} for film, nih in names.items()]
    (root / MAPPING).write_text(json.dumps(rows))


FILMS = "abcdefghijklmnopqrstuvwx"
OF_EIGHT = {name: f"{n % 8:08d}_{n:03d}.png" for n, name in enumerate(FILMS)}
"""24 films of eight patients."""


def test_the_mapping_says_whose_films_they_are(layout: Callable[..., Rsna]) -> None:
    dataset = layout("".join(f"{name},,,,,0\n" for name in FILMS), FILMS)
    without = dataset.index()
    assert "every film counts as a patient" in dataset.notes()[-1]
    mapped(dataset.root, OF_EIGHT | {"challenge's test film": "00000001_000.png"})
    index = dataset.index()
    assert f"patients are NIH's, by {MAPPING}" in dataset.notes()
    assert index.table["sample"].tolist() == index.table["study"].tolist() == list(FILMS)
    assert index.table["patient"].tolist() == [f"nih:{n % 8:08d}" for n in range(24)]
    for name in ("mgca_det", "mgca_cls"):  # published splits stay what they are
        assert dataset.split(index, name).sha256(index) == dataset.split(without, name).sha256(without)
    for name, held_out in (("clean_det", 3), ("clean_cls", 3)):
        split = dataset.split(index, name)
        parts = [
            set(index.table["patient"].to_numpy()[rows]) for rows in (split.train, split.val, split.test)
        ]
        assert [len(part) for part in parts] == [8 - held_out, 2, 1]
        assert len(set.union(*parts)) == 8
        assert split.leak == ""
    checks = {check.name: check for check in check_splits(dataset, index)}
    assert "films in training" in checks["mgca_det"].leak
    assert all(check.wrong == "" for check in checks.values())


def test_clean_splits_need_the_mapping(layout: Callable[..., Rsna]) -> None:
    dataset = layout("".join(f"{name},,,,,0\n" for name in FILMS), FILMS)
    index = dataset.index()
    with pytest.raises(SplitUnavailable, match=rf"only .*{MAPPING} says whose a film is.*found none"):
        dataset.split(index, "clean_det")
    assert [check.wrong for check in check_splits(dataset, index)] == ["", "", "", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can not be read .JSONDecodeError"),
        ("{}", "does not say whose films 3 of 3 are .first: a"),
        ('[{"id": 1}]', "can not be read .KeyError: 'subset_img_id'"),
        ('[{"subset_img_id": "a", "img_id": "1.png"}]', "does not say whose films 3 of 3 are"),
        ('[{"subset_img_id": "a", "img_id": null}]', "can not be read .TypeError"),
    ],
)
def test_a_mapping_that_is_none(layout: Callable[..., Rsna], text: str, message: str) -> None:
    dataset = layout()
    (dataset.root / MAPPING).write_text(text)
    with pytest.raises(DataError, match=message):
        dataset.index()


def test_how_far_the_published_splits_share_patients(test_data: Path, tmp_path: Path) -> None:
    pairs = pd.read_csv(test_data / "label_lists" / "rsna_to_nih.csv")
    pairs = pairs[pairs["match_mse"] < 10].drop_duplicates("patientId")
    (tmp_path / "stage_2_train_images").mkdir()
    for film in pairs["patientId"]:
        os.symlink(__file__, tmp_path / "stage_2_train_images" / f"{film}.dcm")
    rows = "".join(f"{film},,,,,0\n" for film in pairs["patientId"])
    (tmp_path / "stage_2_train_labels.csv").write_text(HEADER + rows)
    mapped(tmp_path, dict(zip(pairs["patientId"], pairs["nih_image_index"], strict=True)))
    dataset = Rsna(SPEC, tmp_path)
    index = dataset.index()
    patients = index.table["patient"].to_numpy()
    shared = {}
    for name in dataset.splits:
        split = dataset.split(index, name)
        shared[name] = np.isin(patients[split.test], patients[split.train]).mean()
    assert 0.6 < shared["mgca_det"] < 0.75
    assert 0.6 < shared["mgca_cls"] < 0.75
    assert shared["clean_det"] == shared["clean_cls"] == 0


# Whole sets


def test_counts_of_the_full_release(tmp_path: Path) -> None:
    dataset = Rsna(SPEC, tmp_path)
    rows = "".join(f"{n:08x},,,,,0\n" for n in range(26_684))
    (tmp_path / "stage_2_train_labels.csv").write_text(HEADER + rows)
    table = pd.DataFrame({"sample": [f"{n:08x}" for n in range(26_684)]})
    table["patient"] = table["sample"]
    index = Index("rsna", tmp_path, "real", table, official_size=26_684)
    assert index.subset is None
    sizes = {name: dataset.split(index, name) for name in ("mgca_det", "mgca_cls")}
    assert [len(getattr(sizes["mgca_det"], p)) for p in ("train", "val", "test")] == [16_010, 5_337, 5_337]
    assert [len(getattr(sizes["mgca_cls"], p)) for p in ("train", "val", "test")] == [18_678, 4_003, 4_003]


def test_the_real_label_list(test_data: Path, tmp_path: Path) -> None:
    shutil.copy(
        test_data / "label_lists" / "rsna_stage_2_train_labels.csv", tmp_path / "stage_2_train_labels.csv"
    )
    folder = tmp_path / "stage_2_train_images"
    folder.mkdir()
    labels = pd.read_csv(tmp_path / "stage_2_train_labels.csv")
    for patient in labels["patientId"].unique():
        os.symlink(__file__, folder / f"{patient}.dcm")  # no film is opened for the index
    dataset = Rsna(SPEC, tmp_path)
    index = dataset.index()
    assert len(index) == 26_539
    assert index.subset == "26,539 of 26,684"
    assert sum(map(len, index.table["boxes"])) == labels["Target"].sum()
    assert index.table["label_pneumonia"].sum() == labels[labels["Target"] == 1]["patientId"].nunique()
    first = index.table[index.table["label_pneumonia"] == 1].iloc[0]
    own = labels[labels["patientId"] == first["patient"]]
    np.testing.assert_array_equal(first["boxes"], own[["x", "y", "width", "height"]])
    split = dataset.split(index, "mgca_det")
    assert len(split.train) + len(split.val) + len(split.test) == 26_539
    assert len(split.val) - len(split.test) in (0, 1)
    assert len(split.train) == 26_539 - round(26_539 * 10_674 / 26_684)


def mgca_patients(labels: pd.DataFrame, held_out: int | float) -> dict[str, set[str]]:
    """MGCA's procedure, written again: one row a patient, sorted by id; then two divisions by scikit-learn."""
    rows = labels.groupby("patientId", sort=True)["Target"].max().reset_index()
    train, rest = train_test_split(rows, test_size=held_out, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    return {part: set(own["patientId"]) for part, own in (("train", train), ("val", val), ("test", test))}


@pytest.fixture(scope="module")
def full_release(label_files: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Rsna, Index]:
    """All 26,684 patients, with a stand-in for every film."""
    root = tmp_path_factory.mktemp("rsna")
    pd.read_csv(label_files / "kaggle_stage_2_train_labels.csv.zip", dtype=str).to_csv(
        root / "stage_2_train_labels.csv", index=False
    )
    folder = root / "stage_2_train_images"
    folder.mkdir()
    for patient in pd.read_csv(root / "stage_2_train_labels.csv")["patientId"].unique():
        os.symlink(__file__, folder / f"{patient}.dcm")
    dataset = Rsna(SPEC, root)
    return dataset, dataset.index()


def test_the_full_release_gives_mgcas_patients(full_release: tuple[Rsna, Index], label_files: Path) -> None:
    dataset, index = full_release
    assert (len(index), index.subset) == (26_684, None)
    labels = pd.read_csv(label_files / "kaggle_stage_2_train_labels.csv.zip")
    assert len(labels) == 30_227
    assert sum(map(len, index.table["boxes"])) == labels["Target"].sum() == 9_555
    assert index.table["label_pneumonia"].sum() == 6_012
    for name, held_out in (("mgca_det", 2 * 5_337), ("mgca_cls", 2 * 0.15)):
        split = dataset.split(index, name)
        for part, patients in mgca_patients(labels, held_out).items():
            assert set(index.table["patient"].to_numpy()[getattr(split, part)]) == patients
    checks = {check.name: check for check in check_splits(dataset, index)}
    for name in ("mgca_det", "mgca_cls"):
        assert (checks[name].published, checks[name].wrong) == ("yes", "")


def test_benchx_has_the_same_sizes_and_other_patients(
    full_release: tuple[Rsna, Index], test_data: Path
) -> None:
    folder = test_data / "split_lists" / "benchx" / "RSNA"
    if not folder.is_dir():
        pytest.skip("the real data hold no split lists")
    dataset, index = full_release
    theirs, ours = read_lists(index, folder), dataset.split(index, "mgca_cls")
    assert theirs.problems == ()
    shared = {}
    for part in ("train", "val", "test"):
        one, other = getattr(theirs.split, part), getattr(ours, part)
        assert len(one) == len(other)
        shared[part] = len(np.intersect1d(one, other))
    assert shared == {"train": 13_081, "val": 595, "test": 617}
    assert theirs.split.sha256(index) != dataset.splits["mgca_cls"].sha256


def test_real_films(test_data: Path, tmp_path: Path) -> None:
    dataset = Rsna(SPEC, test_data / "rsna_layout")
    index = dataset.index()
    assert (len(index), index.subset, index.source) == (202, "202 of 26,684", "real")
    assert sum(map(len, index.table["boxes"])) == 115
    assert index.table["label_pneumonia"].sum() == 72
    split = dataset.split(index, "mgca_det")
    positives = index.table["label_pneumonia"].to_numpy() > 0
    small = fraction_rows(index, split, 0.01, 0, positives)
    assert small.too_small == "1% of 121 training patients is 1; a label fraction must hold at least 8"
    assert fraction_rows(index, split, 0.1, 0, positives).too_small is None
    some = index.select(np.arange(202) % 8 == 0)
    films = prepare(some, 64, "stretch", tmp_path, workers=1, progress=Progress(quiet=True))
    assert (films.sizes == 512).all()
    assert films.images.std(axis=(1, 2)).min() > 10


def test_phantom_films(tmp_path: Path) -> None:
    phantom.write(tmp_path / "rsna", patients=24, size=64)
    dataset = Rsna(SPEC, tmp_path / "rsna")
    index = dataset.index()
    assert (len(index), index.source, index.subset) == (24, "phantom", None)
    films = prepare(index, 32, "stretch", tmp_path / "cache", workers=1, progress=Progress(quiet=True))
    assert (films.sizes == 64).all()
    split = dataset.split(index, "mgca_det")
    assert len(split.train) == 24 - 10
    assert (split.leak, dataset.notes()) == ("", ())


@pytest.mark.parametrize("size", ["default", "micro"])
def test_the_declared_phantom_is_the_writers(size: str) -> None:
    assert SPEC.phantom_patients[size] == phantom.SIZES[size]
