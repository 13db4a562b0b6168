"""Films in several files are read like one array."""

from typing import Any

import numpy as np
import pytest

from medbench.data.shards import Shards, copy_rows, rows_a_shard

FILMS = np.random.default_rng(0).integers(0, 256, (11, 3, 3)).astype(np.uint8)
SPLIT = Shards([FILMS[:4], FILMS[4:5], FILMS[5:]])


@pytest.mark.parametrize(
    "rows",
    [
        0,
        4,
        -1,
        np.int64(7),
        slice(None),
        slice(2, 9, 3),
        slice(0, 0),
        [3, 4, 5],
        np.array([10, 0, 10, 4, 3]),
        np.arange(11) % 2 == 0,
        np.array([], np.int64),
    ],
    ids=str,
)
def test_rows_are_those_of_one_array(rows: Any) -> None:
    got = SPLIT[rows]
    np.testing.assert_array_equal(got, FILMS[rows])
    assert got.dtype == np.uint8
    got[...] = 0  # a copy
    np.testing.assert_array_equal(SPLIT, FILMS)


def test_its_shape_is_that_of_one_array() -> None:
    assert (SPLIT.shape, len(SPLIT), SPLIT.dtype) == (FILMS.shape, len(FILMS), FILMS.dtype)


@pytest.mark.parametrize("rows", [11, [0, 11], -12])
def test_a_row_that_is_not_there_is_an_error(rows: Any) -> None:
    with pytest.raises(IndexError):
        SPLIT[rows]


@pytest.mark.parametrize("films", [FILMS, SPLIT], ids=["one", "several"])
@pytest.mark.parametrize("rows", [[1, 3, 4, 7, 10], [9, 1, 4, 1]])
def test_rows_are_copied_into_what_is_given(films: Any, rows: list[int]) -> None:
    out = np.zeros((len(rows), 3, 3), np.uint8)
    copy_rows(films, np.array(rows), out)
    np.testing.assert_array_equal(out, FILMS[rows])


def test_a_file_holds_a_gigabyte_at_most() -> None:
    assert rows_a_shard(256) == 15_258
    assert rows_a_shard(100_000) == 1
