"""Zero-shot classification: which sets, by which prompts. Only declared here.

The protocol is `medbench.protocols.zero_shot`, prompts are the files in `prompts/`.
"""

from collections.abc import Sequence
from typing import Any

from medbench.specs import Provision, TaskSpec

_NEEDS: frozenset[Provision] = frozenset({"text.pooled", "embedding"})


def _zero_shot(
    dataset: str,
    summary: str,
    reference: str,
    split: str,
    prompts: str,
    primary_metric: str,
    classes: Sequence[str] = (),
) -> TaskSpec:
    """A task that trains nothing; without classes, all labels of the index are."""
    given: dict[str, Any] = {"split": split, "prompts": f"medbench_tasks:prompts/{prompts}.toml"}
    if classes:
        given["classes"] = tuple(classes)
    return TaskSpec(
        name="zs:table" if dataset == "table" else f"{dataset}_zs",
        target="medbench.protocols.zero_shot:ZeroShot",
        summary=summary,
        reference=reference,
        dataset=dataset,
        needs=_NEEDS,
        primary_metric=primary_metric,
        fractions=(),
        given=given,
    )


TASKS: tuple[TaskSpec, ...] = (
    _zero_shot(
        "chexpert_5x200",
        "which of five findings a film of CheXpert 5x200 has, by what they are called",
        "prompts and scores of GLoRIA, ICCV 2021; data: arXiv 1901.07031",
        "mgca",
        "chexpert_5x200",
        "accuracy",
        ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"),
    ),
    _zero_shot(
        "rsna",
        "pneumonia or not, by phrases for and against it",
        "prompts of BioViL, arXiv 2204.09817; data: doi:10.1148/ryai.2019180041",
        "mgca_cls",
        "pneumonia",
        "auroc",
        ("pneumonia",),
    ),
    _zero_shot(
        "covidx",
        "normal, pneumonia or COVID-19, by what they are called",
        "prompts of our own; data: arXiv 2003.09871",
        "clean",
        "covidx",
        "accuracy",
        ("normal", "pneumonia", "covid"),
    ),
    _zero_shot(
        "nih",
        "the fourteen findings of ChestX-ray14, each by its name and its denial",
        "prompts of CheXzero, doi:10.1038/s41551-022-00936-9; data: arXiv 1705.02315",
        "official",
        "pairs",
        "macro_auroc",
        (
            *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
            *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis"),
            *("pleural_thickening", "hernia"),
        ),
    ),
    _zero_shot(
        "siim",
        "pneumothorax or not, by its name and its denial",
        "prompts of CheXzero, doi:10.1038/s41551-022-00936-9; data: SIIM-ACR Pneumothorax Segmentation, Kaggle 2019",
        "image",
        "pairs",
        "auroc",
        ("pneumothorax",),
    ),
    _zero_shot(
        "table",
        "the labels of your own table, each by its name and its denial: zs:table:FILE",
        "prompts of CheXzero, doi:10.1038/s41551-022-00936-9",
        "tested",
        "pairs",
        "macro_auroc",
    ),
)
