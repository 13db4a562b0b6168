"""PRIOR (Cheng et al., ICCV 2023, arXiv 2307.12577): Lightning files; its ResNet-50 takes films of one channel."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import grey_stem

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="PRIOR, ResNet-50",
            source="github.com/QtacierP/PRIOR (codes/prior/encoders/image/resnet.py, data/pretrain/mimiccxr.py)",
            corpus="MIMIC-CXR, frontal",
            config=ReleasedConfig(backbone="resnet50", resize=224, mean=0.4755, std=0.3011),
            prefixes=("image_encoder.encoder",),
            reshape=grey_stem,
            stored={"conv1.weight": (64, 1, 7, 7)},
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""A net of three channels is not PRIOR's and is refused.
The attention pooling is left out: pooled is the mean over layer4."""
