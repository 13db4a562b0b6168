"""Bootstrap over patients: how far a number would move had other patients been drawn into the test set.

A patient's films resemble each other, so patients are drawn, not films. Patients with and without a positive
are drawn apart, each group at its own size, so that every draw has about as many positives as the test set.
The seed is fixed: an interval is a function of the predictions, and two people get the same one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

DRAWS = 2000
"""Draws of an interval; the 2.5 % tails then hold 50 draws each."""

INTERVAL = f"95 % percentile bootstrap over patients, {DRAWS} draws, strata by positive"
"""How `Metric.interval` names what this file makes."""

_BLOCK_BYTES = 2 * 2**20


def patient_bootstrap_weights(
    patients: Sequence[str], positive: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = 0
) -> npt.NDArray[np.int32]:
    """How often every sample is drawn; beyond the result (4 bytes an entry) it needs a few MB.

    A draw takes as many patients as there are, with replacement, from each of two strata: those with a
    positive sample and those without. All samples of a drawn patient come along. The order of the samples
    does not matter: a sample's column depends on the set of patients and their strata only.

    Args:
        patients: patient of each sample, length N.
        positive: (N,) whether the sample is positive (any class, any box).
        draws: number of draws D.
        seed: of the draws; leave it alone unless draws have to differ.

    Returns:
        (D, N) int32, row d holds the weights of draw d.

    Raises:
        ValueError: no samples, lengths that differ, or fewer than one draw.
    """
    return np.concatenate(list(bootstrap_blocks(patients, positive, draws, seed)))


def bootstrap_blocks(
    patients: Sequence[str], positive: npt.NDArray[np.bool_], draws: int = DRAWS, seed: int = 0
) -> Iterator[npt.NDArray[np.int32]]:
    """The rows of `patient_bootstrap_weights` in blocks of about 2 MB, which is also what runs fastest.

    Args:
        patients: as there.
        positive: as there.
        draws: as there.
        seed: as there.

    Yields:
        (d, N) int32; the blocks together are the D rows, whatever the block size.
    """
    positive = np.asarray(positive, dtype=np.bool_)
    if positive.ndim != 1 or len(patients) != len(positive):
        raise ValueError(
            f"{len(patients)} patients for `positive` of shape {positive.shape}: one entry a sample each"
        )
    if len(positive) == 0 or draws < 1:
        raise ValueError(
            f"a bootstrap needs samples and draws, found {len(positive)} samples and {draws} draws"
        )
    names, patient = np.unique(
        np.asarray(patients, dtype=str), return_inverse=True
    )  # sorted: no order of samples
    with_positive = np.bincount(patient, weights=positive, minlength=len(names)) > 0
    strata = [np.flatnonzero(with_positive == which) for which in (False, True)]
    # One generator a stratum and 64-bit integers: the stream is the same for any block size.
    generators = [np.random.Generator(np.random.PCG64([seed, which])) for which in (0, 1)]
    size = max(1, _BLOCK_BYTES // (8 * len(positive)))
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        counts = np.zeros((rows, len(names)), np.int32)
        for members, generator in zip(strata, generators, strict=True):
            if len(members):
                drawn = generator.integers(len(members), size=(rows, len(members)), dtype=np.int64)
                drawn += np.arange(rows)[:, None] * len(members)  # one range of bins a draw
                counts[:, members] = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        yield counts[:, patient]  # (rows, patients) -> (rows, N)


def percentile_interval(values: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    """The central 95 % of bootstrap values.

    Args:
        values: (D,) the metric of each draw, NaN where it is not defined.

    Returns:
        2.5 % and 97.5 % quantile of the defined values; (None, None) if fewer than half of them are defined,
        because the rest would then speak for draws that are not like the test set.
    """
    defined = values[~np.isnan(values)]
    if len(defined) == 0 or 2 * len(defined) < len(values):
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
