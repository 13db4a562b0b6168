"""CXR-CLIP (You et al., MICCAI 2023, arXiv 2310.13292): torch files that are called .tar, with `model` and `config`."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ReleasedConfig,
    ReleasedEncoder,
)

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="CXR-CLIP, ResNet-50",
            source="github.com/Soombit-ai/cxr-clip (cxrclip/model/modules/image_encoder.py, cxrclip/trainer.py)",
            corpus="MIMIC-CXR, in some files with CheXpert and ChestX-ray14",
            config=ReleasedConfig(backbone="resnet50", resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            groups=("model", "state_dict", ""),
            prefixes=("image_encoder.resnet", "image_encoder"),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
    refused={
        r"\.embeddings\.patch_embeddings\.": "a Swin transformer, which has no map at stride 2, as pyramids need."
        " Give the authors' file with a ResNet-50."
    },
)
"""Its code normalises as ImageNet for the ResNet, and by 0.5 for the Swin transformer. The files with a Swin are not
read: it has no map at stride 2, which pyramids need."""
