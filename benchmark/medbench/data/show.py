"""One sample as a picture: the film, its boxes, its regions, and beside it what is known of it."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from medbench.data.images import read_image
from medbench.data.index import Index
from medbench.errors import DataError

SIDE = 900
"""Longer side of the film in the picture, pixels; smaller films are enlarged, larger ones shrunk."""

PANEL = 460
"""Width of the words beside it, pixels."""

COLOURS = ((255, 214, 64), (80, 200, 255), (255, 120, 120), (140, 230, 120), (220, 150, 255), (255, 170, 80))
"""By label, in the order of their names."""


def find(index: Index, sample: str) -> int:
    """Row of a sample, by its id or by the number of its row.

    Raises:
        DataError: there is none, or it was left out for its problems.
    """
    rows = np.flatnonzero(index.table["sample"] == sample)
    if len(rows):
        return int(rows[0])
    if wrong := [str(problem) for problem in index.excluded if problem.sample == sample]:
        raise DataError(f"{index.dataset}: {sample} can not be drawn, it has problems: {'; '.join(wrong)}.")
    if sample.isdecimal() and int(sample) < len(index):
        return int(sample)
    first = ", ".join(index.table["sample"].head(3))
    raise DataError(
        f"{index.dataset} in {index.root} has no sample {sample!r}; it has {len(index):,}: {first}, ... A number below"
        f" {len(index):,} is taken for a row."
    )


def picture(index: Index, row: int) -> Image.Image:
    """Draw a sample, mode RGB.

    Raises:
        DataError: the film or a mask can not be read, or a region does not fit the film.
    """
    entry = index.table.iloc[row]
    film = read_image(index.root / str(entry["image"]))
    height, width = film.shape
    scale = SIDE / max(height, width)
    shown = (max(1, round(width * scale)), max(1, round(height * scale)))
    canvas = Image.fromarray(film).resize(shown, Image.Resampling.LANCZOS).convert("RGB")
    boxes = entry["boxes"] if entry["boxes"] is not None else np.zeros((0, 4))
    names = entry["box_labels"] if entry["box_labels"] is not None else ("",) * len(boxes)
    regions = entry["regions"] or ()
    labels = sorted({*names, *(region.label for region in regions)})
    colour = {label: COLOURS[number % len(COLOURS)] for number, label in enumerate(labels)}
    for region in regions:
        mask = Image.fromarray(region.mask(height, width, index.root)).resize(shown)
        tint = Image.composite(Image.new("RGB", shown, colour[region.label]), canvas, mask)
        canvas = Image.blend(canvas, tint, 0.35)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)
    for (x, y, across, down), name in zip(boxes, names, strict=True):
        corner = (x * scale, y * scale)
        draw.rectangle((*corner, (x + across) * scale, (y + down) * scale), outline=colour[name], width=2)
        draw.text((corner[0] + 4, corner[1] + 3), name, fill=colour[name], font=font)
    return _beside(canvas, _words(index, entry, film.shape), colour)


def _words(index: Index, entry: "pd.Series[Any]", shape: tuple[int, ...]) -> str:
    known = {
        "patient": "patient",
        "study": "study",
        "sex": "sex",
        "age": "age",
        "view": "view",
        "split": "official split",
    }
    lines = [
        f"{index.dataset}, {index.source.upper() if index.source == 'phantom' else index.source}",
        f"sample {entry['sample']}",
        *(f"{name} {said}" for column, name in known.items() if (said := _said(entry[column]))),
        f"{entry['image']}, {shape[1]} x {shape[0]} px",
    ]
    given = {name: entry[f"label_{name}"] for name in index.labels}
    for value, what in ((1.0, "present"), (0.0, "absent")):
        found = [name for name, label in given.items() if label == value]
        if found:
            lines += ["", f"{what}: {', '.join(found)}"]
    lines += ["", "boxes: not annotated" if entry["boxes"] is None else f"boxes: {len(entry['boxes'])}"]
    lines += ["regions: not annotated" if entry["regions"] is None else f"regions: {len(entry['regions'])}"]
    if entry["report"]:
        lines += ["", str(entry["report"])]
    return "\n".join(lines)


def _said(value: "str | float") -> str:
    """A value in words: 57.0 is 57; "" where it is not known."""
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else f"{value:.3g}"


def _beside(film: Image.Image, words: str, colour: dict[str, tuple[int, int, int]]) -> Image.Image:
    sheet = Image.new("RGB", (film.width + PANEL, max(film.height, SIDE)))
    sheet.paste(film)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    top = 12
    for line in words.split("\n"):
        for part in textwrap.wrap(line, 48) or [""]:
            draw.text((film.width + 14, top), part, fill=(230, 230, 230), font=font)
            top += 19
    for label, shade in colour.items():
        if label:
            draw.rectangle((film.width + 14, top + 4, film.width + 24, top + 14), fill=shade)
            draw.text((film.width + 32, top), label, fill=shade, font=font)
            top += 19
    return sheet


def write(index: Index, row: int, path: Path) -> None:
    """Draw a sample into a PNG file.

    Raises:
        DataError: it can not be drawn or written.
    """
    image = picture(index, row)
    try:
        image.save(path, format="PNG")
    except OSError as error:
        raise DataError(
            f"{path}: can not be written ({error.strerror or error}). Name another --out."
        ) from None
