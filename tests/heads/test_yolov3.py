from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medbench.heads.detector import STRIDES
from medbench.heads.yolov3 import Targets, YoloV3, YoloV3Config

CONFIG = YoloV3Config()
CHANNELS = (12, 20, 40)
SIDE = 128


@pytest.fixture(scope="module")
def head() -> YoloV3:
    return YoloV3(CHANNELS, SIDE, CONFIG, seed=3)


@pytest.fixture(scope="module", params=[1, 3])
def any_head(request: pytest.FixtureRequest) -> YoloV3:
    """For one class and for three."""
    return YoloV3(CHANNELS, SIDE, CONFIG, seed=3, classes=request.param)


def maps(batch: int, seed: int = 0, channels: tuple[int, ...] = CHANNELS, side: int = SIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.rand(batch, c, side // s, side // s, generator=generator)
        for c, s in zip(channels, STRIDES, strict=True)
    ]


BOXES = [
    torch.tensor([[10.0, 20, 60, 90], [70, 30, 120, 110]]),
    torch.zeros(0, 4),
    torch.tensor([[40.0, 40, 52, 56]]),
]


def labels_of(head: YoloV3, boxes: Tensor) -> Tensor:
    """Classes in turn, the last one first."""
    return (head.classes - 1 - torch.arange(len(boxes))) % head.classes


def targets_of(head: YoloV3, boxes: list[Tensor]) -> list[Targets]:
    return [head.targets(b, labels_of(head, b)) for b in boxes]


def instances(head: YoloV3, boxes: list[Tensor]) -> list[Any]:
    from mmengine.structures import InstanceData

    return [InstanceData(bboxes=b, labels=labels_of(head, b)) for b in boxes]


@pytest.mark.parametrize(
    ("channels", "side", "widths"),
    [
        ((512, 1024, 2048), 224, [512, 256, 128]),  # ResNet-50: the widths of MGCA
        ((128, 256, 512), 128, [128, 64, 32]),  # ResNet-18
        ((384, 384, 384), 64, [96, 48, 24]),  # a ViT: all maps alike
        ((8, 16, 32), 32, [8, 8, 8]),  # a very small network
    ],
)
def test_neck_follows_the_encoder(channels: tuple[int, int, int], side: int, widths: list[int]) -> None:
    head = YoloV3(channels, side, CONFIG, seed=0)
    assert head.neck.out_channels == widths
    predictions = head(maps(2, channels=channels, side=side))
    cells = sum((side // s) ** 2 for s in STRIDES)
    assert predictions.shape == (2, 3 * cells, 6)
    assert predictions.dtype == torch.float32


def test_anchors_shrink_with_the_image() -> None:
    head = YoloV3(CHANNELS, 224, CONFIG, seed=0)
    anchors = head.head.prior_generator.base_anchors  # x1 y1 x2 y2 about a cell's centre, coarse first
    sizes = [[((b[2] - b[0]).item(), (b[3] - b[1]).item()) for b in level] for level in anchors]
    for level, expected in zip(reversed(sizes), CONFIG.anchors, strict=True):
        for size, (w, h) in zip(level, expected, strict=True):
            assert size == pytest.approx((w * 224 / 416, h * 224 / 416), rel=1e-5)


def test_seed_alone_decides_the_initial_weights() -> None:
    before = torch.get_rng_state()
    one, same, other = (YoloV3(CHANNELS, SIDE, CONFIG, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    weights = [name for name in one if name.endswith("conv.weight")]
    assert weights
    assert not any(torch.equal(one[name], other[name]) for name in weights)


def test_losses_are_those_of_mmdet(any_head: YoloV3) -> None:
    """Targets made once and one sum over all anchors give what mmdet computes from boxes, level by level."""
    head, features = any_head, maps(3)
    head.train()
    ours = head.losses(head(features), targets_of(head, BOXES))
    head.zero_grad()
    sum(ours.values(), torch.zeros(())).backward()
    gradient = [p.grad.clone() for p in head.parameters() if p.grad is not None]

    (levels,) = head.head(head.neck(tuple(features)))
    theirs = head.head.loss_by_feat(levels, instances(head, BOXES), [{}] * 3)
    names = {"class": "loss_cls", "objectness": "loss_conf", "centre": "loss_xy", "size": "loss_wh"}
    for name, value in ours.items():
        torch.testing.assert_close(value, sum(theirs[names[name]]) / 3)
    head.zero_grad()
    (sum(sum(terms) for terms in theirs.values()) / 3).backward()
    for a, p in zip(gradient, head.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=1e-3, atol=1e-6)


def losses_by_loop(
    predictions: Tensor, values: Tensor, states: Tensor, config: YoloV3Config
) -> dict[str, Tensor]:
    """The loss from its definition, an anchor at a time. `states`: 1 positive, 0 negative, -1 ignored."""
    terms = {name: torch.zeros((), dtype=torch.float64) for name in ("class", "objectness", "centre", "size")}

    def entropy(logit: Tensor, target: Tensor) -> Tensor:
        p = torch.sigmoid(logit)
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))

    for anchor, value, state in zip(
        predictions.flatten(0, 1), values.flatten(0, 1), states.flatten(), strict=True
    ):
        if state >= 0:
            terms["objectness"] += config.weight_objectness * entropy(anchor[4], state.double())
        if state == 1:
            terms["class"] += config.weight_class * sum(entropy(anchor[k], value[k]) for k in (5, 6))
            terms["centre"] += config.weight_centre * sum(entropy(anchor[k], value[k]) for k in (0, 1))
            terms["size"] += config.weight_size * sum((anchor[k] - value[k]) ** 2 for k in (2, 3))
    return {name: term / len(predictions) for name, term in terms.items()}


def test_losses_agree_with_a_loop() -> None:
    config = replace(CONFIG, weight_class=0.7, weight_objectness=1.3, weight_centre=2.5, weight_size=0.4)
    other = YoloV3(CHANNELS, 64, config, seed=0, classes=2)
    boxes = [torch.tensor([[5.0, 8, 30, 40]]), torch.zeros(0, 4)]
    targets = targets_of(other, boxes)
    generator = torch.Generator().manual_seed(5)
    predictions = torch.randn(2, len(targets[0].negative), 7, generator=generator, dtype=torch.float64)
    predictions.requires_grad_()
    values, states = (
        torch.zeros(predictions.shape, dtype=torch.float64),
        torch.full(predictions.shape[:2], -1),
    )
    for i, target in enumerate(targets):
        states[i, target.negative] = 0
        states[i, target.positive] = 1
        values[i, target.positive] = target.values.double()
    expected = losses_by_loop(predictions, values, states, config)
    found = other.losses(predictions, targets)
    (wanted,) = torch.autograd.grad(sum(expected.values(), torch.zeros(())), predictions)
    (gradient,) = torch.autograd.grad(sum(found.values(), torch.zeros(())), predictions)
    for name in expected:
        # mmdet computes in float32 whatever it is given
        torch.testing.assert_close(found[name].double(), expected[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_targets_mean_the_boxes(head: YoloV3) -> None:
    """An anchor that predicts its target exactly gives back its box."""
    box = torch.tensor([[30.0, 44, 71, 103]])
    target = head.targets(box, torch.zeros(1, dtype=torch.int64))
    assert len(target.positive) > 0
    assert not target.negative[target.positive].any()
    predictions = torch.full((1, len(target.negative), 6), -20.0)
    values = target.values.clone()
    values[:, :2] = torch.logit(values[:, :2])  # centres are predicted through a sigmoid
    values[:, 4:] = 20.0
    predictions[0, target.positive] = values
    found, scores, _ = head.boxes(predictions)[0]
    torch.testing.assert_close(found, box, rtol=0, atol=1e-2)
    assert scores.tolist() == pytest.approx([1.0])


def test_image_without_boxes_is_all_negative(head: YoloV3) -> None:
    target = head.targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert target.negative.all()
    assert len(target.positive) == 0
    loss = head.losses(torch.zeros(1, len(target.negative), 6), [target])
    assert loss["class"] == loss["centre"] == loss["size"] == 0
    assert loss["objectness"] > 0


def test_box_in_the_last_corner_has_a_cell(head: YoloV3) -> None:
    (target,) = targets_of(head, [torch.tensor([[SIDE - 1.0, SIDE - 1, SIDE, SIDE]])])
    assert len(target.positive) > 0


@pytest.mark.parametrize(("seed", "shift", "size"), [(0, 6, 0), (1, 2, 0), (2, -2, 0), (3, -2, 3)])
def test_boxes_are_those_of_mmdet(any_head: YoloV3, seed: int, shift: float, size: float) -> None:
    """From few boxes to all; with large ones the first few hundred leave less than a hundred."""
    from mmengine.config import ConfigDict

    head, channels = any_head, 5 + any_head.classes
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randn(3, 1008, channels, generator=generator) * 2
    predictions[..., 4] -= shift
    predictions[..., 2:4] = predictions[..., 2:4] / 4 + size
    settings = ConfigDict(
        nms_pre=1008 * head.classes,
        min_bbox_size=0,
        score_thr=0,
        conf_thr=CONFIG.min_objectness,
        nms={"type": "nms", "iou_threshold": CONFIG.nms_iou, "split_thr": 0},
        max_per_img=CONFIG.max_boxes,
    )
    sides = [SIDE // s for s in reversed(STRIDES)]
    levels = predictions.split([3 * side * side for side in sides], dim=1)
    as_maps = [
        level.reshape(-1, side, side, 3 * channels).permute(0, 3, 1, 2).clone()
        for level, side in zip(levels, sides, strict=True)
    ]
    expected = head.head.predict_by_feat(as_maps, [{}] * 3, settings)
    for (boxes, scores, labels), wanted in zip(head.boxes(predictions), expected, strict=True):
        assert len(boxes) > 10
        torch.testing.assert_close(scores, wanted.scores)
        assert labels.tolist() == wanted.labels.tolist()
        torch.testing.assert_close(boxes, wanted.bboxes.clamp(0, SIDE))


def test_boxes_are_inside_sorted_few_and_apart(head: YoloV3) -> None:
    head.eval()
    with torch.no_grad():
        predictions = head(maps(2)) + 3 * torch.randn(2, 1008, 6, generator=torch.Generator().manual_seed(0))
    before = predictions.clone()
    for boxes, scores, _ in head.boxes(predictions):
        assert 0 < len(boxes) <= CONFIG.max_boxes
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert (scores.diff() <= 0).all()
        assert ((scores > 0) & (scores <= 1)).all()
    assert torch.equal(predictions, before)


def test_nothing_is_found_where_no_anchor_is_confident(head: YoloV3) -> None:
    predictions = torch.zeros(2, 1008, 6)
    predictions[..., 4] = -9  # sigmoid: 0.0001
    predictions[1, 0, 4] = -5  # sigmoid: 0.0067
    (none, no_scores, no_labels), (one, score, label) = head.boxes(predictions)
    assert none.shape == (0, 4)
    assert no_scores.shape == no_labels.shape == (0,)
    assert label.tolist() == [0]
    assert one.shape == (1, 4)
    assert score.item() == pytest.approx(0.5 * torch.tensor(-5.0).sigmoid().item())


def test_a_head_that_diverged_gives_no_box(head: YoloV3) -> None:
    boxes, scores, labels = head.boxes(torch.full((1, 1008, 6), torch.nan))[0]
    assert len(boxes) == len(scores) == len(labels) == 0


def test_an_anchor_may_give_a_box_of_each_class() -> None:
    head = YoloV3(CHANNELS, SIDE, CONFIG, seed=3, classes=3)
    predictions = torch.full((1, 1008, 8), -20.0)
    predictions[0, 500] = torch.tensor([0.0, 0, 0, 0, 20, 2, -20, 3])
    predictions[0, 501] = torch.tensor([0.0, 0, torch.inf, 0, 20, -20, 20, -20])
    boxes, scores, labels = head.boxes(predictions)[0]
    assert labels.tolist()[:3] == [1, 2, 0]
    assert scores.tolist()[1:3] == pytest.approx(torch.tensor([3.0, 2.0]).sigmoid().tolist())
    assert torch.equal(boxes[1], boxes[2])
    assert (scores[3:] < 1e-6).all()


def test_side_must_fit_the_strides() -> None:
    with pytest.raises(ValueError, match="multiple of 32 pixels, found 100"):
        YoloV3(CHANNELS, 100, CONFIG, seed=0)


def test_forward_under_bfloat16_gives_float32(head: YoloV3) -> None:
    head.eval()
    features = maps(2)
    with torch.no_grad():
        exact = head(features)
        with torch.autocast("cpu", torch.bfloat16):
            rough = head(features)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)
    loss = head.losses(rough, targets_of(head, BOXES[:2]))
    assert all(value.dtype == torch.float32 for value in loss.values())


def test_overfits_eight_films_with_an_encoder_that_learns() -> None:
    """Squares on noise, and a small network trained together with the head: every box is found."""
    from medbench.metrics.detection import IOUS_40_75, Detections, average_precision

    generator = torch.Generator().manual_seed(0)
    images = 0.2 * torch.rand(8, 3, 64, 64, generator=generator)
    boxes = []
    for i in range(8):
        x, y = (4 + 6 * i) % 32, (10 + 14 * i) % 30
        w, h = 18 + 2 * (i % 4), 26 - 2 * (i % 3)
        images[i, :, y : y + h, x : x + w] += 1
        boxes.append(
            torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32) if i != 5 else torch.zeros(0, 4)
        )
        if i == 5:
            images[i] = 0.2 * torch.rand(3, 64, 64, generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Conv2d(a, b, 3, stride, 1), torch.nn.BatchNorm2d(b), torch.nn.ReLU())
            for a, b, stride in ((3, 16, 4), (16, 32, 2), (32, 48, 2), (48, 64, 2))
        )
    head = YoloV3((32, 48, 64), 64, CONFIG, seed=0)
    targets = targets_of(head, boxes)
    optimiser = torch.optim.AdamW([*stages.parameters(), *head.parameters()], lr=3e-3)

    def features() -> list[Tensor]:
        x, found = images, []
        for stage in stages:
            x = stage(x)
            found.append(x)
        return found[1:]

    for step in range(160):
        if step == 120:
            optimiser.param_groups[0]["lr"] = 5e-4
        loss = torch.stack(list(head.losses(head(features()), targets).values())).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    stages.eval()
    head.eval()
    with torch.no_grad():
        found = head.boxes(head(features()))
    as_xywh = [torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], dim=1).double().numpy() for b in boxes]
    predicted = [torch.cat([b[:, :2], b[:, 2:] - b[:, :2]], dim=1).double().numpy() for b, _, _ in found]
    detections = Detections(as_xywh, predicted, [s.double().numpy() for _, s, _ in found])
    assert average_precision(detections, IOUS_40_75).mean() > 0.9


@pytest.mark.gpu
def test_head_works_on_a_gpu() -> None:
    head = YoloV3(CHANNELS, SIDE, CONFIG, seed=3).cuda()
    features = [m.cuda() for m in maps(3)]
    targets = targets_of(head, BOXES)
    with torch.autocast("cuda", torch.bfloat16):
        predictions = head(features)
    loss = torch.stack(list(head.losses(predictions, targets).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(len(boxes) == len(scores) for boxes, scores, _ in head.eval().boxes(predictions.detach()))
