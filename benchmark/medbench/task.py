"""What a task is: a dataset, a protocol and metrics. The runner knows no more than this."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.model import Preprocessing, VisionLanguageModel
from medbench.progress import Progress

if TYPE_CHECKING:
    from medbench.metrics.bootstrap import Bootstrap
    from medbench.metrics.calibration import Reliability

Fit = Literal["pad", "stretch"]
"""How a film becomes square: `pad` keeps the aspect and adds black, `stretch` does not."""


Precision = Literal["32", "bf16"]
"""Of forward passes; losses, metrics and weights stay in float32."""


@dataclass(frozen=True)
class Environment:
    """Where a cell is computed.

    Attributes:
        device: of the model and the head.
        precision: "32" or "bf16"; forward passes autocast to it on `device`.
        workdir: a folder for this method, task and seed that outlives an interruption (checkpoints of heads).
        progress: where to report to.
        encoder: SHA-256 that names the weights; "" where it is not known, and features are then kept by nobody.
        cache: folder of features that other tasks can use again (`medbench.feature_cache`); None where there is none.
        method: whose encoder it is, for the user who lists the cache.
    """

    device: torch.device
    precision: Precision
    workdir: Path
    progress: Progress
    encoder: str = ""
    cache: Path | None = None
    method: str = ""


@dataclass(frozen=True)
class TaskData:
    """The dataset of a task.

    Attributes:
        index: all samples.
        split: rows of `index` for training, validation and test.
        images: (side in pixels, fit) -> uint8 films, row i of them is row i of `index`; prepared when first asked for.
    """

    index: Index
    split: Split
    images: Callable[[int, Fit], PreparedImages]


@dataclass(frozen=True)
class Metric:
    """One number and how sure it is.

    Attributes:
        name: with underscores, and telling variants apart (`map_40_75`).
        value: as computed, not rounded; None where it is not defined (one class only).
        low, high: bounds of the 95 % interval, None where there is none.
        interval: how the interval was made, in words.
        n: samples it was computed over.
        higher_is_better: direction.
        version: raised when the computation changes.
        per_class: the value for each class, where there are several.
        reason: why there is no value, or none for some of the classes; "" where nothing has to be said.
        bootstrap: the draws that the interval is made of, None where there are none. No part of the number: two metrics
            are equal whatever it holds.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    interval: str
    n: int
    higher_is_better: bool = True
    version: int = 1
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    reason: str = ""
    bootstrap: "Bootstrap | None" = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """What evaluating one cell gives.

    Attributes:
        predictions: one row a test sample: `sample`, `patient`, the truth and the prediction. `Task.score` needs
            nothing else, so a metric can be computed again without images or a GPU.
        search: what was chosen on validation data and from what: the grid, the number of trials, the chosen values
            and their validation score. JSON types only.
    """

    predictions: pd.DataFrame
    search: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """Base of a task.

    A protocol is a subclass. What one task has that another has not (its split, its classes) are keywords of the
    constructor, which `TaskSpec.given` holds.

    Attributes:
        recipe: `tiny`, `paper` or `micro`.
        split: name of the dataset's split that it uses.
        config: frozen dataclass with every number of the protocol at this recipe; it goes into the record.
    """

    config: Any

    def __init__(self, recipe: str, *, split: str) -> None:
        self.recipe = recipe
        self.split = split

    def films(self, inputs: Preprocessing) -> tuple[int, Fit]:
        """Side in pixels and fit of the films that it asks for, of a model with these inputs.

        Here: padded to the square that the model's own is cropped from.
        """
        return inputs.resize, "pad"

    @abstractmethod
    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> Any:
        """Everything that depends on the encoder alone, done once for all fractions (features of frozen encoders).

        If what is returned has a method `close`, the runner calls it after the last fraction.
        """

    @abstractmethod
    def evaluate(
        self, features: Any, data: TaskData, train: npt.NDArray[np.int64], seed: int, env: Environment
    ) -> Evaluation:
        """Train the head on the rows `train` of the index (a label fraction), choose on validation, predict on test."""

    @abstractmethod
    def score(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """All metrics of these predictions, the primary one first."""

    def draws(self, predictions: pd.DataFrame) -> npt.NDArray[np.float64] | None:
        """(D,) the primary metric in every draw of the bootstrap that its interval is made of; None without one."""
        bootstrap = self.score(predictions)[0].bootstrap
        return None if bootstrap is None else bootstrap.draws

    def score_group(self, predictions: pd.DataFrame) -> Sequence[Metric]:
        """Metrics of one group of patients or films, some rows of the predictions; here the same as of all."""
        return self.score(predictions)

    @abstractmethod
    def positives(self, index: Index) -> npt.NDArray[np.bool_]:
        """(N,) True where a sample holds something to learn; a fraction without any is not trained."""

    def reliability(self, predictions: pd.DataFrame) -> "Sequence[Reliability]":
        """Reliability diagrams of these predictions, where they are probabilities of classes; here none."""
        return ()

    def truth(self, data: TaskData) -> pd.DataFrame | None:
        """What `Evaluation.predictions` say of the test films that is no prediction, in their order.

        With it, predictions that were handed over without it can be scored again by whoever has the dataset.

        Returns:
            One row a test film: `sample`, `patient` and the columns of truth; None where it can not be told without
            a model, as here.
        """
        return None

    def depends_on_seed(self, fraction: float) -> bool:
        """Whether the result for a fixed encoder can change with the seed."""
        return True
