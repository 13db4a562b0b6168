"""BioViL (Boecking et al., ECCV 2022, arXiv 2204.09817): the state dict of hi-ml-multimodal's `ImageModel`."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="BioViL, ResNet-50",
            source="github.com/microsoft/hi-ml (hi-ml-multimodal, image/model/model.py, image/data/transforms.py)",
            corpus="MIMIC-CXR",
            config=ReleasedConfig(backbone="resnet50", size=480, resize=512, mean=0.0, std=1.0),
            groups=("", "state_dict", "model"),
            prefixes=("encoder.encoder",),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""Its films are not normalised: grey values go in as they are, in [0, 1]. The 128-wide projector is left out.
BioViL-T's file has the same names and a ViT on top, which is left out as well."""
