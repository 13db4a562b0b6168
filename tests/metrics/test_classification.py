"""AUROC and average precision against scikit-learn, at their edges, and their intervals against literal resamples."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from medbench.metrics.bootstrap import patient_bootstrap_weights, percentile_interval
from medbench.metrics.classification import auroc, average_precision, classification_metrics

EXTREMES = st.sampled_from([-0.0, 5e-324, 1.0, np.nextafter(1.0, 2.0)])
SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e300, 1e300), EXTREMES)
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


def resampled(table: pd.DataFrame, name: str) -> np.ndarray:
    """Slow twin: build every resample film by film and measure it from the definition."""
    truth, score = table["target_0"].to_numpy() == 1, table["score_0"].to_numpy()
    measure = {"auroc": pairs_won, "average_precision": steps}[name]
    values = []
    for row in patient_bootstrap_weights(table["patient"].tolist(), truth):
        drawn = np.repeat(np.arange(len(table)), row)
        both = 0 < truth[drawn].sum() < len(drawn)
        values.append(measure(truth[drawn], score[drawn]) if both else np.nan)
    return np.array(values)


def test_intervals_are_those_of_literal_resamples() -> None:
    table = frame(30, 1).dropna().reset_index(drop=True)
    for metric in classification_metrics(table, ["0"], macro=False):
        low, high = percentile_interval(resampled(table, metric.name))
        assert metric.low == pytest.approx(low, abs=1e-12)
        assert metric.high == pytest.approx(high, abs=1e-12)
        assert metric.low < metric.value < metric.high
        assert metric.per_class == {}
        assert metric.n == len(table)
        assert "over patients" in metric.interval


def test_several_classes_are_averaged_and_unknown_labels_do_not_count() -> None:
    table = frame(60, 3)
    table.loc[5, ["target_0", "target_1", "target_2"]] = np.nan
    names = [metric.name for metric in classification_metrics(table, ["0", "1", "2"], macro=True)]
    assert names == ["macro_auroc", "macro_average_precision"]
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
        assert a_values.pop("per_class") == pytest.approx(b_values.pop("per_class"))
        assert a_values == pytest.approx(b_values)


def test_a_class_without_a_value_takes_the_mean_with_it() -> None:
    one_sided = frame(40, 2)
    one_sided["target_1"] = 0.0
    untrained = frame(40, 2)
    untrained["score_1"] = np.nan
    for table in (one_sided, untrained):
        for metric in classification_metrics(table, ["0", "1"], macro=True):
            assert (metric.value, metric.low, metric.high) == (None, None, None)
            assert metric.per_class["0"] is not None
            assert metric.per_class["1"] is None


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
    assert (metric.value, metric.low, metric.high) == (1.0, 1.0, 1.0)
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
    with pytest.raises(ValueError, match="1 of 20 scores are not finite"):
        classification_metrics(
            table.assign(score_0=table["score_0"].where(table.index != 3)), ["0"], macro=False
        )
    with pytest.raises(ValueError, match="not 0, 1 or NaN"):
        classification_metrics(table.assign(target_0=2.0), ["0"], macro=False)
    with pytest.raises(ValueError, match="no sample has a known label"):
        classification_metrics(table.assign(target_0=np.nan), ["0"], macro=False)


def test_memory_and_time_of_a_full_test_set_are_bounded() -> None:
    import tracemalloc

    table = frame(4_003, 1).fillna(0)
    tracemalloc.start()
    classification_metrics(table, ["0"], macro=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # 2,000 draws of 4,003 samples are 64 MB in float64
