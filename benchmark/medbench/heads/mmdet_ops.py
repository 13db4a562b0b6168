"""mmdetection without its compiled operators.

mmdet needs `mmcv._ext`, a compiled module that the plain wheel `mmcv-lite` does not carry. Where it is
missing, a module of our own stands in for it: the few operators that detectors here use, from torchvision and
plain torch, and for every other one a stub that says which operator was asked for. Call `import_mmdet` before
anything of mmdet or mmcv.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import PluginError

_NAME = "mmcv._ext"


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float.
        iou_threshold: a box that overlaps a better one by more than this is dropped.
        offset: 1 where x2 and y2 are the last pixels inside the box, 0 where they are its edges.

    Returns:
        (K,) int64, the boxes that are kept, best first.
    """
    from torchvision.ops import nms as torchvision_nms

    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    kept: Tensor = torchvision_nms(boxes, scores, iou_threshold)
    return kept


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign with mean pooling, written into `output`.

    Args:
        features: (B, C, H, W) float.
        rois: (K, 5) float: image in the batch, x1, y1, x2, y2.
        output: (K, C, aligned_height, aligned_width), overwritten.
        argmax_y: for max pooling only.
        argmax_x: for max pooling only.
        aligned_height: rows of bins.
        aligned_width: columns of bins.
        spatial_scale: from the coordinates of `rois` to those of `features`.
        sampling_ratio: points a bin and axis; 0 for as many as the box has pixels.
        pool_mode: 1 for the mean; 0, the maximum, is not offered.
        aligned: shift by half a pixel.

    Raises:
        NotImplementedError: max pooling.
    """
    from torchvision.ops import roi_align

    if pool_mode != 1:
        _missing("roi_align_forward with max pooling")
    bins = (aligned_height, aligned_width)
    output.copy_(roi_align(features, rois, bins, spatial_scale, sampling_ratio, aligned))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Gradient of `roi_align_forward`, written into `grad_input` (B, C, H, W).

    Raises:
        NotImplementedError: max pooling.
    """
    import torchvision  # noqa: F401  # registers torch.ops.torchvision

    if pool_mode != 1:
        _missing("roi_align_backward with max pooling")
    backward = torch.ops.torchvision._roi_align_backward
    grad = backward(
        grad_output,
        rois,
        spatial_scale,
        aligned_height,
        aligned_width,
        *grad_input.shape,
        sampling_ratio,
        aligned,
    )
    grad_input.copy_(grad)


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, *, gamma: float, alpha: float
) -> None:
    """Focal loss of every logit (Lin et al. 2017, equation 5), written into `output`.

    Args:
        logits: (N, C) float.
        target: (N,) int64, class of each row; C for background.
        weight: empty. Class weights are not offered: mmdet applies its own outside.
        output: (N, C), overwritten.
        gamma: focusing exponent.
        alpha: weight of the positives; negatives have 1 - alpha.

    Raises:
        NotImplementedError: class weights.
    """
    positive = _positive(logits, target, weight)
    p = logits.sigmoid()
    at_positive = -alpha * (1 - p) ** gamma * F.logsigmoid(logits)
    at_negative = -(1 - alpha) * p**gamma * F.logsigmoid(-logits)
    output.copy_(torch.where(positive, at_positive, at_negative))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, *, gamma: float, alpha: float
) -> None:
    """Derivative of every entry of `sigmoid_focal_loss_forward` by its own logit, into `grad_input` (N, C).

    Raises:
        NotImplementedError: class weights.
    """
    positive = _positive(logits, target, weight)
    p = logits.sigmoid()
    at_positive = alpha * (1 - p) ** gamma * (gamma * p * F.logsigmoid(logits) - (1 - p))
    at_negative = (1 - alpha) * p**gamma * (p - gamma * (1 - p) * F.logsigmoid(-logits))
    grad_input.copy_(torch.where(positive, at_positive, at_negative))


def _positive(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if weight.numel():
        _missing("sigmoid_focal_loss with class weights")
    return target[:, None] == torch.arange(logits.shape[1], device=logits.device)  # (N, C)


_OPERATORS: dict[str, Callable[..., Any]] = {
    operator.__name__: operator
    for operator in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
    )
}


def _missing(operator: str) -> NoReturn:
    raise NotImplementedError(
        f"{operator} is one of mmcv's compiled operators, and medbench's stand-in for them has only "
        f"{', '.join(_OPERATORS)}; install a compiled mmcv (>= 2.0.0rc4, < 2.2.0) to use it"
    )


class _Operators(ModuleType):
    """Stands where `mmcv._ext` would be."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):  # Python asks modules for such names and takes any answer seriously
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

        def stub(*args: Any, **kwargs: Any) -> NoReturn:
            _missing(name)

        stub.__name__ = name
        return stub


def install_operators() -> bool:
    """Put our operators where mmcv looks for its compiled ones, unless it has them.

    Imports mmcv (so OpenCV) to see whether it has. Doing it twice is harmless.

    Returns:
        True if ours are in place, False if mmcv has its own.
    """
    if isinstance(sys.modules.get(_NAME), _Operators):
        return True
    if importlib.util.find_spec(_NAME) is not None:
        return False
    module = _Operators(_NAME, __doc__)
    module.__spec__ = ModuleSpec(_NAME, None)  # mmengine asks for it
    for name, operator in _OPERATORS.items():
        setattr(module, name, operator)
    sys.modules[_NAME] = module
    return True


def check_opencv() -> str | None:
    """Why OpenCV, which mmdetection imports, can not be loaded, and both cures; None if it can.

    Its usual wheel links to libGL, which slim machines lack.
    """
    try:
        importlib.import_module("cv2")
    except ImportError as error:
        return (
            f"OpenCV can not be loaded ({error}). mmdetection, which the detection tasks use, imports it. "
            "Either install what its wheel links to, `apt-get install libgl1 libglib2.0-0`, or put the wheel "
            "without windows in its place, `pip uninstall opencv-python && pip install "
            "opencv-python-headless`"
        )
    return None


def import_mmdet() -> None:
    """Make `mmdet.models` importable: check OpenCV, put the operators in place, import.

    Only detection calls this; nothing else in medbench needs OpenCV or mmdet. mmengine's logger, which
    otherwise tells how each parameter was initialised, is set to errors only.

    Raises:
        PluginError: OpenCV or mmdetection can not be loaded.
    """
    reason = check_opencv()
    if reason is not None:
        raise PluginError(reason)
    try:
        install_operators()
        importlib.import_module("mmdet.models")
        from mmengine.logging import MMLogger
    except (ImportError, AssertionError) as error:  # mmdet checks mmcv's version by an assertion
        raise PluginError(
            f"mmdetection can not be loaded ({error}). The detection tasks are made for "
            "`pip install mmdet==3.3.0 mmcv-lite==2.1.0 mmengine==0.10.7`"
        ) from error
    MMLogger.get_current_instance().setLevel(logging.ERROR)
