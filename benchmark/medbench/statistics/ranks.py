"""Average ranks of methods over tasks.

1 is the best. The interval of a mean rank is that of other patients: in every bootstrap draw the methods are ranked
anew in each task, and the middle 95 % of the mean ranks are taken. The critical difference of Nemenyi answers another
question, whether ranks would be the same on other *tasks*, and takes the tasks at hand for a sample of them (Demsar,
JMLR 2006, equation for CD).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


def mean_ranks(
    means: Floats, draws: Sequence[Floats | None], weights: Floats | None = None
) -> list[tuple[float, float | None, float | None]]:
    """Mean rank of each method over tasks, with the 95 % interval by other patients.

    Args:
        means: (R, C) of methods in tasks, higher is better; equal ones share the mean of their ranks.
        draws: of each task (R, D) bootstrap draws, higher is better, row by row of the same resamples; None where a
            task has none. Draws in which a method's metric is not defined are left out.
        weights: (C,) what each column counts in the mean, 1 in all; equal if not given.

    Returns:
        Of each method its mean rank and the bounds; (rank, None, None) where a task has no draws, or fewer than half of
        them are defined in all tasks.
    """
    share = np.full(means.shape[1], 1 / means.shape[1]) if weights is None else weights
    value = stats.rankdata(-means, axis=0) @ share
    drawn = [one for one in draws if one is not None]
    if not drawn or len(drawn) < len(draws):
        return [(float(v), None, None) for v in value]
    defined = np.all([~np.isnan(one).any(axis=0) for one in drawn], axis=0)  # (D,)
    if 2 * np.count_nonzero(defined) < len(defined):
        return [(float(v), None, None) for v in value]
    ranks = np.stack([stats.rankdata(-one[:, defined], axis=0) for one in drawn], axis=-1)  # (R, D, C)
    ranked = ranks @ share  # (R, D)
    bounds = np.quantile(ranked, [0.025, 0.975], axis=1).T
    # Draws tie less often than the values do, so a shared rank can lie outside of them.
    return [
        (float(v), float(min(v, low)), float(max(v, high)))
        for v, (low, high) in zip(value, bounds, strict=True)
    ]


def critical_difference(methods: int, tasks: int) -> float | None:
    """How far two mean ranks must be apart for methods to differ over tasks, at 5 % for all pairs (Nemenyi).

    Returns:
        In ranks; None with fewer than three methods or two tasks.
    """
    if methods < 3 or tasks < 2:
        return None
    studentized = stats.studentized_range.ppf(0.95, methods, np.inf) / np.sqrt(2)
    return float(studentized * np.sqrt(methods * (methods + 1) / (6 * tasks)))
