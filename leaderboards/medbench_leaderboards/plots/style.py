"""What all pictures share: size, fonts, colours, the line that says what the data are, and how they become bytes.

Pictures are for a README that is 880 px wide, light or dark: they have a white ground of their own. Text in SVG stays
text. Colours are from the scheme `muted` of Paul Tol (sronpersonalpages.nl/~pault), which colour-blind readers can tell
apart; a marker says the same once more.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ft2font import LoadFlags

from medbench_leaderboards.board import Ranking, Row, Table

WIDTH: Final = 880 / 96
"""Inches; a browser shows a point as 96/72 px, so this is 880 px."""

PLOT: Final = 3.5
"""Inches that axes have at least; a picture with longer names is wider than `WIDTH`."""

DPI: Final = 192
"""Of the PNG: two pixels for each of the page's."""

INK, GREY, PALE, WARNING = "#1a1a1a", "#6b6b6b", "#d9d9d9", "#b33c00"

MUTED = (
    *("#332288", "#CC6677", "#117733", "#AA4499", "#44AA99", "#882255", "#999933"),
    *("#6FBDEB", "#E0B000"),  # cyan and sand of the scheme, darker: its own are too pale on white
)
_MARKERS = ("o", "s", "^", "D", "v", "<", ">")  # 7 and 9 have no common factor: 63 pairs

_RC: Final[Mapping[str, Any]] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": [
        "DejaVu Sans",
        "Verdana",
        "sans-serif",
    ],  # Verdana has DejaVu's widths where that lacks
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a name may have dollar signs
    "text.hinting": "no_hinting",  # so that a line is as wide in pixels as in SVG
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "medbench",
    "figure.dpi": 72.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Look:
    """How a row is drawn, in every picture of its table the same."""

    colour: str
    marker: str
    line: str


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's own defaults and ours, whatever the user's matplotlibrc says."""
    own: dict[Any, Any] = {
        key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")
    }
    own.update(_RC)
    with mpl.rc_context(own):
        yield


def looks(table: Table) -> dict[str, Look]:
    """Of each row by key: grey and dashed for baselines, else colours and markers in the order of the names."""
    rows = sorted(table.rows, key=lambda row: (row.name, row.key))
    greys = cycle(("#4d4d4d", "#8c8c8c"))
    colours, markers = cycle(MUTED), cycle(_MARKERS)
    return {
        row.key: Look(next(greys), next(markers), "--")
        if row.fidelity == "baseline"
        else Look(next(colours), next(markers), "-")
        for row in rows
    }


def figure(table: Table, height: float, title: str, *, width: float = WIDTH) -> Figure:
    """An empty picture with its title, and below it what the data are.

    Args:
        table: its source and recipe are said, a phantom's in capitals.
        height: inches, the heading of 0.75 included.
        title: what is seen.
        width: inches, at least; a picture is as wide as `WIDTH` and as its title at least.
    """
    width = max(width, WIDTH, text_width(title, 12, bold=True) + 0.24)
    made = Figure(figsize=(width, height))
    top = 1 - 0.26 / height
    made.text(0.12 / width, top, title, fontsize=12, fontweight="bold", va="center")
    at, line = 0.12, 1 - 0.53 / height
    phantom = table.source == "phantom"
    if phantom:
        warning = "PHANTOM data: synthetic films, nothing about patients."
        made.text(at / width, line, warning, color=WARNING, fontweight="bold", va="center")
        at += text_width(warning, 9, bold=True) + 0.08
    said = f"{'' if phantom else 'Real films. '}Recipe {table.recipe}, {table.size}."
    made.text(at / width, line, said, color=GREY, va="center")
    return made


def panel(made: Figure, left: float, bottom: float, right: float, top: float) -> Axes:
    """Axes by their margins in inches."""
    width, height = made.get_size_inches()
    return made.add_axes(
        (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    )


@cache
def text_width(text: str, size: float, *, bold: bool = False) -> float:
    """Of a line of text in DejaVu Sans, in inches."""
    font = get_font(findfont(FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal")))
    font.set_size(size, 72)
    font.set_text(text, 0.0, flags=LoadFlags.NO_HINTING)
    return float(font.get_width_height()[0]) / 64 / 72  # 64ths of a pixel, of which an inch has 72 here


def label(row: Row) -> str:
    """A method with its badge."""
    return f"{row.name} ({row.fidelity})"


def over(table: Table, ranking: Ranking) -> str:
    """What mean ranks are over, as in "6 tasks" and "4 image tasks"."""
    kind = "task" if ranking is table.ranking else "image task"
    return f"{ranking.tasks} {kind}{'s' if ranking.tasks != 1 else ''}"


def footnote(made: Figure, text: str, *, at: float = 0.16) -> None:
    """A line in grey at the foot, `at` inches from the edge."""
    width, height = made.get_size_inches()
    made.text(0.12 / width, at / height, text, fontsize=7.5, color=GREY, va="center")


def svg(made: Figure, title: str) -> bytes:
    """Bytes that depend on the picture and on matplotlib alone."""
    return _saved(made, "svg", {"Date": None, "Creator": None, "Title": title})


def png(made: Figure) -> bytes:
    """The same in pixels."""
    return _saved(made, "png", {"Software": None})


def _saved(made: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    made.savefig(buffer, format=kind, dpi=DPI if kind == "png" else 72, metadata=dict(metadata))
    return buffer.getvalue()
