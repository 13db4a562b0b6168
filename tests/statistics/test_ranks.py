"""Mean ranks and their intervals; Nemenyi's critical difference against the table in the paper."""

import numpy as np
import pytest

from medbench.statistics.ranks import critical_difference, mean_ranks

# Demsar, JMLR 2006, table 5(a): q at 0.05 for 2, 3 ... 10 classifiers, two-tailed Nemenyi.
Q = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize(("methods", "q"), Q.items())
def test_the_critical_difference_is_the_papers(methods: int, q: float) -> None:
    expected = q * np.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(expected, abs=2e-3)


def test_too_few_have_no_critical_difference() -> None:
    assert critical_difference(2, 10) is None
    assert critical_difference(5, 1) is None


def test_ranks_by_loops() -> None:
    rng = np.random.default_rng(1)
    means, draws = rng.normal(size=(4, 3)), [rng.normal(size=(4, 50)) for _ in range(3)]
    draws[1][2, 7] = np.nan

    def rank(values: np.ndarray) -> list[float]:
        return [
            1 + sum(other > own for other in values) + (sum(other == own for other in values) - 1) / 2
            for own in values
        ]

    expected = np.mean([rank(means[:, c]) for c in range(3)], axis=0)
    drawn = np.array(
        [np.mean([rank(d[:, k]) for d in draws], axis=0) for k in range(50) if k != 7]
    )  # (draws, methods)
    for found, value, own in zip(mean_ranks(means, draws), expected, drawn.T, strict=True):
        low, high = np.quantile(own, [0.025, 0.975])
        assert found == pytest.approx((value, min(low, value), max(high, value)))


def test_ties_share_a_rank_and_lie_in_their_interval() -> None:
    means = np.array([[0.5], [0.5], [0.1]])
    draws = np.array([[0.6], [0.4], [0.1]]) + np.zeros(40)
    assert mean_ranks(means, [draws]) == [(1.5, 1.0, 1.5), (1.5, 1.5, 2.0), (3.0, 3.0, 3.0)]


def test_without_draws_there_is_no_interval() -> None:
    means = np.array([[0.5, 0.2], [0.6, 0.1]])
    assert mean_ranks(means, [np.ones((2, 5)), None]) == [(1.5, None, None), (1.5, None, None)]
    gone = np.full((2, 5), np.nan)
    assert mean_ranks(means, [np.ones((2, 5)), gone])[0] == (1.5, None, None)
