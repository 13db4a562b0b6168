"""The maps that heads of detection and segmentation look at: an encoder's own, or the patches of a ViT as one map."""

from torch import Tensor

from medbench.model import PatchModel, VisionLanguageModel

PATCH = 16
"""Stride of the patches of a ViT, pixels."""


def from_patches(model: VisionLanguageModel) -> bool:
    """Whether `dense_maps` gives the patches alone, of which the head makes a pyramid of its own."""
    return isinstance(model, PatchModel) and model.pyramid_from_patches


def dense_maps(model: VisionLanguageModel, images: Tensor, levels: int) -> tuple[Tensor, ...]:
    """Maps of images.

    Args:
        model: in whatever mode.
        images: (B, 3, H, W) normalised; sides are multiples of 32.
        levels: how many maps, counted from the coarsest: 3 for strides 8, 16, 32; 5 for all.

    Returns:
        `levels` maps (B, C_s, H/s, W/s) from fine to coarse; one map (B, D, H/16, W/16) where `from_patches`, for which
        no pyramid is computed.

    Raises:
        TypeError: the model gives no pyramid, or other patches than it says.
    """
    name = type(model).__name__
    if from_patches(model):
        local = model.encode_image(images).local
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        if local is None or local.shape[1] != rows * columns:
            found = "no local features" if local is None else f"{local.shape[1]} of them"
            raise TypeError(
                f"{name}.pyramid_from_patches is True, so encode_image has to give {rows} x {columns} patches in "
                f"`local`; it gave {found}"
            )
        return (local.transpose(1, 2).reshape(len(local), -1, rows, columns),)  # (B, P, D) -> (B, D, h, w)
    pyramid = model.encode_image(images, pyramid=True).pyramid
    if pyramid is None:
        raise TypeError(f"{name}.encode_image(pyramid=True) gave no pyramid")
    return pyramid[-levels:]
