"""How fast, and in how much memory, films are prepared and read: each goal as a ratio that one run measures.

    python benchmarks/data.py                         # every part, at full size: half an hour, 20 GB of disk
    python benchmarks/data.py jpeg sample batch       # these parts
    python benchmarks/data.py jpeg --films 40         # smaller

Parts:

- `jpeg`, `dicom`: preparing on all cores against (cores x the rate at which one core decodes, resizes and stores), the
  start of processes and checksums included. JPEG files are 2544 x 3056 as in MIMIC-CXR-JPG, DICOM files 1024 px as in
  RSNA's challenge (JPEG baseline inside).
- `memory`: the most that preparing takes at any time, over all its processes, for `--films` phantom films, for `--rows`
  rows of an index that are links to them, and for 100 DICOM films of 3000 x 2500 with 16 bits and no window. Shares of
  pages are counted as the kernel counts them (Pss).
- `sample`: a film out of the prepared cache against decoding and resizing a 2544 x 3056 JPEG file.
- `batch`: 64 films out of the cache, cut at random, normalised, as a float32 tensor, on one core; as in training, torch
  keeps the memory that it frees.
- `phantom`: `--studies` phantom patients, spread over all layouts, on all cores.

Files and cache are in the page cache if memory allows, so that the processor is compared, not the disk. `sample` and
`batch` are measured in processor time; other work on the machine spoils the other parts.
"""

import argparse
import importlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from figures import Result
from PIL import Image

from medbench.data.decoding import Chunk, Target, _do
from medbench.data.images import fit_square, read_image, read_square
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages, prepare
from medbench.data.shards import copy_rows
from medbench.progress import Progress
from medbench.specs import DatasetSpec

if TYPE_CHECKING:
    from pydicom.uid import UID

CORES = len(os.sched_getaffinity(0))
SIDE = 256
CROP = 224
BATCH = 64
LARGE = (3056, 2544)
"""Height and width of a film of MIMIC-CXR-JPG."""

DEEP = (3000, 2500)
"""Height and width of a large film of 16 bits."""

DEEP_FILMS = 100
"""Of those; each process has its largest moment within the first few."""

DISTINCT = 8
"""Films that are drawn; the others are links to them."""

CACHED = 2_000
"""Films, at least, that a cache is read from: 130 MB, more than what a processor keeps to itself."""

SPEC = DatasetSpec("benchmark", "none:None", "films made here", "")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    films: int
    rows: int
    studies: int
    seconds: float
    progress: Progress


def drawn(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Soft shapes, fine lines and noise: about as hard to compress as a film."""
    random = np.random.default_rng(seed)
    down, across = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    film = 150 - 110 * np.exp(-(((np.abs(across) - 0.4) / 0.25) ** 2) - (down / 0.6) ** 2)
    film = film + 25 * np.sin(30 * down + 7 * across**2) + random.normal(0, 4, (height, width))
    return np.clip(film, 0, 255).astype(np.uint8)


def write_jpeg(path: Path, seed: int) -> None:
    Image.fromarray(drawn(*LARGE, seed)).save(path, "JPEG", quality=92)


def write_dicom(path: Path, seed: int) -> None:
    import io

    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit

    buffer = io.BytesIO()
    Image.fromarray(drawn(1024, 1024, seed)).save(buffer, "JPEG", quality=92)
    save_dicom(path, seed, (1024, 1024), 8, encapsulate([buffer.getvalue()]), JPEGBaseline8Bit)


def write_deep(path: Path, seed: int) -> None:
    from pydicom.uid import ExplicitVRLittleEndian

    fine = np.random.default_rng(seed).integers(0, 256, DEEP, dtype=np.uint16)
    pixels = (drawn(*DEEP, seed).astype(np.uint16) << 8) | fine
    save_dicom(path, seed, DEEP, 16, pixels.tobytes(), ExplicitVRLittleEndian)


def save_dicom(
    path: Path, seed: int, shape: tuple[int, int], bits: int, pixels: bytes, syntax: "UID"
) -> None:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ComputedRadiographyImageStorage

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.{seed + 1}"
    meta.TransferSyntaxUID = syntax
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits, bits - 1, 0
    data.PixelData = pixels
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    data.save_as(path, enforce_file_format=True)


def linked(folder: Path, count: int, files: list[Path]) -> Index:
    """An index of `count` films, which are links to these files in turn."""
    folder.mkdir()
    names = [f"{number:06d}" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).symlink_to(files[number % len(files)])
    return index_of(folder, names)


def index_of(folder: Path, names: list[str]) -> Index:
    sizes = [(folder / name).stat().st_size for name in names]
    return Index.of(SPEC, folder, {"sample": names, "patient": names, "image": names, "bytes": sizes})


def films(folder: Path, count: int, write: Callable[[Path, int], None]) -> Index:
    folder.mkdir()
    files = [folder / f"{seed}" for seed in range(min(DISTINCT, count))]
    for seed, path in enumerate(files):
        write(path, seed)
    return linked(folder / "links", count, files)


def rate(work: Callable[[], int], seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Units a second of `work`, which says how many it did; called again and again."""
    work()  # imports, page cache
    start, done = clock(), 0
    while (spent := clock() - start) < seconds:
        done += work()
    return done / spent


def against_one_core(what: str, folder: Path, index: Index, sizes: Sizes) -> Result:
    count = min(BATCH, len(index))
    target = folder / "one.npy"
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(count, SIDE, SIDE)).flush()
    images = index.table["image"].tolist()[:count]
    chunk = Chunk(index.root, list(range(count)), images, Target(target, 0, SIDE, "pad"))
    one = rate(lambda: len(_do(chunk).rows), sizes.seconds, time.perf_counter)
    start = time.perf_counter()
    prepare(index, SIDE, "pad", folder / "cache", workers=CORES, progress=sizes.progress)
    every = len(index) / (time.perf_counter() - start)
    name = f"prepare {what}: {every:,.0f} a second, {CORES} x {one:,.0f} by one core"
    return Result(name, every / (CORES * one), "times", 0.85)


def jpeg(folder: Path, sizes: Sizes) -> Iterator[Result]:
    yield against_one_core("JPEG", folder, films(folder / "films", sizes.films, write_jpeg), sizes)


def dicom(folder: Path, sizes: Sizes) -> Iterator[Result]:
    yield against_one_core("DICOM", folder, films(folder / "films", sizes.films, write_dicom), sizes)


def memory(folder: Path, sizes: Sizes) -> Iterator[Result]:
    from medbench.phantom import rsna

    with sizes.progress.track("writing phantom films", sizes.films, "films") as advance:
        rsna.write(folder / "phantom", patients=sizes.films, workers=CORES, advance=advance)
    found = sorted((folder / "phantom" / "stage_2_train_images").iterdir())
    linked(folder / "links", sizes.rows, found)
    deep = films(folder / "deep", DEEP_FILMS, write_deep).root
    for what, below, side in (
        (f"{len(found):,} films", found[0].parent, CROP),
        (f"{sizes.rows:,} rows of links", folder / "links", 64),
        (f"{DEEP_FILMS} films of 16 bits, {DEEP[0]} x {DEEP[1]},", deep, CROP),
    ):
        peak = peak_memory(below, side, folder / "cache")
        yield Result(f"memory of preparing {what} at {side} px", peak / 1e9, "GB", 1, most=True)


def peak_memory(below: Path, side: int, cache: Path) -> int:
    """Bytes, the most at any time, of a process that prepares and of those that it starts."""
    child = multiprocessing.get_context("spawn").Process(target=prepare_all, args=(below, side, cache))
    child.start()
    peak = 0
    while child.is_alive():
        peak = max(peak, sum(pss(process) for process in family(child.pid or 0)))
        time.sleep(0.1)
    if child.exitcode:
        raise SystemExit("preparing failed, see above")
    return peak


def prepare_all(below: Path, side: int, cache: Path) -> None:
    index = index_of(below, sorted(os.listdir(below)))
    prepare(index, side, "pad", cache, workers=CORES, progress=Progress())


def family(process: int) -> list[int]:
    """A process and all below it."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                found += family(int(child))
        except OSError:
            continue  # it ended
    return found


def pss(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def prepared(folder: Path, sizes: Sizes) -> Iterator[tuple[PreparedImages, Path]]:
    """Prepared films, `CACHED` at least, and a large file."""
    count = max(sizes.films, CACHED)
    small = folder / "small"
    small.mkdir()
    names = [f"{number}.jpg" for number in range(count)]
    for number in range(DISTINCT):
        Image.fromarray(drawn(SIDE, SIDE, number)).save(small / names[number])
    for number in range(DISTINCT, count):
        (small / names[number]).symlink_to(small / names[number % DISTINCT])
    index = index_of(small, names)
    write_jpeg(folder / "large.jpg", 0)
    made = prepare(index, SIDE, "pad", folder / "cache", workers=CORES, progress=sizes.progress)
    yield made, folder / "large.jpg"


def sample(folder: Path, sizes: Sizes) -> Iterator[Result]:
    with prepared(folder, sizes) as (made, large):
        order = np.random.default_rng(0).permutation(len(made.images))
        out = np.empty((BATCH, SIDE, SIDE), np.uint8)
        random = np.random.default_rng(1)

        def read() -> int:
            at = int(random.integers(0, len(order) - BATCH + 1))
            copy_rows(made.images, np.sort(order[at : at + BATCH]), out)
            return BATCH

        def decode() -> int:
            fit_square(read_image(large), SIDE, "pad")
            return 1

        def decode_scaled() -> int:
            read_square(large, SIDE, "pad")
            return 1

        fast = rate(read, sizes.seconds)
        for how, work in (("full", decode), ("scaled", decode_scaled)):
            slow = rate(work, sizes.seconds)
            name = f"read {SIDE} px: {fast:,.0f} a second, {how} decoding {slow:,.1f}"
            yield Result(name, fast / slow, "times", 15)


def batch(folder: Path, sizes: Sizes) -> Iterator[Result]:
    import torch

    from medbench.data.augment import crop, random_corners
    from medbench.memory import keep_freed_memory
    from medbench.model import Preprocessing
    from medbench.seeding import uniforms

    torch.set_num_threads(1)
    keep_freed_memory()
    inputs = Preprocessing(CROP, SIDE, (0.5,) * 3, (0.5,) * 3)
    with prepared(folder, sizes) as (made, _):
        count = len(made.images)
        number = 0

        def assemble() -> int:
            nonlocal number
            number += 1
            rows = np.sort(np.random.default_rng(number).choice(count, BATCH, replace=False))
            corners = random_corners(uniforms(0, number, rows, 2), SIDE, CROP)
            taken = torch.empty((BATCH, SIDE, SIDE), dtype=torch.uint8)
            copy_rows(made.images, rows, taken.numpy())
            tensor = inputs.normalise(crop(taken, torch.from_numpy(corners), CROP))
            return len(tensor) // BATCH

        each = 1000 / rate(assemble, sizes.seconds)
    yield Result(f"batch of {BATCH} x {CROP} px, one core", each, "ms", 25, most=True)


def phantom(folder: Path, sizes: Sizes) -> Iterator[Result]:
    from medbench.plugins import load_catalogue

    layouts = [spec for spec in load_catalogue(third_party=False).datasets.values() if spec.phantom]
    start, studies, images = time.perf_counter(), 0, 0
    for number, spec in enumerate(layouts):
        module, _, function = spec.phantom.partition(":")
        twin = importlib.import_module(module)
        patients = sizes.studies * (number + 1) // len(layouts) - sizes.studies * number // len(layouts)
        if not patients:
            continue
        with sizes.progress.track(f"writing {spec.name}", twin.total(patients), "films") as advance:
            getattr(twin, function)(folder / spec.name, patients=patients, workers=CORES, advance=advance)
        studies, images = studies + patients, images + twin.total(patients)
    spent = time.perf_counter() - start
    name = f"{studies:,} phantom patients, {images:,} films, {len(layouts)} layouts"
    yield Result(name, spent, "s", 180, most=True)


PARTS = {part.__name__: part for part in (jpeg, dicom, memory, sample, batch, phantom)}


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--films", type=int, default=0, help="default: 2,000; memory: 20,000")
    parser.add_argument("--rows", type=int, default=200_000, help="of links (default: 200,000)")
    parser.add_argument("--studies", type=int, default=5_000, help="phantom patients (default: 5,000)")
    parser.add_argument("--seconds", type=float, default=10, help="of each rate (default: 10)")
    parser.add_argument("--folder", type=Path, help="to work in (default: a temporary one)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(words)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        count = options.films or (20_000 if name == "memory" else 2_000)
        sizes = Sizes(count, options.rows, options.studies, options.seconds, Progress(quiet=options.quiet))
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            for result in PARTS[name](Path(scratch), sizes):
                print(result, flush=True)


if __name__ == "__main__":
    main()
