"""Writes phantom data in the folder layout of COVIDx, the three-class version 9A.

    train_COVIDx9A.txt, test_COVIDx9A.txt   patient id, file name, class, source; blanks between them, no header
    train/<file>.png, test/<file>.png       8-bit grey

COVID-19 stands for pneumonia on both sides, `pneumonia` for pneumonia on one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from medbench.phantom.render import render
from medbench.phantom.study import Mix, Study, stream
from medbench.phantom.writing import Row, Twin, one_a_study, write_file

LAYOUT = "covidx"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 100}
"""Number of patients by name of the size."""

COVIDX_MIX = Mix(normal=0.35, pneumonia=0.65, others={}, studies=(0.75, 0.25))

_LOTS = 500
"""Number in the random key that sets lots apart from findings (studies have 1, 2, 3, ...)."""
_TEST_SHARE = 0.15


def class_of(study: Study) -> str:
    """The class of a film, by the sides that have pneumonia."""
    sides = {finding.side for finding in study.findings if finding.kind == "pneumonia"}
    return ("normal", "pneumonia", "COVID-19")[len(sides)]


def part_of(number: int, seed: int = 0) -> str:
    """The list of a patient, by lot."""
    return "test" if float(stream(LAYOUT, seed, number, _LOTS).random()) < _TEST_SHARE else "train"


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    part = part_of(number, seed)
    rows: list[Row] = []
    for study in who.studies:
        digest = hashlib.sha256(f"{LAYOUT}/{seed}/{number}/{study.number}".encode()).hexdigest()
        name = f"{digest[:24]}.png"
        if not (root / part / name).exists():
            pixels = render(who.anatomy, study.films[0], study.findings, size=size, masks=()).pixels
            buffer = BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            write_file(root, Path(part) / name, buffer.getvalue())
        rows.append({"images": 1, "part": part, "line": f"{number} {name} {class_of(study)} phantom"})
    return rows


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    for part in ("train", "test"):
        lines = [f"{film['line']}\n" for film in films if film["part"] == part]
        write_file(root, Path(f"{part}_COVIDx9A.txt"), "".join(lines).encode())


_TWIN = Twin(LAYOUT, COVIDX_MIX, _write_patient, _write_tables, films=one_a_study)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
