"""Stand-ins until `medbench.statistics` has them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata, studentized_range

from medbench.metrics.bootstrap import percentile_interval

Floats = npt.NDArray[np.float64]


def holm(p: Sequence[float]) -> Floats:
    """Adjusted p values, in the order given."""
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)))
    out = np.empty_like(values)
    out[order] = adjusted
    return out


def mean_ranks(
    means: Floats, draws: Sequence[Floats | None]
) -> list[tuple[float, float | None, float | None]]:
    """(R, C) means, and (R, D) draws a column, both higher is better -> mean rank and interval a row."""
    value = rankdata(-means, axis=0).mean(axis=1)
    if not draws or any(d is None for d in draws):
        return [(float(v), None, None) for v in value]
    ranked = np.mean([rankdata(-d, axis=0, nan_policy="propagate") for d in draws if d is not None], axis=0)
    return [(float(v), *percentile_interval(row)) for v, row in zip(value, ranked, strict=True)]


def critical_difference(rows: int, blocks: int) -> float | None:
    """Nemenyi, 5 %."""
    if rows < 3 or blocks < 2:
        return None
    q = studentized_range.ppf(0.95, rows, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(rows * (rows + 1) / (6 * blocks)))
