"""M-FLAG (Liu et al., MICCAI 2023, arXiv 2307.08347): the ResNet (`_encoder.pth`), or all of it (`_total.pth`)."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="M-FLAG, ResNet-50",
            source="github.com/cheliu-computation/M-FLAG-MICCAI2023 (utils/utils_builder.py, utils/utils_dataset.py)",
            corpus="MIMIC-CXR, frontal",
            config=ReleasedConfig(backbone="resnet50"),
            groups=("", "state_dict", "model", "model_state_dict"),
            prefixes=("encoder", ""),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""The projections and the frozen language model are left out."""
