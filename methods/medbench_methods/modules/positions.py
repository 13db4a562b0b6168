"""Fixed positions of patches on a square grid."""

import math

import torch
from torch import Tensor


def grid_positions(patches: int, width: int, device: torch.device) -> Tensor:
    """(P, width) fixed sines and cosines of the rows and columns of a square grid of P patches.

    The width is a multiple of 4: sines and cosines of either axis.
    """
    side = math.isqrt(patches)
    rates = 10_000 ** -(torch.arange(width // 4, device=device) / (width // 4))  # (width / 4,)
    angles = torch.arange(side, device=device)[:, None] * rates  # (side, width / 4)
    axis = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    return torch.cat([rows, columns], 2).flatten(0, 1)  # (side, side, width) -> (P, width)
