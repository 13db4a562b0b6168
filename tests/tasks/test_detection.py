from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medbench.data.prepared import prepare
from medbench.heads.yolov3_mgca import YoloV3MgcaConfig
from medbench.progress import Progress
from medbench.protocols.detection import RECIPES
from medbench.protocols.unfrozen import EncoderGrid
from medbench.task import Environment, TaskData
from medbench_methods.modules.image_encoder import ImageConfig
from medbench_methods.random import ImageOnly
from medbench_tasks import medbench_datasets, medbench_tasks

SPECS = {
    spec.name: spec for spec in medbench_tasks() if spec.target == "medbench.protocols.detection:Detection"
}
SPEC = SPECS["rsna_det"]
SETS = ("rsna", "object_cxr", "vindr")
BOX = np.array([10.0, 10, 20, 20])
ONE_FILM = pd.DataFrame(
    {
        "sample": ["a"],
        "patient": ["a"],
        "true_boxes": [BOX],
        "true_labels": [["mass"]],
        "pred_boxes": [BOX.astype(np.float32)],
        "pred_scores": [np.array([0.9], np.float32)],
        "pred_labels": [["mass"]],
        "classes": [["mass"]],
    }
)


def test_every_set_has_every_variant() -> None:
    names = {f"{name}_det{variant}" for name in SETS for variant in ("", "@mgca", "@fcos", "_ft")}
    assert set(SPECS) == names | {"det:table"}
    for name in SETS:
        datasets = {spec.dataset for spec in SPECS.values() if spec.name.startswith(name)}
        assert datasets == {name}


@pytest.mark.parametrize("recipe", ["tiny", "paper", "micro"])
def test_recipe_decides_every_number(recipe: str) -> None:
    task = SPEC.make(recipe)
    assert task.recipe == recipe
    assert task.config == RECIPES[recipe]
    assert task.split == "mgca_det"
    assert task.depends_on_seed(1.0)


@pytest.mark.parametrize("name", SPECS)
def test_split_and_primary_metric_are_the_declared_ones(name: str) -> None:
    spec = SPECS[name]
    task = spec.make("micro")
    dataset = next(d for d in medbench_datasets() if d.name == spec.dataset).load()
    assert task.split in dataset.splits
    metrics = task.score(ONE_FILM)
    assert metrics[0].name == spec.primary_metric
    assert metrics[0].higher_is_better == spec.higher_is_better
    names = {"map_40_75", "map_mgca", "map_coco", "froc_05", "froc_1", "froc_2", "froc"}
    assert {m.name for m in metrics} == names
    assert all(m.value == pytest.approx(1) for m in metrics)


def test_paper_has_the_printed_numbers_of_mgca() -> None:
    """Rates and batches of its scripts, by set and share of labels; boxes of a film that it has room for."""
    printed = {"rsna": (2e-4, 10), "object_cxr": (2.5e-4, 20)}
    for name, (few, most) in printed.items():
        config = SPECS[f"{name}_det@mgca"].make("paper").config
        assert [(s.lr, s.batch_size) for s in config.schedules] == [(few, 8), (5e-4, 16)]
        assert [(s.epochs, s.patience) for s in config.schedules] == [(50, 10)] * 2
        assert (config.train_boxes, config.weight_decay) == (most, 1e-6)
        assert config.drift and config.selected_on == "map_mgca"
        assert isinstance(config.head, YoloV3MgcaConfig)
        assert (config.head.weight_centre, config.head.weight_size, config.head.weight_nothing) == (
            2.5,
            2.5,
            0.5,
        )


def test_every_encoder_that_learns_has_one_grid() -> None:
    grids = {SPECS[f"{name}_det_ft"].make("paper").config.encoder_grid for name in SETS}
    assert grids == {EncoderGrid((0.1, 1.0), (0.75, 1.0))}
    for recipe in ("tiny", "micro"):
        assert len(SPECS["rsna_det_ft"].make(recipe).config.encoder_grid.points) == 1
    assert SPEC.make("paper").config.encoder_grid is None


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
