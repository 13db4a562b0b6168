"""A Slurm of one machine, started for the tests that ask for it; runs of the whole program and what they leave."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")
DOOMED = Path(__file__).parents[1] / "executors" / "doomed.py"

Medbench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def slurm_conf() -> Iterator[Path]:
    """The slurm.conf of a running Slurm."""
    path = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = [name for name in NEEDED if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; Debian's packages slurm-wlm and munge have them")
    # Not below tmp_path: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        machine = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("one_machine_slurm.py")), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert machine.stdin is not None and machine.stdout is not None and machine.stderr is not None
        if machine.stdout.readline() != "ready\n":
            pytest.skip(machine.stderr.read())
        yield Path(folder) / "slurm.conf"
        machine.stdin.close()
        assert machine.wait(60) == 0, machine.stderr.read()


@pytest.fixture
def slurm_here(slurm_conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process, and what it starts, use that Slurm and no other."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))


@pytest.fixture(scope="session")
def medbench(tmp_path_factory: pytest.TempPathFactory) -> Medbench:
    """Call `medbench run` on a grid of six cells, of which one fails, in a folder; all calls have one cache."""
    cache = tmp_path_factory.mktemp("cache")

    def call(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
        folder.mkdir(exist_ok=True)
        grid = ["--plugin", str(DOOMED), "-m", "random", "-t", "rsna_lp,doomed_fine,doomed_raises"]
        asked = ["--recipe", "micro", "--fraction", "10%,100%", "--device", "cpu"]
        return subprocess.run(
            [sys.executable, "-P", "-m", "medbench.cli", "run", *grid, *asked, *words],
            cwd=folder,
            env={
                **os.environ,
                "MEDBENCH_CACHE": str(cache),
                "MEDBENCH_RESULTS": "results",
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def plain(medbench: Medbench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run without an executor leaves."""
    folder = tmp_path_factory.mktemp("plain")
    done = medbench(folder)
    assert done.returncode == 1, done.stderr
    return folder / "results"


@pytest.fixture(scope="session")
def left() -> Callable[[Path], dict[str, Any]]:
    """What is in a results folder: records without their times, and all other files."""

    def read(folder: Path) -> dict[str, Any]:
        files = [path for path in folder.rglob("*") if path.is_file() and ".runs" not in path.parts]
        found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
        return {name: _record(data) if name.endswith(".json") else data for name, data in found.items()}

    return read


def _record(data: bytes) -> Any:
    """Without its times; a traceback tells which lines called the cell, so of an error the rest has to do."""
    content = json.loads(data)
    content.pop("times", None)
    if content.get("error"):
        content["error"] = [content["error"][key] for key in ("type", "message")]
    return content
