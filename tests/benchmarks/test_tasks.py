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


@pytest.mark.parametrize(("part", "lines"), [("retrieval", 2), ("features", 4)])
def test_every_part_prints_what_it_found_and_the_goal(
    tasks: Any, part: str, lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks.main([part, "--pairs", "30", "--films", "10", "--recipe", "micro"])
    found = capfd.readouterr().out.splitlines()
    assert len(found) == lines
    assert sum(line.endswith((": met", ": MISSED")) for line in found) == 2


def test_parts_that_are_not_there(tasks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tasks.main(["films"])
    assert "no part films; there are retrieval, features" in capsys.readouterr().err
