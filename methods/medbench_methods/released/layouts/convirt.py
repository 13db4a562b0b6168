"""ConVIRT (Zhang et al., arXiv 2010.00747) as BenchX (arXiv 2410.21969) retrained and released it."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="ConVIRT of BenchX, ResNet-50",
            source="github.com/yangzhou12/BenchX (preprocess/model_converters/medvlm2mmseg.py, models/convirt)",
            corpus="MIMIC-CXR 2.0.0, frontal (BenchX's training split)",
            config=ReleasedConfig(backbone="resnet50", upsample=299),
            prefixes=("visual.model", "img_encoder.model"),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""The authors of the paper released no weights. Films as in MGCA, whose encoder BenchX's code holds."""
