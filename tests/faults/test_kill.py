"""kill -9 at any moment of anything that writes: what is there then is whole, and the same command ends as if nothing
had been.

The moments of the two hundred trials are spread over the calls that change files, the bytes of the files that are
written, and the time that a phase takes. A trial is repeated by its number.
"""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medbench.data.prepared import load as load_prepared
from medbench.files import sha256_file
from medbench.records import read_draws, read_predictions, read_record
from medbench.weights import INFO, TENSORS

from .conftest import Doomed, Ended

TRIALS = 200
BY_DEFAULT = 10

DATA = ("--data", "rsna={phantoms}/rsna", "--data", "mimic_cxr={phantoms}/mimic_cxr")
MICRO = (*DATA, "--recipe", "micro", "--device", "cpu", "-q")
RUN = ("run", "-m", "random", "-t", "rsna_lp,rsna_ft", "--fraction", "100%", *MICRO)
OTHER = ("run", "-m", "random", "-t", "rsna_knn", "--fraction", "100%", *MICRO)
BUILD = ("leaderboard", "build", "--results", "{here}/results", "--out", "{here}/board")


@dataclass(frozen=True)
class Phase:
    """What is killed.

    Attributes:
        command: of medbench.
        before: commands that make the folder in which it starts.
    """

    command: Sequence[str]
    before: Sequence[Sequence[str]] = ()


PHASES = {
    "phantom": Phase(("data", "phantom", "rsna", "--out", "{here}/phantom", "--patients", "50", "-q")),
    "prepare": Phase(("data", "prepare", "rsna", "--size", "72", *DATA, "-q")),
    "pretrain": Phase(
        ("pretrain", "-m", "clip", "--corpus", "mimic_cxr", "--set", "pretrain.epochs=2", *MICRO)
    ),
    "run": Phase(RUN),
    "overwrite": Phase((*RUN, "--overwrite"), before=(RUN,)),
    "build": Phase(BUILD, before=(RUN, BUILD, OTHER)),
}


@dataclass(frozen=True)
class Uninterrupted:
    """A phase that nothing happened to.

    Attributes:
        start: the folder before it.
        before: what of it was there.
        after: what is there in the end.
        ended: how.
        sizes: of the files that it wrote.
    """

    start: Path
    before: dict[str, Any]
    after: dict[str, Any]
    ended: Ended
    sizes: list[int]


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder, without what differs between equal runs: times, and files that only locks need."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "log" or path.suffix in (".lock", ".tmp"):
            continue
        found[name] = untimed(json.loads(path.read_bytes())) if path.suffix == ".json" else sha256_file(path)
    return found


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(own) for key, own in value.items() if key not in ("times", "made", "seconds")}
    return value


def require_whole(folder: Path) -> None:
    """Whatever a reader would take for finished is whole."""
    for path in folder.glob("results/micro/*/*/*.json"):
        record = read_record(path)
        if record.predictions is not None:
            assert len(read_predictions(path, record)) == record.predictions.rows
        if record.draws is not None:
            read_draws(path, record)
    for about in folder.glob(f"cache/weights/*/{INFO}"):
        if about.parent.suffix == "":
            assert json.loads(about.read_text())["sha256"] == sha256_file(about.parent / TENSORS)
    for table in folder.glob("cache/prepared/*/done.json"):
        if table.parent.suffix == "":
            entry = load_prepared(table.parent)
            assert entry is not None and entry.damaged() == []


@pytest.fixture(scope="session")
def uninterrupted(
    doomed: Doomed, phantoms: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Uninterrupted]:
    """Phases by name, done once."""
    known: dict[str, Uninterrupted] = {}

    def phase(name: str) -> Uninterrupted:
        if name not in known:
            start, folder = (tmp_path_factory.mktemp(f"{name}-{part}") for part in ("start", "end"))
            for command in PHASES[name].before:
                made = doomed(start, filled(command, phantoms))
                assert made.code == 0, made.log
            before = contents(start)
            shutil.copytree(start, folder, dirs_exist_ok=True)
            ended = doomed(folder, filled(PHASES[name].command, phantoms))
            assert ended.code == 0, ended.log
            after = contents(folder)
            sizes = [
                (folder / path).stat().st_size
                for path, content in after.items()
                if before.get(path) != content
            ]
            known[name] = Uninterrupted(start, before, after, ended, sizes)
        return known[name]

    return phase


def filled(command: Sequence[str], phantoms: Path) -> list[str]:
    return [part.replace("{phantoms}", str(phantoms)) for part in command]


def drawn(trial: int) -> str:
    return list(PHASES)[trial % len(PHASES)]


def moment_of(trial: int, whole: Uninterrupted) -> tuple[str, float]:
    """When to kill it: half of the trials of a phase at calls, spread evenly, the others in files or at a time."""
    mine, draw = trial // len(PHASES), random.Random(trial)
    kind = ("call", "seconds", "call", "bytes")[mine % 4]
    if kind == "call":
        of = TRIALS // len(PHASES) // 2
        return kind, int((mine // 2 + draw.random()) / (of + 1) * whole.ended.calls)
    if kind == "bytes":
        return kind, draw.randrange(draw.choice(whole.sizes))
    return kind, draw.random() * whole.ended.seconds


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(
            number, id=f"{drawn(number)}-{number}", marks=[] if number < BY_DEFAULT else pytest.mark.nightly
        )
        for number in range(TRIALS)
    ],
)
def test_what_is_killed_is_whole_and_goes_on_to_the_same_end(
    trial: int,
    doomed: Doomed,
    phantoms: Path,
    uninterrupted: Callable[[str], Uninterrupted],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    name = drawn(trial)
    whole = uninterrupted(name)
    moment = moment_of(trial, whole)
    shutil.copytree(whole.start, tmp_path, dirs_exist_ok=True)
    command = filled(PHASES[name].command, phantoms)
    killed = doomed(tmp_path, command, moment)
    record_property("moment", f"{moment[0]} {moment[1]:g}")
    record_property("killed", killed.code < 0)
    if moment[0] == "call":
        assert killed.code < 0, killed.log
    require_whole(tmp_path)
    again = doomed(tmp_path, command)
    assert again.code == 0, again.log
    assert contents(tmp_path) == whole.after
