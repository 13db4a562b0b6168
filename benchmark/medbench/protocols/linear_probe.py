"""Linear probe (`lp`): L2 logistic regression on the pooled features of a frozen encoder.

The penalty is chosen on the whole validation split from one grid that is the same for every method; the test split is
read once. Labels that may occur together have a classifier and a penalty each, chosen by AUROC. Classes that exclude
each other (COVIDx) have one softmax classifier, as the papers do, and one penalty, chosen by accuracy: probabilities of
one film then sum to 1, which those of one classifier a class against the rest do not, and a class that lies between two
others can still be the likeliest. Nothing is drawn at random: the seed only picks the list of a label fraction.

The same question is asked by MGCA's released code with 50 epochs of AdamW over augmented films
(`medbench.protocols.linear_probe_mgca`). Here the classifier is the unique minimum of a convex loss, so no learning
rate, stopping rule or order can favour a method.

A class without a positive or without a negative in the fraction can not be fitted. Every film then has the same score
for it, the log-odds of the share of positives with half a film of each outcome added: its AUROC is 0.5, and of classes
that exclude each other it is never the likeliest. `search` says so.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from medbench.protocols.classification import log_odds
from medbench.protocols.logistic_regression import LogisticFit, fit_logistic
from medbench.protocols.probe_features import FeatureProbe, ProbeFeatures, Scaling
from medbench.protocols.selection import choose, one_valued, prior_log_odds
from medbench.task import Environment, Evaluation, TaskData

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


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
        choose: what the penalty is chosen by, see `medbench.protocols.selection.choose`.
    """

    penalties: tuple[float, ...] = tuple(10.0**k for k in range(-6, 5))
    scaling: str = "centred, one scale for all features, from the training rows of the fraction"
    choose: str = (
        "validation AUROC of the class, accuracy where classes exclude each other; of equal ones the lower validation"
        " log-loss, then the strongest penalty"
    )


class LinearProbe(FeatureProbe):
    """A binary label or several, each with a classifier of its own, or classes that exclude each other."""

    config = LinearProbeConfig()

    def evaluate(
        self, features: ProbeFeatures, data: TaskData, train: Rows, seed: int, env: Environment
    ) -> Evaluation:
        """Fit on `train`, choose the penalty on validation, predict the test rows."""
        classes = self.names(data.index)
        labels, validation = self.labels(data.index, train), self.labels(data.index, data.split.val)
        absent = one_valued(labels, classes, "training fraction")
        fitted = [k for k, name in enumerate(classes) if name not in absent]
        grid = self.config.penalties
        prior = prior_log_odds(labels, exclusive=self.exclusive)
        scores = {
            part: np.broadcast_to(prior, (len(grid), len(rows), len(classes))).copy()
            for part, rows in (("val", data.split.val), ("test", data.split.test))
        }
        if fitted:
            scaling = Scaling.of(features, train)
            fit = fit_logistic(
                scaling.whole(features, train, env.device),
                torch.from_numpy(labels[:, fitted]).to(env.device),
                torch.tensor(grid, dtype=torch.float64, device=env.device),
                exclusive=self.exclusive,
            )
            for part, rows in (("val", data.split.val), ("test", data.split.test)):
                scores[part][:, :, fitted] = self._predict(fit, scaling, features, rows, env)
        choice = choose(
            "penalty",
            grid,
            validation,
            scores["val"],
            classes,
            exclusive=self.exclusive,
            untrained={name: f"{note}: every film has the same score" for name, note in absent.items()},
        )
        predictions = self.predictions(data, choice.of(scores["test"]), choice.of(scores["val"]))
        return Evaluation(predictions, choice.search)

    def _predict(
        self, fit: LogisticFit, scaling: Scaling, features: ProbeFeatures, rows: Rows, env: Environment
    ) -> Floats:
        """(K, M, C) log-odds of films by every penalty."""
        parts = [np.empty((fit.weight.shape[0], 0, fit.weight.shape[1]))]  # validation may hold no film
        for _, block in scaling.blocks(features, rows, env.device):
            logits = fit.predict(block).transpose(1, 2)  # (K, C, b) -> (K, b, C)
            parts.append((log_odds(logits) if self.exclusive else logits).cpu().numpy())
        scores: Floats = np.concatenate(parts, axis=1)
        return scores
