"""Free-response ROC: how many lesions are found at how many false alarms an image.

A reader goes down the list of boxes, best first, and stops at some score. What is found so far is the sensitivity, what
was wrong so far, divided by the number of images (healthy ones, too), the false alarms. As in LUNA16 (Setio et al.,
Medical Image Analysis 2017, arXiv 1612.08012), whose rates are lower and whose curve is interpolated:

- a true box is found once, by the best box that overlaps it enough and is not already used for another true box;
- a further box on a true box that is found is neither a hit nor a false alarm;
- every other box is a false alarm.

One may stop between two scores only, so boxes of equal score come together. The sensitivity at a rate is the highest
one at which there are no more false alarms than that; where the list ends before, it is what the whole list finds.
"""

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RATES = (0.5, 1.0, 2.0)
"""False alarms an image."""


def sensitivities(
    image: Ints,
    scores: Floats,
    hit: npt.NDArray[np.bool_],
    false: npt.NDArray[np.bool_],
    truth: Ints,
    weights: npt.NDArray[np.int32],
) -> Floats:
    """Sensitivity at each of `RATES` where image i counts weights[r, i] times.

    Args:
        image: (D,) of each box, which come by falling score.
        scores: (D,).
        hit: (D,) whether a box found a true one.
        false: (D,) whether it is a false alarm; a box can be neither.
        truth: (N,) true boxes of each image.
        weights: (R, N) whole numbers.

    Returns:
        (R, 3) float64, NaN where no true box has a weight.
    """
    drawn = weights.astype(np.float64)
    total, images = drawn @ truth, drawn.sum(axis=1)  # (R,)
    result = np.zeros((len(drawn), len(RATES)))
    result[total == 0] = np.nan
    if not hit.any():
        return result
    # Stopping elsewhere than behind a hit, and what has the same score, only adds false alarms.
    level = np.searchsorted(-scores, -scores, side="right") - 1  # last box of the same score
    ends = np.unique(level[hit])  # (K,)
    part = np.searchsorted(ends, np.arange(len(scores)))

    def so_far(which: npt.NDArray[np.bool_]) -> Floats:
        """(K, R) such boxes up to each end; whole numbers, so exact."""
        which = which & (part < len(ends))
        cells = (np.ones(int(which.sum())), (part[which], image[which]))
        parts: Floats = np.asarray(csr_array(cells, (len(ends), len(truth))) @ drawn.T)
        return np.cumsum(parts, axis=0)

    found, alarms = so_far(hit), so_far(false)
    defined = total > 0
    for k, rate in enumerate(RATES):
        most = np.where(alarms <= rate * images, found, 0.0).max(axis=0)
        result[defined, k] = most[defined] / total[defined]
    return result
