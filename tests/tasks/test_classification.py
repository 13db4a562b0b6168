"""`rsna_lp` from films to metrics, with an encoder that sees one thing: how bright a film is."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import three_way
from medbench.model import ImageFeatures, Preprocessing
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.request import RunRequest
from medbench.runner import run
from medbench.specs import TaskSpec
from medbench.task import Environment, TaskData
from medbench_tasks import medbench_tasks

N, SIDE = 120, 12


class Brightness:
    preprocessing = Preprocessing(size=8, resize=SIDE)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        return ImageFeatures(torch.stack([images.mean((1, 2, 3)), images.std((1, 2, 3))], 1))


@pytest.fixture
def spec() -> TaskSpec:
    return next(spec for spec in medbench_tasks() if spec.name == "rsna_lp")


@pytest.fixture
def data() -> TaskData:
    rng = np.random.default_rng(0)
    ill = rng.random(N) < 0.3
    films = np.clip(rng.normal(110 + 30 * ill[:, None, None], 10, (N, SIDE, SIDE)), 0, 255).astype(np.uint8)
    table = pd.DataFrame(
        {
            "sample": [f"s{k}" for k in range(N)],
            "patient": [f"p{k}" for k in range(N)],
            "label_pneumonia": ill * 1.0,
        }
    )
    index = Index("rsna", Path(), "phantom", table, ("pneumonia",))
    prepared = PreparedImages(films, np.full((N, 2), SIDE), "hash")
    return TaskData(index, three_way(index, "mgca_cls", 0.3), lambda side, fit: prepared)


def test_what_is_declared_is_what_is_scored(spec: TaskSpec, data: TaskData) -> None:
    task = spec.make("micro")
    env = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))
    assert task.split == "mgca_cls"
    features = task.extract(Brightness(), data, env)
    np.testing.assert_array_equal(features.rows, np.arange(N))

    result = task.evaluate(features, data, data.split.train, 0, env)
    kinds = ("target", "score", "threshold")
    assert list(result.predictions) == ["sample", "patient", *(f"{kind}_pneumonia" for kind in kinds)]
    assert len(result.predictions) == len(data.split.test)
    metrics = task.score(result.predictions)
    assert [metric.name for metric in metrics] == [
        *("auroc", "average_precision", "f1", "balanced_accuracy"),
        *("ece_width_15", "ece_mass_15", "brier"),
    ]
    assert metrics[0].name == spec.primary_metric
    assert metrics[0].higher_is_better == spec.higher_is_better
    assert metrics[0].value > 0.9  # brighter films are the ill ones here
    assert metrics[0].n == len(data.split.test)
    assert task.positives(data.index).sum() == (data.index.table["label_pneumonia"] == 1).sum()


def test_predictions_alone_give_the_metrics_again(spec: TaskSpec, data: TaskData, tmp_path: Path) -> None:
    task = spec.make("micro")
    env = Environment(torch.device("cpu"), "32", Path(), Progress(quiet=True))
    result = task.evaluate(task.extract(Brightness(), data, env), data, data.split.train, 0, env)
    result.predictions.to_parquet(tmp_path / "p.parquet", index=False)
    assert task.score(pd.read_parquet(tmp_path / "p.parquet")) == task.score(result.predictions)


@pytest.mark.parametrize("task", ["covidx_lp", "nih_knn"])  # rsna_lp: tests/test_main_job.py
def test_an_untrained_encoder_from_phantom_to_record(task: str, tmp_path: Path) -> None:
    catalogue = load_catalogue(third_party=False)
    wanted = RunRequest(
        ("random",),
        (task,),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        fractions=(1.0,),
        recipe="micro",
        device="cpu",
        quiet=True,
    )
    (record,) = run(wanted, catalogue).records
    assert record.status == "ok", record.error
    assert record.primary is not None
    assert record.primary.name == catalogue.tasks[task].primary_metric
    for metric in record.metrics:
        assert metric.value is not None or metric.reason
        assert metric.value is None or 0 <= metric.value <= 1
    assert record.search["trials"] > 1
