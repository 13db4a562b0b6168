import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medbench.heads.detector import STRIDES
from medbench.heads.yolov3 import YoloV3
from medbench.heads.yolov3_mgca import YoloV3Mgca, YoloV3MgcaConfig

CONFIG = YoloV3MgcaConfig()
CHANNELS = (12, 20, 40)
SIDE = 64
ANCHORS = 3 * sum((SIDE // s) ** 2 for s in STRIDES)


@pytest.fixture(scope="module")
def head() -> YoloV3Mgca:
    return YoloV3Mgca(CHANNELS, SIDE, CONFIG, seed=3, classes=2)


BOXES = [
    # A large box, a small one, and one in the cell of the first whose best anchors are the same.
    torch.tensor([[5.0, 8, 50, 60], [40, 41, 44, 47], [6, 9, 50, 60]], dtype=torch.float64),
    torch.zeros(0, 4, dtype=torch.float64),
    torch.tensor([[30.0, 2, 63, 33], [0, 0, 64, 64]], dtype=torch.float64),
]
LABELS = [torch.tensor([0, 1, 1]), torch.zeros(0, dtype=torch.int64), torch.tensor([1, 0])]


def loss_by_loop(predictions: Tensor, config: YoloV3MgcaConfig, classes: int) -> dict[str, Tensor]:
    """Scale by scale and anchor by anchor, from the text of the protocol."""
    names = ("class", "objectness", "nothing", "centre", "size")
    terms = {name: torch.zeros((), dtype=torch.float64) for name in names}
    start = 0

    def entropy(logit: Tensor, target: float) -> Tensor:
        p = torch.sigmoid(logit)
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))

    for stride, level in zip(reversed(STRIDES), reversed(config.anchors), strict=True):
        cells = SIDE // stride
        shapes = [(w * SIDE / 416 / stride, h * SIDE / 416 / stride) for w, h in level]
        maps = predictions[:, start : start + 3 * cells * cells].unflatten(1, (cells, cells, 3))
        start += 3 * cells * cells
        number = len(predictions) * 3 * cells * cells
        for image, (boxes, labels) in enumerate(zip(BOXES, LABELS, strict=True)):
            wanted: dict[tuple[int, int, int], list[float]] = {}
            kinds: dict[tuple[int, int, int], set[int]] = {}
            quiet: set[tuple[int, int, int]] = set()
            for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
                x, y, w, h = (v / stride for v in ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1))
                fits = []
                for k, (aw, ah) in enumerate(shapes):
                    inside = (min(w, aw) + 1) * (min(h, ah) + 1)
                    fit = inside / ((w + 1) * (h + 1) + (aw + 1) * (ah + 1) - inside)
                    fits.append(fit)
                    if fit > 0.5:
                        quiet.add((int(y), int(x), k))
                best = fits.index(max(fits))
                at = (int(y), int(x), best)
                sizes = [math.log(v / a) for v, a in zip((w, h), shapes[best], strict=True)]
                wanted[at] = [x - int(x), y - int(y), *sizes]
                kinds.setdefault(at, set()).add(label)
            for row in range(cells):
                for column in range(cells):
                    for k in range(3):
                        anchor, at = maps[image, row, column, k], (row, column, k)
                        if at not in quiet:
                            terms["nothing"] += 0.5 * entropy(anchor[4], 0) / number
                        if at in wanted:
                            target = wanted[at]
                            terms["objectness"] += entropy(anchor[4], 1) / number
                            terms["centre"] += (
                                2.5 * sum(entropy(anchor[j], target[j]) for j in (0, 1)) / number
                            )
                            terms["size"] += 2.5 * sum((anchor[j] - target[j]) ** 2 for j in (2, 3)) / number
                            for c in range(classes):
                                terms["class"] += entropy(anchor[5 + c], float(c in kinds[at])) / (
                                    number * classes
                                )
    return terms


def test_losses_agree_with_a_loop(head: YoloV3Mgca) -> None:
    generator = torch.Generator().manual_seed(5)
    predictions = torch.randn(3, ANCHORS, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = loss_by_loop(predictions, CONFIG, 2)
    found = head.losses(predictions, [head.targets(b, k) for b, k in zip(BOXES, LABELS, strict=True)])
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-12)  # shares are float32
        if expected[name] != 0:
            (wanted,) = torch.autograd.grad(expected[name], predictions, retain_graph=True)
            (gradient,) = torch.autograd.grad(found[name], predictions, retain_graph=True)
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-12)


def test_a_box_has_an_anchor_on_every_scale(head: YoloV3Mgca) -> None:
    target = head.targets(torch.tensor([[10.0, 12, 40, 50]]), torch.tensor([1]))
    scales = torch.bucketize(target.positive, torch.tensor([12, 12 + 48]), right=True)
    assert scales.tolist() == [0, 1, 2]
    assert target.values[:, 5:].tolist() == [[0, 1]] * 3


def test_anchors_that_fit_are_ignored_and_a_positive_that_does_not_is_negative_too(head: YoloV3Mgca) -> None:
    """A box as large as the film: on the finest scale even the best anchor has another shape."""
    target = head.targets(torch.tensor([[0.0, 0, 64, 64]]), torch.tensor([0]))
    coarse, fine = target.positive[0], target.positive[2]
    assert not target.negative[coarse]
    assert target.negative[fine]


def test_film_without_boxes_asks_for_nothing(head: YoloV3Mgca) -> None:
    target = head.targets(BOXES[1].float(), LABELS[1])
    assert target.negative.all() and not len(target.positive)
    losses = head.losses(torch.zeros(1, ANCHORS, 7), [target])
    assert losses["nothing"] == pytest.approx(3 * 0.5 * torch.log(torch.tensor(2.0)).item())
    assert all(value == 0 for name, value in losses.items() if name != "nothing")


def test_targets_mean_the_boxes(head: YoloV3Mgca) -> None:
    box = torch.tensor([[12.0, 20, 41, 53]])
    target = head.targets(box, torch.tensor([1]))
    predictions = torch.full((1, ANCHORS, 7), -20.0)
    values = target.values.clone()
    values[:, :2] = torch.logit(values[:, :2])
    values[:, 4] = torch.tensor([3.0, 2.0, 1.0])
    values[:, 5:] = torch.tensor([-20.0, -19.0])
    predictions[0, target.positive] = values
    found, scores, labels = head.boxes(predictions)[0]
    torch.testing.assert_close(found, box, rtol=0, atol=1e-2)
    assert scores.tolist() == pytest.approx([torch.sigmoid(torch.tensor(3.0)).item()])  # not times the class
    assert labels.tolist() == [1]


def test_an_anchor_gives_a_box_of_one_class(head: YoloV3Mgca) -> None:
    predictions = torch.full((1, ANCHORS, 7), -20.0)
    predictions[0, 7] = torch.tensor([0.0, 0, 0, 0, 5, 4, 3])
    _, scores, labels = head.boxes(predictions)[0]
    assert len(scores) == 1 and labels.tolist() == [0]


def test_network_is_that_of_the_other_head_with_other_weights() -> None:
    before = torch.get_rng_state()
    ours, theirs = (
        YoloV3Mgca((512, 1024, 2048), 224, CONFIG, 0).state_dict(),
        YoloV3((512, 1024, 2048), 224, replace(CONFIG), 0).state_dict(),
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in theirs.items()}
    assert not torch.equal(ours["head.convs_pred.0.weight"], theirs["head.convs_pred.0.weight"])
    # Embeddings 512/1024, 256/512, 128/256, lateral 256 and 128.
    blocks = [(1024, 512), (512, 256), (256, 128)]
    found = [tuple(ours[f"neck.detect{k}.conv4.conv.weight"].shape[:2]) for k in (1, 2, 3)]
    assert found == blocks
    assert [ours[f"neck.conv{k}.conv.weight"].shape[0] for k in (1, 2)] == [256, 128]


def test_seed_alone_decides_the_initial_weights() -> None:
    one, same, other = (YoloV3Mgca(CHANNELS, SIDE, CONFIG, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["head.convs_pred.0.weight"], other["head.convs_pred.0.weight"])
