"""How long the site takes to build and to open, with made-up records.

    python benchmarks/site_speed.py                    # 100 methods x 33 columns x 3 seeds, a record each
    python benchmarks/site_speed.py --methods 11 --keep DIR

Builds the pages of a made-up board, writes them below a folder, and opens the first one from disk in Chromium where
Playwright and a browser are there. Reading records and computing the board are not in it.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
from figures import Result

from medbench.records import (
    Corpus,
    Counts,
    GroupBlock,
    GroupValue,
    Identity,
    MetricValue,
    Predictions,
    Record,
    ReliabilityBlock,
    SpreadBlock,
    SubgroupsBlock,
    Times,
    WeightsIdentity,
)
from medbench.statistics.paired import Difference
from medbench_leaderboards.board import (
    Board,
    Cell,
    Column,
    Comparison,
    MeanRank,
    Missing,
    Ranking,
    Row,
    Seed,
    Table,
)
from medbench_leaderboards.site import site

FRACTIONS = (0.01, 0.1, 1.0)
FIDELITIES = ("official-code", "paper", "reconstruction", "baseline")
BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def board(
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int = 3,
    sources: Sequence[str] = ("phantom",),
    classes: Sequence[str] = ("effusion", "pneumonia"),
    text: str = "",
) -> Board:
    """A board of numbers that mean nothing: the last task does not train, the last method lacks its last column.

    Args:
        methods: names.
        tasks: names.
        classes: names.
        seeds: records of a cell.
        sources: a table each.
        text: put into every text that is anybody's: notes, reasons, configurations.
    """
    random = np.random.default_rng(0)
    records: dict[str, Record] = {}
    tables = [_table(random, records, source, methods, tasks, seeds, classes, text) for source in sources]
    old = next(iter(records.values()))
    old = old.model_copy(
        update={
            "cell_id": f"old{text}",
            "status": "skipped",
            "reason": f"too few films{text}",
            "metrics": [],
            "reliability": [],
            "subgroups": [],
        }
    )
    records[old.cell_id] = old
    paths = {key: f"tiny/{one.identity.method}/{key[:12]}.json" for key, one in records.items()}
    return Board(
        tuple(tables), (f"1 record of {tasks[0]} version 1; the newest is version 2{text}",), records, paths
    )


def _table(
    random: np.random.Generator,
    records: dict[str, Record],
    source: str,
    methods: Sequence[str],
    tasks: Sequence[str],
    seeds: int,
    classes: Sequence[str],
    text: str,
) -> Table:
    columns = [
        _column(source, task, fraction, trains, text)
        for place, task in enumerate(tasks)
        for trains in [place < len(tasks) - 1]
        for fraction in (FRACTIONS if trains else (1.0,))
    ]
    rows, cells, values = [], {}, {}
    for place, method in enumerate(methods):
        row = None
        for column in columns:
            made = [
                _record(random, source, method, FIDELITIES[place % 4], column, seed, place, classes, text)
                for seed in range(seeds)
            ]
            if row is None:
                row = Row(
                    key=f"{source}-{place}{text}",
                    name=method,
                    method=method,
                    fidelity=made[0].identity.fidelity,
                    owner=f"medbench 0.1.0{text}",
                    about=f"pretrained on {source} mimic_cxr; precision 32{text}",
                    identity=made[0].identity,
                )
                rows.append(row)
            if place == len(methods) - 1 and column is columns[-1]:
                cells[row.key, column.key] = Cell(row.key, column.key, "missing")
                continue
            records |= {one.cell_id: one for one in made}
            measured = [one.metrics[0].value or 0.0 for one in made]
            values[row.key, column.key] = fmean(measured)
            cells[row.key, column.key] = Cell(
                row=row.key,
                column=column.key,
                status="ok",
                seeds=tuple(
                    Seed(
                        one.identity.seed,
                        one.metrics[0].value,
                        one.metrics[0].low,
                        one.metrics[0].high,
                        one.cell_id,
                        "",
                        None,
                    )
                    for one in made
                ),
                mean=fmean(measured),
                sd=stdev(measured) if seeds > 1 else None,
                low=fmean(measured) - 0.021,
                high=fmean(measured) + 0.019,
                delong=(fmean(measured) - 0.02, fmean(measured) + 0.018),
                small=place % 5 == 3,
                rank=1 + place // 2,
                tied=True,
                marks=(
                    *(("small",) if place % 5 == 3 else ()),
                    *(("one seed",) if seeds == 1 else ()),
                    *(("contaminated",) if place % 7 == 5 else ()),
                ),
                notes=(f"a note{text}",) if place % 5 == 3 else (),
            )
    comparisons = tuple(
        _comparison(random, a, b, column.key, values[a.key, column.key] - values[b.key, column.key], text)
        for column in columns
        for a, b in combinations(sorted(rows, key=lambda row: row.name), 2)
        if (a.key, column.key) in values and (b.key, column.key) in values
    )
    last, column = rows[-1], columns[-1]
    how = f"medbench run --method {last.method} --task {column.task}{text}"
    return Table(
        source=source,
        recipe="tiny",
        size="full sets",
        name=f"{source}-tiny-full",
        rows=tuple(rows),
        columns=tuple(columns),
        cells=cells,
        comparisons=comparisons,
        ranking=_ranking(rows[:-1], columns, len(tasks)),
        image_ranking=_ranking(rows, columns[:-1], len(tasks) - 1) if len(tasks) > 1 else None,
        missing=(Missing(last.key, column.key, (0,), how),),
        notes=(f"a note on the table{text}",),
    )


def _ranking(rows: Sequence[Row], columns: Sequence[Column], tasks: int) -> Ranking:
    ranks = tuple(MeanRank(row.key, 1 + k, 0.8 + k, 1.3 + k) for k, row in enumerate(rows))
    return Ranking(tuple(column.key for column in columns), ranks, 1.4, tasks)


def _column(source: str, task: str, fraction: float, trains: bool, text: str) -> Column:
    percent = f"{100 * fraction:g}%"
    return Column(
        key=f"{source} {task} {percent}{text}",
        name=f"{task} {percent}" if trains else task,
        task=task,
        version=2,
        fraction=fraction,
        trains=trains,
        dataset="rsna",
        subset=None,
        split="mgca_cls",
        test=4003,
        metric="auroc",
        metric_version=1,
        higher_is_better=True,
        about=f"auroc in %, higher is better; rsna; split mgca_cls, 4,003 test samples{text}",
    )


def _comparison(
    random: np.random.Generator, a: Row, b: Row, column: str, value: float, text: str
) -> Comparison:
    p = float(random.uniform(0, 0.2))
    reason = f"one seed: training noise not counted{text}"
    difference = Difference(
        value, value - 0.02, value + 0.02, p, 0.01, None, float("inf"), "DeLong", (1, 1), reason
    )
    return Comparison(a.key, b.key, column, difference, min(1.0, 2 * p))


def _record(
    random: np.random.Generator,
    source: str,
    method: str,
    fidelity: str,
    column: Column,
    seed: int,
    place: int,
    classes: Sequence[str],
    text: str,
) -> Record:
    """About as large as one of a linear probe."""
    quality = 0.94 - 0.02 * place**0.7 - 0.04 * (1 - np.log10(100 * column.fraction) / 2)
    value = float(np.clip(quality + random.normal(0, 0.006), 0.4, 0.99))
    config = {f"text{text}": text} | {f"field_{k}": k / 7 for k in range(60)}
    identity = Identity(
        method=method,
        method_owner=f"medbench 0.1.0{text}",
        fidelity=fidelity,
        task=column.task,
        task_version=2,
        task_owner="medbench 0.1.0",
        recipe="tiny",
        precision="32",
        fraction=column.fraction,
        seed=seed,
        source=source,
        dataset="rsna",
        subset=None,
        data_fingerprint="d" * 64,
        split="mgca_cls",
        split_sha256="e" * 64,
        train_sha256="f" * 64,
        weights=WeightsIdentity(
            kind="pretrained",
            key=f"{method}-{seed}",
            corpus=Corpus(dataset="mimic_cxr", source=source, fingerprint="c" * 64),
        ),
        method_config=config,
        pretrain_config={"lr": 0.002, "betas": [0.9, 0.999], f"text{text}": text},
        task_config={"penalties": [10.0**k for k in range(-6, 5)], "given": {"classes": list(classes)}},
    )
    metrics = [
        MetricValue(
            name=name,
            value=value,
            low=value - 0.02,
            high=value + 0.02,
            interval="95 % percentile bootstrap over patients, 2000 draws, strata by positive",
            n=4003,
            per_class={label: value + k / 100 for k, label in enumerate(classes)},
        )
        for name in ("auroc", "average_precision", "f1", "accuracy", "brier", "ece_width_15", "ece_mass_15")
    ]
    groups = [
        GroupBlock(
            name=name,
            known=name != "unknown",
            samples=900,
            patients=800,
            metrics=[
                GroupValue(name=m.name, value=m.value, low=m.low, high=m.high, n=900, note=text)
                for m in metrics
            ],
        )
        for name in ("F", "M", "unknown")
    ]
    spread = SpreadBlock(
        metric="auroc",
        higher_is_better=True,
        worst=0.7,
        worst_low=0.6,
        worst_high=0.8,
        worst_group="F",
        best=0.8,
        best_group="M",
        gap=0.1,
        left_out=["unknown"],
    )
    bins = ReliabilityBlock(
        label=classes[0],
        binning="width",
        edges=[k / 15 for k in range(16)],
        counts=list(range(15)),
        confidence=[(k + 0.5) / 15 for k in range(15)],
        positives=[k / 15 for k in range(15)],
        low=[None, *[k / 16 for k in range(14)]],
        high=[None, *[(k + 1) / 15 for k in range(14)]],
        interval="bootstrap",
        n=4003,
        missing=0,
    )
    return Record(
        cell_id=f"{identity.cell_id()}",
        status="ok",
        identity=identity,
        primary_metric="auroc",
        metrics=metrics,
        subgroups=[SubgroupsBlock(column="sex", groups=groups, spreads=[spread])],
        reliability=[bins, bins.model_copy(update={"binning": "mass"})],
        counts=Counts(
            train=186, train_patients=180, validation=4003, test=4003, pixels_sha256={"108 pad": "a" * 64}
        ),
        search={
            "chosen": {
                label: {"penalty": 1e-3, "validation_auroc_by_penalty": [0.7] * 11} for label in classes
            }
        },
        predictions=Predictions(path="p.parquet", sha256="b" * 64, rows=4003),
        environment={"versions": {f"package-{k}": "1.2.3" for k in range(20)}, "system": f"Linux{text}"},
        config_sha256="9" * 64,
        times=Times(created="2026-01-01T00:00:00+00:00", duration_s=12.5, phases={"evaluate": 1.0}),
    )


def write(files: Mapping[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def chromium() -> str | None:
    """The browser of this machine, None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def opened(page: Path, repeats: int = 5) -> tuple[float, float]:
    """Seconds until the page is laid out and its script has run, in Chromium; processor time of its main thread.

    Medians, of tabs that are opened one after another.
    """
    from playwright.sync_api import sync_playwright

    drawn = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    seconds, used = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(BROWSER_FLAGS))
        for _ in range(repeats):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tools = tab.context.new_cdp_session(tab)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            tab.goto(page.as_uri(), wait_until="load")
            tab.evaluate(drawn)
            seconds.append(float(tab.evaluate("() => performance.now()")) / 1000)
            figures = {
                each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]
            }
            used.append(float(figures["TaskDuration"]))
            tab.close()
        browser.close()
    return median(seconds), median(used)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=12, help="each but the last at three fractions")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the pages there and leave them")
    options = parser.parse_args()
    made = board(
        [f"method_{k}" for k in range(options.methods)],
        [f"task_{k}" for k in range(options.tasks)],
        options.seeds,
    )
    start, used = time.perf_counter(), time.process_time()
    files = site(made, ())
    seconds, used = time.perf_counter() - start, time.process_time() - used
    print(
        f"{len(made.records):,} records, {len(files):,} files, {sum(map(len, files.values())) / 1e6:.0f} MB"
    )
    print(f"index.html: {len(files['index.html']) / 1e6:.2f} MB")
    print(Result("building the pages", seconds, "s", 30, most=True))
    print(f"processor time of it, which other work on the machine stretches less: {used:.1f} s")
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        write(files, folder)
        print(f"writing them: {time.perf_counter() - start:.1f} s")
        if chromium() is None:
            print("opening: not measured, there is no chromium")
        else:
            seconds, used = opened(folder / "index.html")
            print(Result("opening the overview", seconds, "s", 1, most=True))
            print(f"processor time of it: {used:.2f} s")
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
