import numpy as np
import pandas as pd
import pytest

from medbench.protocols.detection import RECIPES
from medbench_tasks import medbench_tasks
from medbench_tasks.detection import RsnaDetection

SPEC = next(spec for spec in medbench_tasks() if spec.name == "rsna_det")


def test_declared_task_is_this_one() -> None:
    assert SPEC.load() is RsnaDetection
    assert SPEC.dataset == "rsna"
    assert SPEC.needs == {"image.pyramid"}


@pytest.mark.parametrize("recipe", ["tiny", "paper", "micro"])
def test_recipe_decides_every_number(recipe: str) -> None:
    task = RsnaDetection(recipe)
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
    metrics = RsnaDetection("tiny").score(predictions)
    assert metrics[0].name == SPEC.primary_metric
    assert metrics[0].higher_is_better == SPEC.higher_is_better
    assert [m.name for m in metrics] == ["map_40_75", "map_mgca", "map_coco"]
