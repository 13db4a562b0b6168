"""The ten kinds of findings: chosen by lot, changed with time, drawn where anatomy puts them."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from medbench.phantom.anatomy import (
    SIDES,
    Changes,
    Pen,
    Scene,
    Side,
    crop_noise,
    heart_extent,
    rib_phase,
    rib_profile,
)

Kind = Literal[
    "cardiomegaly",
    "effusion",
    "pneumonia",
    "atelectasis",
    "edema",
    "pneumothorax",
    "nodule",
    "fracture",
    "device",
    "foreign",
]
Zone = Literal["upper", "mid", "lower", ""]
Mask = npt.NDArray[np.bool_]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of one study."""

    kind: Kind
    variety: str
    """What sort of the kind: consolidation or opacity, plate or basal, nodule or mass, ..."""
    side: Literal["right", "left", "both", ""]
    """The patient's side; "both" or "" where the kind has none."""
    zone: Zone
    """Third of the lung, counted from apex to diaphragm; "" where the kind has none."""
    across: float
    """Place in the lung, 0 medial to 1 lateral."""
    down: float
    """Place in the lung, 0 apex to 1 diaphragm; a rib's number for a fracture."""
    extent: float
    """How large, 0 to 1."""
    strength: float
    """How conspicuous, 0 to 1."""
    texture: int
    """Seed of its texture; one finding keeps it from study to study."""

    @property
    def severity(self) -> int:
        """1 small or mild, 2 moderate, 3 large or severe."""
        return 1 if self.extent < 0.36 else 2 if self.extent < 0.70 else 3

    @property
    def doubtful(self) -> bool:
        """Faint enough that a careful reader would hedge."""
        return self.strength < 0.30


VARIETIES: Mapping[Kind, tuple[tuple[str, float], ...]] = {
    "cardiomegaly": (("heart", 1.0),),
    "effusion": (("free", 1.0),),
    "pneumonia": (("opacity", 0.6), ("consolidation", 0.4)),
    "atelectasis": (("plate", 0.55), ("basal", 0.45)),
    "edema": (("batwing", 0.6), ("interstitial", 0.4)),
    "pneumothorax": (("apical", 1.0),),
    "nodule": (("nodule", 0.65), ("mass", 0.35)),
    "fracture": (("acute", 0.5), ("healed", 0.5)),
    "device": (("ett", 0.22), ("line", 0.34), ("pacemaker", 0.22), ("ng", 0.22)),
    "foreign": (("buttons", 0.4), ("necklace", 0.35), ("coin", 0.25)),
}
_CHRONIC = ("cardiomegaly", "nodule", "fracture", "device")


def zone_of(down: float) -> Zone:
    """The third of the lung that a height belongs to."""
    return "upper" if down < 0.37 else "mid" if down < 0.66 else "lower"


def sample_finding(kind: Kind, rng: np.random.Generator) -> Finding:
    """Draw one finding of a kind."""
    names, weights = zip(*VARIETIES[kind], strict=True)
    u = rng.random(8).tolist()
    pick = bisect_right(list(accumulate(weights)), u[0] * sum(weights))
    variety = names[min(pick, len(names) - 1)]
    side: Literal["right", "left", "both", ""] = "right" if u[1] < 0.5 else "left"
    zone: Zone = ""
    across, down = 0.5, 0.5
    extent, strength = u[2], u[3]
    if kind in ("cardiomegaly", "edema"):
        side = "both" if kind == "edema" else ""
    elif kind == "pneumonia":
        # two in three lie in the lower zone, as in life
        down = 0.18 + 0.18 * u[4] if u[5] < 0.2 else 0.40 + 0.22 * u[4] if u[5] < 0.48 else 0.70 + 0.18 * u[4]
        # beside the heart, not behind it
        across = 0.58 + 0.24 * u[6] if side == "left" and down > 0.4 else 0.36 + 0.42 * u[6]
        zone = zone_of(down)
    elif kind == "effusion":
        extent = u[2] ** 1.4
    elif kind == "atelectasis":
        down, across, zone = 0.78 + 0.12 * u[4], 0.40 + 0.25 * u[6], "lower"
        extent = 0.8 * u[2]
    elif kind == "pneumothorax":
        extent, zone = u[2] ** 1.3, "upper"
    elif kind == "nodule":
        down, across = 0.20 + 0.66 * u[4], 0.30 + 0.50 * u[6]
        zone = zone_of(down)
    elif kind == "fracture":
        down, across = float(2 + int(5 * u[4])), 0.62 + 0.22 * u[6]
    elif kind in ("device", "foreign"):
        if variety == "pacemaker":
            side = "left" if u[1] < 0.85 else "right"
        elif variety != "line":
            side = ""
        strength = 0.6 + 0.4 * u[3]
    return Finding(kind, variety, side, zone, across, down, extent, strength, int(rng.integers(2**31)))


def evolve(finding: Finding, rng: np.random.Generator) -> Finding | None:
    """The same finding at the next study: larger, smaller, alike, or gone (None)."""
    fate, amount = float(rng.random()), float(rng.uniform(0.18, 0.38))
    if finding.kind in _CHRONIC:
        if finding.kind == "device" and fate < 0.35:
            return None
        if finding.kind == "nodule" and fate > 0.75:
            return replace(finding, extent=min(1.0, finding.extent + amount))
        if finding.kind == "fracture":
            return replace(finding, variety="healed")
        return finding
    if finding.kind == "foreign" or fate < 0.22:
        return None
    if fate < 0.50:
        smaller = finding.extent - amount
        return replace(finding, extent=smaller) if smaller > 0.02 else None
    if fate < 0.75:
        return replace(finding, extent=min(1.0, finding.extent + amount))
    return finding


def changes_by(findings: Iterable[Finding]) -> Changes:
    """What the findings do to the shape of the chest."""
    heart, congestion, pulled = 0.0, 0.0, 0.0
    raised = [0.0, 0.0]
    for f in findings:
        if f.kind == "cardiomegaly":
            heart = 0.085 + 0.14 * f.extent
        elif f.kind == "edema":
            congestion = 0.3 + 0.7 * f.extent
        elif f.kind == "atelectasis":
            raised[f.side == "left"] += 0.025 + (0.11 if f.variety == "basal" else 0.03) * f.extent
            if f.variety == "basal":
                pulled += (0.03 if f.side == "left" else -0.03) * f.extent
        elif f.kind == "effusion" and f.extent > 0.7:
            pulled += 0.05 * (f.extent - 0.7) * (-1.0 if f.side == "left" else 1.0)
        elif f.kind == "pneumothorax" and f.extent > 0.6:
            pulled += 0.08 * (f.extent - 0.6) * (-1.0 if f.side == "left" else 1.0)
    return Changes(heart=heart, raised=(raised[0], raised[1]), pulled=pulled, congestion=congestion)


def draw_finding(scene: Scene, finding: Finding) -> Mask:
    """Add a finding to a scene that holds the normal chest; returns its mask, (size, size)."""
    return _DRAW[finding.kind](scene, finding)


def _side(finding: Finding) -> Side:
    if finding.side == "right" or finding.side == "left":
        return finding.side
    raise ValueError(f"a {finding.kind} lies on the right or on the left, not on {finding.side!r}")


def _empty(scene: Scene) -> Mask:
    return np.zeros((scene.size, scene.size), np.bool_)


def _unit(texture: int, which: int) -> float:
    """A number in [0, 1) that a finding keeps: how round, how steep, ..."""
    return ((texture * 40503 + which * 9176263) % 65521) / 65521


def _cardiomegaly(scene: Scene, finding: Finding) -> Mask:
    # the heart itself is drawn large already (see changes_by); here is only where it lies
    x0, y0, x1, y1 = heart_extent(scene.thorax)
    mask = _empty(scene)
    rows, cols = scene.window((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2)
    u = (scene.x[:, cols] - (x0 + x1) / 2) / ((x1 - x0) / 2)
    v = (scene.y[rows] - (y0 + y1) / 2) / ((y1 - y0) / 2)
    mask[rows, cols] = u * u + v * v <= 1.0
    return mask


def _effusion(scene: Scene, finding: Finding) -> Mask:
    thorax, side = scene.thorax, _side(finding)
    cols, depth, y = scene.columns(side), scene.depth(side), scene.y
    width = thorax.width[side == "left"]
    angle = thorax.floor_at(side, 0.97 * width)
    top = angle - (0.13 + 0.75 * finding.extent)
    s = np.clip(depth / width, 0.0, 1.1)
    # the meniscus climbs along the lateral wall
    curve = top + (0.26 - 0.10 * finding.extent) * np.clip(1.0 - s * s, 0.0, 1.0)
    blur = 0.05 + 0.05 * _unit(finding.texture, 1)
    fluid = scene.soft(y - curve, blur) * scene.lung[:, cols]
    scene.attenuation[:, cols] += (0.44 + 0.16 * finding.strength) * fluid
    mask = _empty(scene)
    mask[:, cols] = fluid > 0.5
    return mask


def _pneumonia(scene: Scene, finding: Finding) -> Mask:
    x, y = scene.thorax.locate(_side(finding), finding.across, finding.down)
    radius = 0.135 + 0.16 * finding.extent
    stretch = 0.8 + 0.5 * _unit(finding.texture, 1)
    rx, ry = radius / math.sqrt(stretch), radius * math.sqrt(stretch)
    rows, cols = scene.window(x, y, 1.6 * rx, 1.6 * ry)
    r2 = ((scene.x[:, cols] - x) / rx) ** 2 + ((scene.y[rows] - y) / ry) ** 2
    ragged = 0.30 * crop_noise("coarse", scene.size, finding.texture, r2.shape)
    ragged = ragged + 0.22 * crop_noise("medium", scene.size, finding.texture + 1, r2.shape)
    cloud = np.clip((1.25 - r2 + ragged) * 0.9, 0.0, 1.0) * scene.lung[rows, cols]
    # nothing beyond the ellipse that could have been drawn: keeps the noise from leaving islands
    cloud *= np.clip((2.2 - r2) * 2.0, 0.0, 1.0)
    grainy = 1.0 + 0.15 * crop_noise("fine", scene.size, finding.texture + 2, r2.shape)
    # a tenth of them fade, down to what nobody can see, as on real films: nothing trained on them is right about all
    visible = min(1.0, finding.strength / 0.1)
    density = visible * (0.20 + 0.42 * finding.strength) * cloud
    scene.attenuation[rows, cols] += density * grainy
    # vessels drown in the opacity; in a consolidation the air in the bronchi beside them shows dark
    drown = 0.32 if finding.variety == "consolidation" else 0.14
    scene.attenuation[rows, cols] -= visible * drown * cloud * scene.vessels[rows, cols]
    mask = _empty(scene)
    # a small one low behind the diaphragm's edge may stay thin all over: then its own denser part counts
    mask[rows, cols] = cloud > 0.42 * min(1.0, float(cloud.max()) / 0.6)
    return mask


def _atelectasis(scene: Scene, finding: Finding) -> Mask:
    side = _side(finding)
    x, y = scene.thorax.locate(side, finding.across, finding.down)
    out = -1.0 if side == "right" else 1.0
    mask = _empty(scene)
    if finding.variety == "plate":
        half, thick = 0.10 + 0.12 * finding.extent, 0.016 + 0.012 * _unit(finding.texture, 1)
        rows, cols = scene.window(x, y, half * 1.2, 0.16)
        lung = scene.lung[rows, cols]
        u = (scene.x[:, cols] - x) / half
        slope = 0.05 * (_unit(finding.texture, 2) - 0.3) * out
        plates = np.zeros_like(lung)
        for n in range(1 + (finding.extent > 0.35)):
            line = y - 0.075 * n + slope * u + 0.02 * u * u
            ends = np.clip((1.0 - 0.25 * n - np.abs(u)) * 5.0, 0.0, 1.0)
            plates = np.maximum(plates, ends * np.clip(1.3 - np.abs(scene.y[rows] - line) / thick, 0.0, 1.0))
        plates = plates * lung
        scene.attenuation[rows, cols] += (0.12 + 0.16 * finding.strength) * plates
        mask[rows, cols] = plates > 0.35
        return mask
    # collapse at the base: a wedge on the diaphragm, densest medially
    cols, depth = scene.columns(side), scene.depth(side)
    width = scene.thorax.width[side == "left"]
    height = 0.13 + 0.16 * finding.extent
    above = np.clip(1.0 - (scene.thorax.floor(side, depth) - scene.y) / height, 0.0, 1.0)
    medial = np.clip(1.25 - depth / (0.85 * width), 0.0, 1.0)
    wedge = np.minimum(2.0 * above * medial, 1.0) * scene.lung[:, cols]
    streaks = 1.0 + 0.25 * crop_noise("medium", scene.size, finding.texture, wedge.shape)
    scene.attenuation[:, cols] += (0.13 + 0.20 * finding.strength) * wedge * streaks
    mask[:, cols] = wedge > 0.45
    return mask


def _edema(scene: Scene, finding: Finding) -> Mask:
    thorax = scene.thorax
    mask = _empty(scene)
    amount = (0.08 + 0.13 * finding.extent) * (0.7 + 0.5 * finding.strength)
    for side in SIDES:
        cols = scene.columns(side)
        hx, hy = thorax.hilum(side)
        out = -0.10 if side == "right" else 0.10
        rx, ry = 0.34 + 0.10 * finding.extent, 0.44
        r2 = ((scene.x[:, cols] - hx - out) / rx) ** 2 + ((scene.y - hy - 0.10) / ry) ** 2
        wing = np.clip(1.3 * (1.0 - r2), 0.0, 1.0) * scene.lung[:, cols]
        mottle = 1.0 + 0.30 * crop_noise("medium", scene.size, finding.texture + (side == "left"), wing.shape)
        haze = amount * (1.0 if finding.variety == "batwing" else 0.65)
        scene.attenuation[:, cols] += haze * wing * mottle
        mask[:, cols] = wing > 0.35
    if finding.variety == "interstitial" or finding.extent > 0.5:
        # Kerley B: short level lines that touch the flank just above the angles
        pen = scene.pen()
        for side in SIDES:
            sign = -1.0 if side == "right" else 1.0
            low = thorax.dome[side == "left"]
            for n in range(6):
                y = low - 0.02 - 0.045 * n
                wall = thorax.outer_at(side, y)
                pen.line([(sign * (wall - 0.02), y), (sign * (wall - 0.10), y - 0.008)], 0.008, 160)
        rows, cols, drawn = pen.patch()
        scene.attenuation[rows, cols] += 0.22 * drawn * scene.lung[rows, cols]
    return mask


def _pneumothorax(scene: Scene, finding: Finding) -> Mask:
    thorax, side = scene.thorax, _side(finding)
    cols, depth, y = scene.columns(side), scene.depth(side), scene.y
    hx, hy = thorax.hilum(side)
    # the lung's own outline, shrunk towards its root; most at the apex, not at all below `end`
    end = thorax.apex + (0.45 + 0.60 * finding.extent) * (thorax.dome[side == "left"] - thorax.apex)
    fade = np.clip((end - y) / (end - thorax.apex), 0.0, 1.0)
    shrink = 1.0 - (0.13 + 0.42 * finding.extent) * fade * (2.0 - fade) * 0.75
    depth_then = abs(hx) + (depth - abs(hx)) / shrink
    y_then = hy + (y - hy) / shrink
    rim = np.minimum(thorax.outer(side, y_then) - depth_then, 1.2 * (y_then - thorax.apex))
    lung = scene.lung[:, cols]
    outside = scene.soft(-rim) * lung * (fade > 0)
    line = np.clip(1.0 - np.abs(rim) / 0.016, 0.0, 1.0) * lung * np.clip(fade * 8.0, 0.0, 1.0)
    gain = 0.20 * thorax.anatomy.vessel_gain
    scene.attenuation[:, cols] -= outside * (0.05 + gain * scene.vessels[:, cols])
    scene.attenuation[:, cols] += (0.09 + 0.09 * finding.strength) * line
    scene.attenuation[:, cols] += 0.10 * finding.extent * (lung - outside)
    mask = _empty(scene)
    mask[:, cols] = outside > 0.5
    return mask


def _nodule(scene: Scene, finding: Finding) -> Mask:
    x, y = scene.thorax.locate(_side(finding), finding.across, finding.down)
    mass = finding.variety == "mass"
    r = 0.080 + 0.06 * finding.extent if mass else 0.032 + 0.028 * finding.extent
    rows, cols = scene.window(x, y, 1.3 * r, 1.3 * r)
    r2 = ((scene.x[:, cols] - x) ** 2 + (scene.y[rows] - y) ** 2) / (r * r)
    r2 = r2 + 0.14 * crop_noise("medium", scene.size, finding.texture, r2.shape)
    ball = np.sqrt(np.clip(1.15 - r2, 0.0, 1.0)) * scene.lung[rows, cols]
    scene.attenuation[rows, cols] += (0.16 + 0.18 * finding.strength) * ball
    mask = _empty(scene)
    mask[rows, cols] = ball > 0.25
    return mask


def _fracture(scene: Scene, finding: Finding) -> Mask:
    thorax, side = scene.thorax, _side(finding)
    cols, depth = scene.columns(side), scene.depth(side)
    place = finding.across * thorax.width[side == "left"]
    row = thorax.rib_row(int(finding.down), place, anterior=False)
    rows, y = scene.cage, scene.y[scene.cage]
    mask = _empty(scene)
    mask[rows, cols] = (np.abs(depth - place) < 0.045) & (np.abs(y - row) < 0.06)
    if finding.variety == "healed":
        bump = np.clip(1.2 - ((depth - place) ** 2 + (y - row) ** 2) / 0.045**2, 0.0, 1.0)
        scene.attenuation[rows, cols] += 0.16 * bump
        return mask
    phase = rib_phase(scene, side, anterior=False)
    whole = rib_profile(scene, phase, side, anterior=False) * (np.rint(phase) == int(finding.down))
    gain = 0.125 * thorax.anatomy.rib_contrast
    # a step-off: the lateral piece slips down for a while, with a dark cleft between the two
    piece = np.clip((depth - place) / 0.008, 0.0, 1.0) * np.clip((place + 0.13 - depth) / 0.08, 0.0, 1.0)
    slip = round(0.036 * scene.size / 2)
    moved = np.zeros_like(whole)
    moved[slip:] = whole[:-slip]
    scene.attenuation[rows, cols] += 1.4 * gain * (moved - whole) * piece
    cleft = np.clip(1.0 - np.abs(depth - place) / 0.012, 0.0, 1.0)
    scene.attenuation[rows, cols] -= 1.3 * gain * whole * cleft
    return mask


def _device(scene: Scene, finding: Finding) -> Mask:
    thorax = scene.thorax
    pen = scene.pen()
    cx, cy = thorax.carina
    pull = thorax.pull
    wobble = 0.04 * (_unit(finding.texture, 1) - 0.5)
    if finding.variety == "ett":
        tip = cy - 0.07 - 0.13 * _unit(finding.texture, 2)
        pen.line([(0.3 * pull + wobble, -1.0), (0.7 * cx, -0.6), (cx, tip)], 0.026, 215)
    elif finding.variety == "ng":
        stomach = thorax.dome[1] + 0.14
        pen.line(
            [
                (wobble, -1.0),
                (0.02 + pull, -0.4),
                (0.05 + pull, 0.2),
                (0.10, stomach - 0.12),
                (0.26, stomach),
                (0.38, stomach + 0.06 * _unit(finding.texture, 3)),
            ],
            0.017,
            200,
        )
    elif finding.variety == "line":
        tip_y = -0.12 + 0.12 * _unit(finding.texture, 2)
        if _side(finding) == "right":
            vein = [(-0.20 + wobble, -1.0), (-0.15, -0.72), (-0.105 + pull, -0.50)]
        else:
            vein = [(0.62, -0.66 + wobble), (0.36, -0.58), (0.12 + pull, -0.53), (-0.06 + pull, -0.46)]
        pen.line([*vein, (-0.09 + pull, -0.34), (-0.085 + pull, tip_y)], 0.013, 220)
    else:
        sign = -1.0 if _side(finding) == "right" else 1.0
        x, y = sign * (0.50 + wobble), -0.50 + wobble
        pen.disc(x, y, 0.105, 0.115, 240)
        vein = [
            (x - sign * 0.06, y - 0.06),
            (sign * 0.20, -0.60),
            (-0.06 + pull, -0.48),
            (-0.10 + pull, -0.2),
        ]
        pen.line([*vein, (-0.11 + pull, 0.05)], 0.011, 215)
        apex = (thorax.heart_x + 0.45 * thorax.heart_half, thorax.dome[1] - 0.06)
        pen.line([*vein, (-0.08 + pull, 0.15), (0.04 + pull, thorax.dome[0] - 0.08), apex], 0.011, 215)
    return _add_metal(scene, pen, 0.35 + 0.35 * finding.strength)


def _add_metal(scene: Scene, pen: Pen, gain: float) -> Mask:
    rows, cols, drawn = pen.patch()
    scene.attenuation[rows, cols] += np.float32(gain) * drawn
    mask = _empty(scene)
    mask[rows, cols] = drawn > 0.3
    return mask


def _foreign(scene: Scene, finding: Finding) -> Mask:
    pen = scene.pen()
    u, v = _unit(finding.texture, 1), _unit(finding.texture, 2)
    if finding.variety == "buttons":
        x, r = 0.10 * (u - 0.5), 0.020 + 0.010 * v
        for n in range(3 + int(3 * v)):
            pen.disc(x + 0.012 * (n % 2), -0.45 + 0.22 * n + 0.05 * u, r, r, 225)
    elif finding.variety == "necklace":
        sag, wide = 0.20 + 0.20 * u, 0.26 + 0.10 * v
        for n in range(31):
            t = (n - 15) / 15.0
            pen.disc(wide * t, -0.93 + sag * (1.0 - t * t), 0.011, 0.011, 220)
        pen.disc(0.0, -0.93 + sag + 0.03, 0.026, 0.034, 235)
    else:
        pen.disc(0.5 * (u - 0.5), -0.62 if v < 0.5 else 0.78, 0.065, 0.065, 245)
    return _add_metal(scene, pen, 0.5 + 0.5 * finding.strength)


_DRAW: Mapping[Kind, Callable[[Scene, Finding], Mask]] = {
    "cardiomegaly": _cardiomegaly,
    "effusion": _effusion,
    "pneumonia": _pneumonia,
    "atelectasis": _atelectasis,
    "edema": _edema,
    "pneumothorax": _pneumothorax,
    "nodule": _nodule,
    "fracture": _fracture,
    "device": _device,
    "foreign": _foreign,
}
