"""How long the index of MIMIC-CXR takes, and how much memory: `python benchmarks/mimic_index.py [FOLDER]`.

Writes tables, reports and films of one byte as the release has them, in its numbers or in a share of them
(`--rows 20000`), then builds the index in a process of its own and prints its time, its processor time and its greatest
memory. The reports are phantom ones, in the archive or (`--tree`) unpacked. `--no-films` writes no films: their sizes
are asked for all the same, and taken for one byte.
"""

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from medbench.phantom import mimic_cxr as phantom
from medbench.phantom.grammar import CHEXPERT, write_report
from medbench.phantom.study import stream

ROWS, STUDIES, PATIENTS = 377_110, 227_835, 65_379
"""Of the release."""

_VIEWS = {"AP": 0.39, "PA": 0.255, "LATERAL": 0.22, "LL": 0.093, "": 0.042}
"""Shares of the views, about."""


def write(root: Path, rows: int, tree: bool, films: bool) -> None:
    """Write a folder with as many rows of the metadata table, and studies and patients in proportion."""
    rng = np.random.default_rng(0)
    patients, studies = max(1, rows * PATIENTS // ROWS), max(1, rows * STUDIES // ROWS)
    subject = 10_000_032 + np.sort(rng.integers(0, patients, studies)) * (9_000_000 // patients)
    study = 50_000_014 + np.arange(studies) * (9_000_000 // studies)
    own = np.sort(np.concatenate([np.arange(studies), rng.integers(0, studies, max(0, rows - studies))]))
    dicom = [f"{a:016x}-{b:016x}" for a, b in rng.integers(0, 2**62, (len(own), 2))]
    ids = {"dicom_id": dicom, "subject_id": subject[own], "study_id": study[own]}
    views = rng.choice(list(_VIEWS), len(own), p=np.array(list(_VIEWS.values())) / sum(_VIEWS.values()))
    root.mkdir(parents=True, exist_ok=True)
    part = np.array(["train", "validate", "test"])[np.searchsorted([0.98, 0.99], rng.random(len(own)))]
    labels = rng.choice([1.0, 0.0, -1.0, np.nan], (studies, len(CHEXPERT)), p=[0.1, 0.05, 0.05, 0.8])
    tables = {
        "metadata": pd.DataFrame({**ids, "ViewPosition": views, "Rows": 2544, "Columns": 3056}),
        "split": pd.DataFrame({**ids, "split": part}),
        "chexpert": pd.DataFrame({"subject_id": subject, "study_id": study}).join(
            pd.DataFrame(labels, columns=list(CHEXPERT))
        ),
    }
    for name, table in tables.items():
        with gzip.open(root / f"mimic-cxr-2.0.0-{name}.csv.gz", "wt", compresslevel=1) as file:
            table.to_csv(file, index=False)
    names = [f"files/p{str(p)[:2]}/p{p}/s{s}" for p, s in zip(subject, study, strict=True)]
    reports = []
    for number in range(500):
        who = phantom.patient(number)
        reports.append(write_report(who, who.studies[0], stream("bench", 0, number)).text)
    texts = (f"{reports[n % 500]} Film number {n} of this series is compared.\n" for n in range(studies))
    if tree:
        for name, text in zip(names, texts, strict=True):
            path = root / "mimic-cxr-reports" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    else:
        with zipfile.ZipFile(
            root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as archive:
            for name, text in zip(names, texts, strict=True):
                archive.writestr(f"{name}.txt", text)
    if films:
        for row, name in zip(own, dicom, strict=True):
            path = root / names[row] / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


def measure(root: Path, films: bool) -> dict[str, float]:
    """Build the index in this process."""
    from medbench_tasks import medbench_datasets
    from medbench_tasks.datasets import mimic_cxr

    spec = next(spec for spec in medbench_datasets() if spec.name == "mimic_cxr")
    if not films:
        asked = mimic_cxr.file_sizes
        mimic_cxr.file_sizes = lambda folder, names: np.maximum(asked(folder, names), 1)
    began, worked = time.perf_counter(), time.process_time()
    index = mimic_cxr.MimicCxr(spec, root).index()
    return {
        "pairs": len(index),
        "seconds": time.perf_counter() - began,
        "processor seconds": time.process_time() - worked,
        "greatest memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Write, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--tree", action="store_true")
    parser.add_argument("--no-films", action="store_true")
    parser.add_argument("--measure", action="store_true", help="the folder is written already")
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder, not given.no_films)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = given.folder or Path(scratch) / "mimic_cxr"
        if not (root / "mimic-cxr-2.0.0-metadata.csv.gz").exists():
            write(root, given.rows, given.tree, not given.no_films)
        own = [*(["--no-films"] if given.no_films else []), "--measure", str(root)]
        answer = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
        found = json.loads(answer.stdout)
    print(f"{given.rows:,} rows, reports {'unpacked' if given.tree else 'in the archive'}")
    for name, value in found.items():
        print(f"  {name:22} {value:10,.1f}")


if __name__ == "__main__":
    main()
