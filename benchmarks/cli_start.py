"""How long `medbench` takes to start: wall and processor time of the verbs that need no torch.

    python benchmarks/cli_start.py [RUNS]

The limit is 0.3 s on an idle machine; on a busy one look at the processor time. That nothing heavy is imported is
tested (tests/test_cli.py); the time is measured here.
"""

import os
import statistics
import subprocess
import sys
import time

VERBS = (["--help"], ["run", "--help"], ["list", "methods"], ["info", "place"])


def measure(arguments: list[str]) -> tuple[float, float]:
    """Seconds on the wall and of processor time of one start."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-P", "-m", "medbench.cli", *arguments], stdout=subprocess.DEVNULL, check=True
    )
    after, wall = os.times(), time.perf_counter() - start
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print(f"{'verb':<14}  wall: median  least   processor: median  least   (s, {runs} starts)")
    for arguments in VERBS:
        measure(arguments)  # fills the disk cache
        walls, used = zip(*(measure(arguments) for _ in range(runs)), strict=True)
        columns = (statistics.median(walls), min(walls), statistics.median(used), min(used))
        print(
            "{:<14}        {:>6.3f} {:>6.3f}              {:>6.3f} {:>6.3f}".format(
                " ".join(arguments), *columns
            )
        )


if __name__ == "__main__":
    main()
