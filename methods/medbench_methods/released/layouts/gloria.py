"""GLoRIA (Huang et al., ICCV 2021): Lightning files with the whole model. BenchX (arXiv 2410.21969) kept the names."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    whole="medbench_methods.released.gloria",
    layouts=(
        Layout(
            name="GLoRIA, ResNet-50",
            source="github.com/marshuang80/gloria (gloria/models/vision_model.py); mean and std 0.5 of its config",
            corpus="CheXpert, impressions",
            config=ReleasedConfig(backbone="resnet50", upsample=299),
            prefixes=("gloria.img_encoder.model", "img_encoder.model"),
            unused={r"fc\.": "ImageNet classifier"},
        ),
    ),
)
"""With `--part image` its two embedders and the text encoder are left out."""
