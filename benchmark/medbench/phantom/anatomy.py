"""The normal chest: what belongs to a patient, how a film is taken, and the drawing of both.

Lengths are in *half-films*: the film spans x, y in [-1, 1], x to the viewer's right and y downwards, so
that the patient's right side is at x < 0. A drawing is a sum of attenuations (as path lengths add up on a
logarithmic film), turned into grey values only at the very end by `medbench.phantom.render`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Field = npt.NDArray[np.float32]
"""A (size, size) picture of attenuation or of a weight in [0, 1]; or a part of one."""
Side = Literal["right", "left"]
"""The patient's own side: his right lung is at the viewer's left."""
View = Literal["PA", "AP"]

SIDES: tuple[Side, Side] = ("right", "left")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a patient keeps from one study to the next."""

    sex: Literal["F", "M"]
    age: int
    """Years at the first study."""
    habitus: float
    """0 slim to 1 obese."""
    lung_width: float
    """Midline to lateral lung wall, at the widest."""
    apex: float
    """y of the lung apices."""
    dome: float
    """y of the right hemidiaphragm's dome at full inspiration."""
    dome_gap: float
    """How much lower the left dome stands."""
    flat: float
    """0 domed to 1 flattened diaphragm (hyperinflation)."""
    ctr: float
    """Cardiothoracic ratio on a PA film, without disease."""
    knob: float
    """Radius of the aortic knob; grows with age."""
    scoliosis: float
    """Signed sideways bow of the spine."""
    rib_spacing: float
    rib_slope: float
    """How far a posterior rib falls from spine to flank."""
    rib_phase: float
    rib_contrast: float
    vessel_gain: float
    breast: float
    """Extra soft tissue over the lower zones, 0 to 1."""
    texture: int
    """Seed of the vessel tree and of the soft-tissue mottle."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """How one film was taken."""

    view: View
    inspiration: float
    """0 poor to 1 full; poor raises the domes and crowds the bases."""
    turn: float
    """Rotation about the long axis, -1 to 1; moves the mediastinum against the cage."""
    tilt: float
    """In-plane rotation in radians."""
    shift_x: float
    shift_y: float
    zoom: float
    exposure: float
    """Shift of the film curve; 0 as the automatic exposure has it."""
    contrast: float
    """Slope of the film curve, about 1."""
    grain: float
    """Standard deviation of the noise, in grey values of 255."""
    haze: float
    """Scattered radiation: a smooth veil, 0 to 1."""
    collimation: tuple[float, float, float, float]
    """Unexposed border at left, top, right, bottom, in half-films."""
    marker: bool
    """Whether a lead side marker is on the film."""
    noise_seed: int


def _between(value: float, low: float, high: float) -> float:
    """`np.clip` of one number; that takes ten times as long, and a patient needs a dozen."""
    return float(min(max(value, low), high))


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient."""
    sex: Literal["F", "M"] = "F" if rng.random() < 0.47 else "M"
    age = int(_between(rng.normal(57, 18), 18, 93))
    habitus = _between(rng.beta(2.0, 3.0), 0.02, 0.98)
    female = sex == "F"
    return Anatomy(
        sex=sex,
        age=age,
        habitus=habitus,
        lung_width=float(rng.normal(0.70, 0.025) - 0.025 * female),
        apex=float(rng.normal(-0.76, 0.02)),
        dome=float(rng.normal(0.47, 0.04) - 0.06 * habitus),
        dome_gap=float(rng.uniform(0.015, 0.065)),
        flat=float(rng.beta(1.2, 5.0)),
        ctr=_between(rng.normal(0.445, 0.02) + 0.0004 * (age - 55), 0.39, 0.49),
        knob=_between(rng.normal(0.070, 0.008) + 0.0005 * (age - 55), 0.05, 0.105),
        scoliosis=float(rng.normal(0.0, 0.018)),
        rib_spacing=float(rng.normal(0.158, 0.008)),
        rib_slope=float(rng.normal(0.30, 0.04)),
        rib_phase=float(rng.uniform(0.0, 1.0)),
        rib_contrast=float(rng.uniform(0.75, 1.25)),
        vessel_gain=float(rng.uniform(0.75, 1.25)),
        breast=float(rng.uniform(0.25, 1.0) * (0.5 + 0.5 * habitus)) if female else 0.25 * habitus,
        texture=int(rng.integers(2**31)),
    )


def sample_acquisition(rng: np.random.Generator, view: View) -> Acquisition:
    """Draw how one film of the given view was taken; a portable (AP) film is the less tidy one."""
    portable = view == "AP"
    rough = 1.8 if portable else 1.0
    border = np.where(rng.random(4) < (0.22 if portable else 0.15), rng.uniform(0.0, 0.05, 4), 0.0)
    return Acquisition(
        view=view,
        inspiration=_between(rng.normal(0.45 if portable else 0.85, 0.16), 0.0, 1.0),
        turn=_between(rng.normal(0.0, 0.22 * rough), -1.0, 1.0),
        tilt=_between(rng.normal(0.0, 0.016 * rough), -0.08, 0.08),
        shift_x=_between(rng.normal(0.0, 0.015 * rough), -0.05, 0.05),
        shift_y=_between(rng.normal(0.01, 0.015 * rough), -0.05, 0.05),
        zoom=_between(rng.normal(1.075, 0.03), 1.0, 1.15),
        exposure=float(rng.normal(0.0, 0.12 * rough)),
        contrast=_between(rng.normal(1.0, 0.12), 0.72, 1.35),
        grain=float(rng.uniform(1.5, 4.5) * (1.25 if portable else 1.0)),
        haze=_between(rng.beta(2, 5) + (0.12 if portable else 0.0), 0.0, 0.8),
        collimation=(float(border[0]), float(border[1]), float(border[2]), float(border[3])),
        marker=bool(rng.random() < 0.8),
        noise_seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True, slots=True)
class Changes:
    """What findings do to the shape of the chest before anything is drawn."""

    heart: float = 0.0
    """Added to the cardiothoracic ratio."""
    raised: tuple[float, float] = (0.0, 0.0)
    """How much the right and the left dome are raised by volume loss."""
    pulled: float = 0.0
    """Shift of heart and mediastinum to the viewer's right."""
    congestion: float = 0.0
    """Widening of the vessels, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Thorax:
    """The outlines of one chest on one film, as functions that take numbers or arrays.

    `depth` below always means the distance from the midline, positive on the side in question.
    """

    anatomy: Anatomy
    view: View
    width: tuple[float, float]
    """Right and left lung width."""
    apex: float
    dome: tuple[float, float]
    """y of the right and the left dome."""
    angle: float
    """How far the costophrenic angle lies below the dome."""
    heart_half: float
    """Half the heart's width."""
    heart_x: float
    """x of the heart's centre."""
    pull: float
    """Shift of the mediastinum (rotation of the patient, volume loss)."""
    congestion: float

    def outer(self, side: Side, y: Field) -> Field:
        """Lateral lung border as a depth, for rows y."""
        width = self.width[side == "left"]
        start = 0.44 * width
        t = np.clip((y - self.apex) / 0.98, 0.0, 1.0)
        grown: Field = start + (width - start) * (1.0 - (1.0 - t) ** 2.6) ** 0.62
        return grown.astype(np.float32, copy=False)

    def inner(self, side: Side, y: Field) -> Field:
        """Medial lung border as a depth, for rows y; it runs behind heart and mediastinum."""
        width = self.width[side == "left"]
        t = np.clip((y - self.apex) / 0.22, 0.0, 1.0)
        drawn: Field = 0.075 + (0.44 * width - 0.075) * (1.0 - t) ** 2.5
        return drawn.astype(np.float32, copy=False)

    def floor(self, side: Side, depth: Field) -> Field:
        """Y of the hemidiaphragm at a depth."""
        s = depth / self.width[side == "left"]
        crest = 0.46
        lateral = np.clip((s - crest) / (1.0 - crest), 0.0, 1.3) ** 2.3
        medial = np.clip((crest - s) / crest, 0.0, 1.0) ** 2
        curve: Field = self.dome[side == "left"] + self.angle * lateral + 0.3 * self.angle * medial
        return curve.astype(np.float32, copy=False)

    def outer_at(self, side: Side, y: float) -> float:
        """`outer` of one row."""
        return float(self.outer(side, np.array([y], np.float32))[0])

    def inner_at(self, side: Side, y: float) -> float:
        """`inner` of one row."""
        return float(self.inner(side, np.array([y], np.float32))[0])

    def floor_at(self, side: Side, depth: float) -> float:
        """`floor` at one depth."""
        return float(self.floor(side, np.array([depth], np.float32))[0])

    def locate(self, side: Side, across: float, down: float) -> tuple[float, float]:
        """The point (x, y) of a lung at `across` (0 medial, 1 lateral) and `down` (0 apex, 1 floor)."""
        y = self.apex + down * (self.dome[side == "left"] - self.apex)
        depth = 0.0
        for _ in range(3):
            near, far = self.inner_at(side, y), self.outer_at(side, y)
            depth = near + across * (far - near)
            y = self.apex + down * (self.floor_at(side, depth) - self.apex)
        return (-depth if side == "right" else depth), y

    def hilum(self, side: Side) -> tuple[float, float]:
        """The root of a lung; the left one stands a little higher."""
        return (-0.155 + self.pull, -0.10) if side == "right" else (0.165 + self.pull, -0.135)

    @property
    def carina(self) -> tuple[float, float]:
        """Where the trachea divides."""
        return self.pull * 0.7 - 0.005, -0.27

    def rib_row(self, rib: int, depth: float, *, anterior: bool) -> float:
        """Y of a rib's centre line at a depth."""
        spacing = self.anatomy.rib_spacing
        bend = float(_rib_bend(np.array([depth], np.float32), self, anterior)[0])
        gain, fall = (0.9, 0.55) if not anterior else (1.0, 0.0)
        # solves  (y - apex) / spacing - bend * (gain - fall * y) / spacing - phase = rib  for y
        top = (rib + self.anatomy.rib_phase) * spacing + self.apex + bend * gain
        return top / (1.0 + bend * fall)


def shape_thorax(anatomy: Anatomy, film: Acquisition, changes: Changes) -> Thorax:
    """Where everything lies on this film of this patient."""
    portable = film.view == "AP"
    pull = 0.045 * film.turn + changes.pulled
    raised = 0.16 * (1.0 - film.inspiration)
    width = anatomy.lung_width * (0.94 + 0.06 * film.inspiration)
    widths = (width * (1.0 + 0.05 * film.turn), width * (1.0 - 0.05 * film.turn))
    dome = anatomy.dome - raised + 0.05 * anatomy.flat
    half = (anatomy.ctr + changes.heart) * width * (1.10 if portable else 1.0)
    return Thorax(
        anatomy=anatomy,
        view=film.view,
        width=widths,
        apex=anatomy.apex,
        dome=(dome - changes.raised[0], dome + anatomy.dome_gap - changes.raised[1]),
        angle=0.25 * (1.0 - 0.45 * anatomy.flat),
        heart_half=half,
        # the right border stays near the spine's edge; the heart grows to the left
        heart_x=0.30 * half + 0.02 + pull,
        pull=pull,
        congestion=changes.congestion,
    )


def _rib_bend(depth: Field, thorax: Thorax, anterior: bool) -> Field:
    """How far below its root a rib runs at a depth; posterior ribs fall outwards, anterior ones inwards."""
    s = depth / max(thorax.width)
    slope = thorax.anatomy.rib_slope
    bend: Field
    if anterior:
        bend = 1.25 * slope * (1.0 - np.clip(s, 0.0, 1.0)) ** 1.15
    else:
        bend = slope * (np.clip(s, 0.0, 1.2) ** 2.4 - 0.28 * np.sin(np.pi * np.clip(s * 1.25, 0.0, 1.0)))
    return bend


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Field, Field]:
    """Pixel centres as x (1, size) and y (size, 1)."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1.0).astype(np.float32)
    return line[None, :], line[:, None]


@lru_cache(maxsize=4)
def noise_atlas(size: int) -> dict[str, Field]:
    """Large noise pictures, about N(0, 1), of which every film takes random crops: noise for no time.

    Keys: `coarse` (wavelength a fifth of the film), `medium` (a 24th), `fine` (an 80th), `grain` (a pixel).
    """
    rng = np.random.Generator(np.random.Philox(key=20180))
    side = 2 * size
    atlas: dict[str, Field] = {}
    for name, cells in (("coarse", 10), ("medium", 48), ("fine", 160)):
        low = rng.standard_normal((cells, cells), dtype=np.float32)
        smooth = np.asarray(Image.fromarray(low).resize((side, side), Image.Resampling.BICUBIC))
        atlas[name] = np.ascontiguousarray(smooth / smooth.std(), dtype=np.float32)
    atlas["grain"] = rng.standard_normal((side, side), dtype=np.float32)
    return atlas


def crop_noise(name: str, size: int, seed: int, shape: tuple[int, int] | None = None) -> Field:
    """A crop of a noise picture, (size, size) or of the given shape, placed and mirrored by the seed."""
    atlas = noise_atlas(size)[name]
    rows, cols = (size, size) if shape is None else shape
    # a cheap integer hash: neighbouring seeds must not give neighbouring crops
    mixed = (seed * 2654435761 + 12345) & 0xFFFFFFFF
    top = (mixed >> 4) % (atlas.shape[0] - rows + 1)
    left = (mixed >> 15) % (atlas.shape[1] - cols + 1)
    crop = atlas[top : top + rows, left : left + cols]
    if mixed & 1:
        crop = crop[::-1]
    if mixed & 2:
        crop = crop[:, ::-1]
    return crop


class Scene:
    """One chest while it is being drawn: where it will lie on the film, but not yet tilted.

    `attenuation`, `lung` and `vessels` are (size, size) float32; `lung` is the share of aerated lung and
    `vessels` the vessels in it, both in [0, 1]. `x` (1, size) and `y` (size, 1) say which place of the chest
    each column and row of the film shows: zoom and shift are in them, so that no picture is resampled.
    """

    def __init__(self, thorax: Thorax, film: Acquisition, size: int) -> None:
        self.thorax = thorax
        self.film = film
        self.size = size
        x, y = grid(size)
        self.x: Field = (x - np.float32(film.shift_x)) * np.float32(1 / film.zoom)
        self.y: Field = (y - np.float32(film.shift_y)) * np.float32(1 / film.zoom)
        self._midline = int(np.searchsorted(self.x[0], 0.0))
        self.attenuation: Field = np.zeros((size, size), np.float32)
        self.lung: Field = np.zeros((size, size), np.float32)
        self.vessels: Field = np.zeros((size, size), np.float32)
        # rows that hold lungs or ribs: drawing only these saves a third of the time
        top, bottom = thorax.apex - 0.06, max(thorax.dome) + max(0.34, thorax.angle + 0.05)
        self.cage = self.window(0.0, (top + bottom) / 2, 1.0, (bottom - top) / 2)[0]

    def columns(self, side: Side) -> slice:
        """The part of the picture a side lies in."""
        return slice(0, self._midline) if side == "right" else slice(self._midline, self.size)

    def depth(self, side: Side) -> Field:
        """Distance of that part's columns from the midline, (1, columns)."""
        x = self.x[:, self.columns(side)]
        return -x if side == "right" else x

    def window(self, x: float, y: float, rx: float, ry: float) -> tuple[slice, slice]:
        """Rows and columns of the rectangle x +- rx, y +- ry, cut to the picture."""
        rows = (self._pixel(y - ry, self.film.shift_y), self._pixel(y + ry, self.film.shift_y))
        cols = (self._pixel(x - rx, self.film.shift_x), self._pixel(x + rx, self.film.shift_x))
        n = self.size
        return (
            slice(min(n, max(0, int(rows[0]))), min(n, max(1, int(rows[1]) + 2))),
            slice(min(n, max(0, int(cols[0]))), min(n, max(1, int(cols[1]) + 2))),
        )

    def _pixel(self, place: float, shift: float) -> float:
        return (place * self.film.zoom + shift + 1.0) * self.size / 2

    def pixel(self, x: float, y: float) -> tuple[int, int]:
        """The row and the column nearest to a place of the chest; may lie beyond the film."""
        return round(self._pixel(y, self.film.shift_y)), round(self._pixel(x, self.film.shift_x))

    def soft(self, distance: npt.NDArray[np.floating[Any]], blur: float = 0.012) -> Field:
        """1 where distance > 0, 0 where < 0, with an edge `blur` wide."""
        edge: Field = distance * np.float32(1.0 / blur)
        edge += np.float32(0.5)
        return unit(edge)

    def pen(self) -> Pen:
        """A pen that draws where the chest lies."""
        return Pen(self.size, self.film.zoom, (self.film.shift_x, self.film.shift_y))


class Pen:
    """Draws lines and shapes with smooth edges: on a PIL canvas of twice the size, then reduced."""

    def __init__(self, size: int, zoom: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> None:
        self.size = size
        self._zoom = zoom
        self._shift = shift
        self._image = Image.new("L", (2 * size, 2 * size))
        self._draw = ImageDraw.Draw(self._image)

    def _pixels(self, points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        zoom, n = self._zoom, self.size
        right, down = self._shift[0] + 1.0, self._shift[1] + 1.0
        return [((x * zoom + right) * n, (y * zoom + down) * n) for x, y in points]

    def line(self, points: list[tuple[float, float]], width: float, value: int) -> None:
        """A polyline, `width` in half-films, of grey `value`."""
        wide = max(1, round(width * self._zoom * self.size))
        self._draw.line(self._pixels(points), fill=value, width=wide, joint="curve")

    def polygon(self, points: list[tuple[float, float]], value: int) -> None:
        """A filled polygon."""
        self._draw.polygon(self._pixels(points), fill=value)

    def disc(self, x: float, y: float, rx: float, ry: float, value: int) -> None:
        """A filled ellipse."""
        (x0, y0), (x1, y1) = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((x0, y0, x1, y1), fill=value)

    def field(self, blur: float = 0.0) -> Field:
        """What was drawn, (size, size) in [0, 1]; `blur` is a box's half-width in half-films."""
        image = self._image.reduce(2)
        if blur > 0:
            image = image.filter(ImageFilter.BoxBlur(blur * self.size / 2))
        return np.asarray(image, dtype=np.float32) * np.float32(1 / 255)

    def patch(self) -> tuple[slice, slice, Field]:
        """What was drawn, cut to the rows and columns that hold any of it: rows, columns, values in [0, 1]."""
        left, top, right, bottom = self._image.getbbox() or (0, 0, 2, 2)
        # whole pixels of the reduced picture
        x0, y0, x1, y1 = left // 2, top // 2, (right + 1) // 2, (bottom + 1) // 2
        image = self._image.reduce(2, (2 * x0, 2 * y0, 2 * x1, 2 * y1))
        return slice(y0, y1), slice(x0, x1), np.asarray(image, dtype=np.float32) * np.float32(1 / 255)


def draw_chest(scene: Scene) -> None:
    """Draw the normal chest into the scene: body, heart, abdomen, lungs, bones, vessels."""
    # soft tissue has no sharp edges: it is drawn on a quarter of the pixels
    tissue = Scene(scene.thorax, scene.film, scene.size // 2)
    _draw_body(tissue)
    heart = _heart(tissue)
    _draw_mediastinum(tissue, heart)
    _draw_abdomen(tissue)
    scene.attenuation = _doubled(tissue.attenuation)
    _draw_lungs(scene)
    _draw_hila(scene)
    _draw_ribs(scene)
    _draw_bones(scene)
    _grow_vessels(scene, heart)


def unit(values: Field) -> Field:
    """Cut to [0, 1], in place."""
    return np.clip(values, 0.0, 1.0, out=values)


def _doubled(picture: Field) -> Field:
    """A square picture at twice the resolution, linear between the pixels, flat beyond the outermost."""
    n = picture.shape[0]
    tall = np.empty((2 * n, n), np.float32)
    _double_rows(picture, tall)
    wide = np.empty((2 * n, 2 * n), np.float32)
    _double_rows(tall.T, wide.T)
    return wide


def _double_rows(lines: Field, out: Field) -> None:
    near, far = np.float32(0.75) * lines, np.float32(0.25) * lines
    np.add(near[1:], far[:-1], out=out[2::2])
    np.add(near[:-1], far[1:], out=out[1:-1:2])
    out[0], out[-1] = lines[0], lines[-1]


def _smoothstep(t: Field) -> Field:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _draw_body(scene: Scene) -> None:
    a, y = scene.thorax.anatomy, scene.y
    wall = max(scene.thorax.width) + 0.09 + 0.22 * a.habitus
    neck = 0.20 + 0.07 * a.habitus
    # neck -> shoulders -> flank, as one half-width a row
    half = neck + (1.22 - neck) * _smoothstep((y + 1.02) / 0.42)
    flank = 0.5 if scene.thorax.view == "AP" else 1.0
    half = half - flank * max(0.0, 1.22 - wall) * _smoothstep((y + 0.42) / 0.45)
    profile = np.sqrt(np.clip(1.0 - (scene.x / half) ** 2, 0.0, 1.0))
    thick = 0.62 + 0.38 * _smoothstep((y + 0.9) / 1.2)
    np.multiply(profile, thick * (0.95 + 0.25 * a.habitus), out=scene.attenuation)
    scene.attenuation += 0.022 * crop_noise("coarse", scene.size, a.texture)
    if a.breast > 0.05:
        for sign in (-1.0, 1.0):
            cx, cy = sign * (0.40 + 0.04 * a.breast), 0.26 + 0.10 * a.breast
            rx, ry = 0.30 + 0.06 * a.breast, 0.26
            rows, cols = scene.window(cx, cy, rx, ry)
            r2 = ((scene.x[:, cols] - cx) / rx) ** 2 + ((scene.y[rows] - cy) / ry) ** 2
            scene.attenuation[rows, cols] += (0.17 * a.breast) * np.sqrt(np.clip(1.0 - r2, 0.0, 1.0))


def _draw_lungs(scene: Scene) -> None:
    """Fill `scene.lung` and take the air's share from the attenuation."""
    thorax, rows = scene.thorax, scene.cage
    y = scene.y[rows]
    # the chest is thinner at the flanks and apices: less air there, so a paler rim
    full = 0.60 * (0.72 + 0.28 * _smoothstep((y - thorax.apex) / 0.6))
    for side in SIDES:
        cols, depth = scene.columns(side), scene.depth(side)
        near, far = thorax.inner(side, y), thorax.outer(side, y)
        # the distance to the nearest border, each in widths of its own soft edge
        inside = far * np.float32(1 / 0.012) - depth * np.float32(1 / 0.012)
        np.minimum(inside, depth * np.float32(1 / 0.03) - near * np.float32(1 / 0.03), out=inside)
        floor = thorax.floor(side, depth)
        np.minimum(inside, floor * np.float32(1 / 0.016) - y * np.float32(1 / 0.016), out=inside)
        np.minimum(inside, (y - thorax.apex) * np.float32(1 / 0.012), out=inside)
        inside += np.float32(0.5)
        scene.lung[rows, cols] = unit(inside)
        air: Field = np.float32(1 / 0.55) - depth * (np.float32(1 / 0.55) / far)
        np.sqrt(unit(air), out=air)
        air *= full
        air *= inside
        scene.attenuation[rows, cols] -= air
    texture = thorax.anatomy.texture
    mottle = crop_noise("medium", scene.size, texture + 1)[rows] * np.float32(0.018)
    mottle *= scene.lung[rows]
    scene.attenuation[rows] += mottle


def rib_phase(scene: Scene, side: Side, *, anterior: bool) -> Field:
    """Rib number at every pixel of a side's part of the cage's rows: whole numbers on the centre lines."""
    thorax, y = scene.thorax, scene.y[scene.cage]
    spacing = thorax.anatomy.rib_spacing
    bend = _rib_bend(scene.depth(side), thorax, anterior) * np.float32(1 / spacing)
    level = (y - thorax.apex) * np.float32(1 / spacing) - np.float32(thorax.anatomy.rib_phase)
    phase: Field = level - bend if anterior else level - bend * (0.9 - 0.55 * y)
    return phase


_ANTERIOR = 0.27
"""Depth at which anterior ribs begin to show: cartilage does not."""


def rib_profile(scene: Scene, phase: Field, side: Side, *, anterior: bool) -> Field:
    """Brightness of the ribs whose numbers `phase` gives, in [0, 1], like `phase` in shape.

    A band with brighter cortical edges. This is the costliest part of a chest, hence the work in place.
    """
    off = np.rint(phase)
    off -= phase  # 0 on a centre line, +-0.5 between two ribs
    off *= off
    half = 0.17 if anterior else 0.20
    band: Field = off * np.float32(-7.0 / half)
    band += np.float32(7.0 * half + 0.5)
    unit(band)
    off *= np.float32(0.38 / half**2)
    off += np.float32(0.60)
    band *= off
    depth, y = scene.depth(side), scene.y[scene.cage]
    band *= np.clip((depth - _ANTERIOR) / 0.16 if anterior else (depth - 0.05) / 0.03, 0.0, 1.0)
    # below the diaphragm ribs drown in the abdomen's density
    band *= np.clip((scene.thorax.dome[0] + 0.30 - y) * 3.0, 0.35, 1.0)
    # no rib above the first
    top = band.shape[0] // 3
    band[:top] *= unit(phase[:top] * np.float32(4.0) + np.float32(2.4))
    return band


def _draw_ribs(scene: Scene) -> None:
    gain, rows = scene.thorax.anatomy.rib_contrast, scene.cage
    y = scene.y[rows]
    below = 0.13 * _smoothstep((y - scene.thorax.apex - 0.1) / 0.3)
    for side in SIDES:
        cols, depth = scene.columns(side), scene.depth(side)
        ribs = rib_profile(scene, rib_phase(scene, side, anterior=False), side, anterior=False)
        ribs *= np.float32(0.125 * gain)
        front = rib_phase(scene, side, anterior=True)
        front = rib_profile(scene, front, side, anterior=True)
        front *= np.float32(0.075 * gain)
        ribs += front
        # nothing beyond the chest wall; the flank itself, where ribs are seen edge-on, is bright
        rim = (scene.thorax.outer(side, y) + 0.012) * np.float32(1 / 0.03) - depth * np.float32(1 / 0.03)
        ribs *= unit(rim + np.float32(0.008 / 0.03 + 0.5))
        np.abs(rim, out=rim)
        np.subtract(np.float32(1.0), rim, out=rim)
        np.maximum(rim, np.float32(0.0), out=rim)
        rim *= below
        ribs += rim
        scene.attenuation[rows, cols] += ribs


_ZOOM = 1.075
"""The usual zoom: shared pictures are drawn with it, for the film's own differs by a few parts in a hundred."""
BONE_SETS = 6
"""How many shoulder girdles a view and a degree of rotation are drawn once a process and shared."""


@lru_cache(maxsize=20 * BONE_SETS)
def _shoulders(size: int, view: View, turn: int, variant: int) -> Field:
    """Clavicles, scapulae and humeri; `turn` is the rotation in thirds, -2 to 2.

    The picture has a margin of `_margin` pixels all round, so that it can be shifted.
    """
    rng = np.random.Generator(np.random.Philox(key=500 + variant))
    portable = view == "AP"
    pen = Pen(size, _ZOOM)
    # arms hang on portable films, so that the blades overlie the lungs
    blade = (0.60 if portable else 0.71) + float(rng.uniform(-0.03, 0.03))
    high = (-0.60 if portable else -0.52) + float(rng.uniform(-0.04, 0.04))
    rise = 0.10 + float(rng.uniform(-0.05, 0.05))
    low = float(rng.uniform(-0.05, 0.05))
    slide = 0.02 * turn
    for side in SIDES:
        sign = -1.0 if side == "right" else 1.0
        pen.polygon(
            [
                (sign * (blade + 0.08), -0.66 + low),
                (sign * (blade - 0.10), -0.62 + low),
                (sign * (blade - 0.02), -0.25 + low),
                (sign * (blade + 0.06), -0.02 + low),
                (sign * (blade + 0.12), -0.12 + low),
                (sign * (blade + 0.17), -0.50 + low),
            ],
            38,
        )
        pen.line([(sign * (blade + 0.06), -0.02 + low), (sign * (blade - 0.05), -0.42 + low)], 0.016, 56)
        pen.line([(sign * (blade - 0.06), -0.60 + low), (sign * (blade + 0.24), -0.78)], 0.055, 70)
        pen.disc(sign * (blade + 0.29), -0.62, 0.105, 0.12, 105)
        pen.polygon(
            [
                (sign * (blade + 0.21), -0.58),
                (sign * (blade + 0.38), -0.58),
                (sign * (blade + 0.44), 0.6),
                (sign * (blade + 0.35), 0.6),
            ],
            85,
        )
        clavicle = [
            (sign * 0.055 + slide, high + 0.03),
            (sign * 0.16 + slide, high - 0.035),
            (sign * 0.30 + 0.5 * slide, high - 0.055),
            (sign * 0.45, high - 0.05 - 0.4 * rise),
            (sign * 0.60, high - 0.05 - rise),
            (sign * (blade + 0.10), high - 0.06 - 1.6 * rise),
        ]
        pen.line(clavicle, 0.060, 125)
        pen.line(clavicle, 0.036, 98)
        pen.disc(sign * 0.075 + slide, high + 0.02, 0.05, 0.045, 125)
    return np.pad(0.50 * pen.field(0.014), _margin(size), mode="edge")


def _margin(size: int) -> int:
    """The largest shift of a film in pixels."""
    return math.ceil(0.05 * size / 2)


def _draw_bones(scene: Scene) -> None:
    turn = round(max(-0.66, min(0.66, scene.film.turn)) * 3)
    variant = (scene.thorax.anatomy.texture >> 7) % BONE_SETS
    n, margin = scene.size, _margin(scene.size)
    top, left = margin - round(scene.film.shift_y * n / 2), margin - round(scene.film.shift_x * n / 2)
    bones = _shoulders(n, scene.thorax.view, turn, variant)
    scene.attenuation += bones[top : top + n, left : left + n]


def _draw_mediastinum(scene: Scene, heart: tuple[slice, slice, Field]) -> None:
    """Spine, heart, great vessels, trachea."""
    thorax, x, y = scene.thorax, scene.x, scene.y
    n = scene.size
    middle = slice(int(0.27 * n), int(0.73 * n))
    xm = x[:, middle]
    bow: Field = thorax.anatomy.scoliosis * np.sin(np.pi * (y + 1.0) * 0.75)
    # vertebrae: bright bodies between darker discs, 13 of them on the film
    level = y * 6.4 + thorax.anatomy.rib_phase
    bodies = 0.80 + 0.20 * np.clip(np.abs(level - np.rint(level)) * 9.0 - 0.6, 0.0, 1.0)
    spine = 0.15 * bodies * scene.soft(0.068 - np.abs(xm - bow), 0.035)
    # upper mediastinum: great vessels, a little wider to the left
    half = 0.080 + 0.040 * _smoothstep((y + 0.65) / 0.45) + 0.02 * thorax.anatomy.habitus
    off = half - np.abs(xm - thorax.pull - 0.6 * bow - 0.012)
    column = scene.soft(off, 0.05)
    column *= 0.36 * _smoothstep((y + 1.0) / 0.35)
    knob = thorax.anatomy.knob
    rise = y + 0.34
    # the arch is round above and runs on downwards as the descending aorta
    r = np.sqrt((xm - 0.095 - thorax.pull) ** 2 + np.where(rise < 0, rise, 0.22 * rise) ** 2)
    np.maximum(column, 0.38 * scene.soft(knob - r, 0.025), out=column)
    # soft parts that lie behind one another do not add up to their sum: the body is no thicker there
    scene.attenuation[:, middle] += spine
    scene.attenuation[:, middle] += column
    # the heart shows only where it is thicker than the column
    rows, cols, thick = heart
    behind = np.zeros_like(scene.attenuation)
    behind[:, middle] = column
    scene.attenuation[rows, cols] += np.maximum(thick - behind[rows, cols], 0.0)
    _draw_airway(scene)


def _draw_hila(scene: Scene) -> None:
    thorax = scene.thorax
    for side in SIDES:
        hx, hy = thorax.hilum(side)
        rx, ry = 0.115 * (1.0 + 0.3 * thorax.congestion), 0.17
        rows, cols = scene.window(hx, hy, 1.2 * rx, 1.2 * ry)
        r2 = ((scene.x[:, cols] - hx) / rx) ** 2 + ((scene.y[rows] - hy) / ry) ** 2
        knots = 0.15 + 0.075 * crop_noise("fine", scene.size, thorax.anatomy.texture + 7, r2.shape)
        knots *= unit(np.float32(1.15) - r2)
        scene.attenuation[rows, cols] += knots


def _draw_airway(scene: Scene) -> None:
    """Trachea and main bronchi: air, hence dark."""
    cx, cy = scene.thorax.carina
    top = 0.3 * scene.thorax.pull
    rows, cols = scene.window((top + cx) / 2, (cy - 1.0) / 2, 0.09, (cy + 1.0) / 2)
    y = scene.y[rows]
    line = top + (cx - top) * (y + 1.0) / (cy + 1.0)
    within = 0.033 - np.abs(scene.x[:, cols] - line)
    tube = scene.soft(within, 0.022)
    scene.attenuation[rows, cols] -= 0.20 * tube * _smoothstep((cy + 0.02 - y) / 0.06)
    for sign, reach, width in ((-1.0, 0.12, 0.024), (1.0, 0.15, 0.021)):
        rows, cols = scene.window(cx + sign * reach / 2, cy + 0.06, reach / 2, 0.10)
        x = sign * (scene.x[:, cols] - cx)
        within = width - np.abs(scene.y[rows] - cy - 0.9 * x)
        tube = scene.soft(within, 0.02)
        scene.attenuation[rows, cols] -= 0.10 * tube * np.clip((reach - x) * 12.0, 0.0, 1.0)


def _heart(scene: Scene) -> tuple[slice, slice, Field]:
    """The heart's own attenuation: rows, columns, values."""
    thorax = scene.thorax
    half = thorax.heart_half
    cx, cy, tall = heart_frame(thorax)
    rows, cols = scene.window(cx, cy, half * 1.3, tall * 1.6)
    u, v = (scene.x[:, cols] - cx) / half, (scene.y[rows] - cy) / tall
    # a tilted egg: the apex points down and to the left, the waist lies high
    lean = u - 0.30 * v
    r2 = (lean * (1.0 - 0.26 * v)) ** 2 * 1.02 + (v + 0.16 * u) ** 2 * 0.82
    core = np.float32(1.0) - r2
    inside = unit(core * np.float32(0.5 * half / 0.022) + np.float32(0.5))
    inside *= 0.36 + 0.26 * np.sqrt(unit(core))
    inside *= _smoothstep((v + 1.25) / 0.7)
    return rows, cols, inside


def heart_frame(thorax: Thorax) -> tuple[float, float, float]:
    """The heart's centre (x, y) and half its height."""
    tall = 0.30 + 0.30 * (thorax.heart_half - 0.30)
    base = 0.5 * (thorax.dome[0] + thorax.dome[1])
    return thorax.heart_x, base - 0.62 * tall, tall


def heart_extent(thorax: Thorax) -> tuple[float, float, float, float]:
    """The heart's bounding rectangle x0, y0, x1, y1 in half-films."""
    cx, cy, tall = heart_frame(thorax)
    return cx - thorax.heart_half, cy - tall, cx + thorax.heart_half, cy + tall


def _draw_abdomen(scene: Scene) -> None:
    """Liver and spleen are body thickness under the domes; the stomach's air bubble is cut out of it."""
    thorax = scene.thorax
    for side in SIDES:
        cols, depth = scene.columns(side), scene.depth(side)
        rows = scene.window(0.0, 1.0, 1.0, 1.03 - thorax.dome[side == "left"])[0]
        y = scene.y[rows]
        below = scene.soft(y - thorax.floor(side, depth), 0.03)
        below *= scene.soft(thorax.outer(side, y) + 0.02 - depth, 0.1)
        scene.attenuation[rows, cols] += (0.26 if side == "right" else 0.22) * below
    draw = (thorax.anatomy.texture >> 3) % 97 / 97.0
    if draw > 0.25:
        cx, cy = 0.33 + 0.08 * draw, thorax.dome[1] + 0.085 + 0.03 * draw
        rx, ry = 0.09 + 0.07 * draw, 0.04 + 0.03 * draw
        rows, cols = scene.window(cx, cy, rx, ry)
        r2 = ((scene.x[:, cols] - cx) / rx) ** 2 + ((scene.y[rows] - cy) / ry) ** 2
        scene.attenuation[rows, cols] -= 0.30 * np.clip(1.6 * (1.0 - r2), 0.0, 1.0)


def _branches(rng: np.random.Generator) -> Iterator[tuple[float, float, float, float, float, int]]:
    """Segments (x0, y0, x1, y1, width, level) of a vessel tree that spreads to the right from (0, 0)."""
    chance = rng.random((9, 16)).tolist()
    for i, u in enumerate(chance):
        # a fan from straight up, over outwards, to straight down; the lower vessels are the larger ones
        angle = -1.35 + 2.75 * (i + u[0]) / 9.0
        size = 0.028 * (0.65 + 0.5 * (i / 9.0)) * (0.8 + 0.4 * u[2])
        stack = [(0.0, 0.0, angle, 0.20 + 0.10 * u[1], size, 0)]
        k = 3
        while stack:
            x, y, way, length, width, level = stack.pop()
            x1, y1 = x + math.cos(way) * length, y + math.sin(way) * length
            yield x, y, x1, y1, width, level
            if level < 2:
                spread = 0.28 + 0.3 * u[k]
                k += 1
                stack.append((x1, y1, way - spread, length * 0.80, width * 0.58, level + 1))
                stack.append((x1, y1, way + spread * 0.8, length * 0.85, width * 0.62, level + 1))


VESSEL_TREES = 24
"""How many vessel trees are drawn once a process and shared by the patients."""
_ROOT = (-0.85, -0.12)
"""Where a shared tree's root lies on its own picture."""


@lru_cache(maxsize=4 * VESSEL_TREES)
def _vessel_tree(size: int, tree: int) -> Field:
    """A vessel tree spreading from `_ROOT` to the right; drawing one takes longer than a whole chest."""
    pen = Pen(size, _ZOOM)
    for x0, y0, x1, y1, width, level in _branches(np.random.Generator(np.random.Philox(key=100 + tree))):
        start, end = (x0 + _ROOT[0], y0 + _ROOT[1]), (x1 + _ROOT[0], y1 + _ROOT[1])
        pen.line([start, end], width, (200, 150, 100)[level])
    return pen.field(0.004)


def _grow_vessels(scene: Scene, heart: tuple[slice, slice, Field]) -> None:
    """Fill `scene.vessels` from a shared tree a lung and add them to the attenuation.

    `heart` is the heart as `_heart` draws it at half the resolution.
    """
    thorax, n = scene.thorax, scene.size
    # the lungs' rows are all that can hold vessels
    rows = scene.cage
    for side in SIDES:
        tree = _vessel_tree(n, (thorax.anatomy.texture + (side == "left") * 11) % VESSEL_TREES)
        root = [round((place * _ZOOM + 1.0) * n / 2) for place in _ROOT]
        if side == "right":
            tree, root[0] = tree[:, ::-1], n - root[0]
        # slide the tree's root onto the hilum
        row, col = scene.pixel(*thorax.hilum(side))
        down, right = row - root[1], col - root[0]
        cols = scene.columns(side)
        y0, y1 = max(rows.start, down), min(rows.stop, n + down)
        x0, x1 = max(cols.start, right), min(cols.stop, n + right)
        vessels = scene.vessels[y0:y1, x0:x1]
        np.multiply(
            tree[y0 - down : y1 - down, x0 - right : x1 - right], scene.lung[y0:y1, x0:x1], out=vessels
        )
    # the vessels behind the heart hardly show through it
    shade = np.float32(1.0) - np.float32(1.3) * heart[2]
    behind = tuple(slice(2 * part.start, 2 * part.stop) for part in heart[:2])
    scene.vessels[behind] *= shade.repeat(2, axis=0).repeat(2, axis=1)
    gain = 0.20 * thorax.anatomy.vessel_gain * (1.0 + 0.8 * thorax.congestion)
    scene.attenuation[rows] += np.float32(gain) * scene.vessels[rows]
