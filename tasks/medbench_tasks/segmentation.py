"""Segmentation: which sets, which of their outlines, over a frozen encoder or one that learns. Only declared here."""

from collections.abc import Iterator
from typing import Any

from medbench.specs import TaskSpec

_MGCA = "protocol of MGCA, arXiv 2210.06044"
_SETS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "siim": (
        "pneumothorax",
        f"{_MGCA}; split of G2D, Table 6; data: SIIM-ACR Pneumothorax Segmentation, Kaggle 2019",
        "siim",
        # Half of the training films of a fraction show nothing; all films validate and test.
        {"split": "image", "balanced": True, "mgca_batch": 8},
    ),
    "rsna": (
        "pneumonia opacities, the union of their boxes,",
        f"{_MGCA}; data: doi:10.1148/ryai.2019180041",
        "rsna",
        {"split": "mgca_det", "mgca_batch": 16},
    ),
    "tbx11k": (
        "tuberculosis, the union of its boxes,",
        f"{_MGCA}; split of BenchX, arXiv 2410.21969; data: Y. Liu et al., CVPR 2020",
        "tbx11k",
        {"split": "benchx", "mgca_batch": 16},
    ),
    "object_cxr": (
        "foreign objects",
        f"{_MGCA}; data: object-CXR, MIDL 2020, https://jfhealthcare.github.io/object-CXR/",
        "object_cxr",
        {"split": "mgca", "mgca_batch": 16},
    ),
}
"""By name: what is outlined, where it comes from, the dataset, and what the protocol is given."""


def _spec(name: str, what: str, reference: str, dataset: str, given: dict[str, Any], how: str) -> TaskSpec:
    return TaskSpec(
        name=name,
        target="medbench.protocols.segmentation:Segmentation",
        summary=f"{what} outlined by a decoder over {how}",
        reference=reference,
        dataset=dataset,
        needs=frozenset({"image.pyramid"}),
        primary_metric="dice",
        given=given,
    )


def _specs() -> Iterator[TaskSpec]:
    for name, (what, reference, dataset, given) in _SETS.items():
        frozen = "the frozen encoder's feature maps"
        yield _spec(f"{name}_seg", what, reference, dataset, given, frozen)
        larger = {**given, "side": 512}  # as GLoRIA and SISTA
        yield _spec(f"{name}_seg@512", what, reference, dataset, larger, f"{frozen}, films of 512 px")
        learns = {**given, "frozen": False}
        yield _spec(f"{name}_seg_ft", what, reference, dataset, learns, "an encoder that learns with it")
    yield _spec(
        "seg:table",
        "masks of anyone's films",
        _MGCA,
        "table",
        {"split": "tested", "mgca_batch": 16},
        "the frozen encoder's feature maps",
    )


TASKS: tuple[TaskSpec, ...] = tuple(_specs())
