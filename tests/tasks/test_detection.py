from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medbench.data.prepared import prepare
from medbench.progress import Progress
from medbench.protocols.detection import RECIPES, FrozenDetection
from medbench.task import Environment, TaskData
from medbench_methods.modules.image_encoder import ImageConfig
from medbench_methods.random import ImageOnly
from medbench_tasks import medbench_datasets, medbench_tasks

SPEC = next(spec for spec in medbench_tasks() if spec.name == "rsna_det")


def test_declared_task_is_this_one() -> None:
    assert SPEC.load() is FrozenDetection
    assert SPEC.dataset == "rsna"
    assert SPEC.needs == {"image.pyramid"}


@pytest.mark.parametrize("recipe", ["tiny", "paper", "micro"])
def test_recipe_decides_every_number(recipe: str) -> None:
    task = SPEC.make(recipe)
    assert task.recipe == recipe
    assert task.config == RECIPES[recipe]
    assert task.split == "mgca_det"
    assert task.depends_on_seed(1.0)


def test_primary_metric_is_the_declared_one() -> None:
    box = np.array([10.0, 10, 20, 20])
    predictions = pd.DataFrame(
        {
            "sample": ["a"],
            "patient": ["a"],
            "true_boxes": [box],
            "pred_boxes": [box.astype(np.float32)],
            "pred_scores": [np.array([0.9], np.float32)],
        }
    )
    metrics = SPEC.make("tiny").score(predictions)
    assert metrics[0].name == SPEC.primary_metric
    assert metrics[0].higher_is_better == SPEC.higher_is_better
    assert [m.name for m in metrics] == ["map_40_75", "map_mgca", "map_coco"]


@pytest.mark.slow
def test_real_films_go_the_whole_way(test_data: Path, tmp_path: Path) -> None:
    """DICOM files of the challenge: read, split, trained on, tested; boxes are in pixels of the files."""
    root = test_data / "rsna_layout"
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    spec = next(spec for spec in medbench_datasets() if spec.name == "rsna")
    dataset = spec.load()(spec, root)
    index = dataset.index()
    films = prepare(index, 64, "stretch", tmp_path, workers=1, progress=Progress(quiet=True))
    data = TaskData(index, dataset.split(index, "mgca_det"), lambda side, fit: films)
    task = SPEC.make("micro")
    env = Environment(torch.device("cpu"), "32", tmp_path, Progress(quiet=True))
    torch.manual_seed(0)
    model = ImageOnly(ImageConfig(backbone="resnet10t", pretrained=False, size=64, resize=72, upsample=0))
    features = task.extract(model, data, env)
    evaluation = task.evaluate(features, data, data.split.train, 0, env)
    features.close()
    metrics = task.score(evaluation.predictions)
    assert metrics[0].n == len(data.split.test)
    assert metrics[0].value is not None
    assert 0 <= metrics[0].value < 0.5
    for row, boxes in zip(data.split.test, evaluation.predictions["pred_boxes"], strict=True):
        height, width = films.sizes[row]
        corners = boxes.reshape(-1, 4)[:, :2] + boxes.reshape(-1, 4)[:, 2:]
        assert (corners <= np.array([width, height]) + 1e-2).all()
    truth = np.concatenate(evaluation.predictions["true_boxes"].tolist())
    assert len(truth) > 0
    assert truth.max() > 128  # of the 1024 px files, not of the square
