"""Mean rank of each method over the tasks of a table, with its interval."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medbench_leaderboards.board import MeanRank, Ranking, Table
from medbench_leaderboards.plots.style import (
    GREY,
    PALE,
    PLOT,
    WIDTH,
    figure,
    footnote,
    label,
    looks,
    over,
    panel,
    text_width,
)

_LINE = 0.3  # inches


def mean_ranks(table: Table, ranking: Ranking) -> Figure | None:
    """A dot and its 95 % interval a method, the best on top; None with fewer than two ranked rows."""
    if len(ranking.ranks) < 2:
        return None
    rows = {row.key: row for row in table.rows}
    ranks = sorted(ranking.ranks, key=lambda rank: (rank.value, rows[rank.row].name))
    unranked = [row.name for row in table.rows if row.key not in {rank.row for rank in ranks}]
    left = max(text_width(label(rows[rank.row]), 9) for rank in ranks) + 0.3
    right = max(text_width(_words(rank), 8.5) for rank in ranks) + 0.3
    made = figure(
        table,
        0.82 + _LINE * len(ranks) + 1.0,
        f"Mean rank over {over(table, ranking)}",
        width=left + PLOT + right,
    )
    axes = panel(made, left, 1.0, right, 0.82)
    axes.set_ylim(len(ranks) - 0.5, -0.5)
    look = looks(table)
    for i, rank in enumerate(ranks):
        own = look[rank.row]
        axes.axhline(i, color=PALE, linewidth=0.6, zorder=0)
        if rank.low is not None and rank.high is not None:
            axes.plot(
                [rank.low, rank.high],
                [i, i],
                color=own.colour,
                linewidth=4,
                solid_capstyle="butt",
                alpha=0.4,
            )
        axes.plot(
            rank.value,
            i,
            color=own.colour,
            marker=own.marker,
            markersize=7,
            markeredgecolor="white",
            markeredgewidth=0.8,
        )
        axes.annotate(
            _words(rank),
            (1, i),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(ranks)), [label(rows[rank.row]) for rank in ranks])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(0.75, max(len(ranks), *(rank.high or 1.0 for rank in ranks)) + 0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
    axes.set_xlabel("mean rank, 1 is best", color=GREY)
    said = "Dots: ranks of the means, averaged over the label fractions of a task, then over tasks."
    if any(rank.low is not None for rank in ranks):
        said += " Bars: 95 % intervals over test patients."
    footnote(made, said, at=0.36 if unranked else 0.2)
    if unranked:
        footnote(made, _short(f"Not ranked, as cells lack: {', '.join(unranked)}."), at=0.16)
    return made


def _words(rank: MeanRank) -> str:
    if rank.low is None or rank.high is None:
        return f"{rank.value:.2f}"
    return f"{rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]"


def _short(text: str) -> str:
    """As much of a line as the picture takes."""
    while text_width(text, 7.5) > WIDTH - 0.24:
        text = text[:-2].rstrip(" .,…") + "…"
    return text
