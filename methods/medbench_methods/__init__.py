"""The methods of medbench, one file each: what `--method` accepts.

To add one, write its file and add it to the list below.
"""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import Fidelity, MethodSpec, Provision

IMAGE: frozenset[Provision] = frozenset({"image.pooled", "image.local", "image.pyramid"})
DUAL: frozenset[Provision] = IMAGE | {"text.pooled", "text.local", "embedding"}


def _released(name: str, summary: str, reference: str, fidelity: Fidelity = "official-code") -> MethodSpec:
    """A method that is not trained here: its image encoder is imported, as `released/layouts/NAME.py` says."""
    return MethodSpec(
        name=name,
        target="medbench_methods.released.encoder:ReleasedEncoder",
        summary=summary,
        reference=reference,
        provides=IMAGE,
        fidelity=fidelity,
        pretrains=False,
        released=f"medbench_methods.released.layouts.{name}:RELEASE",
    )


@hookimpl
def medbench_methods() -> Iterable[MethodSpec]:
    """All built-in methods."""
    return [
        MethodSpec(
            name="random",
            target="medbench_methods.random:Random",
            summary="untrained image encoder: the floor that every method must leave",
            reference="Wang et al., MGCA, NeurIPS 2022 (row 'Random' of its tables)",
            provides=IMAGE,
            fidelity="baseline",
            pretrains=False,
        ),
        MethodSpec(
            name="imagenet",
            target="medbench_methods.imagenet:Imagenet",
            summary="image encoder with ImageNet weights, never pretrained on radiographs",
            reference="Wang et al., MGCA, NeurIPS 2022 (row 'ImageNet' of its tables)",
            provides=IMAGE,
            fidelity="baseline",
            pretrains=False,
            seeded=False,
        ),
        MethodSpec(
            name="clip",
            target="medbench_methods.clip:Clip",
            summary="symmetric image-report InfoNCE",
            reference="Radford et al., CLIP, arXiv 2103.00020; Zhang et al., ConVIRT, arXiv 2010.00747",
            provides=DUAL,
            fidelity="paper",
        ),
        MethodSpec(
            name="convirt",
            target="medbench_methods.convirt:Convirt",
            summary="image-sentence contrast, with the lower half of the text encoder frozen",
            reference="Zhang et al., ConVIRT, arXiv 2010.00747",
            provides=DUAL,
            fidelity="paper",
            released="medbench_methods.released.layouts.convirt:RELEASE",
        ),
        MethodSpec(
            name="gloria",
            target="medbench_methods.gloria:Gloria",
            summary="image-sentence contrast, and words matched with the regions they speak of",
            reference="Huang et al., GLoRIA, ICCV 2021; github.com/marshuang80/gloria",
            provides=DUAL,
            fidelity="official-code",
            released="medbench_methods.released.layouts.gloria:RELEASE",
        ),
        MethodSpec(
            name="mgca",
            target="medbench_methods.mgca:Mgca",
            summary="alignment of instances, of words with patches, and on prototypes",
            reference="Wang et al., MGCA, NeurIPS 2022, arXiv 2210.06044",
            provides=DUAL,
            fidelity="official-code",
            released="medbench_methods.released.layouts.mgca:RELEASE",
        ),
        MethodSpec(
            name="place",
            target="medbench_methods.place:Place",
            summary="pathology-level alignment and correlation exploration over MGCA's alignments",
            reference="Wang et al., PLACE, arXiv 2506.10573",
            provides=DUAL,
            fidelity="reconstruction",
        ),
        MethodSpec(
            name="sista",
            target="medbench_methods.sista:Sista",
            summary="image-report contrast without false negatives, sparse word-patch alignment",
            reference="Bui et al., SISTA, arXiv 2601.08165",
            provides=DUAL,
            fidelity="reconstruction",
        ),
        MethodSpec(
            name="reclf",
            target="medbench_methods.reclf:Reclf",
            summary="contrast by related and by weighted matchings of words and regions",
            reference="Li et al., RECLF, arXiv 2401.10501; IEEE TMI 2025",
            provides=DUAL,
            fidelity="reconstruction",
        ),
        MethodSpec(
            name="mflag",
            target="medbench_methods.mflag:Mflag",
            summary="alignment to a frozen language model, orthogonal image features",
            reference="Liu et al., M-FLAG, MICCAI 2023, arXiv 2307.08347",
            provides=DUAL,
            fidelity="official-code",
            released="medbench_methods.released.layouts.mflag:RELEASE",
        ),
        MethodSpec(
            name="mrm",
            target="medbench_methods.mrm:Mrm",
            summary="masked record modelling: hidden patches and words told from the visible patches",
            reference="Zhou et al., MRM, ICLR 2023, arXiv 2301.13155",
            provides=IMAGE,
            fidelity="official-code",
            released="medbench_methods.released.layouts.mrm:RELEASE",
        ),
        _released(
            "medclip",
            "released encoder: image-report contrast with soft targets from labels, ResNet-50 or Swin-T",
            "Wang et al., MedCLIP, EMNLP 2022, arXiv 2210.10163",
        ),
        _released(
            "medklip",
            "released encoder: queries for findings over a ResNet-50 up to layer3",
            "Wu et al., MedKLIP, ICCV 2023, arXiv 2301.02228",
        ),
        _released(
            "refers",
            "released encoder: report generation and study-report contrast, ViT-B/16",
            "Zhou et al., REFERS, Nature Machine Intelligence 2022, arXiv 2111.03452",
        ),
        _released(
            "ptunifier",
            "released encoder: soft prompts over CLIP's ViT-B/16",
            "Chen et al., PTUnifier, ICCV 2023, arXiv 2302.08958",
        ),
        _released(
            "kad",
            "released encoder: contrast with a text encoder that knows UMLS, ResNet-50",
            "Zhang et al., KAD, Nature Communications 2023, arXiv 2302.14042",
        ),
        _released(
            "cxr_clip",
            "released encoder: several views and texts of a study contrasted, ResNet-50 or Swin-T",
            "You et al., CXR-CLIP, MICCAI 2023, arXiv 2310.13292",
        ),
        _released(
            "sat",
            "released encoder: contrast with triage of negatives by report similarity, ResNet-50",
            "Liu et al., SAT, IEEE TMI 2023",
        ),
        _released(
            "biovil",
            "released encoder: contrast with CXR-BERT at 480 px, ResNet-50",
            "Boecking et al., BioViL, ECCV 2022, arXiv 2204.09817",
        ),
        _released(
            "lovt",
            "released encoder: regions and sentences of a pair contrasted, ResNet-50",
            "Müller et al., LoVT, ECCV 2022, arXiv 2112.02889",
        ),
        _released(
            "prior",
            "released encoder: sentence prototypes and reconstruction, ResNet-50",
            "Cheng et al., PRIOR, ICCV 2023, arXiv 2307.12577",
        ),
        _released(
            "released",
            "any released ResNet or ViT under the names of timm, torchvision or transformers",
            "the file that is imported",
            fidelity="baseline",
        ),
    ]
