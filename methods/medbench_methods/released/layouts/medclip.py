"""MedCLIP (Wang et al., EMNLP 2022, arXiv 2210.10163): `pytorch_model.bin` of the whole model."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="MedCLIP, ResNet-50",
            source="github.com/RyanWangZf/MedCLIP (medclip/modeling_medclip.py, medclip/constants.py)",
            corpus="CheXpert and MIMIC-CXR",
            config=ReleasedConfig(backbone="resnet50", mean=0.5862785803043838, std=0.27950088968644304),
            groups=("", "state_dict", "model"),
            prefixes=("vision_model.model",),
            unused={r"fc\.": "projection to the joint space (2048 -> 512)"},
        ),
    ),
    refused={
        r"\.embeddings\.patch_embeddings\.": "MedCLIP-ViT, a Swin transformer: no map at stride 2, as pyramids need."
        " Give the authors' file with a ResNet-50."
    },
)
"""The file with a Swin transformer (`MedCLIP-ViT`) is not read: it has no map at stride 2, which pyramids need."""
