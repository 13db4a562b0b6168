"""PTUnifier (Chen et al., ICCV 2023, arXiv 2302.08958): Lightning files, with the image tower of OpenAI's CLIP."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import openai_clip, position_embedding

_SOURCE = (
    "github.com/zhjohnchan/PTUnifier (ptunifier/models/vision_encoders/clip_model.py, datasets/transforms)"
)
_CORPUS = "ROCO, MediCaT and MIMIC-CXR"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="PTUnifier, CLIP ViT-B/16, 11 blocks",
            source=_SOURCE,
            corpus=_CORPUS,
            config=ReleasedConfig(
                backbone="vit_base_patch16_clip_quickgelu_224",
                depth=11,
                resize=224,
                mean=_MEAN,
                std=_STD,
            ),
            groups=("state_dict", "model", ""),
            prefixes=("vision_encoder.visual", "vision_encoder", ""),
            rename=openai_clip,
            reshape=position_embedding,
            unused={
                r"proj$": "projection to CLIP's joint space",
                r"(token_embedding|ln_final|text_projection|logit_scale)": "text tower of CLIP",
            },
        ),
    ),
)
"""The authors' code builds one transformer block less than CLIP has, so their files hold 11. A net with 12 is OpenAI's
and is refused. BenchX (github.com/yangzhou12/BenchX, medvlm2mmseg.py) reads the names without a prefix."""
