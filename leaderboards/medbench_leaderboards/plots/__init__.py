"""Pictures of a board: SVG for pages, PNG for what shows no SVG. Matplotlib is imported when they are drawn."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from medbench_leaderboards.board import Board, build

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medbench.results import Results


def plots(results: "Results") -> Mapping[str, bytes]:
    """All pictures of a results folder: `plots/<table>/<name>.svg` and `.png`.

    The same records give the same bytes, with one version of matplotlib.
    """
    return draw(build(results))


def draw(board: Board) -> dict[str, bytes]:
    """All pictures of a board, by path."""
    from medbench_leaderboards.plots.style import house_style, png, svg

    files = {}
    with house_style():
        for path, title, made in figures(board):
            files[f"plots/{path}.svg"] = svg(made, title)
            files[f"plots/{path}.png"] = png(made)
    return files


def figures(board: Board) -> Iterator[tuple[str, str, "Figure"]]:
    """Path without an ending, title, and picture of all that there is to draw; to be called in `house_style`."""
    from medbench_leaderboards.plots.critical_difference import critical_difference
    from medbench_leaderboards.plots.heat_map import heat_map
    from medbench_leaderboards.plots.label_efficiency import label_efficiency
    from medbench_leaderboards.plots.mean_ranks import mean_ranks
    from medbench_leaderboards.plots.per_class import per_class
    from medbench_leaderboards.plots.series import series

    for table in board.tables:
        made = {
            "heat-map": ("every task, every method", heat_map(table)),
        }
        for kind, ranking in (("", table.ranking), ("-image-tasks", table.image_ranking)):
            if ranking is not None:
                over = kind.replace("-", " ")
                made[f"mean-ranks{kind}"] = (f"mean ranks{over}", mean_ranks(table, ranking))
                made[f"critical-difference{kind}"] = (
                    f"critical difference{over}",
                    critical_difference(table, ranking),
                )
        for one in series(table):
            made[f"label-efficiency-{one.file}"] = (
                f"{one.name}, label efficiency",
                label_efficiency(table, one),
            )
            made[f"per-class-{one.file}"] = (f"{one.name}, by class", per_class(table, one, board.records))
        for name, (title, figure) in made.items():
            if figure is not None:
                yield f"{table.name}/{name}", f"{table.name}: {title}", figure
