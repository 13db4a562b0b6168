"""A results folder that many processes write to, and that answers late, stale or not at all."""

import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import MedbenchError, refused
from medbench.files import replacing
from medbench.plugins import load_catalogue
from medbench.records import DRAWS, ResultStore, read_predictions, read_record
from medbench.results import Results

from ..test_records import identity, record

# Many writers.

WRITER = """
import os, sys
from pathlib import Path

import pandas as pd

from medbench.records import Record, ResultStore

folder, count, first, processes = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
records = [Record.model_validate_json(line) for line in Path(first).read_text().splitlines()]
store, children = ResultStore(folder), []
for number in range(processes):
    if (child := os.fork()) == 0:
        for k in range(count):
            like = records[k % len(records)]
            seed = number * count + k if k % 4 else k  # every fourth one is written by all
            identity = like.identity.model_copy(update={"seed": seed})
            own = like.model_copy(update={"identity": identity, "cell_id": identity.cell_id()})
            rows = pd.DataFrame({"sample": [f"film {seed}"], "patient": ["a"]}) if own.status == "ok" else None
            store.write_ids("a" * 64, {"train": ["a", "b"]})
            store.write(own, rows)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.mark.parametrize("count", [20, pytest.param(500, marks=pytest.mark.nightly)])
def test_eight_writers_lose_nothing(count: int, tmp_path: Path) -> None:
    kinds = tmp_path / "kinds.jsonl"
    like = [record("ok"), record("skipped")]
    kinds.write_text("".join(f"{one.model_dump_json(by_alias=True)}\n" for one in like))
    folder = tmp_path / "results"
    subprocess.run([sys.executable, "-c", WRITER, folder, str(count), kinds, "8"], check=True)
    store = ResultStore(folder)
    shared = [k for k in range(count) if k % 4 == 0]
    own = [number * count + k for number in range(8) for k in range(count) if k % 4]
    found = Counter(read_record(path).identity.seed for path in store.files())
    assert found == Counter({*shared, *own})
    for path in store.files():
        one = read_record(path)
        if one.status == "ok":
            assert read_predictions(path, one)["sample"].tolist() == [f"film {one.identity.seed}"]
    assert not list(folder.rglob("*.tmp"))


# A folder that is on a server.


@pytest.fixture
def results(tmp_path: Path) -> ResultStore:
    store = ResultStore(tmp_path / "results")
    for seed in range(6):
        store.write(record(seed=seed), pd.DataFrame({"sample": [f"film {seed}"], "patient": ["a"]}))
    return store


def stumbling(call: Callable[..., Any], name: str, number: int) -> Callable[..., Any]:
    """The first time that it is asked for a file whose path holds `name`, a call fails."""
    left = {name}

    def asked(path: Path, *arguments: Any, **named: Any) -> Any:
        if name in str(path) and left:
            left.clear()
            raise OSError(number, os.strerror(number), str(path))
        return call(path, *arguments, **named)

    return asked


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOENT])
def test_a_server_that_first_tells_what_it_remembers(
    number: int, results: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", stumbling(Path.read_bytes, "s3", number))
    assert len(results.records()) == 6
    monkeypatch.setattr(Path, "read_bytes", stumbling(Path.read_bytes, "s3", number))
    assert results.find(identity(seed=3)) is not None


def test_a_listing_with_files_that_are_gone_and_without_new_ones(
    results: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list(results.root.glob("*/*/*/*.json"))
    results.supersede(identity(seed=2))
    new = identity(seed=7)
    results.write(record("skipped", seed=7))
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listed if ".failed" not in pattern else ()))
    seeds = [0, 1, 3, 4, 5]
    assert [one.identity.seed for one in results.records()] == seeds
    read = Results.read(results.root, load_catalogue(third_party=False))
    assert [one.identity.seed for one in read.records] == seeds
    assert results.find(new) is not None  # asked for by its name: no listing decides what is computed again


@pytest.mark.parametrize("verb", ["verify", "rescore"])
@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_what_vanishes_while_it_is_checked_is_named(
    verb: str, ending: str, results: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed, and moved aside by another process before it is read: no traceback, and no word that all is well."""
    own = identity(seed=2)
    path = results.path(own, own.cell_id()).with_suffix(f".{ending}")

    def vanishing(file: Path, *arguments: Any, **named: Any) -> Any:
        if file == path:
            file.unlink(missing_ok=True)
        return opened(file, *arguments, **named)

    opened = Path.open
    monkeypatch.setattr(Path, "open", vanishing)
    done = CliRunner().invoke(app, ["results", verb, "--results", str(results.root)])
    assert done.exit_code == 3, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    said = [line for line in done.output.splitlines() if str(path.with_suffix(".json")) in line]
    assert any(("gone since" if ending == "json" else "are not beside it") in line for line in said)


def test_a_server_that_stays_away_is_named(results: ResultStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(path: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "read_bytes", away)
    with pytest.raises(OSError, match="Stale") as caught:
        results.records()
    said = refused(caught.value)
    assert said is not None and said.exit_code == 3
    assert (
        str(results.root) in str(said) and "server" in str(said) and "what was finished is kept" in str(said)
    )


def test_a_bug_of_ours_is_no_refusal() -> None:
    assert refused(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None


# What libraries make of a disk that is full.


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class InRustError(Exception):
    pass


def half_written(path: Path, error: Exception, because: Exception | None = None) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(b"half of")
        raise error from because


@pytest.mark.parametrize(
    ("error", "because"),
    [
        (NO_SPACE, None),
        (InRustError("Error while serializing: I/O error: No space left on device (os error 28)"), None),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"), NO_SPACE),
    ],
)
def test_a_refusal_names_the_file_whatever_library_met_it(
    error: Exception, because: Exception | None, tmp_path: Path
) -> None:
    path = tmp_path / "weights"
    path.write_text("before")
    with pytest.raises(OSError, match="No space left") as caught:
        half_written(path, error, because)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["weights"]


@pytest.mark.parametrize(
    ("error", "because"),
    [
        (MedbenchError("says it already"), NO_SPACE),
        (ValueError("a bug"), None),
        (FileNotFoundError(errno.ENOENT, "a bug, too"), None),
    ],
)
def test_what_is_no_refusal_stays_what_it_is(
    error: Exception, because: Exception | None, tmp_path: Path
) -> None:
    with pytest.raises(type(error)) as caught:
        half_written(tmp_path / "file", error, because)
    assert caught.value is error


def test_two_at_once_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with (
        replacing(path) as one,
        replacing(path) as other,
    ):  # as two containers do, whose processes have one number
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


# Superseded records.


@pytest.mark.parametrize("step", range(8))
def test_killed_while_a_record_is_superseded_both_have_their_predictions(
    step: int, results: ResultStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before each change (two of each copy, the move, two removals), and after all of them."""
    own = identity(seed=1)
    path = results.path(own, own.cell_id())
    path.with_suffix(DRAWS).write_bytes(b"draws")
    whole = path.with_suffix(".parquet").read_bytes()
    calls = iter(range(10))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            if next(calls) == step:
                raise KeyboardInterrupt
            return call(*arguments, **named)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            results.supersede(own)
        except KeyboardInterrupt:
            assert step < 7
    aside = path.with_name(f"{path.stem}.superseded-1.json")
    assert path.exists() != aside.exists()
    kept = path if path.exists() else aside
    assert kept.with_suffix(".parquet").read_bytes() == whole
    assert kept.with_suffix(DRAWS).read_bytes() == b"draws"
