"""The parts of benchmarks/data.py, at sizes that measure nothing."""

import importlib
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("data")
    monkeypatch.setattr(module, "LARGE", (300, 260))
    monkeypatch.setattr(module, "DEEP", (40, 30))
    monkeypatch.setattr(module, "DEEP_FILMS", 5)
    monkeypatch.setattr(module, "CACHED", 40)
    monkeypatch.setattr(module, "DISTINCT", 2)
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module, "CORES", 1)
    return module


SMALL = ["--films", "4", "--rows", "5", "--studies", "3", "--seconds", "0.01", "--quiet"]


@pytest.mark.parametrize(
    ("part", "lines"), [("jpeg", 1), ("dicom", 1), ("memory", 3), ("sample", 2), ("batch", 1), ("phantom", 1)]
)
def test_every_part_prints_what_it_found_and_the_goal(
    data: Any, part: str, lines: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data.main([part, *SMALL, "--folder", str(tmp_path)])
    found = capfd.readouterr().out.splitlines()
    assert len(found) == lines
    assert all(line.endswith((": met", ": MISSED")) for line in found)
    assert not list(tmp_path.iterdir())


def test_other_films_are_read_each_time(data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(data, "copy_rows", lambda films, rows, out: read.append((len(films), *rows)))
    data.main(["sample", *SMALL, "--folder", str(tmp_path)])
    assert len(set(read)) > 1
    assert {count for count, *_ in read} == {40}


def test_parts_that_are_not_there(data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        data.main(["jpg"])
    assert "no part jpg; there are jpeg, dicom, memory" in capsys.readouterr().err
