"""What all protocols of classification share: labels in, one row of log-odds a film out, metrics of those rows."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.data.index import Index
from medbench.metrics.calibration import Reliability, reliability_diagrams
from medbench.metrics.classification import classification_metrics
from medbench.task import Environment, Evaluation, Metric, Task, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

_TARGET = "target_"


class Classification(Task):
    """Base of the protocols of classification.

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

    @abstractmethod
    def evaluate(self, features: Any, data: TaskData, train: Rows, seed: int, env: Environment) -> Evaluation:
        """See `Task.evaluate`; the predictions are those of `predictions`."""

    def names(self, index: Index) -> tuple[str, ...]:
        """The classes of this index."""
        return self.classes or index.labels

    def labels(self, index: Index, rows: Rows) -> Floats:
        """(len(rows), C): 1, 0, NaN where not known."""
        return index.table[[f"label_{name}" for name in self.names(index)]].to_numpy(np.float64)[rows]

    def predictions(self, data: TaskData, scores: Floats) -> pd.DataFrame:
        """One row a test film.

        Args:
            data: its test part was scored.
            scores: (T, C) log-odds of each class against all else, so that 0 is a probability of one half; NaN
                throughout for a class that could not be trained.

        Returns:
            `sample`, `patient`, and for each class `target_<class>` (1, 0, NaN where not known) and `score_<class>`.
        """
        rows = data.split.test
        table = data.index.table.iloc[rows]
        targets = self.labels(data.index, rows)
        columns: dict[str, Any] = {
            "sample": table["sample"].to_numpy(),
            "patient": table["patient"].to_numpy(),
        }
        for k, name in enumerate(self.names(data.index)):
            columns |= {f"{_TARGET}{name}": targets[:, k], f"score_{name}": scores[:, k]}
        return pd.DataFrame(columns)

    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """AUROC and average precision, see `classification_metrics`."""
        return classification_metrics(predictions, _classes(predictions), macro=len(self.classes) != 1)

    def reliability(self, predictions: pd.DataFrame) -> Sequence[Reliability]:
        """Two diagrams a class, see `reliability_diagrams`."""
        return reliability_diagrams(predictions, _classes(predictions), "log-odds")

    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """Films with a positive of any class."""
        positive: npt.NDArray[np.bool_] = (self.labels(index, np.arange(len(index))) == 1).any(axis=1)
        return positive


def _classes(predictions: pd.DataFrame) -> list[str]:
    """Names of the classes that predictions are about."""
    columns = [str(column) for column in predictions]
    return [column.removeprefix(_TARGET) for column in columns if column.startswith(_TARGET)]
