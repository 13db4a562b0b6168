"""The linear probe: one grid, chosen on validation alone, and the numbers scikit-learn would give."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.progress import Progress
from medbench.protocols.linear_probe import LinearProbe, ProbeFeatures
from medbench.task import Environment, TaskData

N, WIDTH = 240, 30
ENV = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))


class TwoFindings(LinearProbe):
    def __init__(self, recipe: str) -> None:
        super().__init__(recipe, split="any", classes=("a", "b"))


@dataclasses.dataclass
class Case:
    """A dataset of features: `data`, `features` of every second row's order, labels in `index.table`."""

    data: TaskData
    features: ProbeFeatures


@pytest.fixture
def case() -> Case:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(N, WIDTH)) * np.exp(rng.normal(size=WIDTH)) + 3).astype(np.float32)
    standard = (values - values.mean(0)) / values.std(0)
    table = pd.DataFrame({"sample": [f"s{k}" for k in range(N)], "patient": [f"p{k // 2}" for k in range(N)]})
    for name in ("a", "b"):
        signal = standard @ rng.normal(size=WIDTH) / 3 + rng.normal(size=N)
        table[f"label_{name}"] = (signal > 0.5).astype(np.float64)
    table.loc[rng.random(N) < 0.1, "label_b"] = np.nan
    order = rng.permutation(N)
    split = Split(
        "any", *(np.sort(part) for part in np.split(order[:220], [120, 170]))
    )  # 20 rows are in no part
    rows = np.unique(np.concatenate([split.train, split.val, split.test]))

    def images(side: int, fit: str) -> None:
        raise AssertionError("no film is needed once the features are there")

    index = Index("d", Path(), "phantom", table, ("a", "b"))
    return Case(TaskData(index, split, images), ProbeFeatures(rows, values[rows]))


def relabelled(case: Case, **columns: np.ndarray) -> TaskData:
    index = dataclasses.replace(case.data.index, table=case.data.index.table.assign(**columns))
    return dataclasses.replace(case.data, index=index)


def test_it_is_the_best_scikit_learn_fit_on_validation(case: Case) -> None:
    task = TwoFindings("tiny")
    split, table = case.data.split, case.data.index.table
    train = split.train[:60]
    result = task.evaluate(case.features, case.data, train, seed=3, env=ENV)
    assert list(result.predictions) == ["sample", "patient", "target_a", "score_a", "target_b", "score_b"]
    assert result.predictions["sample"].tolist() == table["sample"].iloc[split.test].tolist()
    assert result.predictions["patient"].tolist() == table["patient"].iloc[split.test].tolist()

    centre = case.features.of(train).astype(np.float64).mean(0)
    scale = (case.features.of(train) - centre).std()
    parts = {"train": train, "val": split.val, "test": split.test}
    x = {name: (case.features.of(rows) - centre) / scale for name, rows in parts.items()}
    for name in ("a", "b"):
        y = table[f"label_{name}"].to_numpy()
        fit_on, choose_on = ~np.isnan(y[train]), ~np.isnan(y[split.val])
        best = (-1.0, 0.0, np.array([]))
        for penalty in task.config.penalties:
            oracle = LogisticRegression(
                C=1 / (fit_on.sum() * penalty), solver="newton-cholesky", tol=1e-12, max_iter=1000
            ).fit(x["train"][fit_on], y[train][fit_on])
            value = roc_auc_score(y[split.val][choose_on], oracle.decision_function(x["val"])[choose_on])
            if value >= best[0]:
                best = (value, penalty, oracle.decision_function(x["test"]))
        chosen = result.search["chosen"][name]
        assert chosen["penalty"] == best[1]
        assert chosen["validation_auroc"] == pytest.approx(best[0])
        largest = np.abs(best[2]).max()
        np.testing.assert_allclose(result.predictions[f"score_{name}"], best[2], atol=1e-4 * largest)
        np.testing.assert_array_equal(result.predictions[f"target_{name}"], y[split.test])


def test_the_search_is_in_the_record(case: Case) -> None:
    task = TwoFindings("tiny")
    search = task.evaluate(case.features, case.data, case.data.split.train, 0, ENV).search
    assert json.loads(json.dumps(search)) == search
    assert search["grid"] == {"penalty": list(task.config.penalties)}
    assert search["trials"] == len(task.config.penalties)
    assert search["notes"] == {}
    for chosen in search["chosen"].values():
        values = chosen["validation_auroc_by_penalty"]
        assert len(values) == search["trials"]
        assert chosen["validation_auroc"] == max(values)
    json.dumps(dataclasses.asdict(task.config))


def test_test_labels_and_test_films_decide_nothing(case: Case) -> None:
    task = TwoFindings("tiny")
    split, table = case.data.split, case.data.index.table
    first = task.evaluate(case.features, case.data, split.train, 0, ENV)
    labels = table["label_a"].to_numpy().copy()
    labels[split.test] = 1 - labels[split.test]
    values = case.features.pooled.copy()
    values[np.searchsorted(case.features.rows, split.test)] += 100
    second = task.evaluate(
        ProbeFeatures(case.features.rows, values), relabelled(case, label_a=labels), split.train, 0, ENV
    )
    assert first.search == second.search


def test_rows_outside_the_fraction_decide_nothing_but_the_choice(case: Case) -> None:
    split = case.data.split
    train = split.train[:40]
    values = case.features.pooled.copy()
    values[np.searchsorted(case.features.rows, split.train[40:])] *= (
        50  # would move mean and standard deviation
    )
    a = TwoFindings("tiny").evaluate(case.features, case.data, train, 0, ENV)
    b = TwoFindings("tiny").evaluate(ProbeFeatures(case.features.rows, values), case.data, train, 0, ENV)
    pd.testing.assert_frame_equal(a.predictions, b.predictions)


def test_the_scale_of_the_features_does_not_matter(case: Case) -> None:
    moved = ProbeFeatures(case.features.rows, case.features.pooled * np.float32(1024) + np.float32(8))
    a = TwoFindings("tiny").evaluate(case.features, case.data, case.data.split.train, 0, ENV)
    b = TwoFindings("tiny").evaluate(moved, case.data, case.data.split.train, 0, ENV)
    np.testing.assert_allclose(a.predictions["score_a"], b.predictions["score_a"], rtol=1e-3, atol=1e-4)


def test_of_equal_validation_scores_the_strongest_penalty_wins(case: Case) -> None:
    values = case.features.pooled.copy()
    values[:, 1:] = 1.0  # one feature: every penalty ranks alike
    result = TwoFindings("tiny").evaluate(
        ProbeFeatures(case.features.rows, values), case.data, case.data.split.train, 0, ENV
    )
    for chosen in result.search["chosen"].values():
        assert len(set(chosen["validation_auroc_by_penalty"])) == 1
        assert chosen["penalty"] == max(TwoFindings("tiny").config.penalties)


@pytest.mark.parametrize(
    ("part", "note"),
    [
        ("train", "the training fraction holds 0 positives and 120 negatives"),
        ("val", "the validation split holds 0 positives and 50 negatives"),
    ],
)
def test_a_class_with_one_value_is_none_and_says_why(case: Case, part: str, note: str) -> None:
    labels = case.data.index.table["label_a"].to_numpy().copy()
    labels[getattr(case.data.split, part)] = 0
    task = TwoFindings("tiny")
    result = task.evaluate(case.features, relabelled(case, label_a=labels), case.data.split.train, 0, ENV)
    assert note in result.search["notes"]["a"]
    assert list(result.search["chosen"]) == ["b"]
    assert result.predictions["score_a"].isna().all()
    whole = task.evaluate(case.features, case.data, case.data.split.train, 0, ENV)
    np.testing.assert_allclose(
        result.predictions["score_b"], whole.predictions["score_b"], rtol=1e-5, atol=1e-6
    )
    macro = task.score(result.predictions)[0]
    assert macro.value is None
    assert macro.per_class["a"] is None
    assert macro.per_class["b"] is not None


def test_nothing_can_be_fitted(case: Case) -> None:
    labels = np.full(N, np.nan)
    labels[case.data.split.test] = 1
    task = TwoFindings("tiny")
    data = relabelled(case, label_a=labels, label_b=labels)
    result = task.evaluate(case.features, data, case.data.split.train, 0, ENV)
    assert result.search["chosen"] == {}
    assert [metric.value for metric in task.score(result.predictions)] == [None, None]


def test_an_encoder_that_collapsed_is_at_chance(case: Case) -> None:
    noise = np.random.default_rng(0).normal(size=case.features.pooled.shape) * 1e-8
    features = ProbeFeatures(case.features.rows, (0.1 + noise).astype(np.float32))
    task = TwoFindings("tiny")
    result = task.evaluate(features, case.data, case.data.split.train, 0, ENV)
    assert task.score(result.predictions)[0].value == 0.5


def test_the_seed_only_picks_the_list(case: Case) -> None:
    task = TwoFindings("tiny")
    a = task.evaluate(case.features, case.data, case.data.split.train, 0, ENV)
    b = task.evaluate(case.features, case.data, case.data.split.train, 1, ENV)
    pd.testing.assert_frame_equal(a.predictions, b.predictions)
    assert not task.depends_on_seed(1.0)
    assert task.depends_on_seed(0.1)
    assert task.depends_on_seed(0.01)


def test_positives_are_rows_with_any_finding(case: Case) -> None:
    table = case.data.index.table
    expected = (table["label_a"] == 1) | (table["label_b"] == 1)
    np.testing.assert_array_equal(TwoFindings("tiny").positives(case.data.index), expected)


@pytest.mark.gpu
def test_a_gpu_gives_the_same(case: Case) -> None:
    env = dataclasses.replace(ENV, device=torch.device("cuda"))
    cpu = TwoFindings("tiny").evaluate(case.features, case.data, case.data.split.train, 0, ENV)
    cuda = TwoFindings("tiny").evaluate(case.features, case.data, case.data.split.train, 0, env)
    np.testing.assert_allclose(cpu.predictions["score_a"], cuda.predictions["score_a"], rtol=1e-4, atol=1e-6)
