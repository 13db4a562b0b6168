"""What is known of a name, in words, for `medbench list` and `medbench info`. Only a recipe imports a target."""

import ast
import textwrap
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from medbench.errors import UsageError, did_you_mean
from medbench.field_docs import field_docs
from medbench.plugins import GROUP, KINDS, Catalogue, Kind
from medbench.specs import DatasetSpec, LeaderboardSpec, MethodSpec, Spec, TaskSpec
from medbench.terminal import printable

if TYPE_CHECKING:
    from medbench.data.cache import Held


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Plain columns, left-aligned, headed by the keys of the first row."""
    lines = [list(rows[0]), *(list(map(printable, row.values())) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def rows(catalogue: Catalogue, kind: Kind) -> list[dict[str, str]]:
    """One row a name, for `table`."""
    return [
        {"name": name, **_short(spec), "summary": spec.summary, "from": str(catalogue.owner(kind, name))}
        for name, spec in catalogue.specs(kind).items()
    ]


def dataset_rows(catalogue: Catalogue) -> list[dict[str, str]]:
    """One row a dataset, with what a user has to know to get it."""
    return [
        {
            "name": name,
            "images": f"{spec.official_size:,}" if spec.official_size is not None else "-",
            "reports": "yes" if spec.paired else "no",
            "phantom": "yes" if spec.phantom else "no",
            "credentialed": "yes" if spec.credentialed else "no",
            "licence": spec.licence,
            "access": spec.access or "-",
        }
        for name, spec in catalogue.datasets.items()
    ]


def prepared_rows(entries: "Sequence[Held]") -> list[dict[str, str]]:
    """One row a folder of the prepared cache."""
    return [
        {
            "key": entry.folder.name,
            "dataset": entry.dataset,
            "films": f"{entry.films:,} at {entry.side} px, {entry.fit}" if entry.side else "",
            "size": f"{entry.bytes / 1e9:,.2f} GB",
            "state": f"{entry.state}: {entry.why}" if entry.why else entry.state,
        }
        for entry in entries
    ]


def _short(spec: Spec) -> dict[str, str]:
    if isinstance(spec, MethodSpec):
        return {"fidelity": spec.fidelity}
    if isinstance(spec, TaskSpec):
        return {"dataset": spec.dataset, "metric": spec.primary_metric}
    if isinstance(spec, DatasetSpec):
        return {"pairs": "yes" if spec.paired else "no", "phantom": "yes" if spec.phantom else "no"}
    return {"format": spec.format} if isinstance(spec, LeaderboardSpec) else {}


def kinds_of(catalogue: Catalogue, name: str) -> list[Kind]:
    """The kinds in which this name is declared.

    Raises:
        UsageError: none.
    """
    found: list[Kind] = [k for k in KINDS if name in catalogue.specs(k) or (k, name) in catalogue.duplicates]
    if not found:
        names = sorted({known for kind in KINDS for known in catalogue.specs(kind)})
        hint = did_you_mean(name, names)
        raise UsageError(f"Nothing is called {name!r}.{hint} Known: {', '.join(names) or 'nothing'}.")
    return found


def about(catalogue: Catalogue, kind: Kind, name: str) -> str:
    """What is declared of a name, where its code is, and what that says of itself, without importing it."""
    spec, owner = catalogue.lookup(kind, name), catalogue.owner(kind, name)
    place, doc = _source(spec.target)
    lines = {
        kind[:-1]: spec.name,
        "summary": spec.summary,
        "from": str(owner),
        **_declared(spec),
        "reference": spec.reference,
        "code": spec.target,
        "file": place,
    }
    if owner.name == GROUP:
        lines["page"] = (
            f"docs/{kind}/{spec.name}.md" if kind in ("methods", "datasets") else f"docs/{kind}.md"
        )
    text = "\n".join(f"{key + ':':<14}{value}" for key, value in lines.items())
    return f"{text}\n\n{doc}" if doc else text


def _declared(spec: Spec) -> dict[str, str]:
    if isinstance(spec, MethodSpec):
        return {
            "fidelity": spec.fidelity,
            "pretrained": "yes" if spec.pretrains else "no",
            "provides": ", ".join(sorted(spec.provides)),
        }
    if isinstance(spec, TaskSpec):
        return {
            "dataset": spec.dataset,
            "needs": ", ".join(sorted(spec.needs)),
            "metric": f"{spec.primary_metric} ({'higher' if spec.higher_is_better else 'lower'} is better)",
            "version": str(spec.version),
            **{name: str(value) for name, value in spec.given.items()},
            "fractions": ", ".join(f"{100 * fraction:g}%" for fraction in spec.fractions) or "none",
        }
    if isinstance(spec, DatasetSpec):
        return {
            "licence": spec.licence,
            "access": spec.access or "yours",
            "images": f"{spec.official_size:,}" if spec.official_size is not None else "any number",
            "reports": "yes" if spec.paired else "no",
            "phantom": ", ".join(f"{n:,} patients ({size})" for size, n in spec.phantom_patients.items())
            or "no",
        }
    return {"format": spec.format} if isinstance(spec, LeaderboardSpec) else {}


def _source(target: str) -> tuple[str, str]:
    """File and line of a target, and its docstring."""
    module, _, attribute = target.partition(":")
    try:
        found = find_spec(module)
    except ImportError as error:
        return f"not found ({error})", ""
    if found is None or found.origin is None:
        return f"not found (there is no module {module})", ""
    for node in ast.parse(Path(found.origin).read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return f"{found.origin}:{node.lineno}", ast.get_docstring(node) or ""
    return f"{found.origin} (where {attribute} is not defined itself)", ""


def recipe_fields(catalogue: Catalogue, kind: Kind, name: str, recipe: str) -> str:
    """Every field of a method or task at a recipe, with what is known of it; a method's as `--set` names them.

    Raises:
        UsageError: there is no such recipe.
    """
    if kind == "methods":
        recipes = catalogue.load(kind, name).recipes
        if recipe not in recipes:
            raise UsageError(f"{name} has no recipe {recipe!r}; it has {', '.join(recipes)}.")
        configs = {"method": recipes[recipe].config, "pretrain": recipes[recipe].pretrain}
    elif kind == "tasks":
        configs = {"task": catalogue.make_task(catalogue.lookup_task(name), recipe).config}
    else:
        raise UsageError(f"--recipe: a {kind[:-1]} has none.")
    lines = [
        f"  {section}.{name} = {getattr(config, name)!r}{_below(text)}"
        for section, config in configs.items()
        if config is not None
        for name, text in field_docs(type(config)).items()
    ]
    return "\n".join([f"recipe {recipe}:", *lines])


def _below(text: str) -> str:
    """Words below a field; nothing where there are none."""
    indent = " " * 6
    return textwrap.fill(text, 110, initial_indent=f"\n{indent}", subsequent_indent=indent) if text else ""
