"""The checks of a dataset. Each says in its first line what it looks at, and returns what it saw."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from medbench.conformance.check import Failed, NotApplicable
from medbench.conformance.dataset_subject import DatasetSubject
from medbench.conformance.docs import documented
from medbench.data.dataset import Dataset
from medbench.data.index import Index
from medbench.data.reports import CLEANINGS, DEFAULT_CLEANING
from medbench.data.split_check import check_splits
from medbench.data.splits import PAIRS, PARTS, SplitUnavailable
from medbench.data.verify import box_problem, verify
from medbench.errors import DataError
from medbench.progress import Progress

TEXT = ("sample", "patient", "study", "split", "view", "sex", "image", "report")
"""Columns of an index that hold words."""

SIZES = ("default", "micro")
"""Of phantoms."""


def declaration(subject: DatasetSubject) -> str:
    """The class is a Dataset with splits, each with its source; a phantom twin has its sizes; names are known."""
    spec, catalogue = subject.spec, subject.catalogue
    kind = catalogue.load("datasets", spec.name)
    if not (isinstance(kind, type) and issubclass(kind, Dataset)):
        raise Failed(
            f"{spec.target}, {kind!r}", "a subclass of medbench.data.dataset.Dataset", "Name the class."
        )
    splits = getattr(kind, "splits", {})
    if not splits:
        raise Failed("no splits", "at least one, by name", "Declare it in `splits`.")
    if unsaid := [name for name, split in splits.items() if not split.source]:
        raise Failed(f"the split {unsaid[0]} without a source", "where it comes from", "Say it.")
    if bool(spec.phantom) != bool(spec.phantom_patients) or (
        spec.phantom and set(SIZES) - set(spec.phantom_patients)
    ):
        raise Failed(
            f"phantom {spec.phantom!r} of sizes {', '.join(spec.phantom_patients) or 'none'}",
            f"a twin with its patients at {' and '.join(SIZES)}, or neither",
            "Give `phantom` and `phantom_patients` together.",
        )
    if unknown := sorted({spec.within, *spec.films_of} - {"", *catalogue.datasets}):
        raise Failed(f"the dataset {unknown[0]!r}", "one of `medbench list datasets`", "Correct the name.")
    return f"{kind.__name__} with splits {', '.join(splits)}"


def docs(subject: DatasetSubject) -> str:
    """Summary, reference and the docstring of the class are there; its distribution has a README or names docs."""
    target = subject.catalogue.load("datasets", subject.spec.name)
    return documented(subject.catalogue, "datasets", subject.spec, target)


def access(subject: DatasetSubject) -> str:
    """Licence and the page to get it from are named; its official size is a number of films."""
    spec = subject.spec
    if not spec.licence.strip():
        raise Failed("no licence", "one line", "Name it; who has the films wants to know what they may do.")
    if spec.official_size is not None and spec.official_size < 1:
        raise Failed(f"official_size {spec.official_size}", "a number of films, or None", "Count them.")
    if spec.official_size is not None and not spec.access.startswith("https://"):
        raise Failed(
            f"access {spec.access!r}",
            "the page to get it from, https://...",
            "An error names it to the user.",
        )
    return f"{spec.licence}; {spec.access or 'no page'}"


def index(subject: DatasetSubject) -> str:
    """Samples are unique, with a patient and a file of the said size; labels are 1, 0 or NaN, boxes have an area."""
    found = subject.index
    table = found.table
    if not len(found):
        raise Failed("no samples", "some", "Look at what `index` reads.")
    names = {"age", "bytes", "boxes", "box_labels", "regions", *TEXT, *(f"label_{n}" for n in found.labels)}
    if odd := names ^ {str(name) for name in table.columns}:
        raise Failed(f"columns that differ by {', '.join(sorted(odd))}", "those of Index", "Use Index.of.")
    for name in TEXT:
        wrong = [value for value in table[name] if not isinstance(value, str)]
        if wrong:
            raise Failed(f"{wrong[0]!r} in {name}", "str", "Read the table with dtype=str.")
    for name in ("sample", "patient", "image"):
        if (table[name] == "").any():
            raise Failed(f"a row without {name}", "one in every row", "Leave such rows out, as problems.")
    if table["sample"].duplicated().any():
        twice = table["sample"][table["sample"].duplicated()].iloc[0]
        raise Failed(f"the sample {twice} twice", "unique ids", "Name samples by their file.")
    if odd := set(table["sex"]) - {"F", "M", ""}:
        raise Failed(f"sex {sorted(odd)[0]!r}", "F, M or nothing", "Map it.")
    for name in found.labels:
        values = table[f"label_{name}"]
        if not values[values.notna()].isin([0, 1]).all():
            odd_value = values[values.notna() & ~values.isin([0, 1])].iloc[0]
            raise Failed(f"a label {name} of {odd_value}", "1, 0 or NaN", "Say NaN where it is not known.")
    for row in table.itertuples(index=False):
        _check_file(found, str(row.image), int(row.bytes))
        _check_boxes(str(row.image), row.boxes, row.box_labels)
    patients = table["patient"].nunique()
    return f"{len(found):,} samples of {patients:,} patients, labels: {', '.join(found.labels) or 'none'}"


def _check_file(found: Index, image: str, size: int) -> None:
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts:
        raise Failed(f"the image {image}", "a path below the folder", "Make it relative to `root`.")
    where = found.root / image
    there = where.stat().st_size if where.is_file() else None
    if there != size:
        have = "no such file" if there is None else f"{there:,} bytes"
        raise Failed(
            f"{image}: {have} on disk", f"{size:,} bytes, as `bytes` says", "Read sizes from the folder."
        )


def _check_boxes(image: str, boxes: object, names: object) -> None:
    if boxes is None:
        return
    if not isinstance(boxes, np.ndarray) or boxes.dtype != np.float64 or boxes.shape[1:] != (4,):
        is_ = f"{boxes.dtype} {boxes.shape}" if isinstance(boxes, np.ndarray) else type(boxes).__name__
        raise Failed(f"{image}: boxes of {is_}", "float64 (N, 4): x, y, width, height", "Convert them.")
    for box in boxes:
        if (wrong := box_problem(box)) is not None:
            raise Failed(f"{image}: {wrong}", "boxes with an area", "Report such samples as problems.")
    if isinstance(names, list | tuple | np.ndarray) and len(names) != len(boxes):
        raise Failed(f"{image}: {len(names)} names of {len(boxes)} boxes", "one a box", "Name each.")


def images(subject: DatasetSubject) -> str:
    """Every image file can be decoded, and holds the boxes and outlines that are drawn in it."""
    left, problems = verify(subject.open(), full=True, progress=Progress(quiet=True))
    if problems:
        raise Failed(f"{problems[0]}, and {len(problems) - 1} more", "images that can be read", "Mend them.")
    return f"{len(left):,} images are read"


def splits(subject: DatasetSubject) -> str:
    """Parts of a split share no sample and, unless it says so, no patient; sizes and hashes are the published ones."""
    found, dataset = subject.index, subject.opened
    for check in check_splits(dataset, found):
        if check.wrong:
            raise Failed(
                f"split {check.name}: {check.wrong}",
                "parts without a patient in common",
                "Divide by patient.",
            )
    made = []
    for name in dataset.splits:
        try:
            split = dataset.split(found, name)
        except SplitUnavailable:
            continue
        rows = {part: getattr(split, part) for part in PARTS}
        for part, own in rows.items():
            if (np.diff(own) <= 0).any() or not (len(own) == 0 or 0 <= own[0] <= own[-1] < len(found)):
                raise Failed(
                    f"split {name}, whose part {part} is no rising list of rows below {len(found)}",
                    "positions in the index",
                    "Use medbench.data.splits.rows_of.",
                )
        for one, two in PAIRS:
            both = np.intersect1d(rows[one], rows[two])
            if len(both) and (one, two) not in dataset.splits[name].shared:
                raise Failed(
                    f"split {name} with {len(both)} films in both {one} and {two}", "none", "Divide."
                )
        again = dataset.split(found.select(np.ones(len(found), bool)), name)
        if again.sha256(found) != split.sha256(found):
            raise Failed(f"split {name} that is another one when asked again", "the same", "Draw nothing.")
        made.append(f"{name} {'/'.join(str(len(own)) for own in rows.values())}")
    if not made:
        raise Failed("no split that can be made of this folder", "at least one", "Look at `divide`.")
    return ", ".join(made)


def repeatable(subject: DatasetSubject) -> str:
    """Read again, the folder gives the same index, row by row."""
    one, other = subject.index, subject.open().index()
    if one.fingerprint() != other.fingerprint():
        rows = "other rows" if not one.table["sample"].equals(other.table["sample"]) else "other values"
        raise Failed(f"{rows} when the folder is read again", "the same index", "Sort what a folder lists.")
    return f"fingerprint {one.fingerprint()[:12]} twice"


def reports(subject: DatasetSubject) -> str:
    """A dataset that says it is paired, so that methods can be pretrained on it, has reports with sentences in them."""
    if not subject.spec.paired:
        raise NotApplicable("it is declared with paired=False, so nothing is pretrained on it")
    texts = [text for text in subject.index.table["report"] if text]
    cut = CLEANINGS[DEFAULT_CLEANING].sentences
    read = sum(bool(cut(text)) for text in texts)
    if not read:
        raise Failed(
            f"{len(texts):,} reports without a sentence", "reports to learn from", "Look at the text."
        )
    return f"{read:,} of {len(subject.index):,} films have a report"


def phantom(subject: DatasetSubject) -> str:
    """The phantom twin says that it is one, and is the same film by film when it is written again."""
    spec = subject.spec
    if not spec.phantom:
        raise NotApplicable("it has no phantom twin")
    found = []
    for _ in range(2):
        sources = subject.sources(Path(tempfile.mkdtemp(dir=_made(subject.folder))))
        root = sources.phantom(spec)
        found.append(subject.catalogue.load("datasets", spec.name)(spec, root).index())
    if found[0].source != "phantom":
        raise Failed(
            f"{found[0].root} without a PHANTOM.json", "a folder that says it is a phantom", "Write it last."
        )
    if found[0].fingerprint() != found[1].fingerprint():
        raise Failed("another twin when it is written again", "the same films", "Draw by patient and seed.")
    return f"{len(found[0]):,} films, the same when written again"


def missing_file(subject: DatasetSubject) -> str:
    """A film that is gone is named as an error, and is left out and named where the user says --exclude-broken."""
    if subject.is_real:
        raise NotApplicable("nothing is removed from a folder of yours")
    root = Path(tempfile.mkdtemp(dir=_made(subject.folder))) / "copy"
    shutil.copytree(subject.open().root, root)
    gone = subject.index.table["image"].iloc[0]
    (root / gone).unlink()
    kind = subject.catalogue.load("datasets", subject.spec.name)
    try:
        kind(subject.spec, root).index()
    except DataError as error:
        if PurePosixPath(gone).name not in str(error):
            raise Failed(f"an error that does not name {gone}: {error}", "its name", "Name it.") from None
    else:
        raise Failed(
            f"an index without complaint though {gone} is gone",
            "a DataError that names it",
            "Collect problems, and end `index` with medbench.data.verify.settle.",
        )
    left = kind(subject.spec, root).index(exclude_broken=True)
    if not left.excluded or gone in set(left.table["image"]):
        raise Failed(f"{gone} still among the samples", "it in `Index.excluded`", "Use `settle`.")
    return f"{PurePosixPath(gone).name} is named, and left out on the user's word"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


CHECKS: tuple[Callable[[DatasetSubject], str], ...] = (
    declaration,
    docs,
    access,
    index,
    images,
    splits,
    repeatable,
    reports,
    phantom,
    missing_file,
)
"""What is checked of a dataset, quick ones first."""
