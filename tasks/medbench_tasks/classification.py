"""Classification: which sets, which of their splits and labels, by which protocols. Only declared here."""

from dataclasses import dataclass
from typing import Any

from medbench.specs import TABLE, Provision, TaskSpec


@dataclass(frozen=True)
class LabelledSet:
    """A dataset as every protocol of classification takes it.

    Attributes:
        dataset: its name; a task is called `<dataset>_<protocol>`.
        split: of the dataset.
        classes: label columns of the index, without the prefix.
        told: what is told, in words: "<told> told by ...".
        reference: where split and classes come from, and the data.
        exclusive: whether exactly one class is 1 for every film.
    """

    dataset: str
    split: str
    classes: tuple[str, ...]
    told: str
    reference: str
    exclusive: bool = False

    @property
    def primary_metric(self) -> str:
        """The metric in the table: what papers print for the set."""
        if self.exclusive:
            return "accuracy"
        return "macro_auroc" if len(self.classes) > 1 else "auroc"

    @property
    def given(self) -> dict[str, Any]:
        """Keywords of a protocol, beside the recipe."""
        return {"split": self.split, "classes": self.classes, "exclusive": self.exclusive}


SETS: tuple[LabelledSet, ...] = (
    LabelledSet(
        dataset="chexpert",
        # MGCA's own split leaves most validation films in the training part, so nothing can be chosen on it; the
        # films that test are the same.
        split="clean",
        classes=("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion"),
        told="the five findings of CheXpert's competition",
        reference="labels and test films of MGCA, arXiv 2210.06044; data: arXiv 1901.07031",
    ),
    LabelledSet(
        dataset="rsna",
        split="mgca_cls",
        classes=("pneumonia",),
        told="pneumonia",
        reference="split of MGCA, arXiv 2210.06044; data: doi:10.1148/ryai.2019180041",
    ),
    LabelledSet(
        dataset="covidx",
        split="clean",  # MGCA's divides films, so that a patient can be in training and validation; same test films
        classes=("normal", "pneumonia", "covid"),
        told="normal, pneumonia or COVID-19",
        reference="labels and test films of MGCA, arXiv 2210.06044; data: arXiv 2003.09871",
        exclusive=True,
    ),
    LabelledSet(
        dataset="nih",
        split="official",
        classes=(
            *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
            *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis"),
            *("pleural_thickening", "hernia"),
        ),
        told="the fourteen findings of ChestX-ray14",
        reference="official split; data: arXiv 1705.02315",
    ),
    LabelledSet(
        dataset="siim",
        split="image",
        classes=("pneumothorax",),
        told="pneumothorax",
        reference="sizes as in G2D, Table 6; data: SIIM-ACR Pneumothorax Segmentation, Kaggle 2019",
    ),
    LabelledSet(
        dataset="vindr",
        split="clean",
        # Own choice: findings that CheXpert's and NIH's labels have too, each with dozens of test films. Of the six
        # diagnoses (global labels) COPD has two.
        classes=(
            *("atelectasis", "cardiomegaly", "consolidation", "lung_opacity", "nodule_mass"),
            "pleural_effusion",
        ),
        told="six findings of VinDr-CXR",
        reference="official test films; data: doi:10.1038/s41597-022-01498-w",
    ),
    LabelledSet(
        dataset="object_cxr",
        split="mgca",
        classes=("foreign_object",),
        told="a foreign object",
        reference="split of MGCA, arXiv 2210.06044; data: JF Healthcare, MIDL 2020",
    ),
)
"""What every protocol of classification is run on."""

_POOLED: frozenset[Provision] = frozenset({"image.pooled"})
_PROTOCOLS = "medbench.protocols"


def _probes(
    suffix: str, target: str, by: str, version: int = 1, **more: dict[str, Any]
) -> tuple[TaskSpec, ...]:
    """One task a set: `<dataset>_<suffix>`; `more` are further keywords of the protocol, by dataset."""
    return tuple(
        TaskSpec(
            name=f"{own.dataset}_{suffix}",
            target=f"{_PROTOCOLS}.{target}",
            summary=f"{own.told} told by {by}",
            reference=own.reference,
            dataset=own.dataset,
            needs=_POOLED,
            primary_metric=own.primary_metric,
            version=version,
            given={**own.given, **more.get(own.dataset, {})},
        )
        for own in SETS
    )


def _table(family: str, target: str, by: str) -> TaskSpec:
    """The protocol for anyone's own films."""
    return TaskSpec(
        name=f"{family}:{TABLE}",
        target=f"{_PROTOCOLS}.{target}",
        summary=f"the labels of your own table told by {by}: {family}:{TABLE}:FILE",
        reference="docs/tasks/classification.md",
        dataset=TABLE,
        needs=_POOLED,
        primary_metric="macro_auroc",
        given={"split": "tested"},
    )


_LP = ("lp", "linear_probe:LinearProbe", "a logistic regression on the frozen encoder's pooled features")
_KNN = ("knn", "nearest_neighbours:NearestNeighbours", "the nearest training films in the frozen encoder")
_LP_MGCA = (
    "lp@mgca",
    "linear_probe_mgca:MgcaLinearProbe",
    "a linear layer trained by AdamW over augmented films, the encoder frozen",
)
_FT = ("ft", "fine_tune:FineTune", "the whole network, fine-tuned with one linear layer")

TASKS: tuple[TaskSpec, ...] = (
    *_probes(
        *_LP, version=2
    ),  # of penalties with equal AUROC, 1 took the strongest, 2 that of the lower loss
    *_probes(*_LP_MGCA, chexpert={"jitter": True}),
    *_probes(*_KNN),
    *_probes(*_FT),
    _table(*_LP),
    _table(*_KNN),
    _table(*_FT),
)
