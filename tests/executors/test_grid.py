"""The whole way with workers: the same records whatever ran them, and what happens when workers die."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.executors import WorkerEnd, grid, worker_log
from medbench.lease import Leases
from medbench.plugins import load_catalogue
from medbench.records import Record, ResultStore
from medbench.request import RunRequest
from medbench.runner import LEASES, run

CATALOGUE = load_catalogue(third_party=False)
DOOMED = Path(__file__).with_name("doomed.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def command(cache: Path, results: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    fixed = ["--recipe", "micro", "--device", "cpu", "--output", str(results)]
    line = [sys.executable, "-P", "-m", "medbench.cli", "run", *fixed, *words]
    return line, os.environ | {"MEDBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def medbench(cache: Path, results: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    line, environment = command(cache, results, *words)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=600, check=False)


def contents(results: Path) -> dict[str, Any]:
    """Records without their times, and the hashes of what is beside them."""
    return {
        str(path.relative_to(results)): json.loads(path.read_bytes()) | {"times": None}
        for path in ResultStore(results).files()
    }


@pytest.mark.parametrize(
    "methods", [("random",), pytest.param(("random", "clip"), marks=pytest.mark.slow)], ids=len
)
def test_two_workers_make_the_records_of_a_plain_run(
    methods: tuple[str, ...], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.memory._kept", True)  # as in every process of the command line
    wanted = RunRequest(
        methods,
        ("rsna_lp", "rsna_knn"),
        tmp_path / "plain",
        cache,
        fractions=(0.01, 1.0),
        recipe="micro",
        device="cpu",
        quiet=True,
    )
    plain = run(wanted, CATALOGUE)
    (tmp_path / "suite.toml").write_text(
        f'data = "phantom"\nrecipe = "micro"\nmethods = {json.dumps(methods)}\n'
        'tasks = ["rsna_lp", "rsna_knn"]\nfractions = ["1%", "100%"]\n'
    )
    line, environment = command(cache, tmp_path / "two")
    del line[5:7]  # a suite says the recipe
    done = subprocess.run(
        [*line, "--suite", tmp_path / "suite.toml", "--executor", "local", "--processes", "2", "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made = [Record.model_validate(record) for record in json.loads(done.stdout)]
    assert [record.cell_id for record in made] == [record.cell_id for record in plain.records]
    assert contents(tmp_path / "two") == contents(tmp_path / "plain")
    assert f"{4 * len(methods)} cells, 0 of them done before; 2 workers, logs in" in done.stderr
    assert list((tmp_path / "two" / LEASES).iterdir()) == []
    [logs] = (tmp_path / "two" / ".runs").iterdir()
    assert sorted(path.name for path in logs.iterdir()) == ["worker-0.log", "worker-1.log"]


@pytest.mark.slow
def test_workers_that_die_or_hang_cost_the_cell_they_were_at(cache: Path, tmp_path: Path) -> None:
    tasks = ",".join(f"doomed_{end}" for end in ("dies", "fine", "hangs", "raises"))
    words = ["-m", "random", "-t", tasks, "--fraction", "10%,100%", "--plugin", str(DOOMED)]
    done = medbench(cache, tmp_path, *words, "--cell-timeout", "2", "--executor", "local", "--processes", "2")
    assert done.returncode == 1, done.stderr
    store = ResultStore(tmp_path)
    assert len(store.records()) == 5
    errors = {record.identity.task: record.error for record in store.failures()}
    assert {task: error and error.type for task, error in errors.items()} == {
        "doomed_dies": "WorkerDied",
        "doomed_hangs": "WorkerDied",
        "doomed_raises": "RuntimeError",
    }
    assert len(store.failures()) == 3
    dies, hangs = errors["doomed_dies"], errors["doomed_hangs"]
    assert dies is not None and "last words" in dies.traceback
    assert hangs is not None and re.search(r"Timeout.*\n.*File .*doomed.py", hangs.traceback, re.DOTALL)
    assert "died (SIGKILL) and is started again" in done.stderr
    assert "| random (baseline) | doomed_dies" in done.stdout


@pytest.mark.slow
def test_a_limit_of_time_alone_is_watched_by_another_process(cache: Path, tmp_path: Path) -> None:
    words = ["-m", "random", "-t", "doomed_hangs", "--fraction", "10%,100%", "--plugin", str(DOOMED)]
    done = medbench(cache, tmp_path, *words, "--cell-timeout", "2")
    assert done.returncode == 1 and "; 1 worker, logs in" in done.stderr, done.stderr
    assert [record.status for record in ResultStore(tmp_path).records()] == ["ok"]
    assert len(ResultStore(tmp_path).failures()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_grid_goes_on_and_ends_the_same(
    how: signal.Signals, cache: Path, tmp_path: Path
) -> None:
    words = ["-m", "clip,random", "-t", "rsna_lp,rsna_knn", "--fraction", "100%"]
    words += ["--executor", "local", "--processes", "2"]
    assert medbench(cache, tmp_path / "whole", *words).returncode == 0
    line, environment = command(cache, tmp_path / "parts", *words)
    with subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 500
        while not list(tmp_path.glob("parts/micro/*/*/*.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        process.send_signal(how)
        _, log = process.communicate(timeout=120)
    if how is signal.SIGINT:
        assert process.returncode == 130 and "run the same command again" in log and "Traceback" not in log
        assert list((tmp_path / "parts" / LEASES).iterdir()) == []
    assert medbench(cache, tmp_path / "parts", *words).returncode == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


# What the parent says of workers that bring nothing.


class Stub:
    """An executor that starts nothing."""

    def __init__(self, codes: list[int | None], last: str) -> None:
        self.codes, self.last = codes, last

    def run(self, arguments: Any, workers: int, logs: Path, say: Any, again: Any) -> list[WorkerEnd]:
        ends = [
            WorkerEnd(number, code, logs / f"worker-{number}.log") for number, code in enumerate(self.codes)
        ]
        for end in ends:
            end.log.write_text(f"first\n{self.last}\n")
        assert not any(map(again, ends))
        left = Leases(logs.parents[1] / LEASES, ends[0].log).claim("cell")
        assert left is not None and again(ends[0]) and not again(WorkerEnd(9, 1, logs / "worker-9.log"))
        with left:
            return ends


@pytest.mark.parametrize(
    ("codes", "last", "code", "said"),
    [
        ([3, 3], "medbench: rsna: the film x is broken", 3, "rsna: the film x is broken"),
        (
            [None, -9],
            "Killed",
            1,
            r"worker 0: lost; Killed \(.*worker-0\.log\); worker 1: ended with code -9",
        ),
        ([130], "medbench: interrupted", 1, "interrupted"),
    ],
)
def test_workers_that_hand_nothing_in(
    codes: list[int | None], last: str, code: int, said: str, cache: Path, tmp_path: Path
) -> None:
    wanted = RunRequest(("random",), ("rsna_lp",), tmp_path, cache, recipe="micro", device="cpu", quiet=True)
    end = grid.run_grid(Stub(codes, last), [], len(codes), [wanted], CATALOGUE)
    assert (end.records, end.code) == ([], code)
    assert re.search(f"no worker went through the whole grid. .*{said}", end.problem)


@pytest.mark.parametrize(("codes", "code"), [((0, 0), 0), ((1, 3), 3), ((3, 1), 3)])
def test_a_mistake_that_one_worker_met_is_the_end_of_all(
    codes: tuple[int, ...], code: int, tmp_path: Path
) -> None:
    class Handing:
        """An executor whose workers compute nothing and hand that in."""

        def run(self, arguments: Any, workers: int, logs: Path, say: Any, again: Any) -> list[WorkerEnd]:
            ends = [WorkerEnd(number, given, worker_log(logs, number)) for number, given in enumerate(codes)]
            for end, given in zip(ends, codes, strict=True):
                grid.hand_in(end.log, [], given)
            return ends

    wanted = RunRequest(("random",), ("rsna_lp",), tmp_path, tmp_path, recipe="micro", quiet=True)
    assert grid.run_grid(Handing(), [], 2, [wanted], CATALOGUE) == grid.GridEnd([], code)


@pytest.mark.usefixtures("medbench_home")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--executor", "locl"], "--executor locl: no such executor. Did you mean 'local'?"),
        (
            ["--executor", "local", "--processes", "2", "--device", "cuda:1"],
            "--device cuda:1: 2 workers can not share it.",
        ),
        (["--executor", "local", "--set", "method.nope=1"], "nope"),
    ],
)
def test_mistakes_are_said_before_a_worker_is_started(words: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["run", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", *words])
    assert done.exit_code == 2 and said in done.stderr
