"""Writes phantom data in the folder layout of the SIIM-ACR Pneumothorax Segmentation challenge.

    dicom-images-train/<study>/<series>/<ImageId>.dcm   8-bit, uncompressed
    train-rle.csv                                       ImageId, EncodedPixels: a row an outline, or " -1"

One film a patient. As in the challenge, the second column's name and values begin with a space, and a large
pneumothorax is given in two rows: its upper and its lower half.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.data.regions import encode_rle
from medbench.phantom.dicom import dicom_file
from medbench.phantom.findings import Kind
from medbench.phantom.render import render
from medbench.phantom.study import Mix
from medbench.phantom.writing import Row, Twin, csv_text, write_file

LAYOUT = "siim"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 120}
"""Number of patients by name of the size."""

MIX = Mix(
    normal=0.35,
    pneumonia=0.10,
    others={"pneumothorax": 0.32, "effusion": 0.25, "atelectasis": 0.25, "nodule": 0.15, "fracture": 0.10},
)
"""About 22 % have a pneumothorax, as in the challenge (2,669 of 12,047)."""

_LARGE = 0.01
"""Share of the film from which an outline is given in two rows."""

_OUTLINED: tuple[Kind, ...] = ("pneumothorax",)
"""The kinds of findings that are outlined."""


def _uid(kind: str, number: int, seed: int) -> int:
    return uuid.UUID(
        bytes=hashlib.sha256(f"{LAYOUT}/{kind}/{seed}/{number}".encode()).digest()[:16], version=4
    ).int


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    film = render(who.anatomy, study.films[0], study.findings, size=size, masks=_OUTLINED)
    instance = _uid("film", number, seed)
    image = f"2.25.{instance}"
    above, series = (f"2.25.{_uid(kind, number, seed)}" for kind in ("study", "series"))
    content = dicom_file(film.pixels, instance, image[-16:], who.anatomy.sex, study.films[0].view)
    write_file(root, Path("dicom-images-train") / above / series / f"{image}.dcm", content)
    runs = []
    for region in film.regions:
        mask = region.mask
        if mask.mean() < _LARGE:
            runs.append(encode_rle(mask))
            continue
        _, top, _, bottom = region.box
        halves = mask.copy(), mask.copy()
        halves[0][(top + bottom) // 2 :] = False
        halves[1][: (top + bottom) // 2] = False
        runs += [encode_rle(half) for half in halves]
    return [{"images": 1, "ImageId": image, "runs": [r for r in runs if r]}]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    rows = [
        {"ImageId": film["ImageId"], " EncodedPixels": f" {runs}"}
        for film in films
        for runs in film["runs"] or ["-1"]
    ]
    write_file(root, Path("train-rle.csv"), csv_text(("ImageId", " EncodedPixels"), rows).encode())


_TWIN = Twin(LAYOUT, MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
