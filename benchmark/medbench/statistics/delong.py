"""Standard errors of AUROCs by DeLong, of differences and means of them, where a patient may have several films.

DeLong, DeLong and Clarke-Pearson (Biometrics 1988) take apart an AUROC into what each film adds to it: of a positive
the share of negatives that it outranks (ties count half), of a negative the share of positives that outrank it. The
noise of the AUROC is that of these shares. Obuchowski (Biometrics 1997) adds them up by patient first, since films of
one patient are no independent evidence.

Here that sum is one number a patient, his **influence**: how far he moves the AUROC. The variance is the sum of their
squares and the covariance of two methods the sum of their products, so that the influence on a difference, on a mean
over seeds or on a mean over classes is the difference or the mean of influences, and nothing else has to be derived.

With one film a patient all this is exactly DeLong's estimate. With several it is Obuchowski's, but for the factor of
small samples of the term that joins a patient's positives and negatives: hers is that of all patients, I / (I - 1),
and ours the geometric mean of those of the patients with positives and of those with negatives, which is what the sum
over one number a patient has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]

METRICS: Final = ("auroc", "macro_auroc")
"""Metrics that there are influences of."""

_TARGET: Final = "target_"

_SAME = 1e-9  # two computations of one AUROC


@dataclass(frozen=True, eq=False)
class Influence:
    """How far each patient moves an AUROC, or a mean of AUROCs over classes.

    Attributes:
        value: the AUROC.
        patients: (U,) names, sorted.
        moves: (U,) float64, the influence of each.
        units: patients with positives, or with negatives, whichever are fewer; of several
            classes those of the smallest.
    """

    value: float
    patients: npt.NDArray[np.str_]
    moves: Floats
    units: int

    @property
    def standard_error(self) -> float:
        """Of the AUROC."""
        return float(np.sqrt(self.moves @ self.moves))


def auroc_influence(
    truth: npt.NDArray[np.bool_], score: Floats, patients: Sequence[str] | npt.NDArray[np.str_]
) -> Influence | None:
    """Of the AUROC of one class.

    Args:
        truth: (N,) True for positives.
        score: (N,) finite; higher means positive.
        patients: (N,) names.

    Returns:
        None with fewer than two patients with positives, or with negatives: there is no spread to estimate from.
    """
    names, patient = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    # How many of the other kind a film outranks, ties counting half: its rank among all less that among its own.
    ranks = rankdata(score)
    outranked = np.empty(len(score))
    outranked[truth] = (ranks[truth] - rankdata(score[truth])) / negatives
    outranked[~truth] = 1 - (ranks[~truth] - rankdata(score[~truth])) / positives
    value = float(outranked[truth].mean())
    values, sizes = np.zeros(len(names)), []
    for films, count in ((truth, positives), (~truth, negatives)):
        own = patient[films]
        units = len(np.unique(own))
        if units < 2:
            return None
        sizes.append(units)
        moved = np.bincount(own, weights=outranked[films] - value, minlength=len(names))
        values += moved / count * np.sqrt(units / (units - 1))
    return Influence(value, names, values, min(sizes))


def influence(predictions: pd.DataFrame, metric: str, value: float | None) -> Influence | None:
    """Of the AUROC, or mean over classes, that a record has for these predictions.

    Args:
        predictions: one row a film with `patient`, and for each class `target_<class>` (1, 0, NaN where not known) and
            `score_<class>`.
        metric: name of the metric.
        value: what is recorded of it.

    Returns:
        None where the metric is none of `METRICS`, where columns lack or give another value than the recorded one
        (a metric of somebody else's with the same name), or where a class has too few patients.
    """
    classes = [str(c).removeprefix(_TARGET) for c in predictions if str(c).startswith(_TARGET)]
    lacking = any(f"score_{name}" not in predictions for name in classes) or "patient" not in predictions
    if metric not in METRICS or value is None or not classes or lacking:
        return None
    patients = predictions["patient"].to_numpy(dtype=str)
    found = []
    for name in classes:
        target = predictions[f"{_TARGET}{name}"].to_numpy(np.float64)
        score = predictions[f"score_{name}"].to_numpy(np.float64)
        known = ~np.isnan(target)
        truth = target[known] == 1
        if truth.all() or not truth.any():
            continue  # the metric leaves such a class out of its mean
        one = auroc_influence(truth, score[known], patients[known])
        if one is None:
            return None
        found.append(one)
    if not found or abs(float(np.mean([one.value for one in found])) - value) > _SAME:
        return None
    names = np.unique(np.concatenate([one.patients for one in found]))
    values = np.zeros(len(names))
    for one in found:
        values[np.searchsorted(names, one.patients)] += one.moves / len(found)
    return Influence(value, names, values, min(one.units for one in found))


def standard_error(predictions: pd.DataFrame, metric: str, value: float | None) -> float | None:
    """Of a recorded AUROC, 0 to 1; None where `influence` has none."""
    found = influence(predictions, metric, value)
    return None if found is None else found.standard_error
