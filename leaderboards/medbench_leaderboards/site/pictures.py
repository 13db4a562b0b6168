"""The pictures of the overview: those that `plots` draws, as files of the site, so that it is whole without `plots`."""

from collections.abc import Iterator
from dataclasses import dataclass

from medbench_leaderboards.board import Board, Table
from medbench_leaderboards.site.names import picture_file

LEGIBLE = 40
"""Methods in a picture at most: of more nobody could read the names on a screen, and drawing them takes long."""

SHOWN = ("heat-map", "mean-ranks", "critical-difference", "label-efficiency")
"""How the names of the pictures begin that are shown."""


@dataclass(frozen=True)
class Picture:
    """An SVG file.

    Attributes:
        path: relative to the site's folder.
        title: what it shows.
        curves: whether it is of one task alone: these are many, and folded away.
        width, height: in pixels.
        content: of the file.
    """

    path: str
    title: str
    curves: bool
    width: int
    height: int
    content: bytes


def pictures(board: Board) -> dict[str, list[Picture]]:
    """By table."""
    return {table.name: list(_pictures(board, table)) for table in board.tables}


def _pictures(board: Board, table: Table) -> Iterator[Picture]:
    if len(table.rows) > LEGIBLE:
        return
    from medbench_leaderboards.plots import drawings
    from medbench_leaderboards.plots.style import house_style, svg

    with house_style():
        for name, title, draw in drawings(table, board.records):
            made = draw() if name.startswith(SHOWN) else None
            if made is None:
                continue
            wide, high = made.get_size_inches()
            yield Picture(
                path=picture_file(table.name, name),
                title=title,
                curves=name.startswith("label-efficiency"),
                width=round(96 * wide),
                height=round(96 * high),
                content=svg(made, f"{table.name}: {title}"),
            )
