"""The command that computes a cell, or why there is none."""

import ast
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from medbench.errors import MedbenchError
from medbench.overrides import apply_overrides
from medbench.plugins import Catalogue, declared
from medbench.records import Identity
from medbench.weights import config_json


def command(
    row: Identity,
    column: Identity,
    trains: bool,
    seeds: Sequence[int],
    split: str = "",
    overrides: Mapping[str, str] | None = None,
) -> str:
    """What to type; words in capitals are the user's own paths.

    Names are quoted for a shell where they need it: those of a record are anybody's text.

    Args:
        row: of a record of the row: method, recipe, precision, weights.
        column: of a record of the column: task, fraction, data.
        trains: whether the task has label fractions.
        seeds: that are lacking; none where the result depends on no seed.
        split: to be asked for, see `named_split`.
        overrides: of the recipe, see `changed`.
    """
    words = ["medbench", "run", "--method", row.method, "--task", column.task]
    if trains:
        words += ["--fraction", f"{column.fraction:g}"]
    if seeds:
        words += ["--seed", ",".join(map(str, seeds))]
    words += ["--recipe", row.recipe, "--precision", row.precision]
    if split:
        words += ["--split", split]
    for name, text in (overrides or {}).items():
        words += ["--set", f"{name}={text}"]
    corpus = row.weights.corpus
    on_phantom = corpus is not None and corpus.source == "phantom"
    if column.source == "real" or (column.source == "mixed" and on_phantom):
        words += ["--data", f"{column.dataset}=DIR"]
    if row.weights.kind == "checkpoint":
        words += ["--checkpoint", "PATH"]
    elif corpus is not None and corpus.source == "real":
        named = (
            ["table:FILE"]
            if corpus.dataset == "table"
            else [corpus.dataset, "--data", f"{corpus.dataset}=DIR"]
        )
        words += ["--corpus", *named]
    elif column.source == "mixed":
        words += ["--corpus", "phantom"]
    return shlex.join(words)


def unserved(catalogue: Catalogue, method: str, task: str) -> str:
    """Why a method can not be run on a task: what its model does not give; "" where it can, or one is not installed."""
    ours, asked = catalogue.methods.get(method), catalogue.tasks.get(declared(task))
    lacking = sorted(asked.needs - ours.provides) if ours is not None and asked is not None else []
    return f"{method} provides no {', '.join(lacking)}, which {task} needs" if lacking else ""


def without_text(catalogue: Catalogue, task: str) -> bool:
    """Whether an image encoder alone can be run on a task; of one that is not installed nobody knows."""
    spec = catalogue.tasks.get(declared(task))
    return spec is not None and all(need.startswith("image.") for need in spec.needs)


def named_split(catalogue: Catalogue, column: Identity) -> str:
    """The split of a column, where it is not the one that its task takes by itself; else ""."""
    if column.split.startswith("lists:"):
        return "lists:DIR"
    spec = catalogue.tasks.get(declared(column.task))
    return "" if spec is None or column.split == spec.given.get("split", column.split) else column.split


def changed(catalogue: Catalogue, row: Identity) -> tuple[dict[str, str], str]:
    """What a row has set otherwise than its recipe: "method.FIELD" -> as typed behind `--set`; and why it can not be.

    Nothing of a checkpoint, which brings its settings, and of a method that is not installed.
    """
    if row.weights.kind == "checkpoint" or row.method not in catalogue.methods:
        return {}, ""
    try:
        recipe = catalogue.load("methods", row.method).recipes.get(row.recipe)
        if recipe is None:
            return {}, f"{row.method} has no recipe `{row.recipe}` here"
        wanted = {"method": row.method_config, "pretrain": row.pretrain_config or {}}
        texts = {
            f"{section}.{name}": _typed(value)
            for section, config in (("method", recipe.config), ("pretrain", recipe.pretrain))
            if wanted[section]
            for name, value in _different(config, wanted[section]).items()
        }
        made = apply_overrides(recipe, texts, row.method) if texts else recipe
        if not any(
            _different(c, wanted[s]) for s, c in (("method", made.config), ("pretrain", made.pretrain))
        ):
            return texts, ""
    except MedbenchError:
        pass
    return {}, f"settings of {row.method} that its recipe `{row.recipe}` here does not have, see its records"


def _different(config: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Values that a config does not have."""
    if not wanted:
        return {}
    plain = {field.name: getattr(config, field.name) for field in fields(config)} | config_json(config)
    return {name: value for name, value in wanted.items() if name not in plain or plain[name] != value}


def _typed(value: Any) -> str:
    """A word as it is, unless it would be read as something else."""
    if not isinstance(value, str):
        return repr(value)
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return repr(value) if value.lower() in ("true", "false", "none") else value
    return repr(value)
