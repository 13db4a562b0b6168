"""KAD (Zhang et al., Nature Communications 2023, arXiv 2302.14042): a dict with a state dict a tower."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ReleasedConfig,
    ReleasedEncoder,
)
from medbench_methods.released.names import resnet_children

_SOURCE = "github.com/xiaoman-zhang/KAD (A3_CLIP/models/clip_tqn.py, A3_CLIP/dataset/test_dataset.py)"
_UNUSED = {r"res_l[12]\.": "projection to the joint space"}

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="KAD-512 and KAD-1024, ResNet-50",
            source=_SOURCE,
            corpus="MIMIC-CXR",
            config=ReleasedConfig(
                backbone="resnet50", size=512, resize=512, mean=IMAGENET_MEAN, std=IMAGENET_STD
            ),
            groups=("image_encoder",),
            prefixes=("res_features",),
            rename=resnet_children,
            unused=_UNUSED,
        ),
        Layout(
            name="KAD-224, ResNet-50 up to layer3",
            source=_SOURCE,
            corpus="MIMIC-CXR",
            config=ReleasedConfig(
                backbone="resnet50", stages=3, resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD
            ),
            groups=("image_encoder",),
            prefixes=("res_features",),
            rename=resnet_children,
            unused=_UNUSED,
        ),
    ),
)
"""Beside `res_features` a file holds `resnet.*`, the same tensors once more and what the authors' encoder does not use.
At 224 px that is layer4, which is still ImageNet's: names that look like a whole ResNet-50, of which the last stage
never saw a radiograph. It is therefore not taken; see MedKLIP. For KAD-1024 add --set method.size=1024 --set
method.resize=1024."""
