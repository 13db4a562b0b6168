"""`--set method.temperature=0.1 --set pretrain.epochs=3`: fields of a recipe, checked against its dataclasses."""

import ast
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from medbench.errors import UsageError, did_you_mean
from medbench.method import Recipe


def apply_overrides(recipe: Recipe, overrides: Mapping[str, str], method: str) -> Recipe:
    """The recipe with these fields changed.

    Args:
        recipe: of a method.
        overrides: "method.FIELD" or "pretrain.FIELD" -> the value as typed.
        method: name for messages.

    Raises:
        UsageError: an unknown section or field, a value of the wrong type, or `pretrain.*` for a method that is not
            pretrained. Fields of a task can not be set: a task is the same for every method.
    """
    # All at once, because fields may depend on each other.
    changed: dict[str, dict[str, Any]] = {"method": {}, "pretrain": {}}
    for key, text in overrides.items():
        section, _, name = key.partition(".")
        if section not in changed:
            raise UsageError(
                f"--set {key}: expected method.FIELD or pretrain.FIELD. The protocol belongs to the task and is the "
                "same for every method, so it can not be set here."
            )
        config = recipe.config if section == "method" else recipe.pretrain
        if config is None:
            raise UsageError(f"--set {key}: {method} is not pretrained, so it has no pretrain fields.")
        changed[section][name] = _read(config, name, text, key)
    config = replace(recipe.config, **changed["method"]) if changed["method"] else recipe.config
    pretrain = recipe.pretrain
    if pretrain is not None:
        pretrain = replace(pretrain, **changed["pretrain"])
    return replace(recipe, config=config, pretrain=pretrain)


def _read(config: Any, name: str, text: str, key: str) -> Any:
    """The value that `text` stands for, of the type of the field."""
    hints = get_type_hints(type(config))
    known = [f.name for f in fields(config)] if is_dataclass(config) else []
    if name not in known:
        hint = did_you_mean(name, known)
        raise UsageError(f"--set {key}: no such field.{hint} Fields: {', '.join(known)}.")
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # not a literal: a word
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    try:
        return TypeAdapter(hints[name]).validate_python(value)
    except ValidationError as error:
        raise UsageError(
            f"--set {key}={text}: {error.errors()[0]['msg']} (a {hints[name]} is expected)."
        ) from None
