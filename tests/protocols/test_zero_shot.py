"""Zero-shot: right where films show what prompts say, at chance where they don't, and what hangs on the wording."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medbench.errors import DataError
from medbench.metrics.classification import auroc
from medbench.protocols.zero_shot import ZeroShot
from medbench.task import Evaluation, Metric, TaskData

from .toy_pairs import ENV, LocalToy, Toy, dataset

CLASSES = ("lung", "heart", "rib")
SHOWN = [CLASSES[k % 3] for k in range(30)]
ONE_OF = {name: [float(word == name) for word in SHOWN] for name in CLASSES}
PROMPTS = """
source = "a test"
ensemble = "{ensemble}"
[words.lung]
phrase = ["lung", "a lung", "the lung", "lung there", "lung seen", "big lung", "bad lung"]
[words.heart]
size = ["", "large", "small"]
where = ["heart", "heart there"]
[words.rib]
phrase = ["rib", "broken rib"]
"""
PAIRS = """
source = "a test"
ensemble = "mean"
[templates]
present = ["{}"]
absent = ["nothing"]
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "toy_prompts"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for ensemble in ("max", "mean"):
        (folder / f"{ensemble}.toml").write_text(PROMPTS.format(ensemble=ensemble))
    (folder / "pairs.toml").write_text(PAIRS.replace('"nothing"', '"no {}"'))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield
    sys.modules.pop("toy_prompts", None)


def exclusive(ensemble: str = "max") -> ZeroShot:
    return ZeroShot("micro", split="any", prompts=f"toy_prompts:{ensemble}.toml", classes=CLASSES)


def pairs(*classes: str, prompts: str = "medbench_tasks:prompts/pairs.toml") -> ZeroShot:
    return ZeroShot("micro", split="any", prompts=prompts, classes=classes)


def run(
    task: ZeroShot, data: TaskData, model: Toy | None = None, batch_size: int = 64
) -> tuple[Evaluation, dict[str, Metric]]:
    features = task.extract(model or Toy(), data, ENV, batch_size)
    result = task.evaluate(features, data, np.zeros(0, np.int64), 0, ENV)
    return result, {metric.name: metric for metric in task.score(result.predictions)}


@pytest.mark.parametrize("ensemble", ["max", "mean"])
def test_classes_that_exclude_each_other(ensemble: str) -> None:
    task, data = exclusive(ensemble), dataset(SHOWN, labels=ONE_OF)
    assert task.exclusive and not task.depends_on_seed(1.0)
    result, found = run(task, data)
    for name in ("accuracy", "macro_f1", "macro_auroc", "accuracy_prompts_5"):
        assert found[name].value == pytest.approx(1.0)
        assert found[name].n == 30 and found[name].reason == ""
    assert "prompts" in found["accuracy_prompts_5"].interval
    assert "patients" not in found["accuracy_prompts_5"].interval.replace("nothing about patients", "")
    assert result.search["trials"] == 0
    assert result.search["prompts"] == {
        "lung": {"present": 7},
        "heart": {"present": 6},
        "rib": {"present": 2},
    }
    assert task.config.ensemble == ensemble and task.config.source == "a test"
    assert len(task.config.prompts_sha256) == 64


@pytest.mark.parametrize(("ensemble", "model"), [("max", Toy()), ("mean", LocalToy())])
def test_scores_are_those_of_a_loop(ensemble: str, model: Toy) -> None:
    task, data = exclusive(ensemble), dataset(SHOWN, labels=ONE_OF, noise=90)
    features = task.extract(model, data, ENV)
    found = task.evaluate(features, data, np.zeros(0, np.int64), 0, ENV).predictions
    one = max if ensemble == "max" else lambda values: sum(values) / len(values)
    raw = {}
    for name in CLASSES:
        prompts = task.prompts.scored(name).present
        raw[name] = [one([row[features.prompts[p]] for p in prompts]) for row in features.similar]
    for k in range(30):
        z = {n: (raw[n][k] - np.mean(raw[n])) / np.std(raw[n]) for n in CLASSES}
        for name in CLASSES:
            others = sum(np.exp(z[other]) for other in CLASSES if other != name)
            assert found[f"score_{name}"][k] == pytest.approx(z[name] - np.log(others), abs=1e-9)


def test_a_label_and_its_denial() -> None:
    data = dataset(SHOWN, labels=ONE_OF)
    task = pairs("lung", prompts="toy_prompts:pairs.toml")
    result, found = run(task, data)
    similar = task.extract(Toy(), data, ENV)
    expected = similar.of(["lung"]) - similar.of(["no lung"])
    np.testing.assert_allclose(result.predictions["score_lung"], expected[:, 0], atol=1e-12)
    assert found["auroc"].value == pytest.approx(
        auroc(np.array(ONE_OF["lung"]) == 1, expected[:, 0]), abs=1e-12
    )
    spread = found["auroc_prompts_5"]
    assert (spread.value, spread.low, spread.high) == (None, None, None)
    assert spread.reason == "no class has more than 5 prompts to draw from"


@pytest.mark.parametrize("classes", [("lung",), CLASSES])
def test_a_label_is_there_where_its_being_there_is_more_similar(classes: tuple[str, ...]) -> None:
    labels = {**ONE_OF, "rib": [float("nan")] * 5 + ONE_OF["rib"][5:]}
    result, found = run(pairs(*classes), dataset(SHOWN, labels=labels, noise=90))
    macro = "macro_" if len(classes) > 1 else ""
    right, f1 = [], []
    for name in classes:
        pairs_of = [
            (s > 0, t == 1)
            for s, t in zip(result.predictions[f"score_{name}"], labels[name], strict=True)
            if t in (0, 1)
        ]
        hit = sum(s and t for s, t in pairs_of)
        right.append(sum(s == t for s, t in pairs_of) / len(pairs_of))
        f1.append(2 * hit / sum(s + t for s, t in pairs_of))
    accuracy = found[f"{macro}accuracy"]
    assert accuracy.value == pytest.approx(np.mean(right)) and accuracy.n == 30
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert found[f"{macro}f1"].value == pytest.approx(np.mean(f1))
    assert list(accuracy.per_class.values()) == (pytest.approx(right) if macro else [])


def test_accuracy_leaves_out_labels_that_nobody_knows() -> None:
    labels = {**ONE_OF, "rib": [float("nan")] * 30}
    _, found = run(pairs(*CLASSES), dataset(SHOWN, labels=labels))
    assert found["macro_accuracy"].reason == "rib: no film has a label"
    assert found["macro_accuracy"].per_class["rib"] is None
    known = [found["macro_accuracy"].per_class[name] for name in ("lung", "heart")]
    assert found["macro_accuracy"].value == pytest.approx(np.mean(known))


@pytest.mark.parametrize("task", [0, 1])
def test_no_probability_is_claimed(task: int) -> None:
    made = (exclusive(), pairs())[task]
    result, found = run(made, dataset(SHOWN, labels=ONE_OF))
    assert not [name for name in found if "ece" in name or "brier" in name]
    assert made.reliability(result.predictions) == ()


def test_groups_have_no_draws_of_prompts() -> None:
    task = exclusive()
    result, found = run(task, dataset(SHOWN, labels=ONE_OF, noise=90))
    groups = {metric.name: metric for metric in task.score_group(result.predictions.iloc[:20])}
    assert list(groups) == list(found)
    spread = groups["accuracy_prompts_5"]
    assert spread.value is None and spread.low is None and "all test films alone" in spread.reason
    assert groups["accuracy"].value is not None and groups["accuracy"].reason == ""


def test_several_labels_some_of_them_unknown() -> None:
    labels = {**ONE_OF, "rib": [float("nan") if k < 5 else v for k, v in enumerate(ONE_OF["rib"])]}
    _, found = run(pairs(), dataset(SHOWN, labels=labels))
    assert {"macro_auroc", "macro_average_precision", "macro_auroc_prompts_5"} <= set(found)
    assert set(found["macro_auroc"].per_class) == set(CLASSES)
    spread = found["macro_auroc_prompts_5"]
    assert 0 <= spread.low <= spread.value <= spread.high <= 1
    assert spread.n == 30


def test_a_class_without_positives_is_left_out_and_said() -> None:
    labels = {**ONE_OF, "rib": [0.0] * 30}
    _, found = run(pairs(), dataset(SHOWN, labels=labels))
    _, others = run(pairs("lung", "heart"), dataset(SHOWN, labels=ONE_OF))
    assert found["macro_auroc_prompts_5"].value == others["macro_auroc_prompts_5"].value
    assert found["macro_auroc_prompts_5"].reason == "rib: 0 positives and 30 negatives"
    _, nothing = run(pairs("rib"), dataset(SHOWN, labels=labels))
    for name in ("auroc", "auroc_prompts_5"):
        assert nothing[name].value is None and nothing[name].reason.startswith("rib: 0 positives")


def test_a_collapsed_encoder_is_at_chance() -> None:
    _, found = run(exclusive(), dataset(SHOWN, labels=ONE_OF), Toy(collapsed=True))
    for name in ("accuracy", "accuracy_prompts_5"):
        assert found[name].value == pytest.approx(1 / 3, abs=1e-12)
    assert found["macro_auroc"].value == 0.5
    spread = found["accuracy_prompts_5"]
    assert spread.low == spread.value == spread.high
    _, found = run(pairs("lung"), dataset(SHOWN, labels=ONE_OF), Toy(collapsed=True))
    assert found["auroc"].value == found["auroc_prompts_5"].value == 0.5
    assert found["accuracy"].value == pytest.approx(2 / 3)  # no film is named


@pytest.mark.parametrize("task", [0, 1])
def test_batches_and_the_order_of_the_index_change_nothing(task: int) -> None:
    made = (exclusive(), pairs())[task]
    order = np.random.default_rng(1).permutation(30)
    first = run(made, dataset(SHOWN, labels=ONE_OF, noise=90), LocalToy())[1]
    for data, size in (
        (dataset(SHOWN, labels=ONE_OF, noise=90), 7),
        (dataset(SHOWN, labels=ONE_OF, noise=90, order=order), 64),
    ):
        for name, metric in run(made, data, LocalToy(), size)[1].items():
            for part in ("value", "low", "high"):
                assert getattr(metric, part) == pytest.approx(getattr(first[name], part), abs=1e-6)


def test_labels_choose_nothing() -> None:
    first, _ = run(exclusive(), dataset(SHOWN, labels=ONE_OF, noise=90))
    turned = {name: ONE_OF[other] for name, other in zip(CLASSES, ("heart", "rib", "lung"), strict=True)}
    second, _ = run(exclusive(), dataset(SHOWN, labels=turned, noise=90))
    assert first.search == second.search
    told = [column for column in first.predictions if not column.startswith("target_")]
    pd.testing.assert_frame_equal(first.predictions[told], second.predictions[told])


def test_draws_are_the_same_for_everybody_and_hold_five_prompts() -> None:
    task = exclusive()
    similar = [(np.tile(np.arange(float(n)), (2, 1)), np.zeros((2, 0))) for n in (7, 6, 2)]
    draws = list(task._draws(CLASSES, similar))
    assert len(draws) == 100
    for some in draws:
        assert [present.shape[1] for present, _ in some] == [5, 5, 2]
        for present, _ in some:
            assert len(set(present[0])) == present.shape[1]
    again = list(exclusive("mean")._draws(CLASSES, similar))
    assert all(np.array_equal(a[0][0], b[0][0]) for a, b in zip(draws, again, strict=True))
    assert len({tuple(some[0][0][0]) for some in draws}) > 15  # of 21


def test_metrics_come_from_the_stored_rows_alone(tmp_path: Path) -> None:
    result, found = run(exclusive(), dataset(SHOWN, labels=ONE_OF, noise=90), LocalToy())
    result.predictions.to_parquet(tmp_path / "p.parquet", index=False)
    again = exclusive().score(pd.read_parquet(tmp_path / "p.parquet"))
    assert {metric.name: metric for metric in again} == found


def test_labels_that_are_not_there() -> None:
    data = dataset(SHOWN, labels={"lung": ONE_OF["lung"]})
    with pytest.raises(DataError, match="no label heart, rib in /toy; it has lung"):
        exclusive().positives(data.index)
    with pytest.raises(DataError, match="no label at all in /toy"):
        pairs().positives(dataset(SHOWN).index)
    assert pairs().positives(data.index).sum() == 10


def test_a_split_that_nobody_tests() -> None:
    data = dataset(SHOWN, labels=ONE_OF)
    nobody = dataclasses.replace(data.split, test=np.zeros(0, np.int64))
    with pytest.raises(DataError, match="split any has no test part"):
        run(exclusive(), dataclasses.replace(data, split=nobody))
