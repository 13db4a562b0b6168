"""Standard errors of AUROCs: DeLong's and Obuchowski's formulas by loops, scikit-learn for the value."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medbench.statistics.delong import auroc_influence, influence, standard_error


def placements(truth: np.ndarray, score: np.ndarray) -> tuple[dict[int, float], dict[int, float]]:
    """DeLong's V10 of each positive and V01 of each negative, film by film."""

    def outranks(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    v10 = {int(i): float(np.mean([outranks(score[i], score[j]) for j in negative])) for i in positive}
    v01 = {int(j): float(np.mean([outranks(score[i], score[j]) for i in positive])) for j in negative}
    return v10, v01


def delong_covariance(truth: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Of two AUROCs over the same films, one film a patient (DeLong 1988, equation for S)."""
    (a10, a01), (b10, b01) = placements(truth, one), placements(truth, other)
    total = 0.0
    for a, b in ((a10, b10), (a01, b01)):
        m = len(a)
        s = sum((a[k] - np.mean(list(a.values()))) * (b[k] - np.mean(list(b.values()))) for k in a) / (m - 1)
        total += s / m
    return total


def obuchowski_variance(truth: np.ndarray, score: np.ndarray, patient: np.ndarray, joint: str) -> float:
    """Of an AUROC with several films a patient (Obuchowski 1997, section 2).

    `joint`: "hers" for the factor I / (I - 1) of the joint term, "ours" for the geometric mean of the other two.
    """
    v10, v01 = placements(truth, score)
    auc, m, n = float(np.mean(list(v10.values()))), len(v10), len(v01)
    s10 = s01 = s11 = 0.0
    people = sorted(set(patient.tolist()))
    for person in people:
        a = sum(v10[k] - auc for k in v10 if patient[k] == person)
        b = sum(v01[k] - auc for k in v01 if patient[k] == person)
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    i10, i01 = len({patient[k] for k in v10}), len({patient[k] for k in v01})
    f10, f01, f11 = (i / (i - 1) for i in (i10, i01, len(people)))
    if joint == "ours":
        f11 = math.sqrt(f10 * f01)
    return f10 * s10 / m**2 + f01 * s01 / n**2 + 2 * f11 * s11 / (m * n)


def cohort(
    seed: int, n: int, films: int = 1, ties: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < 0.4
    truth[:6] = [True, False, True, False, True, False]
    person = np.arange(n) // films
    score = truth + rng.normal(size=n) + rng.normal(size=n)[person]
    return truth, np.round(score) if ties else score, person


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 60), st.integers(1, 3), st.booleans())
def test_the_value_is_scikit_learns_and_the_error_that_of_the_formulas(
    seed: int, n: int, films: int, ties: bool
) -> None:
    truth, score, person = cohort(seed, n, films, ties)
    found = auroc_influence(truth, score, person.astype(str))
    if found is None:
        assert min(len(set(person[truth])), len(set(person[~truth]))) < 2
        return
    assert found.value == pytest.approx(roc_auc_score(truth, score))
    assert found.standard_error**2 == pytest.approx(obuchowski_variance(truth, score, person, "ours"))
    if films == 1:
        assert found.standard_error**2 == pytest.approx(delong_covariance(truth, score, score))


def test_the_factor_of_the_joint_term_hardly_matters() -> None:
    truth, score, person = cohort(3, 300, 3)
    hers = math.sqrt(obuchowski_variance(truth, score, person, "hers"))
    found = auroc_influence(truth, score, person.astype(str))
    assert found is not None
    assert found.standard_error == pytest.approx(hers, rel=0.005)


def test_the_covariance_of_two_methods_is_the_sum_of_products() -> None:
    truth, one, person = cohort(5, 50)
    other = one + np.random.default_rng(6).normal(size=50)
    a, b = (auroc_influence(truth, s, person.astype(str)) for s in (one, other))
    assert a is not None
    assert b is not None
    assert a.moves @ b.moves == pytest.approx(delong_covariance(truth, one, other))


def test_the_order_of_films_does_not_matter() -> None:
    truth, score, person = cohort(8, 60, 2)
    turned = np.random.default_rng(1).permutation(60)
    a = auroc_influence(truth, score, person.astype(str))
    b = auroc_influence(truth[turned], score[turned], person[turned].astype(str))
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.patients, b.patients)
    np.testing.assert_allclose(a.moves, b.moves)


def table(classes: int) -> pd.DataFrame:
    columns: dict[str, object] = {"patient": [str(k // 2) for k in range(80)]}
    for k in range(classes):
        truth, score, _ = cohort(20 + k, 80)
        target = truth.astype(float)
        target[k * 10 : k * 10 + 5] = np.nan
        columns |= {f"target_{k}": target, f"score_{k}": score}
    return pd.DataFrame(columns)


def test_of_a_mean_over_classes() -> None:
    """The influence on a mean is the mean of influences; checked by the covariances of the classes."""
    rows = table(3)
    alone, values = [], []
    for k in range(3):
        known = rows[f"target_{k}"].notna().to_numpy()
        one = auroc_influence(
            rows[f"target_{k}"].to_numpy()[known] == 1,
            rows[f"score_{k}"].to_numpy()[known],
            rows["patient"].to_numpy(dtype=str)[known],
        )
        assert one is not None
        alone.append(dict(zip(one.patients, one.moves, strict=True)))
        values.append(one.value)
    variance = sum(sum(a[p] * b.get(p, 0) for p in a) for a in alone for b in alone) / 9
    assert standard_error(rows, "macro_auroc", float(np.mean(values))) == pytest.approx(math.sqrt(variance))


def test_nothing_where_there_is_nothing_to_estimate_from() -> None:
    truth, score, person = cohort(1, 30)
    assert auroc_influence(np.ones(30, bool), score, person.astype(str)) is None
    assert (
        auroc_influence(np.arange(30) == 3, score, person.astype(str)) is None
    )  # one patient with a positive
    rows, value = table(1), roc_auc_score(truth, score)
    assert influence(rows, "auroc", None) is None
    assert influence(rows, "dice", 0.5) is None
    assert influence(rows, "auroc", value / 2) is None  # somebody else's metric of this name
    assert influence(rows.drop(columns="score_0"), "auroc", value) is None


def test_scores_that_are_all_equal_or_separate_the_classes_have_no_error() -> None:
    truth = np.arange(20) < 8
    names = [str(k) for k in range(20)]
    for score, value in ((np.zeros(20), 0.5), (truth.astype(float), 1.0)):
        found = auroc_influence(truth, score, names)
        assert found is not None
        assert found.value == value
        assert found.standard_error == 0
