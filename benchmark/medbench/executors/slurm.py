"""Workers as jobs of Slurm: one array, written and requeued by submitit.

A job that Slurm stops and requeues (preempted, out of time, its node died) starts its worker again, which goes on where
the grid is by then. Nothing here needs Slurm's accounting: a job has ended when its worker's exit code is written down,
or when squeue no longer knows it.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from medbench.errors import PluginError, UsageError
from medbench.executors import WorkerEnd, worker_command, worker_log

try:
    from submitit.core.core import Job
    from submitit.core.utils import DelayedSubmission, FailedJobError
    from submitit.slurm.slurm import SlurmExecutor
except ImportError:
    raise PluginError(
        "--executor slurm needs submitit, which is not installed: pip install 'medbench[slurm]'"
    ) from None

MINUTES: Final = 24 * 60
"""Time limit of a job that `time` does not name."""

TIMEOUTS: Final = 100
"""How often a job that ran out of its time is requeued; a cell that fits into no job must not go round for ever."""

OURS: Final = (
    "array",
    "error",
    "nodes",
    "ntasks",
    "ntasks-per-node",
    "open-mode",
    "output",
    "signal",
    "wrap",
)
"""Flags of sbatch that a user can not give: a worker is one process, and submitit has to find what it wrote."""

LATE: Final = 10
"""Seconds that a shared folder may take to show what a job wrote before it ended."""

INTERRUPTED: Final = 130
"""Exit code of a worker that was told to stop."""


@dataclass(frozen=True)
class Worker:
    """What a job runs; submitit pickles it.

    Attributes:
        command: of the worker.
        log: what it writes is added to this file.
    """

    command: Sequence[str]
    log: Path

    def __call__(self) -> int:
        """The worker's exit code.

        Raises:
            SystemExit: the worker was stopped. Slurm knows whether the job has ended or is requeued; an exit code would
                say that it has ended.
        """
        with self.log.open("ab") as log:
            # submitit asks for this process to be requeued by SIGUSR2, which Slurm sends to the worker as well.
            before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
            process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            signal.signal(signal.SIGUSR2, before)
        try:
            code = process.wait()
        finally:
            process.terminate()
            process.wait()
        if code in (INTERRUPTED, -signal.SIGTERM):
            raise SystemExit(INTERRUPTED)
        return code

    def checkpoint(self) -> DelayedSubmission:
        """What a requeued job runs: the same."""
        return DelayedSubmission(self)


class Slurm:
    """See `medbench.executors.Executor`.

    Args:
        settings: flags of sbatch without their dashes, as `partition`; `time` in whole minutes.

    Raises:
        UsageError: sbatch is not here, or a flag can not be given.
    """

    def __init__(self, **settings: str) -> None:
        for program in ("sbatch", "srun", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise UsageError(
                    f"--executor slurm: no {program} on the path. Call this on a login node of the cluster, or choose "
                    "another executor."
                )
        given = {key.replace("_", "-"): value for key, value in settings.items()}
        for key in OURS:
            if key in given:
                raise UsageError(
                    f"--slurm {key}={given[key]}: medbench sets it; a worker is a job of one process."
                )
        minutes = given.pop("time", str(MINUTES))
        if not minutes.isdecimal() or int(minutes) == 0:
            raise UsageError(f"--slurm time={minutes}: expected whole minutes, as 1440 for a day.")
        self.minutes = int(minutes)
        self.flags = given

    def run(
        self,
        arguments: Sequence[str],
        workers: int,
        logs: Path,
        say: Callable[[str], None],
        again: Callable[[WorkerEnd], bool],
    ) -> list[WorkerEnd]:
        """Submit an array of workers and wait for it.

        Raises:
            UsageError: sbatch refuses the job.
        """
        jobs = dict(enumerate(self._submit(arguments, range(workers), logs)))
        ends: dict[int, WorkerEnd] = {}
        said: dict[int, str] = {}
        started = time.monotonic()
        try:
            while jobs:
                states = _states(jobs.values())
                for number, job in list(jobs.items()):
                    state = states.get(job.job_id)
                    if state is not None and not job.paths.result_pickle.exists():
                        if said.get(number) != state:
                            say(f"worker {number} (job {job.job_id} of Slurm): {state}")
                        said[number] = state
                        continue
                    end = WorkerEnd(number, _exit_code(job, say), worker_log(logs, number))
                    if again(end):
                        [jobs[number]] = self._submit(arguments, [number], logs)
                    else:
                        del jobs[number]
                        ends[number] = end
                time.sleep(min(30, max(1, (time.monotonic() - started) / 10)))
        except KeyboardInterrupt:
            _cancel(jobs.values())
            raise
        return [ends[number] for number in sorted(ends)]

    def _submit(self, arguments: Sequence[str], numbers: Iterable[int], logs: Path) -> list[Job[int]]:
        """Jobs of these workers, an array where there is more than one."""
        written = [worker_log(logs, number).absolute() for number in numbers]
        executor = SlurmExecutor(logs / "slurm", max_num_timeout=TIMEOUTS)
        executor.update_parameters(
            job_name="medbench",
            time=self.minutes,
            wckey=None,
            stderr_to_stdout=True,
            additional_parameters=self.flags,
        )
        try:
            return executor.submit_array([Worker(worker_command(arguments, log), log) for log in written])
        except FailedJobError as error:
            raise UsageError(f"Slurm does not take the job: {error}") from None


def _states(jobs: Iterable[Job[int]]) -> dict[str, str]:
    """What Slurm says of jobs, by id, as `RUNNING node7` or `PENDING (Resources)`; one that has ended is left out."""
    known = {job.job_id: "unknown" for job in jobs}
    ids = sorted({job.partition("_")[0] for job in known})
    asked = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i %T %R", f"--jobs={','.join(ids)}"],
        capture_output=True,
        text=True,
    )
    if asked.returncode != 0 and "Invalid job id" not in asked.stderr:
        return known  # Slurm does not answer now: that says nothing of the jobs
    said = dict(line.strip().split(" ", 1) for line in asked.stdout.splitlines())
    return {job: state for job, state in said.items() if job in known}


def _exit_code(job: Job[int], say: Callable[[str], None]) -> int | None:
    """The exit code of the worker of a job that has ended; None where it wrote none."""
    for _ in range(LATE):
        if job.paths.result_pickle.exists():
            break
        time.sleep(1)
    else:
        say(f"job {job.job_id} of Slurm ended without a word of its worker; see {job.paths.stdout}")
        return None
    error = job.exception()
    if error is not None:
        say(f"job {job.job_id} of Slurm: {error}")
        return None
    return job.result()


def _cancel(jobs: Iterable[Job[int]]) -> None:
    """Cancel jobs and wait until they have ended."""
    jobs = list(jobs)
    subprocess.run(["scancel", *(job.job_id for job in jobs)], check=False)
    while _states(jobs):
        time.sleep(1)
