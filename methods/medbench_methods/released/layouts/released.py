"""Any other released encoder: ResNets and ViTs under the names of timm, torchvision or transformers, behind any prefix.

ResNet: He et al., arXiv 1512.03385. ViT: Dosovitskiy et al., arXiv 2010.11929.
"""

from medbench.released import Layout, Release
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder
from medbench_methods.released.names import (
    hugging_face_clip,
    hugging_face_resnet,
    hugging_face_vit,
    openai_clip,
    position_embedding,
    resnet_children,
    torchvision_vit,
)

_RESNET = ReleasedConfig(backbone="resnet50")
_VIT = ReleasedConfig(backbone="vit_base_patch16_224")
_CLIP = ReleasedConfig(backbone="vit_base_patch16_clip_quickgelu_224")
_GROUPS = ("state_dict", "model", "", "model_state_dict", "teacher", "student", "image_encoder")
_UNUSED = {
    r"(fc|head|heads|classifier|fc_norm|pooler|pre_logits)\.": "classifier or pooler",
    r"embeddings\.position_ids": "a counter, no weight",
}


def _layout(name: str, config: ReleasedConfig, anchor: str, **more: object) -> Layout:
    return Layout(
        name=name,
        source="the named library",
        corpus="not stated",
        config=config,
        groups=_GROUPS,
        anchor=anchor,
        unused=_UNUSED,
        **more,  # type: ignore[arg-type]  # other fields of Layout, each of its own type
    )


RELEASE = Release(
    encoder=ReleasedEncoder,
    layouts=(
        _layout("timm or torchvision, ResNet-50", _RESNET, "layer1.0.conv1.weight"),
        _layout("children of a ResNet-50 by number", _RESNET, "4.0.conv1.weight", rename=resnet_children),
        _layout(
            "transformers, ResNet-50",
            _RESNET,
            "embedder.embedder.convolution.weight",
            rename=hugging_face_resnet,
        ),
        _layout("timm, ViT-B/16", _VIT, "patch_embed.proj.weight", reshape=position_embedding),
        _layout(
            "torchvision, ViT-B/16",
            _VIT,
            "conv_proj.weight",
            rename=torchvision_vit,
            reshape=position_embedding,
        ),
        _layout(
            "transformers, ViT-B/16",
            _VIT,
            "embeddings.patch_embeddings.projection.weight",
            rename=hugging_face_vit,
            reshape=position_embedding,
        ),
        _layout(
            "OpenAI CLIP, ViT-B/16",
            _CLIP,
            "transformer.resblocks.0.ln_1.weight",
            rename=openai_clip,
            reshape=position_embedding,
        ),
        _layout(
            "transformers, CLIP ViT-B/16",
            _CLIP,
            "pre_layrnorm.weight",
            rename=hugging_face_clip,
            reshape=position_embedding,
        ),
    ),
)
"""Backbone, size, mean and std are the user's to name (--backbone, --set method.size=...); the defaults are those of
MGCA: 224 px of 256, mean and std 0.5."""
