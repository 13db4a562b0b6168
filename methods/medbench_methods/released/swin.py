"""Swin transformers (Liu et al., arXiv 2103.14030) as released image encoders: maps at strides 4, 8, 16 and 32."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medbench.errors import UsageError
from medbench_methods.modules.image_encoder import EncodedImage, ImageConfig, ImageEncoder


def is_swin(backbone: str) -> bool:
    """Whether timm's name is that of a Swin transformer."""
    import timm  # takes seconds

    return timm.is_model(backbone) and timm.models.is_model_in_modules(backbone, ["swin_transformer"])


class SwinEncoder(ImageEncoder):
    """A Swin transformer with the outputs of every image encoder here.

    Pooled is the mean of the last map after the final norm, as in transformers and in the authors' classifiers. There
    is no map at stride 2: that of a pyramid is the one at stride 4, enlarged, so that it has no parameters that were
    never trained.
    """

    def __init__(self, config: ImageConfig) -> None:
        """Build the net, without weights; `config.layers` and `config.width` make it smaller.

        Raises:
            UsageError: fields are set that a Swin transformer does not have.
        """
        import timm  # takes seconds

        nn.Module.__init__(self)
        for field, own in (("channels", None), ("depth", None), ("heads", None), ("token_pooling", "cls")):
            if getattr(config, field) != own:
                raise UsageError(
                    f"method.{field} is {getattr(config, field)} for backbone {config.backbone!r}; expected none for"
                    f" a Swin transformer."
                )
        self.config, self.vit = config, False
        shape: dict[str, Any] = {"depths": config.layers, "embed_dim": config.width}
        self.body = timm.create_model(
            config.backbone,
            pretrained=False,
            num_classes=0,
            strict_img_size=False,  # films of any size; windows stay those of the size that it was made for
            **{name: value for name, value in shape.items() if value is not None},
        )
        self.width = int(self.body.num_features)
        self.local_width = self.width // 2  # each stage has twice the channels of the one before

    def layers(self) -> list[list[nn.Parameter]]:
        """Parameters by layer: patches, each of the four stages, the final norm. See the base class."""
        body = self.body
        return [list(part.parameters()) for part in (body.patch_embed, *body.layers, body.norm)]

    def forward(self, images: Tensor, pyramid: bool = False) -> EncodedImage:
        """(B, 3, H, W) normalised images -> features; sides are multiples of 32. See the base class."""
        last, (first, second, third, _) = self.body.forward_intermediates(images, indices=[0, 1, 2, 3])
        last = last.permute(0, 3, 1, 2)  # (B, H/32, W/32, D), after the final norm -> (B, D, H/32, W/32)
        local = third.flatten(2).transpose(1, 2)  # (B, C, H/16, W/16) -> (B, P, C)
        if not pyramid:
            return EncodedImage(last.mean((2, 3)), local)
        finest = F.interpolate(first, scale_factor=2.0, mode="bilinear", align_corners=False)
        return EncodedImage(last.mean((2, 3)), local, (finest, first, second, third, last))
