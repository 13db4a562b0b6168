"""The writers: layouts that parse, the same bytes whatever the workers, and going on after a stop."""

import csv
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from medbench.errors import DataError
from medbench.phantom import PHANTOM_VERSION, mimic_cxr, rsna, writing

LAYOUTS = {"mimic_cxr": mimic_cxr, "rsna": rsna}


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def table(path: Path) -> list[dict[str, str]]:
    raw = path.read_bytes()
    text = gzip.decompress(raw) if path.suffix == ".gz" else raw
    return list(csv.DictReader(io.StringIO(text.decode())))


@pytest.fixture(scope="module")
def mimic_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mimic") / "root"
    mimic_cxr.write(root, patients=45, size=64)
    return root


@pytest.fixture(scope="module")
def rsna_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rsna") / "root"
    rsna.write(root, patients=90, size=64)
    return root


def test_mimic_layout_parses(mimic_root):
    metadata = table(mimic_root / "mimic-cxr-2.0.0-metadata.csv.gz")
    splits = table(mimic_root / "mimic-cxr-2.0.0-split.csv.gz")
    labels = table(mimic_root / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert len(metadata) == len(splits) == mimic_cxr.total(45)
    assert len({row["dicom_id"] for row in metadata}) == len(metadata)
    of_patient: dict[str, set[str]] = {}
    for row, split in zip(metadata, splits, strict=True):
        assert row["dicom_id"] == split["dicom_id"]
        of_patient.setdefault(split["subject_id"], set()).add(split["split"])
        folder = f"p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        with Image.open(mimic_root / "files" / folder / f"{row['dicom_id']}.jpg") as image:
            assert image.mode == "L"
            assert image.size == (int(row["Columns"]), int(row["Rows"])) == (64, 64)
        report = (mimic_root / "mimic-cxr-reports/files" / f"{folder}.txt").read_text()
        assert "FINDINGS:" in report or "IMPRESSION:" in report
        assert row["ViewPosition"] in ("PA", "AP")
        assert len(row["StudyDate"]) == 8
        float(row["StudyTime"])
    assert all(len(s) == 1 for s in of_patient.values())
    assert {s for group in of_patient.values() for s in group} <= {"train", "validate", "test"}
    assert len(labels) == len({row["study_id"] for row in metadata})
    assert {row["Pneumonia"] for row in labels} <= {"1.0", "0.0", "-1.0", ""}
    assert list(labels[0])[:2] == ["subject_id", "study_id"]
    assert len(labels[0]) == 16


def test_study_dates_rise_with_the_studies(mimic_root):
    dates: dict[int, dict[int, str]] = {}
    for row in table(mimic_root / "mimic-cxr-2.0.0-metadata.csv.gz"):
        dates.setdefault(int(row["subject_id"]), {})[int(row["study_id"])] = row["StudyDate"]
    for number in range(45):
        patient = mimic_cxr.patient(number)
        subject = mimic_cxr.subject_id(number)
        days = [dates[subject][mimic_cxr.study_id(number, s.number)] for s in patient.studies]
        assert days == sorted(days)


def test_ids_are_unique_and_eight_digits_long():
    subjects = {mimic_cxr.subject_id(n) for n in range(20_000)}
    studies = {mimic_cxr.study_id(n, s) for n in range(20_000) for s in range(4)}
    assert len(subjects) == 20_000
    assert len(studies) == 80_000
    assert {len(str(n)) for n in subjects | studies} == {8}
    assert {str(n)[:2] for n in subjects} == {f"1{d}" for d in range(10)}


def test_splits_are_by_lot_and_small():
    lots = Counter(mimic_cxr.split_of(n) for n in range(2000))
    assert lots["train"] / 2000 == pytest.approx(0.92, abs=0.02)
    assert lots["validate"] > 40
    assert lots["test"] > 40


def test_rsna_layout_parses(rsna_root):
    labels = table(rsna_root / "stage_2_train_labels.csv")
    classes = table(rsna_root / "stage_2_detailed_class_info.csv")
    assert [row["patientId"] for row in labels] == [row["patientId"] for row in classes]
    assert len({row["patientId"] for row in labels}) == 90
    names = {p.stem for p in (rsna_root / "stage_2_train_images").iterdir()}
    assert names == {row["patientId"] for row in labels}
    for row, info in zip(labels, classes, strict=True):
        positive = info["class"] == "Lung Opacity"
        assert row["Target"] == ("1" if positive else "0")
        if positive:
            x, y, width, height = (float(row[c]) for c in ("x", "y", "width", "height"))
            assert x >= 0
            assert y >= 0
            assert width > 0
            assert height > 0
            assert x + width <= 64
            assert y + height <= 64
        else:
            assert row["x"] == row["y"] == row["width"] == row["height"] == ""
    assert {row["class"] for row in classes} == {"Lung Opacity", "Normal", "No Lung Opacity / Not Normal"}


def test_rsna_dicom_has_the_attributes_of_the_challenge(rsna_root):
    path = next((rsna_root / "stage_2_train_images").iterdir())
    data = pydicom.dcmread(path)
    # a bare number, as in the challenge's files
    assert 18 <= int(data.PatientAge) <= 93
    assert data.PatientID == path.stem
    assert data.Modality == "CR"
    assert data.ViewPosition in ("PA", "AP")
    assert data.PatientSex in ("F", "M")
    assert data.BodyPartExamined == "CHEST"
    assert data.PhotometricInterpretation == "MONOCHROME2"
    assert data.Manufacturer == "medbench phantom"
    assert data.pixel_array.dtype == np.uint8
    assert data.pixel_array.shape == (64, 64)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_marker_tells_a_phantom(name, mimic_root, rsna_root):
    root = mimic_root if name == "mimic_cxr" else rsna_root
    marker = json.loads((root / writing.MARKER).read_text())
    assert marker["phantom"] is True
    assert marker["layout"] == name
    assert marker["version"] == PHANTOM_VERSION
    assert (marker["seed"], marker["size"]) == (0, 64)
    assert not (root / ".phantom").exists()


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_workers_write_the_same_bytes_as_one(name, tmp_path, mimic_root, rsna_root):
    root, patients = (mimic_root, 45) if name == "mimic_cxr" else (rsna_root, 90)
    films: list[int] = []
    LAYOUTS[name].write(tmp_path / "two", patients=patients, size=64, workers=2, advance=films.append)
    assert digest(tmp_path / "two") == digest(root)
    assert sum(films) == LAYOUTS[name].total(patients)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_stopped_writer_goes_on(name, tmp_path, mimic_root, rsna_root):
    root, patients = (mimic_root, 45) if name == "mimic_cxr" else (rsna_root, 90)

    class Stop(Exception):
        pass

    def stop(films: int) -> None:
        raise Stop

    target = tmp_path / "stopped"
    with pytest.raises(Stop):
        LAYOUTS[name].write(target, patients=patients, size=64, advance=stop)
    assert not (target / writing.MARKER).exists()
    done = {p: p.stat().st_mtime_ns for p in target.rglob("*.*g") if p.is_file()}
    films: list[int] = []
    LAYOUTS[name].write(target, patients=patients, size=64, advance=films.append)
    assert digest(target) == digest(root)
    assert sum(films) == LAYOUTS[name].total(patients)
    assert all(p.stat().st_mtime_ns == when for p, when in done.items() if p.exists())


def _empties(group: int) -> bool:
    """Whether the process group is empty within five seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_killed_writer_goes_on_and_leaves_no_workers(tmp_path, rsna_root):
    target = tmp_path / "killed"
    program = (
        "from pathlib import Path\n"
        "from medbench.phantom import rsna\n"
        "if __name__ == '__main__':\n"
        f"    rsna.write(Path({str(target)!r}), patients=90, size=64, workers=2,\n"
        "        advance=lambda n: print(n, flush=True))\n"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # the first chunk is there
    process.send_signal(signal.SIGKILL)
    process.wait()
    # the workers hold the pipe's other end: it is closed when the last of them is gone
    process.stdout.read()
    process.stdout.close()
    assert _empties(process.pid)
    assert not (target / writing.MARKER).exists()
    rsna.write(target, patients=90, size=64)
    assert digest(target) == digest(rsna_root)


def test_two_programs_at_once_write_it_once(tmp_path, rsna_root):
    program = (
        "import sys; from pathlib import Path; from medbench.phantom import rsna\n"
        "rsna.write(Path(sys.argv[1]), patients=90, size=64)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "shared")]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert digest(tmp_path / "shared") == digest(rsna_root)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_complete_layout_is_left_alone(name, mimic_root, rsna_root):
    root, patients = (mimic_root, 45) if name == "mimic_cxr" else (rsna_root, 90)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    LAYOUTS[name].write(root, patients=patients, size=64)
    assert before == {p: p.stat().st_mtime_ns for p in root.rglob("*")}


@pytest.mark.parametrize("changed", [{"patients": 91}, {"seed": 1}, {"size": 128}])
def test_other_parameters_are_refused(rsna_root, changed):
    with pytest.raises(DataError, match="another phantom"):
        rsna.write(rsna_root, **{"patients": 90, "size": 64, **changed})


def test_a_begun_layout_with_other_parameters_is_refused(tmp_path):
    work = tmp_path / ".phantom"
    work.mkdir()
    (work / "parameters.json").write_text(writing.Parameters("rsna", 5, 0, 64).as_json())
    with pytest.raises(DataError, match="another phantom"):
        rsna.write(tmp_path, patients=6, size=64)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="is not empty"):
        rsna.write(tmp_path, patients=2, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"workers": 0}, {"seed": -1}, {"size": 63}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"at least"):
        rsna.write(tmp_path / "x", **{"patients": 2, "size": 64, **wrong})
    assert not (tmp_path / "x").exists()


def test_the_first_patients_do_not_depend_on_how_many_follow(tmp_path, rsna_root):
    rsna.write(tmp_path / "few", patients=10, size=64)
    few, many = (digest(root) for root in (tmp_path / "few", rsna_root))
    films = [name for name in few if name.endswith(".dcm")]
    assert len(films) == 10
    assert all(few[name] == many[name] for name in films)


def test_the_room_needs_no_torch():
    code = (
        "import sys; import medbench.phantom.rsna, medbench.phantom.mimic_cxr; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert multiprocessing.current_process().name == "MainProcess"
