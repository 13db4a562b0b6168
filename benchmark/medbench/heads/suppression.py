"""Non-maximum suppression of a film's boxes, by class."""

from torch import Tensor

from medbench.heads.mmdet_ops import nms


def without_doubles(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, classes: int, iou: float, most: int
) -> Tensor:
    """Positions of the best boxes that overlap no better one of their class, best first.

    What the best boxes leave of each other does not depend on the worse ones, and its time grows with the square of
    their number: mostly the first few hundred are enough.

    Args:
        boxes: (N, 4) float, x1 y1 x2 y2.
        scores: (N,) float, falling.
        labels: (N,) int64.
        classes: how many classes there are; 1 where labels say nothing.
        iou: a box that overlaps a better one by more than this is dropped.
        most: boxes that are kept.

    Returns:
        (K,) int64, K at most `most`.
    """
    if classes > 1:  # side by side, so that boxes of two classes never meet
        boxes = boxes.double().clamp(-1e6, 1e6) + (4e6 * labels)[:, None]
    some = 4 * most
    while True:
        best = nms(boxes[:some], scores[:some].to(boxes), iou, offset=0)
        if len(best) >= most or some >= len(boxes):
            return best[:most]
        some *= 4
