"""The parts of benchmarks/tasks.py, at sizes that measure nothing."""

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("tasks")


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["retrieval", "--pairs", "30"], 2),
        pytest.param(
            ["lp", "--films", "200", "--features", "8", "--labels", "2", "--fits", "3"],
            3,
            marks=pytest.mark.slow,
        ),
        (["lp_mgca", "--frozen", "40"], 1),
        (["map", "--images", "20"], 2),
        (["features", "--frozen", "10", "--recipe", "micro"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_every_part_prints_what_it_found_and_the_goal(
    tasks: Any, words: list[str], lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks.main(words)
    found = capfd.readouterr().out.splitlines()
    assert sum(line.endswith((": met", ": MISSED")) for line in found) == lines


def test_parts_that_are_not_there(tasks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tasks.main(["films"])
    assert f"no part films; there are {', '.join(tasks.PARTS)}" in capsys.readouterr().err
