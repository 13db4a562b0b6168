"""Image encoders: timm's ResNets (and CNNs like them) and ViTs behind one class, with the same outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medbench.errors import UsageError
from medbench.model import ImageFeatures, Preprocessing
from medbench_methods.modules.attention import choose_attention
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

    zero_init_last: bool = False
    """ResNets from scratch only: begin with residual branches that give zero, as timm does if nothing is said. False
    begins as torchvision does, whose ResNets the published random encoders are. With True an untrained net is no more
    than its stem and its convolutions of width 1 between stages, and short pretraining learns less."""

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
        if self.size % 16:
            from medbench_methods.modules.backbone import is_vit  # timm takes seconds to import

            if is_vit(self.backbone):
                raise UsageError(
                    f"method.size is {self.size}; expected a multiple of 16, the patches of {self.backbone!r}."
                )

    @property
    def preprocessing(self) -> Preprocessing:
        """The input contract of this model."""
        return Preprocessing(self.size, self.resize, _by_channel(self.mean), _by_channel(self.std))


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
        vit: whether the backbone is a ViT.
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
        from medbench_methods.modules.backbone import is_vit, make_backbone  # timm takes seconds to import

        super().__init__()
        self.config = config
        self.body: Any = make_backbone(config, weights=weights, offline=offline, state=state)
        self.vit = is_vit(config.backbone)
        if self.vit:
            choose_attention(self.body.blocks, torch.device("cpu"))  # where it is built
            self.width = self.local_width = int(self.body.num_features)
        else:
            channels = self.body.feature_info.channels()
            self.width, self.local_width = int(channels[-1]), int(channels[LOCAL])
            # Convolutions on CPU (and on GPU in half precision) are faster when channels are innermost.
            self.body.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, pyramid: bool = False) -> EncodedImage:
        """(B, 3, H, W) normalised images -> features; all of them come from one pass.

        Args:
            images: float; sides are multiples of 32 where a pyramid is asked for.
            pyramid: give the five maps too. A CNN then sees the images as they are, without
                `config.upsample`.
        """
        if self.vit:
            return self._vit(images, pyramid)
        if self.config.upsample and not pyramid:
            images = F.interpolate(images, size=self.config.upsample, mode="bilinear", align_corners=True)
        maps = tuple(self.body(images.contiguous(memory_format=torch.channels_last)))
        local = maps[LOCAL].flatten(2).transpose(1, 2)  # (B, C, H/16, W/16) -> (B, P, C)
        return EncodedImage(maps[-1].mean((2, 3)), local, maps if pyramid else None)

    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters by layer, from input to output.

        Of a ViT: patches, positions and CLS token; each block; the final norm. Of a CNN: what each of its maps adds to
        the one before, which is the stem and the four stages of a ResNet.
        """
        if self.vit:
            body = self.body
            start = [
                *body.parameters(recurse=False),
                *body.patch_embed.parameters(),
                *body.norm_pre.parameters(),
            ]
            layers = [
                start,
                *(list(block.parameters()) for block in body.blocks),
                list(body.norm.parameters()),
            ]
        else:
            layers = _layers_of_maps(self.body)
        return [layer for layer in layers if layer]

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
            if body.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        out: Tensor = body.norm(tokens)
        return out


@torch.no_grad()
def _cls_attention(body: Any, tokens: Tensor) -> Tensor:
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


def _layers_of_maps(body: Any) -> list[list[nn.Parameter]]:
    """Parameters of a CNN of timm, cut behind each module that gives a map."""
    modules = dict(body.named_modules())  # in the order of the forward pass
    # Where timm takes a net apart, what was a path has become a name.
    ends = [name if name in modules else name.replace(".", "_") for name in body.feature_info.module_name()]
    layers: list[list[nn.Parameter]] = [[]]
    last = ""  # the end that the module before lies in
    for name, module in modules.items():
        end = next((end for end in ends if name == end or name.startswith(f"{end}.")), "")
        if last and end != last:
            layers.append([])
        last = end
        layers[-1] += module.parameters(recurse=False)
    return layers


def _simple_pyramid(grid: Tensor) -> tuple[Tensor, ...]:
    """(B, D, H/16, W/16) patch grid of a ViT -> maps at strides 2, 4, 8, 16, 32 without learnt parameters.

    They show what the grid shows, and are for those who want five maps of any encoder. An encoder under test must not
    carry weights that pretraining never saw, so learning to resample is the work of the head, which takes the grid
    alone (`medbench.model.PatchModel`).
    """
    finer = [
        F.interpolate(grid, scale_factor=s, mode="bilinear", align_corners=False) for s in (8.0, 4.0, 2.0)
    ]
    return (*finer, grid, F.avg_pool2d(grid, 2))
