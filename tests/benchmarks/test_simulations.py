"""The simulations of docs/statistics.md, small: that they use what records use, and what they must find."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.metrics.classification import classification_metrics
from medbench.metrics.detection import detection_metrics
from medbench.metrics.segmentation import image_dice
from medbench.statistics.delong import auroc_influence, influence
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
        single = auroc_influence(cohort.truth, score, cohort.patients)
        assert single is not None
        np.testing.assert_allclose(found.moves[k], single.moves, atol=1e-7)
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
    assert bounds["jackknife, log-odds, centred (recorded)"] == pytest.approx((metric.low, metric.high))


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


def test_a_mean_over_classes_is_that_of_records(simulations: Any) -> None:
    cohorts = simulations.Cohort.of(90, 26).classes((20, 6))
    seen: list[np.ndarray] = []
    normal = np.random.default_rng(0)

    class Watched:
        def normal(self, size: tuple[int, ...]) -> np.ndarray:
            seen.append(normal.normal(size=size))
            return seen[-1]

    [found] = simulations.macro_intervals(cohorts, 0.85, Watched(), 1)
    shift = np.sqrt(2) * simulations.ndtri(0.85)
    columns = {}
    for name, cohort, noise in zip("ab", cohorts, seen, strict=True):
        columns |= {f"target_{name}": cohort.truth * 1.0, f"score_{name}": shift * cohort.truth + noise[0]}
    frame = pd.DataFrame({"patient": cohorts[0].patients, **columns})
    metric = classification_metrics(frame, ["a", "b"], macro=True)[0]
    assert found["bootstrap, log-odds (recorded)"] == pytest.approx((metric.low, metric.high))
    exact = influence(frame, "macro_auroc", metric.value)
    assert exact is not None
    bounds = simulations.logit_bounds(exact.value, exact.standard_error, exact.units)
    assert found["DeLong, log-odds"] == pytest.approx(bounds, abs=1e-6)
    with pytest.raises(ValueError, match="26 in all"):
        simulations.Cohort.of(90, 26).classes((20, 5))


@pytest.mark.parametrize(("metric", "positives"), [("Dice, mean", 40), ("P@5", 0)])
def test_equal_means_over_films_are_seldom_called_different(
    simulations: Any, metric: str, positives: int
) -> None:
    cohort, rng = simulations.Cohort.of(120, positives, strata=positives > 0), np.random.default_rng(0)
    measure = simulations.MEASURES[metric]
    values, noises = measure(cohort, simulations.World(2, 0.1), rng, 3)
    assert values.shape == (3, 2, 2)
    assert set(noises) == {"paired bootstrap"}
    error = np.sqrt((noises["paired bootstrap"] ** 2).sum(axis=-1))
    assert (error > 0.005).all()
    assert (error < 0.05).all()
    for world in (simulations.World(1, 0.0), simulations.World(3, 0.2)):
        [share] = simulations.rejections(cohort, world, rng, 200, measure).values()
        assert share <= 0.11


def rows_of(page: str, name: str) -> list[dict[str, str]]:
    """A table of the page."""
    block = page.split(f"<!-- table: {name} -->\n")[1].split("\n<!-- end of table -->")[0]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


def large(row: dict[str, str]) -> bool:
    """From 300 films with 40 positives, of each class, on; queries have none."""
    positives = [int(word) for word in re.findall(r"\d+", row["positive"].replace(",", ""))]
    return int(row["films"].replace(",", "")) >= 300 and min(positives, default=40) >= 40


def percent(cell: str) -> float:
    return float(cell.split("%")[0])


def test_the_page_has_what_was_found(simulations: Any) -> None:
    """And what is large covers 93 to 97 %, unless the page says of that row that it does not."""
    page = (ROOT / "docs" / "statistics.md").read_text()
    names = re.findall("<!-- table: (.*) -->", page)
    found = [row for name in names if name != "rejections" for row in rows_of(page, name)]
    recorded = [row for row in found if "(recorded)" in row["interval"] and large(row)]
    assert {row["metric, true value"].split(" ")[0].strip(",") for row in recorded} == {
        *("AUROC", "macro", "Dice", "P@5", "mAP")
    }
    outside = "\n".join(line for line in page.splitlines() if line.startswith("Outside of 93 to 97 %"))
    for row in recorded:
        said = f"{row['metric, true value']} at {row['films']} films" in outside
        assert 93 <= percent(row["coverage"]) <= 97 or said, row
    worlds = rows_of(page, "rejections")
    assert [row["two equal methods"] for row in worlds] == [f"{w[0]}: {w[1]}" for w in simulations.WORLDS]
    for row in worlds:
        told = [percent(cell) for name, cell in row.items() if name.startswith("called") and cell != "–"]
        assert told
        wide = (
            2 if row["two equal methods"].startswith("mAP") else 0
        )  # of 800 test sets, twice their standard error
        near = all(4 - wide <= share <= 6 + wide for share in told)
        assert near or "not counted" in row["two equal methods"], row


@pytest.mark.nightly
def test_coverage_of_large_test_sets(simulations: Any) -> None:
    """From 300 films with 40 positives on in 93 to 97 %, those of average precision within noise."""
    for row in simulations.coverages(1000, 0):
        if large(row) and "recorded" in row["interval"]:
            assert 93 <= percent(row["coverage"]) <= 97, row
    for row in simulations.map_coverages(300, 0):
        share, error = (float(word) for word in row["coverage"].replace("%", "").split("±"))
        if large(row) and "recorded" in row["interval"]:
            assert 93 - 2 * error <= share <= 97 + 2 * error, row


@pytest.mark.nightly
def test_rejections_of_what_is_true(simulations: Any) -> None:
    """4 to 6 % of 5,000 comparisons of equal methods; average precisions, of which there are fewer, are on the page."""
    for row in simulations.comparisons(5000, 0, 0, simulations.WORLDS[:9]):
        if "not counted" not in row["two equal methods"]:
            told = [row[f"called different by {test}"] for test in ("DeLong", "paired bootstrap")]
            assert all(4 <= percent(cell) <= 6 for cell in told if cell != "–"), row
