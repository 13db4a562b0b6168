"""Checking a dataset folder: where it comes from, what is wrong with it, and what to do then.

Problems are found in three places. Reading the index finds what the tables and a directory listing show:
missing or empty files, bad rows and boxes. Preparing the images finds what decoding shows: broken files,
boxes outside their image. `verify` looks for both on demand. All end in one message, and with
`--exclude-broken` in `Index.excluded`.
"""

import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.csv_tables import read_csv
from medbench.data.dataset import Dataset
from medbench.data.decoding import Chunk, Outcome, decode
from medbench.data.images import image_size
from medbench.data.index import Index, Problem
from medbench.data.regions import EDGE, MaskFile
from medbench.data.split_check import SplitCheck
from medbench.errors import DataError
from medbench.progress import Progress
from medbench.specs import DatasetSpec

SAMPLED = 1_000
"""Headers read, about, of images without boxes and regions."""

_CHUNK = 16
"""Images that a process decodes at a time."""

NAMED = 10
"""Problems that a message names; the others are counted."""


class BrokenSamples(DataError):
    """Samples of a dataset have problems.

    Attributes:
        dataset: name of the dataset.
        root: its folder.
        problems: one for each sample and thing that is wrong with it.
    """

    def __init__(self, message: str, index: Index, problems: Sequence[Problem]) -> None:
        super().__init__(message)
        self.dataset = index.dataset
        self.root = index.root
        self.problems = tuple(problems)


def where_to_get(spec: DatasetSpec, root: Path) -> str:
    """How to get a dataset, and how to check what one has."""
    access = f"Get it from {spec.access} . " if spec.access else ""
    return f"{access}Check it with: medbench data verify {spec.name} --data {spec.name}={root}"


def list_problems(problems: Sequence[Problem]) -> str:
    """Problems counted by kind and the first ones named, on several lines."""
    kinds = Counter(re.split(r" \(|: ", problem.what, maxsplit=1)[0] for problem in problems)
    lines = [f"  {count:,} x {kind}" for kind, count in kinds.most_common()] if len(problems) > 1 else []
    lines += [f"  {problem}" for problem in problems[:NAMED]]
    if len(problems) > NAMED:
        lines.append(f"  ... and {len(problems) - NAMED:,} more")
    return "\n".join(lines)


def settle(dataset: Dataset, index: Index, problems: Sequence[Problem], *, exclude_broken: bool) -> Index:
    """The index of a dataset without the samples that have problems, if the user said so.

    Raises:
        BrokenSamples: there are problems and `exclude_broken` is False.
        DataError: nothing is left.
    """
    problems = [*problems, *_leading_out(index)]
    if not problems:
        return index
    spec, root = dataset.spec, dataset.root
    if not exclude_broken:
        raise BrokenSamples(
            f"{spec.name}: {len({p.sample for p in problems}):,} samples have problems in {root}:\n"
            f"{list_problems(problems)}\n"
            f"Mend them, or leave these samples out with --exclude-broken. {where_to_get(spec, root)}",
            index,
            problems,
        )
    left = leave_out(index, problems)
    if not len(left):
        raise DataError(
            f"{spec.name}: no sample in {root} is without problems:\n{list_problems(problems)}\n"
            f"{where_to_get(spec, root)}"
        )
    return left


def _leading_out(index: Index) -> Iterator[Problem]:
    """Films and masks that a table looks for elsewhere than in the dataset's folder.

    What is linked into the folder is in it: the table is somebody's, the links are the user's own.
    """
    table = index.table
    masks = table["regions"] if "regions" in table else [None] * len(table)
    for sample, image, regions in zip(table["sample"], table["image"], masks, strict=True):
        for path in (image, *(region.path for region in regions or () if isinstance(region, MaskFile))):
            if ".." in path.split("/") or path.startswith("/"):
                yield Problem(str(sample), path, "path leads out of the dataset's folder")


def leave_out(index: Index, problems: Iterable[Problem]) -> Index:
    """The index without the samples that these problems name, and the problems in `Index.excluded`."""
    problems = tuple(problems)
    keep = ~index.table["sample"].isin({problem.sample for problem in problems}).to_numpy()
    return replace(index.select(keep), excluded=index.excluded + problems)


def file_problem(size: int | None) -> str | None:
    """What is wrong with an image file of this size in bytes (None: there is no such file)."""
    if size is None:
        return "no such file (it is in the labels, not on disk)"
    return "file is empty" if size == 0 else None


def box_problem(box: npt.NDArray[np.float64]) -> str | None:
    """What is wrong with a box (x, y, width, height), as far as can be told without its image."""
    x, y, width, height = box.tolist()
    if not math.isfinite(x + y + width + height):
        what = "box is not four numbers"
    elif width <= 0 or height <= 0:
        what = "box without area"
    elif x < -EDGE or y < -EDGE:
        what = "box outside its image"
    else:
        return None
    return f"{what} (x, y, width, height: {x:g}, {y:g}, {width:g}, {height:g})"


def outside(index: Index, sizes: npt.NDArray[np.int64]) -> list[Problem]:
    """Boxes that pass the right or lower edge of their image, and regions that do not fit it.

    Args:
        index: the dataset.
        sizes: (N, 2) height and width of each file in pixels; rows that are not known are 0 and not looked
            at.
    """
    problems = []
    outlined = "regions" in index.table
    for row, boxes in enumerate(index.table["boxes"]):
        regions = index.table["regions"].iloc[row] if outlined else None
        if not sizes[row, 0] or not (regions or (boxes is not None and len(boxes))):
            continue
        height, width = sizes[row].tolist()
        sample, image = (str(value) for value in index.table.loc[row, ["sample", "image"]])
        for region in regions or ():
            if (wrong := region.problem(height, width, index.root)) is not None:
                problems.append(Problem(sample, image, wrong))
        if boxes is None:
            continue
        over = (boxes[:, 0] + boxes[:, 2] > width + EDGE) | (boxes[:, 1] + boxes[:, 3] > height + EDGE)
        for box in boxes[over]:
            shown = ", ".join(f"{value:g}" for value in box)
            what = f"box outside its image (x, y, width, height: {shown}; the image is {width} x {height})"
            problems.append(Problem(sample, image, what))
    return problems


def require_file(spec: DatasetSpec, root: Path, names: Collection[str], what: str) -> Path:
    """The first of these files that is there.

    Raises:
        DataError: none is.
    """
    for name in names:
        if (root / name).is_file():
            return root / name
    expected = " or ".join(str(root / name) for name in names)
    found = "an empty folder" if root.is_dir() and not any(root.iterdir()) else "a folder without it"
    if not root.exists():
        found = "no folder there"
    elif not root.is_dir():
        found = "a file, not a folder"
    raise DataError(
        f"{spec.name}: looked for {what}, {expected}, and found {found}. {where_to_get(spec, root)}"
    )


def folder_sizes(
    spec: DatasetSpec, root: Path, folder: str, what: str, endings: str | tuple[str, ...] = "", hint: str = ""
) -> dict[str, int]:
    """Bytes of each file that lies in a folder, by its path below the root ("train/1.png").

    Args:
        spec: of the dataset.
        root: its folder.
        folder: path below the root.
        what: what lies in it, in words.
        endings: files with other endings are left alone.
        hint: a sentence for who does not have it.

    Raises:
        DataError: there is no such folder.
    """
    path = root / folder
    if not path.is_dir():
        raise DataError(
            f"{spec.name}: looked for the folder of {what}, {path}, and it is not there. {f'{hint} ' if hint else ''}"
            f"{where_to_get(spec, root)}"
        )
    with os.scandir(path) as entries:
        return {f"{folder}/{e.name}": e.stat().st_size for e in entries if e.name.endswith(endings)}


def read_table(spec: DatasetSpec, root: Path, path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file, packed or not; `options` go to `read_csv`.

    Raises:
        DataError: it is empty, truncated, too large, or no table.
    """
    try:
        return read_csv(path, **options)
    except (ValueError, OSError, EOFError, zlib.error) as error:  # pandas' parser errors are ValueErrors
        found = " ".join(str(error).split())
        raise DataError(
            f"{spec.name}: {path} can not be read as a table ({found}). {where_to_get(spec, root)}"
        ) from None


def require_columns(
    spec: DatasetSpec, root: Path, path: Path, columns: Collection[str], wanted: Collection[str]
) -> None:
    """See that a table has the columns that are read from it.

    Raises:
        DataError: one is missing.
    """
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{spec.name}: {path} has no column {', '.join(missing)}; it has {', '.join(columns)}. Is it the "
            f"original file? {where_to_get(spec, root)}"
        )


def findings(index: Index, problems: Sequence[Problem], checks: Sequence[SplitCheck]) -> list[dict[str, str]]:
    """What is wrong with samples, counted by kind, and with splits: rows for a table."""
    kinds: dict[str, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(re.split(r" \(|: ", problem.what, maxsplit=1)[0], []).append(problem)
    ordered = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    rows = [
        {"finding": kind, "samples": f"{len({p.sample for p in found}):,}", "first": str(found[0])}
        for kind, found in ordered
    ]
    return rows + [
        {"finding": f"split {check.name}", "samples": "", "first": check.wrong}
        for check in checks
        if check.wrong
    ]


def verify(
    dataset: Dataset, *, full: bool, progress: Progress, workers: int = 1
) -> tuple[Index, list[Problem]]:
    """Look for everything that is wrong with a dataset.

    Args:
        dataset: what to check.
        full: decode every image; else only headers are read, of those with boxes or regions and of some others.
        progress: where to report to.
        workers: processes that decode.

    Returns:
        The index without the samples that have problems, and the problems.

    Raises:
        DataError: it can not be read at all (a table or a column is missing).
    """
    index = dataset.index(exclude_broken=True)
    wrong: dict[int, str] = {}
    sizes = np.zeros((len(index), 2), np.int64)
    table, images = index.table, index.table["image"].astype(str).tolist()
    outlined = table["boxes"].map(_some) | table["regions"].map(_some)
    others = np.flatnonzero(~outlined)
    some = others[:: max(1, len(others) // SAMPLED)]
    rows = np.arange(len(index)) if full else np.union1d(np.flatnonzero(outlined), some)
    what = "decoding every image" if full else "reading headers, of all images with boxes or regions"
    with progress.track(what, len(rows), "images") as advance:
        for outcome in _decoded(index.root, images, workers) if full else _headers(index.root, images, rows):
            sizes[outcome.rows] = outcome.sizes
            wrong |= {row: what for row, what in zip(outcome.rows, outcome.problems, strict=True) if what}
            advance(len(outcome.rows))
    # In the order of the index: workers finish in any order.
    problems = [Problem(str(table["sample"].iloc[row]), images[row], wrong[row]) for row in sorted(wrong)]
    problems += outside(index, sizes)
    index = leave_out(index, problems)
    return index, list(index.excluded)


def _decoded(root: Path, images: list[str], workers: int) -> Iterator[Outcome]:
    chunks = [
        Chunk(root, list(range(start, min(start + _CHUNK, len(images)))), images[start : start + _CHUNK])
        for start in range(0, len(images), _CHUNK)
    ]
    yield from decode(chunks, workers, f"decodes the images of {root}")


def _headers(root: Path, images: list[str], rows: npt.NDArray[np.int64]) -> Iterator[Outcome]:
    for row in rows.tolist():
        path = root / images[row]
        try:
            yield Outcome([row], [list(image_size(path))], [""])
        except DataError as error:
            yield Outcome([row], [[0, 0]], [str(error).removeprefix(f"{path}: ")])


def _some(annotations: Any) -> bool:
    return annotations is not None and len(annotations) > 0
