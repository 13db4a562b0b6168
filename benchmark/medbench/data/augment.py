"""Crops of whole batches of films, on any device, without a loop over samples."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def random_corners(uniforms: npt.NDArray[np.float64], side: int, size: int) -> npt.NDArray[np.int64]:
    """Where random crops start; every place is equally likely.

    Args:
        uniforms: (B, 2) in [0, 1), as `medbench.seeding.uniforms` draws them.
        side: of the square films, pixels.
        size: of the square crops, pixels.

    Returns:
        (B, 2) int64, top and left, 0 to `side - size`.
    """
    return (uniforms * (side - size + 1)).astype(np.int64)


def crop(images: Tensor, corners: Tensor, size: int) -> Tensor:
    """Cut a square out of each film.

    Args:
        images: (B, R, R) of any dtype.
        corners: (B, 2) int64, top and left of each crop, 0 to R - size, on the device of `images`.
        size: side S of the crops, pixels.

    Returns:
        (B, S, S), contiguous, dtype and device of `images`.
    """
    windows = images.unfold(1, size, 1).unfold(2, size, 1)  # (B, R, R) -> (B, R-S+1, R-S+1, S, S), a view
    which = torch.arange(len(images), device=images.device)
    return windows[which, corners[:, 0], corners[:, 1]]  # -> (B, S, S)


def centre_crop(images: Tensor, size: int) -> Tensor:
    """The middle of each film: (B, R, R) -> (B, S, S), contiguous. An odd rest is left out below and right."""
    start = (images.shape[-1] - size) // 2
    return images[:, start : start + size, start : start + size].contiguous()
