"""Differences of methods: paired, with seeds, never NaN; and refusals in words."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from medbench.metrics.bootstrap import patient_bootstrap_weights
from medbench.records import Record, WeightsIdentity
from medbench.results import Results
from medbench.statistics.paired import Difference, Side, compare, differences, of_draws, side, verdict
from medbench_leaderboards.summary import summarise

from .conftest import MakeCell, MakeFilms


def read(root: Path) -> tuple[Results, list[Record], list[Record]]:
    results = Results.read(root)
    a, b = ([r for r in results.records if r.identity.method == name] for name in "ab")
    return results, a, b


def without_predictions(root: Path) -> None:
    for file in root.rglob("*.parquet"):
        file.unlink()


def test_an_auroc_is_compared_by_delong_and_without_predictions_by_draws(
    tmp_path: Path, cell: MakeCell, films: MakeFilms
) -> None:
    rows = [films(k, signal=1 + k / 2, n=400) for k in (0, 1)]
    cell(tmp_path, rows[0], "a")
    cell(tmp_path, rows[1], "b")
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    expected = [roc_auc_score(r["target_pneumonia"], r["score_pneumonia"]) for r in rows]
    assert found.value == pytest.approx(expected[0] - expected[1])
    assert found.test == "DeLong"
    assert found.seeds == (1, 1)
    assert found.reason == "one seed: training noise not counted"
    assert found.freedom == math.inf
    assert found.low is not None
    assert found.high is not None
    assert (found.low + found.high) / 2 == pytest.approx(found.value)
    assert found.p is not None
    assert (found.p < 0.05) == (found.high < 0 or found.low > 0)

    without_predictions(tmp_path)
    results, a, b = read(tmp_path)
    drawn = compare(results, a, b)
    assert drawn.test == "paired bootstrap"
    assert drawn.value == found.value
    assert drawn.se_test == pytest.approx(found.se_test, rel=0.1)
    assert compare(results, b, a).value == -found.value


def test_the_paired_bootstrap_is_scipys() -> None:
    """Of a mean over patients, where scipy can do the same: one film a patient, one stratum."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=300)
    one, other = shared + rng.normal(size=300), shared + rng.normal(size=300) + 0.1
    weights = patient_bootstrap_weights([f"{k:03}" for k in range(300)], np.zeros(300, bool)) / 300
    sides = [
        Side(np.array([values.mean()]), draws=of_draws("k", (weights @ values)[None], 300))
        for values in (one, other)
    ]
    [found] = differences(sides)
    theirs = scipy.stats.bootstrap(
        (one, other),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="percentile",
        random_state=1,
    )
    assert found.se_test == pytest.approx(theirs.standard_error, rel=0.06)
    assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)


def test_the_same_predictions_differ_by_nothing(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    for name in "ab":
        cell(tmp_path, films(), name)
    for _ in range(2):
        results, a, b = read(tmp_path)
        found = compare(results, a, b)
        assert (found.value, found.low, found.high, found.p) == (0, 0, 0, 1)
        without_predictions(tmp_path)


def test_noise_that_can_not_be_known_is_not_claimed_to_be_none(
    tmp_path: Path, cell: MakeCell, films: MakeFilms
) -> None:
    perfect, blind = films(), films()
    perfect["score_pneumonia"] = perfect["target_pneumonia"]
    blind["score_pneumonia"] = 0.0
    cell(tmp_path, perfect, "a")
    cell(tmp_path, blind, "b")
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.value == 0.5
    assert found.p is None
    assert "the same for any patients" in found.reason
    assert verdict(found, "a", "b", True).startswith("not comparable: the difference is the same for any")


def test_one_patient_tells_nothing(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    for k, name in enumerate("ab"):
        cell(tmp_path, films(k, patients=1), name)
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.value is not None
    assert found.p is None
    assert found.reason.startswith("one patient in the test set")


def test_one_class_has_no_value(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    rows = films()
    rows["target_pneumonia"] = 0.0
    cell(tmp_path, rows, "a")
    cell(tmp_path, films(), "b")
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.value is None
    assert found.reason == "a seed 0: ok, its metric is not defined"


def test_a_skipped_cell_says_why(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    cell(tmp_path, None, "a", status="skipped")
    cell(tmp_path, films(), "b")
    results, a, b = read(tmp_path)
    assert compare(results, a, b).reason == "a seed 0: skipped, too few patients"
    assert compare(results, [], b).reason == "no record"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split_sha256": "u" * 64}, "different test sets: mgca_cls ssssssssssss and mgca_cls uuuuuuuuuuuu"),
        ({"fraction": 0.1}, "different label fractions: 100% and 10%"),
        ({"recipe": "tiny"}, "different recipes: micro and tiny"),
        ({"source": "real"}, "different sources of data: phantom and real"),
        ({"task_version": 99}, "different versions of the task: "),
        ({"task_owner": "other 0.1.0"}, "different owners of the task: medbench and other"),
        ({"subset": "3 of 9"}, "different datasets: rsna and rsna, subset 3 of 9"),
        ({"data_fingerprint": "e" * 64}, "different versions of the data: "),
        ({"task_config": {"x": 1}}, "different settings of the task: "),
    ],
)
def test_what_is_not_alike_is_not_compared(
    tmp_path: Path, cell: MakeCell, films: MakeFilms, changes: dict[str, object], words: str
) -> None:
    cell(tmp_path, films(0), "a")
    cell(tmp_path, films(1), "b", **changes)
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.value is None
    assert found.reason.startswith(words)


def test_draws_of_other_patients_are_refused(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    cell(tmp_path, films(0), "a")
    cell(tmp_path, films(1, n=110), "b")
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.p is None
    assert found.reason.startswith("the draws are of different patients")


def test_draws_that_lack_on_one_side(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    cell(tmp_path, films(0), "a")
    cell(tmp_path, films(1), "b", draws=False)
    results, a, b = read(tmp_path)
    assert compare(results, a, b).test == "DeLong"  # predictions are enough
    without_predictions(tmp_path)
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.p is None
    assert found.reason.startswith("b seed 0 has no draws: `medbench results rescore --out`")


def test_seeds_are_averaged_and_their_spread_counts(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    for k, name in enumerate("ab"):
        for seed in range(3):
            cell(tmp_path, films(k, seed, signal=1 + seed * (k + 1) / 4), name, seed)
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    values = [[r.primary.value for r in side if r.primary] for side in (a, b)]
    assert found.value == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert found.seeds == (3, 3)
    assert found.reason == ""
    assert found.se_training is not None
    assert 0 < found.se_training < math.sqrt(sum(np.var(v, ddof=1) / 3 for v in values))
    assert 2 <= found.freedom < 1000
    assert found.se_test is not None
    assert found.high is not None
    assert found.value is not None
    se = math.hypot(found.se_test, found.se_training)
    assert found.high - found.value == pytest.approx(scipy.stats.t.ppf(0.975, found.freedom) * se)

    without_predictions(tmp_path)
    drawn = compare(*read(tmp_path))
    assert drawn.se_training == pytest.approx(found.se_training, rel=0.1)


def test_seeds_that_repeat_each_other_count_once(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    for seed in range(3):
        cell(tmp_path, films(0), "a", seed)
        cell(tmp_path, films(1, seed), "b", seed)
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert found.seeds == (1, 3)
    assert "a seed 1 repeats the predictions of seed 0 and is not counted" in found.reason
    assert "one seed: training noise not counted" in found.reason


def test_a_result_without_a_seed_is_no_repeat(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    cell(tmp_path, films(0), "a", None)
    cell(tmp_path, films(1), "b", None)
    results, a, b = read(tmp_path)
    assert compare(results, a, b).seeds == (1, 1)


def test_two_records_of_one_seed_are_no_two_seeds(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    """They differ in something that is no part of the method, and nobody knows which counts."""
    for k in range(2):
        cell(tmp_path, films(0, k), "a", 0, weights=WeightsIdentity(kind="pretrained", key=str(k)))
    cell(tmp_path, films(1), "b")
    results, a, b = read(tmp_path)
    found = compare(results, a, b)
    assert (found.value, found.p, found.seeds) == (None, None, (0, 1))
    ids = ", ".join(record.cell_id[:12] for record in sorted(a, key=lambda r: r.cell_id))
    assert found.reason == f"cells {ids} are all a seed 0: keep the one that counts"
    assert summarise(a).status == "ambiguous"  # as tables have it


def test_two_folders_are_compared(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    cell(tmp_path / "here", films(0))
    cell(tmp_path / "there", films(1))
    here, there = (Results.read(tmp_path / name) for name in ("here", "there"))
    found = compare(here, here.records, there.records, there)
    assert found.test == "DeLong"
    assert found.value != 0


def test_a_verdict_follows_the_direction_of_the_metric_and_the_adjusted_p() -> None:
    found = Difference(0.1, 0.05, 0.15, 0.01, 0.02, None, math.inf, "DeLong", (1, 1))
    assert verdict(found, "a", "b", True) == "a is better"
    assert verdict(found, "a", "b", False) == "b is better"
    assert verdict(found, "a", "b", True, p=0.06) == "no difference beyond noise"


def numbers_of(found: Difference) -> dict[str, float | None]:
    kept = ("value", "low", "high", "p", "se_test", "se_training", "freedom")
    return {name: value for name, value in dataclasses.asdict(found).items() if name in kept}


def test_all_pairs_at_once_are_the_pairs() -> None:
    """Also with draws that are not defined, of other patients, and without any."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=2000)

    def made(seeds: int, key: str = "k", gaps: int = 0) -> Side:
        draws = 0.5 + (shared + rng.normal(size=(seeds, 2000))) / 50
        draws[:, 2000 - gaps :] = np.nan
        return Side(0.5 + rng.normal(size=seeds) / 50, draws=of_draws(key, draws, 40))

    sides = [made(1), made(3), made(3, gaps=300), made(2, gaps=1500), made(3, "other"), Side(np.zeros(0))]
    sides.append(Side(np.array([0.5]), lacking="none made"))
    whole = iter(differences(sides))
    for i in range(len(sides)):
        for j in range(i + 1, len(sides)):
            [alone] = differences([sides[i], sides[j]])
            found = next(whole)
            told = numbers_of(found)
            assert told == pytest.approx(numbers_of(alone))
            assert (found.test, found.seeds, found.reason) == (alone.test, alone.seeds, alone.reason)
            [turned] = differences([sides[j], sides[i]])
            assert turned.p == pytest.approx(found.p)
            assert (found.p is None) == (max(i, j) > 2)
            assert not any(math.isnan(v) for v in told.values() if v is not None)


def test_the_mean_over_seeds_has_an_interval(tmp_path: Path, cell: MakeCell, films: MakeFilms) -> None:
    for seed in range(3):
        cell(tmp_path, films(0, seed), "a", seed)
    results = Results.read(tmp_path)
    found = side(results, results.records)
    primary = results.records[0].primary
    assert primary is not None
    low, high = found.interval(primary.interval)
    assert found.mean is not None
    assert low is not None
    assert high is not None
    assert low < found.mean < high
    assert found.delong_interval() == pytest.approx((low, high), abs=0.02)
    assert primary.low is not None
    assert primary.high is not None
    assert high - low < primary.high - primary.low  # three models together err less than one
