"""Workers as jobs of a real Slurm; see `one_machine_slurm.py`."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from medbench.errors import UsageError
from medbench.executors import WorkerEnd, slurm, worker_log

pytestmark = pytest.mark.usefixtures("slurm_here")

WORKER = """
import os, signal, sys, time

def stop(signum, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("stopped", flush=True)
    sys.exit(130)

signal.signal(signal.SIGTERM, stop)
print("started", flush=True)
{then}
"""
ONCE = "if 'SLURM_RESTART_COUNT' not in os.environ: time.sleep(600)"

Run = Callable[..., list[WorkerEnd]]


@pytest.fixture
def said() -> list[str]:
    """What the user is told."""
    return []


@pytest.fixture
def run(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run workers that are small programs, and meanwhile do something to them once they have started."""

    def command(arguments: Sequence[str], log: Path) -> list[str]:
        return [sys.executable, "-S", "-c", WORKER.format(then=arguments[0])]

    monkeypatch.setattr(slurm, "worker_command", command)

    def go(
        then: str,
        workers: int = 1,
        meanwhile: Callable[[], object] | None = None,
        again: Callable[[WorkerEnd], bool] = lambda end: False,
        **settings: str,
    ) -> list[WorkerEnd]:
        if meanwhile is not None:
            threading.Thread(target=lambda: meanwhile() if started(tmp_path) else None).start()
        return slurm.Slurm(**settings).run([then], workers, tmp_path, said.append, again)

    return go


def started(logs: Path) -> bool:
    for _ in range(300):
        if (log := worker_log(logs, 0)).exists() and log.read_text():
            return True
        time.sleep(0.1)
    return False


def call(*words: str) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def newest_job() -> str:
    asked = ["squeue", "--noheader", "--format=%A", "--states=RUNNING"]
    return max(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split(), key=int)


def no_jobs() -> bool:
    return not subprocess.run(["squeue", "--noheader"], capture_output=True, check=True).stdout


def test_workers_are_one_array_and_bring_their_exit_codes(run: Run, said: list[str], tmp_path: Path) -> None:
    ends = run("sys.exit(7)", workers=2)
    assert ends == [WorkerEnd(number, 7, worker_log(tmp_path, number)) for number in range(2)]
    assert [end.log.read_text() for end in ends] == ["started\n"] * 2
    jobs = {line.split("(job ")[1].split()[0] for line in said}
    [array] = {job.partition("_")[0] for job in jobs}
    assert jobs == {f"{array}_0", f"{array}_1"}


def test_flags_of_sbatch_reach_slurm(run: Run, tmp_path: Path) -> None:
    show = "os.system('scontrol show job ' + os.environ['SLURM_JOB_ID'])"
    [end] = run(show, partition="first", time="3", cpus_per_task="2", comment="two words")
    told = end.log.read_text()
    for wanted in (
        "Partition=first",
        "TimeLimit=00:03:00",
        "CPUs/Task=2",
        "Comment=two words",
        "JobName=medbench",
    ):
        assert wanted in told


def test_a_preempted_worker_is_stopped_and_starts_again(run: Run, said: list[str]) -> None:
    sooner = ["sbatch", "--partition=first", "--exclusive", "--output=/dev/null", "--wrap=true"]
    [end] = run(ONCE, meanwhile=lambda: call(*sooner))
    assert end.code == 0
    assert end.log.read_text().split() == ["started", "stopped", "started"]
    assert any("PENDING" in line for line in said)


def test_a_worker_out_of_time_is_stopped_and_starts_again(run: Run) -> None:
    # What Slurm sends before a job's time is over.
    [end] = run(ONCE, meanwhile=lambda: call("scancel", "--signal=USR2", newest_job()))
    assert end.code == 0
    assert end.log.read_text().split() == ["started", "stopped", "started"]


def test_a_cancelled_worker_is_lost(run: Run, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "LATE", 1)
    [end] = run(ONCE, meanwhile=lambda: call("scancel", newest_job()))
    assert end.code is None
    assert "ended without a word of its worker" in said[-1]
    assert end.log.read_text().split() == ["started", "stopped"]


def test_a_worker_that_died_at_a_cell_is_started_again(run: Run) -> None:
    asked: list[int | None] = []

    def again(end: WorkerEnd) -> bool:
        asked.append(end.code)
        return len(asked) == 1

    [end] = run("os.kill(os.getpid(), 9)", again=again)
    assert asked == [-9, -9] and end.log.read_text() == "started\n" * 2


def test_an_interruption_ends_the_jobs(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("time.sleep(600)", workers=2, meanwhile=lambda: os.kill(os.getpid(), signal.SIGINT))
    assert no_jobs()


def test_what_sbatch_refuses_is_said(run: Run) -> None:
    with pytest.raises(UsageError, match=r"Slurm does not take the job: .*partition"):
        run("", partition="nowhere")
    with pytest.raises(UsageError, match=r"Slurm does not take the job: .*colour"):
        run("", colour="blue")


@pytest.mark.parametrize("key", ["array", "ntasks_per_node", "open-mode"])
def test_flags_that_medbench_sets_are_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"--slurm {key.replace('_', '-')}=3: medbench sets it"):
        slurm.Slurm(**{key: "3"})


@pytest.mark.parametrize("time", ["0", "1:00:00", "-3"])
def test_time_is_in_minutes(time: str) -> None:
    with pytest.raises(UsageError, match=f"--slurm time={time}: expected whole minutes"):
        slurm.Slurm(time=time)


def test_a_grid_has_the_same_records_whoever_ran_it(
    medbench: Any, plain: Path, left: Callable[[Path], Any], tmp_path: Path
) -> None:
    done = medbench(tmp_path, "--executor", "slurm", "--processes", "2", "--slurm", "time=10")
    assert done.returncode == 1, done.stderr  # one cell failed
    assert "random doomed_raises 10%, seed 0: failed" in done.stdout
    assert left(tmp_path / "results") == left(plain)
