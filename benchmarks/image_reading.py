"""How much faster films come out of the prepared cache than out of their files.

    python benchmarks/image_reading.py                    # 1,000 phantom films, written to a temporary folder
    python benchmarks/image_reading.py --dir FOLDER       # your own DICOM, PNG and JPEG files

Prints images per second in one process, in random order: decoded and resized from the file each time, as
training without a cache would do in every epoch; and read from the memory map that `medbench.data.prepared`
made once. Files and map are both in the page cache if memory allows, so that the processor is compared, not
the disk.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from medbench.data.images import fit_square, read_image
from medbench.data.index import Index
from medbench.data.prepared import prepare
from medbench.progress import Progress

BATCH = 64


def films_below(folder: Path, count: int) -> Index:
    paths = (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".dcm", ".png", ".jpg", ".jpeg"))
    names = [str(path.relative_to(folder)) for path, _ in zip(paths, range(count), strict=False)]
    if not names:
        raise SystemExit(f"No .dcm, .png or .jpg file below {folder}.")
    table = pd.DataFrame({"sample": names, "image": names})
    table["bytes"] = [(folder / name).stat().st_size for name in names]
    table["boxes"] = pd.Series([None] * len(names), dtype=object)
    return Index("benchmark", folder, "real", table)


def phantom_films(folder: Path, count: int) -> Index:
    from medbench.phantom import rsna

    with Progress().track("writing phantom films", count, "films") as advance:
        rsna.write(folder, patients=count, workers=os.cpu_count() or 1, advance=advance)
    return films_below(folder, count)


def decoding_rate(index: Index, side: int, order: np.ndarray, seconds: float) -> float:
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        path = index.root / str(index.table["image"].iloc[order[done % len(order)]])
        fit_square(read_image(path), side, "pad")
        done += 1
    return done / spent


def mapped_rate(images: np.ndarray, order: np.ndarray, seconds: float) -> float:
    start, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < seconds:
        for at in range(0, len(order), BATCH):
            done += len(images[order[at : at + BATCH]])  # copies the pixels out of the map
    return done / spent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="a folder of films; default: phantom films")
    parser.add_argument("--count", type=int, default=1000, help="films at most (default: 1000)")
    parser.add_argument("--side", type=int, default=224, help="pixels of the square (default: 224)")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement (default: 5)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if options.dir is None:
            index = phantom_films(folder / "films", options.count)
        else:
            index = films_below(options.dir, options.count)
        workers = os.cpu_count() or 1
        start = time.perf_counter()
        prepared = prepare(index, options.side, "pad", folder / "cache", workers=workers, progress=Progress())
        building = len(index) / (time.perf_counter() - start)
        order = np.random.default_rng(0).permutation(len(index))
        decoded = decoding_rate(index, options.side, order, options.seconds)
        mapped = mapped_rate(prepared.images, order, options.seconds)
    sides = np.median(prepared.sizes, axis=0).astype(int)
    print(f"{len(index):,} films, {sides[0]} x {sides[1]} px (median), to {options.side} px")
    print(f"decode + resize   {decoded:12,.0f} images/s, one process")
    print(f"prepared cache    {mapped:12,.0f} images/s, one process")
    print(f"ratio             {mapped / decoded:12,.0f}")
    print(f"building it       {building:12,.0f} images/s, {workers} processes, their start included")


if __name__ == "__main__":
    main()
