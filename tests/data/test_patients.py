"""Sex and age as releases write them; and an index that knows neither is what it was before there were columns."""

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.index import Index
from medbench.data.patients import sexes, years
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets

SPECS: dict[str, DatasetSpec] = {spec.name: spec for spec in medbench_datasets()}


def test_sexes() -> None:
    cells = ["F", "female", " Woman ", "M", "MALE", "man", "O", "", "nan", "Unknown", "1"]
    assert sexes(cells) == ["F"] * 3 + ["M"] * 3 + [""] * 5
    assert sexes(pd.Series(cells)) == sexes(cells)
    assert sexes([]) == []


def test_years() -> None:
    cells = ["58", "058Y", "6M", "026W", "073D", "0", "120", " 7.5 "]
    assert years(cells).tolist() == pytest.approx([58, 58, 0.5, 26 / 52.1775, 73 / 365.2425, 0, 120, 7.5])
    assert np.isnan(years(["", "414", "-1", "forty", "060-070", "1e3", "58Z", "nan", "Y"])).all()
    assert years([]).shape == (0,)
    assert years(pd.Series([], dtype=str)).dtype == np.float64


@given(st.text(max_size=8))
def test_no_text_is_more_than_not_known(cell: str) -> None:
    assert sexes([cell])[0] in ("F", "M", "")
    age = years([cell])[0]
    assert math.isnan(age) or 0 <= age <= 120


def index_of(**columns: object) -> Index:
    films = {"sample": ["a", "b"], "patient": ["p", "q"], "image": ["a.png", "b.png"], "bytes": [1, 2]}
    return Index.of(SPECS["table"], Path("/nowhere"), {**films, **columns})


def test_columns_that_know_nothing_change_no_fingerprint() -> None:
    plain = index_of()
    assert plain.table["sex"].tolist() == ["", ""] and plain.table["age"].isna().all()
    assert not plain.knows("sex") and not plain.knows("age") and not plain.knows("no such column")
    assert index_of(sex=["", ""], age=[np.nan, np.nan]).fingerprint() == plain.fingerprint()
    assert replace(plain, table=plain.table.drop(columns=["sex", "age"])).fingerprint() == plain.fingerprint()
    told = [index_of(sex=["F", ""]), index_of(sex=["", "F"]), index_of(age=[np.nan, 3.0])]
    assert len({index.fingerprint() for index in [plain, *told]}) == 4
    assert told[0].knows("sex") and told[2].knows("age")


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [
        ("rsna", "d4e1ed2ce87a9d46e9c5f23779308629b26d671c8a16ed7aca39e1fd397cb3a5"),
        ("mimic_cxr", "a0f641258067c8fcb7a49b0cb425c3b0f0c369693339ecf9f15a6ca324052867"),
    ],
)
def test_fingerprints_from_before_there_were_these_columns(
    tmp_path: Path, name: str, fingerprint: str
) -> None:
    module, _, write = SPECS[name].phantom.partition(":")
    getattr(import_module(module), write)(tmp_path / name, patients=12, size=64)
    index = SPECS[name].load()(SPECS[name], tmp_path / name).index()
    # how large a JPEG is depends on who compresses it
    assert replace(index, table=index.table.assign(bytes=1)).fingerprint() == fingerprint
