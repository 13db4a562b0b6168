"""What datasets share: the same films, films that look the same, the same patients, and in which parts.

Three kinds of evidence, each of which holds the one before it:

- files: the same bytes (SHA-256);
- pixels: the same size and grey values after decoding (SHA-256), whatever they are stored as;
- looks: perceptual hashes of 255 bits that differ in at most `NEAR` of them.

The perceptual hash is the well-known pHash (C. Zauner, 2010) with more bits: the film is shrunk to 64 x 64, and each
of the 16 x 16 lowest frequencies of its cosine transform, the mean apart, is a bit: above their median or not. It bears
other sizes, lossy compression and other windows, and neither mirrored nor much cropped films.

Films of one group of copies are of one person, whatever their ids say. So are films with one patient id. `people`
counts those that come of both: RSNA's films have an id each, and as copies of NIH's they have fewer patients.

All films are compared with all others, in blocks. What is kept is below 1 kB a film, and the pairs that were found.
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.decoding import _start_worker
from medbench.data.images import READER, fit_square, read_image
from medbench.data.index import Index
from medbench.data.splits import PARTS, Rows, Split
from medbench.errors import DataError
from medbench.files import replacing
from medbench.progress import Progress

NEAR = 24
"""Bits, of 255, in which two hashes of one film may differ. Measured on 612 films of NIH: a film saved again as JPEG of
quality 30, at 224 pixels, with a gamma of 0.7 or another window is at most 24 away from itself, two films of different
patients are at least 60 apart, two of one patient at least 38."""

EVIDENCE: Final = ("files", "pixels", "looks")

SAME_PATIENTS: tuple[frozenset[str], ...] = (
    frozenset({"mimic_cxr", "mimic_5x200"}),
    frozenset({"chexpert", "chexpert_5x200"}),
)
"""Datasets whose patient ids mean the same patients; those of all others are their own, but for ids that name a dataset
("nih:00000001", of RSNA with its mapping)."""


@dataclass(frozen=True)
class Declared:
    """Datasets that share films by their makers' word.

    Attributes:
        one: dataset that the films come from.
        other: dataset that has them, too.
        what: how far.
        source: who says so.
    """

    one: str
    other: str
    what: str
    source: str


DECLARED: tuple[Declared, ...] = (
    Declared(
        "nih",
        "rsna",
        "all films; RSNA's ids are not NIH's",
        "G. Shih et al. 2019, doi:10.1148/ryai.2019180041",
    ),
    Declared(
        "nih", "siim", "films of NIH under other ids", "SIIM-ACR Pneumothorax Segmentation, data description"
    ),
    Declared("rsna", "covidx", "normal and pneumonia films", "COVID-Net, docs/COVIDx.md"),
    Declared("nih", "covidx", "by way of rsna", "COVID-Net, docs/COVIDx.md; G. Shih et al. 2019"),
    Declared("mimic_cxr", "mimic_5x200", "all films, of any official part", "built from mimic_cxr"),
    Declared("chexpert", "chexpert_5x200", "all films, of CheXpert's train.csv", "built from chexpert"),
)
"""Overlaps between the datasets known here, whether or not they are there to be compared."""

CHUNK = 64
"""Films that one task of a worker looks at."""

SAVED = 4_096
"""Films after which the hashes found so far are saved."""

BLOCK = 2_048
"""Films that are compared with as many others at once: 16 MB of distances."""

_DIGEST = 32

_NAMED = "^(nih):"
"""Of a patient's id that names the dataset whose patient it is."""

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Audited:
    """A dataset that takes part.

    Attributes:
        name: what it is called in the result.
        index: its films.
        splits: its splits by name, the first one of them stands for the dataset beside others; those that can not be
            made are missing.
        problems: splits that are missing, with the reason, and how many films were left out.
    """

    name: str
    index: Index
    splits: Mapping[str, Split]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, dataset: Dataset) -> "Audited":
        """A dataset with those of its splits that its layout allows; films with problems are left out."""
        index = dataset.index(exclude_broken=True)
        splits, problems = {}, []
        for split in dataset.splits:
            try:
                splits[split] = dataset.split(index, split)
            except DataError as error:
                problems.append(f"split {split}: {error}")
        if index.excluded:
            problems.append(f"{len({p.sample for p in index.excluded}):,} films with problems")
        return cls(name, index, splits, tuple(problems))


@dataclass(frozen=True)
class Prints:
    """Hashes of films.

    Attributes:
        files, pixels, looks: (N, 32) uint8; zeros where a film could not be decoded.
        sound: (N,) False for films that could not be decoded, or that are of one grey value nearly everywhere, so that
            they look like any other such film.
        problems: why the first few could not be decoded.
    """

    files: Bytes
    pixels: Bytes
    looks: Bytes
    sound: npt.NDArray[np.bool_]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Overlap:
    """What a part of a dataset has in common with a part of the same or of another dataset.

    Attributes:
        dataset, split, part: the first one.
        other, other_split, other_part: the second one.
        films: films of the second one that the first one has, too, by kind of evidence.
        of: films of the second one.
        patients: patient ids in both; None where ids of the two can not be compared.
        people: persons in both, told by ids and by copies.
    """

    dataset: str
    split: str
    part: str
    other: str
    other_split: str
    other_part: str
    films: Mapping[str, int]
    of: int
    patients: int | None
    people: int


@dataclass(frozen=True)
class Audit:
    """What came of it.

    Attributes:
        films: by dataset.
        overlaps: every two parts that have something in common.
        copies: a row a film that has a copy: group, dataset, sample, patient, image, evidence (the surest kind by which
            it is a copy of any other), bits (distance to the nearest film that only looks the same, -1 where there is
            none).
        declared: what is known beforehand of films that these datasets have of others.
        problems: what was not compared: of each dataset the splits that could not be made, how many films were left
            out, and the first few that could not be decoded.
    """

    films: Mapping[str, int]
    overlaps: tuple[Overlap, ...]
    copies: pd.DataFrame
    declared: tuple[Declared, ...] = ()
    problems: tuple[str, ...] = field(default=())


def audit(
    datasets: Sequence[Audited], cache: Path, *, workers: int, progress: Progress, near: int = NEAR
) -> Audit:
    """Compare datasets with themselves and with each other.

    Args:
        datasets: with different names.
        cache: folder that hashes are kept in, so that a film is decoded for this once.
        workers: processes that decode; 1 decodes in this one.
        progress: where to report to.
        near: as `NEAR`.
    """
    prints = [fingerprints(one.index, cache, workers=workers, progress=progress) for one in datasets]
    whole = Prints(
        np.concatenate([p.files for p in prints]),
        np.concatenate([p.pixels for p in prints]),
        np.concatenate([p.looks for p in prints]),
        np.concatenate([p.sound for p in prints]),
    )
    links = _links(whole, near, progress)
    codes = {kind: _components(len(whole.sound), links[: n + 1]) for n, kind in enumerate(EVIDENCE)}
    patients = _patients(datasets)
    people = _people(codes["looks"], patients)
    names = {one.name for one in datasets}
    return Audit(
        {one.name: len(one.index) for one in datasets},
        tuple(_overlaps(datasets, codes, patients, people)),
        _copies(datasets, codes, links[-1]),
        tuple(known for known in DECLARED if known.other in names),
        tuple(
            f"{one.name}: {problem}"
            for one, p in zip(datasets, prints, strict=True)
            for problem in (*one.problems, *p.problems)
        ),
    )


# Hashes


def perceptual_hash(image: Bytes) -> Bytes:
    """(32,) uint8, the 255 bits of a film as in the head of this file, and one that is always 0.

    Args:
        image: (H, W) grey values.
    """
    from scipy.fft import dctn

    small = fit_square(image, 64, "stretch").astype(np.float32)
    low = dctn(small, norm="ortho")[:16, :16].ravel()[1:]
    return np.packbits(np.append(low > np.median(low), False))


def fingerprints(index: Index, cache: Path, *, workers: int, progress: Progress) -> Prints:
    """Hashes of all films of an index, from the cache where a file has not changed since."""
    key = hashlib.sha256(json.dumps([str(index.root.resolve()), READER]).encode()).hexdigest()[:32]
    path = cache / "audit" / f"{index.dataset}-{key}.parquet"
    films = [_identity(index.root, str(image)) for image in index.table["image"]]
    known = _known(path)
    todo = [film for film in dict.fromkeys(films) if film not in known]
    if todo:
        chunks = [todo[start : start + CHUNK] for start in range(0, len(todo), CHUNK)]
        with progress.track(
            f"hashing {index.dataset}", len(films), "films", len(films) - len(todo)
        ) as advance:
            fresh = 0
            for chunk, found in zip(chunks, _looked_at(index.root, chunks, workers), strict=True):
                known |= dict(zip(chunk, found, strict=True))
                fresh += len(chunk)
                advance(len(chunk))
                if fresh >= SAVED:
                    _save(path, known)
                    fresh = 0
        _save(path, known)
    rows = [known[film] for film in films]
    problems = [f"{film[0]}: {row[3]}" for film, row in zip(films, rows, strict=True) if row[3]]
    files, pixels, looks = (
        np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST)
        for digests in ([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])
    )
    sound = np.array([any(row[2]) for row in rows], np.bool_)
    return Prints(files, pixels, looks, sound, tuple(problems[:5]))


_Film = tuple[str, int, int]
"""Path below the root, bytes, time of change."""
_Print = tuple[bytes, bytes, bytes, str]
"""Three hashes, the third one of zeros for a film that looks like nothing, and why it could not be decoded."""


def _identity(root: Path, image: str) -> _Film:
    try:
        stat = (root / image).stat()
    except OSError as error:
        raise DataError(f"{root / image} is gone since the index was read ({error.strerror}).") from error
    return image, stat.st_size, stat.st_mtime_ns


def _look(root: Path, films: Sequence[_Film]) -> list[_Print]:
    """In a worker."""
    prints = []
    for image, _, _ in films:
        path = root / image
        file = hashlib.sha256(path.read_bytes()).digest()
        try:
            pixels = read_image(path)
        except DataError as error:
            prints.append((file, bytes(_DIGEST), bytes(_DIGEST), str(error).removeprefix(f"{path}: ")))
            continue
        digest = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()
        low, high = np.percentile(pixels[::4, ::4], (2, 98))
        blank = high - low < 8
        prints.append((file, digest, bytes(_DIGEST) if blank else perceptual_hash(pixels).tobytes(), ""))
    return prints


def _looked_at(root: Path, chunks: Sequence[Sequence[_Film]], workers: int) -> Iterator[list[_Print]]:
    if workers <= 1 or len(chunks) == 1:
        yield from (_look(root, chunk) for chunk in chunks)
        return
    # Spawned, not forked: torch's threads and locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    queue = iter(chunks)
    try:
        pending = [pool.submit(_look, root, chunk) for chunk in islice(queue, 2 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(_look, root, chunk) for chunk in islice(queue, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


def _known(path: Path) -> dict[_Film, _Print]:
    try:
        table = pd.read_parquet(path)
        columns = [table[name].tolist() for name in ("image", "bytes", "mtime_ns", *EVIDENCE, "problem")]
    except (OSError, ValueError, KeyError):  # not there, or damaged: made again either way
        return {}
    return {
        (image, size, when): (files, pixels, looks, problem)
        for image, size, when, files, pixels, looks, problem in zip(*columns, strict=True)
    }


def _save(path: Path, known: Mapping[_Film, _Print]) -> None:
    rows = [(*film, *found) for film, found in known.items()]
    table = pd.DataFrame(rows, columns=["image", "bytes", "mtime_ns", *EVIDENCE, "problem"])
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False)


# Copies


@dataclass(frozen=True)
class _Links:
    """Pairs of films, by their positions among all films, and in how many bits each pair differs (0: not counted)."""

    one: Codes
    other: Codes
    bits: Codes


def _links(prints: Prints, near: int, progress: Progress) -> list[_Links]:
    """Links by files, by pixels and by looks; films of one hash are linked in a chain."""
    every = np.arange(len(prints.sound))
    sound = np.flatnonzero(prints.sound)
    found = [_equal(prints.files, every), _equal(prints.pixels, sound)]
    same = _equal(prints.looks, sound)
    follower = np.zeros(len(every), np.bool_)
    follower[same.other] = True
    single = sound[~follower[sound]]  # one of each hash is enough to compare
    pairs = [same]
    starts = range(0, len(single), BLOCK)
    with progress.track("comparing films", len(starts) * (len(starts) + 1) // 2, "blocks") as advance:
        for start in starts:
            ours = single[start : start + BLOCK]
            signs = _signs(prints.looks[ours])
            for begin in range(start, len(single), BLOCK):
                theirs = single[begin : begin + BLOCK]
                # Of two rows of +1 and -1 the product is 256 less twice the number of bits that differ.
                bits = 128 - 0.5 * (signs @ _signs(prints.looks[theirs]).T)
                rows, columns = np.nonzero(bits <= near)
                keep = ours[rows] < theirs[columns]
                rows, columns = rows[keep], columns[keep]
                pairs.append(
                    _Links(ours[rows], theirs[columns], np.rint(bits[rows, columns]).astype(np.int64))
                )
                advance(1)
    merged = _Links(*(np.concatenate([getattr(p, name) for p in pairs]) for name in ("one", "other", "bits")))
    return [*found, merged]


def _signs(looks: Bytes) -> npt.NDArray[np.float32]:
    return np.unpackbits(looks, axis=1).astype(np.float32) * 2 - 1


def _equal(digests: Bytes, rows: Codes) -> _Links:
    """Links between films of one digest, among these rows."""
    if not len(rows):
        return _Links(rows, rows, rows)
    _, codes = np.unique(np.ascontiguousarray(digests[rows]).view(f"V{_DIGEST}").ravel(), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    again = np.flatnonzero(codes[order][1:] == codes[order][:-1])
    one, other = rows[order[again]], rows[order[again + 1]]
    return _Links(one, other, np.zeros(len(one), np.int64))


def _components(count: int, links: Sequence[_Links]) -> Codes:
    """(count,) number of the group that each film belongs to; a film without a link is a group of its own."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = (np.concatenate([getattr(link, name) for link in links]) for name in ("one", "other"))
    graph = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    _, codes = connected_components(graph, directed=False)
    return np.asarray(codes, np.int64)


def _copies(datasets: Sequence[Audited], codes: Mapping[str, Codes], near: _Links) -> pd.DataFrame:
    columns = ("sample", "patient", "image")
    films = pd.concat(
        [one.index.table[[*columns]].assign(dataset=one.name) for one in datasets], ignore_index=True
    )
    evidence = np.full(len(films), "", object)
    for kind in reversed(EVIDENCE):
        evidence[np.bincount(codes[kind])[codes[kind]] > 1] = kind
    bits = np.full(len(films), 256, np.int64)
    counted = near.bits > 0
    for side in (near.one, near.other):
        np.minimum.at(bits, side[counted], near.bits[counted])
    films = films.assign(group=codes["looks"], evidence=evidence, bits=np.where(bits < 256, bits, -1))
    films = films[evidence != ""].sort_values("group", kind="stable")
    films["group"] = pd.factorize(films["group"])[0]
    table: pd.DataFrame = films[["group", "dataset", *columns, "evidence", "bits"]].reset_index(drop=True)
    return table


# Who is in which part


def _patients(datasets: Sequence[Audited]) -> Codes:
    """(N,) number of the patient id of each film; ids of different datasets differ, unless they mean the same."""
    keys = []
    for one in datasets:
        ids = one.index.table["patient"].astype(str)
        keys.append(ids.where(ids.str.match(_NAMED), _family(one.name) + ":" + ids))
    return np.asarray(pd.factorize(pd.concat(keys, ignore_index=True))[0], np.int64)


def _spaces(dataset: str, index: Index) -> set[str]:
    """The datasets whose patients this one's ids mean."""
    named = index.table["patient"].astype(str).str.extract(_NAMED)[0]
    return {*named.dropna().unique(), *([_family(dataset)] if named.isna().any() else [])}


def _family(dataset: str) -> str:
    return next((min(family) for family in SAME_PATIENTS if dataset in family), dataset)


def _people(groups: Codes, patients: Codes) -> Codes:
    """(N,) number of the person on each film: films of one group or of one patient id are of one person."""
    count = groups.max(initial=-1) + 1
    both = _Links(groups, patients + count, groups)
    return _components(int(count + patients.max(initial=-1) + 1), [both])[groups]


@dataclass(frozen=True)
class _Cell:
    """A part of a split of a dataset, and its rows among all films."""

    dataset: str
    split: str
    part: str
    rows: Rows


def _overlaps(
    datasets: Sequence[Audited], codes: Mapping[str, Codes], patients: Codes, people: Codes
) -> Iterator[Overlap]:
    """Of one dataset the parts of each split, of different datasets those of the default split."""
    cells: list[list[list[_Cell]]] = []
    start = 0
    for one in datasets:
        everything = _Cell(one.name, "-", "all", np.arange(start, start + len(one.index)))
        cells.append(
            [
                [_Cell(one.name, name, part, start + getattr(split, part)) for part in PARTS]
                for name, split in one.splits.items()
            ]
            or [[everything]]
        )
        start += len(one.index)
    spaces = {one.name: _spaces(one.name, one.index) for one in datasets}
    pairs = [pair for own in cells for parts in own for pair in combinations(parts, 2)]
    pairs += [pair for one, other in combinations(cells, 2) for pair in product(one[0], other[0])]
    for first, second in pairs:
        shared = {kind: int(np.isin(own[second.rows], own[first.rows]).sum()) for kind, own in codes.items()}
        comparable = not spaces[first.dataset].isdisjoint(spaces[second.dataset])
        ids = len(np.intersect1d(patients[first.rows], patients[second.rows])) if comparable else None
        both = len(np.intersect1d(people[first.rows], people[second.rows]))
        if shared["looks"] or ids or both:
            yield Overlap(
                *(first.dataset, first.split, first.part),
                *(second.dataset, second.split, second.part),
                shared,
                len(second.rows),
                ids,
                both,
            )


# For the command line


def as_json(result: Audit) -> dict[str, Any]:
    """What leaderboards read: films, near (bits), overlaps, declared, copies, problems."""
    return {
        "films": dict(result.films),
        "near": NEAR,
        "overlaps": [{**asdict(one), "films": dict(one.films)} for one in result.overlaps],
        "declared": [asdict(one) for one in result.declared],
        "copies": result.copies.to_dict("records"),
        "problems": list(result.problems),
    }


def rows(result: Audit) -> list[dict[str, str]]:
    """Overlaps as rows for a table."""
    return [
        {
            "in": f"{one.dataset} {one.split} {one.part}".replace(" - ", " "),
            "and in": f"{one.other} {one.other_split} {one.other_part}".replace(" - ", " "),
            **{kind: f"{one.films[kind]:,}" for kind in EVIDENCE},
            "of": f"{one.of:,}",
            "patients": "-" if one.patients is None else f"{one.patients:,}",
            "people": f"{one.people:,}",
        }
        for one in result.overlaps
    ]
