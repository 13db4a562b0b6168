"""Accuracy and F1 of classes that exclude each other: scikit-learn's numbers, shared films, what does not count."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from medbench.metrics.exclusive import accuracy, exclusive_metrics
from medbench.task import Metric

CLASSES = ("a", "b", "c")


def frame(truth: np.ndarray, score: np.ndarray) -> pd.DataFrame:
    rows: dict[str, object] = {"patient": [f"p{k // 2}" for k in range(len(truth))]}
    for k, name in enumerate(CLASSES):
        rows |= {f"target_{name}": truth[:, k], f"score_{name}": score[:, k]}
    return pd.DataFrame(rows)


def metrics(truth: np.ndarray, score: np.ndarray) -> dict[str, Metric]:
    return {metric.name: metric for metric in exclusive_metrics(frame(truth, score))}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40))
def test_like_scikit_learn_where_nothing_is_shared(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    own = np.concatenate([np.arange(3), rng.integers(0, 3, count)])  # every class is there
    score = rng.normal(size=(len(own), 3))
    found = metrics(np.eye(3)[own], score)
    named = score.argmax(axis=1)
    assert found["accuracy"].value == pytest.approx(accuracy_score(own, named))
    assert found["accuracy"].value == pytest.approx(accuracy(np.eye(3)[own], score))
    assert found["macro_f1"].value == pytest.approx(f1_score(own, named, average="macro", labels=[0, 1, 2]))
    each = f1_score(own, named, average=None, labels=[0, 1, 2])
    assert list(found["macro_f1"].per_class.values()) == pytest.approx(each.tolist())
    recall = recall_score(own, named, average=None, labels=[0, 1, 2], zero_division=0)
    assert list(found["accuracy"].per_class.values()) == pytest.approx(recall.tolist())
    for metric in found.values():
        if count > 30:  # among few films many a draw lacks a class
            assert metric.low <= metric.value <= metric.high
        assert metric.n == len(own) and metric.reason == ""


def test_classes_that_share_the_highest_score_share_the_film() -> None:
    truth = np.eye(3)[[0, 0, 1, 1, 2, 2]]
    equal = metrics(truth, np.zeros((6, 3)))
    assert equal["accuracy"].value == pytest.approx(1 / 3)
    assert equal["macro_f1"].value == pytest.approx(1 / 3)
    half = np.array([[1.0, 1.0, 0.0]] * 6)
    assert accuracy(truth, half) == pytest.approx(1 / 3)  # a and b are right every second time, c never


def test_films_without_one_class_do_not_count() -> None:
    nan = float("nan")
    truth = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, nan], [0, 0, 1.0]])
    found = metrics(truth, np.eye(3)[[0, 1, 0, 0, 0, 2]])
    assert found["accuracy"].n == 3 and found["accuracy"].value == 1.0
    nobody = metrics(np.zeros((4, 3)), np.zeros((4, 3)))
    for metric in nobody.values():
        assert metric.value is None and metric.n == 0
        assert metric.reason == "no film with exactly one class"
    assert accuracy(np.zeros((4, 3)), np.zeros((4, 3))) is None


def test_an_absent_class_leaves_accuracy_alone() -> None:
    found = metrics(np.eye(3)[[0, 1, 0, 1]], np.eye(3)[[0, 1, 1, 2]])
    assert found["accuracy"].value == 0.5
    assert found["accuracy"].per_class == {"a": 0.5, "b": 0.5, "c": None}
    assert found["macro_f1"].value is None and found["macro_f1"].low is None
    assert found["macro_f1"].reason == found["accuracy"].reason == "no film of c"


def test_the_order_of_films_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    truth, score = np.eye(3)[rng.integers(0, 3, 50)], rng.normal(size=(50, 3))
    table = frame(truth, score)
    assert exclusive_metrics(table) == exclusive_metrics(table.sample(frac=1, random_state=1))


def test_a_score_that_is_none_is_refused() -> None:
    score = np.zeros((2, 3))
    score[1, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 6 scores are not finite"):
        metrics(np.eye(3)[[0, 1]], score)
