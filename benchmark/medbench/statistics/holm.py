"""Holm's adjustment of p-values for several comparisons (Holm, Scandinavian Journal of Statistics 1979)."""

from collections.abc import Sequence


def holm(p: Sequence[float | None]) -> list[float | None]:
    """p-values that may be held against one level for all comparisons together.

    The smallest of m is multiplied by m, the next by m - 1 and so on; none may be smaller than one before it, nor
    exceed 1. With a level of 0.05 the chance to call any difference real that is none is at most 5 %, whatever the
    comparisons have to do with each other.

    Args:
        p: 0 to 1, or None for a comparison that could not be made, which counts for nothing.

    Returns:
        Adjusted, in the order given; None where None was given.
    """
    order = sorted((value, k) for k, value in enumerate(p) if value is not None)
    adjusted: list[float | None] = [None] * len(p)
    least = 0.0
    for rank, (value, k) in enumerate(order):
        least = max(least, min(1.0, (len(order) - rank) * value))
        adjusted[k] = least
    return adjusted
