"""Inputs by the thousand, made of whole ones by cutting and pasting: refused or handled, and in time.

20 for each parser by default, 300 each night, the same ones each time. `fuzz.py` beside this goes on by coverage.
"""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from .parsers import PARSERS

ACCEPTED = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
FEW, MANY = 20, 300


def png() -> bytes:
    """A film of 8 x 8."""
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "PNG")
    return file.getvalue()


WHOLE: dict[str, bytes] = {
    "record": next((ACCEPTED / "tiny" / "clip" / "rsna_lp").glob("1pct-s0-*.json")).read_bytes(),
    "index": b"SQLite format 3\0" + struct.pack(">HBBBBBB", 4096, 1, 1, 0, 64, 32, 32) + b"\0" * 200,
    "table": b"image,patient,report,x,y,width,height\n"
    b'a.png,p1,"Clear. No effusion.",1,2,3,4\na.png,p1,"Clear. No effusion.",5,6,7,8\n',
    "rle": b"01 3 2 4",
    "report": b"FINAL REPORT\n EXAMINATION: Chest\n\n FINDINGS: 1. Clear lungs. No effusion.\n\n IMPRESSION: Normal.\n",
    "xml": b'<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">Clear.</AbstractText><major>normal</major>'
    b'<parentImage id="CXR1_1"/></eCitation>',
    "film": png(),
}

TOKENS = [
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n" * 50,
        b'"',
        b'""',
        b",",
        b"<",
        b"&a;",
        b"%s" * 20,
    ),
    *(
        b"../" * 8,
        b"/etc/passwd",
        b"\xe2\x80\xae",
        b"\x1b[2J",
        b"\xed\xa0\x80",
        b"=1+1",
        b"[" * 5000,
        b'{"a":' * 2000,
    ),
    *(
        b"1e999",
        b"-1e999",
        b"NaN",
        b"Infinity",
        b"9" * 400,
        b"9" * 5000,
        b"-1",
        b"0x10",
        b"1_000",
        b"\xd9\xa3",
    ),
    *(
        b"null",
        b"true",
        b"\\ud800",
        b'<!DOCTYPE a [<!ENTITY a "aaaa">]>',
        b"\xff" * 200,
        b"1 " * 2000,
        b"No. " * 500,
    ),
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A whole input, of which pieces were cut out, doubled, moved or replaced; or any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = whole
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        to = draw(st.integers(at, min(len(data), at + 60)))
        put = draw(st.one_of(st.sampled_from(TOKENS), st.just(data[at:to] * 2), st.binary(max_size=8)))
        data = data[:at] + put + data[to:]
    return data


@pytest.mark.parametrize("name", PARSERS)
def test_inputs_are_refused_or_handled(name: str) -> None:
    tried(name, FEW)


@pytest.mark.nightly
@pytest.mark.parametrize("name", PARSERS)
def test_thousands_of_inputs_are_refused_or_handled(name: str) -> None:
    tried(name, MANY)


def tried(name: str, count: int) -> None:
    """Give a parser so many inputs, each with twenty seconds on a busy machine."""

    @settings(
        max_examples=count,
        deadline=20_000,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(data=damaged(WHOLE[name]))
    def one(data: bytes) -> None:
        PARSERS[name](data)

    one()


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_whole_is_taken(name: str) -> None:
    assert PARSERS[name](WHOLE[name])


def test_packed_bombs_of_text_take_no_time() -> None:
    """What looks like a table, packed a thousand times, is refused before pandas sees it."""
    assert not PARSERS["table"](gzip.compress(b"a," * 1_000_000))
