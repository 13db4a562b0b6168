"""What the tests of faults share: a process that runs commands and kills them, and phantoms for all of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


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
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def __call__(
        self,
        folder: Path,
        arguments: Sequence[str],
        moment: tuple[str, float] | None = None,
        **environment: str,
    ) -> Ended:
        """Run a command of medbench with its cache, its results and its log below a folder.

        Args:
            folder: with `cache` and `results` in it.
            arguments: of the command line.
            moment: when to kill it, as `doomed.py` says.
            environment: more of it.
        """
        log = folder / "log"
        log.unlink(missing_ok=True)
        order = {
            "arguments": [part.format(here=folder) for part in arguments],
            "environment": {
                "MEDBENCH_CACHE": str(folder / "cache"),
                "MEDBENCH_RESULTS": str(folder / "results"),
                **environment,
            },
            "log": str(log),
            "watch": f"{folder}/",
            "moment": moment,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return Ended(
            answer["exit"], answer["seconds"], answer["calls"], log.read_text() if log.exists() else ""
        )


@pytest.fixture(scope="session")
def doomed() -> Iterator[Doomed]:
    """Runs commands, and kills them where it is told to."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEDBENCH_")}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("doomed.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    ) as process:
        try:
            yield Doomed(process)
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
