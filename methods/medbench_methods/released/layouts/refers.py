"""REFERS (Zhou et al., Nature Machine Intelligence 2022, arXiv 2111.03452): ViT-B/16, as .pth or .npz."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ReleasedConfig,
    ReleasedEncoder,
)
from medbench_methods.released.names import jax_vit, position_embedding, refers

_CONFIG = ReleasedConfig(backbone="vit_base_patch16_224", resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
_SOURCE = "github.com/funnyzhou/REFERS (Pre-train/refers/modules/VisionTransformer.py, Fine-tune/*/utils/data_utils.py)"

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="REFERS, ViT-B/16 (.pth)",
            source=_SOURCE,
            corpus="MIMIC-CXR",
            config=_CONFIG,
            groups=("", "model", "state_dict"),
            prefixes=(
                "transformer",
                "visual.transformer",
                "visual.vit.transformer",
                "visual.vit",
                "vit.transformer",
                "",
            ),
            rename=refers,
            reshape=position_embedding,
            unused={r"head\.": "classifier"},
        ),
        Layout(
            name="REFERS, ViT-B/16 (.npz)",
            source=_SOURCE,
            corpus="MIMIC-CXR",
            config=_CONFIG,
            groups=("",),
            prefixes=("",),
            rename=jax_vit,
            reshape=position_embedding,
            unused={r"(head|pre_logits)/": "classifier of its initialisation"},
        ),
    ),
)
"""Queries, keys and values are apart in both and are joined. The `ViT-B_16.npz` that the authors start from has the
same names as a .npz of theirs: it is ImageNet's, and nothing in it tells."""
