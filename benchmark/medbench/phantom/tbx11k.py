"""Writes phantom data in the folder layout of TBX11K.

    imgs/health/h0001.png   imgs/sick/s0002.png   imgs/tb/tb0003.png     8-bit grey PNG
    annotations/json/TBX11K_train.json   TBX11K_val.json                 COCO's format
    lists/TBX11K_train.txt   TBX11K_val.txt

One film a patient. What the phantoms call pneumonia stands for tuberculosis: opacities for an active one,
consolidations for a healed one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from medbench.phantom.findings import Kind
from medbench.phantom.render import render
from medbench.phantom.study import Mix
from medbench.phantom.writing import Row, Twin, write_file

LAYOUT = "tbx11k"
SIZES: Mapping[str, int] = {"default": 1600, "micro": 140}
"""Number of patients by name of the size."""

MIX = Mix(
    normal=0.45,
    pneumonia=0.12,
    others={"cardiomegaly": 0.25, "effusion": 0.30, "atelectasis": 0.30, "nodule": 0.20, "fracture": 0.08},
)
"""One film in eight shows tuberculosis; in the release it is one in ten."""

CATEGORIES = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")

_VAL = 5
"""Every fifth film is for validation; in the release it is 1,800 of 8,400."""

_OUTLINED: tuple[Kind, ...] = ("pneumonia",)
"""The kinds of findings that are outlined."""


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    film = render(who.anatomy, study.films[0], study.findings, size=size, masks=_OUTLINED)
    folder = "tb" if study.has("pneumonia") else "health" if study.normal else "sick"
    prefix = {"tb": "tb", "health": "h", "sick": "s"}[folder]
    name = f"{folder}/{prefix}{number + 1:04d}.png"
    buffer = BytesIO()
    Image.fromarray(film.pixels).save(buffer, "PNG")
    write_file(root, Path("imgs") / name, buffer.getvalue())
    boxes = []
    for region in film.regions:
        x0, y0, x1, y1 = region.box
        category = 1 if region.finding.variety == "opacity" else 2
        boxes.append({"category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    part = "val" if number % _VAL == _VAL - 1 else "train"
    return [{"images": 1, "id": number + 1, "file_name": name, "part": part, "size": size, "boxes": boxes}]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    categories = [
        {"supercategory": "TuberculosisArea", "id": number, "name": name}
        for number, name in enumerate(CATEGORIES, start=1)
    ]
    for part in ("train", "val"):
        own = [film for film in films if film["part"] == part]
        images = [
            {"id": film["id"], "file_name": film["file_name"], "height": film["size"], "width": film["size"]}
            for film in own
        ]
        found = [{"image_id": film["id"], **box} for film in own for box in film["boxes"]]
        annotations = [
            {"id": number, **box, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0}
            for number, box in enumerate(found, start=1)
        ]
        table = {"images": images, "annotations": annotations, "categories": categories}
        write_file(root, Path(f"annotations/json/TBX11K_{part}.json"), (json.dumps(table) + "\n").encode())
        lines = "".join(f"{film['file_name']}\n" for film in own)
        write_file(root, Path(f"lists/TBX11K_{part}.txt"), lines.encode())


_TWIN = Twin(LAYOUT, MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
