"""Writes phantom data in the folder layout of CheXpert v1.0 small.

    train.csv  valid.csv       Path, Sex, Age, Frontal/Lateral, AP/PA, then 14 observations: 1.0, 0.0, -1.0 or blank
    train/patient00001/study1/view1_frontal.jpg
    valid/patient64541/study1/view1_frontal.jpg
    df_chexpert_plus_240401.csv   path_to_image, report and its sections, as CheXpert Plus has them

Frontal films only; the real set holds laterals, too. As there, observations of train.csv are read off the reports, and
those of valid.csv know neither blanks nor doubt.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
from PIL import Image

from medbench.phantom.grammar import CHEXPERT, Report, write_report
from medbench.phantom.render import render
from medbench.phantom.study import Mix, Study, sample_patient, stream
from medbench.phantom.writing import Row, Twin, csv_text, every_film, write_file

LAYOUT = "chexpert"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 80}
"""Number of patients by name of the size."""

CHEXPERT_MIX = Mix(
    normal=0.16,
    pneumonia=0.24,
    others={
        "cardiomegaly": 0.22,
        "effusion": 0.38,
        "atelectasis": 0.28,
        "edema": 0.26,
        "pneumothorax": 0.12,
        "nodule": 0.10,
        "fracture": 0.08,
    },
    things={"device": 0.35, "foreign": 0.06},
    studies=(0.60, 0.25, 0.15),
    second_view=0.05,
)

COLUMNS = (
    "Path",
    "Sex",
    "Age",
    "Frontal/Lateral",
    "AP/PA",
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""Of both tables, in their order."""

PLUS = ("path_to_image", "report", "section_findings", "section_impression")
"""Of the table of reports."""

_QUALITY = 90
"""JPEG quality of the films."""
_WORDS = 500
"""Number in the random key that sets wording apart from findings (studies have 1, 2, 3, ...)."""
_VALID_SHARE = 0.05
"""Chance of a patient to be in valid.csv; far more than the real 200 of 64,740, or a small twin had nobody there."""


def split_of(layout: str, number: int, seed: int = 0) -> str:
    """The table of a patient, by lot: `valid` for one in twenty, else `train`."""
    lot = float(stream(layout, seed, number, _WORDS - 1).random())
    return "valid" if lot < _VALID_SHARE else "train"


def observations(study: Study, report: Report, rng: np.random.Generator) -> dict[str, float]:
    """The observations of a study: those of its report, 1, 0, or -1; what is not mentioned is missing.

    A lung with nothing but consolidation is called so, without a cause, for every second report.
    """
    found = dict(report.labels)
    diseases = {f.kind for f in study.findings} - {"device", "foreign"}
    plain = all(f.variety == "consolidation" for f in study.findings if f.kind == "pneumonia")
    if diseases == {"pneumonia"} and plain and rng.random() < 0.5:
        found = {name: value for name, value in found.items() if name not in ("Pneumonia", "Lung Opacity")}
    return found


def write_patient(layout: str, mix: Mix, root: Path, number: int, seed: int, size: int) -> list[Row]:
    """Write a patient's films; `layout` and `mix` are of this twin or of another one in the same files."""
    who = sample_patient(layout, mix, number, seed)
    part = split_of(layout, number, seed)
    folder = Path(part) / f"patient{number + (64_541 if part == 'valid' else 1):05d}"
    rows: list[Row] = []
    for study in who.studies:
        rng = stream(layout, seed, number, _WORDS + study.number)
        report = write_report(who, study, rng)
        found = observations(study, report, rng)
        if part == "valid":
            found = {name: float(found.get(name, 0.0) == 1.0) for name in CHEXPERT}
        for view, film in enumerate(study.films, 1):
            name = folder / f"study{study.number + 1}" / f"view{view}_frontal.jpg"
            if not (root / name).exists():
                pixels = render(who.anatomy, film, study.findings, size=size, masks=()).pixels
                buffer = BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
                write_file(root, name, buffer.getvalue())
            rows.append(
                {
                    "images": 1,
                    "part": part,
                    "Path": f"CheXpert-v1.0-small/{name}",
                    "Sex": "Female" if who.anatomy.sex == "F" else "Male",
                    "Age": who.anatomy.age,
                    "Frontal/Lateral": "Frontal",
                    "AP/PA": film.view,
                    "path_to_image": str(name),
                    "report": report.text,
                    "section_findings": report.findings,
                    "section_impression": report.impression,
                    **found,
                }
            )
    return rows


def write_tables(root: Path, films: Sequence[Row]) -> None:
    """Write the tables of all films."""
    for part in ("train", "valid"):
        rows = [film for film in films if film["part"] == part]
        write_file(root, Path(f"{part}.csv"), csv_text(COLUMNS, rows).encode())
    text = StringIO()
    table = csv.DictWriter(text, PLUS, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(films)
    write_file(root, Path("df_chexpert_plus_240401.csv"), text.getvalue().encode())


_TWIN = Twin(
    LAYOUT,
    CHEXPERT_MIX,
    partial(write_patient, LAYOUT, CHEXPERT_MIX),
    write_tables,
    films=every_film,
)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
