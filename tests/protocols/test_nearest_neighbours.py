"""The nearest films vote: against a loop over films, and what must not change it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.progress import Progress
from medbench.protocols import nearest_neighbours, probe_features
from medbench.protocols.nearest_neighbours import NearestNeighbours, NearestNeighboursConfig, nearest
from medbench.protocols.probe_features import ProbeFeatures
from medbench.task import Environment, TaskData

N, WIDTH = 150, 12
ENV = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))
FEW = NearestNeighboursConfig(neighbours=(1, 3, 10, 500))
LABELS = ("a", "b")


def task(exclusive: bool = False, classes: tuple[str, ...] = LABELS) -> NearestNeighbours:
    made = NearestNeighbours("tiny", split="any", classes=classes, exclusive=exclusive)
    made.config = FEW
    return made


@pytest.fixture
def features() -> ProbeFeatures:
    values = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
    values[7] = values[8]  # the same film twice
    return ProbeFeatures(np.arange(N), values + 2)


@pytest.fixture
def data(features: ProbeFeatures) -> TaskData:
    rng = np.random.default_rng(1)
    table = pd.DataFrame({"sample": [f"s{k}" for k in range(N)], "patient": [f"p{k}" for k in range(N)]})
    for name in LABELS:
        signal = features.pooled @ rng.normal(size=WIDTH) + rng.normal(size=N)
        table[f"label_{name}"] = (signal > np.median(signal)) * 1.0
    table.loc[rng.random(N) < 0.2, "label_b"] = np.nan
    parts = np.split(rng.permutation(N), [70, 110])
    split = Split("any", *(np.sort(part) for part in parts))
    index = Index("d", Path(), "phantom", table, LABELS)
    return TaskData(index, split, lambda side, fit: pytest.fail("no film is needed"))


def with_labels(data: TaskData, **columns: np.ndarray) -> TaskData:
    table = data.index.table.assign(**{f"label_{name}": values for name, values in columns.items()})
    return dataclasses.replace(
        data, index=dataclasses.replace(data.index, table=table, labels=tuple(columns))
    )


def loop(features: ProbeFeatures, data: TaskData, name: str, k: int, rows: np.ndarray) -> np.ndarray:
    """Log-odds of one class, film by film, as the docstring has it."""
    labels = data.index.table[f"label_{name}"].to_numpy()
    train = data.split.train[~np.isnan(labels[data.split.train])]
    prior = (labels[train].sum() + 0.5) / (len(train) + 1)
    mean = features.pooled[train].astype(np.float64).mean(0)
    scores = []
    for row in rows:
        film = features.pooled[row] - mean
        cosines = []
        for other in train:
            centred = features.pooled[other] - mean
            cosines.append(float(film @ centred / np.linalg.norm(film) / np.linalg.norm(centred)))
        order = sorted(range(len(train)), key=lambda i: (-round(cosines[i], 8), i))[:k]
        votes, spoken = 1.0, prior
        for i in order:
            weight = np.exp((cosines[i] - cosines[order[0]]) / 0.07)
            votes += weight
            spoken += weight * labels[train[i]]
        scores.append(np.log(spoken / (votes - spoken)))
    return np.array(scores)


def test_it_is_the_loop_over_films(features: ProbeFeatures, data: TaskData) -> None:
    result = task().evaluate(features, data, data.split.train, 0, ENV)
    assert json.loads(json.dumps(result.search)) == result.search
    assert result.search["grid"] == {"neighbours": [1, 3, 10, 500]}
    for name in LABELS:
        chosen = result.search["chosen"][name]
        scores = loop(features, data, name, chosen["neighbours"], data.split.test)
        np.testing.assert_allclose(result.predictions[f"score_{name}"], scores, rtol=1e-6, atol=1e-9)
        values = chosen["validation_auroc_by_neighbours"]
        assert chosen["validation_auroc"] == max(values)
        losses = chosen["validation_log_loss_by_neighbours"]
        equal = [k for k, value in enumerate(values) if value == max(values)]
        assert chosen["neighbours"] == FEW.neighbours[min(equal, key=lambda k: losses[k])]


def test_neighbours_are_scikit_learns(features: ProbeFeatures, data: TaskData) -> None:
    train, asked = data.split.train, data.split.test
    near, cosine = nearest(features, train, asked, 5, ENV.device)
    centred = features.pooled.astype(np.float64) - features.pooled[train].astype(np.float64).mean(0)
    oracle = NearestNeighbors(n_neighbors=5, metric="cosine", algorithm="brute").fit(centred[train])
    distance, _ = oracle.kneighbors(centred[asked])
    np.testing.assert_allclose(1 - cosine.numpy(), distance, atol=1e-7)
    assert all(len(set(row)) == 5 for row in near.tolist())  # nobody twice


def test_the_size_of_a_block_does_not_matter(
    features: ProbeFeatures, data: TaskData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = task().evaluate(features, data, data.split.train, 0, ENV).predictions
    monkeypatch.setattr(probe_features, "BLOCK", 7)
    monkeypatch.setattr(nearest_neighbours, "QUERIES", 3)
    parts = task().evaluate(features, data, data.split.train, 0, ENV).predictions
    pd.testing.assert_frame_equal(whole, parts, rtol=1e-9)


def test_of_two_films_alike_the_first_is_nearer(features: ProbeFeatures) -> None:
    train = np.arange(5, 60)
    near, _ = nearest(features, train, np.array([7, 8]), 3, ENV.device)
    assert near[:, :2].tolist() == [[2, 3], [2, 3]]


def test_test_labels_decide_nothing(features: ProbeFeatures, data: TaskData) -> None:
    first = task().evaluate(features, data, data.split.train, 0, ENV)
    labels = data.index.table["label_a"].to_numpy().copy()
    labels[data.split.test] = np.random.default_rng(5).permutation(labels[data.split.test])
    again = with_labels(data, a=labels, b=data.index.table["label_b"].to_numpy())
    second = task().evaluate(features, again, data.split.train, 0, ENV)
    assert first.search == second.search
    for column in ("score_a", "threshold_a"):
        assert (first.predictions[column] == second.predictions[column]).all()


def test_the_seed_decides_nothing(features: ProbeFeatures, data: TaskData) -> None:
    before = torch.random.get_rng_state()
    frames = [task().evaluate(features, data, data.split.train, s, ENV).predictions for s in (0, 1)]
    pd.testing.assert_frame_equal(*frames)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not task().depends_on_seed(1.0)
    assert task().depends_on_seed(0.1)


def test_classes_that_exclude_each_other(features: ProbeFeatures, data: TaskData) -> None:
    which = np.random.default_rng(3).integers(0, 3, N)
    columns = {name: (which == k) * 1.0 for k, name in enumerate("xyz")}
    columns["z"][data.split.train] = 0.0
    columns["y"][data.split.train] = (which[data.split.train] > 0) * 1.0  # no z in the fraction
    exclusive = task(exclusive=True, classes=("x", "y", "z"))
    result = exclusive.evaluate(features, with_labels(data, **columns), data.split.train, 0, ENV)
    chance = 1 / (1 + np.exp(-result.predictions[["score_x", "score_y", "score_z"]].to_numpy()))
    assert (chance.argmax(1) < 2).all()
    assert (chance[:, :2].sum(1) < 1).all()  # what is left is the half film of z
    assert result.search["chosen"].keys() == {
        "neighbours",
        "validation_accuracy",
        "validation_accuracy_by_neighbours",
        "validation_log_loss_by_neighbours",
    }
    assert exclusive.score(result.predictions)[0].name == "accuracy"


def test_a_class_absent_from_the_fraction_has_one_score(features: ProbeFeatures, data: TaskData) -> None:
    labels = data.index.table["label_a"].to_numpy().copy()
    labels[data.split.train] = 0
    again = with_labels(data, a=labels, b=data.index.table["label_b"].to_numpy())
    result = task().evaluate(features, again, data.split.train, 0, ENV)
    assert len(set(result.predictions["score_a"])) == 1
    assert "0 positives" in result.search["notes"]["a"]
    assert task().score(result.predictions)[0].per_class["a"] == 0.5


def test_films_that_all_look_alike_are_at_chance(data: TaskData) -> None:
    noise = np.random.default_rng(0).normal(size=(N, WIDTH)) * 1e-8
    result = task().evaluate(
        ProbeFeatures(np.arange(N), (0.3 + noise).astype(np.float32)), data, data.split.train, 0, ENV
    )
    assert task().score(result.predictions)[0].value == 0.5


def test_eight_films_find_themselves(features: ProbeFeatures, data: TaskData) -> None:
    eight = np.concatenate(
        [data.split.train[data.index.table["label_a"].to_numpy()[data.split.train] == v][:4] for v in (0, 1)]
    )
    same = dataclasses.replace(data, split=Split("any", np.sort(eight), np.sort(eight), np.sort(eight)))
    result = task(classes=("a",)).evaluate(features, same, np.sort(eight), 0, ENV)
    assert task(classes=("a",)).score(result.predictions)[0].value == 1.0
