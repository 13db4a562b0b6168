"""Retrieval and zero-shot tasks as they are declared, and from phantom films to records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medbench.data.index import Index
from medbench.errors import DataError, UsageError
from medbench.metrics.retrieval import Items, cosine, rank
from medbench.phantom import chexpert_5x200
from medbench.plugins import Catalogue, load_catalogue
from medbench.request import RunRequest
from medbench.runner import run
from medbench.specs import TaskSpec
from medbench_tasks import medbench_tasks

TASKS = {spec.name: spec for spec in medbench_tasks() if "text.pooled" in spec.needs}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """The built-in one, with phantoms of a second or two."""
    found = load_catalogue(third_party=False)
    small = {"mimic_cxr": 20, "rsna": 60, "mimic_5x200": 100}
    for name, patients in small.items():
        found.datasets[name] = replace(found.datasets[name], phantom_patients={"micro": patients})  # type: ignore[index]
    return found


def request(cache: Path, results: Path, *tasks: str, method: str = "clip", **changes: object) -> RunRequest:
    return RunRequest(
        (method,),
        tasks,
        results=results,
        cache=cache,
        recipe="micro",
        device="cpu",
        quiet=True,
        workers=1,
        **changes,
    )


def test_the_declared_ones() -> None:
    assert set(TASKS) == {
        *("mimic_5x200_ret", "openi_ret", "chexpert_5x200_ret", "ret:table"),
        *("chexpert_5x200_zs", "rsna_zs", "covidx_zs", "nih_zs", "siim_zs", "zs:table"),
    }


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_each_asks_for_a_joint_space_and_trains_nothing(spec: TaskSpec) -> None:
    assert spec.needs == {"text.pooled", "embedding"}
    assert spec.fractions == ()
    for recipe in ("tiny", "paper", "micro"):
        task = spec.make(recipe)
        assert task.split == spec.given["split"]
        assert task.config == spec.make("paper").config  # nothing depends on the recipe
        assert not task.depends_on_seed(1.0)


def rows_for(spec: TaskSpec) -> pd.DataFrame:
    """Predictions of 20 films as the task would give them."""
    rng = np.random.default_rng(0)
    task = spec.make("micro")
    if spec.name.endswith("ret") or spec.name.startswith("ret"):
        ids = [f"s{k}" for k in range(20)]
        classes = [str(k % 5) for k in range(20)] if spec.given.get("classes") else None
        items = Items(ids, ids, classes, ids)
        return rank(cosine(rng.normal(size=(20, 4)), rng.normal(size=(20, 4))), items, items)
    names = spec.given.get("classes") or ("a", "b")
    rows: dict[str, object] = {
        "sample": [f"s{k}" for k in range(20)],
        "patient": [f"p{k}" for k in range(20)],
    }
    for number, name in enumerate(names):
        truth = [float(k % len(names) == number) for k in range(20)]
        rows |= {f"target_{name}": [1.0, *truth[1:]] if len(names) == 1 else truth}
        rows |= {f"score_{name}": rng.normal(size=20)}
        for part in ("present", "absent"):
            if prompts := getattr(task.prompts.pool(name), part):
                rows |= {f"{part}_{name}": list(rng.normal(size=(20, len(prompts))).astype(np.float32))}
    if len(names) == 1:
        rows[f"target_{names[0]}"] = [float(k % 2) for k in range(20)]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("spec", TASKS.values(), ids=TASKS)
def test_the_primary_metric_is_among_those_given(spec: TaskSpec) -> None:
    found = {metric.name: metric for metric in spec.make("micro").score(rows_for(spec))}
    primary = found[spec.primary_metric]
    assert primary.higher_is_better == spec.higher_is_better
    assert primary.value is not None
    for metric in found.values():
        assert metric.value is not None or metric.reason


def test_phantom_films_and_clip_make_records(cache: Path, tmp_path: Path, catalogue: Catalogue) -> None:
    outcome = run(
        request(cache, tmp_path, "rsna_zs", "mimic_5x200_ret", fractions=(0.01, 0.1), seeds=(0,)), catalogue
    )
    assert not outcome.errors
    by_task = {record.identity.task: record for record in outcome.records}
    assert len(outcome.records) == 2  # no label fraction, whatever is asked for
    for name, record in by_task.items():
        assert record.status == "ok" and record.identity.fraction == 1.0
        assert record.counts.train == 0 and record.counts.test > 0
        assert record.primary is not None and 0 <= record.primary.value <= 1
        assert record.search["trials"] == 0 and record.search["similarity"].startswith("global")
        assert record.primary_metric == TASKS[name].primary_metric
    zero_shot, retrieval = by_task["rsna_zs"], by_task["mimic_5x200_ret"]
    assert {m.name for m in zero_shot.metrics} >= {"auroc", "auroc_prompts_5"}
    assert zero_shot.identity.task_config["prompts_sha256"]
    assert zero_shot.predictions is not None and zero_shot.predictions.rows == zero_shot.counts.test
    assert {m.name for m in retrieval.metrics} >= {"i2t_p_at_1", "t2i_map", "i2t_r_at_1", "t2i_median_rank"}
    assert retrieval.search["films_without_report"] == 0
    for record in outcome.records:
        assert all(metric.value is not None or metric.reason for metric in record.metrics)
    # Nothing is drawn: a fixed encoder has one cell, for any seed.
    weights = cache / "weights"
    checkpoint = next(path for path in weights.iterdir() if path.is_dir())
    fixed = request(cache, tmp_path / "fixed", "rsna_zs", checkpoint=str(checkpoint), seeds=(0, 1))
    (record,) = run(fixed, catalogue).records
    assert record.identity.seed is None
    assert [m.value for m in record.metrics] == [m.value for m in zero_shot.metrics]


def test_an_encoder_without_text_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for task in ("rsna_zs", "mimic_5x200_ret"):
        with pytest.raises(UsageError, match=f"{task} needs embedding, text.pooled, which random does not"):
            run(
                request(tmp_path / "cache", tmp_path / "results", task, method="random"),
                load_catalogue(third_party=False),
            )
    assert not list(tmp_path.iterdir())


def test_without_the_reports_of_chexpert_plus_the_file_is_named(
    cache: Path, tmp_path: Path, catalogue: Catalogue
) -> None:
    folder = tmp_path / "chexpert"
    chexpert_5x200.write(folder, patients=60)
    (folder / "df_chexpert_plus_240401.csv").unlink()
    wanted = request(
        cache, tmp_path / "results", "chexpert_5x200_ret", data={"chexpert": folder}, corpus="phantom"
    )
    with pytest.raises(DataError, match=rf"Looked for df_chexpert_plus_240401.csv in {folder}") as raised:
        run(wanted, catalogue)
    assert raised.value.exit_code == 3


def test_a_table_needs_reports_or_labels() -> None:
    table = pd.DataFrame({"sample": ["a"], "patient": ["a"], "report": [""]})
    index = Index("table", Path("/films"), "real", table)
    with pytest.raises(DataError, match="no film in /films has a report"):
        TASKS["ret:table"].make("micro").positives(index)
    with pytest.raises(DataError, match="no label at all in /films"):
        TASKS["zs:table"].make("micro").positives(index)


@pytest.mark.slow
def test_real_notes_are_found_by_their_films(test_data: Path, tmp_path: Path) -> None:
    table = test_data / "images_text" / "metadata.csv"
    wanted = request(tmp_path / "cache", tmp_path / "results", f"ret:table:{table}", corpus=f"table:{table}")
    (record,) = run(wanted, load_catalogue(third_party=False)).records
    assert record.status == "ok" and record.identity.source == "real"
    assert record.identity.task == "ret:table:metadata.csv"
    assert record.primary is not None and record.primary.value is not None
    # Films of a patient share a case history: fewer reports than films, and some films have none.
    assert 0 < record.search["reports"] < record.search["films"]
    assert record.search["films_without_report"] > 0
    assert record.counts.test == record.search["films"] + record.search["films_without_report"]
    assert record.search["classes"] == "none"
