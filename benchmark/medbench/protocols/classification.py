"""What all protocols of classification share: labels in, one row of log-odds a film out, metrics of those rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from medbench.data.index import Index
from medbench.errors import DataError
from medbench.metrics.calibration import Reliability, calibration_metrics, reliability_diagrams
from medbench.metrics.classification import classification_metrics, f1_threshold
from medbench.task import Metric, Task, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_TARGET = "target_"


class Classification(Task):
    """Base of the protocols of classification; what they evaluate to are `predictions`.

    Args:
        recipe: `tiny`, `paper` or `micro`.
        split: of the dataset.
        classes: label columns of the index, without the prefix; empty for all that the index has.
        exclusive: whether exactly one class is 1 for every film, as in COVIDx.
    """

    def __init__(
        self, recipe: str, *, split: str, classes: Sequence[str] = (), exclusive: bool = False
    ) -> None:
        super().__init__(recipe, split=split)
        self.classes = tuple(classes)
        self.exclusive = exclusive

    def names(self, index: Index) -> tuple[str, ...]:
        """The classes of this index."""
        return self.classes or index.labels

    def labels(self, index: Index, rows: Rows) -> Floats:
        """(len(rows), C): 1, 0, NaN where not known.

        Raises:
            DataError: the index lacks a class, or has none at all.
        """
        names = self.names(index)
        missing = [name for name in names if name not in index.labels]
        if missing or not names:
            raise DataError(
                f"{index.dataset}: no label {', '.join(missing) or 'at all'} in {index.root}; it has "
                f"{', '.join(index.labels) or 'none'}. A table names its labels in columns called label_NAME, or with "
                "--column labels=...; of a dataset in several versions take the one that has these labels."
            )
        return index.table[[f"label_{name}" for name in names]].to_numpy(np.float64)[rows]

    def require_test(self, data: TaskData) -> None:
        """Before the encoder is asked for anything.

        Raises:
            DataError: the split has no film to test.
        """
        if not len(data.split.test):
            raise DataError(
                f"{data.index.dataset}: split {data.split.name} has no film to test, so nothing can be scored. Take a "
                "split with a test part, or name films to test in its list."
            )

    def predictions(self, data: TaskData, scores: Floats, validation: Floats | None = None) -> pd.DataFrame:
        """One row a test film.

        Args:
            data: its test part was scored.
            scores: (T, C) log-odds of each class against all else, so that 0 is a probability of one half.
            validation: (V, C) those of the validation films, which the thresholds are chosen on; not needed where
                classes exclude each other.

        Returns:
            `sample`, `patient`, and for each class `target_<class>` (1, 0, NaN where not known), `score_<class>` and,
            unless classes exclude each other, `threshold_<class>`: the score from which F1 is best on validation, NaN
            where nothing can be chosen (`f1_threshold`).
        """
        rows = data.split.test
        table = data.index.table.iloc[rows]
        targets, truth = self.labels(data.index, rows), self.labels(data.index, data.split.val)
        columns: dict[str, Any] = {
            "sample": table["sample"].to_numpy(),
            "patient": table["patient"].to_numpy(),
        }
        for k, name in enumerate(self.names(data.index)):
            columns |= {f"{_TARGET}{name}": targets[:, k], f"score_{name}": scores[:, k]}
            if validation is not None and not self.exclusive:
                known = ~np.isnan(truth[:, k])
                columns[f"threshold_{name}"] = f1_threshold(truth[known, k] == 1, validation[known, k])
        return pd.DataFrame(columns)

    def truth(self, data: TaskData) -> pd.DataFrame:
        """`sample`, `patient` and `target_<class>`."""
        rows = data.split.test
        known = data.index.table.loc[rows, ["sample", "patient"]].reset_index(drop=True)
        targets = self.labels(data.index, rows)
        return known.assign(
            **{f"{_TARGET}{name}": targets[:, k] for k, name in enumerate(self.names(data.index))}
        )

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """Those of `classification_metrics`, the primary one first, and those of `calibration_metrics`."""
        classes, macro = class_names(predictions), len(self.classes) != 1
        return (
            *classification_metrics(predictions, classes, macro=macro, exclusive=self.exclusive),
            *calibration_metrics(predictions, classes, "log-odds", macro=macro),
        )

    def reliability(self, predictions: pd.DataFrame) -> Sequence[Reliability]:
        """Two diagrams a class, see `reliability_diagrams`."""
        return reliability_diagrams(predictions, class_names(predictions), "log-odds")

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with a positive of any class."""
        positive: npt.NDArray[np.bool_] = (self.labels(index, np.arange(len(index))) == 1).any(axis=1)
        return positive


def log_odds(logits: Tensor) -> Tensor:
    """Logits of a softmax (..., C) -> log-odds of each class against all others: z_k - log sum_j!=k exp z_j."""
    classes = logits.shape[-1]
    same = torch.eye(classes, dtype=torch.bool, device=logits.device)
    others = logits[..., None, :].masked_fill(same, -torch.inf)  # (..., C) -> (..., C, C)
    return logits - others.logsumexp(-1)


def label_loss(logits: Tensor, labels: Tensor, exclusive: bool) -> Tensor:
    """Mean cross-entropy of what is known.

    Args:
        logits: (B, C) float32 or float64.
        labels: (B, C), likewise: 1, 0, NaN where not known.
        exclusive: one softmax over the classes, for films of which exactly one class is 1; else a sigmoid for each
            class, and the mean is over the known labels of all.

    Returns:
        A scalar; 0 where nothing is known.
    """
    if exclusive:
        known = labels.nansum(1) == 1  # (B,)
        truth = torch.where(known, labels.nan_to_num().argmax(1), -1)
        total = functional.cross_entropy(logits, truth, ignore_index=-1, reduction="sum")
    else:
        known = ~labels.isnan()  # (B, C)
        total = functional.binary_cross_entropy_with_logits(
            logits, labels.nan_to_num(), weight=known.to(logits.dtype), reduction="sum"
        )
    return total / known.sum().clamp(min=1)


def class_names(predictions: pd.DataFrame) -> list[str]:
    """Names of the classes that predictions are about."""
    columns = [str(column) for column in predictions]
    return [column.removeprefix(_TARGET) for column in columns if column.startswith(_TARGET)]
