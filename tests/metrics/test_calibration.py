"""Calibration against scikit-learn and loops, at its edges, and its intervals against literal resamples."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logit
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from medbench.metrics.bootstrap import patient_bootstrap_weights, percentile_interval
from medbench.metrics.calibration import (
    BINS,
    Reliability,
    brier_score,
    calibration_metrics,
    centred_interval,
    expected_calibration_error,
    reliability_diagrams,
)

NAMES = ["ece_width_15", "ece_mass_15", "brier"]
EXTREMES = st.sampled_from([0.0, 5e-324, 1 / 15, 0.2, np.nextafter(0.2, 1), 1 - 2**-53, 1.0])
PROBABILITIES = st.one_of(st.floats(0, 1), st.integers(0, 4).map(lambda k: k / 4), EXTREMES)
SAMPLES = st.lists(st.tuples(st.booleans(), PROBABILITIES), min_size=1, max_size=60)


def arrays(samples: list[tuple[bool, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([t for t, _ in samples]), np.array([p for _, p in samples])


def bins_of_width(probability: list[float]) -> list[int]:
    edges = np.linspace(0, 1, BINS + 1)
    return [next(b for b in range(BINS) if p <= edges[b + 1]) for p in probability]


def bins_of_mass(probability: list[float]) -> list[int]:
    ranked = sorted(probability)
    edges = [ranked[(len(ranked) - 1) * k // BINS] for k in range(BINS + 1)]
    return [next(b for b in range(BINS) if p <= edges[b + 1]) for p in probability]


BINS_OF = {"width": bins_of_width, "mass": bins_of_mass}


def slow_ece(truth: np.ndarray, probability: np.ndarray, binning: str) -> float:
    """From the definition, sample by sample."""
    bins = BINS_OF[binning](probability.tolist())
    error = 0.0
    for b in range(BINS):
        inside = [i for i in range(len(bins)) if bins[i] == b]
        if inside:
            confidence = math.fsum(probability[i] for i in inside) / len(inside)
            share = sum(bool(truth[i]) for i in inside) / len(inside)
            error += len(inside) / len(bins) * abs(confidence - share)
    return error


@given(SAMPLES)
def test_ece_like_loops(samples: list[tuple[bool, float]]) -> None:
    truth, probability = arrays(samples)
    for binning in ("width", "mass"):
        value = expected_calibration_error(truth, probability, binning)
        assert value == pytest.approx(slow_ece(truth, probability, binning), abs=1e-12)
        assert 0 <= value <= 1


@given(SAMPLES)
def test_brier_like_scikit_learn(samples: list[tuple[bool, float]]) -> None:
    truth, probability = arrays(samples)
    expected = brier_score_loss(truth, probability, pos_label=True)
    assert brier_score(truth, probability) == pytest.approx(expected, abs=1e-12)


@given(SAMPLES)
def test_brier_is_no_less_than_the_square_of_either_ece(samples: list[tuple[bool, float]]) -> None:
    truth, probability = arrays(samples)
    for binning in ("width", "mass"):
        assert (
            expected_calibration_error(truth, probability, binning) ** 2
            <= brier_score(truth, probability) + 1e-12
        )


def single(truth: np.ndarray, probability: np.ndarray) -> pd.DataFrame:
    """Predictions of one class, one film a patient."""
    patients = [f"p{k:03}" for k in range(len(truth))]
    return pd.DataFrame({"patient": patients, "target_x": truth * 1.0, "score_x": probability})


@settings(max_examples=30, deadline=None)
@given(SAMPLES)
def test_diagrams_like_scikit_learn(samples: list[tuple[bool, float]]) -> None:
    truth, probability = arrays(samples)
    probability = probability.round(
        6
    )  # its quantile between two numbers that are next to equal is one of them
    for diagram in reliability_diagrams(single(truth, probability), ["x"], "probability"):
        # scikit-learn interpolates its quantiles, and rounding decides where one falls on a sample
        if diagram.binning == "mass" and math.gcd(len(truth) - 1, BINS) > 1:
            continue
        strategy = {"width": "uniform", "mass": "quantile"}[diagram.binning]
        share, confidence = calibration_curve(truth, probability, n_bins=BINS, strategy=strategy)
        assert [v for v in diagram.positives if v is not None] == pytest.approx(share.tolist(), abs=1e-12)
        assert [v for v in diagram.confidence if v is not None] == pytest.approx(
            confidence.tolist(), abs=1e-12
        )


@settings(max_examples=30, deadline=None)
@given(SAMPLES)
def test_diagrams_hold_what_their_ece_is_made_of(samples: list[tuple[bool, float]]) -> None:
    truth, probability = arrays(samples)
    for diagram in reliability_diagrams(single(truth, probability), ["x"], "probability"):
        assert len(diagram.edges) == BINS + 1
        assert list(diagram.edges) == sorted(diagram.edges)
        assert (
            list(diagram.counts)
            == np.bincount(BINS_OF[diagram.binning](probability.tolist()), minlength=BINS).tolist()
        )
        error = 0.0
        for b in range(BINS):
            if diagram.counts[b] == 0:
                assert (diagram.confidence[b], diagram.positives[b]) == (None, None)
                continue
            assert diagram.edges[b] - 1e-12 <= diagram.confidence[b] <= diagram.edges[b + 1] + 1e-12
            error += diagram.counts[b] * abs(diagram.confidence[b] - diagram.positives[b])
        value = expected_calibration_error(truth, probability, diagram.binning)
        assert error / len(truth) == pytest.approx(value, abs=1e-12)
        assert sum(diagram.counts) == diagram.n == len(truth)


@given(st.integers(1, 200))
def test_bins_of_equal_mass_hold_equally_many(n: int) -> None:
    truth = np.zeros(n, bool)
    probability = np.random.default_rng(n).permutation(n) / n
    counts = np.bincount(bins_of_mass(probability.tolist()), minlength=BINS)
    assert counts.max() - counts.min() <= 1
    # where no film is ill the error is the mean confidence, whatever the bins
    assert expected_calibration_error(truth, probability, "mass") == pytest.approx(probability.mean())


def test_edges() -> None:
    truth = np.array([True, False, True, False])
    for binning in ("width", "mass"):
        assert expected_calibration_error(truth, np.full(4, 0.5), binning) == 0.0  # all equal, all right
        assert expected_calibration_error(truth, np.full(4, 0.75), binning) == 0.25
        assert expected_calibration_error(truth, truth * 1.0, binning) == 0.0  # exactly 0 and 1
        assert expected_calibration_error(truth, 1.0 - truth, binning) == 1.0
        assert expected_calibration_error(np.ones(4, bool), np.full(4, 0.75), binning) == 0.25  # one class
        assert expected_calibration_error(np.zeros(4, bool), np.full(4, 0.75), binning) == 0.75
        assert expected_calibration_error(truth[:1], np.array([0.75]), binning) == 0.25
        assert expected_calibration_error(np.zeros(0, bool), np.zeros(0), binning) is None
    assert brier_score(truth, truth * 1.0) == 0.0
    assert brier_score(truth, 1.0 - truth) == 1.0
    assert brier_score(np.ones(4, bool), np.full(4, 0.75)) == 0.0625
    assert brier_score(np.zeros(0, bool), np.zeros(0)) is None
    tiny = np.full(4, 1e-12)
    assert brier_score(np.zeros(4, bool), tiny) == pytest.approx(1e-24, rel=1e-12)  # nothing cancels


def test_an_edge_belongs_to_the_bin_below() -> None:
    probability = np.array([0.0, 0.2, np.nextafter(0.2, 1), 1.0])
    diagram = reliability_diagrams(single(np.array([0, 1, 0, 1]), probability), ["x"], "probability")[0]
    assert [b for b in range(BINS) if diagram.counts[b]] == [0, 2, 3, 14]
    assert diagram.edges[3] == 0.2


def test_the_two_binnings_differ_where_probabilities_are_small() -> None:
    truth = np.arange(300) < 20  # the ill are promised the least
    probability = np.linspace(0, 0.06, 300)  # all in one bin of equal width, where wrongs cancel
    width = expected_calibration_error(truth, probability, "width")
    mass = expected_calibration_error(truth, probability, "mass")
    assert width == pytest.approx(20 / 300 - 0.03)
    assert mass == pytest.approx((20 - probability[:20].sum() + probability[20:].sum()) / 300)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    truth, probability = np.array([True, False, True]), np.array([0.1, bad, 0.3])
    with pytest.raises(ValueError, match="1 of 3 probabilities are not between 0 and 1"):
        expected_calibration_error(truth, probability, "mass")
    with pytest.raises(ValueError, match="1 of 3 probabilities are not between 0 and 1"):
        brier_score(truth, probability)


def test_shapes_have_to_agree() -> None:
    with pytest.raises(ValueError, match=r"shapes are \(2,\), \(3,\)"):
        brier_score(np.array([True, False]), np.zeros(3))


def frame(n: int, classes: int, seed: int = 0) -> pd.DataFrame:
    """Predictions with ties, several films a patient, and labels that are not known for some."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"sample": [f"s{k}" for k in range(n)], "patient": rng.integers(0, n // 2, n).astype(str)}
    )
    for k in range(classes):
        probability = np.round(rng.beta(0.7, 1.5, n), 2)
        target = (rng.random(n) < probability).astype(float)
        target[rng.random(n) < 0.15] = np.nan
        table[f"score_{k}"], table[f"target_{k}"] = probability, target
    return table


def slow_metric(name: str, truth: np.ndarray, probability: np.ndarray) -> float:
    if name == "brier":
        return float(np.mean((probability - truth) ** 2))
    return slow_ece(truth, probability, name.split("_")[1])


def resamples(table: pd.DataFrame, draws: int) -> list[pd.DataFrame]:
    """Literal resamples: the rows of every drawn patient, as often as drawn."""
    weights = patient_bootstrap_weights(table["patient"].tolist(), np.zeros(len(table), bool), draws)
    return [table.iloc[np.repeat(np.arange(len(table)), row)] for row in weights]


def test_intervals_are_those_of_literal_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.metrics import bootstrap

    monkeypatch.setattr(bootstrap.bootstrap_blocks, "__defaults__", (300, 0))
    table = frame(40, 1).dropna().reset_index(drop=True)
    drawn = resamples(table, 300)
    for metric, name in zip(calibration_metrics(table, ["0"], "probability"), NAMES, strict=True):
        truth, probability = table["target_0"].to_numpy(), table["score_0"].to_numpy()
        value = slow_metric(name, truth, probability)
        values = np.array(
            [slow_metric(name, d["target_0"].to_numpy(), d["score_0"].to_numpy()) for d in drawn]
        )
        shift = 0 if name == "brier" else values.mean() - value
        low, high = percentile_interval(values - shift)
        assert metric.name == name
        assert metric.value == pytest.approx(value, abs=1e-12)
        assert metric.low == pytest.approx(max(low, 0), abs=1e-12)
        assert metric.high == pytest.approx(high, abs=1e-12)
        assert metric.low <= metric.value <= metric.high
        assert (metric.n, metric.per_class, metric.higher_is_better) == (len(table), {}, False)
        assert "over patients" in metric.interval
        assert ("excess" in metric.interval) == (name != "brier")


def test_intervals_of_diagrams_are_those_of_literal_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.metrics import bootstrap

    monkeypatch.setattr(bootstrap.bootstrap_blocks, "__defaults__", (200, 0))
    table = frame(60, 1)
    known = table.dropna()
    for diagram in reliability_diagrams(table, ["0"], "probability"):
        bins = dict(
            zip(known["sample"], BINS_OF[diagram.binning](known["score_0"].tolist()), strict=True)
        )  # held fixed
        shares = np.full((200, BINS), np.nan)
        for d, drawn in enumerate(resamples(known, 200)):
            for b, rows in drawn.groupby(drawn["sample"].map(bins)):
                shares[d, b] = rows["target_0"].mean()
        for b in range(BINS):
            low, high = percentile_interval(shares[:, b])
            assert (diagram.low[b] is None) == (low is None)
            if low is not None:
                assert (diagram.low[b], diagram.high[b]) == pytest.approx((low, high), abs=1e-12)


def test_several_classes_are_averaged_and_unknown_labels_are_left_out_and_counted() -> None:
    table = frame(60, 3)
    table.loc[5, ["target_0", "target_1", "target_2"]] = np.nan
    metrics = calibration_metrics(table, ["0", "1", "2"], "probability")
    assert [metric.name for metric in metrics] == [f"macro_{name}" for name in NAMES]
    for metric, name in zip(metrics, NAMES, strict=True):
        expected = {}
        for k in ("0", "1", "2"):
            known = table.dropna(subset=[f"target_{k}"])
            expected[k] = slow_metric(name, known[f"target_{k}"].to_numpy(), known[f"score_{k}"].to_numpy())
        assert metric.per_class == pytest.approx(expected)
        assert metric.value == pytest.approx(np.mean(list(expected.values())))
        assert metric.n == table[["target_0", "target_1", "target_2"]].notna().any(axis=1).sum() < 60
        assert metric.low <= metric.value <= metric.high
    for diagram in reliability_diagrams(table, ["0", "1", "2"], "probability"):
        missing = int(table[f"target_{diagram.label}"].isna().sum())
        assert missing > 0
        assert (diagram.missing, diagram.n) == (missing, 60 - missing)


def test_log_odds_are_turned_into_probabilities() -> None:
    table = frame(50, 1)
    table["score_0"] = table["score_0"].clip(0.01, 0.99)
    odds = table.assign(score_0=logit(table["score_0"]))
    for a, b in zip(
        calibration_metrics(table, ["0"], "probability"),
        calibration_metrics(odds, ["0"], "log-odds"),
        strict=True,
    ):
        if a.name != "ece_width_15":  # rounding may carry a probability over an edge of a bin
            assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-9)
    huge = single(np.array([True, False]), np.array([1e4, -1e4]))
    for metric in calibration_metrics(huge, ["x"], "log-odds"):
        assert metric.value == 0.0


def test_the_order_of_the_rows_does_not_matter() -> None:
    table = frame(40, 2)
    shuffled = table.sample(frac=1, random_state=1)
    for a, b in zip(
        calibration_metrics(table, ["0", "1"], "probability"),
        calibration_metrics(shuffled, ["0", "1"], "probability"),
        strict=True,
    ):
        a_values, b_values = dataclasses.asdict(a), dataclasses.asdict(b)
        assert a_values.pop("per_class") == pytest.approx(b_values.pop("per_class"))
        assert a_values == pytest.approx(b_values)
    for one, other in zip(
        reliability_diagrams(table, ["0", "1"], "probability"),
        reliability_diagrams(shuffled, ["0", "1"], "probability"),
        strict=True,
    ):
        assert one.counts == other.counts
        assert one.edges == other.edges
        assert one.low == other.low


def test_one_class_only_and_equal_scores_have_values() -> None:
    truth = np.ones(30, bool)
    metrics = calibration_metrics(single(truth, np.full(30, 0.75)), ["x"], "probability")
    for metric, value in zip(metrics, (0.25, 0.25, 0.0625), strict=True):
        assert (metric.value, metric.low, metric.high) == pytest.approx((value, value, value))
    diagram = reliability_diagrams(single(truth, np.full(30, 0.75)), ["x"], "probability")[1]
    assert set(diagram.edges) == {0.75}
    assert diagram.counts == (30, *[0] * 14)
    assert diagram.positives[0] == diagram.low[0] == diagram.high[0] == 1.0


def test_a_shift_of_prevalence_is_in_the_interval() -> None:
    truth = np.arange(100) < 30
    metric = calibration_metrics(single(truth, np.full(100, 0.5)), ["x"], "probability")[0]
    # the error is the distance of 0.5 and the share of the ill, whose deviation is 0.046
    assert metric.value == pytest.approx(0.2)
    assert metric.high - metric.low == pytest.approx(2 * 1.96 * 0.0458, rel=0.1)


def test_the_value_is_inside_its_interval_where_the_draws_are_larger() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"patient": np.arange(200).astype(str)})
    for k in range(8):
        probability = rng.random(200)
        table[f"score_{k}"], table[f"target_{k}"] = probability, (rng.random(200) < probability) * 1.0
    for metric in calibration_metrics(table, [str(k) for k in range(8)], "probability"):
        assert metric.low < metric.value < metric.high


def test_centred_interval() -> None:
    values = 0.3 + np.linspace(0, 0.2, 1001)
    assert centred_interval(values, 0.25) == pytest.approx((0.155, 0.345))
    assert centred_interval(values, 0.05) == pytest.approx((0.0, 0.145))
    assert centred_interval(np.full(4, 0.5), 0.5) == (0.5, 0.5)
    assert centred_interval(np.array([0.5, np.nan, np.nan]), 0.5) == (None, None)
    assert centred_interval(np.array([0.4, 0.6, np.nan]), 0.5) == pytest.approx((0.405, 0.595))


def test_one_patient_has_values_and_no_interval() -> None:
    table = frame(30, 1).assign(patient="a")
    for metric in calibration_metrics(table, ["0"], "probability"):
        assert metric.value is not None
        assert (metric.low, metric.high) == (None, None)
    for diagram in reliability_diagrams(table, ["0"], "probability"):
        assert set(diagram.low) == set(diagram.high) == {None}


def test_a_class_without_a_known_label_is_left_out_of_the_mean() -> None:
    table = frame(40, 2).assign(target_1=np.nan)
    for metric in calibration_metrics(table, ["0", "1"], "probability"):
        assert metric.value == metric.per_class["0"]
        assert metric.low <= metric.value <= metric.high
        assert metric.per_class["1"] is None
        assert metric.reason == "1: no known label (left out of the mean)"
    for diagram in reliability_diagrams(table, ["0", "1"], "probability")[2:]:
        assert diagram.reason == "no known label"
        assert (diagram.n, diagram.counts, diagram.edges, diagram.missing) == (0, (), (), 40)
    for metric in calibration_metrics(table.assign(target_0=np.nan), ["0", "1"], "probability"):
        assert (metric.value, metric.low, metric.high, metric.n) == (None, None, None, 0)
        assert metric.reason == "0: no known label; 1: no known label"


def test_diagrams_are_plain_data() -> None:
    diagrams = reliability_diagrams(frame(40, 2).assign(target_1=np.nan), ["0", "1"], "probability")
    assert [(d.label, d.binning) for d in diagrams] == [
        ("0", "width"), ("0", "mass"), ("1", "width"), ("1", "mass"),
    ]  # fmt: skip
    for diagram in diagrams:
        text = json.dumps(dataclasses.asdict(diagram), allow_nan=False)
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items()}
        assert Reliability(**fields) == diagram


def test_broken_predictions_are_refused() -> None:
    table = frame(20, 1).fillna(0)
    for measure in (calibration_metrics, reliability_diagrams):
        with pytest.raises(ValueError, match="1 of 20 scores of 0 are not finite"):
            measure(table.assign(score_0=table["score_0"].where(table.index != 3)), ["0"], "probability")
        with pytest.raises(ValueError, match="not 0, 1 or NaN"):
            measure(table.assign(target_0=2.0), ["0"], "probability")
        with pytest.raises(ValueError, match="20 of 20 scores of 0 are not finite"):
            measure(table.assign(score_0=np.nan), ["0"], "probability")
        with pytest.raises(ValueError, match=r"go from -2 to 3, which are no probabilities.*log-odds"):
            measure(table.assign(score_0=np.linspace(-2, 3, 20)), ["0"], "probability")
        with pytest.raises(ValueError, match="scale is one of probability, log-odds, found 'logit'"):
            measure(table, ["0"], "logit")


def test_memory_of_a_full_test_set_is_bounded() -> None:
    import tracemalloc

    table = frame(4_003, 1).fillna(0)
    table["score_0"] = np.random.default_rng(0).random(4_003)  # no ties
    tracemalloc.start()
    calibration_metrics(table, ["0"], "probability")
    reliability_diagrams(table, ["0"], "probability")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20  # 2,000 draws of 4,003 samples are 64 MB in float64


@pytest.mark.slow
def test_intervals_cover() -> None:
    """95 % intervals hold the expectation of the estimate at that number of samples."""
    rng = np.random.default_rng(0)
    n, films, runs = 100, 2, 300
    for power in (1.0, 2.0):  # of the probability that is truly meant by a score
        tables = []
        for _ in range(runs):
            probability = np.repeat(rng.random(n), films)
            truth = rng.random(n * films) < probability**power
            patients = np.repeat(np.arange(n).astype(str), films)
            tables.append(single(truth, probability).assign(patient=patients))
        metrics = [calibration_metrics(table, ["x"], "probability") for table in tables]
        for k in range(len(NAMES)):
            expectation = np.mean([m[k].value for m in metrics])
            held = np.mean([m[k].low <= expectation <= m[k].high for m in metrics])
            assert 0.90 <= held <= 0.995, (power, NAMES[k], held)
