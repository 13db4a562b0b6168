"""LoVT (Müller et al., ECCV 2022, arXiv 2112.02889): Lightning files of the two encoders."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="LoVT, ResNet-50",
            source="github.com/philip-mueller/lovt (src/models/image, src/models/pretraining)",
            corpus="MIMIC-CXR, frontal",
            config=ReleasedConfig(backbone="resnet50", resize=224),
            prefixes=(
                "model_a.encoder.feature_extractor.backbone_layers",
                "encoder_a.feature_extractor.backbone_layers",
                "encoder_a.encoder.feature_extractor.backbone_layers",
                "feature_extractor.backbone_layers",
                "backbone_layers",
            ),
        ),
    ),
)
"""The code normalises by mean and deviation of the corpus where it knows them (they are not published) and by 0.5 and
0.5 else, which is what is done here. The attention pooling over regions is left out: pooled is the mean over layer4."""
