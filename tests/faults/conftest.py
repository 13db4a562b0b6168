"""What the tests of faults share: a process that runs commands and kills them, and phantoms for all of them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from medbench.data.prepared import load as load_prepared
from medbench.files import sha256_file
from medbench.records import DRAWS, read_record
from medbench.weights import INFO, TENSORS

DATA = ("--data", "rsna={phantoms}/rsna", "--data", "mimic_cxr={phantoms}/mimic_cxr")
MICRO = (*DATA, "--recipe", "micro", "--device", "cpu", "-q")
RUN = ("run", "-m", "random", "-t", "rsna_lp,rsna_ft", "--fraction", "100%", *MICRO)
OTHER = ("run", "-m", "random", "-t", "rsna_knn", "--fraction", "100%", *MICRO)
BUILD = ("leaderboard", "build", "--results", "{here}/results", "--out", "{here}/board")


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, negative where a signal ended it.
        seconds: it took.
        calls: that changed files below the watched folder; 0 where it was killed.
        log: what it printed.
    """

    code: int
    seconds: float
    calls: int
    log: str


class Doomed:
    """`doomed.py`, at work.

    Args:
        process: it.
        log: file for what commands print.
    """

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        self._process, self._log = process, log

    def __call__(
        self,
        folder: Path,
        arguments: Sequence[str],
        fault: tuple[float | str, ...] | None = None,
    ) -> Ended:
        """Run a command of medbench with its cache and its results below a folder.

        Args:
            folder: with `cache` and `results` in it.
            arguments: of the command line.
            fault: what happens to it, as `doomed.py` says.
        """
        self._log.write_bytes(b"")
        order = {
            "arguments": [part.format(here=folder) for part in arguments],
            "environment": {
                "MEDBENCH_CACHE": str(folder / "cache"),
                "MEDBENCH_RESULTS": str(folder / "results"),
            },
            "log": str(self._log),
            "watch": f"{folder}/",
            "fault": fault,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return Ended(answer["exit"], answer["seconds"], answer["calls"], self._log.read_text())


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
        command: of it.
        start: the folder before it.
        before: what of it was there.
        after: what is there in the end.
        ended: how.
        sizes: of the files that it wrote.
    """

    command: list[str]
    start: Path
    before: dict[str, Any]
    after: dict[str, Any]
    ended: Ended
    sizes: list[int]


def contents(folder: Path) -> dict[str, Any]:
    """Every file below a folder, without what differs between equal runs: times, locks, and former attempts."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix in (".lock", ".tmp") or any(word in name for word in (".failed-", ".superseded-")):
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
        for block, suffix in ((record.predictions, ".parquet"), (record.draws, DRAWS)):
            if block is not None:
                assert sha256_file(path.with_suffix(suffix)) == block.sha256
    for about in folder.glob(f"cache/weights/*/{INFO}"):
        if about.parent.suffix == "":
            assert json.loads(about.read_text())["sha256"] == sha256_file(about.parent / TENSORS)
    for table in folder.glob("cache/prepared/*/done.json"):
        if table.parent.suffix == "":
            entry = load_prepared(table.parent)
            assert entry is not None and entry.damaged() == []


@pytest.fixture(scope="session")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doomed]:
    """Runs commands, and does to them what it is told to."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDBENCH_")}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("doomed.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    ) as process:
        try:
            yield Doomed(process, tmp_path_factory.mktemp("doomed") / "log")
        finally:
            assert process.stdin is not None
            process.stdin.close()  # it ends with its input


@pytest.fixture(scope="session")
def phantoms(doomed: Doomed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root: forty patients of `rsna` and of `mimic_cxr`."""
    root = tmp_path_factory.mktemp("phantoms")
    for name in ("rsna", "mimic_cxr"):
        written = doomed(root, ["data", "phantom", name, "--out", str(root / name), "--patients", "40"])
        assert written.code == 0, written.log
    return root


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
            command = filled(PHASES[name].command, phantoms)
            ended = doomed(folder, command)
            assert ended.code == 0, ended.log
            after = contents(folder)
            sizes = [(folder / path).stat().st_size for path in after if not same_file(start, folder, path)]
            known[name] = Uninterrupted(command, start, before, after, ended, sizes)
        return known[name]

    return phase


def same_file(one: Path, other: Path, path: str) -> bool:
    """Whether a file of a copied folder was not written since."""
    return (one / path).exists() and (one / path).stat().st_mtime_ns == (other / path).stat().st_mtime_ns


def filled(command: Sequence[str], phantoms: Path) -> list[str]:
    return [part.replace("{phantoms}", str(phantoms)) for part in command]
