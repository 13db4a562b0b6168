"""Trials of a head over an encoder: one where it is frozen, else one a pair of rate and layer decay."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from medbench.protocols.training import Training
from medbench.protocols.unfrozen import EncoderGrid

Point = tuple[float, float]
"""Rate of an encoder's last layer in parts of the head's, and of each layer in parts of the one above it."""


class Trial(ABC):
    """A head on its way, alone or with a copy of the encoder.

    Attributes:
        training: the loop.
        point: how fast the encoder learns; None where it is frozen.
        layers: of an encoder that learns, in words.
    """

    training: Training
    point: Point | None
    layers: str = ""

    @property
    def score(self) -> float:
        """The best on validation, higher is better."""
        return float(self.training.best["score"])

    @abstractmethod
    def check_maps(self) -> None:
        """Refuse what was trained, if maps that a frozen encoder gave were not finite.

        Raises:
            WeightsError: they were not.
        """

    def train(self) -> None:
        """To the end; then the module has its best state.

        Raises:
            WeightsError: maps that a frozen encoder gave are not finite.
            FloatingPointError: the loss is no longer finite, or no validation gave a number.
        """
        try:
            self.training.run()
        except FloatingPointError:
            self.check_maps()  # then the training is not to blame
            raise

    def release(self) -> None:
        """Forget the weights; what was chosen is kept. Those who hold weights themselves let go of them, too."""
        del self.training.module, self.training.optimiser
        self.training.best = {**self.training.best, "state": {}}


T = TypeVar("T", bound=Trial)


def best_trial(grid: EncoderGrid | None, make: Callable[[Point | None], T]) -> tuple[T, list[T]]:
    """Train at every point of the grid.

    Args:
        grid: None where the encoder is frozen: there is one trial.
        make: a trial that has not been trained.

    Returns:
        The trained one with the best score, the first of equal ones; and all in the order of the grid. Where there are
        several, these have been released, and the best comes from its checkpoint: so call `training.forget` of each
        when all is done.

    Raises:
        WeightsError: maps that a frozen encoder gave are not finite.
        FloatingPointError: the loss is no longer finite, or no validation gave a number.
    """
    points: Sequence[Point | None] = [None] if grid is None else grid.points
    trials = []
    for point in points:
        trial = make(point)
        trial.train()
        trials.append(trial)
        if len(points) > 1:  # a trained one is whole in its checkpoint: it need not stay in memory
            trial.release()
    best = max(trials, key=lambda trial: trial.score)
    if len(points) > 1:
        best = make(best.point)
        best.train()
    return best, trials


def grid_search(
    found: Mapping[str, Any],
    grid: EncoderGrid | None,
    metric: str,
    best: Trial,
    trials: Sequence[Trial],
    sign: float = 1.0,
) -> dict[str, Any]:
    """What was chosen and from what, for the record.

    Args:
        found: the same of the best trial, by `Training.search`.
        grid: what was tried; None where the encoder is frozen, which adds nothing.
        metric: name of the validation score.
        best: from `best_trial`.
        trials: from `best_trial`.
        sign: -1 where the score is the metric with its sign turned.
    """
    if grid is None:
        return dict(found)
    return {
        **found,
        "grid": {**found["grid"], **asdict(grid)},
        "trials": sum(trial.training.validations for trial in trials),
        "chosen": {**_named(best), **found["chosen"]},
        "tried": [
            {
                **_named(trial),
                "epoch": trial.training.best["epoch"],
                f"validation_{metric}": sign * trial.score,
            }
            for trial in trials
        ],
        "encoder": best.layers,
    }


def _named(trial: Trial) -> dict[str, float]:
    return {} if trial.point is None else {"lr_factor": trial.point[0], "layer_decay": trial.point[1]}
