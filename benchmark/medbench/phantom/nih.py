"""Writes phantom data in the folder layout of NIH ChestX-ray14.

    Data_Entry_2017_v2020.csv           a row a film, labels with "|" between them
    train_val_list.txt, test_list.txt   a file name a line
    BBox_List_2017.csv                  boxes of some films of the test part, with the real file's odd header
    images/00000001_000.png             8-bit grey

Emphysema, Fibrosis, Pleural_Thickening and Hernia do not occur: phantoms have no such findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from PIL import Image

from medbench.phantom.findings import KINDS, Finding
from medbench.phantom.render import render
from medbench.phantom.study import RSNA_MIX, Study, stream
from medbench.phantom.writing import Row, Twin, csv_text, one_a_study, write_file

LAYOUT = "nih"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 100}
"""Number of patients by name of the size."""

NIH_MIX = replace(RSNA_MIX, normal=0.40, pneumonia=0.12, studies=(0.55, 0.25, 0.20))

_NAMES: Mapping[str, str] = {
    "heart": "Cardiomegaly",
    "free": "Effusion",
    "opacity": "Infiltration",
    "consolidation": "Consolidation",
    "plate": "Atelectasis",
    "basal": "Atelectasis",
    "batwing": "Edema",
    "interstitial": "Edema",
    "apical": "Pneumothorax",
    "nodule": "Nodule",
    "mass": "Mass",
}
"""Label of a finding, by its variety; fractures and devices have none."""
_BOX_NAMES: Mapping[str, str] = {"Infiltration": "Infiltrate"}
"""As the real list of boxes spells them."""
_BOXED = frozenset(
    ("Atelectasis", "Effusion", "Cardiomegaly", "Infiltration", "Pneumothorax", "Mass", "Nodule")
)
"""Labels that the real list has boxes of (Pneumonia, too, which here goes with two others)."""

_ENTRIES = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
)
_BOXES = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]", "", "", "")
_LOTS = 500
"""Number in the random key that sets lots apart from findings (studies have 1, 2, 3, ...)."""
_TEST_SHARE, _BOX_SHARE = 0.23, 0.5


def label_of(finding: Finding) -> str:
    """The label of a finding, "" for one that the dataset has no label for."""
    return _NAMES.get(finding.variety, "")


def labels_of(study: Study) -> list[str]:
    """The labels of a film in alphabetical order; No Finding alone where there is none."""
    found = {label_of(finding) for finding in study.findings} - {""}
    if {"Infiltration", "Consolidation"} <= found:
        found |= {"Pneumonia"}
    return sorted(found) or ["No Finding"]


def split_of(number: int, seed: int = 0) -> str:
    """The list of a patient, by lot: about a quarter tests, as in the release."""
    return "test" if float(stream(LAYOUT, seed, number, _LOTS).random()) < _TEST_SHARE else "train_val"


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    part = split_of(number, seed)
    lots = stream(LAYOUT, seed, number, _LOTS + 1).random(len(who.studies))
    rows: list[Row] = []
    for study, lot in zip(who.studies, lots, strict=True):
        film = render(who.anatomy, study.films[0], study.findings, size=size, masks=KINDS)
        name = f"{number + 1:08d}_{study.number:03d}.png"
        buffer = BytesIO()
        Image.fromarray(film.pixels).save(buffer, "PNG")
        write_file(root, Path("images") / name, buffer.getvalue())
        boxes = [
            (label_of(region.finding), region.box)
            for region in film.regions
            if part == "test" and lot < _BOX_SHARE and label_of(region.finding) in _BOXED
        ]
        rows.append(
            {
                "images": 1,
                "part": part,
                "boxes": boxes,
                "Image Index": name,
                "Finding Labels": "|".join(labels_of(study)),
                "Follow-up #": study.number,
                "Patient ID": number + 1,
                "Patient Age": who.anatomy.age,
                "Patient Gender": who.anatomy.sex,
                "View Position": study.films[0].view,
                "OriginalImage[Width": size,
                "Height]": size,
                "OriginalImagePixelSpacing[x": 0.143,
                "y]": 0.143,
            }
        )
    return rows


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    write_file(root, Path("Data_Entry_2017_v2020.csv"), csv_text(_ENTRIES, films).encode())
    for part in ("train_val", "test"):
        names = [f"{film['Image Index']}\n" for film in films if film["part"] == part]
        write_file(root, Path(f"{part}_list.txt"), "".join(names).encode())
    boxes: list[Row] = [
        {
            "Image Index": film["Image Index"],
            "Finding Label": _BOX_NAMES.get(label, label),
            "Bbox [x": float(x0),
            "y": float(y0),
            "w": float(x1 - x0),
            "h]": float(y1 - y0),
        }
        for film in films
        for label, (x0, y0, x1, y1) in film["boxes"]
    ]
    write_file(root, Path("BBox_List_2017.csv"), csv_text(_BOXES, boxes).encode())


_TWIN = Twin(LAYOUT, NIH_MIX, _write_patient, _write_tables, films=one_a_study)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
