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


SMALL = {
    "retrieval": ["--pairs", "30"],
    "features": ["--films", "10", "--recipe", "micro"],
    "lp": ["--rows", "200", "--width", "8", "--labels", "2", "--fits", "3"],
    "lp_mgca": ["--frozen", "40"],
}


@pytest.mark.parametrize(
    ("part", "lines"),
    [("retrieval", 2), ("features", 2), pytest.param("lp", 3, marks=pytest.mark.slow), ("lp_mgca", 1)],
)
def test_every_part_prints_what_it_found_and_the_goal(
    tasks: Any, part: str, lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks.main([part, *SMALL[part]])
    found = capfd.readouterr().out.splitlines()
    results = [line for line in found if line.endswith((": met", ": MISSED"))]
    assert len(results) == lines
    assert all(" s; " in line or " s, " in line for line in found if line not in results)


def test_parts_that_are_not_there(tasks: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tasks.main(["films"])
    assert "no part films; there are retrieval, features, lp, lp_mgca" in capsys.readouterr().err
