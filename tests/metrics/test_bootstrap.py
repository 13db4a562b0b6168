"""The bootstrap draws patients, within strata, the same way for everybody, and its intervals cover."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from medbench.metrics import bootstrap
from medbench.metrics.bootstrap import (
    CENTRED_LOGIT_INTERVAL,
    LOGIT_INTERVAL,
    Resample,
    bootstrap_blocks,
    interval,
    logit_interval,
    patient_bootstrap_weights,
    percentile_interval,
    smaller_stratum,
)


def cohort(n_patients: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    """Patients with one to four films each; about a third have a positive film, not all of whose films are."""
    rng = np.random.default_rng(seed)
    patients = [f"p{k:03}" for k in range(n_patients) for _ in range(rng.integers(1, 5))]
    ill = rng.random(n_patients) < 0.35
    positive = np.array([ill[int(p[1:])] and rng.random() < 0.7 for p in patients])
    return patients, positive


def test_a_draw_is_patients_with_all_their_films_and_keeps_the_strata() -> None:
    patients, positive = cohort(40)
    weights = patient_bootstrap_weights(patients, positive, draws=50)
    assert weights.shape == (50, len(patients))
    assert weights.dtype == np.int32

    names, first, of = np.unique(patients, return_index=True, return_inverse=True)
    per_patient = weights[:, first]
    np.testing.assert_array_equal(weights, per_patient[:, of])  # films of a patient are drawn together
    ill = np.array([positive[of == k].any() for k in range(len(names))])
    assert (per_patient[:, ill].sum(axis=1) == ill.sum()).all()
    assert (per_patient[:, ~ill].sum(axis=1) == (~ill).sum()).all()


def test_draws_are_with_replacement_and_uniform() -> None:
    patients = [str(k) for k in range(20)]
    weights = patient_bootstrap_weights(patients, np.arange(20) < 8, draws=20_000)
    for stratum, size in ((weights[:, :8], 8), (weights[:, 8:], 12)):
        # each patient's count is binomial(size, 1 / size)
        np.testing.assert_allclose(stratum.mean(axis=0), 1, atol=0.03)
        np.testing.assert_allclose(stratum.var(axis=0), 1 - 1 / size, atol=0.05)


def test_weights_depend_on_the_predictions_alone() -> None:
    patients, positive = cohort(30)
    weights = patient_bootstrap_weights(patients, positive, draws=7)
    np.testing.assert_array_equal(weights, patient_bootstrap_weights(patients, positive, draws=7))
    shuffled = np.random.default_rng(1).permutation(len(patients))
    again = patient_bootstrap_weights([patients[i] for i in shuffled], positive[shuffled], draws=7)
    np.testing.assert_array_equal(again, weights[:, shuffled])
    assert (patient_bootstrap_weights(patients, positive, draws=7, seed=1) != weights).any()


@pytest.mark.parametrize("rows_a_block", [1, 3, 1000])
def test_blocks_are_the_same_draws(monkeypatch: pytest.MonkeyPatch, rows_a_block: int) -> None:
    patients, positive = cohort(25)
    whole = patient_bootstrap_weights(patients, positive, draws=11)
    monkeypatch.setattr(bootstrap, "_BLOCK_BYTES", 8 * len(patients) * rows_a_block)
    blocks = list(bootstrap_blocks(patients, positive, draws=11))
    assert max(len(block) for block in blocks) == min(rows_a_block, 11)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("positive", [[False] * 3, [True] * 3, [True, False, False]])
def test_small_and_empty_strata(positive: list[bool]) -> None:
    weights = patient_bootstrap_weights(["a", "b", "c"], np.array(positive), draws=5)
    assert (weights.sum(axis=1) == 3).all()
    if sum(positive) == 1:
        assert (weights[:, 0] == 1).all()  # the only patient of a stratum is always drawn


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2 patients for `positive` of shape \(3,\)"):
        patient_bootstrap_weights(["a", "b"], np.zeros(3, bool))
    with pytest.raises(ValueError, match="needs samples and draws, found 0"):
        patient_bootstrap_weights([], np.zeros(0, bool))
    with pytest.raises(ValueError, match="needs samples and draws, found 1 samples and 0 draws"):
        patient_bootstrap_weights(["a"], np.zeros(1, bool), draws=0)


def test_percentile_interval() -> None:
    values = np.arange(1001.0)
    assert percentile_interval(values[::-1]) == (25.0, 975.0)
    half = np.concatenate([values, np.full(1001, np.nan)])
    assert percentile_interval(half) == (25.0, 975.0)
    assert percentile_interval(np.append(half, np.nan)) == (None, None)
    assert percentile_interval(np.array([])) == (None, None)
    assert percentile_interval(np.array([0.5])) == (0.5, 0.5)


def test_the_spread_of_a_mean_is_that_of_patients_not_of_films() -> None:
    rng = np.random.default_rng(3)
    films = 4
    patient_mean = rng.normal(size=300)
    values = np.repeat(patient_mean, films)  # four identical films tell no more than one
    patients = [f"p{k}" for k in range(300) for _ in range(films)]
    weights = patient_bootstrap_weights(patients, np.zeros(len(patients), bool))
    means = (weights @ values) / weights.sum(axis=1)
    assert means.std() == pytest.approx(patient_mean.std() / np.sqrt(300), rel=0.05)


@pytest.mark.slow
def test_intervals_cover() -> None:
    """AUROC of films that resemble each other within a patient: 95 % intervals hold the truth 95 % of the time."""
    from pandas import DataFrame
    from scipy.stats import norm

    from medbench.metrics.classification import classification_metrics

    rng = np.random.default_rng(0)
    shift, n, films, runs = 1.0, 120, 3, 400
    truth = norm.cdf(shift / np.sqrt(2))  # scores: unit variance in all, half of it the patient's own
    held = 0
    for _ in range(runs):
        ill = np.repeat(np.arange(n) < n // 3, films)
        own = np.repeat(rng.normal(scale=np.sqrt(0.5), size=n), films)
        score = own + rng.normal(scale=np.sqrt(0.5), size=n * films) + shift * ill
        frame = DataFrame(
            {"patient": np.repeat(np.arange(n).astype(str), films), "target_a": ill * 1.0, "score_a": score}
        )
        auroc = classification_metrics(frame, ["a"], macro=False)[0]
        assert auroc.low is not None
        assert auroc.high is not None
        held += auroc.low <= truth <= auroc.high
    assert 0.91 <= held / runs <= 0.98


def test_a_key_names_the_resamples() -> None:
    patients, positive = cohort(30)
    whole = Resample.of(patients, positive)
    assert (whole.patients, whole.samples) == (30, len(patients))
    assert whole.positive_samples == positive.sum()
    assert whole.positive_patients == len({p for p, own in zip(patients, positive, strict=True) if own})
    turned = np.random.default_rng(1).permutation(len(patients))
    assert Resample.of([patients[i] for i in turned], positive[turned]) == whole
    for other in (
        Resample.of([p + "x" for p in patients], positive),
        Resample.of(patients, ~positive),
        Resample.of(patients, positive, draws=5),
        Resample.of(patients, positive, seed=1),
    ):
        assert other.key != whole.key
    assert patients[0] not in whole.key


def test_a_logit_interval_is_symmetric_in_log_odds() -> None:
    draws = np.random.default_rng(0).normal(0.9, 0.02, 2000)
    low, high = logit_interval(0.9, draws, 40)
    assert low is not None
    assert high is not None
    assert 0.9 - low > high - 0.9 > 0  # more room towards 0.5
    odds = [math.log(v / (1 - v)) for v in (low, 0.9, high)]
    assert odds[1] - odds[0] == pytest.approx(odds[2] - odds[1])
    error = np.std(draws, ddof=1) * math.sqrt(40 / 39)
    assert odds[2] - odds[1] == pytest.approx(scipy.stats.t.ppf(0.975, 39) * error / 0.09)
    wider = logit_interval(0.9, draws, 5)
    assert wider[0] is not None
    assert wider[0] < low


def test_a_centred_logit_interval_is_moved_by_the_excess_and_holds_the_value() -> None:
    draws = np.random.default_rng(0).normal(0.44, 0.06, 2000)
    plain, centred = logit_interval(0.4, draws, 40), logit_interval(0.4, draws, 40, centred=True)
    shift = (draws.mean() - 0.4) / 0.24
    for one, other in zip(centred, plain, strict=True):
        assert scipy.special.logit(one) == pytest.approx(scipy.special.logit(other) - shift)
    assert interval(CENTRED_LOGIT_INTERVAL, 0.4, draws, 40) == centred
    assert interval(LOGIT_INTERVAL, 0.4, draws, 40) == plain
    low, high = logit_interval(0.4, draws / 10 + 0.4, 40, centred=True)  # an excess beyond the reach
    assert low is not None
    assert low < high == 0.4
    low, high = logit_interval(0.4, draws / 10 + 0.3, 40, centred=True)
    assert high is not None
    assert high > low == 0.4


def test_a_logit_interval_at_the_ends_and_of_nothing() -> None:
    assert logit_interval(1.0, np.ones(10), 9) == (1.0, 1.0)
    assert logit_interval(0.0, np.zeros(10), 9) == (0.0, 0.0)
    assert logit_interval(0.5, np.full(10, 0.5), 9) == (0.5, 0.5)
    for value in np.linspace(0.001, 0.999, 997).tolist():  # the way to log-odds and back rounds
        low, high = logit_interval(value, np.full(10, value), 9)
        assert low is not None
        assert high is not None
        assert low <= value <= high
        assert (low, high) == pytest.approx((value, value))
    assert logit_interval(None, np.full(10, 0.5), 9) == (None, None)
    assert logit_interval(0.5, np.full(10, np.nan), 9) == (None, None)
    mostly_nan = np.array([0.4, 0.5, np.nan, np.nan, np.nan])
    assert logit_interval(0.5, mostly_nan, 9) == (None, None)
    assert logit_interval(0.5, mostly_nan[:4], 9)[0] is not None
    assert logit_interval(0.5, mostly_nan[:4], 1) == (None, None)


def test_the_smaller_stratum() -> None:
    assert smaller_stratum(10, 4) == 4
    assert smaller_stratum(10, 7) == 3
    assert smaller_stratum(10, 0) == smaller_stratum(10, 10) == 10
    assert smaller_stratum(0, 0) == 0
