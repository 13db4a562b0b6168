"""CSV files that somebody else wrote: read with pandas, after a look at how much there is to read."""

import gzip
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd

MOST_ROW: Final = 16 * 2**20
"""Bytes of the longest row that is read. The longest report known here has some ten thousand."""

MOST_TABLE: Final = 4 * 2**30
"""Bytes of the largest table that is read, unpacked. The largest one known here, of MIMIC-CXR, has 0.2 GB."""

_CHUNK: Final = 2**20


def read_csv(path: Path, *, sep: str = ",", **options: Any) -> pd.DataFrame:
    """Read a table, packed by gzip if its name ends in `.gz`; other `options` go to `pandas.read_csv`.

    Raises:
        ValueError: it is no table, not UTF-8, or too large.
        OSError, EOFError, zlib.error: it can not be read, or is damaged.
    """
    packed = path.suffix.lower() == ".gz"
    if options.get("nrows") != 0 and (packed or path.stat().st_size > MOST_ROW):
        with gzip.open(path) if packed else path.open("rb") as file:
            _refuse_endless(file)
    try:
        table: pd.DataFrame = pd.read_csv(path, sep=sep, compression="gzip" if packed else None, **options)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not UTF-8 text ({error.reason} at byte {error.start:,}); save it as UTF-8"
        ) from None
    return table


def _refuse_endless(file: IO[bytes] | gzip.GzipFile) -> None:
    """Raise `ValueError` for a row, which a quoted cell may stretch over many lines, or a table beyond all measure."""
    total = row = quotes = 0
    while chunk := file.read(_CHUNK):
        total += len(chunk)
        parts, behind = chunk.split(b'"'), 0
        for number in reversed(range(len(parts))):
            if (quotes + number) % 2 == 0 and (end := parts[number].rfind(b"\n")) >= 0:
                row = behind + len(parts[number]) - end - 1
                break
            behind += len(parts[number]) + 1
        else:
            row += len(chunk)
        quotes += len(parts) - 1
        if row > MOST_ROW:
            raise ValueError(f"it has a row of more than {MOST_ROW:,} bytes; is a quotation mark missing?")
        if total > MOST_TABLE:
            raise ValueError(f"it holds more than {MOST_TABLE:,} bytes; divide it, or get it again")
