"""The long CSV: every number as it was computed."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from medbench.plugins import load_catalogue
from medbench.records import Record
from medbench.results import Results
from medbench_leaderboards import csv as made

MakeRecord = Callable[..., Record]
Text = Callable[[list[Record]], str]


@pytest.fixture
def csv(given: Callable[..., Results]) -> Text:
    """cells.csv of some records."""
    return lambda records: made.csv(given(records))["cells.csv"].decode()


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


def test_one_line_a_cell_metric_and_class(record: MakeRecord, csv: Text) -> None:
    value = 0.1 + 0.2  # seventeen digits
    text = csv([record(value=value, per_class={"b": None, "a": 0.25})])
    table = read(text)
    assert list(table.columns) == list(made.CELLS)
    assert table["metric"].tolist() == ["auroc", "auroc", "auroc", "second"]
    assert table["primary"].tolist() == [True, True, True, False]
    assert table["class"].fillna("").tolist() == ["", "a", "b", ""]
    assert table["value"][1] == 0.25
    assert f",{value!r}," in text
    assert pd.isna(table["value"][2])
    first = table.iloc[0]
    assert (first["low"], first["high"]) == (pytest.approx(value - 0.025), pytest.approx(value + 0.03))
    assert (first["n"], first["interval"]) == (4003, "bootstrap")
    assert (first["method"], first["fidelity"], first["fraction"], first["seed"]) == (
        "clip",
        "paper",
        0.01,
        0,
    )
    assert (first["train"], first["corpus"], first["weights"]) == (30, "phantom mimic_cxr", "pretrained")


def test_skipped_and_failed_cells_have_one_line_with_the_reason(record: MakeRecord, csv: Text) -> None:
    table = read(
        csv(
            [
                record(status="skipped", reason="too few"),
                record(seed=1, status="failed", error="out of memory"),
            ]
        )
    )
    assert table["status"].tolist() == ["skipped", "failed"]
    assert table["reason"].tolist() == ["too few", "RuntimeError: out of memory"]
    assert table["metric"].isna().all()


def test_repeats_are_marked_and_a_missing_seed_is_empty(record: MakeRecord, csv: Text) -> None:
    table = read(csv([record(seed=s, predictions="same") for s in (0, 1)] + [record("place", seed=None)]))
    table = table[table["primary"]].set_index(["method", "seed"])
    assert table.loc[("clip", 1), "repeats_seed"] == 0
    assert pd.isna(table.loc[("clip", 0), "repeats_seed"])
    assert table.index[2][0] == "place"
    assert pd.isna(table.index[2][1])


def test_mixed_records_are_left_out_and_old_versions_stay(record: MakeRecord, csv: Text) -> None:
    table = read(csv([record(), record(task_version=2), record(source="mixed")]))
    assert sorted(table["task_version"].unique()) == [1, 2]
    assert table["source"].unique().tolist() == ["phantom"]


def test_the_order_of_records_does_not_matter(board: list[Record], csv: Text) -> None:
    text = csv(board)
    for seed in range(5):
        shuffled = list(board)
        random.Random(seed).shuffle(shuffled)
        assert csv(shuffled) == text
    assert "\r" not in text
    assert csv([]) == ",".join(made.CELLS) + "\n"


def test_the_interval_by_delong_stands_beside_the_primary_metric(results_folder: Path) -> None:
    results = Results.read(results_folder, load_catalogue(third_party=False))
    table = read(made.csv(results)["cells.csv"].decode())
    primary = table[table["primary"].eq(True) & table["class"].isna() & table["table"].notna()]
    own = primary[primary["column"].eq("rsna_lp 1%") & primary["row"].eq("place")]
    assert len(own) == 3
    assert own["delong_low"].nunique() == own["delong_high"].nunique() == 1  # of the mean
    assert own["delong_low"].iloc[0] < own["value"].mean() < own["delong_high"].iloc[0]
    assert table[table["primary"].ne(True)]["delong_low"].isna().all()
    wide = read(made.csv_wide(results)["wide/phantom-tiny-full.csv"].decode()).set_index("method")
    assert wide.loc["place", "rsna_lp 1% delong low"] == own["delong_low"].iloc[0]
    assert wide.loc["mgca", "rsna_lp 10% marks"] == "contaminated one seed"
