"""The simulations of docs/statistics.md, small: that they use what records use, and what they must find."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.metrics.classification import classification_metrics
from medbench.metrics.detection import detection_metrics
from medbench.metrics.segmentation import image_dice
from medbench.statistics.delong import auroc_influence
from medbench.statistics.paired import Side, differences, of_draws

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def simulations(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("simulations")


def test_what_is_computed_for_many_is_what_records_and_comparisons_have(simulations: Any) -> None:
    cohort, rng = simulations.Cohort.of(90, 20, 2), np.random.default_rng(0)
    scores = simulations.World(2, 0.3).scores(cohort, rng, 3)  # (3, 2, 2, 90)
    found = cohort.aurocs(scores.reshape(-1, 90))
    keys = []
    for k, score in enumerate(scores.reshape(-1, 90)):
        frame = pd.DataFrame({"patient": cohort.patients, "target_a": cohort.truth * 1.0, "score_a": score})
        metric = classification_metrics(frame, ["a"], macro=False)[0]
        assert metric.bootstrap is not None
        assert found.areas[k] == pytest.approx(metric.value)
        np.testing.assert_allclose(found.draws[k], metric.bootstrap.draws, atol=1e-12)
        influence = auroc_influence(cohort.truth, score, cohort.patients)
        assert influence is not None
        np.testing.assert_allclose(found.moves[k], influence.moves, atol=1e-7)
        low, high = simulations.logit_interval(metric.value, found.draws[k], metric.bootstrap.resample.units)
        assert (low, high) == pytest.approx((metric.low, metric.high))
        keys.append(metric.bootstrap.resample.key)
    assert len(set(keys)) == 1
    values, draws = found.areas.reshape(3, 2, 2), found.draws.reshape(3, 2, 2, -1)
    centred = (draws - draws.mean(axis=-1, keepdims=True)) / np.sqrt(draws.shape[-1] - 1)
    for k, p in enumerate(simulations.p_values(values, centred)):
        sides = [Side(v, draws=of_draws("k", d, 10)) for v, d in zip(values[k], draws[k], strict=True)]
        assert differences(sides)[0].p == pytest.approx(p)


def test_the_average_precision_and_its_interval_are_those_of_records(simulations: Any) -> None:
    cohort = simulations.Cohort.of(40, 15)
    found = simulations.boxes_of(cohort.truth, np.random.default_rng(0), 0.5)
    frame = pd.DataFrame(
        {
            "patient": cohort.patients,
            "true_boxes": [boxes.ravel() for boxes in found.truth],
            "pred_boxes": [boxes.ravel() for boxes in found.boxes],
            "pred_scores": found.scores,
        }
    )
    metric = detection_metrics(frame)[0]
    assert metric.name == "map_40_75"
    assert simulations.map_of(found, np.ones((1, 40), np.int32))[0] == pytest.approx(metric.value)
    [bounds] = simulations.map_intervals(cohort, 0.5, np.random.default_rng(0), 1)
    assert bounds["bootstrap, log-odds, centred (recorded)"] == pytest.approx((metric.low, metric.high))


def test_the_truth_of_made_up_dice(simulations: Any) -> None:
    truth = np.arange(2000) < 300
    values = simulations.dice_of(truth, np.random.default_rng(0))(50)
    assert values.mean() == pytest.approx(simulations.dice_truth(truth), abs=0.005)
    assert image_dice(*np.array([[3], [5], [2]])) == pytest.approx([0.5])


def test_intervals_hold_the_truth(simulations: Any) -> None:
    cohort, rng = simulations.Cohort.of(300, 40), np.random.default_rng(0)
    found = simulations.coverage(simulations.auroc_intervals(cohort, 0.85, rng, 150), 0.85)
    assert set(found) == {
        "bootstrap, log-odds (recorded)",
        "DeLong, log-odds",
        "bootstrap, percentiles",
    }
    assert all(0.88 < share <= 1 for share in found.values())
    dice = simulations.mean_intervals(cohort, simulations.dice_of(cohort.truth, rng), 300)
    [share] = simulations.coverage(dice, simulations.dice_truth(cohort.truth)).values()
    assert 0.90 < share < 0.99


def test_equal_methods_are_seldom_called_different(simulations: Any) -> None:
    cohort, rng = simulations.Cohort.of(120, 40), np.random.default_rng(0)
    for world in (simulations.World(1, 0.0), simulations.World(3, 0.2)):
        found = simulations.rejections(cohort, world, rng, 100)
        assert set(found) == {"DeLong", "paired bootstrap"}
        assert all(share <= 0.13 for share in found.values())


def test_the_page_has_what_was_found() -> None:
    text = (ROOT / "docs" / "statistics.md").read_text()
    assert text.count("<!-- table: ") == 3
    assert "AUROC 0.95" in text
    assert "mAP 0." in text
    assert "three seeds, training noise" in text


@pytest.mark.nightly
def test_coverage_of_large_test_sets(simulations: Any) -> None:
    """From 300 films with 40 positives on in 93 to 97 %, those of average precision in 91 to 98 %."""
    for row in (*simulations.coverages(1000, 0), *simulations.map_coverages(300, 0)):
        share, error = (float(word) for word in row["coverage"].replace("%", "").split("±"))
        least, most = (91, 98) if row["metric, true value"].startswith("mAP") else (93, 97)
        if int(row["films"].replace(",", "")) >= 300 and "recorded" in row["interval"]:
            assert least - 2 * error <= share <= most + 2 * error, row


@pytest.mark.nightly
def test_rejections_of_what_is_true(simulations: Any) -> None:
    """4 to 6 % of 5,000 comparisons of equal methods."""
    for row in simulations.comparisons(5000, 0):
        if "not counted" not in row["two equal methods"]:
            for test in ("DeLong", "paired bootstrap"):
                assert 4 <= float(row[f"called different by {test}"].split("%")[0]) <= 6, row
