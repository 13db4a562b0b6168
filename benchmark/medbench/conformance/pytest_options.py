"""`python -m pytest --pyargs medbench.conformance --method NAME`: the checks of the kit as tests.

pytest finds this through an entry point, since options of a package that is named by --pyargs would come too late from
its conftest. Where the kit is not asked for, pytest has no option more than without medbench.
"""

from typing import Final

import pytest

PACKAGE: Final = "medbench.conformance"

OPTIONS: Final = {"methods": "--method", "tasks": "--task", "datasets": "--dataset"}
"""By kind, the option that names what is checked."""


def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Add the options, if this is a run of the kit."""
    if not any(argument.partition("::")[0] == PACKAGE for argument in args):
        return
    group = parser.getgroup("medbench", "what is checked; without a name, all that plugins add")
    for kind, option in OPTIONS.items():
        group.addoption(
            option, action="append", default=[], metavar="NAME", help=f"One of the {kind}. Repeatable."
        )
    group.addoption(
        "--plugin", action="append", default=[], metavar="FILE|MODULE", help="A plugin that is not installed."
    )
    group.addoption(
        "--data", action="append", default=[], metavar="NAME=DIR", help="Folder of a dataset. Repeatable."
    )
