"""What it costs that a file is on disk before it counts: small files written plainly, synced, and with their folder.

    python benchmarks/durable_writes.py DIR

Writes and removes files below DIR, on whose disk it is measured; prints milliseconds a file, the three ways in turns.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from medbench import files

ROUNDS, COUNT, CONTENT = 15, 20, b"x" * 8_000
WAYS = {"plain": (), "file synced": ("file",), "file and folder synced": ("file", "folder")}


def main(where: Path) -> None:
    sync, taken = files._sync, {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(dir=where) as folder:
        for _ in range(ROUNDS):
            for way, kinds in WAYS.items():

                def some(path: Path, kinds: tuple[str, ...] = kinds) -> None:
                    for kind in kinds:
                        sync(path if kind == "file" else path.parent)

                with mock.patch.object(files, "_sync", some):
                    start = time.perf_counter()
                    for number in range(COUNT):
                        files.write_atomic(Path(folder) / str(number), CONTENT)
                    taken[way].append((time.perf_counter() - start) / COUNT)
    for way, seconds in taken.items():
        low, middle, high = (1000 * s for s in statistics.quantiles(seconds, n=4))
        print(f"{way:24} {middle:6.2f} ms a file (quartiles {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
