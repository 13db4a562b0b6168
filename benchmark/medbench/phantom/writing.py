"""Writes a whole layout: in chunks, on several processes, atomically, and going on where it was stopped.

While a layout is being written, its root holds a folder `.phantom` with the parameters, one part file a
finished chunk, and temporary files. `PHANTOM.json` is written last: a root that has it is complete.
"""

from __future__ import annotations

import gzip
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from filelock import FileLock

from medbench.errors import DataError
from medbench.phantom.render import check_size
from medbench.phantom.study import PHANTOM_VERSION, Mix, Patient, sample_patient

MARKER = "PHANTOM.json"
"""Name of the file at a root that says: this is phantom data, and complete."""
_WORK = ".phantom"
_CHUNK = 40
"""Patients a chunk. A constant, because the part files of a stopped run must fit those of its sequel."""

Row = dict[str, Any]
"""What a patient adds to the CSV files, as JSON knows it; the key `images` counts the films."""
WritePatient = Callable[[Path, int, int, int], list[Row]]
"""(root, patient, seed, size) -> rows; writes that patient's files. Module-level, for it is pickled."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What decides every byte of a layout."""

    layout: str
    patients: int
    seed: int
    size: int
    version: int = PHANTOM_VERSION

    def as_json(self) -> str:
        """The content of `PHANTOM.json`."""
        note = "synthetic chest radiographs drawn by medbench.phantom; no patient data"
        return json.dumps({"phantom": True, "note": note, **asdict(self)}, indent=2) + "\n"


def every_film(who: Patient) -> int:
    """The number of films of all studies."""
    return sum(len(study.films) for study in who.studies)


def one_a_study(who: Patient) -> int:
    """The number of studies, of which a film each is written."""
    return len(who.studies)


@dataclass(frozen=True)
class Twin:
    """The phantom twin of a dataset: patients of one mix, written in its layout.

    Attributes:
        layout: Name of the layout.
        mix: How often things are found in its patients.
        write_patient: Writes the files of one patient.
        write_tables: (root, rows of all patients in their order) writes what holds all of them.
        films: The number of films of a patient; None for one each.
    """

    layout: str
    mix: Mix
    write_patient: WritePatient
    write_tables: Callable[[Path, Sequence[Row]], None]
    films: Callable[[Patient], int] | None = None

    def write(
        self,
        root: Path,
        *,
        patients: int,
        seed: int = 0,
        size: int = 256,
        workers: int = 1,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Write the layout, or go on with one that was stopped; returns at once if it is complete.

        Args:
            root: Folder to write; new, empty, or begun by an earlier call.
            patients: How many patients; `SIZES` of the layout's module names the usual numbers.
            seed: At least 0. The same patient has the same films whatever `patients` is.
            size: Side of the films in pixels; boxes and outlines are in pixels of these films.
            workers: Number of processes. It changes no byte.
            advance: Called with the number of films finished since the last call; `total` gives the sum.

        Raises:
            DataError: If the folder holds another phantom or other files.
            ValueError: If a number is out of range.
        """
        write_layout(
            root,
            Parameters(self.layout, patients, seed, size),
            write_patient=self.write_patient,
            write_tables=self.write_tables,
            workers=workers,
            advance=advance,
        )

    def total(self, patients: int, seed: int = 0) -> int:
        """The number of films that `write` makes."""
        if self.films is None:
            return patients
        return sum(self.films(self.patient(number, seed)) for number in range(patients))

    def patient(self, number: int, seed: int = 0) -> Patient:
        """The truth about one patient of this layout."""
        return sample_patient(self.layout, self.mix, number, seed)


def write_layout(
    root: Path,
    parameters: Parameters,
    *,
    write_patient: WritePatient,
    write_tables: Callable[[Path, Sequence[Row]], None],
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write a layout, or go on with one that was stopped; returns at once if it is complete.

    Args:
        root: Folder of the layout; made if missing.
        parameters: What to write.
        write_patient: Writes the files of one patient.
        write_tables: Writes the CSV files from all rows, in the order of the patients.
        workers: Number of processes; with 1 everything is done in this one.
        advance: Called in this process with the number of films that were finished since the last call.

    Raises:
        DataError: If the root holds something else: other parameters, or files that are not a phantom.
        ValueError: If there are no patients or no workers, or the seed is negative.
    """
    if parameters.patients < 1 or workers < 1 or parameters.seed < 0:
        raise ValueError(
            f"patients and workers must be at least 1 and seed at least 0: {parameters}, {workers=}"
        )
    check_size(parameters.size)
    if _is_complete(root, parameters):
        return
    lock = root.with_name(f"{root.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    # a second program that wants the same data waits here, and then finds it done
    with FileLock(lock):
        if not _is_complete(root, parameters):
            _write_missing(root, parameters, write_patient, write_tables, workers, advance)
            shutil.rmtree(root / _WORK)
        # only now, when the marker lets every newcomer pass without the lock, may the lock go
        lock.unlink(missing_ok=True)


def _write_missing(
    root: Path,
    parameters: Parameters,
    write_patient: WritePatient,
    write_tables: Callable[[Path, Sequence[Row]], None],
    workers: int,
    advance: Callable[[int], None],
) -> None:
    work = root / _WORK
    work.mkdir(parents=True, exist_ok=True)
    write_file(root, Path(_WORK) / "parameters.json", parameters.as_json().encode())
    starts = range(0, parameters.patients, _CHUNK)
    missing = []
    for start in starts:
        part = work / _part_name(start)
        if part.exists():
            advance(_films(json.loads(part.read_text())))
        else:
            missing.append(start)
    for films in _write_chunks(root, parameters, write_patient, missing, workers):
        advance(films)
    rows = [row for start in starts for row in json.loads((work / _part_name(start)).read_text())]
    write_tables(root, rows)
    write_file(root, Path(MARKER), parameters.as_json().encode())


def write_file(root: Path, name: Path, content: bytes) -> None:
    """Write one file of a layout atomically; one that exists is left alone, for its content is determined."""
    target = root / name
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # one folder for temporary files, so that a killed writer leaves none among the data
    rough = root / _WORK / f"{os.getpid()}.tmp"
    rough.write_bytes(content)
    os.replace(rough, target)


def write_gzip(root: Path, name: Path, text: str) -> None:
    """Write a text file compressed; the same text always gives the same bytes (no time stamp, no name)."""
    buffer = BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0, compresslevel=6) as stream:
        stream.write(text.encode())
    write_file(root, name, buffer.getvalue())


def csv_text(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV with a header; a missing value is an empty cell. No value may hold a comma or a quote."""
    lines = [",".join(columns)]
    lines += [",".join("" if row.get(c) is None else str(row[c]) for c in columns) for row in rows]
    return "\n".join(lines) + "\n"


def _is_complete(root: Path, parameters: Parameters) -> bool:
    marker = root / MARKER
    for found in (marker, root / _WORK / "parameters.json"):
        try:
            text = found.read_text()
        except FileNotFoundError:
            continue
        if text != parameters.as_json():
            raise DataError(
                f"{found} says that {root} holds another phantom: found {' '.join(text.split())}, "
                f"expected {asdict(parameters)}. Give another folder, or delete this one."
            )
        return found == marker
    strange = root.exists() and any(path.name not in (_WORK, MARKER) for path in root.iterdir())
    if strange and not marker.exists():
        raise DataError(
            f"{root} is not empty and has no {MARKER}: expected a new or empty folder, or a phantom that was "
            "begun there. Give another folder; phantom data is never mixed with other files."
        )
    return marker.exists()


def _part_name(start: int) -> str:
    return f"part-{start:07d}.json"


def _films(rows: Sequence[Row]) -> int:
    return sum(int(row["images"]) for row in rows)


def _write_chunk(root: Path, parameters: Parameters, write_patient: WritePatient, start: int) -> int:
    """Write the patients of one chunk and its part file; returns the number of films."""
    rows: list[Row] = []
    for patient in range(start, min(start + _CHUNK, parameters.patients)):
        rows += write_patient(root, patient, parameters.seed, parameters.size)
    write_file(root, Path(_WORK) / _part_name(start), json.dumps(rows).encode())
    return _films(rows)


def _write_chunks(
    root: Path, parameters: Parameters, write_patient: WritePatient, starts: Sequence[int], workers: int
) -> Iterator[int]:
    if workers == 1 or len(starts) < 2:
        for start in starts:
            yield _write_chunk(root, parameters, write_patient, start)
        return
    # spawn: the parent may have started threads (torch), which a forked child would inherit half-way
    pool = ProcessPoolExecutor(
        min(workers, len(starts)), multiprocessing.get_context("spawn"), initializer=_follow_parent
    )
    try:
        jobs: list[Future[int]] = [
            pool.submit(_write_chunk, root, parameters, write_patient, start) for start in starts
        ]
        for job in as_completed(jobs):
            yield job.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when the parent ends, however that came about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        # a worker of a killed parent would wait for work for ever: the queue's other end is its own
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
