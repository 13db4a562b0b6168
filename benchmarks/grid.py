"""Grids of cells through the `medbench` command, one call an encoder, so that one that fails costs only itself.

Every call is what a user would type, and is printed. What is done is not done again.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

INTERRUPTED = 130


@dataclass(frozen=True)
class Part:
    """What one call of `medbench run` computes.

    Attributes:
        method: its name.
        tasks: their names.
        results: folder of the records.
        seeds: as typed, "0,1,2".
        recipe: `tiny`, `paper` or `micro`.
        fractions: as typed, "1%,100%", or "all".
        overrides: fields of the recipe, as `--set` takes them.
        more: further flags of `medbench run`.
    """

    method: str
    tasks: tuple[str, ...]
    results: Path
    seeds: str = "0,1,2"
    recipe: str = "tiny"
    fractions: str = "all"
    overrides: dict[str, str] = field(default_factory=dict)
    more: tuple[str, ...] = ()

    def words(self, verb: str) -> list[str]:
        """The command, without the program."""
        sets = [word for key, value in self.overrides.items() for word in ("--set", f"{key}={value}")]
        return [
            *(verb, "--method", self.method, "--task", ",".join(self.tasks), "--fraction", self.fractions),
            *(
                "--seed",
                self.seeds,
                "--recipe",
                self.recipe,
                "--output",
                str(self.results),
                *sets,
                *self.more,
            ),
        ]


def estimate(parts: Sequence[Part]) -> None:
    """Say how long the rest of a grid may take, by `medbench plan`."""
    total, unknown = 0.0, 0
    for part in parts:
        done = subprocess.run(
            [*_PROGRAM, *part.words("plan"), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
            check=False,
        )
        if done.stdout:
            plan = json.loads(done.stdout)
            total, unknown = total + plan["seconds"], unknown + plan["unknown"]
        else:
            say(f"{part.method} can not be planned (exit code {done.returncode})")
    open_parts = f", and {unknown} parts that nothing like was timed before" if unknown else ""
    say(f"about {total / 60:.0f} minutes to go{open_parts}")


def run(parts: Sequence[Part]) -> list[Part]:
    """Compute what has no record yet; a part that fails stops no other.

    Returns:
        The parts with a cell that failed.
    """
    failed = []
    for number, part in enumerate(parts, 1):
        say(f"[{number}/{len(parts)}] medbench {shlex.join(part.words('run'))}")
        # The table of its cells is for the reader of the log: standard output is for the table of the grid.
        done = subprocess.run(
            [*_PROGRAM, *part.words("run")], stdout=sys.stderr, env=_environment(), check=False
        )
        if done.returncode == INTERRUPTED:
            raise SystemExit(INTERRUPTED)
        if done.returncode:
            failed.append(part)
            say(f"{part.method}: exit code {done.returncode}; going on with the others")
    return failed


def say(line: str) -> None:
    """To the log."""
    print(line, file=sys.stderr, flush=True)


_PROGRAM = (sys.executable, "-P", "-m", "medbench.cli")


def _environment() -> dict[str, str]:
    """Without folders of the user's own: these grids are on phantoms."""
    return {name: value for name, value in os.environ.items() if name != "MEDBENCH_DATA"}
