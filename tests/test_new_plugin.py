"""`medbench plugins new`: what is written, and what is refused. Installed and run, it is in test_packaging.py."""

import ast
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import UsageError
from medbench.new_plugin import FIRST_USE, write_plugin
from medbench.plugins import load_catalogue

CATALOGUE = load_catalogue(third_party=False)

MOST_LINES = {"method": 60, "task": 25, "dataset": 60}
"""Of what an author has to read and replace: everything in the package that is no blank line."""


@pytest.fixture(params=FIRST_USE)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_package_is_small_and_complete(kind: str, tmp_path: Path) -> None:
    written = files(write_plugin(kind, "good_name", tmp_path / "package", CATALOGUE))
    outside = {
        ".gitignore",
        ".github/workflows/test.yml",
        "README.md",
        "pyproject.toml",
        "tests/test_plugin.py",
    }
    own = written.keys() - outside
    assert outside < written.keys() and "medbench_good_name/__init__.py" in own
    lines = [line for name in own for line in written[name].splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES[kind]


def test_what_is_written_is_named_as_asked(kind: str, tmp_path: Path) -> None:
    written = files(write_plugin(kind, "good_name", tmp_path / "package", CATALOGUE))
    for name, text in written.items():
        assert "$" not in text and "PACKAGE" not in name and not name.endswith(".template")
        if name.endswith(".py"):
            ast.parse(text)
            assert max(map(len, text.splitlines())) <= 110, name
    project = tomllib.loads(written["pyproject.toml"])["project"]
    assert project["name"] == "medbench-good-name" and project["license"] == "Apache-2.0"
    assert project["entry-points"] == {"medbench": {"good_name": "medbench_good_name"}}
    steps = yaml.safe_load(written[".github/workflows/test.yml"])["jobs"]["test"]["steps"]
    assert "pytest" in [step.get("run") for step in steps]
    assert FIRST_USE[kind].format(name="good_name") in written["README.md"]


@pytest.mark.parametrize(
    "name", ["Bad", "bad-name", "1st", "", "a b", "../up", "rsna_lp@mine", "naïve", "x\n"]
)
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"expected lower case letters, digits and underscores.* as in my_method"
    ):
        write_plugin("method", name, tmp_path / "package", CATALOGUE)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("class", "a word of Python itself"),
        ("place", r"method 'place' is there already, of medbench \S+\. Take another name"),
        ("rsna", "dataset 'rsna' is there already"),
        ("tasks", "package medbench_tasks is installed already"),
    ],
)
def test_a_name_that_is_taken_is_refused(name: str, why: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        write_plugin(kind, name, tmp_path / "package", CATALOGUE)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match=r"mine is there already.*--out DIR"):
        write_plugin("method", "good_name", tmp_path / "mine", CATALOGUE)
    assert not any((tmp_path / "mine").iterdir())


def test_the_verb_prints_the_folder_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plugins", "new", "method", "good_name"])
    assert (done.exit_code, done.stdout) == (0, "medbench-good-name\n")
    assert Path("medbench-good-name/medbench_good_name/method.py").is_file()
    for command in (
        "pip install -e medbench-good-name",
        "pytest medbench-good-name",
        "medbench run --method good_name",
    ):
        assert command in done.stderr
    done = CliRunner().invoke(app, ["plugins", "new", "metod", "good_name"])
    assert done.exit_code == 2 and "Did you mean 'method'?" in done.stderr
