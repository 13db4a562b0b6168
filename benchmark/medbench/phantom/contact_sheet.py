"""A contact sheet of the phantom: three films a finding, boxes drawn.

python -m medbench.phantom.contact_sheet docs/images/phantom_contact_sheet.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medbench.phantom.anatomy import View, sample_acquisition, sample_anatomy
from medbench.phantom.findings import KINDS, VARIETIES, Kind, sample_finding
from medbench.phantom.render import Film, render
from medbench.phantom.study import PHANTOM_VERSION, stream

TITLE = f"medbench phantom - synthetic, of no patient (version {PHANTOM_VERSION})"
_TILE = 152
_CAPTION = 15
_FILMS = 3
"""Films a finding; two findings share a row."""
_GREYS = 28
"""Grey levels kept: enough for the eye, and few enough for a small file."""
_YELLOW = (255, 214, 64)


def contact_sheet(seed: int = 0) -> Image.Image:
    """Draw the sheet, an image of mode "P" (palette)."""
    groups: list[tuple[str, View | None, Kind | None]] = [
        ("normal, PA", "PA", None),
        ("normal, AP", "AP", None),
    ]
    groups += [(kind, None, kind) for kind in KINDS]
    rows = (len(groups) + 1) // 2
    height = 20 + rows * (_TILE + _CAPTION)
    sheet = Image.new("RGB", (2 * _FILMS * _TILE, height))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 4), TITLE, fill=_YELLOW)
    for group, (name, view, kind) in enumerate(groups):
        for n in range(_FILMS):
            left = ((group % 2) * _FILMS + n) * _TILE
            top = 20 + (group // 2) * (_TILE + _CAPTION)
            film, words = _example(name, view, kind, n, seed)
            sheet.paste(_tile(film), (left, top + _CAPTION))
            draw.text((left + 3, top + 1), words, fill=_YELLOW)
    return sheet.quantize(64, dither=Image.Dither.NONE)


def _example(name: str, view: View | None, kind: Kind | None, n: int, seed: int) -> tuple[Film, str]:
    rng = stream("contact_sheet", seed, 0 if kind is None else 1 + KINDS.index(kind), n, int(view == "AP"))
    anatomy = sample_anatomy(rng)
    film = sample_acquisition(rng, view if view is not None else ("PA" if n % 2 == 0 else "AP"))
    if kind is None:
        return render(anatomy, film, []), f"{name}, {anatomy.sex} {anatomy.age}"
    wanted = VARIETIES[kind][n % len(VARIETIES[kind])][0]
    finding = sample_finding(kind, rng)
    while finding.variety != wanted:
        finding = sample_finding(kind, rng)
    words = [finding.variety if finding.variety not in ("heart", "free") else "", finding.side]
    words += [finding.zone if kind == "nodule" or finding.variety == "opacity" else ""]
    return render(anatomy, film, [finding]), f"{kind}: {' '.join(filter(None, words))}".removesuffix(": ")


def _tile(film: Film) -> Image.Image:
    size = film.pixels.shape[0]
    tile = Image.fromarray(film.pixels).resize((_TILE, _TILE), Image.Resampling.LANCZOS)
    tile = Image.fromarray((np.asarray(tile) // (256 // _GREYS) * (256 // _GREYS)).astype(np.uint8)).convert(
        "RGB"
    )
    draw = ImageDraw.Draw(tile)
    for region in film.regions:
        x0, y0, x1, y1 = (round(v * _TILE / size) for v in region.box)
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_YELLOW)
    return tile


def main() -> None:
    """Write the sheet to the path given on the command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m medbench.phantom.contact_sheet OUT.png")
    contact_sheet().save(Path(sys.argv[1]), optimize=True)


if __name__ == "__main__":
    main()
