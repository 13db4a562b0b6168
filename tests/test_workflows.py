"""The workflows of CI: what they may do, and that the program knows the commands that they call."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from medbench.cli import app

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
BOARD = REPOSITORY / ".github" / "workflows" / "leaderboard.yml"
CONSTRAINTS = REPOSITORY / "leaderboards" / "constraints.txt"


def read(path: Path) -> dict[Any, Any]:
    content: dict[Any, Any] = yaml.safe_load(path.read_text())
    return content


def jobs(path: Path) -> dict[str, Any]:
    return dict(read(path)["jobs"])


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job["steps"]]


def commands(path: Path) -> list[str]:
    """Calls of medbench; what an expression will be filled with counts as one."""
    lines = [line.strip() for step in steps(path) for line in step.get("run", "").splitlines()]
    return [re.sub(r"\$\{\{.*?\}\}", "1", line) for line in lines if line.startswith("medbench ")]


@pytest.mark.parametrize("line", commands(BOARD))
def test_the_program_knows_the_commands(line: str) -> None:
    words = shlex.split(line)[1:]
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    values = command.make_context("medbench", words).params
    if suite := values.get("suite"):
        assert str(suite) == "$SUITE" or (REPOSITORY / suite).is_file()


def test_the_leaderboard_is_planned_run_verified_built_and_checked() -> None:
    verbs = {" ".join(line.split()[1:3]) for line in commands(BOARD)}
    wanted = {"plan --suite", "run --suite", "results verify", "leaderboard build", "leaderboard --check"}
    assert wanted <= verbs
    (build,) = [shlex.split(line) for line in commands(BOARD) if "leaderboard build" in line]
    results, out = (Path(build[build.index(flag) + 1]) for flag in ("--results", "--out"))
    assert out in results.parents, (
        "a cell's link to its record leads nowhere if the record is not published with it"
    )
    (pages,) = [step for step in steps(BOARD) if "upload-pages-artifact" in step.get("uses", "")]
    assert pages["with"]["path"] == str(out)


def test_every_shard_is_run_and_the_shards_are_as_many_as_it_says() -> None:
    cells = jobs(BOARD)["cells"]
    shards = cells["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1)) and not cells["strategy"]["fail-fast"]
    said = re.findall(r"--shard \$\{\{ matrix\.shard \}\}/(\d+)", BOARD.read_text())
    assert len(said) == 2 and set(said) == {str(len(shards))}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_limits(path: Path) -> None:
    content = read(path)
    assert content["permissions"] == {"contents": "read"}
    assert "group" in content["concurrency"]
    for name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 360, name
        # A pull request can be anyone's: what may write runs on main alone.
        if "permissions" in job:
            assert "refs/heads/main" in job["if"], name
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"actions/[\w/-]+@v\d+(\.\d+)*", step["uses"]), step["uses"]
        # Text of an event may hold anything: it gets into a command by the environment alone.
        assert not re.search(r"\$\{\{\s*(inputs|github\.event|github\.head_ref)", step.get("run", ""))


def test_only_the_last_job_may_publish() -> None:
    assert {name: job["permissions"] for name, job in jobs(BOARD).items() if "permissions" in job} == {
        "publish": {"pages": "write", "id-token": "write"}
    }
    events = read(BOARD)[True]  # YAML reads `on` so
    assert events["push"]["branches"] == ["main"]
    assert "leaderboards/**" in events["pull_request"]["paths"]


def test_the_constraints_pin_every_dependency_to_a_version_that_it_may_have() -> None:
    pinned = {}
    for line in CONSTRAINTS.read_text().splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and requirement.url is None and not requirement.extras, line
        pinned[canonicalize_name(requirement.name)] = specifier.version
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["imagenet"]]:
        wanted = Requirement(text)
        version = pinned.get(canonicalize_name(wanted.name))
        assert version is not None, f"{wanted.name}: docs/suites.md has the command that writes the file"
        assert wanted.specifier.contains(version, prereleases=True), f"{text}: {version}"
    assert "medbench" not in pinned
