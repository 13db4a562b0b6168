"""Predictions that know the truth, and predictions that know nothing, made from some that are there.

Which column tells what is known by the names that the protocols of medbench use: `score_NAME` beside `target_NAME`, and
`pred_boxes` or `pred_runs` beside `true_boxes` or `true_runs`.
"""

import numpy as np
import pandas as pd

from medbench.conformance.check import NotApplicable

_SURE = 10.0
"""Log-odds of what is known."""


def perfect(predictions: pd.DataFrame) -> pd.DataFrame:
    """The same rows, predicted by who knows the truth.

    Raises:
        NotApplicable: no column is known to tell it.
    """
    changed: dict[str, object] = {
        f"score_{name}": np.where(predictions[f"target_{name}"] == 1, _SURE, -_SURE)
        for name in _scored(predictions)
    }
    if "pred_boxes" in predictions:
        names = predictions["true_labels"]
        changed |= {
            "pred_boxes": [np.asarray(boxes, np.float32) for boxes in predictions["true_boxes"]],
            "pred_scores": [np.ones(len(own), np.float32) for own in names],
            "pred_labels": list(names),
        }
    if "pred_runs" in predictions:
        area = predictions["true_area"]
        changed |= {"pred_runs": predictions["true_runs"], "pred_area": area, "intersection": area}
    return _with(predictions, changed)


def blind(predictions: pd.DataFrame) -> pd.DataFrame:
    """The same rows, predicted by who says the same of every film: one score, no box, no mask.

    Raises:
        NotApplicable: no column is known to tell it.
    """
    changed: dict[str, object] = {
        f"score_{name}": np.zeros(len(predictions)) for name in _scored(predictions)
    }
    if "pred_boxes" in predictions:
        none = [np.zeros(0, np.float32)] * len(predictions)
        changed |= {"pred_boxes": none, "pred_scores": none, "pred_labels": [[] for _ in none]}
    if "pred_runs" in predictions:
        changed |= {"pred_runs": "", "pred_area": 0, "intersection": 0}
    return _with(predictions, changed)


def _scored(predictions: pd.DataFrame) -> list[str]:
    names = [
        str(column).removeprefix("target_") for column in predictions if str(column).startswith("target_")
    ]
    return [name for name in names if f"score_{name}" in predictions]


def _with(predictions: pd.DataFrame, changed: dict[str, object]) -> pd.DataFrame:
    if not changed:
        raise NotApplicable("its predictions have no score_NAME beside target_NAME, and no boxes or masks")
    thresholds = {str(c): 0.0 for c in predictions if str(c).startswith("threshold_")}
    return predictions.assign(**changed, **thresholds)
