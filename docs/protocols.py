"""Writes docs/protocols.md: every protocol with its numbers, from the tasks that are declared and their configurations.

python docs/protocols.py
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from medbench.field_docs import field_docs
from medbench.plugins import Catalogue, load_catalogue
from medbench.specs import TaskSpec

PAGE = Path(__file__).with_name("protocols.md")
RECIPES = ("tiny", "paper")

HEAD = """# Protocols

Every number of every protocol, as the code has it: `python docs/protocols.py` writes this page, and a test holds it
against the code. What the protocols do and why is in [tasks.md](tasks.md) and the pages below it. All methods are
measured by the same numbers; they go into each record.
"""


def protocols(catalogue: Catalogue) -> dict[str, list[TaskSpec]]:
    """Tasks of a protocol and variant, by what their names have after the dataset's: `lp`, `det@mgca`."""
    found: dict[str, list[TaskSpec]] = {}
    for name, spec in catalogue.tasks.items():
        protocol = name.split(":")[0] if spec.family else name.removeprefix(f"{spec.dataset}_")
        found.setdefault(protocol, []).append(spec)
    return dict(sorted(found.items()))


def page(catalogue: Catalogue) -> str:
    """The whole page."""
    sections = [HEAD, *(section(name, specs, catalogue) for name, specs in protocols(catalogue).items())]
    return "\n".join(sections)


def section(protocol: str, specs: Sequence[TaskSpec], catalogue: Catalogue) -> str:
    """One protocol: who uses it, and its fields."""
    first = specs[0]
    fractions = ", ".join(f"{100 * fraction:g} %" for fraction in first.fractions) or "nothing is trained"
    lines = [
        f"## `{protocol}`",
        "",
        f"- tasks: {', '.join(f'`{spec.name}`' for spec in specs)}",
        f"- code: `{first.target}`",
        f"- needs: {', '.join(f'`{need}`' for need in sorted(first.needs))}",
        f"- primary metric: {', '.join(sorted({f'`{spec.primary_metric}`' for spec in specs}))}",
        f"- label fractions: {fractions}",
        "",
        f"| field | {' | '.join(f'`{recipe}`' for recipe in RECIPES)} | what |",
        f"|---|{'---|' * (len(RECIPES) + 1)}",
    ]
    configs = {r: {spec.name: catalogue.make_task(spec, r).config for spec in specs} for r in RECIPES}
    return "\n".join([*lines, *rows(configs), ""])


def rows(configs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A row a field, from configs by recipe and task."""
    some = next(iter(configs[RECIPES[0]].values()))
    for name, text in field_docs(type(some)).items():
        cells = [value({task: shown(getattr(c, name)) for task, c in configs[r].items()}) for r in RECIPES]
        yield f"| `{name}` | {' | '.join(cells)} | {_cell(text)} |"


def value(by_task: Mapping[str, str]) -> str:
    """One value, or each with the tasks that have it where they differ."""
    tasks: dict[str, list[str]] = {}
    for task, text in by_task.items():
        tasks.setdefault(text, []).append(task)
    if len(tasks) == 1:
        return _cell(*tasks)
    return "<br>".join(
        f"{_cell(text)} ({', '.join(f'`{t}`' for t in names)})" for text, names in tasks.items()
    )


def shown(given: Any, inside: bool = False) -> str:
    """A value in words: of a config within a config its fields, of several of them each after the other."""
    if is_dataclass(given):
        return ", ".join(f"{f.name} {shown(getattr(given, f.name), True)}" for f in fields(given))
    if isinstance(given, Mapping):
        return ", ".join(f"{name}: {shown(one, True)}" for name, one in given.items())
    if isinstance(given, tuple | list):
        text = ("; " if any(map(is_dataclass, given)) else ", ").join(shown(one, True) for one in given)
        return f"[{text}]" if inside else text
    if isinstance(given, bool):
        return "yes" if given else "no"
    return f"{given:g}" if isinstance(given, float) else "none" if given is None else str(given)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") or " "


if __name__ == "__main__":
    PAGE.write_text(page(load_catalogue(third_party=False)))
