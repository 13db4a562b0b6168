from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.heads.build import detector
from medbench.heads.detector import Detector
from medbench.heads.fcos import FcosConfig
from medbench.heads.feature_pyramid import FeaturePyramid, OverPatches
from medbench.heads.yolov3 import YoloV3Config
from medbench.heads.yolov3_mgca import YoloV3Mgca, YoloV3MgcaConfig
from medbench.seeding import drawn_from

WIDTH = 48


def patches(batch: int, seed: int = 0, cells: int = 4) -> Tensor:
    return torch.randn(batch, WIDTH, cells, cells, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("cells", [6, 14])  # 96 and 224 px
def test_three_maps_at_strides_8_16_32(cells: int) -> None:
    pyramid = FeaturePyramid(WIDTH, seed=0)
    maps = pyramid([patches(2, cells=cells)])
    assert pyramid.channels == (16, 16, 16)
    assert [tuple(m.shape) for m in maps] == [(2, 16, n, n) for n in (2 * cells, cells, cells // 2)]


def test_a_vit_b_gets_the_width_of_the_paper() -> None:
    assert FeaturePyramid(768, seed=0).channels == (256, 256, 256)
    assert FeaturePyramid(12, seed=0).channels == (8, 8, 8)


def norm_by_loop(x: Tensor, norm: Any) -> Tensor:
    """Each cell of (B, C, H, W) by its own mean and deviation over channels."""
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                cell = x[b, :, i, j]
                centred = cell - cell.mean()
                out[b, :, i, j] = centred / (centred.square().mean() + 1e-6).sqrt() * norm.weight + norm.bias
    return out


def test_maps_agree_with_their_steps_one_by_one() -> None:
    pyramid = FeaturePyramid(WIDTH, seed=1).double()
    with torch.no_grad():
        for name, parameter in pyramid.named_parameters():
            if ".2." in name or ".4." in name:  # norms, which begin as 1 and 0
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    grid = patches(2).double()
    finer: Any = pyramid.levels[0]
    deconvolved = torch.zeros(2, WIDTH // 2, 8, 8, dtype=torch.float64)
    for di in range(2):
        for dj in range(2):  # stride 2, kernel 2: each cell makes four, independent of its neighbours
            one = torch.einsum("bchw,cd->bdhw", grid, finer[0].weight[:, :, di, dj])
            deconvolved[:, :, di::2, dj::2] = one + finer[0].bias[:, None, None]
    pooled = grid.reshape(2, WIDTH, 2, 2, 2, 2).amax((3, 5))
    for level, start, found in zip(pyramid.levels, (deconvolved, grid, pooled), pyramid([grid]), strict=True):
        steps: Any = level
        x = norm_by_loop(F.conv2d(start, steps[1].weight), steps[2])
        expected = norm_by_loop(F.conv2d(x, steps[3].weight, padding=1), steps[4])
        torch.testing.assert_close(found, expected)


def test_seed_alone_decides_and_gradients_reach_everything() -> None:
    before = torch.get_rng_state()
    one, same, other = (FeaturePyramid(WIDTH, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    grid = patches(2).requires_grad_()
    sum((m.square() * torch.rand(m.shape)).sum() for m in one([grid])).backward()
    for tensor in (grid, *one.parameters()):
        assert tensor.grad is not None and bool(tensor.grad.abs().sum() > 0)


def test_detector_by_name_and_by_encoder() -> None:
    config = YoloV3Config()
    over_cnn: Any = detector("yolov3", (512, 1024, 2048), 64, 1, config, seed=0)
    assert over_cnn.neck.out_channels == [512, 256, 128]
    over_vit: Any = detector("yolov3", (768,), 64, 2, config, seed=0, patches=True)
    assert isinstance(over_vit, OverPatches)
    assert over_vit.detector.neck.out_channels == [256, 128, 64]
    assert (over_vit.side, over_vit.classes) == (64, 2)
    assert over_vit.detector.config.anchors == config.anchors
    published: Any = detector("yolov3_mgca", (768,), 64, 1, YoloV3MgcaConfig(), seed=0, patches=True)
    assert type(published.detector) is YoloV3Mgca
    assert published.detector.config == YoloV3MgcaConfig(neck_shares=(1, 2, 4))
    narrow: Any = detector("fcos", (768,), 64, 1, FcosConfig(width=64), seed=0, patches=True)
    assert narrow.detector.neck.in_channels == [256, 256, 256]
    assert narrow.detector.config == FcosConfig(width=64)


def test_over_patches_is_the_detector_over_the_pyramid() -> None:
    over = detector("yolov3", (WIDTH,), 64, 1, YoloV3Config(), seed=0, patches=True)
    assert isinstance(over, Detector) and isinstance(over, OverPatches)
    over.eval()
    grid = patches(2)
    boxes, labels = torch.tensor([[5.0, 8, 30, 40]]), torch.zeros(1, dtype=torch.int64)
    with torch.no_grad():
        predictions = over([grid])
        inner = over.detector(over.pyramid([grid]))
        assert torch.equal(predictions, inner)
        targets = [over.targets(boxes, labels)] * 2
        assert over.losses(predictions, targets) == over.detector.losses(inner, targets)
    assert len(over.boxes(predictions)) == 2


def test_detector_over_patches_overfits_eight_films() -> None:
    """Squares on noise; the patches are those of an embedding that is trained too."""
    from medbench.metrics.detection import IOUS_40_75, Detections, average_precision

    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(8, 1, 64, 64, generator=generator)
    boxes = []
    for i in range(8):
        x, y, w, h = (4 + 6 * i) % 32, (10 + 14 * i) % 30, 18 + 2 * (i % 4), 26 - 2 * (i % 3)
        images[i, :, y : y + h, x : x + w] += i != 5
        boxes.append(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)[: int(i != 5)])
    with drawn_from(0):
        embed = nn.Conv2d(1, 96, 16, 16)
    head = detector("yolov3", (96,), 64, 1, YoloV3Config(), seed=0, patches=True)
    targets = [head.targets(b, torch.zeros(len(b), dtype=torch.int64)) for b in boxes]
    optimiser = torch.optim.AdamW([*embed.parameters(), *head.parameters()], lr=3e-3)
    for step in range(120):
        if step == 90:
            optimiser.param_groups[0]["lr"] = 5e-4
        loss = torch.stack(list(head.losses(head([embed(images)]), targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    head.eval()
    with torch.no_grad():
        found = head.boxes(head([embed(images)]))

    def xywh(b: Tensor) -> Any:
        return torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], dim=1).double().numpy()

    detections = Detections(
        [xywh(b) for b in boxes], [xywh(b) for b, _, _ in found], [s.double().numpy() for _, s, _ in found]
    )
    assert average_precision(detections, IOUS_40_75).mean() > 0.9
