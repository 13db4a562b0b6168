"""All pairs of rows of a column at once, by matrix operations; what `medbench compare` computes for one pair.

See `medbench.statistics.paired` for the statistics. 100 rows have 4,950 pairs, whose noise is one product of a matrix
of draws (rows, draws) with itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from medbench.statistics.paired import Difference

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """A row in one column.

    Attributes:
        key: of the row.
        values: (n,) primary metric of each seed.
        draws: (D,) bootstrap draws of the mean over these seeds, NaN where not defined; None where there are none.
        resample: what the draws were drawn from; only draws of equal `resample` are paired.
    """

    key: str
    values: Floats
    draws: Floats | None
    resample: str


def differences(entries: Sequence[Entry]) -> list[tuple[int, int, Difference]]:
    """Every pair (i, j) with i < j, and entry i minus entry j."""
    if len(entries) < 2:
        return []
    first, second = np.triu_indices(len(entries), 1)
    size = np.array([len(e.values) for e in entries])
    mean = np.array([e.values.mean() for e in entries])
    # (rows,) variance of the mean over seeds; one seed says nothing of it
    own = np.array([e.values.var(ddof=1) / len(e.values) if len(e.values) > 1 else np.nan for e in entries])

    value = mean[first] - mean[second]
    test = np.sqrt(_variances(entries)[first, second])
    training = own[first] + own[second]
    counted = ~np.isnan(training)
    error = np.sqrt(test**2 + np.where(counted, training, 0.0))
    freedom = np.full(len(value), np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = own**2 / (size - 1)
        satterthwaite = error**4 / (spread[first] + spread[second])
        freedom = np.where(counted & (training > 0), satterthwaite, freedom)
        t = np.where(error > 0, np.abs(value) / error, np.where(value == 0, 0.0, np.inf))
    p = 2 * stats.t.sf(t, freedom)
    reach = stats.t.ppf(0.975, freedom) * error
    return [
        (
            int(i),
            int(j),
            _difference(entries[i], entries[j], *numbers),
        )
        for i, j, *numbers in zip(
            first.tolist(),
            second.tolist(),
            value.tolist(),
            np.asarray(reach).tolist(),
            np.asarray(p).tolist(),
            np.asarray(test).tolist(),
            np.sqrt(training).tolist(),
            freedom.tolist(),
            strict=True,
        )
    ]


def _difference(
    a: Entry, b: Entry, value: float, reach: float, p: float, test: float, training: float, freedom: float
) -> Difference:
    seeds = (len(a.values), len(b.values))
    if np.isnan(test):
        lacking = "no draws" if a.draws is None or b.draws is None else "scored on different test samples"
        return Difference(value, None, None, None, None, None, np.inf, "", seeds, lacking)
    one = np.isnan(training)
    return Difference(
        value,
        value - reach,
        value + reach,
        p,
        test,
        None if one else training,
        freedom,
        "paired bootstrap",
        seeds,
        "one seed: training noise not counted" if one else "",
    )


def _variances(entries: Sequence[Entry]) -> Floats:
    """(rows, rows) variance over draws of each difference; NaN where fewer than half are defined on both sides."""
    rows = len(entries)
    length = max((len(e.draws) for e in entries if e.draws is not None), default=0)
    draws = np.full((rows, length), np.nan)
    for number, entry in enumerate(entries):
        if entry.draws is not None:
            draws[number, : len(entry.draws)] = entry.draws
    known = ~np.isnan(draws)
    centre = np.nanmean(draws) if known.any() else 0.0  # near the values, so that squares lose no digits
    x, seen = np.where(known, draws - centre, 0.0), known.astype(np.float64)
    n = seen @ seen.T
    squares = (x**2) @ seen.T
    total = x @ seen.T
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (total - total.T) / n
        variance: Floats = (squares + squares.T - 2 * (x @ x.T) - n * mean**2) / (n - 1)
    kinds = np.array([e.resample for e in entries])
    usable = (kinds[:, None] == kinds[None, :]) & (2 * n >= length) & (n > 1)
    return np.where(usable, np.maximum(variance, 0.0), np.nan)
