"""SAT (Liu et al., semantics-aware triage, IEEE TMI 2023): a state dict, saved from DistributedDataParallel."""

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
            name="SAT, ResNet-50",
            source="github.com/liubo105/SAT (models/contras_model.py, modules/contras_data.py)",
            corpus="MIMIC-CXR",
            config=ReleasedConfig(backbone="resnet50", resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            groups=("", "model", "state_dict"),
            prefixes=("img_encoder",),
            unused={r"fc\.": "projection to the joint space (an MLP in the place of the classifier)"},
        ),
    ),
)
