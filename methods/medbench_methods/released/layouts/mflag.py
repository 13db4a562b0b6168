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
            signs={"encoder": "proj_v|proj_t|lm_model"},
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""In `_encoder.pth` nothing tells it from any other ResNet-50, which the report says.
The projections and the frozen language model are left out."""
