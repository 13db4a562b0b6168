"""The methods of medbench, one file each: what `--method` accepts.

To add one, write its file and add it to the list below.
"""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import MethodSpec, Provision

IMAGE: frozenset[Provision] = frozenset({"image.pooled", "image.local", "image.pyramid"})
DUAL: frozenset[Provision] = IMAGE | {"text.pooled", "text.local", "embedding"}


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
            name="place",
            target="medbench_methods.place:Place",
            summary="pathology-level alignment and correlation exploration over MGCA's alignments",
            reference="Wang et al., PLACE, arXiv 2506.10573",
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
        ),
        MethodSpec(
            name="mrm",
            target="medbench_methods.mrm:Mrm",
            summary="masked record modelling: hidden patches and words told from the visible patches",
            reference="Zhou et al., MRM, ICLR 2023, arXiv 2301.13155",
            provides=IMAGE,
            fidelity="official-code",
        ),
    ]
