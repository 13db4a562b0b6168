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
            name="mgca",
            target="medbench_methods.mgca:Mgca",
            summary="alignment of instances, of words with patches, and on prototypes",
            reference="Wang et al., MGCA, NeurIPS 2022, arXiv 2210.06044",
            provides=DUAL,
            fidelity="official-code",
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
    ]
