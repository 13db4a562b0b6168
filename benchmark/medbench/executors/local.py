"""Workers as processes of this machine: one a GPU, or a share of the cores each."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch

from medbench.executors import WorkerEnd, worker_command, worker_log

GRACE: Final = 30.0
"""Seconds that interrupted workers have to leave a checkpoint behind."""

_PR_SET_PDEATHSIG: Final = 1


class Local:
    """Processes of this machine.

    Of several workers each sees one GPU, in turn; each computes with its share of the cores. They end with this
    process, also where that is killed.
    """

    def run(
        self,
        arguments: Sequence[str],
        workers: int,
        logs: Path,
        say: Callable[[str], None],
        again: Callable[[WorkerEnd], bool],
    ) -> list[WorkerEnd]:
        """See `medbench.executors.Executor`."""
        running: dict[int, subprocess.Popen[bytes]] = {}
        ends: dict[int, WorkerEnd] = {}
        try:
            for number in range(workers):
                running[number] = _start(arguments, number, workers, logs)
            while running:
                time.sleep(0.1)
                for number, process in list(running.items()):
                    if (code := process.poll()) is None:
                        continue
                    del running[number]
                    _kill(process)  # what it started and left behind
                    ends[number] = WorkerEnd(number, code, worker_log(logs, number))
                    if again(ends[number]):
                        say(f"worker {number} died ({_how(code)}) and is started again")
                        running[number] = _start(arguments, number, workers, logs)
        finally:
            _end(list(running.values()))
        return [ends[number] for number in range(workers)]


def devices(wanted: str) -> int:
    """How many workers this machine is for: one a GPU that `--device` lets them use, or one."""
    return max(1, len(_gpus())) if wanted in ("auto", "cuda") else 1


def _gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",")[:count] if given else [str(number) for number in range(count)]


def _start(arguments: Sequence[str], number: int, workers: int, logs: Path) -> "subprocess.Popen[bytes]":
    threads = str(max(1, len(os.sched_getaffinity(0)) // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if workers > 1 and (gpus := _gpus()):
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    log = worker_log(logs, number)
    with log.open("ab") as output:
        return subprocess.Popen(
            worker_command(arguments, log),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone, which then ends them
            preexec_fn=end_with_parent,
        )


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _kill(process)
        process.wait()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a worker and every process that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
