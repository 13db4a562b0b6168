"""Built-in datasets and tasks of medbench. Declared here, imported when they are used."""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import DatasetSpec, TaskSpec

_RSNA = (
    "G. Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert "
    "Annotations of Possible Pneumonia, Radiology: AI 2019, doi:10.1148/ryai.2019180041"
)


@hookimpl
def medbench_datasets() -> Iterable[DatasetSpec]:
    """Real folder layouts, and the phantom twin of each."""
    yield DatasetSpec(
        name="mimic_cxr",
        target="medbench_tasks.datasets.mimic_cxr:MimicCxr",
        summary="chest radiographs with reports and CheXpert labels; the usual pretraining corpus",
        reference="A. Johnson et al., MIMIC-CXR, Scientific Data 2019, doi:10.1038/s41597-019-0322-0",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        access="https://physionet.org/content/mimic-cxr-jpg/",
        credentialed=True,
        official_size=377_110,
        paired=True,
        phantom="medbench.phantom.mimic_cxr:write",
        phantom_patients={"default": 1_500, "micro": 80},
    )
    yield DatasetSpec(
        name="rsna",
        target="medbench_tasks.datasets.rsna:Rsna",
        summary="RSNA Pneumonia Detection Challenge 2018: films with boxes around pneumonia opacities",
        reference=_RSNA,
        licence="RSNA terms of use: attribution, no commercial use without permission",
        access="https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018",
        official_size=26_684,
        phantom="medbench.phantom.rsna:write",
        phantom_patients={"default": 5_000, "micro": 150},
    )
    yield DatasetSpec(
        name="openi",
        target="medbench_tasks.datasets.openi:OpenI",
        summary="Indiana University chest X-rays (Open-i): films with reports and MeSH headings",
        reference="D. Demner-Fushman et al., JAMIA 2016, doi:10.1093/jamia/ocv080",
        licence="CC BY-NC-ND 4.0",
        access="https://openi.nlm.nih.gov/faq",
        official_size=7_470,
        paired=True,
        phantom="medbench.phantom.openi:write",
        phantom_patients={"default": 1_500, "micro": 80},
    )
    yield DatasetSpec(
        name="padchest",
        target="medbench_tasks.datasets.padchest:PadChest",
        summary="PadChest: films of one Spanish hospital with reports in Spanish and findings by name",
        reference="A. Bustos et al., Medical Image Analysis 2020, doi:10.1016/j.media.2020.101797",
        licence="PadChest Dataset Research Use Agreement",
        access="https://bimcv.cipf.es/bimcv-projects/padchest/",
        credentialed=True,
        official_size=160_861,
        paired=True,
        phantom="medbench.phantom.padchest:write",
        phantom_patients={"default": 1_500, "micro": 80},
    )
    yield DatasetSpec(
        name="table",
        target="medbench_tasks.datasets.table:Table",
        summary="your own films: a CSV or parquet file of paths, with reports, labels or boxes if there are any",
        reference="medbench_tasks/datasets/table.py",
        licence="yours",
        paired=True,
    )


@hookimpl
def medbench_tasks() -> Iterable[TaskSpec]:
    """What an encoder is scored on."""
    yield TaskSpec(
        name="rsna_det",
        target="medbench_tasks.detection:RsnaDetection",
        summary="pneumonia opacities found by a YOLOv3 head over the frozen encoder's feature maps",
        reference=f"protocol of MGCA, arXiv 2210.06044; data: {_RSNA}",
        dataset="rsna",
        needs=frozenset({"image.pyramid"}),
        primary_metric="map_40_75",
    )
    yield TaskSpec(
        name="rsna_lp",
        target="medbench_tasks.classification:RsnaLinearProbe",
        summary="pneumonia told by a logistic regression on the frozen encoder's pooled features",
        reference=f"split of MGCA, arXiv 2210.06044; data: {_RSNA}",
        dataset="rsna",
        needs=frozenset({"image.pooled"}),
        primary_metric="auroc",
    )
