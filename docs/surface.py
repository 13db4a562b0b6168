"""The public surface of medbench, from its source: what docs/api.md promises, a line each.

    python docs/surface.py            prints what has changed since docs/api.txt was written
    python docs/surface.py --write    announces it: writes docs/api.txt anew

A name that goes has to have been marked `@deprecated("...")` in the surface that was announced before, and the number
of the API is raised with it; else nothing is written.
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PAGE = Path(__file__).with_name("api.md")
SNAPSHOT = Path(__file__).with_name("api.txt")

ALL = "all"
"""What the page says of a module whose names are all promised."""


@dataclass(frozen=True)
class Surface:
    """What is promised.

    Attributes:
        version: of the API.
        lines: declaration by full name, in the order of the source.
    """

    version: int
    lines: Mapping[str, str]

    @classmethod
    def read(cls, text: str) -> "Surface":
        """As `str` wrote it."""
        first, *lines = text.splitlines()
        return cls(
            int(first.removeprefix("API ")),
            {re.split(r"[(:\s]", line, maxsplit=1)[0]: line for line in lines},
        )

    def __str__(self) -> str:
        return "\n".join([f"API {self.version}", *self.lines.values(), ""])


@dataclass(frozen=True)
class Change:
    """From one surface to the next: lines that came, that went, and that are others now (before, after)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[tuple[str, str], ...]

    @classmethod
    def between(cls, before: Surface, after: Surface) -> "Change":
        """What has changed."""
        old, new = before.lines, after.lines
        return cls(
            tuple(line for name, line in new.items() if name not in old),
            tuple(line for name, line in old.items() if name not in new),
            tuple((old[name], line) for name, line in new.items() if name in old and old[name] != line),
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        lines = [*(f"+ {line}" for line in self.added), *(f"- {line}" for line in self.removed)]
        return "\n".join(lines + [f"- {before}\n+ {after}" for before, after in self.changed])


def promised(page: str) -> dict[str, frozenset[str] | None]:
    """What the page promises: by module the names, None for all of them."""
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", page, flags=re.MULTILINE)
    return {
        module: None if names.strip() == ALL else frozenset(re.findall(r"`(\w+)`", names))
        for module, names in rows
    }


def surface(page: str) -> Surface:
    """The surface of the code that is installed, as far as the page promises it.

    Raises:
        LookupError: the page promises a name that is not there.
    """
    from medbench import API_VERSION  # not needed to read what is promised, as the site does

    lines: dict[str, str] = {}
    for module, names in promised(page).items():
        found = find_spec(module)
        if found is None or found.origin is None:
            raise LookupError(f"docs/api.md promises the module {module}, and there is none.")
        tree = ast.parse(Path(found.origin).read_text())
        own = dict(declared(tree, module))
        if missing := (names or frozenset()) - {name.removeprefix(f"{module}.") for name in own}:
            raise LookupError(
                f"docs/api.md promises {', '.join(sorted(missing))} of {module}, which does not have it."
            )
        lines |= {
            name: line
            for name, line in own.items()
            if names is None or name.removeprefix(f"{module}.").split(".")[0] in names
        }
    return Surface(API_VERSION, lines)


def declared(tree: ast.Module | ast.ClassDef, inside: str) -> Iterator[tuple[str, str]]:
    """Public functions, classes, fields and constants of a module or class, with their declarations."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name, marks = node.name, "".join(f"  @{ast.unparse(mark)}" for mark in node.decorator_list)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, marks = node.target.id, ""
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, marks = node.targets[0].id, ""
        else:
            continue
        full = f"{inside}.{name}"
        if name.startswith("_") and name != "__init__":
            continue
        if isinstance(node, ast.FunctionDef):
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            yield full, f"{full}({ast.unparse(node.args)}){returns}{marks}"
        elif isinstance(node, ast.ClassDef):
            yield full, f"{full}({', '.join(map(ast.unparse, node.bases))}){marks}"
            yield from declared(node, full)
        elif isinstance(node, ast.AnnAssign):
            yield full, f"{full}: {ast.unparse(node.annotation)}{_value(node, tree)}"
        else:
            yield full, f"{full}{_value(node, tree)}"


def _value(node: ast.Assign | ast.AnnAssign, inside: ast.Module | ast.ClassDef) -> str:
    """What is assigned: of a field, where it is the default, and of a type. The value of a constant may change."""
    told = isinstance(inside, ast.ClassDef) or isinstance(node.value, ast.Subscript)
    return f" = {ast.unparse(node.value)}" if told and node.value is not None else ""


def refusal(before: Surface, after: Surface) -> str:
    """Why a change may not be announced; "" if it may."""
    removed = Change.between(before, after).removed
    sudden = [line for line in removed if "@deprecated(" not in line]
    if sudden:
        return (
            "These names were promised and go without a warning:\n"
            + "\n".join(sudden)
            + '\nKeep them, marked @deprecated("what to use instead"), for one release (docs/api.md).'
        )
    if removed and after.version <= before.version:
        return f"Names go, so API_VERSION in benchmark/medbench/__init__.py has to be more than {before.version}."
    return ""


def main(write: bool) -> int:
    """Print what has changed and, where that is asked for and may be, announce it; the exit code."""
    before, after = Surface.read(SNAPSHOT.read_text()), surface(PAGE.read_text())
    print(Change.between(before, after) or "docs/api.txt is what the code says")
    if why := refusal(before, after):
        print(why, file=sys.stderr)
        return 1
    if write:
        SNAPSHOT.write_text(str(after))
    return 0


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
