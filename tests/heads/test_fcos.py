import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import box_iou

from medbench.heads.build import detector
from medbench.heads.detector import STRIDES
from medbench.heads.fcos import Fcos, FcosConfig
from medbench.metrics.detection import IOUS_40_75, Detections, average_precision
from medbench.seeding import drawn_from

NARROW = FcosConfig(width=32, convs=2, groups=8)
CHANNELS = (12, 20, 40)
SIDE = 128
CLASSES = 3
CELLS = 16 * 16 + 8 * 8 + 4 * 4
BOXES = [
    torch.tensor([[10.0, 20, 60, 90], [70, 30, 120, 110]]),
    torch.zeros(0, 4),
    torch.tensor([[40.0, 40, 52, 56]]),
]
LABELS = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64), torch.tensor([1])]


@pytest.fixture(scope="module")
def head() -> Fcos:
    return Fcos(CHANNELS, SIDE, NARROW, seed=3, classes=CLASSES)


def maps(batch: int, seed: int = 0, channels: tuple[int, ...] = CHANNELS, side: int = SIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(batch, c, side // s, side // s, generator=generator)
        for c, s in zip(channels, STRIDES, strict=True)
    ]


def some_predictions(batch: int, seed: int = 0, double: bool = False) -> Tensor:
    """Distances of 0 to 60 px, logits about 0."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.float64 if double else torch.float32
    raw = torch.randn(batch, CELLS, 5 + CLASSES, generator=generator, dtype=kind)
    return torch.cat([60 * raw[..., :4].sigmoid(), 2 * raw[..., 4:]], dim=2)


@pytest.mark.parametrize(
    ("side", "strides"),
    [(96, (8, 16, 32)), (224, (8, 16, 32)), (512, (8, 16, 32, 64)), (544, (8, 16, 32, 64, 128))],
)
def test_coarser_maps_are_there_where_films_can_hold_their_boxes(side: int, strides: tuple[int, ...]) -> None:
    head = Fcos(CHANNELS, side, FcosConfig(width=8, convs=1, groups=2), seed=0)
    assert head.strides == strides
    with torch.no_grad():
        predictions = head(maps(1, side=side))
    assert predictions.shape == (1, sum(math.ceil(side / s) ** 2 for s in strides), 6)
    assert predictions.dtype == torch.float32
    whole = head.targets(torch.tensor([[0.0, 0, side, side]]), torch.zeros(1, dtype=torch.int64))
    assert len(whole.positive) > 0  # the largest box that there can be is somebody's


def test_default_widths_are_the_published_ones() -> None:
    head = Fcos((512, 1024, 2048), 224, FcosConfig(), seed=0)
    assert head.neck.out_channels == 256
    assert len(head.head.cls_convs) == len(head.head.reg_convs) == 4
    assert {c.conv.out_channels for c in (*head.head.cls_convs, *head.head.reg_convs)} == {256}
    assert head.head.regress_ranges == ((-1, 64), (64, 128), (128, 1e8))


def test_seed_alone_decides_the_initial_weights() -> None:
    before = torch.get_rng_state()
    one, same, other = (Fcos(CHANNELS, SIDE, NARROW, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    weights = [name for name, value in one.items() if value.ndim == 4]
    assert len(weights) > 10
    assert not any(torch.equal(one[name], other[name]) for name in weights)


def test_predictions_are_the_same_in_train_and_eval_mode(head: Fcos) -> None:
    features = maps(2)
    with torch.no_grad():
        trained = head.train()(features)
        seen = head.eval()(features)
    torch.testing.assert_close(trained, seen)
    assert (seen[..., :4] >= 0).all()


def assignment_by_loop(
    boxes: Tensor, labels: Tensor, strides: tuple[int, ...], side: int, radius: float
) -> dict[int, tuple[int, list[float]]]:
    """From the papers, a cell and a box at a time, in float64: number of the cell -> class and l, t, r, b."""
    found = {}
    number = 0
    low = -1.0
    for stride in strides:
        high = math.inf if stride == strides[-1] else 8.0 * stride
        cells = math.ceil(side / stride)
        for row in range(cells):
            for column in range(cells):
                x, y = stride / 2 + column * stride, stride / 2 + row * stride
                best = math.inf
                for (x1, y1, x2, y2), label in zip(boxes.double().tolist(), labels.tolist(), strict=True):
                    distances = [x - x1, y - y1, x2 - x, y2 - y]
                    inside = min(distances) > 0
                    central = (
                        abs(x - (x1 + x2) / 2) < radius * stride and abs(y - (y1 + y2) / 2) < radius * stride
                    )
                    area = (x2 - x1) * (y2 - y1)
                    if inside and central and low <= max(distances) <= high and area < best:
                        best = area
                        found[number] = (label, distances)
                number += 1
        low = high
    return found


def check_assignment(head: Fcos, boxes: Tensor, labels: Tensor) -> int:
    target = head.targets(boxes, labels)
    expected = assignment_by_loop(boxes, labels, head.strides, head.side, head.config.centre_radius)
    assert target.positive.tolist() == sorted(expected)
    for cell, label, distances in zip(
        target.positive.tolist(), target.labels.tolist(), target.distances.tolist(), strict=True
    ):
        assert label == expected[cell][0]
        assert distances == pytest.approx(expected[cell][1], rel=1e-5, abs=1e-4)
    return len(expected)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_assignment_agrees_with_a_loop(head: Fcos, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 5))
    places = st.integers(0, 4 * SIDE - 8).map(lambda k: k / 4)  # multiples of a quarter are exact in float32
    boxes = []
    for _ in range(count):
        x, y = data.draw(places), data.draw(places)
        w = data.draw(st.integers(2, int(4 * (SIDE - x)))) / 4
        h = data.draw(st.integers(2, int(4 * (SIDE - y)))) / 4
        boxes.append([x, y, x + w, y + h])
    labels = data.draw(st.lists(st.integers(0, CLASSES - 1), min_size=count, max_size=count))
    check_assignment(
        head, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64)
    )


def test_assignment_where_boxes_lie_in_each_other_and_at_the_border(head: Fcos) -> None:
    nested = torch.tensor([[8.0, 8, 120, 120], [40, 40, 80, 80], [50, 44, 66, 70]])
    assert check_assignment(head, nested, torch.tensor([0, 1, 2])) > 10
    corner = torch.tensor([[SIDE - 9.0, SIDE - 9, SIDE, SIDE], [0, 0, 12, 128]])
    assert check_assignment(head, corner, torch.tensor([0, 1])) > 1
    wide = Fcos(CHANNELS, 544, replace(NARROW, centre_radius=2.5), seed=0, classes=2)
    assert (
        check_assignment(wide, torch.tensor([[0.0, 0, 544, 544], [3, 5, 300, 200]]), torch.tensor([0, 1])) > 5
    )


def test_losses_are_those_of_mmdet(head: Fcos) -> None:
    from mmengine.structures import InstanceData

    features = maps(3)
    head.train()
    ours = head.losses(head(features), [head.targets(*t) for t in zip(BOXES, LABELS, strict=True)])
    head.zero_grad()
    sum(ours.values(), torch.zeros(())).backward()
    gradient = [p.grad.clone() for p in head.parameters() if p.grad is not None]

    truth = [InstanceData(bboxes=b, labels=k) for b, k in zip(BOXES, LABELS, strict=True)]
    theirs = head.head.loss_by_feat(*head.head(head.neck(tuple(features))), truth, [{}] * 3)
    for name, other in (("class", "loss_cls"), ("box", "loss_bbox"), ("centerness", "loss_centerness")):
        torch.testing.assert_close(ours[name], theirs[other])
    head.zero_grad()
    sum(theirs.values(), torch.zeros(())).backward()
    wanted = [p.grad for p in head.parameters() if p.grad is not None]
    assert len(gradient) == len(wanted)
    for a, b in zip(gradient, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def losses_by_loop(predictions: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
    """The loss from the papers' equations, a cell at a time; built of differentiable steps."""
    zero = torch.zeros((), dtype=torch.float64)
    focal, giou, entropy, weights, positives = zero, zero, zero, 0.0, 0
    for film, film_boxes, film_labels in zip(predictions, boxes, labels, strict=True):
        owners = assignment_by_loop(film_boxes, film_labels, (8, 16, 32), SIDE, NARROW.centre_radius)
        for number, cell in enumerate(film):
            label, distances = owners.get(number, (None, []))
            for k, logit in enumerate(cell[5:]):  # RetinaNet, equation 5
                p = torch.sigmoid(logit)
                p_t, alpha_t = (p, 0.25) if k == label else (1 - p, 0.75)
                focal = focal - alpha_t * (1 - p_t) ** 2 * torch.log(p_t)
            if label is None:
                continue
            positives += 1
            left, top, right, bottom = distances
            # FCOS, equation 3
            centre = math.sqrt(min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom))
            p = torch.sigmoid(cell[4])
            entropy = entropy - centre * torch.log(p) - (1 - centre) * torch.log(1 - p)
            a, b, c, d = cell[:4]
            inter = (a.clamp(max=left) + c.clamp(max=right)) * (b.clamp(max=top) + d.clamp(max=bottom))
            union = (a + c) * (b + d) + (left + right) * (top + bottom) - inter
            hull = (a.clamp(min=left) + c.clamp(min=right)) * (b.clamp(min=top) + d.clamp(min=bottom))
            giou = giou + centre * (1 - (inter / union - (hull - union) / hull))
            weights += centre
    count = max(positives, 1)
    return {"class": focal / count, "box": giou / max(weights, 1e-6), "centerness": entropy / count}


@pytest.mark.parametrize("films", [[0, 1], [2], [1]])  # one of them without any box
def test_losses_agree_with_a_loop(head: Fcos, films: list[int]) -> None:
    boxes, labels = [BOXES[i] for i in films], [LABELS[i] for i in films]
    predictions = some_predictions(len(films), double=True).requires_grad_()
    expected = losses_by_loop(predictions, boxes, labels)
    found = head.losses(predictions, [head.targets(*t) for t in zip(boxes, labels, strict=True)])
    (wanted,) = torch.autograd.grad(sum(expected.values(), torch.zeros(())), predictions)
    (gradient,) = torch.autograd.grad(sum(found.values(), torch.zeros(())), predictions)
    for name in expected:
        torch.testing.assert_close(found[name].double(), expected[name].detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_a_batch_of_films_without_boxes_has_a_loss_and_a_gradient(head: Fcos) -> None:
    head.train()
    head.zero_grad()
    losses = head.losses(head(maps(2)), [head.targets(BOXES[1], LABELS[1])] * 2)
    assert losses["box"] == losses["centerness"] == 0
    assert losses["class"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in head.parameters())


def boxes_by_loop(film: Tensor, head: Fcos) -> list[tuple[float, int, list[float]]]:
    """Every box of every class, best first, then each against all that were kept."""
    candidates = []
    number = 0
    for stride in head.strides:
        for row in range(SIDE // stride):
            for column in range(SIDE // stride):
                x, y = stride / 2 + column * stride, stride / 2 + row * stride
                left, top, right, bottom, centre, *logits = film[number].tolist()
                corners = [x - left, y - top, x + right, y + bottom]
                box = [min(max(v, 0.0), float(SIDE)) for v in corners]
                for k, logit in enumerate(logits):
                    p = 1 / (1 + math.exp(-logit))
                    if p >= head.config.min_probability and box[2] > box[0] and box[3] > box[1]:
                        candidates.append((p / (1 + math.exp(-centre)), k, box))
                number += 1
    kept: list[tuple[float, int, list[float]]] = []
    for score, k, box in sorted(candidates, key=lambda c: -c[0]):
        others = torch.tensor([b for _, label, b in kept if label == k]).reshape(-1, 4)
        if (
            len(kept) < head.config.max_boxes
            and not (box_iou(torch.tensor([box]), others) > head.config.nms_iou).any()
        ):
            kept.append((score, k, box))
    return kept


@pytest.mark.parametrize(("seed", "shift"), [(0, 8.0), (1, 4.0), (2, 0.0)])
def test_boxes_agree_with_a_loop(head: Fcos, seed: int, shift: float) -> None:
    """From a handful of boxes to more than are kept."""
    predictions = some_predictions(2, seed)
    predictions[..., 5:] -= shift
    for film, (boxes, scores, labels) in zip(predictions, head.boxes(predictions), strict=True):
        expected = boxes_by_loop(film, head)
        assert len(boxes) == len(expected) > 3
        assert scores.tolist() == pytest.approx([score for score, _, _ in expected], rel=1e-5)
        assert labels.tolist() == [k for _, k, _ in expected]
        torch.testing.assert_close(boxes, torch.tensor([b for _, _, b in expected]), rtol=1e-5, atol=1e-4)


def test_boxes_are_those_of_mmdet(head: Fcos) -> None:
    from mmengine.config import ConfigDict

    predictions = some_predictions(2, seed=4)
    predictions[..., 5:] -= 3
    predictions[..., :4] += 1  # so that no box is empty
    settings = ConfigDict(
        nms_pre=CELLS * CLASSES,
        min_bbox_size=0,
        score_thr=NARROW.min_probability,
        nms={"type": "nms", "iou_threshold": NARROW.nms_iou},
        max_per_img=NARROW.max_boxes,
    )
    sides = [SIDE // s for s in head.strides]
    levels = predictions.split([side * side for side in sides], dim=1)
    as_maps = [
        level.transpose(1, 2).reshape(2, -1, side, side) for level, side in zip(levels, sides, strict=True)
    ]
    expected = head.head.predict_by_feat(
        [m[:, 5:] for m in as_maps],
        [m[:, :4] for m in as_maps],
        [m[:, 4:5] for m in as_maps],
        [{"img_shape": (SIDE, SIDE)}] * 2,
        settings,
    )
    for (boxes, scores, labels), wanted in zip(head.boxes(predictions), expected, strict=True):
        assert len(boxes) == NARROW.max_boxes
        torch.testing.assert_close(scores, wanted.scores)
        torch.testing.assert_close(boxes, wanted.bboxes)
        assert torch.equal(labels, wanted.labels)


def test_a_target_predicted_exactly_gives_back_its_box(head: Fcos) -> None:
    box, label = torch.tensor([[30.0, 44, 71, 103]]), torch.tensor([1])
    target = head.targets(box, label)
    predictions = torch.full((1, CELLS, 5 + CLASSES), -20.0)
    predictions[0, target.positive, :4] = target.distances
    predictions[0, target.positive, 4] = 20.0
    predictions[0, target.positive, 5 + 1] = 20.0
    boxes, scores, labels = head.boxes(predictions)[0]
    torch.testing.assert_close(boxes, box, rtol=0, atol=1e-3)
    assert scores.tolist() == pytest.approx([1.0])
    assert labels.tolist() == [1]


def test_nothing_is_found_where_nothing_is_probable_or_anything_diverged(head: Fcos) -> None:
    predictions = torch.zeros(2, CELLS, 5 + CLASSES)
    predictions[..., :4] = 9
    predictions[..., 5:] = -9
    predictions[1] = torch.nan
    for boxes, scores, labels in head.boxes(predictions):
        assert boxes.shape == (0, 4)
        assert len(scores) == len(labels) == 0


def test_side_must_fit_the_strides() -> None:
    with pytest.raises(ValueError, match="multiple of 32 pixels, found 100"):
        Fcos(CHANNELS, 100, NARROW, seed=0)


def test_forward_under_bfloat16_gives_float32(head: Fcos) -> None:
    head.eval()
    features = maps(2)
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(features)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.1)
    losses = head.losses(rough, [head.targets(*t) for t in zip(BOXES[:2], LABELS[:2], strict=True)])
    assert all(value.dtype == torch.float32 for value in losses.values())


class Stages(nn.Module):
    """A small CNN with maps at strides 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, stride in ((1, 16, 4), (16, 32, 2), (32, 48, 2), (48, 64, 2))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        found = []
        for stage in self.stages:
            images = stage(images)
            found.append(images)
        return found[1:]


class Patches(nn.Module):
    """The patch embedding of a ViT, and nothing after it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 96, 16, 16)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.embed(images)]


def xywh(boxes: Tensor) -> Any:
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).double().numpy()


@pytest.mark.parametrize("vit", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_overfits_eight_films_of_two_classes_with_an_encoder_that_learns(vit: bool) -> None:
    """Bright and dark squares on noise; one film is empty, one box touches two borders."""
    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(8, 1, 64, 64, generator=generator)
    boxes, labels = [], []
    for i in range(8):
        x, y, w, h = (4 + 6 * i) % 32, (10 + 14 * i) % 30, 18 + 2 * (i % 4), 26 - 2 * (i % 3)
        if i == 6:
            x, y = 64 - w, 64 - h
        if i != 5:
            images[i, :, y : y + h, x : x + w] += 1 - 2 * (i % 2)
        boxes.append(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)[: int(i != 5)])
        labels.append(torch.tensor([i % 2])[: int(i != 5)])
    with drawn_from(0):
        encoder: nn.Module = Patches() if vit else Stages()
    channels = (96,) if vit else (32, 48, 64)
    head = detector("fcos", channels, 64, 2, NARROW, seed=0, patches=vit)
    targets = [head.targets(*t) for t in zip(boxes, labels, strict=True)]
    optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    for step in range(100):
        if step == 75:
            optimiser.param_groups[0]["lr"] = 5e-4
        loss = torch.stack(list(head.losses(head(encoder(images)), targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    encoder.eval()
    head.eval()
    with torch.no_grad():
        found = head.boxes(head(encoder(images)))
    for k in range(2):
        detections = Detections(
            [xywh(b[t == k]) for b, t in zip(boxes, labels, strict=True)],
            [xywh(b[t == k]) for b, _, t in found],
            [np.asarray(s[t == k].double()) for _, s, t in found],
        )
        assert average_precision(detections, IOUS_40_75).mean() > 0.95


@pytest.mark.gpu
def test_head_works_on_a_gpu(head: Fcos) -> None:
    device = torch.device("cuda")
    gpu = Fcos(CHANNELS, SIDE, NARROW, seed=3, classes=CLASSES).to(device)
    targets = [head.targets(*t) for t in zip(BOXES, LABELS, strict=True)]
    assert all(
        torch.equal(a.distances, b.distances)
        for a, b in zip(targets, [gpu.targets(*t) for t in zip(BOXES, LABELS, strict=True)], strict=True)
    )
    predictions = some_predictions(3)
    expected = head.losses(predictions, targets)
    for name, value in gpu.losses(predictions.to(device), targets).items():
        torch.testing.assert_close(value.cpu(), expected[name])
    for ours, theirs in zip(gpu.boxes(predictions.to(device)), head.boxes(predictions), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a.cpu(), b)
    with torch.autocast("cuda", torch.bfloat16):
        rough = gpu([m.to(device) for m in maps(3)])
    loss = torch.stack(list(gpu.losses(rough, targets).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
