"""Linear probe (`lp`): L2 logistic regression on the pooled features of a frozen encoder.

The penalty is chosen for each class on the whole validation split, by AUROC, from one grid that is the same
for every method; the test split is read once. Nothing is drawn at random: the seed only picks the list of a
label fraction.

The same question is asked by MGCA's released code with 50 epochs of AdamW over augmented
films. Here the classifier is the unique minimum of a convex loss, so no learning rate, stopping rule or order
can favour a method.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medbench.metrics.classification import auroc
from medbench.model import VisionLanguageModel
from medbench.protocols.classification import Classification
from medbench.protocols.features import pooled_features
from medbench.protocols.logistic_regression import fit_logistic
from medbench.task import Environment, Evaluation, TaskData

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LinearProbeConfig:
    """Numbers of the protocol; the same at every recipe.

    Attributes:
        penalties: the grid, weights of |w|^2 / 2 beside the mean log-loss, ascending. In scikit-learn's terms
            C = 1 / (rows * penalty): the grid is scaled with the number of rows. It reaches from next to no
            penalty to the limit where the classifier is the difference of the class means.
        scaling: what is done to the features first, the same for every encoder. Their mean over the labelled
            training rows is taken off, and all are divided by one number, the root mean square of what is left;
            so one grid fits encoders of any scale, and a small fraction sees nothing of the other rows. They
            are not standardised one by one: with few labels that blows up features that hardly vary (random
            features of 350 phantom films: AUROC 0.68 so, 0.72 with one number).
        choose: what the penalty is chosen by; of equal values the strongest penalty wins.
    """

    penalties: tuple[float, ...] = tuple(10.0**k for k in range(-6, 5))
    scaling: str = "centred, one scale for all features, from the training rows of the fraction"
    choose: str = "validation AUROC of the class"


@dataclass(frozen=True)
class ProbeFeatures:
    """Features of every row of the split.

    Attributes:
        rows: (M,) positions in the index, sorted.
        pooled: (M, D) float32.
    """

    rows: npt.NDArray[np.int64]
    pooled: npt.NDArray[np.float32]

    def of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(len(rows), D) features of these positions of the index."""
        return self.pooled[np.searchsorted(self.rows, rows)]


class LinearProbe(Classification):
    """A binary label or several, each with a classifier of its own."""

    def __init__(
        self, recipe: str, *, split: str, classes: Sequence[str] = (), exclusive: bool = False
    ) -> None:
        super().__init__(recipe, split=split, classes=classes, exclusive=exclusive)
        self.config = LinearProbeConfig()

    def extract(self, model: VisionLanguageModel, data: TaskData, env: Environment) -> ProbeFeatures:
        """Pooled features of all rows of the split."""
        rows = np.unique(np.concatenate([data.split.train, data.split.val, data.split.test]))
        return ProbeFeatures(rows, pooled_features(model, data, rows, env))

    def evaluate(
        self,
        features: ProbeFeatures,
        data: TaskData,
        train: npt.NDArray[np.int64],
        seed: int,
        env: Environment,
    ) -> Evaluation:
        """Fit on `train`, choose the penalty on validation, predict the test rows.

        A class that has only one value in `train` or in validation can not be fitted or chosen: its scores are NaN
        and `search` says why.
        """
        split = data.split
        classes = self.names(data.index)
        labels = {
            name: self.labels(data.index, rows) for name, rows in (("train", train), ("val", split.val))
        }
        notes = {c: note for k, c in enumerate(classes) if (note := _unfit(labels, k))}
        fitted = [k for k, c in enumerate(classes) if c not in notes]
        scores = np.full((len(split.test), len(classes)), np.nan)
        chosen: dict[str, Any] = {}
        if fitted:
            mean, scale = _scaling(features.of(train))
            x = {
                name: torch.from_numpy((features.of(rows).astype(np.float64) - mean) * scale).to(env.device)
                for name, rows in (("train", train), ("val", split.val), ("test", split.test))
            }
            fit = fit_logistic(
                x["train"],
                torch.from_numpy(labels["train"][:, fitted]).to(env.device),
                torch.tensor(self.config.penalties, dtype=torch.float64, device=env.device),
            )
            validation = fit.predict(x["val"]).cpu().numpy()  # (K, C, rows)
            test = fit.predict(x["test"]).cpu().numpy()
            for position, k in enumerate(fitted):
                found = _choose(labels["val"][:, k], validation[:, position])
                best = len(found) - 1 - int(np.argmax(found[::-1]))  # of equal values the last, strongest one
                scores[:, k] = test[best, position]
                chosen[classes[k]] = {
                    "penalty": self.config.penalties[best],
                    "validation_auroc": found[best],
                    "validation_auroc_by_penalty": found,
                }
        search = {
            "grid": {"penalty": list(self.config.penalties)},
            "trials": len(self.config.penalties),
            "selected_on": self.config.choose,
            "chosen": chosen,
            "notes": notes,
        }
        return Evaluation(self.predictions(data, scores), search)

    def depends_on_seed(self, fraction: float) -> bool:
        """Only through the list of a fraction: the fit itself has one minimum."""
        return fraction < 1.0


def _unfit(labels: dict[str, Floats], k: int) -> str:
    """Why class `k` can not be fitted or its penalty chosen, or ""."""
    for name, part in (("training fraction", labels["train"]), ("validation split", labels["val"])):
        positives, negatives = int((part[:, k] == 1).sum()), int((part[:, k] == 0).sum())
        if positives == 0 or negatives == 0:
            return f"the {name} holds {positives} positives and {negatives} negatives; both are needed"
    return ""


def _scaling(train: npt.NDArray[np.float32]) -> tuple[Floats, float]:
    """What to take off each feature and what to multiply all of them with; 0 where they are constant."""
    wide = train.astype(np.float64)
    mean = wide.mean(axis=0)
    spread = float(np.sqrt(np.square(wide - mean).mean()))
    varies = spread > 1e-6 * float(np.abs(mean).max())  # float32 resolves 6e-8 of a value
    return mean, 1 / spread if varies else 0.0


def _choose(labels: Floats, scores: Floats) -> list[float]:
    """Validation AUROC of each row of `scores` (K, rows)."""
    known = ~np.isnan(labels)
    values = [auroc(labels[known] == 1, row[known]) for row in scores]
    return [value for value in values if value is not None]
