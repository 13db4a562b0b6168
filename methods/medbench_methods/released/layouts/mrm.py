"""MRM (Zhou et al., ICLR 2023, arXiv 2301.13155): a dict with `model`, timm's names; BenchX's has a prefix."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import position_embedding

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="MRM, ViT-B/16",
            source="github.com/RL4M/MRM-pytorch (NIH_ChestX-ray/train.py, models_vit.py, utils/data_utils.py)",
            corpus="MIMIC-CXR",
            config=ReleasedConfig(
                backbone="vit_base_patch16_224", resize=224, mean=0.4978, std=0.2449, token_pooling="mean"
            ),
            groups=("model", "state_dict", ""),
            prefixes=("", "vision_encoder.visual"),
            signs={"": "bert"},
            reshape=position_embedding,
            unused={
                r"(decoder|mask_token)": "image decoder",
                r"bert": "report decoder",
                r"(head|fc_norm)\.": "classifier",
            },
        ),
    ),
)
"""Without its report decoder a file could as well be any ViT, MAE's of ImageNet for one, which MRM starts from.
Trained on the mean of the patch tokens, and used that way by its authors."""
