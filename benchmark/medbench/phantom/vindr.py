"""Writes phantom data in the folder layout of VinDr-CXR 1.0.0 on PhysioNet.

    train/<image_id>.dicom   test/<image_id>.dicom          8-bit, uncompressed, every third one MONOCHROME1
    annotations/annotations_{train,test}.csv                boxes; of the training films, of three readers
    annotations/image_labels_{train,test}.csv               28 columns of 0 and 1

One film a patient; every sixth film is for testing, as in the release. A reader draws a box a little off, and overlooks
faint findings more often than others; the boxes of the test films are exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.phantom.dicom import dicom_file
from medbench.phantom.findings import KINDS, Finding, Kind
from medbench.phantom.render import render
from medbench.phantom.study import Mix, stream
from medbench.phantom.writing import Row, Twin, csv_text, write_file

LAYOUT = "vindr"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 120}
"""Number of patients by name of the size."""

MIX = Mix(
    normal=0.45,
    pneumonia=0.12,
    others={
        "cardiomegaly": 0.35,
        "effusion": 0.25,
        "atelectasis": 0.15,
        "edema": 0.10,
        "pneumothorax": 0.08,
        "nodule": 0.25,
        "fracture": 0.10,
    },
)

NOTHING = "No finding"
_NAMES: Mapping[Kind, str] = {
    "cardiomegaly": "Cardiomegaly",
    "effusion": "Pleural effusion",
    "atelectasis": "Atelectasis",
    "edema": "Edema",
    "pneumothorax": "Pneumothorax",
    "nodule": "Nodule/Mass",
    "fracture": "Rib fracture",
}
CLASSES = (
    *(
        "Aortic enlargement",
        "Atelectasis",
        "Calcification",
        "Cardiomegaly",
        "Clavicle fracture",
        "Consolidation",
    ),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *(
        "Pulmonary fibrosis",
        "Rib fracture",
        "Other lesion",
        "COPD",
        "Lung tumor",
        "Pneumonia",
        "Tuberculosis",
    ),
    *("Other diseases", NOTHING),
)
"""Columns of the label tables, in the release's order."""

_TEST = 6
_READERS = 17
_READING = 900
"""Number in the random key that sets the readers apart from the findings."""


def class_of(finding: Finding) -> str | None:
    """The release's local class of a finding; None for what it has none for."""
    if finding.kind == "pneumonia":
        return "Consolidation" if finding.variety == "consolidation" else "Lung Opacity"
    return _NAMES.get(finding.kind)


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    film = render(who.anatomy, study.films[0], study.findings, size=size, masks=KINDS)
    part = "test" if number % _TEST == _TEST - 1 else "train"
    image = hashlib.sha256(f"{LAYOUT}/{seed}/{number}".encode()).hexdigest()[:32]
    view, inverted = study.films[0].view, number % 3 == 0
    content = dicom_file(film.pixels, int(image, 16), image, who.anatomy.sex, view, inverted=inverted)
    write_file(root, Path(part) / f"{image}.dicom", content)
    true = [
        (name, region.box, region.finding.doubtful)
        for region in film.regions
        if (name := class_of(region.finding)) is not None
    ]
    reading = stream(LAYOUT, seed, number, _READING)
    readers = (
        sorted(int(n) for n in reading.choice(_READERS, 3, replace=False) + 1) if part == "train" else [0]
    )
    seen = []
    for reader in readers:
        boxes = []
        for name, box, doubtful in true:
            missed = float(reading.random()) < (0.5 if doubtful else 0.1)
            off = [int(n) for n in reading.normal(0, 0.01 * size, 4)]
            if part == "test":
                boxes.append({"class": name, "box": list(box)})
            elif not missed:
                x0, y0, x1, y1 = (min(max(b + d, 0), size) for b, d in zip(box, off, strict=True))
                boxes.append({"class": name, "box": [x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)]})
        seen.append({"rad_id": f"R{reader}", "boxes": boxes})
    row = {
        "images": 1,
        "image_id": image,
        "part": part,
        "readings": seen,
        "pneumonia": study.has("pneumonia"),
    }
    return [row]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    for part in ("train", "test"):
        boxes: list[Row] = []
        labels: list[Row] = []
        for film in (film for film in films if film["part"] == part):
            for reading in film["readings"]:
                own = {"image_id": film["image_id"], "rad_id": reading["rad_id"]}
                found = {box["class"] for box in reading["boxes"]}
                for box in reading["boxes"]:
                    corners = dict(
                        zip(("x_min", "y_min", "x_max", "y_max"), map(float, box["box"]), strict=True)
                    )
                    boxes.append({**own, "class_name": box["class"], **corners})
                if not found:
                    boxes.append({**own, "class_name": NOTHING})
                if film["pneumonia"] and found & {"Consolidation", "Lung Opacity"}:
                    found = found | {"Pneumonia"}
                labels.append({**own, **{name: int(name in (found or {NOTHING})) for name in CLASSES}})
        who = ("rad_id",) if part == "train" else ()
        columns = ("image_id", *who, "class_name", "x_min", "y_min", "x_max", "y_max")
        write_file(root, Path(f"annotations/annotations_{part}.csv"), csv_text(columns, boxes).encode())
        columns = ("image_id", *who, *CLASSES)
        write_file(root, Path(f"annotations/image_labels_{part}.csv"), csv_text(columns, labels).encode())


_TWIN = Twin(LAYOUT, MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
