"""The checks of the kit, one test each. Collected by `python -m pytest --pyargs medbench.conformance`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medbench.commands import data_folders, read_plugins
from medbench.conformance import kit
from medbench.conformance.check import perform
from medbench.conformance.pytest_options import OPTIONS
from medbench.errors import MedbenchError
from medbench.options import CheckOptions
from medbench.plugins import Catalogue


def _catalogue(config: pytest.Config) -> Catalogue:
    return read_plugins(_options(config))


def _options(config: pytest.Config) -> CheckOptions:
    return CheckOptions(plugin=config.getoption("--plugin"), data=config.getoption("--data"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a name and check."""
    config = metafunc.config
    try:
        catalogue = _catalogue(config)
        asked: list[tuple[kit.CheckedKind, str]] = [
            (kind, catalogue.lookup(kind, name).name)
            for kind in kit.KINDS
            for name in config.getoption(OPTIONS[kind])
        ]
        names = asked or kit.named(catalogue, None)
    except MedbenchError as error:
        pytest.exit(str(error), error.exit_code)
    cases = [
        pytest.param((kind, name), check, id=f"{name}-{check.__name__}")
        for kind, name in names
        for check in kit.checks_of(kind)
    ]
    metafunc.parametrize(("subject", "check"), cases, indirect=["subject"], scope="module")


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str, str]:
    """What is checked, its kind and its name; one for all checks of a name."""
    kind, name = request.param
    catalogue = _catalogue(request.config)
    folder: Path = tmp_path_factory.mktemp(name.replace("@", "-at-"))
    data = data_folders(_options(request.config), catalogue)
    return kit.subject_of(catalogue, kind, name, folder, data), kind[:-1], name


def test_conformance(subject: tuple[Any, str, str], check: Callable[[Any], str]) -> None:
    """It passes, or there is nothing to check."""
    outcome = perform(check, *subject)
    if outcome.status == "not applicable":
        pytest.skip(outcome.what)
    if outcome.status == "failed":
        pytest.fail(f"{outcome.what}\n{outcome.traceback}".rstrip(), pytrace=False)
