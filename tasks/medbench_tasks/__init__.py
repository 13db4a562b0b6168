"""Built-in datasets and tasks of medbench. Declared here, imported when they are used."""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import DatasetSpec, TaskSpec
from medbench_tasks import classification, detection, retrieval, segmentation, zero_shot

_RSNA = (
    "G. Shih et al., Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert "
    "Annotations of Possible Pneumonia, Radiology: AI 2019, doi:10.1148/ryai.2019180041"
)
_CHEXPERT = "J. Irvin et al., CheXpert, AAAI 2019, arXiv 1901.07031"


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
        title="MIMIC-CXR",
    )
    yield DatasetSpec(
        name="chexpert",
        target="medbench_tasks.datasets.chexpert:Chexpert",
        summary="CheXpert v1.0, original or small: the five labels of its competition; reports of CheXpert Plus",
        reference=_CHEXPERT,
        licence="Stanford University Dataset Research Use Agreement: research, no redistribution",
        access="https://stanfordmlgroup.github.io/competitions/chexpert/",
        credentialed=True,
        official_size=223_648,
        paired=True,
        phantom="medbench.phantom.chexpert:write",
        phantom_patients={"default": 1_500, "micro": 80},
        title="CheXpert",
    )
    yield DatasetSpec(
        name="chexpert_5x200",
        target="medbench_tasks.datasets.chexpert_5x200:Chexpert5x200",
        summary="a thousand films of CheXpert, two hundred with each finding of the competition alone",
        reference=f"S.-C. Huang et al., GLoRIA, ICCV 2021; data: {_CHEXPERT}",
        licence="Stanford University Dataset Research Use Agreement: research, no redistribution",
        access="https://stanfordmlgroup.github.io/competitions/chexpert/",
        credentialed=True,
        official_size=1_000,
        within="chexpert",
        phantom="medbench.phantom.chexpert_5x200:write",
        phantom_patients={"default": 1_500, "micro": 150},
    )
    yield DatasetSpec(
        name="mimic_5x200",
        target="medbench_tasks.datasets.mimic_5x200:Mimic5x200",
        summary="studies of MIMIC-CXR, two hundred with each finding of CheXpert's competition alone",
        reference="S.-C. Huang et al., GLoRIA, ICCV 2021; data: A. Johnson et al., MIMIC-CXR, Scientific Data 2019",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        access="https://physionet.org/content/mimic-cxr-jpg/",
        credentialed=True,
        official_size=1_000,
        within="mimic_cxr",
        phantom="medbench.phantom.mimic_5x200:write",
        phantom_patients={"default": 1_500, "micro": 300},
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
        films_of={"nih": "G. Shih et al., Radiology: AI 2019, doi:10.1148/ryai.2019180041"},
    )
    yield DatasetSpec(
        name="siim",
        target="medbench_tasks.datasets.siim:Siim",
        summary="SIIM-ACR Pneumothorax Segmentation 2019: films with outlines of pneumothorax",
        reference="S. Zawacki et al., SIIM-ACR Pneumothorax Segmentation, Kaggle 2019",
        licence="terms of the Kaggle competition: no commercial use, no redistribution",
        access="https://www.kaggle.com/c/siim-acr-pneumothorax-segmentation",
        official_size=12_047,
        phantom="medbench.phantom.siim:write",
        phantom_patients={"default": 1_500, "micro": 120},
        films_of={"nih": "R. W. Filice et al., J. Digit. Imaging 2020, doi:10.1007/s10278-019-00299-9"},
    )
    yield DatasetSpec(
        name="covidx",
        target="medbench_tasks.datasets.covidx:Covidx",
        summary="COVIDx: normal, pneumonia, COVID-19 (version 9A), or COVID-19 or not (CXR-4)",
        reference="L. Wang et al., COVID-Net, Scientific Reports 2020, arXiv 2003.09871; CXR-4: arXiv 2311.17677",
        licence="those of its sources, some of them non-commercial",
        access="https://www.kaggle.com/datasets/andyczhao/covidx-cxr2",
        official_size=30_386,
        phantom="medbench.phantom.covidx:write",
        phantom_patients={"default": 1_500, "micro": 100},
        films_of={"rsna": "L. Wang et al., Scientific Reports 2020, arXiv 2003.09871"},
    )
    yield DatasetSpec(
        name="object_cxr",
        target="medbench_tasks.datasets.object_cxr:ObjectCxr",
        summary="Object-CXR 2020: films with foreign objects in boxes, ellipses and polygons",
        reference="JF Healthcare, object-CXR, MIDL 2020, https://jfhealthcare.github.io/object-CXR/",
        licence="CC BY-NC 4.0 as its mirrors state it",
        access="https://academictorrents.com/details/fdc91f11d7010f7259a05403fc9d00079a09f5d5",
        official_size=9_000,
        phantom="medbench.phantom.object_cxr:write",
        phantom_patients={"default": 1_800, "micro": 126},
    )
    yield DatasetSpec(
        name="nih",
        target="medbench_tasks.datasets.nih:Nih",
        summary="NIH ChestX-ray14: fourteen labels read off reports, boxes for 880 films",
        reference="X. Wang et al., ChestX-ray8, CVPR 2017, pp. 3462-3471, arXiv 1705.02315",
        licence="no restriction on use; the NIH Clinical Center is to be named as the source",
        access="https://nihcc.app.box.com/v/ChestXray-NIHCC",
        official_size=112_120,
        phantom="medbench.phantom.nih:write",
        phantom_patients={"default": 1_500, "micro": 100},
        title="ChestX-ray14",
    )
    yield DatasetSpec(
        name="vindr",
        target="medbench_tasks.datasets.vindr:VinDr",
        summary="VinDr-CXR: films with boxes of 22 findings, three readers or a consensus of five",
        reference="H. Q. Nguyen et al., VinDr-CXR, Scientific Data 2022, doi:10.1038/s41597-022-01498-w",
        licence="PhysioNet Credentialed Health Data License 1.5.0",
        access="https://physionet.org/content/vindr-cxr/1.0.0/",
        credentialed=True,
        official_size=18_000,
        phantom="medbench.phantom.vindr:write",
        phantom_patients={"default": 1_500, "micro": 120},
        title="VinDr-CXR",
    )
    yield DatasetSpec(
        name="tbx11k",
        target="medbench_tasks.datasets.tbx11k:Tbx11k",
        summary="TBX11K: healthy, sick and tuberculosis films, boxes around active and latent tuberculosis",
        reference="Y. Liu et al., Rethinking Computer-Aided Tuberculosis Diagnosis, CVPR 2020",
        licence="the authors' terms: research and education only",
        access="https://mmcheng.net/tb/",
        official_size=8_400,
        phantom="medbench.phantom.tbx11k:write",
        phantom_patients={"default": 1_600, "micro": 140},
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
        title="PadChest",
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
    yield from classification.TASKS
    yield from detection.TASKS
    yield from segmentation.TASKS
    yield from retrieval.TASKS
    yield from zero_shot.TASKS
