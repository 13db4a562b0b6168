"""Metrics of classification against scikit-learn, at their edges, and their intervals against literal resamples."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    recall_score,
    roc_auc_score,
)
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from medbench.metrics.bootstrap import logit_interval, patient_bootstrap_weights, percentile_interval
from medbench.metrics.classification import (
    accuracy,
    auroc,
    average_precision,
    classification_metrics,
    f1_threshold,
    macro_auroc,
)
from medbench.statistics.delong import influence
from medbench.task import Metric

EXTREMES = st.sampled_from([-0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e300, 1e300), EXTREMES)
THRESHOLD = 0.45
SAMPLES = st.lists(st.tuples(st.booleans(), SCORES), min_size=1, max_size=40)


@given(SAMPLES)
def test_like_scikit_learn_for_any_scores(samples: list[tuple[bool, float]]) -> None:
    truth = np.array([t for t, _ in samples])
    score = np.array([s for _, s in samples])
    if truth.all() or not truth.any():
        assert auroc(truth, score) is None
        assert average_precision(truth, score) is None
    else:
        # scikit-learn merges scores closer than it can tell; ranks are what both measures are about
        ranks = np.unique(score, return_inverse=True)[1]
        assert auroc(truth, score) == pytest.approx(roc_auc_score(truth, ranks), abs=1e-12)
        assert average_precision(truth, score) == pytest.approx(
            average_precision_score(truth, ranks), abs=1e-12
        )


@given(SAMPLES)
def test_only_the_order_counts_and_turning_it_round_mirrors_auroc(samples: list[tuple[bool, float]]) -> None:
    truth = np.array([t for t, _ in samples])
    score = np.array([s for _, s in samples])
    value = auroc(truth, score)
    ranks = np.unique(score, return_inverse=True)[1].astype(float)
    assert auroc(truth, 7 * ranks - 100) == value
    if value is not None:
        assert auroc(truth, -ranks) == pytest.approx(1 - value, abs=1e-15)
        assert auroc(~truth, -ranks) == value


def test_edges() -> None:
    truth = np.array([True, False, True, False])
    assert auroc(truth, np.zeros(4)) == 0.5
    assert average_precision(truth, np.zeros(4)) == 0.5  # one step with everything in it
    assert auroc(truth, np.array([-1.0, -2.0, -1.5, -3.0])) == 1.0  # negative scores are scores
    assert average_precision(truth, np.array([-1.0, -2.0, -1.5, -3.0])) == 1.0
    assert auroc(truth, np.array([0.0, 1.0, 0.0, 1.0])) == 0.0
    assert auroc(np.zeros(0, bool), np.zeros(0)) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        auroc(np.array([True, False, True]), np.array([0.1, bad, 0.3]))


def test_shapes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes are \(2,\), \(3,\)"):
        average_precision(np.array([True, False]), np.zeros(3))


def frame(n: int, classes: int, seed: int = 0) -> pd.DataFrame:
    """Predictions with ties, several films a patient, and labels that are not known for some."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"sample": [f"s{k}" for k in range(n)], "patient": rng.integers(0, n // 2, n).astype(str)}
    )
    for k in range(classes):
        target = (rng.random(n) < 0.4).astype(float)
        table[f"score_{k}"] = np.round(rng.normal(size=n) + target, 1)
        target[rng.random(n) < 0.15] = np.nan
        table[f"target_{k}"] = target
        table[f"threshold_{k}"] = THRESHOLD
    return table


def pairs_won(truth: np.ndarray, score: np.ndarray) -> float:
    ahead = score[truth][:, None] - score[~truth][None]
    return float((np.sign(ahead) + 1).mean() / 2)


def steps(truth: np.ndarray, score: np.ndarray) -> float:
    area = recall = 0.0
    for threshold in np.unique(score)[::-1]:
        named = score >= threshold
        area += (truth[named].sum() / truth.sum() - recall) * truth[named].mean()
        recall = truth[named].sum() / truth.sum()
    return area


def f1(truth: np.ndarray, score: np.ndarray) -> float:
    named = score >= THRESHOLD
    return 2 * (truth & named).sum() / (truth.sum() + named.sum())


def balanced(truth: np.ndarray, score: np.ndarray) -> float:
    return ((score[truth] >= THRESHOLD).mean() + (score[~truth] < THRESHOLD).mean()) / 2


def resampled(table: pd.DataFrame, name: str) -> np.ndarray:
    """Slow twin: build every resample film by film and measure it from the definition."""
    truth, score = table["target_0"].to_numpy() == 1, table["score_0"].to_numpy()
    measure = {"auroc": pairs_won, "average_precision": steps, "f1": f1, "balanced_accuracy": balanced}[name]
    values = []
    for row in patient_bootstrap_weights(table["patient"].tolist(), truth):
        drawn = np.repeat(np.arange(len(table)), row)
        both = 0 < truth[drawn].sum() < len(drawn)
        values.append(measure(truth[drawn], score[drawn]) if both else np.nan)
    return np.array(values)


def test_intervals_are_those_of_literal_resamples() -> None:
    table = frame(30, 1).dropna().reset_index(drop=True)
    for metric in classification_metrics(table, ["0"], macro=False):
        drawn = resampled(table, metric.name)
        low, high = percentile_interval(drawn)
        if metric.name == "auroc":
            assert metric.bootstrap is not None
            low, high = logit_interval(metric.value, drawn, metric.bootstrap.resample.units)
        assert metric.low == pytest.approx(low, abs=1e-12)
        assert metric.high == pytest.approx(high, abs=1e-12)
        assert metric.low < metric.value < metric.high
        assert metric.per_class == {}
        assert metric.n == len(table)
        assert "over patients" in metric.interval


def test_a_mean_over_classes_rests_on_the_rarest() -> None:
    """As DeLong's does, whatever the other classes have; a class that is not counted does not count here."""
    rng = np.random.default_rng(0)
    target = np.zeros((200, 3))
    target[:60, 0] = target[60:66, 1] = 1  # the third class has no positive film
    columns = {f"target_{k}": target[:, k] for k in range(3)}
    columns |= {f"score_{k}": rng.normal(target[:, k]) for k in range(3)}
    table = pd.DataFrame({"patient": [f"p{k // 2}" for k in range(200)], **columns})
    macro = classification_metrics(table, ["0", "1", "2"], macro=True)[0]
    assert macro.bootstrap is not None
    resample = macro.bootstrap.resample
    assert (resample.units, resample.class_positives, resample.small) == (3, 6, True)
    assert (macro.low, macro.high) == logit_interval(macro.value, macro.bootstrap.draws, 3)
    exact = influence(table, "macro_auroc", macro.value)
    assert exact is not None
    assert exact.units == resample.units
    common = classification_metrics(table, ["0"], macro=False)[0]
    assert common.bootstrap is not None
    assert (common.bootstrap.resample.units, common.bootstrap.resample.class_units) == (30, None)


def test_several_classes_are_averaged_and_unknown_labels_do_not_count() -> None:
    table = frame(60, 3)
    table.loc[5, ["target_0", "target_1", "target_2"]] = np.nan
    names = [metric.name for metric in classification_metrics(table, ["0", "1", "2"], macro=True)]
    assert names == ["macro_auroc", "macro_average_precision", "macro_f1", "macro_balanced_accuracy"]
    macro = classification_metrics(table, ["0", "1", "2"], macro=True)[0]
    expected = {}
    for k in ("0", "1", "2"):
        known = table.dropna(subset=[f"target_{k}"])
        expected[k] = roc_auc_score(known[f"target_{k}"], known[f"score_{k}"])
    assert macro.per_class == pytest.approx(expected)
    assert macro.value == pytest.approx(np.mean(list(expected.values())))
    assert macro.n == table[["target_0", "target_1", "target_2"]].notna().any(axis=1).sum() < 60
    assert macro.low < macro.value < macro.high


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = frame(40, 2)
    shuffled = table.sample(frac=1, random_state=1)
    for a, b in zip(
        classification_metrics(table, ["0", "1"], macro=True),
        classification_metrics(shuffled, ["0", "1"], macro=True),
        strict=True,
    ):
        a_values, b_values = dataclasses.asdict(a), dataclasses.asdict(b)
        a_drawn, b_drawn = a_values.pop("bootstrap"), b_values.pop("bootstrap")
        assert a_drawn["resample"] == b_drawn["resample"]
        np.testing.assert_allclose(a_drawn["draws"], b_drawn["draws"])
        assert a_values.pop("per_class") == pytest.approx(b_values.pop("per_class"))
        assert a_values == pytest.approx(b_values)


def test_a_class_that_can_not_be_measured_is_left_out() -> None:
    table = frame(40, 2)
    both, alone = (
        by_name(classification_metrics(own, ["0", "1"], macro=True))
        for own in (table, table.assign(target_1=0.0))
    )
    for name, metric in alone.items():
        assert metric.per_class == {"0": both[name].per_class["0"], "1": None}
        assert metric.value == metric.per_class["0"]
        assert metric.reason == "1: 0 positives and 40 negatives (left out of the mean)"
        assert metric.low < metric.value < metric.high


@pytest.mark.parametrize("exclusive", [False, True])
def test_without_any_known_label_there_is_no_value(exclusive: bool) -> None:
    table = frame(40, 2).assign(target_0=np.nan, target_1=np.nan)
    whole = exclusive_frame(np.array([0, 1]), np.zeros((2, 2))) if exclusive else frame(40, 2)
    found = classification_metrics(table, ["0", "1"], macro=True, exclusive=exclusive)
    names = [m.name for m in classification_metrics(whole, ["0", "1"], macro=True, exclusive=exclusive)]
    assert [metric.name for metric in found] == names
    for metric in found:
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)
        assert metric.reason == "0: no known label; 1: no known label"


def test_one_class_only_is_none_and_says_over_how_many() -> None:
    table = pd.DataFrame({"patient": ["a", "b"], "target_x": [1.0, 1.0], "score_x": [0.3, 0.4]})
    for metric in classification_metrics(table, ["x"], macro=False):
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 2)


def test_an_interval_needs_half_of_the_draws() -> None:
    # Two patients, each with a positive and a negative film in different classes of their own: draws of one patient
    # alone leave a class with one value.
    table = pd.DataFrame(
        {
            "patient": ["a", "b", "c", "d"],
            "target_x": [1.0, np.nan, np.nan, 0.0],
            "score_x": [1.0, 0.0, 0.0, 0.0],
        }
    )
    metric = classification_metrics(table.dropna(), ["x"], macro=False)[0]
    assert (metric.value, metric.low, metric.high) == (1.0, None, None)  # one patient with a positive
    two_classes = pd.DataFrame(
        {
            "patient": list("abcdef"),
            "target_x": [1.0, 0, 0, np.nan, np.nan, np.nan],
            "target_y": [np.nan, np.nan, np.nan, 1.0, 0, 0],
            "score_x": [1.0, 0, 0, 0, 0, 0],
            "score_y": [0.0, 0, 0, 1, 0, 0],
        }
    )
    metric = classification_metrics(two_classes, ["x", "y"], macro=True)[0]
    assert metric.value == 1.0
    assert (metric.low, metric.high) == (None, None)  # most draws miss the positive of x or of y


def test_broken_predictions_are_refused() -> None:
    table = frame(20, 1).fillna(0)
    with pytest.raises(ValueError, match="1 of 20 scores of 0 are not finite"):
        classification_metrics(
            table.assign(score_0=table["score_0"].where(table.index != 3)), ["0"], macro=False
        )
    with pytest.raises(ValueError, match="not 0, 1 or NaN"):
        classification_metrics(table.assign(target_0=2.0), ["0"], macro=False)
    with pytest.raises(ValueError, match="20 of 20 scores of 0 are not finite"):
        classification_metrics(table.assign(score_0=np.nan), ["0"], macro=False)


def test_memory_and_time_of_a_full_test_set_are_bounded() -> None:
    import tracemalloc

    table = frame(4_003, 1).fillna(0)
    tracemalloc.start()
    classification_metrics(table, ["0"], macro=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # 2,000 draws of 4,003 samples are 64 MB in float64


def by_name(metrics: tuple[Metric, ...]) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


@given(SAMPLES)
def test_the_threshold_is_the_best_of_all(samples: list[tuple[bool, float]]) -> None:
    truth = np.array([t for t, _ in samples])
    score = np.unique([s for _, s in samples], return_inverse=True)[1].astype(float)
    threshold = f1_threshold(truth, score)
    levels = np.unique(score)
    if not truth.any() or len(levels) == 1:
        assert np.isnan(threshold)
        return
    values = [2 * (truth & (score >= t)).sum() / (truth.sum() + (score >= t).sum()) for t in levels]
    best = max(np.flatnonzero(np.array(values) > max(values) - 1e-12))
    assert ((score >= threshold) == (score >= levels[best])).all()
    assert threshold not in score  # rounding of a score decides nothing


@settings(max_examples=20, deadline=None)
@given(SAMPLES)
def test_named_films_are_counted_as_scikit_learn_does(samples: list[tuple[bool, float]]) -> None:
    truth = np.array([t for t, _ in samples])
    score = np.array([s for _, s in samples])
    table = pd.DataFrame(
        {"patient": "p", "target_x": truth * 1.0, "score_x": score, "threshold_x": 0.0},
        index=range(len(truth)),
    )
    found = by_name(classification_metrics(table, ["x"], macro=False))
    if truth.any():
        assert found["f1"].value == pytest.approx(f1_score(truth, score >= 0))
    else:
        assert found["f1"].value is None
    if truth.any() and not truth.all():
        assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, score >= 0))
    else:
        assert found["balanced_accuracy"].value is None
        assert (
            found["balanced_accuracy"].reason == f"x: {truth.sum()} positives and {(~truth).sum()} negatives"
        )


def exclusive_frame(truth: np.ndarray, score: np.ndarray) -> pd.DataFrame:
    """Classes that exclude each other, two films a patient."""
    columns = {"patient": [f"p{k // 2}" for k in range(len(truth))]}
    for k in range(score.shape[1]):
        columns |= {f"target_{k}": (truth == k) * 1.0, f"score_{k}": score[:, k]}
    return pd.DataFrame(columns)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 30))
def test_classes_that_exclude_each_other(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    truth, score = rng.integers(0, classes, n), rng.normal(size=(n, classes))
    names = [str(k) for k in range(classes)]
    found = by_name(classification_metrics(exclusive_frame(truth, score), names, macro=True, exclusive=True))
    named = score.argmax(1)
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"].value == pytest.approx(accuracy_score(truth, named))
    assert found["accuracy"].per_class == {}
    if len(set(truth)) == classes:
        assert found["balanced_accuracy"].value == pytest.approx(balanced_accuracy_score(truth, named))
        assert found["macro_f1"].value == pytest.approx(f1_score(truth, named, average="macro"))
        t, p = torch.from_numpy(truth), torch.from_numpy(named)
        recall = multiclass_accuracy(p, t, classes, average="macro")
        assert found["balanced_accuracy"].value == pytest.approx(float(recall), abs=1e-6)
        f1s = multiclass_f1_score(p, t, classes, average="none").tolist()
        assert list(found["macro_f1"].per_class.values()) == pytest.approx(f1s, abs=1e-6)
    else:
        there = sorted(
            set(truth)
        )  # scikit-learn's mean of recalls leaves out classes that are not there, too
        assert found["balanced_accuracy"].value == pytest.approx(
            recall_score(truth, named, labels=there, average="macro")
        )
        assert found["macro_f1"].value == pytest.approx(f1_score(truth, named, labels=there, average="macro"))
        assert "0 positives" in found["balanced_accuracy"].reason


def test_intervals_of_accuracy_are_those_of_literal_resamples() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1, 2], 12)
    score = rng.normal(size=(36, 3)) + np.eye(3)[truth]
    table = exclusive_frame(truth, score)
    weights = patient_bootstrap_weights(table["patient"].tolist(), np.ones(36, bool))
    drawn = [np.repeat(np.arange(36), row) for row in weights]
    named = score.argmax(1)
    found = by_name(classification_metrics(table, ["0", "1", "2"], macro=True, exclusive=True))
    right = truth == named
    whole = [d for d in drawn if len(set(truth[d])) == 3]
    values = {
        "accuracy": [right[d].mean() for d in drawn],
        "balanced_accuracy": [np.mean([right[d][truth[d] == k].mean() for k in range(3)]) for d in whole],
    }
    for name, drawn_values in values.items():
        bounds = percentile_interval(np.array(drawn_values))
        assert (found[name].low, found[name].high) == pytest.approx(bounds)


def test_films_of_several_classes_are_no_exclusive_set() -> None:
    table = exclusive_frame(np.array([0, 1, 0]), np.zeros((3, 2)))
    table.loc[1, "target_0"] = 1.0
    with pytest.raises(ValueError, match="1 of 3 samples have not exactly one class"):
        classification_metrics(table, ["0", "1"], macro=True, exclusive=True)


def test_what_has_to_be_said() -> None:
    table = frame(40, 2).assign(target_0=0.0, score_1=0.0)
    found = by_name(classification_metrics(table, ["0", "1"], macro=True))
    left = "0: 0 positives and 40 negatives (left out of the mean)"
    assert found["macro_auroc"].reason == f"{left}; 1: one score for all films"
    assert found["macro_auroc"].per_class["1"] == 0.5
    assert found["macro_f1"].reason == left
    bare = frame(40, 1).drop(columns="threshold_0")
    found = by_name(classification_metrics(bare, ["0"], macro=False))
    assert found["auroc"].value is not None
    assert found["auroc"].reason == ""
    assert (found["f1"].value, found["f1"].reason) == (None, "0: no threshold was chosen")
    part = by_name(classification_metrics(frame(40, 2).assign(threshold_1=np.nan), ["0", "1"], macro=True))
    for name in ("macro_f1", "macro_balanced_accuracy"):
        assert part[name].value == part[name].per_class["0"]
        assert part[name].per_class["1"] is None
        assert part[name].reason == "1: no threshold was chosen (left out of the mean)"
    assert part["macro_auroc"].reason == ""
    uneven = frame(40, 1)
    uneven.loc[3, "threshold_0"] = 1.0
    with pytest.raises(ValueError, match="the threshold of 0 is not one number"):
        classification_metrics(uneven, ["0"], macro=False)
    uneven.loc[3, "threshold_0"] = np.nan
    with pytest.raises(ValueError, match="the threshold of 0 is not one number"):
        classification_metrics(uneven, ["0"], macro=False)


def test_plain_numbers_for_validation_are_those_of_the_metrics() -> None:
    table = frame(60, 3).assign(target_2=1.0)
    names = ["0", "1", "2"]
    target, score = (table[[f"{kind}_{k}" for k in names]].to_numpy() for kind in ("target", "score"))
    assert macro_auroc(target, score) == classification_metrics(table, names, macro=True)[0].value
    assert macro_auroc(np.full((4, 2), np.nan), np.zeros((4, 2))) is None
    rng = np.random.default_rng(0)
    table = exclusive_frame(rng.integers(0, 3, 30), rng.integers(0, 3, (30, 3)).astype(float))  # with ties
    target, score = (table[[f"{kind}_{k}" for k in names]].to_numpy() for kind in ("target", "score"))
    found = classification_metrics(table, names, macro=True, exclusive=True)[0]
    assert accuracy(target, score) == found.value
    target = target.copy()
    target[:10] = np.nan
    assert accuracy(target, score) == accuracy(target[10:], score[10:])
    assert accuracy(np.full((4, 2), np.nan), np.zeros((4, 2))) is None
    assert accuracy(np.zeros((0, 2)), np.zeros((0, 2))) is None
