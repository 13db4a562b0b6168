"""Whether an encoder has seen its test set, in words."""

from collections.abc import Callable
from typing import Any

import pytest

from medbench.plugins import load_catalogue
from medbench.records import Record, WeightsInfo
from medbench_leaderboards.contamination import Overlaps, contamination

MakeRecord = Callable[..., Record]
OVERLAPS = Overlaps(load_catalogue(third_party=False).datasets)
VERY = ", the very set that it is tested on"


@pytest.mark.parametrize(
    ("dataset", "corpus", "why"),
    [
        ("mimic_cxr", "mimic_cxr", f"pretrained on mimic_cxr{VERY}"),
        ("mimic_5x200", "mimic_cxr", "pretrained on mimic_cxr: mimic_5x200 is chosen from mimic_cxr"),
        ("mimic_5x200", "MIMIC-CXR, frontal", "mimic_5x200 is chosen from mimic_cxr"),
        ("chexpert_5x200", "CheXpert and MIMIC-CXR", "chexpert_5x200 is chosen from chexpert"),
        ("chexpert", "CheXpert, impressions", VERY),
        ("rsna", "nih", "rsna has films of nih (G. Shih et al., Radiology: AI 2019"),
        ("rsna", "MIMIC-CXR, in some files with CheXpert and ChestX-ray14", "rsna has films of nih"),
        ("siim", "nih", "siim has films of nih (R. W. Filice et al."),
        (
            "covidx",
            "nih",
            "covidx has films of rsna (L. Wang et al., Scientific Reports 2020, arXiv 2003.09871); ",
        ),
        ("rsna", "MIMIC-CXR", ""),
        ("nih", "rsna", ""),
        ("object_cxr", "not stated", ""),
        ("rsna", "table", ""),
        ("nobody_declared_it", "nih", ""),
    ],
)
def test_real_sets(record: MakeRecord, dataset: str, corpus: str, why: str) -> None:
    found = contamination(
        [record(dataset=dataset, corpus_dataset=corpus, source="real", corpus_source="real")], OVERLAPS
    )
    assert len(found) == bool(why)
    assert all(why in line for line in found)


def test_phantom_twins_share_no_films_unless_they_are_one(record: MakeRecord) -> None:
    assert not contamination([record(dataset="mimic_5x200", corpus_dataset="mimic_cxr")], OVERLAPS)
    assert contamination([record(dataset="mimic_cxr", corpus_dataset="mimic_cxr")], OVERLAPS)


@pytest.mark.parametrize(
    ("info", "kind", "said"),
    [
        (
            {"split": "official"},
            "pretrained",
            "it saw the training and validation parts of split official",
        ),
        ({}, "pretrained", "what was left out of it is not known"),
        ({"split": "official"}, "checkpoint", "what was left out of it is not known"),
    ],
)
def test_what_was_left_out_is_said(record: MakeRecord, info: dict[str, Any], kind: str, said: str) -> None:
    made = record(dataset="mimic_cxr", kind=kind)
    corpus = (
        made.identity.weights.corpus
        or made.model_copy(update={"identity": record(dataset="mimic_cxr").identity}).identity.weights.corpus
    )
    weights = made.identity.weights.model_copy(update={"corpus": corpus})
    identity = made.identity.model_copy(update={"weights": weights})
    made = made.model_copy(
        update={"identity": identity, "weights": WeightsInfo(sha256="w" * 64, info={"corpus": info})}
    )
    [line] = contamination([made], OVERLAPS)
    assert said in line


def test_a_split_that_leaks_is_said_once(record: MakeRecord) -> None:
    records = [record(seed=seed, split_leak="divided by film") for seed in (0, 1)]
    assert contamination(records, OVERLAPS) == ["split mgca_cls: divided by film"]
    assert contamination([record(kind="untrained")], OVERLAPS) == []
