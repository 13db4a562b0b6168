"""Choosing one value of a grid on validation data: the penalty of `lp`, the number of neighbours of `knn`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medbench.metrics.classification import accuracy, auroc

Floats = npt.NDArray[np.float64]

ALIKE = 1e-6
"""Nats by which two log-losses may differ and still be called equal."""


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        position: (C,) where in the grid the value of each class is; all the same for classes that exclude each other.
        search: for the record; JSON types only.
    """

    position: npt.NDArray[np.int64]
    search: Mapping[str, Any]

    def of(self, scores: Floats) -> Floats:
        """(K, M, C) scores by value of the grid -> (M, C) those of the chosen ones."""
        chosen: Floats = np.take_along_axis(scores, self.position[None, None], axis=0)[0]
        return chosen


def choose(
    name: str,
    grid: Sequence[float],
    labels: Floats,
    scores: Floats,
    classes: Sequence[str],
    *,
    exclusive: bool,
    untrained: Mapping[str, str],
) -> Choice:
    """Choose on the validation split, by what the set is scored by; of equal values the one with the lower log-loss.

    Every class gets the value with its own best AUROC. A class that validation holds only positives or only negatives
    of gets the value with the best mean AUROC over the others; if there are none, the last one. Classes that exclude
    each other get one value in common, the one with the best accuracy.

    AUROC and accuracy do not see how far scores are apart, so that many values of a grid may be equally good; the
    log-loss of the validation films (mean of -log p of what was there) tells which of them gives the best
    probabilities. Without it the strongest penalty would win, which calls every film by the share of its class. Of
    values whose log-losses are within `ALIKE` the last one wins.

    Args:
        name: of what the grid is of.
        grid: K values, the simplest or most careful model last.
        labels: (V, C) 1, 0 or NaN.
        scores: (K, V, C) log-odds.
        classes: names of the C classes.
        exclusive: whether classes exclude each other.
        untrained: classes that nothing can be chosen for, with the reason; it goes into the notes.
    """
    search: dict[str, Any] = {"grid": {name: list(grid)}, "trials": len(grid)}
    notes = dict(untrained)
    last = len(grid) - 1
    if exclusive:
        search["selected_on"] = f"validation accuracy, one value for all classes; {_TIES}"
        right = [value for own in scores if (value := accuracy(labels, own)) is not None]
        if not right:
            notes["validation"] = "no film with a known class; the last value of the grid was taken"
            search["chosen"] = {name: grid[last], "validation_accuracy": None}
            return Choice(np.full(len(classes), last), {**search, "notes": notes})
        truth = labels == 1  # -log p of the class that a film has, nothing of the others
        losses = [float(np.logaddexp(0, -own[truth]).mean()) for own in scores]
        best = _best(right, losses)
        search["chosen"] = {
            name: grid[best],
            "validation_accuracy": right[best],
            f"validation_accuracy_by_{name}": right,
            f"validation_log_loss_by_{name}": losses,
        }
        return Choice(np.full(len(classes), best), {**search, "notes": notes})
    found: dict[int, list[float]] = {}
    lost: dict[int, list[float]] = {}
    for k, label in enumerate(classes):
        if label in untrained:
            continue
        known = ~np.isnan(labels[:, k])
        own = [auroc(labels[known, k] == 1, scores[i, known, k]) for i in range(len(grid))]
        if (values := [value for value in own if value is not None]) and len(values) == len(grid):
            found[k] = values
            signs = 1 - 2 * labels[known, k]
            lost[k] = [float(np.logaddexp(0, signs * own[known, k]).mean()) for own in scores]
    shared = last
    if found:
        shared = _best(*(np.mean(list(each.values()), axis=0).tolist() for each in (found, lost)))
    position = np.full(len(classes), last)
    chosen: dict[str, Any] = {}
    for k, label in enumerate(classes):
        if k in found:
            position[k] = _best(found[k], lost[k])
            chosen[label] = {
                name: grid[position[k]],
                "validation_auroc": found[k][position[k]],
                f"validation_auroc_by_{name}": found[k],
                f"validation_log_loss_by_{name}": lost[k],
            }
        elif label not in untrained:
            position[k] = shared
            chosen[label] = {name: grid[shared], "validation_auroc": None}
            said = "the best for the other classes" if found else "the last of the grid"
            notes[label] = f"the validation split holds {_counts(labels[:, k])}; {name}: {said}"
    search["selected_on"] = f"validation AUROC of the class; {_TIES}"
    return Choice(position, {**search, "chosen": chosen, "notes": notes})


def one_valued(labels: Floats, classes: Sequence[str], where: str) -> dict[str, str]:
    """Classes without a positive or without a negative, and what there is of them.

    Args:
        labels: (n, C) 1, 0 or NaN.
        classes: names of the C classes.
        where: whose labels they are, as in "training fraction".
    """
    return {
        label: f"the {where} holds {_counts(labels[:, k])}"
        for k, label in enumerate(classes)
        if not ((labels[:, k] == 1).any() and (labels[:, k] == 0).any())
    }


def prior_log_odds(labels: Floats, *, exclusive: bool) -> Floats:
    """(C,) log-odds of each class in (n, C) labels, half a film of each outcome added: what is known without a film."""
    positive, known = (labels == 1).sum(axis=0), (~np.isnan(labels)).sum(axis=0)
    share = (positive + 0.5) / (known + (0.5 * labels.shape[1] if exclusive else 1.0))
    odds: Floats = np.log(share / (1 - share))
    return odds


def _counts(labels: Floats) -> str:
    return f"{int((labels == 1).sum())} positives and {int((labels == 0).sum())} negatives"


_TIES = "of equal values the lower validation log-loss, then the last of the grid"


def _best(values: Sequence[float], losses: Sequence[float]) -> int:
    """Where the highest value is; of equal ones the one with the lowest loss, of these the last."""
    equal = np.flatnonzero(np.asarray(values) == max(values))
    loss = np.asarray(losses)[equal]
    return int(equal[loss <= loss.min() + ALIKE][-1])
