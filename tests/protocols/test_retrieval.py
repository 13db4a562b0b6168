"""Retrieval: perfect, at chance, shared and missing reports, small galleries, and what it says when it can't."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medbench.data.index import Index
from medbench.errors import DataError
from medbench.protocols.retrieval import Retrieval
from medbench.task import Evaluation, Metric, TaskData

from .toy_pairs import ENV, LocalToy, Toy, dataset

CLASSES = ("lung", "heart", "rib")
SHOWN = [CLASSES[k % 3] for k in range(24)]
REPORTS = [
    f"there is something at the {word}. seen as {word} and {word} number{k}." for k, word in enumerate(SHOWN)
]
LABELS = {name: [float(word == name) for word in SHOWN] for name in CLASSES}


def run(
    task: Retrieval, data: TaskData, model: Toy | None = None, batch_size: int = 64
) -> tuple[Evaluation, dict[str, Metric]]:
    features = task.extract(model or Toy(), data, ENV, batch_size)
    result = task.evaluate(features, data, np.zeros(0, np.int64), 0, ENV)
    return result, {metric.name: metric for metric in task.score(result.predictions)}


def retrieval(classes: Sequence[str] | None = CLASSES, reports: str = "") -> Retrieval:
    return Retrieval("micro", split="any", classes=classes, reports=reports)


def test_films_and_reports_of_a_class_find_each_other() -> None:
    result, found = run(retrieval(), dataset(SHOWN, REPORTS, labels=LABELS))
    assert {f"{d}_p_at_{k}" for d in ("i2t", "t2i") for k in (1, 2, 5, 10)} <= set(found)
    assert {f"{d}_r_at_{k}" for d in ("i2t", "t2i") for k in (1, 5, 10)} <= set(found)
    assert {f"{d}_{name}" for d in ("i2t", "t2i") for name in ("map", "median_rank")} <= set(found)
    for name in ("i2t_p_at_1", "i2t_p_at_5", "t2i_p_at_1", "i2t_map"):
        assert found[name].value > 0.95
        assert found[name].n == 24 and found[name].reason == ""
    assert result.search["trials"] == 0 and result.search["similarity"].startswith("global")
    assert result.search["films"] == result.search["reports"] == 24
    assert not retrieval().depends_on_seed(1.0)


def test_a_local_similarity_is_used_and_said() -> None:
    data = dataset(SHOWN, REPORTS, labels=LABELS)
    result, found = run(retrieval(), data, LocalToy())
    assert "local" in result.search["similarity"]
    assert found["i2t_p_at_1"].value > 0.95
    assert not result.predictions.equals(run(retrieval(), data)[0].predictions)


def test_a_collapsed_encoder_is_at_chance_exactly() -> None:
    _, found = run(retrieval(), dataset(SHOWN, REPORTS, labels=LABELS), Toy(collapsed=True))
    for direction in ("i2t", "t2i"):
        for k in (1, 2, 5, 10):
            assert found[f"{direction}_p_at_{k}"].value == pytest.approx(1 / 3, abs=1e-12)
        for k in (1, 5, 10):
            assert found[f"{direction}_r_at_{k}"].value == pytest.approx(k / 24, abs=1e-12)
        assert found[f"{direction}_median_rank"].value == pytest.approx(12.5)


@pytest.mark.parametrize("model", [Toy(), LocalToy(), Toy(collapsed=True)])
def test_batches_and_the_order_of_the_index_change_nothing(model: Toy) -> None:
    first = run(retrieval(), dataset(SHOWN, REPORTS, labels=LABELS), model)[1]
    order = np.random.default_rng(1).permutation(24)
    for data, size in (
        (dataset(SHOWN, REPORTS, labels=LABELS), 5),
        (dataset(SHOWN, REPORTS, labels=LABELS, order=order), 64),
    ):
        for name, metric in run(retrieval(), data, model, size)[1].items():
            assert metric.value == pytest.approx(first[name].value, abs=1e-6)
            assert metric.low == pytest.approx(first[name].low, abs=1e-6)


def test_labels_choose_nothing() -> None:
    first, _ = run(retrieval(), dataset(SHOWN, REPORTS, labels=LABELS))
    turned = {name: LABELS[other] for name, other in zip(CLASSES, ("heart", "rib", "lung"), strict=True)}
    second, _ = run(retrieval(), dataset(SHOWN, REPORTS, labels=turned))
    assert first.search == second.search
    pairs = [column for column in first.predictions if column.startswith("pair_")]
    pd.testing.assert_frame_equal(first.predictions[pairs], second.predictions[pairs])


def test_films_of_a_patient_share_a_report_and_those_without_are_left_out() -> None:
    shown = ["lung", "lung", "heart", "rib", "rib"]
    reports = ["the lung is bad", "the lung is bad", "the heart is bad", "", "the lung is bad"]
    patients = ["a", "a", "b", "c", "d"]
    result, found = run(retrieval(()), dataset(shown, reports, patients))
    rows = result.predictions
    assert result.search["films"] == 4 and result.search["films_without_report"] == 1
    assert result.search["reports"] == 3  # d's is worded as a's, and still another patient's
    assert "i2t_p_at_1" not in found
    t2i = rows[rows["direction"] == "t2i"].set_index("patient")
    assert t2i["pair_relevant"].to_dict() == {"a": 2, "b": 1, "d": 1}
    assert t2i["films"].to_dict() == {"a": ["s000", "s001"], "b": ["s002"], "d": ["s004"]}
    i2t = rows[rows["direction"] == "i2t"]
    assert i2t["sample"].tolist() == ["s000", "s001", "s002", "s004"]
    assert i2t["films"].tolist() == [["s000"], ["s001"], ["s002"], ["s004"]]
    # Two reports are tied for the films of a: either is first with a chance of one half.
    assert i2t.loc[i2t["patient"] == "a", "pair_tied"].tolist() == [2, 2]


def test_a_gallery_smaller_than_k_has_no_such_metric_and_says_why() -> None:
    _, found = run(
        retrieval(None), dataset(SHOWN[:6], REPORTS[:6], labels={n: v[:6] for n, v in LABELS.items()})
    )
    for name in ("i2t_p_at_10", "t2i_p_at_10", "i2t_r_at_10"):
        assert found[name].value is None and found[name].low is None
        assert found[name].reason == "the gallery holds 6, fewer than 10"
    assert found["i2t_p_at_5"].value is not None and found["i2t_r_at_5"].value is not None


def test_labels_are_classes_only_where_they_exclude_each_other() -> None:
    data = dataset(SHOWN, REPORTS, labels=LABELS)
    assert run(retrieval(None), data)[0].search["classes"] == "labels, one a film"
    several = {**LABELS, "lung": [1.0] * 24}
    assert run(retrieval(None), dataset(SHOWN, REPORTS, labels=several))[0].search["classes"] == "none"
    unknown = {**LABELS, "lung": [float("nan"), *LABELS["lung"][1:]]}
    assert run(retrieval(None), dataset(SHOWN, REPORTS, labels=unknown))[0].search["classes"] == "none"
    assert run(retrieval(None), dataset(SHOWN, REPORTS))[0].search["classes"] == "none"
    with pytest.raises(DataError, match="s001 has none or several of the classes lung, heart, rib"):
        run(retrieval(), dataset(SHOWN, REPORTS, labels=several))


def test_metrics_come_from_the_stored_rows_alone(tmp_path: Path) -> None:
    result, found = run(retrieval(), dataset(SHOWN, REPORTS, labels=LABELS))
    result.predictions.to_parquet(tmp_path / "p.parquet", index=False)
    again = retrieval().score(pd.read_parquet(tmp_path / "p.parquet"))
    assert {metric.name: metric for metric in again} == found


def without_reports(name: str = "toy") -> Index:
    table = dataset(SHOWN, labels=LABELS).index.table
    return Index(name, Path("/data/chexpert"), "real", table, CLASSES)


def test_without_reports_the_missing_file_is_named() -> None:
    task = retrieval(reports="df_chexpert_plus_240401.csv")
    with pytest.raises(DataError, match=r"Looked for df_chexpert_plus_240401.csv in /data/chexpert"):
        task.positives(without_reports("chexpert_5x200"))
    with pytest.raises(DataError, match=r"--column report=NAME"):
        retrieval().positives(without_reports())


def test_reports_that_nobody_tests_are_none() -> None:
    reports = ["", *REPORTS[1:]]
    data = dataset(SHOWN, reports, labels=LABELS)
    data.split.test.resize(1, refcheck=False)
    assert retrieval().positives(data.index).sum() == 23
    with pytest.raises(DataError, match=r"1 test films were looked at"):
        run(retrieval(), data)
