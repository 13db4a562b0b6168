"""Pictures of a board: SVG for pages, PNG for what shows no SVG. Matplotlib is imported when they are drawn."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from medbench_leaderboards.board import Board, Table, build
from medbench_leaderboards.wording import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medbench.records import Record
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
    for table in board.tables:
        for name, title, drawing in drawings(table, board.records):
            if (figure := drawing()) is not None:
                yield f"{table.name}/{name}", f"{table.name}: {title}", figure


def drawings(
    table: Table, records: "Mapping[str, Record]"
) -> Iterator[tuple[str, str, "Callable[[], Figure | None]"]]:
    """Name, title, and what draws it, None where there is nothing to draw; of all pictures of a table."""
    from medbench_leaderboards.plots.critical_difference import critical_difference
    from medbench_leaderboards.plots.heat_map import heat_map
    from medbench_leaderboards.plots.label_efficiency import label_efficiency
    from medbench_leaderboards.plots.mean_ranks import mean_ranks
    from medbench_leaderboards.plots.per_class import per_class
    from medbench_leaderboards.plots.series import series

    table = _plain(table)
    yield "heat-map", "every task, every method", partial(heat_map, table)
    for kind, ranking in (("", table.ranking), ("-image-tasks", table.image_ranking)):
        if ranking is not None:
            over = kind.replace("-", " ")
            yield f"mean-ranks{kind}", f"mean ranks{over}", partial(mean_ranks, table, ranking)
            yield (
                f"critical-difference{kind}",
                f"critical difference{over}",
                partial(critical_difference, table, ranking),
            )
    for one in series(table):
        yield (
            f"label-efficiency-{one.file}",
            f"{one.name}, label efficiency",
            partial(label_efficiency, table, one),
        )
        yield f"per-class-{one.file}", f"{one.name}, by class", partial(per_class, table, one, records)


def _plain(table: Table) -> Table:
    """The same with names that can be set: no font has control characters or halves of characters."""
    return replace(
        table,
        recipe=plain(table.recipe),
        rows=tuple(replace(row, name=plain(row.name), fidelity=plain(row.fidelity)) for row in table.rows),
        columns=tuple(
            replace(column, task=plain(column.task), metric=plain(column.metric)) for column in table.columns
        ),
    )
