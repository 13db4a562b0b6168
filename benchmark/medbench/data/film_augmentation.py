"""Films of a training batch, each changed in a way of its own: mirrored, turned, warped, lit differently, blurred.

All of it is done on the batch's device, for the whole batch at once, with numbers drawn from torch's default generator,
which its caller seeds from (seed, step): a run that was interrupted sees the films that it would have seen. What is
drawn for a film depends on its place in the batch alone, not on what any film shows.

Each part is what torchvision's transform of that name does to one film, but that everything is interpolated bilinearly
(there a film is turned by the nearest pixel). What comes in from beside a film is black.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.model import Preprocessing

Range = tuple[float, float]

ZERO: Range = (0.0, 0.0)
ONE: Range = (1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class FilmAugmentation:
    """Which changes, and how large they are. By default none; a part that is off draws nothing.

    Attributes:
        flip: probability that a film is mirrored left to right.
        rotation: degrees, counter-clockwise.
        translation: share of the side by which a film is shifted at most, in both directions.
        scale: of a film's contents.
        distortion: share of half the side by which each corner is drawn to the middle at most.
        distortion_probability: that a film is so warped.
        autocontrast_probability: that a film's darkest value becomes 0 and its lightest 1.
        brightness: factor of grey values.
        contrast: factor of their distance from their mean. Which of the two comes first is drawn too.
        light_probability: that brightness and contrast change at all.
        blur: standard deviation of a Gaussian, pixels.
        blur_probability: that a film is blurred at all.
    """

    flip: float = 0.0
    rotation: Range = ZERO
    translation: float = 0.0
    scale: Range = ONE
    distortion: float = 0.0
    distortion_probability: float = 0.0
    autocontrast_probability: float = 0.0
    brightness: Range = ONE
    contrast: Range = ONE
    light_probability: float = 1.0
    blur: Range = ZERO
    blur_probability: float = 1.0

    @torch.no_grad()
    def __call__(self, films: Tensor, preprocessing: Preprocessing) -> Tensor:
        """Change films.

        Args:
            films: (B, 3, S, S) float, normalised; three times the same film.
            preprocessing: how they were normalised.

        Returns:
            (B, 3, S, S), normalised in the same way, channels last.
        """
        with torch.autocast(films.device.type, enabled=False):
            mean, std = preprocessing.mean, preprocessing.std
            grey = films[:, :1].float() * std[0] + mean[0]  # (B, 1, S, S) in [0, 1]
            if self.flip or self.rotation != ZERO or self.translation or self.scale != ONE:
                grey = _sample(grey, self._moved(grey))
            if self.distortion_probability:
                grey = _sample(grey, self._warped(grey))
            if self.autocontrast_probability:
                grey = _choose(grey, self.autocontrast_probability, _stretch(grey))
            if self.brightness != ONE or self.contrast != ONE:
                grey = _maybe(grey, self.light_probability, self._lit(grey))
            if self.blur != ZERO:
                blurred = _blur(grey, _uniform(grey, self.blur))
                grey = _maybe(grey, self.blur_probability, blurred)
            channels = [(grey - m) / s for m, s in zip(mean, std, strict=True)]
            changed = torch.cat(channels, 1).to(films.dtype)
            return changed.contiguous(memory_format=torch.channels_last)

    def _moved(self, grey: Tensor) -> Tensor:
        """(B, 3, 3) from a point of the new film to the one of the old film that is seen there; sides go -1 to 1."""
        angle, scale = torch.deg2rad(_uniform(grey, self.rotation)), _uniform(grey, self.scale)
        right, down = (2 * _uniform(grey, (-self.translation, self.translation)) for _ in range(2))
        side = 1 - 2 * (torch.rand(len(grey), device=grey.device) < self.flip).to(grey.dtype)
        # The film is mirrored, then turned and scaled, then shifted; back from the end of that. y points down.
        cos, sin = angle.cos() / scale, angle.sin() / scale
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        return _matrices(
            (side * cos, -side * sin, side * (sin * down - cos * right)),
            (sin, cos, -sin * right - cos * down),
            (zero, zero, one),
        )

    def _warped(self, grey: Tensor) -> Tensor:
        """(B, 3, 3) as `_moved`: the film's corners go to four points, each in its own quarter."""
        inward = self.distortion * torch.rand(len(grey), 4, 2, device=grey.device)  # (B, corner, x and y)
        number = torch.arange(4, device=grey.device)  # made there: to copy them would be to wait
        corners = (
            torch.stack([(number + 1) // 2 % 2, number // 2], 1) * 2.0 - 1
        )  # clockwise from the top left
        forth = _square_to((corners * (1 - inward)).unbind(1))
        warped = torch.rand(len(grey), device=grey.device) < self.distortion_probability
        same = torch.eye(3, device=grey.device)
        return torch.where(warped[:, None, None], _inverse(forth), same)

    def _lit(self, grey: Tensor) -> Tensor:
        bright, strong = (_uniform(grey, r)[:, None, None, None] for r in (self.brightness, self.contrast))

        def brighter(films: Tensor) -> Tensor:
            return (films * bright).clamp(0, 1)

        def stronger(films: Tensor) -> Tensor:
            return (films * strong + (1 - strong) * films.mean((2, 3), keepdim=True)).clamp(0, 1)

        return _choose(brighter(stronger(grey)), 0.5, stronger(brighter(grey)))


def _uniform(films: Tensor, bounds: Range) -> Tensor:
    """(B,) between two bounds."""
    low, high = bounds
    return low + (high - low) * torch.rand(len(films), device=films.device)


def _choose(films: Tensor, probability: float, changed: Tensor) -> Tensor:
    """(B, 1, S, S): each film as it is, or with this probability changed."""
    chosen = torch.rand(len(films), device=films.device) < probability
    return torch.where(chosen[:, None, None, None], changed, films)


def _maybe(films: Tensor, probability: float, changed: Tensor) -> Tensor:
    """As `_choose`; what is certain draws nothing."""
    return changed if probability == 1 else _choose(films, probability, changed)


def _matrices(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Nine (B,) -> (B, 3, 3)."""
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _square_to(corners: tuple[Tensor, ...]) -> Tensor:
    """The projective map of the square with sides from -1 to 1 onto a quadrangle.

    Args:
        corners: four (B, 2), where the corners go: top left, top right, bottom right, bottom left.

    Returns:
        (B, 3, 3).
    """
    first, second, third, fourth = corners
    (ax, ay), (bx, by) = (second - third).unbind(1), (fourth - third).unbind(1)
    sx, sy = (first - second + third - fourth).unbind(1)
    # Of the square with sides from 0 to 1: (x, y) goes to the quotient of two linear functions.
    scale = ax * by - bx * ay
    g, h = ((sx * by - bx * sy) / scale)[:, None], ((ax * sy - sx * ay) / scale)[:, None]
    top = torch.stack([second - first + g * second, fourth - first + h * fourth, first], 2)  # (B, 2, 3)
    bottom = torch.cat([g, h, torch.ones_like(g)], 1)[:, None]
    of_x, of_y, fixed = (torch.cat([top, bottom], 1)).unbind(2)
    return torch.stack([of_x / 2, of_y / 2, fixed + (of_x + of_y) / 2], 2)  # of sides from -1 to 1


def _inverse(maps: Tensor) -> Tensor:
    """(B, 3, 3) that undo projective maps, up to a factor, which such a map does not see."""
    a, b, c = maps.unbind(1)
    return torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], 2)


def _sample(films: Tensor, maps: Tensor) -> Tensor:
    """(B, 1, S, S) films as seen through (B, 3, 3) projective maps."""
    side = films.shape[-1]
    centres = (torch.arange(side, device=films.device, dtype=films.dtype) * 2 + 1) / side - 1  # of pixels
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], 2).view(1, -1, 3) @ maps.transpose(1, 2)  # (B, S^2, 3)
    grid = (points[..., :2] / points[..., 2:]).view(len(films), side, side, 2)
    return F.grid_sample(films, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _stretch(films: Tensor) -> Tensor:
    """(B, 1, S, S) with values from 0 to 1; a film of one value stays as it is."""
    low, high = films.amin((2, 3), keepdim=True), films.amax((2, 3), keepdim=True)
    return torch.where(high > low, (films - low) / (high - low).clamp_min(1e-6), films)


def _blur(films: Tensor, sigma: Tensor) -> Tensor:
    """(B, 1, S, S) films, each blurred by a Gaussian of its own; as wide as a tenth of the film."""
    reach = films.shape[-1] // 20
    steps = torch.arange(-reach, reach + 1, device=films.device, dtype=films.dtype)
    weight = torch.exp(-0.5 * (steps / sigma.clamp_min(1e-3)[:, None]).square())
    weight = (weight / weight.sum(1, keepdim=True))[:, None, None]  # (B, 1, 1, K)
    rows = F.pad(
        films.transpose(0, 1), (reach, reach, reach, reach), mode="reflect"
    )  # (1, B, ...): a group a film
    rows = F.conv2d(rows, weight, groups=len(films))
    return F.conv2d(rows, weight.transpose(2, 3), groups=len(films)).transpose(0, 1)
