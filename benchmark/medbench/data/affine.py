"""Batches of square films scaled and turned at random, on any device, and their masks with them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ScaleRotate:
    """Scaling and turning about the middle; what comes in from outside is black and belongs to no mask.

    Defaults: MGCA's released code for segmentation (albumentations' ShiftScaleRotate without a shift, constant
    border).
    """

    scale: float = 0.1
    """Films grow or shrink by up to this share, evenly drawn."""
    degrees: float = 10.0
    """They are turned by up to this angle to either side, evenly drawn."""
    probability: float = 0.5
    """That a film is changed at all."""

    def __call__(self, films: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change films and masks alike.

        Args:
            films: (B, S, S) uint8, or float32 from 0 to 255.
            masks: (B, S, S) bool, on the same device.
            generator: on the CPU; three numbers a film are drawn from it.

        Returns:
            Films (B, S, S) float32, between pixels bilinear; masks (B, S, S) bool, of the nearest pixel. A film that
            is not changed keeps its values to the bit.
        """
        drawn = torch.rand((len(films), 3), generator=generator).to(films.device)  # whether, scale, angle
        changed = drawn[:, 0] < self.probability
        scale = 1 + self.scale * (2 * drawn[:, 1] - 1)
        angle = torch.deg2rad(self.degrees * (2 * drawn[:, 2] - 1))
        # Where a pixel of the result comes from: turned back, and divided by the scale.
        cosine, sine, zero = angle.cos() / scale, angle.sin() / scale, torch.zeros_like(scale)
        rows = [torch.stack([cosine, -sine, zero], 1), torch.stack([sine, cosine, zero], 1)]
        size = [len(films), 1, *films.shape[1:]]
        grid = F.affine_grid(torch.stack(rows, 1), size, align_corners=False)  # (B, S, S, 2)
        grey = films.float()
        turned = F.grid_sample(grey[:, None], grid, "bilinear", "zeros", align_corners=False)[:, 0]
        inside = F.grid_sample(masks.float()[:, None], grid, "nearest", "zeros", align_corners=False)[:, 0]
        which = changed[:, None, None]
        return torch.where(which, turned, grey), torch.where(which, inside > 0.5, masks)
