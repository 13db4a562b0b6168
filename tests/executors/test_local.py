"""Workers as processes of this machine; what they run here takes no time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medbench.executors import WorkerEnd, local, make

Run = Callable[..., list[WorkerEnd]]

SHOW = (
    "import os, sys; print(sys.argv[1], *(os.environ.get(n, '-') for n in ('OMP_NUM_THREADS', "
    "'MKL_NUM_THREADS', 'CUDA_VISIBLE_DEVICES')), flush=True)"
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run workers that are a line of Python each."""

    def command(arguments: list[str], log: Path) -> list[str]:
        return [sys.executable, "-S", "-c", arguments[0], log.name]

    monkeypatch.setattr(local, "worker_command", command)
    monkeypatch.setattr(local, "_gpus", list)

    def go(
        code: str, workers: int, again: Callable[[WorkerEnd], bool] = lambda end: False
    ) -> list[WorkerEnd]:
        return make("local").run([code], workers, tmp_path, print, again)

    return go


def logs(ends: list[WorkerEnd]) -> list[list[str]]:
    return [end.log.read_text().split() for end in ends]


def test_workers_share_the_cores(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(12)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ends = run(SHOW, 3)
    assert [(end.worker, end.code) for end in ends] == [(0, 0), (1, 0), (2, 0)]
    assert logs(ends) == [[f"worker-{number}.log", "4", "4", "-"] for number in range(3)]


def test_each_worker_sees_one_gpu_and_one_alone_sees_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "_gpus", lambda: ["3", "GPU-5"])
    assert [line[-1] for line in logs(run(SHOW, 3))] == ["3", "GPU-5", "3"]
    assert [line[-1] for line in logs(run(SHOW, 1))] == ["-"]


@pytest.mark.parametrize(
    ("given", "seen"), [(None, ["0", "1"]), ("4,7", ["4", "7"]), ("GPU-a,GPU-b,GPU-c", ["GPU-a", "GPU-b"])]
)
def test_gpus_are_those_that_this_process_may_use(
    given: str | None, seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert local._gpus() == seen
    assert [local.devices(name) for name in ("auto", "cuda", "cpu", "cuda:1")] == [2, 2, 1, 1]


def test_a_worker_that_died_at_a_cell_is_started_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[WorkerEnd] = []

    def again(end: WorkerEnd) -> bool:
        asked.append(end)
        return end.worker == 1 and len([other for other in asked if other.worker == 1]) == 1

    ends = run(
        "import os, sys; print(1, flush=True); '1' in sys.argv[1] and os.kill(os.getpid(), 9)", 2, again
    )
    assert [(end.worker, end.code) for end in ends] == [(0, 0), (1, -signal.SIGKILL)]
    assert sorted(end.worker for end in asked) == [0, 1, 1]
    assert logs(ends) == [["1"], ["1", "1"]]
    assert capsys.readouterr().out == "worker 1 died (SIGKILL) and is started again\n"


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def see_gone(processes: list[int]) -> None:
    """A signal takes a moment."""
    deadline = time.monotonic() + 10
    while not all(map(gone, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def pids(paths: list[Path], count: int) -> list[int]:
    """What so many words in files say, as soon as they do."""
    deadline = time.monotonic() + 30
    while (
        len(found := [word for path in paths if path.exists() for word in path.read_text().split()]) < count
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [int(word) for word in found]


STUBBORN = (
    "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "child = subprocess.Popen(['sleep', '600']); print(os.getpid(), child.pid, flush=True); time.sleep(600)"
)


def test_an_interruption_ends_all_workers_and_what_they_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE", 0.2)
    files = [tmp_path / f"worker-{number}.log" for number in range(2)]

    def interrupt() -> None:
        pids(files, 4)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run(STUBBORN, 2)
    see_gone(pids(files, 4))


PARENT = """
import sys
from pathlib import Path
from medbench.executors import local
local.worker_command = lambda arguments, log: [
    sys.executable, "-S", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
]
local.Local().run([], 2, Path(sys.argv[1]), print, lambda end: False)
"""


def test_workers_end_with_who_started_them(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path]) as parent:
        workers = pids([tmp_path / f"worker-{number}.log" for number in range(2)], 2)
        parent.kill()
    see_gone(workers)
