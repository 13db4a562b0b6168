"""The critical-difference picture of Demsar (JMLR 7, 2006): mean ranks on a line, bars over what is not told apart."""

from matplotlib.figure import Figure

from medbench_leaderboards.board import Ranking, Table
from medbench_leaderboards.plots.style import (
    GREY,
    INK,
    PLOT,
    figure,
    footnote,
    label,
    looks,
    over,
    panel,
    text_width,
)

_LINE = 0.27  # inches between names
_BAR = 0.13  # inches between bars


def groups(values: list[float], distance: float) -> list[tuple[int, int]]:
    """Longest runs of rising mean ranks whose ends are not further apart than `distance`.

    Returns:
        (first, last) positions, of runs of two or more that lie in no longer one.
    """
    found: list[tuple[int, int]] = []
    for first, value in enumerate(values):
        last = max(i for i, other in enumerate(values) if other - value <= distance)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def critical_difference(table: Table, ranking: Ranking) -> Figure | None:
    """Best ranks at the right, as there. None with fewer than three ranked rows, or where no difference is known."""
    if ranking.critical_difference is None or len(ranking.ranks) < 3:
        return None
    rows = {row.key: row for row in table.rows}
    ranks = sorted(ranking.ranks, key=lambda rank: (rank.value, rows[rank.row].name))
    values = [rank.value for rank in ranks]
    joined = groups(values, ranking.critical_difference)
    right_side = (len(ranks) + 1) // 2  # the better half
    side = max(text_width(label(rows[rank.row]), 9) for rank in ranks) + 0.92
    bars = 0.2 + _BAR * len(joined)
    names = bars + _LINE * max(right_side, len(ranks) - right_side)
    height = 0.78 + 0.95 + names + 0.4
    title = f"Critical difference over {over(table, ranking)}"
    made = figure(table, height, title, width=PLOT + 2 * side)
    axes = panel(made, side, 0.4, side, 0.78)
    inches = height - 0.78 - 0.4
    worst = len(ranks)
    axes.set_xlim(worst, 1)
    axes.set_ylim(inches - 0.95, -0.95)  # inches below the line
    axes.axis("off")
    per_inch = (worst - 1) / (made.get_figwidth() - 2 * side)

    axes.plot([1, worst], [0, 0], color=INK, linewidth=1.2, clip_on=False)
    for tick in range(1, worst + 1):
        axes.plot([tick, tick], [0, -0.08], color=INK, linewidth=1.0, clip_on=False)
        axes.text(tick, -0.12, str(tick), ha="center", va="bottom", fontsize=8.5)
    distance = min(ranking.critical_difference, worst - 1.0)
    axes.plot([worst, worst - distance], [-0.52, -0.52], color=INK, linewidth=1.6, clip_on=False)
    for end in (worst, worst - distance):
        axes.plot([end, end], [-0.58, -0.46], color=INK, linewidth=1.6, clip_on=False)
    axes.text(
        worst - distance / 2,
        -0.62,
        f"critical difference {ranking.critical_difference:.2f}"
        + (" (longer than the line)" if distance < ranking.critical_difference else ""),
        ha="center",
        va="bottom",
        fontsize=8.5,
    )

    for number, (first, last) in enumerate(joined):
        at = 0.16 + _BAR * number
        beyond = 0.05 * per_inch
        axes.plot(
            [values[first] - beyond, values[last] + beyond],
            [at, at],
            color=INK,
            linewidth=4,
            solid_capstyle="butt",
            clip_on=False,
        )
    look = looks(table)
    for i, rank in enumerate(ranks):
        better = i < right_side
        place = i if better else len(ranks) - 1 - i
        at = bars + _LINE * (place + 0.5)
        edge = (1 - 0.55 * per_inch) if better else (worst + 0.55 * per_inch)
        axes.plot(
            [rank.value, rank.value, edge], [0, at, at], color=GREY, linewidth=0.8, clip_on=False, zorder=0
        )
        own = look[rank.row]
        axes.plot(rank.value, 0, color=own.colour, marker=own.marker, markersize=6, clip_on=False)
        outwards = -per_inch if better else per_inch  # an inch away from the line; better ranks are smaller
        name, value = ("left", "right") if better else ("right", "left")
        axes.text(edge + 0.08 * outwards, at, label(rows[rank.row]), va="center", ha=name)
        axes.text(
            edge - 0.03 * outwards,
            at - 0.02,
            f"{rank.value:.2f}",
            va="bottom",
            ha=value,
            fontsize=7.5,
            color=GREY,
        )
    footnote(
        made,
        "Mean ranks, best at the right. Bars join what differs by no more than the critical difference (Nemenyi, 5 %).",
    )
    return made
