"""CXR-CLIP (You et al., MICCAI 2023, arXiv 2310.13292): torch files that are called .tar, with `model` and `config`."""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ReleasedConfig,
    ReleasedEncoder,
)
from medbench_methods.released.names import hugging_face_swin

RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        Layout(
            name="CXR-CLIP, ResNet-50",
            source="github.com/Soombit-ai/cxr-clip (cxrclip/model/modules/image_encoder.py, cxrclip/trainer.py)",
            corpus="MIMIC-CXR, in some files with CheXpert and ChestX-ray14",
            config=ReleasedConfig(backbone="resnet50", resize=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            groups=("model", "state_dict", ""),
            prefixes=("image_encoder.resnet", "image_encoder"),
            unused={r"fc\.": "ImageNet classifier"},
        ),
        Layout(
            name="CXR-CLIP, Swin-T",
            source="github.com/Soombit-ai/cxr-clip (cxrclip/model/modules/image_encoder.py, cxrclip/trainer.py)",
            corpus="MIMIC-CXR, in some files with CheXpert and ChestX-ray14",
            config=ReleasedConfig(backbone="swin_tiny_patch4_window7_224", resize=224),
            groups=("model", "state_dict", ""),
            prefixes=("image_encoder.image_encoder", "image_encoder"),
            rename=hugging_face_swin,
            unused={
                r".*relative_position_index": "an index, no weight",
                r"(projection_head|pooler)\.": "projection to the joint space",
            },
        ),
    ),
)
"""Its code normalises as ImageNet for the ResNet, and by 0.5 for the Swin transformer. A Swin is that
of transformers, in its names; see `released/swin.py` for its pyramid."""
