"""MGCA (Wang et al., NeurIPS 2022, arXiv 2210.06044): Lightning files with the whole model, ResNet-50 and ViT-B/16."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import position_embedding

_SOURCE = "github.com/HKU-MedAI/MGCA (mgca/models/backbones/encoder.py, mgca/datasets/transforms.py)"
_CORPUS = "MIMIC-CXR 2.0.0, frontal"

RELEASE = Release(
    encoder=ReleasedEncoder,
    whole="medbench_methods.released.mgca",
    layouts=(
        Layout(
            name="MGCA, ResNet-50",
            source=_SOURCE,
            corpus=_CORPUS,
            config=ReleasedConfig(backbone="resnet50", upsample=299),
            prefixes=("img_encoder_q.model",),
        ),
        Layout(
            name="MGCA, ViT-B/16",
            source=_SOURCE,
            corpus=_CORPUS,
            config=ReleasedConfig(backbone="deit_base_patch16_224"),
            prefixes=("img_encoder_q.model",),
            reshape=position_embedding,
            unused={r"head\.": "classifier of its initialisation"},
        ),
    ),
)
"""With `--part image` the projection heads, the text encoder and the prototypes are left out."""
