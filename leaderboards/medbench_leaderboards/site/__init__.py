"""The leaderboards as a static site: one folder that opens from disk, with no server and nothing from elsewhere.

Pages are made by the templates beside this file, which escape every name and text that they are given.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from medbench.results import Results
from medbench_leaderboards.board import Board, build
from medbench_leaderboards.published import Verdict, verdicts
from medbench_leaderboards.site.method import method, methods
from medbench_leaderboards.site.names import OVERVIEW, PUBLISHED, method_page, record_page, task_page
from medbench_leaderboards.site.overview import overview
from medbench_leaderboards.site.pictures import pictures
from medbench_leaderboards.site.published import published
from medbench_leaderboards.site.record import record
from medbench_leaderboards.site.shown import FIDELITY, MARKS, first_upper
from medbench_leaderboards.site.task import task

FOLDER = Path(__file__).parent
ASSETS = ("style.css", "board.js")

RECORD_PAGES: Final = 20_000
"""Records up to which each has a page; of more, these many have one, those whose ids come first."""


def html(results: Results) -> Mapping[str, bytes]:
    """The site of a results folder: files by path relative to the site's folder; the first page is `index.html`."""
    board = build(results)
    return site(board, verdicts(board))


def site(board: Board, published_rows: Sequence[Verdict]) -> dict[str, bytes]:
    """The site of a board.

    Args:
        board: what is shown.
        published_rows: published numbers beside ours; without any there is no page of them.
    """
    pages = _Pages(has_published=bool(published_rows))
    paged = sorted(board.brief)[:RECORD_PAGES]
    links = {cell_id: record_page(board.brief[cell_id]) for cell_id in paged}
    tasks: dict[tuple[int, str], str] = {}
    for table in board.tables:
        for name in dict.fromkeys(column.task for column in table.columns):
            link = task_page(table.name, name)
            pages.add(link, "task.html", task(board, links, table, name))
            tasks |= {(id(table), name): link}
    of_cell = {
        seed.cell_id: (tasks[id(table), column.task], column.trains)
        for table in board.tables
        for column in table.columns
        for row in table.rows
        if (cell := table.cells.get((row.key, column.key))) is not None
        for seed in cell.seeds
    }
    known = methods(board)
    for name, rows in known.items():
        pages.add(method_page(name), "method.html", method(links, name, rows))
    for cell_id in paged:
        one = board.records[cell_id]
        task_link, trains = of_cell.get(cell_id, ("", True))
        values = record(one, board.paths.get(cell_id, ""), board.base, task_link, trains)
        values["has_method_page"] = one.identity.method in known
        pages.add(links[cell_id], "record.html", values)
    if published_rows:
        pages.add(PUBLISHED, "published.html", published(board, published_rows))
    drawn = pictures(board)
    pages.add(OVERVIEW, "overview.html", overview(board, links, drawn))
    files = {picture.path: picture.content for own in drawn.values() for picture in own}
    return pages.files | files | {name: (FOLDER / name).read_bytes() for name in ASSETS}


class _Pages:
    """Pages so far, and the templates, each compiled once."""

    def __init__(self, has_published: bool) -> None:
        self.files: dict[str, bytes] = {}
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,  # else every page looks whether a file has changed
        )
        self._templates.filters |= {"ticks": _ticks, "first_upper": first_upper}
        self._templates.globals |= {
            "has_published": has_published,
            "overview_page": OVERVIEW,
            "published_page": PUBLISHED,
            "fidelities": FIDELITY,
            "marks": MARKS,
        }

    def add(self, path: str, template: str, values: Mapping[str, Any]) -> None:
        """Make a page."""
        root = "../" * path.count("/")
        text = self._templates.get_template(template).render(values, root=root, page=path)
        # Half of a surrogate pair, which JSON can hold, is no text; it becomes a question mark.
        self.files[path] = text.encode("utf-8", "replace")


def _ticks(text: str) -> Markup:
    """What stands between backticks as code; all of it escaped."""
    plain = str(escape(text))  # re.sub would join pieces of Markup by escaping what it puts between them
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", plain))
