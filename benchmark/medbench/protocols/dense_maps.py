"""The maps that heads of detection and segmentation look at: an encoder's own, or the patches of a ViT as one map."""

from collections.abc import Sequence

import torch
from torch import Tensor

from medbench.devices import Precision, autocast
from medbench.errors import PluginError, WeightsError
from medbench.model import PatchModel, VisionLanguageModel
from medbench.protocols.features import evaluating
from medbench.task import Environment

PATCH = 16
"""Stride of the patches of a ViT, pixels."""

COARSEST = 32
"""Stride of the coarsest map, pixels."""


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
        PluginError: the model gives no pyramid, or other patches than it says.
    """
    name = type(model).__name__
    if from_patches(model):
        local = model.encode_image(images).local
        rows, columns = images.shape[2] // PATCH, images.shape[3] // PATCH
        if local is None or local.shape[1] != rows * columns:
            found = "no local features" if local is None else f"{local.shape[1]} of them"
            raise PluginError(
                f"{name}.pyramid_from_patches is True, so encode_image has to give {rows} x {columns} patches in "
                f"`local`; it gave {found}. Give one feature a patch, row by row, or leave pyramid_from_patches out."
            )
        return (local.transpose(1, 2).reshape(len(local), -1, rows, columns),)  # (B, P, D) -> (B, D, h, w)
    pyramid = model.encode_image(images, pyramid=True).pyramid
    if pyramid is None:
        raise PluginError(
            f"{name}.encode_image(pyramid=True) gave no pyramid. Return five maps in ImageFeatures.pyramid, or, over "
            "patches, set pyramid_from_patches; or leave out tasks of detection and segmentation."
        )
    return pyramid[-levels:]


def map_channels(model: VisionLanguageModel, levels: int, env: Environment) -> tuple[int, ...]:
    """Channels of the maps of a black film: whether a head fits is looked at before anything takes long.

    Args:
        model: on `env.device`; left in its modes.
        levels: as in `dense_maps`.
        env: device and precision.

    Raises:
        PluginError: the model's films have a side that is no multiple of 32, or it gives other maps than are needed.
    """
    name, side = type(model).__name__, model.preprocessing.size
    if side % COARSEST:
        raise PluginError(
            f"{name} takes films of {side} px; detection and segmentation need a multiple of {COARSEST}, since their "
            f"coarsest map has a cell of {COARSEST} px. Give preprocessing.size such a number, or leave these out."
        )
    black = torch.zeros(1, side, side, device=env.device)
    with evaluating(model), autocast(env.device, env.precision):
        maps = dense_maps(model, model.preprocessing.normalise(black), levels)
    if len(maps) != (1 if from_patches(model) else levels):
        raise PluginError(
            f"{name}.encode_image(pyramid=True) gave {len(maps)} maps; expected five, at strides 2, 4, 8, 16, 32."
        )
    return tuple(int(m.shape[1]) for m in maps)


class FiniteMaps:
    """Whether all maps that were computed were finite: noted without waiting for the device, asked now and then.

    Args:
        device: of the maps.
        precision: that they are computed in, for the message.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self._precision = precision
        self._broken = torch.zeros((), dtype=torch.bool, device=device)

    def note(self, maps: Sequence[Tensor]) -> None:
        """Look at maps of any shape."""
        for one in maps:
            self._broken = self._broken | ~one.detach().isfinite().all()

    def check(self) -> None:
        """Ask.

        Raises:
            WeightsError: some value was not finite.
        """
        if self._broken:
            raise WeightsError(not_finite("some films", self._precision))


def not_finite(films: str, precision: Precision) -> str:
    """The message about feature maps of `films`, in words, that are not finite."""
    return (
        f"the encoder's feature maps of {films} are not finite in half precision (computed at precision {precision}; "
        "65,504 just fits). Try --precision 32; if that changes nothing, the weights hold NaN, infinity or absurd "
        "values: pretrain again with a lower learning rate, or check the checkpoint."
    )
