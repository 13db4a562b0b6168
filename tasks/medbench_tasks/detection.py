"""Detection: which sets, which of their splits, by which detectors. Only declared here."""

from collections.abc import Iterator, Mapping
from typing import Any

from medbench.specs import Provision, TaskSpec

_TARGET = "medbench.protocols.detection:Detection"
_NEEDS: frozenset[Provision] = frozenset({"image.pyramid"})
_MGCA = "protocol of MGCA, arXiv 2210.06044"


def _variants(
    dataset: str, what: str, data: str, split: str, few_lr: float | None = None, most: int | None = None
) -> Iterator[TaskSpec]:
    """The four tasks of a set.

    Args:
        dataset: its name.
        what: that is to be found.
        data: where the set is described.
        split: of the set.
        few_lr: rate with few labels, where it is not that of RSNA.
        most: boxes of a film that MGCA's code trains on.
    """
    shared: dict[str, Any] = {"split": split} | ({} if few_lr is None else {"few_lr": few_lr})
    mgca = shared | ({} if most is None else {"train_boxes": most})
    kinds: tuple[tuple[str, str, str, str, Mapping[str, Any]], ...] = (
        ("", "by a YOLOv3 head over the frozen encoder's maps", _MGCA, "map_40_75", shared),
        (
            "@mgca",
            "by the YOLOv3 head, losses and metric of MGCA's released code, BatchNorm drifting",
            _MGCA,
            "map_mgca",
            mgca | {"detector": "yolov3_mgca"},
        ),
        (
            "@fcos",
            "by an FCOS head, without anchors, over the frozen encoder's maps",
            "FCOS, arXiv 1904.01355",
            "map_40_75",
            shared | {"detector": "fcos"},
        ),
        (
            "_ft",
            "by a YOLOv3 head and an encoder that learns with it",
            "docs/tasks/detection.md",
            "map_40_75",
            shared | {"frozen": False},
        ),
    )
    for suffix, how, reference, metric, given in kinds:
        yield TaskSpec(
            name=f"{dataset}_det{suffix}",
            target=_TARGET,
            summary=f"{what} found {how}",
            reference=f"{reference}; data: {data}",
            dataset=dataset,
            needs=_NEEDS,
            primary_metric=metric,
            version=1
            if suffix
            else 2,  # over a ViT, 1 took maps resampled from its patches, 2 trains a pyramid
            given=given,
        )


TASKS: tuple[TaskSpec, ...] = (
    *_variants("rsna", "pneumonia opacities", "doi:10.1148/ryai.2019180041", "mgca_det", most=10),
    *_variants(
        "object_cxr",
        "foreign objects",
        "https://jfhealthcare.github.io/object-CXR/",
        "mgca",
        few_lr=2.5e-4,
        most=20,
    ),
    *_variants("vindr", "local findings of up to 22 kinds", "doi:10.1038/s41597-022-01498-w", "clean"),
    TaskSpec(
        name="det:table",
        target=_TARGET,
        summary="the boxes of your own table found by a YOLOv3 head over the frozen encoder's maps: det:table:FILE",
        reference="docs/tasks/detection.md",
        dataset="table",
        needs=_NEEDS,
        primary_metric="map_40_75",
        given={"split": "tested"},
    ),
)
