"""One task by its classes: where a mean over classes comes from."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from medbench.records import Record, fraction_name
from medbench_leaderboards.board import Cell, Table
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

_LINE = 0.34  # inches, at least; more where many methods stand beside one another


def per_class(table: Table, series: Series, records: Mapping[str, Record]) -> Figure | None:
    """Dots: each method's primary metric in each class, mean over seeds, at the largest label fraction.

    Args:
        table: the rows.
        series: the task.
        records: by cell id; they hold the classes.

    Returns:
        None where there are fewer than two classes.
    """
    column = series.columns[-1]
    values = {
        row.key: found
        for row in table.rows
        if (found := class_means(table.cells[row.key, column.key], records, column.metric))
    }
    classes = sorted({name for found in values.values() for name in found})
    if len(classes) < 2:
        return None
    # The best on average on top, so that rows of dots fall from top to bottom.
    mean = {name: float(np.mean([v[name] for v in values.values() if name in v])) for name in classes}
    classes.sort(key=lambda name: (-mean[name] if column.higher_is_better else mean[name], name))
    rows = [row for row in table.rows if row.key in values]
    left = max(text_width(_words(name), 9) for name in classes) + 0.3
    right = max(text_width(label(row), 8.5) for row in rows) + 0.55
    line = max(_LINE, 0.055 * len(rows))
    height = max(0.78 + line * len(classes) + 0.95, 1.4 + 0.21 * len(rows))
    share = f" at {fraction_name(column.fraction).replace('%', ' %')} of the labels" if column.trains else ""
    title = f"{series.name}: {column.metric} of each class{share}"
    made = figure(table, height, title, width=left + PLOT + right)
    axes = panel(made, left, 0.86, right, 0.82)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    look = looks(table)
    beside = np.linspace(-0.26, 0.26, len(rows)) if len(rows) > 1 else np.zeros(1)
    for i, name in enumerate(classes):
        axes.axhspan(i - 0.5, i + 0.5, color="#f5f5f5" if i % 2 else "white", zorder=0)
        for row, shift in zip(rows, beside, strict=True):
            if name in values[row.key]:
                own = look[row.key]
                axes.plot(
                    100 * values[row.key][name],
                    i + shift,
                    color=own.colour,
                    marker=own.marker,
                    markersize=5.5,
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                )
    axes.set_yticks(range(len(classes)), [_words(name) for name in classes])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"{column.metric} of the class, %" + ("" if column.higher_is_better else " (lower is better)"),
        color=GREY,
    )
    for i, row in enumerate(rows):
        at = (1, 1)
        down = -(4 + 15.1 * i)
        own = look[row.key]
        axes.annotate(
            label(row),
            at,
            xycoords="axes fraction",
            xytext=(26, down),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=INK,
        )
        axes.plot(
            [1 + 16 / 72 / (axes.get_position().width * made.get_figwidth())],
            [1 + down / 72 / (axes.get_position().height * made.get_figheight())],
            transform=axes.transAxes,
            color=own.colour,
            marker=own.marker,
            markersize=5.5,
            linestyle="none",
            clip_on=False,
        )
    footnote(made, "Dots: mean over seeds; no intervals. A class with few positives moves by chance.", at=0.2)
    return made


def class_means(cell: Cell, records: Mapping[str, Record], metric: str) -> dict[str, float]:
    """Of each class that is defined in every seed that counts, the mean over these seeds."""
    found = []
    for seed in cell.seeds:
        if seed.repeats is None and seed.value is not None and seed.cell_id in records:
            own = next((m for m in records[seed.cell_id].metrics if m.name == metric), None)
            if own is not None:
                found.append({name: value for name, value in own.per_class.items() if value is not None})
    names = set.intersection(*(set(one) for one in found)) if found else set()
    return {name: float(np.mean([one[name] for one in found])) for name in sorted(names)}


def _words(name: str) -> str:
    return name.replace("_", " ")
