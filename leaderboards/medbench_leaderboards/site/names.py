"""Names of the site's files.

What plugins and records are called is anybody's text: a file's name keeps its letters and digits and adds a hash, so
that two of them never meet and none leads out of the folder. All links are relative to the site's root; a page says
by `root` how it gets there.
"""

import re

from medbench.records import Record, fraction_name, sha256_json

OVERVIEW, PUBLISHED = "index.html", "published.html"


def method_page(method: str) -> str:
    """The page of a method, all configurations."""
    return _page("methods", method, key=[method])


def task_page(table: str, task: str) -> str:
    """The page of a task in one table."""
    return _page("tasks", f"{table} {task}", key=[table, task])


def record_page(record: Record) -> str:
    """The page of a record."""
    identity = record.identity
    seed = "any" if identity.seed is None else f"s{identity.seed}"
    about = f"{identity.method} {identity.task} {fraction_name(identity.fraction)} {seed}"
    return _page("records", about, key=[record.cell_id])


def picture_file(table: str, name: str) -> str:
    """A picture of a table."""
    return _file("pictures", f"{table} {name}", [table, name], "svg")


def anchor(*key: str) -> str:
    """An id within a page."""
    return "x" + sha256_json(key)[:12]


def _page(folder: str, about: str, key: list[str]) -> str:
    return _file(folder, about, key, "html")


def _file(folder: str, about: str, key: list[str], ending: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", about.lower())[:60].strip("-")
    return f"{folder}/{words or 'page'}-{sha256_json(key)[:12]}.{ending}"
