"""What the source of a config class says of each field."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass

_ATTRIBUTE = re.compile(r"^    (\w[\w, ]*): ", re.MULTILINE)
"""In a docstring: an entry of the section `Attributes`."""


def field_docs(config: type) -> dict[str, str]:
    """The text of each field of a dataclass, on one line; "" where there is none.

    A field's text is the string below it, or its entry under `Attributes` in the docstring of its class. The text of
    the class nearest to `config` counts, as its default does.
    """
    found: dict[str, str] = {}
    for part in reversed(config.__mro__):
        if is_dataclass(part):
            found |= _own(part)
    return {field.name: found.get(field.name, "") for field in fields(config)}


def _own(config: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    section = (ast.get_docstring(tree) or "").partition("\nAttributes:\n")[2]
    section = re.split(r"^\S", section, maxsplit=1, flags=re.MULTILINE)[0]  # up to the next one
    parts = _ATTRIBUTE.split(section)[1:]  # names, text, names, text, ...
    texts = {
        name: text for names, text in zip(parts[::2], parts[1::2], strict=True) for name in names.split(", ")
    }
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    texts.setdefault(node.target.id, text)
    return {name: " ".join(text.split()) for name, text in texts.items()}
