"""How long leaderboards take: makes a results folder of so many records, reads it, builds the board and each format.

    python benchmarks/leaderboard.py
    python benchmarks/leaderboard.py --methods 20 --columns 9 --formats csv,markdown --keep DIR
    python benchmarks/leaderboard.py --methods 1000 --columns 100 --formats markdown     # 300,000 records, 7 GB

The records are made up, each as large as one of `rsna_lp`, with the draws of its metric beside it and no predictions:
methods with three seeds in columns of a task and a label fraction. Nothing is measured of films or models. Times are
those of this process and of those that it starts, and of the clock; `peak` is the memory of this process so far.
"""

import argparse
import io
import json
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medbench.files import sha256_bytes
from medbench.metrics.bootstrap import DRAWS, Resample
from medbench.plugins import load_catalogue
from medbench.record_index import RecordIndex
from medbench.records import Record, ResultStore, fraction_name, read_record, sha256_json
from medbench.results import Results
from medbench_leaderboards.board import build

LIKE = Path(__file__).resolve().parents[1] / "leaderboards" / "results" / "tiny" / "clip" / "rsna_lp"
SEEDS, FRACTIONS = 3, (0.01, 0.1, 1.0)
DRAWN = 200
"""Methods beyond which records name draws that are not there: tables of so many compare nothing, and read none."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=int, default=67, help="default: 67")
    parser.add_argument("--columns", type=int, default=50, help="default: 50")
    parser.add_argument("--formats", default="", help="comma-separated; default: all")
    parser.add_argument("--keep", type=Path, help="make the folder there, or take the one that is there")
    options = parser.parse_args()
    catalogue = load_catalogue(third_party=False)
    wanted = options.formats.split(",") if options.formats else None
    folder = options.keep or Path(tempfile.mkdtemp())
    cache = Path(tempfile.mkdtemp())
    columns = [(f"task_{n // 3:02}", FRACTIONS[n % 3]) for n in range(options.columns)]
    try:
        if not (folder / "tiny").exists():
            timed("made", lambda: make(folder, options.methods, columns, SEEDS))
        index = RecordIndex(folder, cache)
        timed("index", index.listed)
        listed = timed("listed", index.listed)
        say(f"{len(listed):,} records, index of {index.file.stat().st_size / 2**20:,.0f} MiB")
        del listed
        results = timed("read", lambda: Results.read(folder, catalogue, folder, cache))
        board = timed("board", lambda: build(results))
        sizes = [f"{len(t.rows)} x {len(t.columns)}, {len(t.comparisons):,} pairs" for t in board.tables]
        say(f"{len(results.records):,} records; tables: {'; '.join(sizes)}")
        for spec in catalogue.leaderboards.values():
            if wanted is None or spec.format in wanted:
                files = timed(spec.format, lambda spec=spec: spec.load()(results))
                say(f"{len(files):,} files, {sum(map(len, files.values())) / 2**20:.1f} MiB")
    finally:
        shutil.rmtree(cache)
        if options.keep is None:
            shutil.rmtree(folder)
    return 0


def timed(what, work):
    """Do it, and say how long it took."""
    start, used = time.perf_counter(), processor_seconds()
    done = work()
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    sys.stdout.write(f"{what:10} {used:8.2f} s of a processor, {seconds:8.2f} s, peak {peak:6,.0f} MiB\n")
    sys.stdout.flush()
    return done


def processor_seconds() -> float:
    """Of this process and those that it started and that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def say(text: str) -> None:
    sys.stdout.write(f"           {text}\n")


def make(folder: Path, methods: int, columns: Sequence[tuple[str, float]], seeds: int) -> None:
    """Methods whose quality falls with their number; all err on the same patients, and a little each on its own.

    Records are made by putting words into the text of one: `ResultStore.write` would take hours for 300,000.
    """
    like = read_record(next(LIKE.glob("1pct-s0-*.json")))
    identity = like.identity.model_dump(mode="json")
    text = placeholders(like, identity)
    draw = np.random.default_rng(0)
    for task in dict.fromkeys(task for task, _ in columns):
        resample = Resample.of([f"{task}-{n}" for n in range(750)], np.arange(750) < 150)
        shared = draw.normal(size=DRAWS)
        for fraction in (fraction for name, fraction in columns if name == task):
            for number in range(methods):
                method = f"method_{number:04}"
                path = ResultStore(folder).path(
                    like.identity.model_copy(update={"method": method, "task": task}), ""
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                for seed in range(seeds):
                    quality = 0.7 + 0.1 * fraction + 0.13 * number / methods + draw.normal() / 100
                    value = float(np.clip(quality, 0, 1))
                    own = about(identity, method, task, fraction, seed)
                    name = f"{fraction_name(fraction).replace('%', 'pct')}-s{seed}-{own['cell_id'][:12]}"
                    own |= {"draws": f"{name}.draws.npy", "resample": resample.key}
                    own |= {"value": value, "low": value - 0.03, "high": value + 0.03}
                    if methods <= DRAWN:
                        array = npy(np.clip(value + 0.012 * shared + 0.008 * draw.normal(size=DRAWS), 0, 1))
                        path.with_name(own["draws"]).write_bytes(array)
                        own["draws_sha256"] = sha256_bytes(array)
                    else:
                        own["draws_sha256"] = resample.key
                    path.with_name(f"{name}.json").write_text(
                        text % {k: json.dumps(v) for k, v in own.items()}
                    )


def about(identity: dict, method: str, task: str, fraction: float, seed: int) -> dict:
    """What is another one in each record; puts it into `identity`, of which the cell's id is the hash."""
    own = {"method": method, "task": task, "fraction": fraction, "seed": seed}
    own |= {
        "split_sha256": sha256_bytes(task.encode()),
        "train_sha256": sha256_bytes(f"{fraction} {seed}".encode()),
    }
    identity |= own
    identity["weights"]["key"] = sha256_bytes(f"{method} {seed}".encode())
    return own | {"key": identity["weights"]["key"], "cell_id": sha256_json(identity)}


def placeholders(like: Record, identity: dict) -> str:
    """The text of a record, a `%` format of what `make` puts in."""
    content = like.model_dump(mode="json", by_alias=True)
    mark = "@{}@".format
    content["identity"] = identity | {
        name: mark(name) for name in ("method", "task", "fraction", "seed", "split_sha256", "train_sha256")
    }
    content["identity"]["weights"] = identity["weights"] | {"key": mark("key")}
    content["metrics"][0] |= {name: mark(name) for name in ("value", "low", "high")}
    content["draws"] |= {"path": mark("draws"), "sha256": mark("draws_sha256"), "resample": mark("resample")}
    content["draws"] |= {"patients": 750, "positive_patients": 150, "samples": 750, "positive_samples": 150}
    content |= {"cell_id": mark("cell_id"), "predictions": None}
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    return re.sub('"@([a-z0-9_]+)@"', r"%(\1)s", text.replace("%", "%%"))


def npy(values) -> bytes:
    """A file of numpy's own kind."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
