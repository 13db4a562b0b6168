"""Thousands of cells in one process: it holds as much at the end as after the first of them."""

from pathlib import Path

import pytest

from .conftest import Doomed

RUN = (
    "run",
    "--plugin",
    str(Path(__file__).with_name("soak.py")),
    "-m",
    "random",
    "-t",
    "quick0,quick1,quick2",
)
MICRO = ("--fraction", "50%,100%", "--recipe", "micro", "--device", "cpu", "-q")
A_SEED = 6  # cells


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("seeds", "first"),
    [pytest.param(25, 50, marks=pytest.mark.slow), pytest.param(500, 200, marks=pytest.mark.nightly)],
)
def test_memory_and_open_files_stay_what_they_are(
    seeds: int, first: int, doomed: Doomed, phantoms: Path, tmp_path: Path
) -> None:
    numbers = ",".join(map(str, range(seeds)))
    done = doomed(tmp_path, [*RUN, *MICRO, "--seed", numbers, "--data", f"rsna={phantoms}/rsna"])
    assert done.code == 0, done.log
    lines = (tmp_path / "results" / "soak.log").read_text().splitlines()
    memory, files, threads = zip(*(map(int, line.split()) for line in lines), strict=True)
    assert len(lines) == seeds * A_SEED
    assert max(memory[first:]) <= 1.05 * memory[first]
    assert max(files[first:]) <= max(files[:first])
    assert max(threads) == threads[0]
