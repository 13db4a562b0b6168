"""A run whose cells workers compute: check it, start them, say how far they are, gather what they hand in."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from medbench.executors import Executor, WorkerEnd
from medbench.files import write_atomic
from medbench.lease import Leases
from medbench.planner import Cell, Opened
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.records import Record
from medbench.request import RunRequest
from medbench.runner import CELLS, LEASES, Runner

RUNS: Final = ".runs"
"""Folder in a results folder: logs of workers, a folder a run."""

SECONDS: Final = 20.0
"""Between two lines of progress, if something has changed."""


@dataclass(frozen=True)
class GridEnd:
    """What a run by workers gave.

    Attributes:
        records: of all cells; none where there is a problem.
        code: exit code.
        problem: why no worker went through the whole grid; "" where one did.
    """

    records: list[Record]
    code: int
    problem: str = ""


def run_grid(
    executor: Executor,
    arguments: Sequence[str],
    workers: int,
    requests: Sequence[RunRequest],
    catalogue: Catalogue,
) -> GridEnd:
    """Let workers compute requests.

    Args:
        executor: starts them.
        arguments: what was typed behind `medbench`.
        workers: how many.
        requests: what that asks for.
        catalogue: known methods, tasks and datasets.

    Raises:
        MedbenchError: a name, flag, dataset or checkpoint is wrong; no worker was started.
        KeyboardInterrupt: interrupted; all workers have ended.
    """
    results = requests[0].results.absolute()
    progress = Progress("" if requests[0].real_data else "phantom", requests[0].quiet)
    total, done = _cells(requests, catalogue)
    logs = results / RUNS / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.uname().nodename}-{os.getpid()}"
    (logs / CELLS).mkdir(parents=True)
    progress.say(
        f"{total:,} cells, {done:,} of them done before; {workers} {'worker' if workers == 1 else 'workers'}, "
        f"logs in {logs}"
    )

    def died(end: WorkerEnd) -> bool:
        return Leases(results / LEASES).left_by(end.log)

    try:
        with _told(progress, logs / CELLS, total, done):
            ends = executor.run(arguments, workers, logs, progress.say, died)
        return _gathered(ends)
    finally:
        shutil.rmtree(logs / CELLS, ignore_errors=True)


def hand_in(log: Path, records: Sequence[Record], code: int) -> None:
    """Leave what a worker found for who started it."""
    found = [record.model_dump(mode="json", by_alias=True) for record in records]
    write_atomic(log.with_suffix(".json"), json.dumps({"code": code, "records": found}).encode())


def _cells(requests: Sequence[RunRequest], catalogue: Catalogue) -> tuple[int, int]:
    """How many there are, and how many of them are done; everything is checked on the way."""
    opened, cells = Opened(), dict[str, Cell]()
    for request in requests:
        # This machine may have none of the devices that the workers have.
        runner = Runner(replace(request, device="cpu"), catalogue, opened)
        runner.check()
        runner.check_folder("results", request.results)
        for method in runner.planner.methods():
            for seed in request.seeds:
                encoder = runner.planner.encoder(method, seed)
                for task in runner.planner.tasks():
                    cells.update({c.identity.cell_id(): c for c in runner.planner.group(encoder, task).cells})
    known = [cell for cell in cells.values() if cell.record is not None and not requests[0].overwrite]
    return len(cells), len(known)


@contextmanager
def _told(progress: Progress, folder: Path, total: int, done: int) -> Iterator[None]:
    """Say now and then how many cells are recorded."""
    over = threading.Event()

    def watch() -> None:
        failed, seen = 0, set[str]()
        while not over.wait(SECONDS):
            try:
                new = [
                    entry for entry in os.scandir(folder) if entry.name not in seen and entry.name[0] != "."
                ]
                failed += sum(entry.stat().st_size > 0 for entry in new)
            except OSError:  # the folder is away; workers that can not do without it end, and say so
                continue
            seen.update(entry.name for entry in new)
            if new:
                progress.say(f"{done + len(seen):,} of {total:,} cells recorded, {failed:,} of them failed")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _gathered(ends: Sequence[WorkerEnd]) -> GridEnd:
    """What workers handed in; the records of any will do, since each goes through the whole grid."""
    files = [end.log.with_suffix(".json") for end in ends]
    found = [json.loads(file.read_bytes()) for file in files if file.exists()]
    for file in files:
        file.unlink(missing_ok=True)
    if found:
        # A mistake that kept every cell from being computed is known to the workers that met it.
        code = max(whole["code"] for whole in found)
        return GridEnd([Record.model_validate(record) for record in found[0]["records"]], code)
    said = "; ".join(f"worker {end.worker}: {_end(end)}" for end in ends)
    code = next((end.code for end in ends if end.code is not None and 2 <= end.code <= 5), 1)
    return GridEnd([], code, f"no worker went through the whole grid. {said}")


def _end(end: WorkerEnd) -> str:
    how = "lost" if end.code is None else f"ended with code {end.code}"
    try:
        lines = end.log.read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    last = next((line for line in reversed(lines) if line.startswith("medbench: ")), "".join(lines[-1:]))
    return f"{how}; {last.removeprefix('medbench: ')} ({end.log})"
