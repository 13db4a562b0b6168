"""How long leaderboards take: makes a results folder of so many records, reads it, builds the board and each format.

    python benchmarks/leaderboard.py
    python benchmarks/leaderboard.py --records 1000 --formats csv,markdown --keep DIR

The records are made up, each as large as one of `rsna_lp`, with the draws of its metric beside it and no predictions:
methods with three seeds in up to 50 columns. Nothing is measured of films or models.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medbench.metrics.bootstrap import DRAWS, Bootstrap, Resample
from medbench.plugins import load_catalogue
from medbench.records import Record, ResultStore, read_record
from medbench.results import Results
from medbench_leaderboards.board import build

LIKE = Path(__file__).resolve().parents[1] / "leaderboards" / "results" / "tiny" / "clip" / "rsna_lp"
SEEDS, COLUMNS, FRACTIONS = 3, 50, (0.01, 0.1, 1.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=10_000, help="default: 10000")
    parser.add_argument("--formats", default="", help="comma-separated; default: all")
    parser.add_argument("--keep", type=Path, help="make the folder there, or take the one that is there")
    options = parser.parse_args()
    catalogue = load_catalogue(third_party=False)
    wanted = options.formats.split(",") if options.formats else None
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        if not (folder / "tiny").exists():
            timed("made", lambda: make(folder, options.records))
        results = timed("read", lambda: Results.read(folder, catalogue, folder))
        board = timed("board", lambda: build(results))
        sizes = [f"{len(t.rows)} x {len(t.columns)}, {len(t.comparisons):,} pairs" for t in board.tables]
        say(f"{len(results.records):,} records; tables: {'; '.join(sizes)}")
        for spec in catalogue.leaderboards.values():
            if wanted is None or spec.format in wanted:
                files = timed(spec.format, lambda spec=spec: spec.load()(results))
                say(f"{len(files):,} files, {sum(map(len, files.values())) / 2**20:.1f} MiB")
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    return 0


def timed(what, work):
    """Do it, and say how long it took, in seconds of this process."""
    start = time.process_time()
    done = work()
    sys.stdout.write(f"{what:10} {time.process_time() - start:8.2f} s\n")
    sys.stdout.flush()
    return done


def say(text: str) -> None:
    sys.stdout.write(f"           {text}\n")


def make(folder: Path, count: int) -> None:
    """Methods whose quality falls with their number; all err on the same patients, and a little each on its own."""
    like, store = read_record(next(LIKE.glob("1pct-s0-*.json"))), ResultStore(folder)
    methods = -(-count // (SEEDS * COLUMNS))
    columns = [(f"task_{n // 3:02}", FRACTIONS[n % 3]) for n in range(COLUMNS)]
    draw = np.random.default_rng(0)
    left = count
    for task in sorted({task for task, _ in columns}):
        resample = Resample.of([f"{task}-{n}" for n in range(750)], np.arange(750) < 150)
        shared = draw.normal(size=DRAWS)
        for fraction in (fraction for name, fraction in columns if name == task):
            for method in range(methods):
                for seed in range(SEEDS):
                    if left:
                        value = float(
                            np.clip(0.7 + 0.1 * fraction + method / 500 + draw.normal() / 100, 0, 1)
                        )
                        values = value + 0.012 * shared + 0.008 * draw.normal(size=DRAWS)
                        record = one(like, f"method_{method:03}", task, fraction, seed, value)
                        store.write(record, None, Bootstrap(np.clip(values, 0, 1), resample), 0.015)
                        left -= 1


def one(like: Record, method: str, task: str, fraction: float, seed: int, value: float) -> Record:
    """A record with another identity and another value of its primary metric."""
    identity = like.identity.model_copy(
        update={"method": method, "task": task, "fraction": fraction, "seed": seed}
    )
    weights = identity.weights.model_copy(update={"key": f"{method}-{seed}"})
    identity = identity.model_copy(update={"weights": weights, "split_sha256": task})
    metrics = json.loads(json.dumps([metric.model_dump(mode="json") for metric in like.metrics]))
    metrics[0] |= {"value": value, "low": value - 0.03, "high": value + 0.03}
    content = like.model_dump(mode="json", by_alias=True)
    content |= {
        "identity": identity.model_dump(mode="json"),
        "cell_id": identity.cell_id(),
        "config_sha256": identity.config_sha256(),
        "metrics": metrics,
        "predictions": None,
        "draws": None,
    }
    return Record.model_validate(content)


if __name__ == "__main__":
    raise SystemExit(main())
