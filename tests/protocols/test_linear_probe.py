"""The linear probe: one grid, chosen on validation alone, and the numbers scikit-learn would give."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.errors import DataError
from medbench.progress import Progress
from medbench.protocols.linear_probe import LinearProbe
from medbench.protocols.probe_features import ProbeFeatures
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
    kinds = ("target", "score", "threshold")
    assert list(result.predictions) == ["sample", "patient", *(f"{kind}_{c}" for c in "ab" for kind in kinds)]
    assert result.predictions["sample"].tolist() == table["sample"].iloc[split.test].tolist()
    assert result.predictions["patient"].tolist() == table["patient"].iloc[split.test].tolist()

    centre = case.features.of(train).astype(np.float64).mean(0)
    scale = (case.features.of(train) - centre).std()
    parts = {"train": train, "val": split.val, "test": split.test}
    x = {name: (case.features.of(rows) - centre) / scale for name, rows in parts.items()}
    for name in ("a", "b"):
        y = table[f"label_{name}"].to_numpy()
        fit_on, choose_on = ~np.isnan(y[train]), ~np.isnan(y[split.val])
        best: tuple[float, float, float, np.ndarray] = (-1.0, 0.0, 0.0, np.array([]))
        for penalty in task.config.penalties:
            oracle = LogisticRegression(
                C=1 / (fit_on.sum() * penalty), solver="newton-cholesky", tol=1e-12, max_iter=1000
            ).fit(x["train"][fit_on], y[train][fit_on])
            truth, odds = y[split.val][choose_on], oracle.decision_function(x["val"])[choose_on]
            value, loss = roc_auc_score(truth, odds), log_loss(truth, 1 / (1 + np.exp(-odds)))
            if (value, -loss) > best[:2]:
                best = (value, -loss, penalty, oracle.decision_function(x["test"]))
        chosen = result.search["chosen"][name]
        assert chosen["penalty"] == best[2]
        assert chosen["validation_auroc"] == pytest.approx(best[0])
        largest = np.abs(best[3]).max()
        np.testing.assert_allclose(result.predictions[f"score_{name}"], best[3], atol=1e-4 * largest)
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


def test_of_equal_validation_scores_the_best_probabilities_win(case: Case) -> None:
    values = case.features.pooled.copy()
    values[:, 1:] = 1.0  # one feature: every penalty ranks alike
    table = case.data.index.table
    first = case.features.of(case.data.split.train)[:, 0]
    seen = np.full(N, np.nan)
    seen[case.features.rows] = values[:, 0] > np.median(first)  # of which label_a is told exactly
    task = TwoFindings("tiny")
    data = relabelled(case, label_a=seen, label_b=table["label_b"].to_numpy())
    split = data.split
    result = task.evaluate(ProbeFeatures(case.features.rows, values), data, split.train, 0, ENV)
    grid = task.config.penalties
    for name in "ab":
        chosen = result.search["chosen"][name]
        losses = np.array(chosen["validation_log_loss_by_penalty"])
        assert len(set(chosen["validation_auroc_by_penalty"])) == 1
        assert chosen["penalty"] == grid[np.flatnonzero(losses <= losses.min() + 1e-6)[-1]]
    chosen = result.search["chosen"]["a"]
    assert chosen["validation_auroc"] == 1
    loss = log_loss(seen[split.test], 1 / (1 + np.exp(-result.predictions["score_a"])))
    assert loss < 0.1  # the share of the class alone gives 0.69


def test_of_equal_probabilities_the_strongest_penalty_wins(case: Case) -> None:
    values = np.ones_like(case.features.pooled)
    result = TwoFindings("tiny").evaluate(
        ProbeFeatures(case.features.rows, values), case.data, case.data.split.train, 0, ENV
    )
    for chosen in result.search["chosen"].values():
        assert set(chosen["validation_auroc_by_penalty"]) == {0.5}
        assert chosen["penalty"] == max(TwoFindings("tiny").config.penalties)


@pytest.mark.parametrize("exclusive", [False, True])
def test_without_a_validation_film_the_strongest_penalty_is_taken(case: Case, exclusive: bool) -> None:
    data = three_classes(case) if exclusive else case.data
    split = data.split
    data = dataclasses.replace(data, split=Split("any", split.train, split.val[:0], split.test))
    names = ("c", "d", "e") if exclusive else ("a", "b")
    task = LinearProbe("tiny", split="any", classes=names, exclusive=exclusive)
    result = task.evaluate(case.features, data, split.train, 0, ENV)
    chosen = result.search["chosen"]
    for found in (chosen,) if exclusive else chosen.values():
        assert found["penalty"] == max(task.config.penalties)
    assert result.search["notes"]
    assert json.loads(json.dumps(result.search)) == result.search
    metrics = {metric.name: metric for metric in task.score(result.predictions)}
    assert metrics["macro_auroc"].value is not None
    if not exclusive:
        assert metrics["macro_f1"].value is None
        assert metrics["macro_f1"].reason == "a: no threshold was chosen; b: no threshold was chosen"


def test_without_a_test_film_the_encoder_is_not_asked(case: Case) -> None:
    split = Split("any", case.data.split.train, case.data.split.val, np.zeros(0, np.int64))
    with pytest.raises(DataError, match="split any has no film to test"):
        TwoFindings("tiny").extract(None, dataclasses.replace(case.data, split=split), ENV)


def test_a_class_absent_from_the_fraction_has_one_score(case: Case) -> None:
    labels = case.data.index.table["label_a"].to_numpy().copy()
    labels[case.data.split.train] = 0
    task = TwoFindings("tiny")
    result = task.evaluate(case.features, relabelled(case, label_a=labels), case.data.split.train, 0, ENV)
    assert result.search["notes"] == {
        "a": "the training fraction holds 0 positives and 120 negatives: every film has the same score"
    }
    assert list(result.search["chosen"]) == ["b"]
    np.testing.assert_allclose(result.predictions["score_a"], np.log(0.5 / 120.5))
    whole = task.evaluate(case.features, case.data, case.data.split.train, 0, ENV)
    # the weakest penalty on separable films: the loss is flat where its gradient is next to nothing
    np.testing.assert_allclose(
        result.predictions["score_b"], whole.predictions["score_b"], rtol=2e-3, atol=1e-6
    )
    macro = task.score(result.predictions)[0]
    assert macro.per_class["a"] == 0.5
    assert macro.value == pytest.approx((0.5 + macro.per_class["b"]) / 2)
    assert macro.reason == "a: one score for all films"
    named = {metric.name: metric for metric in task.score(result.predictions)}["macro_f1"]
    assert named.value == named.per_class["b"]
    assert named.reason == "a: no threshold was chosen (left out of the mean)"


def test_a_class_absent_from_validation_takes_the_penalty_of_the_others(case: Case) -> None:
    labels = case.data.index.table["label_a"].to_numpy().copy()
    labels[case.data.split.val] = 0
    task = TwoFindings("tiny")
    result = task.evaluate(case.features, relabelled(case, label_a=labels), case.data.split.train, 0, ENV)
    chosen = result.search["chosen"]
    assert chosen["a"] == {"penalty": chosen["b"]["penalty"], "validation_auroc": None}
    assert result.search["notes"] == {
        "a": "the validation split holds 0 positives and 50 negatives; penalty: the best for the other classes"
    }
    assert task.score(result.predictions)[0].per_class["a"] > 0.5


def test_nothing_can_be_fitted(case: Case) -> None:
    labels = np.full(N, np.nan)
    labels[case.data.split.test] = 1
    task = TwoFindings("tiny")
    data = relabelled(case, label_a=labels, label_b=labels)
    result = task.evaluate(case.features, data, case.data.split.train, 0, ENV)
    assert result.search["chosen"] == {}
    macro = task.score(result.predictions)[0]
    assert macro.value is None
    assert macro.reason == "a: 50 positives and 0 negatives; b: 50 positives and 0 negatives"


def three_classes(case: Case) -> TaskData:
    """Classes c, d and e, of which each film has one; for some it is not known which."""
    rng = np.random.default_rng(1)
    values = case.features.pooled[
        np.searchsorted(case.features.rows, np.arange(N)).clip(max=len(case.features.rows) - 1)
    ]
    standard = (values - values.mean(0)) / values.std(0)
    label = (standard @ rng.normal(size=(WIDTH, 3)) + 2 * rng.normal(size=(N, 3))).argmax(1)
    columns = {f"label_{name}": (label == k) * 1.0 for k, name in enumerate("cde")}
    unknown = rng.random(N) < 0.1
    table = case.data.index.table.assign(**columns)
    table.loc[unknown, list(columns)] = np.nan
    index = dataclasses.replace(case.data.index, table=table, labels=("c", "d", "e"))
    return dataclasses.replace(case.data, index=index)


def test_classes_that_exclude_each_other_are_scikit_learns_softmax(case: Case) -> None:
    data = three_classes(case)
    task = LinearProbe("tiny", split="any", classes=("c", "d", "e"), exclusive=True)
    split, labels = data.split, data.index.table[["label_c", "label_d", "label_e"]].to_numpy()
    result = task.evaluate(case.features, data, split.train, 0, ENV)
    known = {
        name: rows[~np.isnan(labels[rows, 0])] for name, rows in (("train", split.train), ("val", split.val))
    }
    train = case.features.of(split.train).astype(np.float64)
    centre, scale = train.mean(0), (train - train.mean(0)).std()
    x = {
        name: (case.features.of(rows) - centre) / scale
        for name, rows in (known | {"test": split.test}).items()
    }
    found = []
    for penalty in task.config.penalties:
        oracle = LogisticRegression(
            C=1 / (len(known["train"]) * penalty), solver="newton-cholesky", tol=1e-12, max_iter=1000
        )
        oracle.fit(x["train"], labels[known["train"]].argmax(1))
        truth = labels[known["val"]].argmax(1)
        accuracy = (oracle.predict(x["val"]) == truth).mean()
        loss = log_loss(truth, oracle.predict_proba(x["val"]))
        found.append((accuracy, -loss, penalty, oracle.predict_proba(x["test"])))
    best = max(found, key=lambda each: each[:2])
    losses = result.search["chosen"]["validation_log_loss_by_penalty"]
    # the weakest penalties on separable films: scikit-learn clips probabilities and stops early
    assert losses[4:] == pytest.approx([-each[1] for each in found[4:]], rel=1e-3)
    assert result.search["chosen"]["validation_accuracy_by_penalty"] == pytest.approx(
        [each[0] for each in found]
    )
    assert result.search["chosen"]["penalty"] == best[2]
    scores = result.predictions[["score_c", "score_d", "score_e"]].to_numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-scores)), best[3], atol=1e-4)
    assert not [name for name in result.predictions if name.startswith("threshold")]
    metrics = task.score(result.predictions)
    assert metrics[0].name == "accuracy"
    assert metrics[0].value > 0.5
    assert json.loads(json.dumps(result.search)) == result.search


def test_an_exclusive_class_absent_from_the_fraction_is_never_named(case: Case) -> None:
    data = three_classes(case)
    train = case.data.split.train
    train = train[data.index.table["label_e"].to_numpy()[train] != 1]
    task = LinearProbe("tiny", split="any", classes=("c", "d", "e"), exclusive=True)
    result = task.evaluate(case.features, data, train, 0, ENV)
    scores = result.predictions[["score_c", "score_d", "score_e"]].to_numpy()
    assert (scores.argmax(1) < 2).all()
    assert len(np.unique(scores[:, 2])) == 1
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], rtol=1e-9)  # of two probabilities that sum to 1
    assert "the training fraction holds 0 positives" in result.search["notes"]["e"]
    alone = train[data.index.table["label_d"].to_numpy()[train] == 0]
    result = task.evaluate(case.features, data, alone, 0, ENV)
    assert (result.predictions[["score_c", "score_d", "score_e"]].to_numpy().argmax(1) == 0).all()


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
