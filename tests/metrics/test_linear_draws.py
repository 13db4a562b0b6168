"""Draws made smooth by the jackknife, against what they must be of metrics that are smooth, and by a slow loop."""

import numpy as np
import numpy.typing as npt
import pytest

from medbench.metrics.bootstrap import (
    CENTRED_LOGIT_INTERVAL,
    JACKKNIFE_LOGIT_INTERVAL,
    interval,
    left_out_blocks,
    linear_draws,
    patient_bootstrap_weights,
)

PATIENTS = ["b", "a", "c", "a", "d", "e", "f", "g"]
POSITIVE = np.array([1, 0, 1, 1, 0, 0, 0, 1], np.bool_)


def left_out() -> npt.NDArray[np.int32]:
    return np.concatenate(list(left_out_blocks(PATIENTS, POSITIVE)))


def test_each_patient_is_left_out_once_with_all_samples() -> None:
    weights = left_out()
    assert weights.shape == (7, 8)
    for row, name in zip(weights, sorted(set(PATIENTS)), strict=True):
        assert [int(own != name) for own in PATIENTS] == row.tolist()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = left_out()
    monkeypatch.setattr("medbench.metrics.bootstrap._BLOCK_BYTES", 1)
    assert np.array_equal(left_out(), whole)


def test_of_a_sum_of_what_is_drawn_they_are_the_draws() -> None:
    """A sum over patients of fixed strata is linear: smoothing changes nothing but the scale of what is left out."""
    names = [f"p{k}" for k in range(60)]
    positive = np.arange(60) < 20
    values = np.random.default_rng(0).normal(size=(60, 2))
    weights = patient_bootstrap_weights(names, positive)

    def mean(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """Of both strata, each divided by its own size."""
        ill, well = (
            rows[:, own] @ values[own] / rows[:, own].sum(axis=1)[:, None] for own in (positive, ~positive)
        )
        found: npt.NDArray[np.float64] = ill + well
        return found

    without = np.concatenate([mean(rows) for rows in left_out_blocks(names, positive)])
    drawn = mean(weights)
    assert linear_draws(drawn, without, names, positive) == pytest.approx(drawn, abs=1e-9)


def test_they_have_the_jackknifes_variance_and_the_mean_of_the_draws() -> None:
    """Of a maximum, which is not smooth; the variance by a loop over patients and strata."""
    names = [f"p{k}" for k in range(40)]
    positive = np.arange(40) < 15
    values = np.random.default_rng(1).normal(size=40)

    def best(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        return np.array([[np.sort(np.repeat(values, row))[-10:].mean()] for row in rows])

    drawn = best(patient_bootstrap_weights(names, positive))
    without = np.concatenate([best(rows) for rows in left_out_blocks(names, positive)])
    made = linear_draws(drawn, without, names, positive)
    variance = 0.0
    for stratum in (positive, ~positive):
        own = without[stratum, 0]
        variance += sum((one - own.mean()) ** 2 for one in own) * (1 - 1 / len(own)) ** 2
    assert made.var() == pytest.approx(variance, rel=0.06)  # of 2,000 draws
    assert made.mean() == pytest.approx(drawn.mean())
    assert np.corrcoef(made[:, 0], drawn[:, 0])[0, 1] > 0.8


def test_what_is_not_defined_stays_so_and_what_hangs_on_one_patient_stays_as_drawn() -> None:
    drawn = np.random.default_rng(2).random((50, 2))
    drawn[3, 0] = np.nan
    without = np.random.default_rng(3).random((7, 2))
    without[0, 1] = np.nan
    made = linear_draws(drawn, without, PATIENTS, POSITIVE)
    assert np.flatnonzero(np.isnan(made[:, 0])).tolist() == [3]
    assert np.array_equal(made[:, 1], drawn[:, 1])
    assert np.nanmean(made[:, 0]) == pytest.approx(np.nanmean(drawn[:, 0]), abs=0.02)


def test_the_interval_is_made_of_them_as_of_draws() -> None:
    draws = np.random.default_rng(4).normal(0.45, 0.05, 500)
    assert interval(JACKKNIFE_LOGIT_INTERVAL, 0.4, draws, 40) == interval(
        CENTRED_LOGIT_INTERVAL, 0.4, draws, 40
    )
