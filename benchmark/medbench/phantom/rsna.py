"""Writes phantom data in the folder layout of the RSNA Pneumonia Detection Challenge 2018.

    stage_2_train_images/<patientId>.dcm     8-bit MONOCHROME2, uncompressed explicit VR little endian
    stage_2_train_labels.csv                 patientId,x,y,width,height,Target; one row a box
    stage_2_detailed_class_info.csv          patientId,class; one row a row of the labels

One film a patient. `Target` is pneumonia opacity; every other finding is a confounder without a box.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.phantom.dicom import dicom_file
from medbench.phantom.findings import Kind
from medbench.phantom.render import Film, render
from medbench.phantom.study import RSNA_MIX, Patient, Study
from medbench.phantom.writing import Row, Twin, csv_text, write_file

LAYOUT = "rsna"
SIZES: Mapping[str, int] = {"default": 5000, "micro": 150}
"""Number of patients by name of the size."""

_TARGETS: tuple[Kind, ...] = ("pneumonia",)
"""The kinds of findings that count as Target and get boxes."""


def patient_id(number: int, seed: int = 0) -> str:
    """The patientId, a random-looking UUID as in the challenge."""
    digest = hashlib.sha256(f"{LAYOUT}/{seed}/{number}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def class_of(study: Study) -> str:
    """The challenge's class of a film."""
    if study.has("pneumonia"):
        return "Lung Opacity"
    return "Normal" if study.normal else "No Lung Opacity / Not Normal"


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    film = render(who.anatomy, study.films[0], study.findings, size=size, masks=_TARGETS)
    ident = patient_id(number, seed)
    write_file(root, Path("stage_2_train_images") / f"{ident}.dcm", _dicom(film, who, ident))
    boxes = [region.box for region in film.regions]
    return [{"images": 1, "patientId": ident, "class": class_of(study), "boxes": boxes}]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    labels: list[Row] = []
    classes: list[Row] = []
    for film in films:
        ident = {"patientId": film["patientId"]}
        for x0, y0, x1, y1 in film["boxes"]:
            box = {"x": float(x0), "y": float(y0), "width": float(x1 - x0), "height": float(y1 - y0)}
            labels.append({**ident, **box, "Target": 1})
        if not film["boxes"]:
            labels.append({**ident, "Target": 0})
        classes += [{**ident, "class": film["class"]}] * max(1, len(film["boxes"]))
    columns = ("patientId", "x", "y", "width", "height", "Target")
    write_file(root, Path("stage_2_train_labels.csv"), csv_text(columns, labels).encode())
    write_file(
        root,
        Path("stage_2_detailed_class_info.csv"),
        csv_text(("patientId", "class"), classes).encode(),
    )


def _dicom(film: Film, who: Patient, ident: str) -> bytes:
    """The film as a DICOM file with the challenge's attributes, tagged as a phantom."""
    view = who.studies[0].films[0].view
    more: dict[int, tuple[str, str | int]] = {
        0x0008103E: ("LO", f"view: {view}"),  # SeriesDescription
        # PatientAge: a bare number as in the challenge's files, against the standard (057Y): readers must bear it
        0x00101010: ("AS", str(who.anatomy.age)),
    }
    return dicom_file(film.pixels, uuid.UUID(ident).int, ident, who.anatomy.sex, view, more)


_TWIN = Twin(LAYOUT, RSNA_MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
