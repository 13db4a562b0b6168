"""The workflows of CI: what they may do, and that the program knows the commands that they call."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from medbench.cli import app
from medbench.plan import CellState, Plan

REPOSITORY = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
BOARD = REPOSITORY / ".github" / "workflows" / "leaderboard.yml"
DOCS = REPOSITORY / ".github" / "workflows" / "docs.yml"
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


@pytest.mark.parametrize("line", [*commands(BOARD), *commands(DOCS)])
def test_the_program_knows_the_commands(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0])[1:]
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
    assert "tox -e docs" in str(steps(BOARD)), "what is published takes the place of the documentation"


@pytest.mark.parametrize("path", [BOARD, DOCS], ids=lambda path: path.name)
def test_a_leaderboard_is_published_with_its_records(path: Path) -> None:
    (build,) = [shlex.split(line) for line in commands(path) if "leaderboard build" in line]
    results, out = (Path(build[build.index(flag) + 1]) for flag in ("--results", "--out"))
    assert out in results.parents, (
        "a cell's link to its record leads nowhere if the record is not published with it"
    )
    (pages,) = [step for step in steps(path) if "upload-pages-artifact" in step.get("uses", "")]
    assert Path(pages["with"]["path"]) / "board" == out


def test_every_shard_is_run_and_the_shards_are_as_many_as_it_says() -> None:
    cells = jobs(BOARD)["cells"]
    shards = cells["strategy"]["matrix"]["shard"]
    assert shards == list(range(1, len(shards) + 1)) and not cells["strategy"]["fail-fast"]
    assert cells["strategy"]["matrix"]["method"] == "${{ fromJSON(needs.methods.outputs.names) }}"
    assert cells["env"]["METHOD"] == "${{ matrix.method }}"
    assert all(
        '-m "$METHOD"' in line for line in BOARD.read_text().splitlines() if "matrix.shard }}/" in line
    )
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


@pytest.mark.parametrize("path", [BOARD, DOCS], ids=lambda path: path.name)
def test_only_the_last_job_may_publish(path: Path) -> None:
    assert {name: job["permissions"] for name, job in jobs(path).items() if "permissions" in job} == {
        "publish": {"pages": "write", "id-token": "write"}
    }


def test_the_leaderboard_is_computed_where_cells_may_have_changed() -> None:
    events = read(BOARD)[True]  # YAML reads `on` so
    assert events["push"]["branches"] == ["main"]
    assert events["push"]["paths"] == ["suites/**"], (
        "what computes for hours starts where cells may have changed"
    )
    assert events["pull_request"] is None, "every pull request is checked"
    assert jobs(BOARD)["check"]["if"] == "github.event_name == 'pull_request'"
    assert "check" not in str([job.get("needs") for job in jobs(BOARD).values()])


def test_the_methods_of_the_matrix_are_those_of_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that lists them, on a plan like those that `medbench plan --json` prints."""
    (step,) = [step for step in steps(BOARD) if step.get("id") == "plan"]
    (line,) = [line for line in step["run"].splitlines() if line.startswith("python ")]
    planned = Plan((), (), tuple(CellState(m, "", "t", 1.0, 0, "to do", None) for m in ("b", "a", "b")), ())
    (tmp_path / "plan.json").write_text(json.dumps(planned.to_json()))
    done = subprocess.run(
        ["bash", "-ec", line], cwd=tmp_path, env={**os.environ, "GITHUB_OUTPUT": "out"}, check=True
    )
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == 'names=["a", "b"]\n'


def test_a_shard_hands_over_what_is_new_alone(tmp_path: Path) -> None:
    """The steps around the run of a shard: committed records are there, and are not handed on."""
    names = {step.get("name"): step["run"] for step in jobs(BOARD)["cells"]["steps"] if "run" in step}
    committed, kept = tmp_path / "leaderboards" / "results", tmp_path / "new"
    for folder, name, text in (
        (committed, "a.json", "committed"),
        (kept, "deep/b.json", "kept"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def bash(script: str) -> None:
        subprocess.run(["bash", "-ec", script], cwd=tmp_path, check=True)

    bash(names["put it beside the committed records"])
    results = tmp_path / "results"
    assert (results / "a.json").read_text() == "committed"
    assert (results / "deep" / "b.json").read_text() == "kept"
    time.sleep(0.02)  # file systems count time in ticks
    (results / "deep" / "c.json").write_text("new")
    bash(names["take what is new"])
    found = {path.relative_to(kept).as_posix(): path.read_text() for path in kept.rglob("*.json")}
    assert found == {"deep/b.json": "kept", "deep/c.json": "new"}


def test_what_is_kept_of_a_shard_is_of_this_suite_and_these_records() -> None:
    kept = [step["with"] for step in steps(BOARD) if "actions/cache/" in step.get("uses", "")]
    assert len(kept) == 2
    for one in kept:
        assert one["path"].split() == ["new", ".medbench/weights", ".medbench/work"]
        assert "hashFiles(env.SUITE, 'leaderboards/results/**')" in one["key"]
    assert kept[0]["key"] == kept[1]["key"] and kept[0]["key"].startswith(kept[0]["restore-keys"])


def test_the_browsers_names_are_those_that_the_tests_look_for() -> None:
    looked_for = re.findall(
        r"map\(shutil\.which, \(([^)]*)\)", (REPOSITORY / "benchmarks" / "site_speed.py").read_text()
    )
    names = " ".join(re.findall(r'"([^"]+)"', looked_for[0]))
    for script in (REPOSITORY / ".ci" / "run", REPOSITORY / ".github" / "workflows" / "ci.yml"):
        assert f"command -v {names}" in script.read_text(), script


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


HOLE = '{"name": "lib", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}'


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("raise SystemExit('no route to host')", 0, "::warning::no source of advisories answered"),
        (f"""print('{{"dependencies": [{HOLE}]}}'); raise SystemExit(1)""", 1, "lib 1: PYSEC-1, mended in 2"),
        ("""print('{"dependencies": [{"name": "lib", "version": "2", "vulns": []}]}')""", 0, "0 known holes"),
    ],
)
def test_an_audit_fails_for_holes_and_warns_where_nobody_answers(
    answer: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "pip_audit.py").write_text(answer)
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / ".github" / "audit.py")],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
