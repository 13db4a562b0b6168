"""How far labels carry each method: the primary metric over the share of training labels."""

import numpy as np
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from medbench.records import fraction_name
from medbench_leaderboards.board import Table
from medbench_leaderboards.plots.series import Series
from medbench_leaderboards.plots.style import (
    GREY,
    INK,
    PALE,
    PLOT,
    figure,
    footnote,
    label,
    looks,
    panel,
    text_width,
)

_HEIGHT = 5.0
_LINE = 0.205  # inches between the names at the right


def label_efficiency(table: Table, series: Series) -> Figure | None:
    """A line a method, bars for the 95 % interval over test patients, names beside the last points.

    Methods stand a little beside one another, so that bars do not hide bars. None where no method has a value at two
    fractions.
    """
    drawn = []
    for row in table.rows:
        cells = [(column.fraction, table.cells[row.key, column.key]) for column in series.columns]
        points = [(fraction, cell) for fraction, cell in cells if cell.mean is not None]
        if points:
            drawn.append((row, points))
    if not any(len(points) > 1 for _, points in drawn):
        return None
    names = {row.key: label(row) for row, _ in drawn}
    right = max(text_width(name, 8.5) for name in names.values()) + 0.62
    height = max(_HEIGHT, 1.6 + _LINE * len(drawn))
    made = figure(table, height, f"{series.name}: label efficiency", width=0.72 + PLOT + right)
    axes = panel(made, 0.72, 0.78, right, 0.82)
    axes.set_xscale("log")
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)

    look = looks(table)
    beside = np.linspace(-1, 1, len(drawn)) if len(drawn) > 1 else np.zeros(1)
    ends = []
    for (row, points), shift in zip(drawn, beside, strict=True):
        x = np.array([fraction for fraction, _ in points]) * 100 * 1.14**shift
        y = np.array([100 * (cell.mean or 0.0) for _, cell in points])
        own = look[row.key]
        for at, (_, cell) in zip(x, points, strict=True):
            if cell.low is not None and cell.high is not None:
                axes.plot(
                    [at, at],
                    [100 * cell.low, 100 * cell.high],
                    color=own.colour,
                    linewidth=1.1,
                    alpha=0.55,
                    solid_capstyle="butt",
                )
        axes.plot(
            x,
            y,
            color=own.colour,
            marker=own.marker,
            linestyle=own.line,
            linewidth=1.4,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )
        ends.append((float(x[-1]), float(y[-1]), row.key))

    fractions = [column.fraction for column in series.columns]
    axes.set_xticks([100 * f for f in fractions], [fraction_name(f).replace("%", " %") for f in fractions])
    axes.minorticks_off()
    axes.set_xlim(100 * fractions[0] / 1.35, 100 * fractions[-1] * 1.35)
    axes.set_xlabel("labelled share of the training films")
    first = series.columns[0]
    axes.set_ylabel(f"{first.metric}, %" + ("" if first.higher_is_better else " (lower is better)"))
    bottom, top = axes.get_ylim()

    # Names at the right, in the order of the last points, apart by a line at least and as near as that allows.
    inches = height - 0.78 - 0.82
    gap = _LINE * (top - bottom) / inches
    order = sorted(ends, key=lambda end: (-end[1], end[2]))
    steps = gap * np.arange(len(order))
    wanted = np.array([end[1] for end in order])
    places = isotonic_regression(wanted + steps, increasing=False).x - steps
    places = places - max(0.0, float(places[0] - top)) + max(0.0, bottom - float(places[-1]))
    edge = 100 * fractions[-1] * 1.35
    per_inch = np.log10(edge / (100 * fractions[0] / 1.35)) / (made.get_figwidth() - 0.72 - right)
    for (x_end, y_end, key), place in zip(order, places, strict=True):
        near, far, text = (edge * 10 ** (inch * per_inch) for inch in (0.06, 0.24, 0.34))
        axes.plot(
            [x_end * 1.02, near, far],
            [y_end, place, place],
            color=PALE,
            linewidth=0.7,
            clip_on=False,
            zorder=0.5,
        )
        axes.plot(far, place, color=look[key].colour, marker=look[key].marker, markersize=5, clip_on=False)
        axes.text(text, place, names[key], fontsize=8.5, va="center", color=INK)
    axes.set_ylim(bottom, top)
    axes.set_xlim(100 * fractions[0] / 1.35, edge)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    footnote(
        made,
        "Points: mean over seeds. Bars: 95 % interval over test patients. Differences are tested in pairs.",
    )
    return made
