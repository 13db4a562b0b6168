"""What mkdocs does with the pages beside building them: the reference is filled in, links out of docs/ are kept."""

import posixpath
import re
from pathlib import Path
from typing import Any

from surface import promised

REPOSITORY = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The text of a page before it is built."""
    if page.file.src_uri == "reference.md":
        markdown += reference((REPOSITORY / "docs" / "api.md").read_text())
    return links(markdown, posixpath.dirname(page.file.src_uri), config.repo_url)


def reference(page: str) -> str:
    """Directives of mkdocstrings for what a page promises: whole modules, or single names of them."""
    lines = []
    for module, names in promised(page).items():
        wanted = [module] if names is None else [f"{module}.{name}" for name in sorted(names)]
        lines += [f"\n## `{module}`\n", *(f"\n::: {name}\n" for name in wanted)]
    return "".join(lines)


def links(markdown: str, folder: str, repository: str | None) -> str:
    """Links to files of the repository that are no page, at its address; where that is not known, their text alone."""

    def mended(link: re.Match[str]) -> str:
        text, target = link[1], posixpath.normpath(posixpath.join("docs", folder, link[2]))
        if target.startswith("docs/") or not (REPOSITORY / target).exists():
            return link[0]
        return f"[{text}]({repository}/blob/main/{target}{link[3] or ''})" if repository else text

    return re.sub(r"\[([^\]]+)\]\(((?:\.\./)+[^)#:]*)(#[^)]*)?\)", mended, markdown)
