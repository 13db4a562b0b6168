"""Metrics by subgroup are those of the group's rows, and worst, best and gap are those of a loop."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.metrics.calibration import calibration_metrics
from medbench.metrics.classification import classification_metrics
from medbench.metrics.subgroups import (
    AGE_BANDS,
    Group,
    Measure,
    Spread,
    Subgroups,
    age_bands,
    subgroup_metrics,
)
from medbench.task import Metric


def slow_band(age: float | None) -> str:
    if age is None or math.isnan(age) or age < 0 or age > 120:
        return "unknown"
    years = math.floor(age)
    for band in ("0-17", "18-39", "40-59", "60-79"):
        if years in range(int(band.split("-")[0]), int(band.split("-")[1]) + 1):
            return band
    return "80 and above"


AGES = st.one_of(st.none(), st.floats(), st.integers(-5, 125).map(float), st.floats(0, 120))


@given(st.lists(AGES))
def test_age_bands(ages: list[float | None]) -> None:
    assert age_bands(ages) == [slow_band(age) for age in ages]


def test_age_bands_of_columns() -> None:
    assert age_bands(pd.Series([17, 18, pd.NA, 414], dtype="Int64")) == [
        "0-17", "18-39", "unknown", "unknown",
    ]  # fmt: skip
    assert age_bands(np.array([79.99, 80.0, 120.0])) == ["60-79", "80 and above", "80 and above"]
    assert age_bands([]) == []
    with pytest.raises(ValueError, match="045Y"):
        age_bands(["045Y"])


def films(sizes: dict[str | None, int], seed: int = 0) -> pd.DataFrame:
    """Predictions of one class in groups of that many films, two films a patient, in no order."""
    rng = np.random.default_rng(seed)
    sex = [name for name, size in sizes.items() for _ in range(size)]
    n = len(sex)
    target = np.tile([1.0, 0.0, 0.0], n)[:n]
    table = pd.DataFrame(
        {
            "patient": [f"p{k // 2}" for k in range(n)],
            "sex": sex,
            "target_x": target,
            "score_x": np.clip(rng.normal(0.4 + 0.2 * target, 0.2), 0, 1),
        }
    )
    return table.sample(frac=1, random_state=seed)


def auroc_of_x(predictions: pd.DataFrame) -> tuple[Metric, ...]:
    return classification_metrics(predictions, ["x"], macro=False)[:2]


def calibration_of_x(predictions: pd.DataFrame) -> tuple[Metric, ...]:
    return calibration_metrics(predictions, ["x"], "probability")


def mean_of_score(higher_is_better: bool = True) -> Measure:
    """A cheap metric: the mean score of the rows that have one; None if that is 0."""

    def measure(predictions: pd.DataFrame) -> tuple[Metric, ...]:
        scores = predictions["score"].dropna()
        value = float(scores.mean()) if len(scores) and scores.mean() != 0 else None
        low, high = (None, None) if value is None else (value - 1, value + 1)
        return (
            Metric("mean_score", value, low, high, "none", len(scores), higher_is_better=higher_is_better),
        )

    return measure


GROUP = st.tuples(st.integers(0, 45), st.integers(-2, 2), st.integers(0, 25))
GROUPS = st.dictionaries(st.sampled_from(["A", "B", "C", "D", "unknown"]), GROUP, min_size=1)


@given(GROUPS, st.booleans())
def test_worst_best_and_gap_like_a_loop(
    groups: dict[str, tuple[int, int, int]], higher_is_better: bool
) -> None:
    rows = [
        {"patient": f"{name}{i}", "group": name, "score": np.nan if i < unscored else float(value)}
        for name, (size, value, unscored) in groups.items()
        for i in range(size)
    ]
    if not rows:
        return
    expected = sorted(set(groups) - {"unknown"})
    result = subgroup_metrics(pd.DataFrame(rows), "group", mean_of_score(higher_is_better), expected)
    worst = best = None
    left_out = []
    for name in sorted(groups):  # "unknown" comes last by itself
        size, value, unscored = groups[name]
        if name == "unknown" or size - unscored < 20 or value == 0:
            if name != "unknown" or size:
                left_out.append(name)
            continue
        good = value if higher_is_better else -value
        if worst is None or good < (worst[1] if higher_is_better else -worst[1]):
            worst = (name, value)
        if best is None or good > (best[1] if higher_is_better else -best[1]):
            best = (name, value)
    (spread,) = result.spreads
    assert spread.left_out == tuple(left_out)
    counting = len(result.groups) - len(left_out)
    if worst is None:
        assert (spread.worst_group, spread.worst, spread.best, spread.gap) == (None, None, None, None)
        assert spread.reason == "no group has a value from at least 20 samples"
    else:
        assert (spread.worst_group, spread.worst) == worst
        assert (spread.worst_low, spread.worst_high) == (worst[1] - 1, worst[1] + 1)
        assert (spread.best_group, spread.best) == best
        assert spread.gap == (abs(best[1] - worst[1]) if counting > 1 else None)
        assert (spread.reason == "") == (counting > 1)


@pytest.mark.parametrize("measure", [auroc_of_x, calibration_of_x])
def test_a_group_is_measured_by_its_rows_alone(measure: Measure) -> None:
    table = films({"M": 40, "F": 31, "unknown": 24})
    result = subgroup_metrics(table, "sex", measure)
    assert result.column == "sex"
    assert result.whole == measure(table)
    assert [(g.name, g.known, g.samples) for g in result.groups] == [
        ("F", True, 31), ("M", True, 40), ("unknown", False, 24),
    ]  # fmt: skip
    for group in result.groups:
        rows = table[table["sex"] == group.name]
        assert group.metrics == measure(rows)
        assert group.patients == rows["patient"].nunique()
        for metric in group.metrics:
            assert metric.low <= metric.value <= metric.high


def test_worst_follows_the_direction_of_the_metric() -> None:
    table = films({"M": 60, "F": 60})
    for measure, worst in ((auroc_of_x, min), (calibration_of_x, max)):
        result = subgroup_metrics(table, "sex", measure)
        for k, spread in enumerate(result.spreads):
            values = {g.name: g.metrics[k].value for g in result.groups}
            assert spread.worst == worst(values.values())
            assert values[spread.worst_group] == spread.worst
            assert spread.gap == pytest.approx(max(values.values()) - min(values.values()))
            assert spread.reason == ""


def test_small_groups_say_so_and_are_left_out() -> None:
    table = films({"M": 30, "F": 20, "O": 19})
    table.loc[table["sex"] == "O", "score_x"] = 1 - table["target_x"]  # as bad as can be
    result = subgroup_metrics(table, "sex", auroc_of_x)
    notes = {g.name: g.notes.get("auroc") for g in result.groups}
    assert notes == {"F": None, "M": None, "O": "19 samples, fewer than 20: neither worst nor best"}
    assert result.groups[2].metrics[0].value == 0.0
    assert result.spreads[0].worst_group in ("F", "M")
    assert result.spreads[0].left_out == ("O",)


def test_samples_are_counted_by_known_labels() -> None:
    table = films({"M": 30, "F": 30}).reset_index(drop=True)
    women = table.index[table["sex"] == "F"]
    table.loc[women[:11], "target_x"] = np.nan
    result = subgroup_metrics(table, "sex", auroc_of_x)
    assert (result.groups[0].samples, result.groups[0].metrics[0].n) == (30, 19)
    assert result.groups[0].notes["auroc"].startswith("19 samples, fewer than 20")
    assert (result.spreads[0].worst_group, result.spreads[0].gap) == ("M", None)
    assert result.spreads[0].reason == "only one group has a value from at least 20 samples"


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  ", "Unknown", "unknown"])
def test_what_is_not_known_is_a_group_that_is_never_the_worst(missing: object) -> None:
    table = films({"M": 30, "F": 30, "?": 40})
    lost = table["sex"] == "?"
    table["sex"] = table["sex"].astype(object).where(~lost, missing)
    table.loc[lost, "score_x"] = 1 - table["target_x"]
    result = subgroup_metrics(table, "sex", auroc_of_x)
    assert [g.name for g in result.groups] == ["F", "M", "unknown"]
    unknown = result.groups[2]
    assert (unknown.samples, unknown.known, unknown.metrics[0].value) == (40, False, 0.0)
    assert unknown.notes["auroc"] == "group not known: neither worst nor best"
    assert result.spreads[0].worst_group != "unknown"
    assert result.spreads[0].left_out == ("unknown",)


def test_nothing_known_at_all() -> None:
    table = films({"M": 30}).assign(sex=np.nan)
    result = subgroup_metrics(table, "sex", auroc_of_x)
    assert [g.name for g in result.groups] == ["unknown"]
    assert result.spreads[0].worst is None
    assert result.spreads[0].reason == "no group has a value from at least 20 samples"


def test_one_class_is_not_defined_and_says_why() -> None:
    table = films({"F": 30, "M": 30, "O": 30})
    table.loc[table["sex"] == "F", "target_x"] = 0.0
    table.loc[table["sex"] == "M", "target_x"] = 1.0
    result = subgroup_metrics(table, "sex", auroc_of_x)
    women, men, _ = result.groups
    assert (women.metrics[0].value, men.metrics[0].value) == (None, None)
    assert women.notes["auroc"] == "x: 0 positives and 30 negatives"
    assert men.notes["average_precision"] == "x: 30 positives and 0 negatives"
    assert (result.spreads[0].worst_group, result.spreads[0].left_out) == ("O", ("F", "M"))
    for group in subgroup_metrics(table, "sex", calibration_of_x).groups:
        assert group.notes == {}  # calibration needs no two classes


def test_the_class_that_is_missing_is_named() -> None:
    table = films({"F": 30, "M": 30})
    table["target_y"], table["score_y"] = 1 - table["target_x"], 1 - table["score_x"]
    table["target_z"], table["score_z"] = table["target_x"], table["score_x"]
    women = table["sex"] == "F"
    table.loc[women, "target_y"] = 0.0
    table.loc[women, "target_z"] = np.nan
    result = subgroup_metrics(
        table, "sex", lambda rows: classification_metrics(rows, ["x", "y", "z"], macro=True)[:2]
    )
    note = "a mean without y, z, which all samples have: neither worst nor best"
    assert result.groups[0].notes == {"macro_auroc": note, "macro_average_precision": note}
    assert result.groups[1].notes == {}
    assert (result.spreads[0].worst_group, result.spreads[0].left_out) == ("M", ("F",))


def test_a_metric_that_has_no_reason_of_its_own() -> None:
    table = pd.DataFrame({"patient": list("ab"), "group": list("XY"), "score": [0.0, 0.0]})
    result = subgroup_metrics(table, "group", mean_of_score())
    assert result.groups[0].notes["mean_score"].startswith("not defined on these samples; 1 samples")


def test_a_group_without_any_label_has_no_value() -> None:
    table = films({"F": 30, "M": 30})
    table.loc[table["sex"] == "F", "target_x"] = np.nan
    group = subgroup_metrics(table, "sex", auroc_of_x).groups[0]
    assert (group.samples, group.patients) == (30, 15)
    for metric in group.metrics:
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)
        assert group.notes[metric.name].startswith("x: no known label")


def test_expected_groups_are_listed_though_empty() -> None:
    rng = np.random.default_rng(0)
    table = films({"M": 60}).assign(band=age_bands(rng.choice([30.0, 65.0, np.nan], 60)))
    result = subgroup_metrics(table, "band", auroc_of_x, AGE_BANDS)
    assert [g.name for g in result.groups] == [*AGE_BANDS, "unknown"]
    empty = result.groups[0]
    assert (empty.samples, empty.patients) == (0, 0)
    assert [(m.value, m.n) for m in empty.metrics] == [(None, 0)] * len(result.whole)
    assert empty.notes == {"auroc": "no samples", "average_precision": "no samples"}
    assert "0-17" in result.spreads[0].left_out


def test_groups_that_were_not_expected_come_after_the_expected() -> None:
    table = films({"PA": 20, "AP": 20, "Lateral": 20})
    result = subgroup_metrics(table, "sex", auroc_of_x, ["PA", "AP"])
    assert [g.name for g in result.groups] == ["PA", "AP", "Lateral"]


def test_a_patient_may_be_in_several_groups() -> None:
    table = films({"PA": 40})
    table["view"] = ["PA", "AP"] * 20
    table["patient"] = np.repeat(np.arange(20), 2)
    result = subgroup_metrics(table, "view", auroc_of_x)
    assert [g.patients for g in result.groups] == [20, 20]


def test_one_patient_has_a_value_and_no_interval() -> None:
    table = films({"F": 30, "M": 30})
    table.loc[table["sex"] == "F", "patient"] = "she"
    group = subgroup_metrics(table, "sex", auroc_of_x).groups[0]
    assert group.patients == 1
    for metric in group.metrics:
        assert metric.value is not None
        assert (metric.low, metric.high) == (None, None)
        assert group.notes[metric.name] == "one patient: no interval"


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = films({"F": 30, "M": 25, "": 22, "O": 3})
    again = table.sample(frac=1, random_state=5)
    assert subgroup_metrics(table, "sex", auroc_of_x) == subgroup_metrics(again, "sex", auroc_of_x)


def test_results_are_plain_data() -> None:
    table = films({"F": 30, "M": 25, "": 22, "O": 3})
    result = subgroup_metrics(table, "sex", auroc_of_x, ["F", "M", "X"])
    read = json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))
    groups = tuple(
        Group(**{**g, "metrics": tuple(Metric(**m) for m in g["metrics"])}) for g in read["groups"]
    )
    spreads = tuple(Spread(**{**s, "left_out": tuple(s["left_out"])}) for s in read["spreads"])
    whole = tuple(Metric(**m) for m in read["whole"])
    assert Subgroups(read["column"], whole, groups, spreads) == result


def test_wrong_input_is_refused() -> None:
    table = films({"F": 30, "M": 30})
    with pytest.raises(ValueError, match="need a column `age`, found patient, sex, target_x, score_x"):
        subgroup_metrics(table, "age", auroc_of_x)
    with pytest.raises(ValueError, match="need a column `patient`"):
        subgroup_metrics(table.drop(columns="patient"), "sex", auroc_of_x)
    with pytest.raises(ValueError, match=r"column `score_x` holds numbers with fractions.*age_bands"):
        subgroup_metrics(table, "score_x", auroc_of_x)
    with pytest.raises(ValueError, match="not 0, 1 or NaN"):  # broken predictions are no matter of groups
        subgroup_metrics(table.assign(target_x=2.0), "sex", auroc_of_x)
    with pytest.raises(ValueError, match="scores of x are not finite"):
        subgroup_metrics(table.assign(score_x=np.nan), "sex", auroc_of_x)


def test_a_metric_that_some_rows_do_not_give() -> None:
    table = films({"F": 30, "M": 25})

    def by_size(rows: pd.DataFrame) -> tuple[Metric, ...]:
        given = {name: Metric(name, 0.5, None, None, "none", len(rows)) for name in ("all", "of_30", "of_55")}
        return given["all"], *(given[name] for name in (f"of_{len(rows)}",) if name in given)

    whole = (*by_size(table), Metric("of_30", 0.5, None, None, "none", 30))
    result = subgroup_metrics(table, "sex", by_size, whole=whole)
    assert [m.name for m in result.groups[0].metrics] == ["all", "of_55", "of_30"]
    assert [m.value for m in result.groups[0].metrics] == [0.5, None, 0.5]
    assert [m.value for m in result.groups[1].metrics] == [0.5, None, None]
    note = "not defined on these samples; 0 samples, fewer than 20: neither worst nor best"
    assert result.groups[1].notes == {"of_55": note, "of_30": note}


def test_a_metric_says_itself_why_it_has_no_value() -> None:
    table = films({"F": 30, "M": 30})

    def silent(rows: pd.DataFrame) -> tuple[Metric, ...]:
        reason = "the gallery is empty" if len(rows) < 60 else ""
        return (Metric("m", None if reason else 0.5, None, None, "none", len(rows), reason=reason),)

    assert subgroup_metrics(table, "sex", silent).groups[0].notes == {"m": "the gallery is empty"}
