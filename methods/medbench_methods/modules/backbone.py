"""A net of timm for an image config. Imported where one is built: timm takes seconds."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import timm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from medbench.errors import UsageError, WeightsError
from medbench_methods.modules.image_encoder import STRIDES, ImageConfig
from medbench_methods.modules.imagenet_weights import check_covers
from medbench_methods.modules.load_reports import without_load_report


def is_vit(backbone: str) -> bool:
    """Whether timm's name is that of a ViT."""
    return bool(timm.models.is_model_in_modules(backbone, ["vision_transformer", "deit"]))


def make_backbone(
    config: ImageConfig, *, weights: bool, offline: bool, state: Mapping[str, Tensor] | None
) -> Any:
    """Build what the config names.

    Args:
        config: what to build.
        weights: load ImageNet weights if the config asks for them.
        offline: take them from the local cache only.
        state: these weights, under timm's names; None for those of timm's hub.

    Returns:
        A model of timm, which is not typed: a `VisionTransformer` without a head, or a CNN that gives its maps at
        `STRIDES`.

    Raises:
        UsageError: timm has no such backbone, or it is neither a ViT with 16 px patches nor a CNN with the strides.
        WeightsError: the ImageNet weights can not be had, or `state` does not cover the backbone.
    """
    _check_name(config.backbone)
    vit = is_vit(config.backbone)
    shape = _shape(config, vit)
    overlay: dict[str, Any] | None = None
    if weights and config.pretrained and state is not None:
        check_covers(state, config.backbone, shape, "ImageNet weights")
        overlay = {"state_dict": dict(state)}
    elif weights and config.pretrained:
        overlay = {"file": _imagenet_weights(config.backbone, offline)}
    body: Any
    if vit:
        body = timm.create_model(
            config.backbone,
            pretrained=overlay is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=0,
            img_size=config.size,
            dynamic_img_size=True,  # resizes its position embedding for other sizes
            **shape,
        )
        _check_vit(body, config.backbone)
    else:
        with without_load_report("timm.models._builder"):  # layers after the last map
            body = timm.create_model(
                config.backbone,
                pretrained=overlay is not None,
                pretrained_cfg_overlay=overlay,
                features_only=True,
                **shape,
            )
        strides = tuple(body.feature_info.reduction())
        if strides != STRIDES:
            raise UsageError(
                f"backbone {config.backbone!r} has maps at strides {strides}; expected {STRIDES}. "
                "Choose a ResNet or another CNN with five stages."
            )
    return body


def _check_vit(body: Any, backbone: str) -> None:
    patch = getattr(getattr(body, "patch_embed", None), "patch_size", None)
    token = getattr(body, "cls_token", None)
    if not isinstance(body, VisionTransformer) or patch != (16, 16) or token is None:
        raise UsageError(
            f"backbone {backbone!r} has patches of {patch} and {'no' if token is None else 'a'} CLS token; "
            "expected 16 px patches and a CLS token, as vit_base_patch16_224 has."
        )


def _shape(config: ImageConfig, vit: bool) -> dict[str, Any]:
    """What the named net is built with where the config has values of its own, under timm's names.

    Raises:
        UsageError: the net is a CNN and a field of ViTs is set.
    """
    for field, own in (("width", None), ("depth", None), ("heads", None), ("token_pooling", "cls")):
        if not vit and getattr(config, field) != own:
            raise UsageError(
                f"method.{field} is {getattr(config, field)} for backbone {config.backbone!r}; expected a ViT."
            )
    of_vits = {"embed_dim": config.width, "depth": config.depth, "num_heads": config.heads}
    of_resnets: dict[str, Any] = {"layers": config.layers, "channels": config.channels}
    if timm.models.is_model_in_modules(config.backbone, ["resnet"]):
        of_resnets["zero_init_last"] = config.zero_init_last
    return {name: value for name, value in (of_vits if vit else of_resnets).items() if value is not None}


def _check_name(backbone: str) -> None:
    known = timm.is_model(backbone)
    if known and "." in backbone:
        known = backbone in timm.list_pretrained(f"{backbone.split('.')[0]}.*")
    if not known:
        names = [*timm.list_models(), *timm.list_pretrained()]
        near = ", ".join(get_close_matches(backbone, names, 3)) or "none"
        raise UsageError(
            f"backbone {backbone!r} is no model of timm {timm.__version__}; nearest: {near}. "
            "List them with timm.list_models() and timm.list_pretrained()."
        )


def _imagenet_weights(backbone: str, offline: bool) -> str:
    """Path of timm's weights in the local Hugging Face cache; downloaded if need be, unless offline."""
    from huggingface_hub import hf_hub_download

    config = timm.get_pretrained_cfg(backbone)
    repository = None if config is None else config.hf_hub_id
    if config is None or repository is None:
        raise UsageError(
            f"timm has no pretrained weights for backbone {backbone!r}. "
            "Set method.pretrained=false, or choose another backbone (timm.list_pretrained())."
        )
    name = config.hf_hub_filename or "model.safetensors"
    try:
        return hf_hub_download(repository, name, local_files_only=offline)
    except Exception as error:  # the hub client raises OSError, its own and its HTTP library's exceptions
        looked = "the local Hugging Face cache (offline)" if offline else "the Hugging Face hub and its cache"
        raise WeightsError(
            f"ImageNet weights of {backbone!r}: looked for {name} of {repository} in {looked}; "
            f"not there ({type(error).__name__}). Run `hf download {repository} {name}` on a machine that "
            "reaches the hub, copy its cache folder here and point HF_HOME to it; or start from scratch with "
            "--set method.pretrained=false."
        ) from error
