"""From a chest to a film: draw the anatomy and its findings, lay them on the film, expose it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.phantom.anatomy import (
    Acquisition,
    Anatomy,
    Field,
    Pen,
    Scene,
    crop_noise,
    draw_chest,
    shape_thorax,
)
from medbench.phantom.findings import KINDS, Finding, Kind, Mask, changes_by, draw_finding


@dataclass(frozen=True, slots=True)
class Region:
    """A finding as it lies on the film."""

    finding: Finding
    mask: Mask
    """(size, size) bool."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels, x1 and y1 exclusive, tight around the mask."""


@dataclass(frozen=True, slots=True)
class Film:
    """One exposed film and the truth about it."""

    pixels: npt.NDArray[np.uint8]
    """(size, size), 0 black to 255 white (air is black)."""
    regions: tuple[Region, ...]
    """One a finding of the kinds asked for, in the order given."""


def render(
    anatomy: Anatomy,
    film: Acquisition,
    findings: Sequence[Finding],
    *,
    size: int = 256,
    masks: Collection[Kind] = KINDS,
) -> Film:
    """Expose one film.

    Args:
        anatomy: The patient.
        film: How the film is taken.
        findings: What there is to see; drawn in this order.
        size: Side of the square film in pixels, even, at least 64.
        masks: The kinds of findings whose regions are wanted; each costs a little time.

    Raises:
        ValueError: If the size is odd or under 64.
    """
    check_size(size)
    scene = Scene(shape_thorax(anatomy, film, changes_by(findings)), film, size)
    draw_chest(scene)
    drawn = [draw_finding(scene, finding) for finding in findings]
    pixels = _expose(_tilted(scene.attenuation, film), film, size)
    regions = []
    for finding, upright in zip(findings, drawn, strict=True):
        if finding.kind not in masks:
            continue
        image = Image.fromarray(upright.view(np.uint8))
        laid = np.asarray(image.rotate(-math.degrees(film.tilt), center=_pivot(film, size)))
        mask = laid.view(np.bool_) & _exposed(film, size)
        regions.append(Region(finding, mask, box_of(mask)))
    return Film(pixels, tuple(regions))


def check_size(size: int) -> None:
    """Raise ValueError unless films of this size can be drawn."""
    if size < 64 or size % 2:
        raise ValueError(f"size must be even and at least 64, got {size}")


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """The tight box of a mask: x0, y0, x1, y1 in pixels, x1 and y1 exclusive.

    Raises:
        ValueError: If the mask is empty.
    """
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1


def _pivot(film: Acquisition, size: int) -> tuple[float, float]:
    """The point x, y in pixels about which a film is tilted."""
    return size / 2 * (1 + film.shift_x), size / 2 * (1 + film.shift_y)


def _tilted(picture: Field, film: Acquisition) -> Field:
    """The picture turned by the film's tilt: sheared along the rows, then along the columns.

    For so small an angle that is a rotation to within half a pixel, in half of the time PIL takes for it.
    """
    x, y = _pivot(film, len(picture))
    slope = math.sin(film.tilt)
    return _sheared(_sheared(picture, slope, y).T, -slope, x).T


def _sheared(picture: Field, slope: float, pivot: float) -> Field:
    """Every row shifted to the left by `slope` times its distance from row `pivot`; edges are drawn out."""
    n = len(picture)
    shift = np.float32(slope) * (np.arange(n, dtype=np.float32) + np.float32(0.5 - pivot))
    whole = np.floor(shift)
    part = (shift - whole)[:, None]
    out = np.empty_like(picture)
    # rows that are shifted by the same whole number are done at once; they lie together
    bounds = [0, *(np.flatnonzero(np.diff(whole)) + 1).tolist(), n]
    for top, bottom in pairwise(bounds):
        step = int(whole[top])
        left, right = max(0, -step), min(n, n - 1 - step)
        rows = picture[top:bottom]
        near = rows[:, left + step : right + step]
        drawn = out[top:bottom]
        mixed = rows[:, left + step + 1 : right + step + 1] - near
        mixed *= part[top:bottom]
        np.add(near, mixed, out=drawn[:, left:right])
        drawn[:, :left] = rows[:, :1]
        drawn[:, right:] = rows[:, -1:]
    return out


def _exposed(film: Acquisition, size: int) -> Mask:
    """Which pixels lie inside the collimator's leaves."""
    left, top, right, bottom = (round(leaf * size / 2) for leaf in film.collimation)
    inside = np.zeros((size, size), np.bool_)
    inside[top : size - bottom, left : size - right] = True
    return inside


_STEPS = 1024
_DENSEST = 2.6
"""Attenuation at which the film is as good as white."""


def _expose(attenuation: Field, film: Acquisition, size: int) -> npt.NDArray[np.uint8]:
    middle = attenuation[size // 6 : -size // 6 : 4, size // 6 : -size // 6 : 4]
    # automatic exposure: the mean over the measuring field is brought half-way to a fixed value
    offset = 0.5 * (0.78 - float(middle.mean())) + 0.5 * film.exposure * 0.6
    level = np.linspace(0.0, _DENSEST, _STEPS, dtype=np.float32)
    bright = np.clip(level + offset * np.clip(level * 4.0, 0.0, 1.0), 0.0, None)
    veil = 0.10 * film.haze * np.clip(level * 3.0, 0.0, 1.0)
    curve = 1.0 - np.exp(-1.45 * bright ** (1.55 * film.contrast))
    table = (250.0 * (veil + (1.0 - veil) * curve)).astype(np.float32)
    index = attenuation * np.float32(_STEPS / _DENSEST)
    np.maximum(index, np.float32(0.0), out=index)
    # an index beyond the table means white
    grey = table.take(index.astype(np.intp), mode="clip")
    grain = crop_noise("grain", size, film.noise_seed) * np.float32(film.grain)
    grey += grain
    left, top, right, bottom = (round(leaf * size / 2) for leaf in film.collimation)
    grey[:top] = grey[size - bottom :] = 3.0
    grey[:, :left] = grey[:, size - right :] = 3.0
    if film.marker:
        _stamp(grey, film, size)
    exposed: npt.NDArray[np.uint8] = np.clip(grey, 0.0, 255.0, out=grey).astype(np.uint8)
    return exposed


_STROKES = {
    "L": [[(0.0, 0.0), (0.0, 1.0), (0.6, 1.0)]],
    "R": [[(0.0, 1.0), (0.0, 0.0), (0.5, 0.05), (0.5, 0.45), (0.0, 0.5)], [(0.2, 0.5), (0.6, 1.0)]],
}


@lru_cache(maxsize=16)
def _letter(letter: str, size: int) -> Field:
    """A lead letter, as a small picture in [0, 1]."""
    pen = Pen(size)
    for stroke in _STROKES[letter]:
        pen.line([(-0.98 + 0.08 * x, -0.98 + 0.08 * y) for x, y in stroke], 0.018, 255)
    side = round(0.06 * size)
    return pen.field()[:side, :side]


def _stamp(grey: Field, film: Acquisition, size: int) -> None:
    """A side marker in an upper corner; portable films often carry it askew and lower."""
    right = film.noise_seed % 2 == 0
    letter = _letter("R" if right else "L", size)
    n = letter.shape[0]
    low = 0.10 + 0.25 * ((film.noise_seed >> 5) % 64) / 64 * (2.0 if film.view == "AP" else 0.6)
    row, col = round(low * size), round((0.06 if right else 0.87) * size)
    spot = grey[row : row + n, col : col + n]
    np.maximum(spot, 250.0 * letter[: spot.shape[0], : spot.shape[1]], out=spot)
