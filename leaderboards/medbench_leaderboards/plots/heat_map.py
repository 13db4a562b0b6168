"""All values of a table at once: tasks and label fractions by methods."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medbench.records import fraction_name
from medbench_leaderboards.board import Column, Table
from medbench_leaderboards.plots.series import series
from medbench_leaderboards.plots.style import (
    GREY,
    INK,
    PALE,
    WIDTH,
    figure,
    footnote,
    panel,
    text_width,
)

_ROW = 0.262  # inches
_COLUMN, _WIDEST = 0.56, 1.2  # at least, at most
_BADGES = {"official-code": "code", "paper": "paper", "reconstruction": "recon.", "baseline": "base"}
_KEY = (
    "code: checked against the authors' code. paper: built from the paper. recon.: reconstruction, built from what is "
    "public. base: baseline."
)


def heat_map(table: Table) -> Figure | None:
    """A cell a method and task at one label fraction: its mean in percent; the better in its line, the darker.

    Colours go from the worst to the best value of a line, whichever direction is better, so they compare methods in a
    task and not tasks; less far where intervals are wide. What has no value is hatched. None for a table without cells.
    """
    if not table.rows or not table.columns:
        return None
    groups = series(table)
    lines = [column for group in groups for column in group.columns]
    gap = 0.09  # inches between tasks
    tops: dict[str, float] = {}
    at = 0.0
    for group in groups:
        for column in group.columns:
            tops[column.key] = at
            at += _ROW
        at += gap
    tall = at - gap
    names = max(
        text_width(f"{group.name}  ", 8.5) + text_width(_metric(group.columns[0]), 7) for group in groups
    )
    left = 0.12 + names + max(text_width(_share(column), 8.5) for column in lines) + 0.2
    heading = max(text_width(row.name, 8.5) for row in table.rows) + 0.05
    column_width = min(max(_COLUMN, (WIDTH - left - 0.12) / len(table.rows)), max(_WIDEST, heading))
    slanted = heading > column_width
    above = heading * 0.64 + 0.3 if slanted else 0.36
    right = max(0.12, heading * 0.77 - column_width * 0.6 + 0.12 if slanted else 0.0)
    width = left + column_width * len(table.rows) + right
    height = 0.75 + above + tall + 0.56
    made = figure(table, height, "Every task, every method", width=width)
    axes = panel(made, left, 0.5, made.get_figwidth() - left - column_width * len(table.rows), 0.75 + above)
    axes.set_xlim(0, len(table.rows))
    axes.set_ylim(tall, 0)
    axes.axis("off")

    shades = mpl.colormaps["YlGnBu"]
    marked = False
    for column in lines:
        top = tops[column.key]
        shown = _shades(table, column)
        best = max(shown.values(), default=0.0) if len(shown) > 1 else None
        for i, row in enumerate(table.rows):
            cell = table.cells[row.key, column.key]
            corner, wide, high = (i + 0.02, top + 0.012), 0.96, _ROW - 0.024
            if cell.mean is None:
                axes.add_patch(
                    Rectangle(
                        corner, wide, high, facecolor="white", edgecolor=PALE, hatch="////", linewidth=0
                    )
                )
                words = {"missing": "–"}.get(cell.status, cell.status)
                axes.text(
                    i + 0.5,
                    top + _ROW / 2,
                    words,
                    fontsize=7,
                    color=GREY,
                    ha="center",
                    va="center",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
                )
                continue
            shade = shown[row.key]
            colour = shades(0.04 + 0.84 * shade)
            axes.add_patch(Rectangle(corner, wide, high, facecolor=colour, edgecolor="none"))
            contaminated = "contaminated" in cell.marks
            marked = marked or contaminated
            axes.text(
                i + 0.5,
                top + _ROW / 2,
                f"{100 * cell.mean:.1f}" + ("†" if contaminated else ""),
                fontsize=8.5,
                fontweight="bold" if shade == best else "normal",
                color="white" if _luminance(colour) < 0.2 else INK,
                ha="center",
                va="center",
            )
        axes.text(-0.1 / column_width, top + _ROW / 2, _share(column), fontsize=8.5, ha="right", va="center")
    for group in groups:
        first = group.columns[0]
        at = left - 0.12
        middle = tops[first.key] + _ROW / 2
        axes.text(-at / column_width, middle, group.name, fontsize=8.5, va="center")
        at -= text_width(f"{group.name}  ", 8.5)
        axes.text(-at / column_width, middle, _metric(first), fontsize=7, color=GREY, va="center")
    for i, row in enumerate(table.rows):
        if slanted:
            axes.text(i + 0.4, -0.2, row.name, fontsize=8.5, rotation=40, ha="left", va="bottom")
        else:
            axes.text(i + 0.5, -0.235, row.name, fontsize=8.5, ha="center", va="center")
        axes.text(
            i + 0.5,
            -0.08,
            _BADGES.get(row.fidelity, row.fidelity),
            fontsize=7,
            color=GREY,
            ha="center",
            va="center",
        )
    footnote(
        made,
        "Primary metric in percent, mean over seeds; the darker, the better in its line; bold: the best mean, which may"
        f" be noise. {'†: contaminated. ' if marked else ''}Hatched: no value.",
        at=0.33,
    )
    footnote(made, _KEY, at=0.15)
    return made


def _shades(table: Table, column: Column) -> dict[str, float]:
    """Of each row with a value in a column, 0 (pale) to 1 (dark).

    The worst is 0 and the best is 1, unless the intervals are wider, on average, than what lies between them: then all
    are as much nearer to 0.5 as the intervals are wider.
    """
    cells = [table.cells[row.key, column.key] for row in table.rows]
    means = {cell.row: cell.mean for cell in cells if cell.mean is not None}
    if not means:
        return {}
    widths = [cell.high - cell.low for cell in cells if cell.high is not None and cell.low is not None]
    low, high = min(means.values()), max(means.values())
    span = max(high - low, sum(widths) / len(widths) if widths else 0.0)
    if span == 0:
        return dict.fromkeys(means, 0.5)
    towards = 1 if column.higher_is_better else -1
    return {key: 0.5 + towards * (mean - (low + high) / 2) / span for key, mean in means.items()}


def _metric(column: Column) -> str:
    return column.metric + ("" if column.higher_is_better else " ↓")


def _share(column: Column) -> str:
    return fraction_name(column.fraction).replace("%", " %") if column.trains else ""


def _luminance(colour: tuple[float, float, float, float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2), 0 to 1."""
    rgb = np.array(colour[:3])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
