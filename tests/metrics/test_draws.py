"""The draws that a record keeps are those that its interval is made of, in every family of tasks."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from medbench.metrics.bootstrap import DRAWS, interval
from medbench.metrics.retrieval import Items, cosine, rank
from medbench.metrics.segmentation import mask_columns
from medbench.plugins import load_catalogue
from medbench.scoring import score

N = 60
CATALOGUE = load_catalogue(third_party=False)
RNG = np.random.default_rng(0)
IDS = {"sample": [f"s{k:02}" for k in range(N)], "patient": [f"p{k // 2:02}" for k in range(N)]}


def one_class() -> pd.DataFrame:
    target = (RNG.random(N) < 0.4) * 1.0
    return pd.DataFrame({**IDS, "target_a": target, "score_a": RNG.normal(target)})


def several_classes() -> pd.DataFrame:
    columns = {}
    for name in "abc":
        columns |= {f"target_{name}": (RNG.random(N) < 0.4) * 1.0, f"score_{name}": RNG.normal(size=N)}
    return pd.DataFrame({**IDS, **columns})


def exclusive_classes() -> pd.DataFrame:
    truth = RNG.integers(3, size=N)
    columns = {}
    for k, name in enumerate("abc"):
        columns |= {f"target_{name}": (truth == k) * 1.0, f"score_{name}": RNG.normal(truth == k)}
    return pd.DataFrame({**IDS, **columns})


def boxes() -> pd.DataFrame:
    ill = np.arange(N) % 3 == 0
    true = [[0.0, 0.0, 10.0, 10.0] if own else [] for own in ill]
    found = [(*(own or [20.0, 20.0, 30.0, 30.0]), 50.0, 50.0, 60.0, 60.0) for own in true]
    return pd.DataFrame(
        {**IDS, "true_boxes": true, "pred_boxes": found, "pred_scores": list(RNG.random((N, 2)))}
    )


def masks() -> pd.DataFrame:
    true = np.zeros((N, 8, 8), bool)
    true[::3, 2:6, 2:6] = True
    predicted = true ^ (RNG.random(true.shape) < 0.1)
    return pd.concat([pd.DataFrame(IDS), mask_columns(predicted, true)], axis=1)


def rankings() -> pd.DataFrame:
    items = Items(IDS["sample"], IDS["patient"], [("a", "b", "c")[k % 3] for k in range(N)], IDS["sample"])
    return rank(cosine(RNG.normal(size=(N, 8)), RNG.normal(size=(N, 8))), items, items)


@pytest.mark.parametrize(
    ("task", "make"),
    [
        ("rsna_lp", one_class),
        ("rsna_knn", one_class),
        ("nih_lp", several_classes),
        ("covidx_lp", exclusive_classes),
        ("rsna_det", boxes),
        ("siim_seg", masks),
        ("mimic_5x200_ret", rankings),
    ],
)
def test_the_interval_is_that_of_the_draws(task: str, make: Callable[[], pd.DataFrame]) -> None:
    spec, predictions = CATALOGUE.lookup_task(task), make()
    made = CATALOGUE.make_task(spec, "micro")
    draws = made.draws(predictions)
    assert draws is not None
    assert draws.shape == (DRAWS,)
    scores = score(made, predictions)
    primary = scores.metrics[0]
    assert primary.name == spec.primary_metric
    assert scores.bootstrap is not None
    assert (primary.low, primary.high) == interval(
        primary.interval, primary.value, draws, scores.bootstrap.resample.units
    )
    assert primary.low is not None
    assert scores.bootstrap is not None
    np.testing.assert_array_equal(scores.bootstrap.draws, draws)
    assert scores.bootstrap.resample.patients == N // 2
    assert (scores.delong_se is None) == (primary.name not in ("auroc", "macro_auroc"))


def test_the_order_of_films_changes_neither_draws_nor_their_name() -> None:
    made, rows = CATALOGUE.make_task(CATALOGUE.lookup_task("rsna_lp"), "micro"), one_class()
    one, other = (score(made, frame).bootstrap for frame in (rows, rows.sample(frac=1, random_state=1)))
    assert one is not None
    assert other is not None
    assert one.resample == other.resample
    np.testing.assert_allclose(one.draws, other.draws)
