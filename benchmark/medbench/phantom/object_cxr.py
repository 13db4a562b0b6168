"""Writes phantom data in the folder layout of the Object-CXR challenge.

    train/00001.jpg ...   dev/...     8-bit grey JPEG
    train.csv   dev.csv               image_name,annotation

One film a patient; of nine films, eight are for training, as in the challenge. Buttons and coins are annotated with
ellipses or rectangles, necklaces with polygons, in the challenge's own syntax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from medbench.phantom.findings import Kind, Mask
from medbench.phantom.render import box_of, render
from medbench.phantom.study import Mix
from medbench.phantom.writing import Row, Twin, csv_text, write_file

LAYOUT = "object_cxr"
SIZES: Mapping[str, int] = {"default": 1800, "micro": 126}
"""Number of patients by name of the size."""

MIX = Mix(
    normal=0.70,
    pneumonia=0.10,
    others={"cardiomegaly": 0.3, "effusion": 0.3, "nodule": 0.2},
    things={"device": 0.10, "foreign": 0.50},
)
"""Half of the films have a foreign object, as in the challenge."""

_QUALITY = 95
_DEV = 9
"""Every ninth film is one of dev."""

_OUTLINED: tuple[Kind, ...] = ("foreign",)
"""The kinds of findings that are outlined."""


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    film = render(who.anatomy, study.films[0], study.findings, size=size, masks=_OUTLINED)
    part = "dev" if number % _DEV == _DEV - 1 else "train"
    name = f"{number + 1:05d}.jpg"
    buffer = BytesIO()
    Image.fromarray(film.pixels).save(buffer, "JPEG", quality=_QUALITY)
    write_file(root, Path(part) / name, buffer.getvalue())
    outlines = [
        one for region in film.regions for one in _outlines(region.mask, region.finding.variety, number)
    ]
    return [{"images": 1, "part": part, "image_name": name, "annotation": ";".join(outlines)}]


def _outlines(mask: Mask, variety: str, number: int) -> list[str]:
    """A foreign object in the challenge's syntax; buttons are several."""
    from scipy.ndimage import find_objects, label  # 0.2 s to import

    if variety == "necklace":
        return ["2 " + " ".join(f"{x} {y}" for x, y in _hull(mask))]
    parts, _ = label(mask, np.ones((3, 3)))
    boxes = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in find_objects(parts)]
    return [f"{number % 2} {x0} {y0} {x1} {y1}" for x0, y0, x1, y1 in boxes]


def _hull(mask: Mask) -> list[tuple[int, int]]:
    """Corners of the convex hull; of a line, those of its box."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(mask)[:, ::-1]
    try:
        hull = points[ConvexHull(points).vertices]
    except QhullError:
        x0, y0, x1, y1 = box_of(mask)
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return [(int(x), int(y)) for x, y in hull]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    for part in ("train", "dev"):
        rows = [film for film in films if film["part"] == part]
        write_file(root, Path(f"{part}.csv"), csv_text(("image_name", "annotation"), rows).encode())


_TWIN = Twin(LAYOUT, MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
