"""What a record says of predictions: metrics, groups of patients, reliability; and it needs the predictions alone."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.cells import cells_table
from medbench.data.index import Index
from medbench.metrics.calibration import reliability_diagrams
from medbench.metrics.subgroups import age_bands, subgroup_metrics
from medbench.plugins import load_catalogue
from medbench.protocols.linear_probe import LinearProbe
from medbench.records import Record, ResultStore, read_predictions
from medbench.request import RunRequest
from medbench.runner import run
from medbench.scoring import score, with_patient_columns
from medbench.specs import DatasetSpec
from medbench.task import Metric, Task

TABLE = DatasetSpec("d", "nowhere:Nothing", "films of these tests", "none")
N = 120


def index_of(**columns: Any) -> Index:
    names = [f"s{k}" for k in range(N)]
    patients = [f"p{k // 2}" for k in range(N)]
    own = {"sample": names, "patient": patients, "image": names, "bytes": np.ones(N)}
    return Index.of(TABLE, Path("/nowhere"), {**own, **columns})


def predictions(rows: Sequence[int] | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    target = (rng.random(N) < 0.4).astype(np.float64)
    own = pd.DataFrame(
        {
            "sample": [f"s{k}" for k in range(N)],
            "patient": [f"p{k // 2}" for k in range(N)],
            "target_x": target,
            "score_x": rng.normal(target, 1.0),
        }
    )
    return own if rows is None else own.iloc[list(rows)].reset_index(drop=True)


SEX = ["F", "M", "F"] * (N // 3)
AGE = [20.0, 65.0, np.nan, 90.0] * (N // 4)


def test_columns_of_patients_go_to_their_samples() -> None:
    index = index_of(sex=SEX, age=AGE)
    told = with_patient_columns(predictions([7, 3, 3, 0]), index)
    assert list(told) == [
        "sample",
        "patient",
        "target_x",
        "score_x",
        "sex",
        "age",
    ]  # nothing is known of views
    assert told["sex"].tolist() == [SEX[7], SEX[3], SEX[3], SEX[0]]
    np.testing.assert_array_equal(told["age"], [AGE[7], AGE[3], AGE[3], AGE[0]])
    assert told["age"].dtype == np.float64
    strange = predictions([0, 1]).assign(sample=["s5", "a text of its own"])
    told = with_patient_columns(strange, index)
    assert told["sex"].tolist() == [SEX[5], ""] and np.isnan(told["age"][1])
    own = with_patient_columns(predictions().assign(sex="of the task's own"), index)
    assert set(own["sex"]) == {"of the task's own"}
    plain = predictions()
    pd.testing.assert_frame_equal(with_patient_columns(plain, index_of()), plain)


def test_a_row_about_several_films_gets_what_is_the_same_for_all_of_them() -> None:
    views = ["PA", "LATERAL", "PA", "PA"] * (N // 4)
    index = index_of(sex=SEX, age=AGE, view=views)
    films = [["s0"], ["s0", "s1"], ["s0", "s2"], ["s2", "s6"], ["s0", "unheard of"]]
    told = with_patient_columns(predictions(range(5)).assign(films=films), index)
    assert told["view"].tolist() == ["PA", "", "PA", "PA", ""]
    assert told["sex"].tolist() == ["F", "", "F", "F", ""]
    np.testing.assert_array_equal(told["age"], [20, np.nan, np.nan, np.nan, np.nan])


def test_blocks_are_those_of_the_metrics_files(tmp_path: Path) -> None:
    task = LinearProbe("micro", split="any", classes=("x",))
    told = with_patient_columns(predictions(), index_of(sex=SEX, age=AGE, view=["PA"] * N))
    told.to_parquet(tmp_path / "p.parquet")
    scores = score(task, pd.read_parquet(tmp_path / "p.parquet"))  # as another person would
    assert [m.model_dump() for m in scores.metrics] == [
        m.model_dump() for m in score(task, predictions()).metrics
    ]
    assert [block.column for block in scores.subgroups] == ["sex", "age"]  # one view is no comparison
    for block, names in zip(scores.subgroups, (told["sex"], age_bands(told["age"])), strict=True):
        expected = subgroup_metrics(told.assign(**{block.column: names}), block.column, task.score)
        assert [group.name for group in block.groups] == [group.name for group in expected.groups]
        for group, other in zip(block.groups, expected.groups, strict=True):
            assert (group.samples, group.patients, group.known) == (
                other.samples,
                other.patients,
                other.known,
            )
            for value, metric in zip(group.metrics, other.metrics, strict=True):
                shown = value.model_dump(exclude={"note", "per_class"})
                assert shown == {name: getattr(metric, name) for name in shown}
                assert value.note == other.notes.get(metric.name, "")
        assert [s.model_dump() for s in block.spreads] == [
            asdict(s) | {"left_out": list(s.left_out)} for s in expected.spreads
        ]
    bands = {group.name: group for group in scores.subgroups[1].groups}
    assert list(bands) == ["18-39", "60-79", "80 and above", "unknown"]
    assert not bands["unknown"].known and "neither worst nor best" in bands["unknown"].metrics[0].note
    diagrams = reliability_diagrams(told, ["x"], "log-odds")
    assert [d.counts for d in scores.reliability] == [list(d.counts) for d in diagrams]
    assert [d.binning for d in scores.reliability] == ["width", "mass"]


def test_small_groups_say_so_and_are_never_the_worst() -> None:
    task = LinearProbe("micro", split="any", classes=("x",))
    told = with_patient_columns(predictions(), index_of(sex=["F"] * 19 + ["M"] * (N - 19)))
    (block,) = score(task, told).subgroups
    note = block.groups[0].metrics[0].note
    assert note == "19 samples, fewer than 20: neither worst nor best"
    assert (block.spreads[0].worst_group, block.spreads[0].gap, block.spreads[0].left_out) == (
        "M",
        None,
        ["F"],
    )


class EachDirection(LinearProbe):
    """A metric for each kind of rows that there are, as retrieval has one for each direction."""

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        kinds = sorted(set(predictions["kind"]))
        return [Metric(f"{kind}_rows", 1.0, None, None, "none", len(predictions)) for kind in kinds]

    def reliability(self, predictions: pd.DataFrame) -> Sequence[Any]:
        return Task.reliability(self, predictions)


def test_a_group_without_one_of_the_metrics() -> None:
    told = predictions().assign(kind=["a"] * 60 + ["b"] * 60, sex=["F"] * 60 + ["M"] * 30 + ["F"] * 30)
    scores = score(EachDirection("micro", split="any", classes=("x",)), told)
    assert scores.reliability == []  # a task that says nothing of it
    men = scores.subgroups[0].groups[1]
    assert [(m.name, m.value, m.n) for m in men.metrics] == [("a_rows", None, 0), ("b_rows", 1.0, 30)]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A table of 90 films of 90 patients, bright if positive, of all ages, a third of them of men."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(90):
        positive = int(rng.random() < 0.5)
        shade = np.uint8(np.clip(rng.normal(90 + 60 * positive, 30), 0, 255))
        Image.fromarray(np.full((32, 32), shade)).save(tmp_path / f"{k}.png")
        part = ("train", "val", "test")[min(2, k // 20)]
        sex = "M" if k % 3 == 0 else "F"
        rows.append((f"{k}.png", f"p{k}", sex, 20 + k, "PA", part, positive))
    columns = ["image", "patient", "sex", "age", "view", "split", "label_x"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def test_a_run_groups_patients_from_the_table_to_the_last_line(films: Path, tmp_path: Path) -> None:
    catalogue = load_catalogue(third_party=False)
    request = RunRequest(
        methods=("random",),
        tasks=(f"lp:table:{films}",),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        fractions=(1.0,),
        recipe="micro",
        device="cpu",
        quiet=True,
    )
    (record,) = run(request, catalogue).records
    assert record.status == "ok", record.error
    (path,) = ResultStore(request.results).files()
    assert Record.model_validate_json(path.read_bytes()) == record
    told = read_predictions(path, record)
    assert {"sex", "age", "view"} <= set(told)
    sex, age = record.subgroups
    assert [(g.name, g.samples) for g in sex.groups] == [("F", 34), ("M", 16)]
    assert [g.name for g in age.groups] == ["60-79", "80 and above"]
    assert {d.label for d in record.reliability} == {"x"}
    (task,) = (catalogue.make_task(catalogue.lookup_task(name), "micro") for name in request.tasks)
    assert isinstance(task, Task)
    again = score(task, told)
    assert (again.metrics, again.subgroups, again.reliability) == (
        record.metrics,
        record.subgroups,
        record.reliability,
    )
    last = cells_table([record]).splitlines()[-1]
    assert last.startswith("random lp:table:t.csv 100%, seed 0: worst group of age: ")
    assert "gap" in last and "of sex" not in last  # of 16 men nothing is said
