"""What reads bytes or text that somebody else wrote, one function each, for the fuzzers of this folder.

Each says whether the input was taken, and not refused with an error that says why. Whatever else comes out is a bug.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from medbench.data.images import image_size, read_image
from medbench.data.regions import Rle, decode_rle, encode_rle
from medbench.data.report_sections import report_sections
from medbench.data.report_sentences import clean_sentences
from medbench.data.reports import sections, sentences
from medbench.errors import MedbenchError
from medbench.record_index import RecordIndex
from medbench.records import read_record
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.openi import read_xml
from medbench_tasks.datasets.table import Table

_FOLDER = Path(tempfile.mkdtemp(prefix="medbench-fuzz-"))
_TABLE = next(spec for spec in medbench_datasets() if spec.name == "table")


def record(data: bytes) -> bool:
    """A record is read, or is a `DataError`; one that is read is written as it was."""
    path = _FOLDER / "record.json"
    path.write_bytes(data)
    with suppress(MedbenchError):
        read = read_record(path)
        path.write_text(read.to_json())
        assert read_record(path) == read
        return True
    return False


def index(data: bytes) -> bool:
    """An index is that of the files, whatever its own file holds."""
    known = RecordIndex(_FOLDER / "results", _FOLDER)
    known.file.parent.mkdir(exist_ok=True)
    known.file.write_bytes(data)
    assert known.listed() == []
    return True


def table(data: bytes) -> bool:
    """A table is indexed, or is a `DataError`; its films lie below its folder."""
    folder = _FOLDER / "table"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(b"x")
    path = folder / "films.csv"
    path.write_bytes(data)
    taken = False
    for leave_out in (False, True):
        with suppress(MedbenchError):
            found = Table(_TABLE, path, {}).index(exclude_broken=leave_out)
            for image in found.table["image"]:
                inside = os.path.normpath(folder / image)
                assert inside.startswith(f"{folder}{os.sep}")
            taken = True
    return taken


def rle(data: bytes) -> bool:
    """Run lengths are a mask that has the same run lengths, or are none."""
    runs = data.decode("utf-8", "replace")
    height, width = 1 + len(data) % 7, 1 + len(data) % 11
    taken = _decodes(runs, height, width)
    assert (Rle("x", runs).problem(height, width, _FOLDER) is None) == taken
    return taken


def _decodes(runs: str, height: int, width: int) -> bool:
    try:
        mask = decode_rle(runs, height, width)
    except MedbenchError:
        return False
    assert mask.shape == (height, width)
    assert np.array_equal(decode_rle(encode_rle(mask), height, width), mask)
    return True


def report(data: bytes) -> bool:
    """Every text is some report."""
    text = data.decode("utf-8", "replace")
    for part in (*report_sections(text).values(), *sections(text).values(), text):
        assert all(isinstance(sentence, str) for sentence in (*clean_sentences(part), *sentences(part)))
    return True


def xml(data: bytes) -> bool:
    """A report of Open-i, or a `ValueError`."""
    with suppress(ValueError):
        read_xml(data)
        return True
    return False


def film(data: bytes) -> bool:
    """A film of bytes, or a `DataError`."""
    path = _FOLDER / "film"
    path.write_bytes(data)
    with suppress(MedbenchError):
        image_size(path)
    with suppress(MedbenchError):
        pixels = read_image(path)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 2
        return True
    return False


PARSERS: dict[str, Callable[[bytes], bool]] = {
    parser.__name__: parser for parser in (record, index, table, rle, report, xml, film)
}
