"""Writes phantom data in the folder layout of the RSNA Pneumonia Detection Challenge 2018.

    stage_2_train_images/<patientId>.dcm     8-bit MONOCHROME2, uncompressed explicit VR little endian
    stage_2_train_labels.csv                 patientId,x,y,width,height,Target; one row a box
    stage_2_detailed_class_info.csv          patientId,class; one row a row of the labels

One film a patient. `Target` is pneumonia opacity; every other finding is a confounder without a box.
"""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medbench.phantom.findings import Kind
from medbench.phantom.render import Film, render
from medbench.phantom.study import RSNA_MIX, Patient, Study, sample_patient
from medbench.phantom.writing import Parameters, Row, csv_text, write_file, write_layout

LAYOUT = "rsna"
SIZES: Mapping[str, int] = {"default": 5000, "micro": 150}
"""Number of patients by name of the size."""

_TARGETS: tuple[Kind, ...] = ("pneumonia",)
"""The kinds of findings that count as Target and get boxes."""


def write(
    root: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the layout, or go on with one that was stopped; returns at once if it is complete.

    Args:
        root: Folder to write; new, empty, or begun by an earlier call.
        patients: How many patients, each with one film; `SIZES` names the usual numbers.
        seed: At least 0. The same patient has the same film whatever `patients` is.
        size: Side of the films in pixels; the boxes are in pixels of these films.
        workers: Number of processes. It changes no byte.
        advance: Called with the number of films finished since the last call.

    Raises:
        DataError: If the folder holds another phantom or other files.
        ValueError: If a number is out of range.
    """
    write_layout(
        root,
        Parameters(LAYOUT, patients, seed, size),
        write_patient=_write_patient,
        write_tables=_write_tables,
        workers=workers,
        advance=advance,
    )


def total(patients: int, seed: int = 0) -> int:
    """The number of films that `write` makes: one a patient, whatever the seed."""
    return patients


def patient(number: int, seed: int = 0) -> Patient:
    """The truth about one patient of this layout."""
    return sample_patient(LAYOUT, RSNA_MIX, number, seed)


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


_IMPLEMENTATION = f"2.25.{uuid.uuid5(uuid.NAMESPACE_DNS, 'medbench.phantom').int}"
"""DICOM wants to know which program wrote a file."""


def _dicom(film: Film, who: Patient, ident: str) -> bytes:
    """The film as a DICOM file with the challenge's attributes, tagged as a phantom.

    Encoded here, for pydicom takes 2 ms a file, about a fifth of what drawing a film takes.
    """
    view = who.studies[0].films[0].view
    instance = f"2.25.{uuid.UUID(ident).int}"
    rows, columns = film.pixels.shape
    meta = b"".join(
        (
            _element(0x00020001, "OB", b"\0\1"),
            _element(0x00020002, "UI", SecondaryCaptureImageStorage),
            _element(0x00020003, "UI", instance),
            _element(0x00020010, "UI", ExplicitVRLittleEndian),
            _element(0x00020012, "UI", _IMPLEMENTATION),
        )
    )
    return b"".join(
        (
            b"\0" * 128 + b"DICM",
            _element(0x00020000, "UL", len(meta)),
            meta,
            _element(0x00080016, "UI", SecondaryCaptureImageStorage),
            _element(0x00080018, "UI", instance),
            _element(0x00080060, "CS", "CR"),  # Modality
            _element(0x00080070, "LO", "medbench phantom"),  # Manufacturer
            _element(0x0008103E, "LO", f"view: {view}"),  # SeriesDescription
            _element(0x00100010, "PN", ident),  # PatientName
            _element(0x00100020, "LO", ident),  # PatientID
            _element(0x00100040, "CS", who.anatomy.sex),  # PatientSex
            # PatientAge: a bare number as in the challenge's files, against the standard (057Y): readers
            # must bear it
            _element(0x00101010, "AS", str(who.anatomy.age)),
            _element(0x00180015, "CS", "CHEST"),  # BodyPartExamined
            _element(0x00185101, "CS", view),  # ViewPosition
            _element(0x00204000, "LT", "synthetic phantom, not a patient"),  # ImageComments
            _element(0x00280002, "US", 1),  # SamplesPerPixel
            _element(0x00280004, "CS", "MONOCHROME2"),  # PhotometricInterpretation
            _element(0x00280010, "US", rows),
            _element(0x00280011, "US", columns),
            _element(0x00280100, "US", 8),  # BitsAllocated
            _element(0x00280101, "US", 8),  # BitsStored
            _element(0x00280102, "US", 7),  # HighBit
            _element(0x00280103, "US", 0),  # PixelRepresentation
            _element(0x7FE00010, "OB", film.pixels.tobytes()),
        )
    )


def _element(tag: int, vr: str, value: str | int | bytes) -> bytes:
    """One data element in explicit VR little endian; a value is padded to an even length."""
    if isinstance(value, int):
        value = value.to_bytes(4 if vr == "UL" else 2, "little")
    elif isinstance(value, str):
        value = value.encode("ascii")
    if len(value) % 2:
        value += b" " if vr not in ("UI", "OB") else b"\0"
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode("ascii"))
    # OB alone, of those used here, has the long form of the length
    return head + (struct.pack("<HI", 0, len(value)) if vr == "OB" else struct.pack("<H", len(value))) + value
