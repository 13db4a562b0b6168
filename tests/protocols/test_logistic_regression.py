"""The solver reaches the minimum that scikit-learn finds, for every class and penalty at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from medbench.protocols import logistic_regression
from medbench.protocols.logistic_regression import TOLERANCE, fit_logistic

PENALTIES = torch.logspace(-4, 4, 5, dtype=torch.float64)


def problem(n: int, width: int, classes: int, seed: int = 0, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    """Correlated, standardised features and labels that a linear rule explains up to noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ (rng.normal(size=(width, width)) / np.arange(1, width + 1)).T
    x = (x - x.mean(0)) / x.std(0)
    y = x @ rng.normal(size=(width, classes)) / np.sqrt(width) + noise * rng.normal(size=(n, classes))
    labels = (y > np.quantile(y, 0.7, axis=0)).astype(np.float64)
    return torch.from_numpy(x), torch.from_numpy(labels)


def loss(x: Tensor, y: Tensor, penalty: float, w: Tensor, b: Tensor) -> float:
    """The objective as the module's docstring has it."""
    sign = 2 * y - 1
    return float(torch.nn.functional.softplus(-sign * (x @ w + b)).mean() + penalty / 2 * w.square().sum())


@pytest.mark.parametrize(("n", "width", "classes"), [(200, 12, 1), (60, 60, 3), (15, 80, 2), (40, 1, 1)])
def test_like_scikit_learn(n: int, width: int, classes: int) -> None:
    x, y = problem(n, width, classes)
    y[::7] = torch.nan
    fit = fit_logistic(x, y, PENALTIES)
    assert fit.weight.shape == (len(PENALTIES), classes, width)
    assert float(fit.gradient.max()) <= TOLERANCE
    new = torch.from_numpy(np.random.default_rng(2).normal(size=(9, width)))
    log_odds = fit.predict(new)
    assert log_odds.shape == (len(PENALTIES), classes, 9)
    for k, penalty in enumerate(PENALTIES.tolist()):
        for c in range(classes):
            known = ~y[:, c].isnan()
            oracle = LogisticRegression(
                C=1 / (int(known.sum()) * penalty), solver="newton-cholesky", tol=1e-12, max_iter=1000
            ).fit(x[known], y[known, c])
            scale = float(np.abs(oracle.coef_).max())
            np.testing.assert_allclose(fit.weight[k, c], oracle.coef_[0], atol=1e-4 * scale)
            np.testing.assert_allclose(
                log_odds[k, c], oracle.decision_function(new), rtol=1e-4, atol=1e-4 * max(scale, 1e-3)
            )
            ours = loss(x[known], y[known, c], penalty, fit.weight[k, c], fit.intercept[k, c])
            theirs = loss(
                x[known],
                y[known, c],
                penalty,
                torch.from_numpy(oracle.coef_[0]),
                torch.from_numpy(oracle.intercept_)[0],
            )
            assert ours <= theirs + 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10**6), st.floats(-5, 4))
def test_the_gradient_vanishes_for_any_shape(n: int, width: int, seed: int, exponent: float) -> None:
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n, width)) * np.exp(rng.normal(size=width)))
    x = x - x.mean(0)
    y = torch.from_numpy((rng.random((n, 2)) < 0.5).astype(np.float64))
    y[0], y[1] = 1, 0
    penalty = torch.tensor([10.0**exponent], dtype=torch.float64)
    fit = fit_logistic(x, y, penalty)
    w, b = fit.weight.clone().requires_grad_(), fit.intercept.clone().requires_grad_()
    logits = torch.einsum("nd,kcd->kcn", x, w) + b[..., None]
    sign = 2 * y.T - 1
    total = torch.nn.functional.softplus(-sign * logits).mean(-1) + penalty / 2 * w.square().sum(-1)
    total.sum().backward()
    # the scaled gradient is at most TOLERANCE; the scale is at most the root of the curvature
    assert float(w.grad.norm()) <= 2 * TOLERANCE * float((x.square().sum() / n + penalty).sqrt())
    assert float(b.grad.norm()) <= 2 * TOLERANCE


def test_problems_do_not_influence_each_other() -> None:
    x, y = problem(50, 20, 3)
    together = fit_logistic(x, y, PENALTIES)
    for c in range(3):
        for k in range(len(PENALTIES)):
            alone = fit_logistic(x, y[:, [c]], PENALTIES[[k]])
            np.testing.assert_allclose(alone.weight[0, 0], together.weight[k, c], rtol=1e-5, atol=1e-6)


def test_it_is_repeatable_and_turns_with_the_features() -> None:
    x, y = problem(30, 50, 1)
    fit = fit_logistic(x, y, PENALTIES)
    assert torch.equal(fit_logistic(x, y, PENALTIES).weight, fit.weight)
    rotation = torch.linalg.qr(torch.from_numpy(np.random.default_rng(1).normal(size=(50, 50)))).Q
    turned = fit_logistic(x @ rotation, y, PENALTIES)
    np.testing.assert_allclose(turned.weight @ rotation.T, fit.weight, atol=2e-5)


def test_features_that_repeat_or_are_constant() -> None:
    x, y = problem(40, 6, 1)
    twice = fit_logistic(torch.cat([x, x, torch.zeros(40, 3, dtype=torch.float64)], 1), y, PENALTIES)
    np.testing.assert_allclose(
        twice.weight[..., :6], twice.weight[..., 6:12], atol=1e-7
    )  # twins share the weight
    assert float(twice.weight[..., 12:].abs().max()) < 1e-12


def test_separable_and_very_uneven_classes() -> None:
    x = torch.linspace(-1, 1, 50, dtype=torch.float64)[:, None]
    y = torch.zeros(50, 1, dtype=torch.float64)
    y[-1] = 1
    fit = fit_logistic(x - x.mean(0), y, torch.tensor([1e-8, 1e-3], dtype=torch.float64))
    scores = fit.predict(x - x.mean(0))
    assert bool((scores.argmax(-1) == 49).all())
    assert float(fit.gradient.max()) <= TOLERANCE


def test_what_can_not_be_fitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(20, 4, 2)
    with pytest.raises(ValueError, match="every class needs a 1 and a 0"):
        fit_logistic(x, torch.cat([y[:, :1], torch.ones(20, 1, dtype=torch.float64)], 1), PENALTIES)
    with pytest.raises(ValueError, match="every class needs a 1 and a 0"):
        fit_logistic(x, torch.full((20, 1), torch.nan, dtype=torch.float64), PENALTIES)
    with pytest.raises(ValueError, match="penalties must be positive"):
        fit_logistic(x, y, torch.tensor([0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="features are not finite"):
        fit_logistic(x.clone().fill_(torch.inf), y, PENALTIES)
    monkeypatch.setattr(logistic_regression, "MAX_ITERATIONS", 1)
    with pytest.raises(RuntimeError, match="of 10 logistic regressions did not converge in 1 iterations"):
        fit_logistic(x, y, PENALTIES)


@pytest.mark.parametrize(("n", "width"), [(150, 8), (20, 30)])
def test_classes_that_exclude_each_other_are_scikit_learns(n: int, width: int) -> None:
    x, y = problem(n, width, 3, noise=0.3)
    y = torch.nn.functional.one_hot((x[:, :3] + 0.5 * y).argmax(1), 3).double()
    y[:3] = torch.eye(3)
    y[::9] = torch.nan
    known = ~y[:, 0].isnan()
    fit = fit_logistic(x, y, PENALTIES, exclusive=True)
    assert fit.weight.shape == (len(PENALTIES), 3, width)
    assert float(fit.gradient.max()) <= TOLERANCE
    new = torch.from_numpy(np.random.default_rng(2).normal(size=(9, width)))
    chance = fit.predict(new).softmax(1)
    for k, penalty in enumerate(PENALTIES.tolist()):
        oracle = LogisticRegression(
            C=1 / (int(known.sum()) * penalty), solver="newton-cholesky", tol=1e-12, max_iter=1000
        ).fit(x[known], y[known].argmax(1))
        scale = float(np.abs(oracle.coef_).max())
        np.testing.assert_allclose(fit.weight[k], oracle.coef_, atol=1e-3 * scale)
        intercept = oracle.intercept_ - oracle.intercept_.mean()
        np.testing.assert_allclose(fit.intercept[k], intercept, atol=1e-3 * max(scale, 1))
        np.testing.assert_allclose(chance[k].T, oracle.predict_proba(new), atol=1e-3)


def test_two_classes_that_exclude_each_other_are_a_label_and_its_opposite() -> None:
    x, y = problem(60, 10, 1)
    both = fit_logistic(x, torch.cat([y, 1 - y], 1), PENALTIES / 2, exclusive=True)
    one = fit_logistic(x, y, PENALTIES / 4)  # w = 2 w_1: its square is twice the sum of those of w_1 and w_2
    np.testing.assert_allclose(both.weight[:, 0] - both.weight[:, 1], one.weight[:, 0], rtol=1e-4, atol=1e-6)


def test_the_size_of_a_block_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem(50, 20, 3)
    y[::7, 1] = torch.nan
    whole = fit_logistic(x, y, PENALTIES)
    monkeypatch.setattr(logistic_regression, "BLOCK", 40)
    parts = fit_logistic(x, y, PENALTIES)
    np.testing.assert_allclose(parts.weight, whole.weight, rtol=1e-5, atol=1e-6)


def test_rows_of_no_class_or_of_two_are_refused() -> None:
    x, y = problem(30, 4, 3)
    y[:, 0], y[0] = 1, torch.tensor([0.0, 0, 0])
    y[1:4] = torch.eye(3)
    with pytest.raises(ValueError, match="rows have not exactly one class"):
        fit_logistic(x, y, PENALTIES, exclusive=True)
