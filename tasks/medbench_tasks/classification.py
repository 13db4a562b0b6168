"""Classification: which sets, which of their splits and labels, by which protocols. Only declared here."""

from medbench.specs import TaskSpec

TASKS: tuple[TaskSpec, ...] = (
    TaskSpec(
        name="rsna_lp",
        target="medbench.protocols.linear_probe:LinearProbe",
        summary="pneumonia told by a logistic regression on the frozen encoder's pooled features",
        reference="split of MGCA, arXiv 2210.06044; data: doi:10.1148/ryai.2019180041",
        dataset="rsna",
        needs=frozenset({"image.pooled"}),
        primary_metric="auroc",
        given={"split": "mgca_cls", "classes": ("pneumonia",)},
    ),
    TaskSpec(
        name="lp:table",
        target="medbench.protocols.linear_probe:LinearProbe",
        summary="the labels of your own table told by a logistic regression on pooled features: lp:table:FILE",
        reference="docs/tasks/classification.md",
        dataset="table",
        needs=frozenset({"image.pooled"}),
        primary_metric="macro_auroc",
        given={"split": "tested"},
    ),
)
