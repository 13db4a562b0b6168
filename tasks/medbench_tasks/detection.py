"""Detection: which sets, which of their splits, by which detectors. Only declared here."""

from medbench.specs import TaskSpec

TASKS: tuple[TaskSpec, ...] = (
    TaskSpec(
        name="rsna_det",
        target="medbench.protocols.detection:FrozenDetection",
        summary="pneumonia opacities found by a YOLOv3 head over the frozen encoder's feature maps",
        reference="protocol of MGCA, arXiv 2210.06044; data: doi:10.1148/ryai.2019180041",
        dataset="rsna",
        needs=frozenset({"image.pyramid"}),
        primary_metric="map_40_75",
        given={"split": "mgca_det"},
    ),
)
