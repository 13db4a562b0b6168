"""Detection tasks."""

from typing import ClassVar

from medbench.protocols.detection import FrozenDetection


class RsnaDetection(FrozenDetection):
    """Pneumonia boxes of the RSNA challenge; all patients, split as in MGCA's released code."""

    split: ClassVar[str] = "mgca_det"
