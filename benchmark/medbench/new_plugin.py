"""A package for a method, a task or a dataset of one's own, written from templates. It works as it is written.

Files of `templates/plugin/` are in every package, those of `templates/KIND/` beside them. `PACKAGE` in a path and
`$words` in a text are filled in.
"""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Final

from medbench import __version__
from medbench.errors import UsageError, did_you_mean
from medbench.plugins import KINDS, Catalogue

TEMPLATES: Final = Path(__file__).parent / "templates"
SUFFIX: Final = ".template"

FIRST_USE: Final = {
    "method": "medbench run --method {name} --task rsna_lp",
    "task": "medbench run --method random,clip --task {name}",
    "dataset": "medbench data verify {name} --data {name}=DIR",
}
"""What there is to do with a package once it is installed, by kind."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def write_plugin(kind: str, name: str, folder: Path | None, catalogue: Catalogue) -> Path:
    """Write the package.

    Args:
        kind: of `FIRST_USE`.
        name: of the method, task or dataset.
        folder: where to; None for `medbench-NAME` in the current one.
        catalogue: whose names are taken.

    Returns:
        The folder.

    Raises:
        UsageError: there is no such kind, the name can not be one or is taken, or the folder is there already.
    """
    if kind not in FIRST_USE:
        hint = did_you_mean(kind, FIRST_USE)
        raise UsageError(f"Unknown kind {kind!r}.{hint} A plugin is made for a {', '.join(FIRST_USE)}.")
    _check_name(name, catalogue)
    words = {
        "kind": kind,
        "name": name,
        "package": package(name),
        "distribution": package(name).replace("_", "-"),
        "camel": "".join(part.capitalize() for part in name.split("_")),
        "first_use": FIRST_USE[kind].format(name=name),
        "version": __version__,
    }
    folder = folder or Path(words["distribution"])
    if folder.exists():
        raise UsageError(f"{folder.absolute()} is there already. Name a folder that is not, with --out DIR.")
    for source in (TEMPLATES / "plugin", TEMPLATES / kind):
        for path in sorted(source.rglob(f"*{SUFFIX}")):
            inside = str(path.relative_to(source)).removesuffix(SUFFIX).replace("PACKAGE", words["package"])
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(path.read_text()).substitute(words))
    return folder


def package(name: str) -> str:
    """The import package of a method, task or dataset."""
    return f"medbench_{name}"


def _check_name(name: str, catalogue: Catalogue) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        why = "a word of Python itself" if keyword.iskeyword(name) else "no name for the command line"
        raise UsageError(
            f"{name!r} is {why}; expected lower case letters, digits and underscores, a letter first, as in my_method."
        )
    for kind in KINDS:
        if name in catalogue.specs(kind):
            raise UsageError(
                f"{kind[:-1]} {name!r} is there already, of {catalogue.owner(kind, name)}. Take another name."
            )
    if find_spec(package(name)) is not None:
        raise UsageError(
            f"A package {package(name)} is installed already, so {name!r} is taken. Take another name."
        )
