"""MedCLIP (Wang et al., EMNLP 2022, arXiv 2210.10163): `pytorch_model.bin` of the whole model."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import hugging_face_swin

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="MedCLIP, ResNet-50",
            source="github.com/RyanWangZf/MedCLIP (medclip/modeling_medclip.py, medclip/constants.py)",
            corpus="CheXpert and MIMIC-CXR",
            config=ReleasedConfig(backbone="resnet50", mean=0.5862785803043838, std=0.27950088968644304),
            groups=("", "state_dict", "model"),
            prefixes=("vision_model.model",),
            unused={r"fc\.": "projection to the joint space (2048 -> 512)"},
        ),
        Layout(
            name="MedCLIP-ViT, Swin-T",
            source="github.com/RyanWangZf/MedCLIP (medclip/modeling_medclip.py, medclip/constants.py)",
            corpus="CheXpert and MIMIC-CXR",
            config=ReleasedConfig(
                backbone="swin_tiny_patch4_window7_224", mean=0.5862785803043838, std=0.27950088968644304
            ),
            groups=("", "state_dict", "model"),
            prefixes=("vision_model.model",),
            rename=hugging_face_swin,
            unused={
                r".*relative_position_index": "an index, no weight",
                r"(projection_head|pooler)\.": "projection to the joint space",
            },
        ),
    ),
)
"""MedCLIP-ViT is the Swin transformer of transformers, in its names; see `released/swin.py` for its pyramid."""
