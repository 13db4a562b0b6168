"""Label-efficiency curves: a task's values by label fraction, as coordinates of a picture.

Drawn by a template into the page itself: the colours are then those of the page's theme.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medbench.records import fraction_name
from medbench_leaderboards.site.shown import Shown

LEFT, RIGHT, TOP, BOTTOM = 48, 616, 14, 296
"""Of the field that is drawn in; the template's picture is 640 x 356."""
COLOURED = 8
"""Methods with a colour of their own; style.css has as many."""


@dataclass(frozen=True)
class Point:
    """A value with its interval, in the picture's units; y grows downwards."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Series:
    """A method. `look` is a class of style.css, "others" for those without a colour of their own."""

    name: str
    look: str
    points: tuple[Point, ...]

    @property
    def line(self) -> str:
        """As the points of a polyline."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True)
class Curves:
    """A picture: series, best first; ticks as (coordinate, text)."""

    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    metric: str


def curves(sections: Sequence[Sequence[Shown]], bounds: dict[str, tuple[float, float]]) -> Curves | None:
    """The curves of one task, None where no method has values at two fractions.

    Args:
        sections: cells of each label fraction.
        bounds: interval of a cell's value by its anchor, where it has one.
    """
    columns = {cells[0].column.fraction: cells for cells in sections if cells and cells[0].column.trains}
    if len(columns) < 2 or len(columns) < sum(1 for cells in sections if cells):
        return None  # two columns at one fraction differ in split or version: they are no curve
    fractions = sorted(columns)
    of_row: dict[str, list[Shown]] = {}
    for fraction in fractions:
        for cell in columns[fraction]:
            if cell.sort:
                of_row.setdefault(cell.row.key, []).append(cell)
    lines = [cells for cells in of_row.values() if len(cells) > 1]
    if not lines:
        return None
    sign = -1 if lines[0][0].column.higher_is_better else 1
    lines.sort(
        key=lambda cells: (-cells[-1].column.fraction, sign * float(cells[-1].sort), cells[-1].row.name)
    )
    coloured = lines[:COLOURED]
    ends = [
        end
        for cells in lines
        for cell in cells
        for end in (float(cell.sort), *(bounds.get(cell.anchor, ()) if cells in coloured else ()))
    ]
    ticks = _ticks(100 * min(ends), 100 * max(ends))
    floor, ceiling = ticks[0], ticks[-1]

    def x(fraction: float) -> float:
        span = math.log(fractions[-1] / fractions[0])
        return LEFT + 40 + (RIGHT - LEFT - 80) * math.log(fraction / fractions[0]) / span

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (100 * value - floor) / (ceiling - floor)

    def point(cell: Shown, shift: float) -> Point:
        low, high = bounds.get(cell.anchor, (None, None))
        return Point(
            x=x(cell.column.fraction) + shift,
            y=y(float(cell.sort)),
            low=None if low is None else y(low),
            high=None if high is None else y(high),
        )

    series = []
    for place, cells in enumerate(lines):
        has_colour = place < COLOURED
        shift = (
            6 * (place - (len(coloured) - 1) / 2) if has_colour else 0.0
        )  # so that intervals stand side by side
        look = f"s{place}" if has_colour else "others"
        series.append(Series(cells[0].row.name, look, tuple(point(cell, shift) for cell in cells)))
    return Curves(
        series=tuple(series),
        x_ticks=tuple((x(fraction), fraction_name(fraction)) for fraction in fractions),
        y_ticks=tuple((y(tick / 100), f"{tick:g}") for tick in ticks),
        metric=lines[0][0].column.metric,
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from at most `low` to at least `high`."""
    rough = max(high - low, 0.5) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return [round(k * step, 6) for k in range(first, last + 1)]
