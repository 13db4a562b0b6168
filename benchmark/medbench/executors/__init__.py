"""Executors start the workers of a grid and wait for them; which worker computes what, leases say (`medbench.lease`).

A worker is `medbench ARGUMENTS --worker LOG` and goes over the whole grid: it computes the cells that nobody has
claimed, then waits for those of the others. So an executor starts equal processes, as many as it is told to, anywhere
that sees the same results and cache folders, and knows nothing of cells.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol


@dataclass(frozen=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        worker: its number, from 0.
        code: its exit code, negative for a signal; None where it was lost without one.
        log: what it wrote to standard output and standard error.
    """

    worker: int
    code: int | None
    log: Path


class Executor(Protocol):
    """Where workers run."""

    def run(
        self,
        arguments: Sequence[str],
        workers: int,
        logs: Path,
        say: Callable[[str], None],
        again: Callable[[WorkerEnd], bool],
    ) -> list[WorkerEnd]:
        """Start workers, wait until all have ended.

        Interrupted (KeyboardInterrupt), it ends all of them and waits for that before it goes on raising.

        Args:
            arguments: what stands behind `medbench`; `worker_command` makes the command of one worker.
            workers: how many.
            logs: folder, made by the caller, that all workers see; worker i writes to `worker_log(logs, i)`.
            say: prints a line for the user.
            again: asked of each worker that ended, as soon as it did: True if it died at a cell, and a new one with its
                number and log has to record that, and to go on.

        Returns:
            The last end of each worker, by number.
        """
        ...


EXECUTORS: Final = {
    "local": "medbench.executors.local:Local",
    "slurm": "medbench.executors.slurm:Slurm",
    "ray": "medbench.executors.ray:Ray",
}


def make(name: str) -> Executor:
    """The executor that `--executor NAME` stands for; one of `EXECUTORS`."""
    module, _, attribute = EXECUTORS[name].partition(":")
    made: Executor = getattr(import_module(module), attribute)()
    return made


def worker_log(logs: Path, worker: int) -> Path:
    """The file that a worker writes to; a worker that is started again goes on at its end."""
    return logs / f"worker-{worker}.log"


def worker_command(arguments: Sequence[str], log: Path) -> list[str]:
    """The command line of one worker, by this interpreter; what `--executor` says means nothing beside `--worker`."""
    return [sys.executable, "-P", "-m", "medbench.cli", *arguments, "--worker", str(log)]
