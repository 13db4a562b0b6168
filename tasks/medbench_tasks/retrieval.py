"""Retrieval: which sets of films and reports. Only declared here; the protocol is `medbench.protocols.retrieval`."""

from collections.abc import Sequence
from typing import Any

from medbench.specs import Provision, TaskSpec

_COMPETITION = ("atelectasis", "cardiomegaly", "consolidation", "edema", "pleural_effusion")
_NEEDS: frozenset[Provision] = frozenset({"text.pooled", "embedding"})


def _retrieval(
    dataset: str,
    summary: str,
    reference: str,
    split: str,
    classes: Sequence[str] | None = _COMPETITION,
    reports: str = "",
) -> TaskSpec:
    """A task that trains nothing; its primary metric is by class where classes are named."""
    given: dict[str, Any] = {"split": split}
    if classes is not None:
        given["classes"] = tuple(classes)
    if reports:
        given["reports"] = reports
    return TaskSpec(
        name="ret:table" if dataset == "table" else f"{dataset}_ret",
        target="medbench.protocols.retrieval:Retrieval",
        summary=summary,
        reference=reference,
        dataset=dataset,
        needs=_NEEDS,
        primary_metric="i2t_p_at_1" if classes else "i2t_r_at_1",
        fractions=(),
        given=given,
    )


TASKS: tuple[TaskSpec, ...] = (
    _retrieval(
        "mimic_5x200",
        "films of MIMIC-CXR with one finding each, and their reports, found by each other",
        "as in GLoRIA, ICCV 2021, and MedCTA; data: doi:10.1038/s41597-019-0322-0",
        # Films and reports that no method has seen together; papers draw from all parts (split `all_parts`).
        "clean",
    ),
    _retrieval(
        "chexpert_5x200",
        "CheXpert 5x200 and the reports of CheXpert Plus, found by each other",
        "GLoRIA, ICCV 2021; reports: CheXpert Plus, arXiv 2405.19538",
        "mgca",
        reports="df_chexpert_plus_240401.csv",
    ),
    _retrieval(
        "openi",
        "films of Indiana University and their reports, found by each other",
        "recall as in CXR-CLIP, arXiv 2310.13292; data: doi:10.1093/jamia/ocv080",
        "patient_70_10_20",
        classes=(),  # its labels do not exclude each other
    ),
    _retrieval(
        "table",
        "films of your own table and their reports, found by each other: ret:table:FILE",
        "docs/tasks/retrieval.md",
        "tested",
        classes=None,  # the protocol looks whether its labels are classes
    ),
)
