"""Nested values as a folded table.

There are hundreds of lines a record, most of them the same in many: they are put together here, not by a template.
"""

import json
from collections.abc import Mapping
from functools import lru_cache
from html import escape
from typing import Any

from markupsafe import Markup


def fields(value: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every value of a JSON object with its path, as in ("weights.corpus.dataset", "rsna"), in the order that is found.

    Lists of plain values are one line; empty objects and lists are one, too.
    """
    lines: list[tuple[str, str]] = []
    for key, inner in value.items():
        _add(str(key), inner, lines)
    return lines


def folded(heading: str, anchor: str, value: Mapping[str, Any] | None) -> Markup:
    """The same as HTML, folded under a heading; empty where there is nothing.

    Args:
        heading: what it is.
        anchor: an id that the page has only once.
        value: what JSON can hold.
    """
    return _folded(heading, anchor, json.dumps(value)) if value else Markup()


@lru_cache(maxsize=4096)
def _folded(heading: str, anchor: str, text: str) -> Markup:
    lines = fields(json.loads(text))
    rows = [f'<tr><th scope="row">{escape(path)}</th><td>{escape(value)}</td></tr>' for path, value in lines]
    region = (
        f'<div class="scroll" role="region" aria-labelledby="{anchor}" tabindex="0"><table class="fields">'
    )
    return Markup(
        "\n".join(
            [
                f"<details><summary>{escape(heading)} ({len(lines)})</summary>",
                f'{region}<caption id="{anchor}"><span>{escape(heading)}</span></caption>',
                '<thead><tr><th scope="col">field</th><th scope="col">value</th></tr></thead><tbody>',
                *rows,
                "</tbody></table></div></details>",
            ]
        )
    )


def _add(path: str, value: Any, lines: list[tuple[str, str]]) -> None:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            _add(f"{path}.{key}", inner, lines)
    elif isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        for place, inner in enumerate(value):
            _add(f"{path}.{place}", inner, lines)
    elif isinstance(value, str):
        lines.append((path, value))
    else:
        lines.append((path, json.dumps(value, ensure_ascii=False)))
