import importlib
import importlib.machinery
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from medbench.errors import PluginError
from medbench.heads import mmdet_ops
from medbench.heads.mmdet_ops import check_opencv, import_mmdet, install_operators

EMPTY = torch.zeros(0)


def random_boxes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 15
    boxes = torch.cat([low, low + 1 + torch.rand(count, 2, generator=generator) * 40], dim=1)
    return boxes, torch.rand(count, generator=generator)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_nms_agrees_with_a_loop(threshold: float, offset: int) -> None:
    boxes, scores = random_boxes(60, seed=offset)
    wide = boxes + torch.tensor([0, 0, offset, offset])
    expected: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(float(box_iou(wide[i : i + 1], wide[k : k + 1])) <= threshold for k in expected):
            expected.append(i)
    assert mmdet_ops.nms(boxes, scores, threshold, offset).tolist() == expected
    assert len(expected) < 60


def test_nms_of_nothing_is_nothing() -> None:
    assert mmdet_ops.nms(torch.zeros(0, 4), EMPTY, 0.5, 0).tolist() == []


@pytest.mark.parametrize("aligned", [True, False])
def test_roi_align_and_its_gradient_through_mmcv(aligned: bool) -> None:
    import_mmdet()
    from mmcv.ops import RoIAlign

    generator = torch.Generator().manual_seed(0)
    ours = torch.rand(2, 3, 9, 11, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    rois = torch.tensor([[0, 1.0, 2, 30, 25], [1, 8.0, 4, 20, 35], [1, 0.0, 0, 3, 3]], dtype=torch.float64)
    found = RoIAlign((4, 5), 0.25, sampling_ratio=2, aligned=aligned)(ours, rois)
    expected = roi_align(theirs, rois, (4, 5), 0.25, 2, aligned)
    torch.testing.assert_close(found, expected)
    weight = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def focal_loss_by_loop(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Equation 5 of Lin et al., one entry at a time; built of differentiable steps."""
    rows = []
    for row, label in zip(logits, target.tolist(), strict=True):
        entries = []
        for k, logit in enumerate(row):
            p = torch.sigmoid(logit)
            p_t, alpha_t = (p, alpha) if k == label else (1 - p, 1 - alpha)
            entries.append(-alpha_t * (1 - p_t) ** gamma * torch.log(p_t))
        rows.append(torch.stack(entries))
    return torch.stack(rows)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.7)])
def test_focal_loss_and_its_gradient_through_mmcv(gamma: float, alpha: float) -> None:
    import_mmdet()
    from mmcv.ops import sigmoid_focal_loss

    generator = torch.Generator().manual_seed(1)
    ours = (4 * torch.randn(7, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 3, 1, 0])  # 3 is background
    found = sigmoid_focal_loss(ours, target, gamma, alpha, None, "none")
    expected = focal_loss_by_loop(theirs, target, gamma, alpha)
    torch.testing.assert_close(found, expected)
    weight = torch.rand(found.shape, generator=generator, dtype=torch.float64)
    # mmcv multiplies with the incoming gradient itself; ours is the derivative of each entry by its own logit
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_focal_loss_is_finite_far_out() -> None:
    logits = torch.tensor([[200.0], [-200.0]])
    output, grad = torch.zeros(2, 1), torch.zeros(2, 1)
    target = torch.tensor([1, 0])
    mmdet_ops.sigmoid_focal_loss_forward(logits, target, EMPTY, output, gamma=2.0, alpha=0.25)
    mmdet_ops.sigmoid_focal_loss_backward(logits, target, EMPTY, grad, gamma=2.0, alpha=0.25)
    torch.testing.assert_close(output, torch.tensor([[150.0], [50.0]]))
    torch.testing.assert_close(grad, torch.tensor([[0.75], [-0.25]]))


def test_operator_that_we_do_not_have_says_which_it_is() -> None:
    if not install_operators():
        pytest.skip("mmcv has its compiled operators here")
    module = importlib.import_module("mmcv._ext")
    with pytest.raises(NotImplementedError, match=r"deform_conv_forward is one of mmcv's compiled operators"):
        module.deform_conv_forward(1, x=2)
    pooling = {
        "aligned_height": 1,
        "aligned_width": 1,
        "spatial_scale": 1.0,
        "sampling_ratio": 0,
        "pool_mode": 0,
        "aligned": True,
    }
    some = torch.zeros(1)
    for operator in (module.roi_align_forward, module.roi_align_backward):
        with pytest.raises(NotImplementedError, match="max pooling"):
            operator(some, some, some, some, some, **pooling)
    with pytest.raises(NotImplementedError, match="class weights"):
        module.sigmoid_focal_loss_forward(some[None], some.long(), some, some, gamma=2.0, alpha=0.25)


def test_stand_in_looks_like_a_module() -> None:
    if not install_operators():
        pytest.skip("mmcv has its compiled operators here")
    module = sys.modules["mmcv._ext"]
    assert isinstance(module.__spec__, importlib.machinery.ModuleSpec)
    assert not hasattr(module, "__path__")
    assert not hasattr(module, "__wrapped__")
    assert install_operators()  # again: nothing changes
    assert sys.modules["mmcv._ext"] is module


def test_compiled_operators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full mmcv has is found by its spec and never replaced."""
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    spec = importlib.machinery.ModuleSpec("mmcv._ext", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "mmcv._ext" else None)
    assert not install_operators()
    assert "mmcv._ext" not in sys.modules


def broken_import(name: str, message: str) -> Callable[..., Any]:
    real = importlib.import_module

    def import_module(wanted: str, package: str | None = None) -> Any:
        if wanted == name:
            raise ImportError(message)
        return real(wanted, package)

    return import_module


def test_missing_libgl_is_a_plugin_error_with_both_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "libGL.so.1: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(mmdet_ops.importlib, "import_module", broken_import("cv2", message))
    reason = check_opencv()
    assert reason is not None
    assert "libGL.so.1" in reason
    with pytest.raises(PluginError, match="OpenCV can not be loaded") as caught:
        import_mmdet()
    assert caught.value.exit_code == 5
    assert "apt-get install libgl1 libglib2.0-0" in str(caught.value)
    assert "pip install opencv-python-headless" in str(caught.value)


def test_missing_mmdet_is_a_plugin_error_with_the_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        mmdet_ops.importlib, "import_module", broken_import("mmdet.models", "No module named 'mmdet'")
    )
    with pytest.raises(PluginError, match=r"No module named 'mmdet'.*mmdet==3\.3\.0 mmcv-lite==2\.1\.0"):
        import_mmdet()


def test_opencv_is_fine_here() -> None:
    assert check_opencv() is None


def test_import_is_quiet_and_nothing_else_needs_it(tmp_path: Path) -> None:
    """In a fresh process: the head's module imports neither OpenCV nor mmdet; then mmdet comes without a word."""
    code = (
        "import sys\n"
        "import torch, medbench.heads.fcos, medbench.heads.yolov3, medbench.protocols.detection\n"
        "assert not {'cv2', 'mmcv', 'mmdet', 'mmengine'} & set(sys.modules), 'imported too early'\n"
        "medbench.heads.yolov3.YoloV3((8, 16, 32), 64, medbench.heads.yolov3.YoloV3Config(), 0)\n"
        "head = medbench.heads.fcos.Fcos((8, 16, 32), 64, medbench.heads.fcos.FcosConfig(), 0)\n"
        "target = head.targets(torch.tensor([[8.0, 8, 40, 40]]), torch.zeros(1, dtype=torch.int64))\n"
        "found = head([torch.zeros(1, c, 64 // c, 64 // c) for c in (8, 16, 32)])\n"
        "head.losses(found, [target])\n"
        "head.boxes(found)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
