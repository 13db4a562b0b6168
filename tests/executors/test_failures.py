"""What fails costs itself alone: cells that raise, run out of memory, give no numbers, take too long, or die."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.devices import resolve_device, resolve_precision
from medbench.planner import Planner
from medbench.plugins import Catalogue, load_catalogue
from medbench.progress import Progress
from medbench.records import Record, ResultStore
from medbench.request import RunRequest
from medbench.runner import CELLS, LEASES, run

DOOMED = Path(__file__).with_name("doomed.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copy(DOOMED, tmp_path_factory.mktemp("plugin")))


@pytest.fixture(scope="module")
def catalogue(plugin: Path) -> Catalogue:
    return load_catalogue([str(plugin)])


@pytest.fixture
def mended(plugin: Path) -> Iterator[Path]:
    """A file that mends the plugin while it is there."""
    yield plugin.with_name("mended")
    plugin.with_name("mended").unlink(missing_ok=True)


def request(cache: Path, results: Path, *tasks: str, **changes: Any) -> RunRequest:
    names = tuple(f"doomed_{task}" for task in tasks)
    wanted = RunRequest(
        ("random",), names, results, cache, fractions=(0.1, 1.0), recipe="micro", device="cpu"
    )
    return replace(wanted, quiet=True, **changes)


def states(records: list[Record]) -> dict[tuple[str, float], str]:
    """What became of each cell: its status, or the kind of error."""
    return {
        (record.identity.task.removeprefix("doomed_"), record.identity.fraction): record.status
        if record.error is None
        else record.error.type
        for record in records
    }


def test_a_cell_that_fails_is_recorded_with_its_traceback_and_the_others_go_on(
    catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    wanted = request(cache, tmp_path, "extract", "raises", "memory", "nan", "sleeps", "fine")
    outcome = run(replace(wanted, cell_timeout=1.0), catalogue)
    assert states(outcome.records) == {
        ("extract", 0.1): "RuntimeError",
        ("extract", 1.0): "RuntimeError",
        ("raises", 0.1): "RuntimeError",
        ("raises", 1.0): "ok",
        ("memory", 0.1): "MemoryError",
        ("memory", 1.0): "ok",
        ("nan", 0.1): "NotFinite",
        ("nan", 1.0): "ok",
        ("sleeps", 0.1): "CellTimeout",
        ("sleeps", 1.0): "ok",
        ("fine", 0.1): "ok",
        ("fine", 1.0): "ok",
    }
    assert (outcome.failed, outcome.exit_code) == (6, 1)
    errors = {r.identity.task: r.error for r in outcome.records if r.error is not None}
    assert errors["doomed_nan"].message == "not finite: 1 of 22 rows of score_x"
    assert errors["doomed_sleeps"].message.endswith("at 10% took longer than 1 s (--cell-timeout)")
    assert "time.sleep(600)" in errors["doomed_sleeps"].traceback
    assert "the planted fault" in errors["doomed_raises"].traceback
    assert list((tmp_path / LEASES).iterdir()) == []


def retry(results: Path, cache: Path, plugin: Path) -> tuple[int, list[Record]]:
    words = ["results", "retry", "--results", str(results), "--plugin", str(plugin), "--json"]
    done = CliRunner().invoke(app, words, env={"MEDBENCH_CACHE": str(cache)})
    found = json.loads(done.stdout) if done.stdout.startswith("[") else []
    return done.exit_code, [Record.model_validate(record) for record in found]


@pytest.mark.usefixtures("medbench_home")
def test_retry_runs_what_failed_and_nothing_else(
    plugin: Path, mended: Path, catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    wanted = request(cache, results, "raises", "nan", "fine", seeds=(0, 1))
    run(wanted, catalogue)
    store = ResultStore(results)
    before = {path: path.read_bytes() for path in store.files()}
    assert len(before) == 8 and len(store.failures()) == 4
    some = next(path for path in before if "doomed_fine" in str(path))
    some.unlink()  # nobody asked for it: it did not fail
    code, records = retry(results, cache, plugin)
    assert code == 1 and set(states(records).values()) == {"RuntimeError", "NotFinite"}
    mended.touch()
    code, records = retry(results, cache, plugin)
    cells = {(r.identity.task, r.identity.fraction, r.identity.seed, r.status) for r in records}
    assert cells == {(f"doomed_{task}", 0.1, seed, "ok") for task in ("raises", "nan") for seed in (0, 1)}
    assert code == 0 and len(list(store.files())) == 7 + 4 and not some.exists()
    assert {path: path.read_bytes() for path in before if path != some}.items() <= before.items()
    assert retry(results, cache, plugin) == (0, [])


@pytest.mark.usefixtures("medbench_home")
def test_retry_overwrites_what_was_to_be_overwritten(
    plugin: Path, mended: Path, catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    wanted = request(cache, results, "raises")
    mended.touch()
    run(wanted, catalogue)
    for path in results.rglob("*.json"):  # long ago
        path.write_text(path.read_text().replace('"created": "2', '"created": "1'))
    mended.unlink()
    run(replace(wanted, overwrite=True), catalogue)
    mended.touch()
    code, records = retry(results, cache, plugin)
    assert code == 0 and states(records) == {("raises", 0.1): "ok"}
    assert len(list(results.rglob("10pct*superseded-1.json"))) == 1


DIE = """
import os, signal, sys
from pathlib import Path
from medbench.lease import Leases
folder, name, at, log = sys.argv[1:]
lease = Leases(Path(folder), Path(log)).claim(name).__enter__()
lease.at(at)
os.kill(os.getpid(), signal.SIGKILL)
"""


def die(results: Path, name: str, log: Path, at: str = "") -> None:
    """A worker that claims something and is killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Fatal Python error: Segmentation fault\n")
    done = subprocess.run([sys.executable, "-c", DIE, results / LEASES, name, at, log], check=False)
    assert done.returncode == -signal.SIGKILL


def planner(wanted: RunRequest, catalogue: Catalogue) -> Planner:
    device = resolve_device("cpu")
    return Planner(wanted, catalogue, resolve_precision("auto", device), Progress(quiet=True))


@pytest.mark.parametrize("at_a_cell", [True, False])
def test_a_cell_at_which_a_worker_died_is_not_tried_again_in_this_run(
    at_a_cell: bool, catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    logs = tmp_path / ".runs" / "now"
    wanted = request(cache, tmp_path, "fine", worker=logs / "worker-1.log")
    plans = planner(wanted, catalogue)
    group = plans.group(plans.encoder(plans.methods()[0], 0), plans.tasks()[0])
    at = group.cells[0].identity.cell_id() if at_a_cell else ""
    die(tmp_path, group.claim(), logs / "worker-0.log", at)
    outcome = run(wanted, catalogue)
    rest = "ok" if at_a_cell else "WorkerDied"
    assert states(outcome.records) == {("fine", 0.1): "WorkerDied", ("fine", 1.0): rest}
    error = outcome.records[0].error
    assert error is not None and "may have had no memory left" in error.message
    assert "Segmentation fault" in error.traceback and str(logs / "worker-0.log") in error.message
    another = run(replace(wanted, worker=logs / "worker-2.log"), catalogue)  # of the same run
    assert another.records == outcome.records
    assert len(list((logs / CELLS).iterdir())) == 2
    # A run that a user starts anew tries again; so does one that finds the lease of a run that was killed as a whole.
    again = run(replace(wanted, worker=None), catalogue)
    assert set(states(again.records).values()) == {"ok"}


def test_who_died_in_another_run_was_only_interrupted(
    catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    wanted = request(cache, tmp_path, "fine")
    plans = planner(wanted, catalogue)
    group = plans.group(plans.encoder(plans.methods()[0], 0), plans.tasks()[0])
    die(tmp_path, group.claim(), tmp_path / ".runs" / "before" / "worker-0.log")
    assert set(states(run(wanted, catalogue).records).values()) == {"ok"}


def test_a_pretraining_at_which_a_worker_died_fails_every_cell_of_its_encoder(
    catalogue: Catalogue, cache: Path, tmp_path: Path
) -> None:
    logs = tmp_path / ".runs" / "now"
    wanted = request(cache, tmp_path, "fine", "raises", worker=logs / "worker-1.log")
    wanted = replace(wanted, methods=("clip", "random"), overrides={})
    plans = planner(wanted, catalogue)
    encoder = plans.encoder(plans.methods()[0], 0)
    assert not encoder.ready
    die(tmp_path, encoder.identity.key, logs / "worker-0.log")
    outcome = run(wanted, catalogue)
    clip = [record for record in outcome.records if record.identity.method == "clip"]
    assert set(states(clip).values()) == {"WorkerDied"} and len(clip) == 4
    assert outcome.failed == 5
    assert not list((cache / "weights").glob("clip-*"))
    assert run(replace(wanted, worker=logs / "worker-2.log"), catalogue).failed == 5
    assert len(ResultStore(tmp_path).failures()) == 5


def test_who_lost_its_lease_leaves_the_cell_to_who_has_it(
    catalogue: Catalogue, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = iter([False])
    monkeypatch.setattr("medbench.lease.Lease.owned", lambda lease: next(lost, True))
    outcome = run(request(cache, tmp_path, "fine"), catalogue)
    assert set(states(outcome.records).values()) == {"ok"}
    assert sorted(path.suffix for path in tmp_path.glob("micro/*/*/*")) == [
        ".json",
        ".json",
        ".parquet",
        ".parquet",
    ]


def test_the_record_of_a_cell_that_stands_stays(catalogue: Catalogue, cache: Path, tmp_path: Path) -> None:
    run(request(cache, tmp_path, "fine"), catalogue)
    store = ResultStore(tmp_path)
    [path, _] = store.files()
    [first, _] = store.records()
    before = path.read_bytes(), path.stat().st_mtime_ns
    changed = first.model_copy(update={"times": first.times.model_copy(update={"created": "later"})})
    assert store.write(changed) == first
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


EIGHT = """
import sys
from pathlib import Path
from medbench.records import ResultStore, read_record
folder, source, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
record = read_record(source)
times = record.times.model_copy(update={"created": number})
for _ in range(20):
    written = ResultStore(folder).write(record.model_copy(update={"times": times, "predictions": None}))
print(written.times.created)
"""


def test_of_many_writers_of_a_cell_one_is_first(catalogue: Catalogue, cache: Path, tmp_path: Path) -> None:
    run(request(cache, tmp_path / "a", "fine"), catalogue)
    [source, _] = ResultStore(tmp_path / "a").files()
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", EIGHT, tmp_path / "b", source, str(number)],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for number in range(4)
    ]
    said = {writer.communicate(timeout=120)[0] for writer in writers}
    assert len(said) == 1 and {writer.returncode for writer in writers} == {0}
    [path] = ResultStore(tmp_path / "b").files()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
