"""ConVIRT (Zhang et al., arXiv 2010.00747) as BenchX (arXiv 2410.21969) retrained and released it."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="ConVIRT of BenchX, ResNet-50",
            source="github.com/yangzhou12/BenchX (unifier/models/vilmedic/ConVIRT.py, config/pretrain)",
            corpus="MIMIC-CXR 2.0.0, frontal (BenchX's training split)",
            config=ReleasedConfig(backbone="resnet50"),
            prefixes=("visual.model",),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""The authors of the paper released no weights. BenchX's is torchvision's ResNet-50 in a wrapper of ViLMedic's, at
224 px of 256, not enlarged. Mean and standard deviation are ambiguous: BenchX's transforms have 0.5 in one stored
version of the code and ImageNet's in another, and which of them the weights saw is not said. 0.5 is taken;
`--set "method.mean=(0.485,0.456,0.406)" --set "method.std=(0.229,0.224,0.225)"` gives the other."""
