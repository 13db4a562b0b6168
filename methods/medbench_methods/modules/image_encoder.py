"""Image encoders: timm's ResNets (and CNNs like them) and ViTs behind one class, with the same outputs."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from medbench.errors import UsageError, WeightsError
from medbench.model import ImageFeatures, Preprocessing
from medbench_methods.modules.attention import choose_attention
from medbench_methods.modules.imagenet_weights import check_covers
from medbench_methods.modules.ranges import expect

STRIDES = (2, 4, 8, 16, 32)
"""Of the maps of a pyramid."""

LOCAL = STRIDES.index(16)
"""The map whose cells are the local tokens: layer3 of a ResNet, as in MGCA, and the patches of a ViT with 16
px."""


TokenPooling = Literal["cls", "mean"]


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The image half of a model. Defaults: the ResNet-50 of MGCA's released code.

    Its values also stand in for what is not known of a method.
    """

    backbone: str = "resnet50.tv2_in1k"
    """timm's name of a CNN with maps at strides 2 to 32, or of a ViT with 16 px patches. `resnet50.tv2_in1k`
    is torchvision's default ResNet-50, which MGCA starts from; its ViT is `deit_base_patch16_224` (not
    distilled)."""

    layers: tuple[int, int, int, int] | None = None
    """ResNets only: blocks a stage, where the named net is too deep; None for its own."""

    channels: tuple[int, int, int, int] | None = None
    """ResNets only: channels a stage, where the named net is too wide; None for its own."""

    width: int | None = None
    """ViTs only: width of the tokens, where the named net is too wide; None for its own."""

    depth: int | None = None
    """ViTs only: transformer blocks, where the named net is too deep; None for its own."""

    heads: int | None = None
    """ViTs only: attention heads, with another `width`; None for its own."""

    token_pooling: TokenPooling = "cls"
    """ViTs only: what stands for the whole film: the CLS token, as in MGCA, or the mean of the patch tokens, as in
    MRM, whose CLS token nothing is asked of."""

    pretrained: bool = True
    """Start from timm's ImageNet weights; False starts from scratch."""

    size: int = 224
    """Side of the crop that the model sees, pixels (MGCA's code)."""

    resize: int = 256
    """Side of the padded square that the crop is taken from, pixels (MGCA's code)."""

    mean: float | tuple[float, float, float] = 0.5
    """Grey value, of [0, 1], that is subtracted: one for all channels, or one for each (MGCA's code: 0.5, also
    with ImageNet weights)."""

    std: float | tuple[float, float, float] = 0.5
    """What the difference is divided by, likewise (MGCA's code)."""

    upsample: int = 299
    """CNNs only: side that images are enlarged to inside the encoder, pixels; 0 for none. MGCA feeds its
    ResNet-50 299 px made of a 224 px crop (bilinear, align_corners), so that layer3 has 19 x 19 cells.
    Pyramids are made without it, as in MGCA's detection and segmentation, since their strides are counted on
    the image itself."""

    def __post_init__(self) -> None:
        """Refuse what no film can be prepared for (see `Preprocessing`) and what no backbone is built with.

        Raises:
            UsageError: it names the field.
        """
        expect(self, "mean", "std")
        expect(self, "upsample", least=0)
        expect(self, "layers", "channels", "width", "heads", least=1)
        expect(self, "depth", least=2)  # the attention of the last block is computed from the one before
        _ = self.preprocessing
        if self.size % 16 and _is_vit(self.backbone):
            raise UsageError(
                f"method.size is {self.size}; expected a multiple of 16, the patches of {self.backbone!r}."
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """The input contract of this model."""
        return Preprocessing(self.size, self.resize, _by_channel(self.mean), _by_channel(self.std))


def _is_vit(backbone: str) -> bool:
    return bool(timm.models.is_model_in_modules(backbone, ["vision_transformer", "deit"]))


def _by_channel(value: float | tuple[float, float, float]) -> tuple[float, float, float]:
    return value if isinstance(value, tuple) else (value, value, value)


@dataclass(frozen=True)
class EncodedImage(ImageFeatures):
    """Image features, with what a ViT knows about the weight of its patches.

    Attributes:
        attention: (B, P) float, attention of the CLS token to each patch in the last block, mean over heads,
            without gradient; None for a CNN.
    """

    attention: Tensor | None = None


class ImageEncoder(nn.Module):
    """One backbone, pooled and local features of it, and a pyramid.

    Attributes:
        width: D of `pooled`.
        local_width: C of `local`.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        weights: bool,
        offline: bool = False,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build the backbone.

        Args:
            config: what to build.
            weights: load ImageNet weights if the config asks for them; False when weights are loaded
                afterwards.
            offline: take them from the local cache only.
            state: these weights, under timm's names; None for those of timm's hub.

        Raises:
            UsageError: timm has no such backbone, or it is neither a ViT with 16 px patches nor a CNN with
                the strides.
            WeightsError: the ImageNet weights can not be had, or `state` does not cover the backbone.
        """
        super().__init__()
        self.config = config
        self.body: Any  # a timm model, not typed
        _check_name(config.backbone)
        vit = _is_vit(config.backbone)
        shape = _shape(config, vit)
        overlay: dict[str, Any] | None = None
        if weights and config.pretrained and state is not None:
            check_covers(state, config.backbone, shape, "ImageNet weights")
            overlay = {"state_dict": dict(state)}
        elif weights and config.pretrained:
            overlay = {"file": _imagenet_weights(config.backbone, offline)}
        if vit:
            self.body = timm.create_model(
                config.backbone,
                pretrained=overlay is not None,
                pretrained_cfg_overlay=overlay,
                num_classes=0,
                img_size=config.size,
                dynamic_img_size=True,  # resizes its position embedding for other sizes
                **shape,
            )
            self._check_vit()
            choose_attention(self.body.blocks, torch.device("cpu"))  # where it is built
            self.width = self.local_width = int(self.body.num_features)
        else:
            with _without_load_report():
                self.body = timm.create_model(
                    config.backbone,
                    pretrained=overlay is not None,
                    pretrained_cfg_overlay=overlay,
                    features_only=True,
                    **shape,
                )
            strides = tuple(self.body.feature_info.reduction())
            if strides != STRIDES:
                raise UsageError(
                    f"backbone {config.backbone!r} has maps at strides {strides}; expected {STRIDES}. "
                    "Choose a ResNet or another CNN with five stages."
                )
            channels = self.body.feature_info.channels()
            self.width, self.local_width = int(channels[-1]), int(channels[LOCAL])
            # Convolutions on CPU (and on GPU in half precision) are faster when channels are innermost.
            self.body.to(memory_format=torch.channels_last)

    def _check_vit(self) -> None:
        patch = getattr(getattr(self.body, "patch_embed", None), "patch_size", None)
        token = getattr(self.body, "cls_token", None)
        if not isinstance(self.body, VisionTransformer) or patch != (16, 16) or token is None:
            raise UsageError(
                f"backbone {self.config.backbone!r} has patches of {patch} and "
                f"{'no' if token is None else 'a'} CLS token; expected 16 px patches and a CLS token, "
                "as vit_base_patch16_224 has."
            )

    def forward(self, images: Tensor, pyramid: bool = False) -> EncodedImage:
        """(B, 3, H, W) normalised images -> features; all of them come from one pass.

        Args:
            images: float; sides are multiples of 32 where a pyramid is asked for.
            pyramid: give the five maps too. A CNN then sees the images as they are, without
                `config.upsample`.
        """
        if isinstance(self.body, VisionTransformer):
            return self._vit(images, pyramid)
        if self.config.upsample and not pyramid:
            images = F.interpolate(images, size=self.config.upsample, mode="bilinear", align_corners=True)
        maps = tuple(self.body(images.contiguous(memory_format=torch.channels_last)))
        local = maps[LOCAL].flatten(2).transpose(1, 2)  # (B, C, H/16, W/16) -> (B, P, C)
        return EncodedImage(maps[-1].mean((2, 3)), local, maps if pyramid else None)

    def _vit(self, images: Tensor, pyramid: bool) -> EncodedImage:
        body = self.body
        depth = len(body.blocks)
        choose_attention(body.blocks, images.device)
        tokens, (before_last, _) = body.forward_intermediates(  # tokens: (B, 1 + P, D), after the final norm
            images, indices=[depth - 2, depth - 1], output_fmt="NLC", return_prefix_tokens=True
        )
        prefix = body.num_prefix_tokens
        local = tokens[:, prefix:]
        patches, prefixes = before_last
        attention = _cls_attention(body, torch.cat([prefixes, patches], 1))
        rows, columns = images.shape[2] // 16, images.shape[3] // 16
        maps = _simple_pyramid(local.transpose(1, 2).unflatten(2, (rows, columns))) if pyramid else None
        pooled = tokens[:, 0] if self.config.token_pooling == "cls" else local.mean(1)
        return EncodedImage(pooled, local, maps, attention)

    def encode_visible(self, images: Tensor, visible: Tensor) -> Tensor:
        """ViTs only: the CLS token and some of the patches, which see nothing of the others.

        Args:
            images: (B, 3, H, W) normalised.
            visible: (B, K) int64, which patches, counted row by row from the top left.

        Returns:
            (B, 1 + K, D) tokens after the final norm, in the order of `visible`.
        """
        body = self.body
        tokens = body._pos_embed(body.patch_embed(images))  # (B, 1 + P, D), positions added
        prefix = tokens[:, : body.num_prefix_tokens]
        patches = tokens[:, body.num_prefix_tokens :]
        which = visible[:, :, None].expand(-1, -1, patches.shape[2])  # (B, K) -> (B, K, D)
        tokens = body.norm_pre(torch.cat([prefix, patches.gather(1, which)], 1))
        choose_attention(body.blocks, images.device)
        for block in body.blocks:
            tokens = block(tokens)
        out: Tensor = body.norm(tokens)
        return out


@torch.no_grad()
def _cls_attention(body: VisionTransformer, tokens: Tensor) -> Tensor:
    """(B, N, D) input of the last block -> (B, P) its attention from CLS to the patches, mean over heads.

    Computed again for this one row: no query but that of CLS, no value, and no gradient. It takes about a
    twelfth of the block's products.
    """
    block: Any = body.blocks[-1]
    inner = block.attn
    width = tokens.shape[2]
    tokens = block.norm1(tokens)

    def project(some: Tensor, part: slice) -> Tensor:  # (B, M, D) -> (B, heads, M, d), queries or keys
        bias = None if inner.qkv.bias is None else inner.qkv.bias[part]
        projected: Tensor = F.linear(some, inner.qkv.weight[part], bias)
        return projected.view(*some.shape[:2], inner.num_heads, -1).transpose(1, 2)

    query = inner.q_norm(project(tokens[:, :1], slice(0, width)))  # of CLS alone
    key = inner.k_norm(project(tokens, slice(width, 2 * width)))
    scores = (query @ key.transpose(2, 3)).float() * inner.scale  # (B, heads, 1, N)
    attention: Tensor = scores.softmax(-1).mean(1)[:, 0, body.num_prefix_tokens :]
    return attention


def _simple_pyramid(grid: Tensor) -> tuple[Tensor, ...]:
    """(B, D, H/16, W/16) patch grid of a ViT -> maps at strides 2, 4, 8, 16, 32 without learnt parameters.

    The simple feature pyramid of ViTDet (arXiv 2203.16527) makes all levels from the last map; there the
    resampling is learnt, here it is bilinear and by mean, because an encoder under test must not carry
    weights that pretraining never saw. Adapting is the head's work.
    """
    finer = [
        F.interpolate(grid, scale_factor=s, mode="bilinear", align_corners=False) for s in (8.0, 4.0, 2.0)
    ]
    return (*finer, grid, F.avg_pool2d(grid, 2))


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
    of_resnets = {"layers": config.layers, "channels": config.channels}
    return {name: value for name, value in (of_vits if vit else of_resnets).items() if value is not None}


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep timm from listing the layers after the last map, which are left out on purpose."""
    log = logging.getLogger("timm.models._builder")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


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
