"""MedKLIP (Wu et al., ICCV 2023, arXiv 2301.02228): a dict with `model`, saved from DistributedDataParallel."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ReleasedConfig,
    ReleasedEncoder,
)
from medbench_methods.released.names import resnet_children

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="MedKLIP, ResNet-50 up to layer3",
            source="github.com/MediaBrain-SJTU/MedKLIP (PreTrain_MedKLIP/models/model_MedKLIP.py, dataset/dataset.py)",
            corpus="MIMIC-CXR",
            config=ReleasedConfig(
                backbone="resnet50", stages=3, resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD
            ),
            groups=("model", "state_dict", ""),
            prefixes=("res_features",),
            rename=resnet_children,
        ),
    ),
)
"""The authors cut the ResNet after layer3, so there is no layer4 to import, and none is made up. The encoder is the net
that they trained: 1024 wide, pooled over layer3, as in their code. Tables in the literature add a fresh layer4 and
train it with the head (github.com/tzcskys/MGCA does), which is another protocol."""
