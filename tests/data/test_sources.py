"""From names to folders, and how a corpus is opened."""

from pathlib import Path
from typing import Any

import pytest

from medbench.data.sources import Sources, folder_of
from medbench.doctor import dataset_folders
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.request import RunRequest

CATALOGUE = load_catalogue(third_party=False)
CHOSEN = CATALOGUE.datasets["chexpert_5x200"]


def sources(tmp_path: Path, **changes: Any) -> Sources:
    request = RunRequest(
        (), (), tmp_path / "results", tmp_path / "cache", recipe="micro", quiet=True, **changes
    )
    return Sources(request, CATALOGUE, Progress(quiet=True))


def test_a_dataset_within_another_is_found_there(tmp_path: Path) -> None:
    mother = tmp_path / "chexpert"
    assert folder_of(CHOSEN, None, {}) is None
    assert folder_of(CHOSEN, None, {"chexpert": Path("x")}) == Path("x")
    assert folder_of(CHOSEN, None, {"chexpert": Path("x"), "chexpert_5x200": Path("y")}) == Path("y")
    assert folder_of(CHOSEN, tmp_path, {}) == mother
    assert folder_of(CHOSEN, tmp_path, {"chexpert": Path("x")}) == Path("x")
    (tmp_path / "chexpert_5x200").mkdir()
    assert folder_of(CHOSEN, tmp_path, {"chexpert": Path("x")}) == tmp_path / "chexpert_5x200"
    assert folder_of(CATALOGUE.datasets["rsna"], tmp_path, {"chexpert": Path("x")}) == tmp_path / "rsna"


def test_it_is_listed_there(tmp_path: Path) -> None:
    (tmp_path / "mimic_cxr").mkdir()
    found = {row["dataset"]: row for row in dataset_folders(CATALOGUE, tmp_path, {})}
    assert found["mimic_5x200"] == {
        "dataset": "mimic_5x200",
        "state": "real",
        "folder": str(tmp_path / "mimic_cxr"),
    }
    assert found["chexpert_5x200"]["state"] == "not there"


@pytest.mark.parametrize("name", ["mimic_cxr", "chexpert", "openi", "padchest"])
def test_every_paired_phantom_is_a_corpus_in_either_cleaning(tmp_path: Path, name: str) -> None:
    texts = {}
    for cleaning in ("mgca", "clean"):
        dataset = sources(tmp_path, corpus=name).corpus(cleaning)
        index = dataset.index()
        split = dataset.split(index, next(iter(dataset.splits)))
        texts[cleaning] = index.table["report"]
        assert (texts[cleaning].iloc[split.train] != "").sum() > 20


def test_the_paired_datasets() -> None:
    paired = {spec.name for spec in CATALOGUE.datasets.values() if spec.paired}
    assert paired == {"mimic_cxr", "chexpert", "openi", "padchest", "table"}
