"""The learning rate of a pretraining run: what of it is known before it, and what a plateau of the loss makes of it."""

import math
from dataclasses import dataclass
from typing import Final

from medbench.method import PretrainConfig

BETTER: Final = 1e-4
"""Share by which a validation loss must be below the best one to count as better (torch's `ReduceLROnPlateau`)."""


def learning_rate(config: PretrainConfig, step: int, steps: int, scale: float = 1.0) -> float:
    """Learning rate of optimiser step `step` (from 0) of `steps`: linear warm-up, then what `config.schedule` says.

    `cosine`: one half cosine; the last warm-up step and the first of the cosine are at `lr`, the last of all is at
    `final_lr`. `restarts`: half cosines one after the other, each from `lr`; like torch's, a cycle of n steps comes to
    within one step of `final_lr`. `plateau`: `lr` times `scale`, and not below `final_lr`.

    Args:
        config: of the run.
        step: from 0.
        steps: of the whole run, `config.epochs` times as many as an epoch has.
        scale: of a plateau, by `Plateau`.
    """
    top = max(config.lr * scale, config.final_lr) if config.schedule == "plateau" else config.lr
    warm = round(config.warmup * steps)
    if step < warm:
        return top * (step + 1) / warm
    if config.schedule == "plateau":
        return top
    if config.schedule == "restarts":
        share = _share_of_cycle(
            step - warm, config.restart_epochs * (steps // config.epochs), config.restart_factor
        )
    else:
        share = min(1.0, (step - warm) / max(1, steps - 1 - warm))
    return config.final_lr + (config.lr - config.final_lr) * (1 + math.cos(math.pi * share)) / 2


def _share_of_cycle(step: int, length: int, factor: int) -> float:
    """How much of its cycle is over at `step`: 0 up to, and not, 1. The first has `length` steps."""
    while step >= length:
        step -= length
        length *= factor
    return step / length


@dataclass
class Plateau:
    """What has been seen of the validation loss, as torch's `ReduceLROnPlateau` counts it. Plain types only.

    Attributes:
        best: the lowest loss that counted as better.
        waited: epochs since then, or since the rate was lowered.
        scale: what the learning rate is multiplied by.
    """

    best: float = math.inf
    waited: int = 0
    scale: float = 1.0

    def see(self, loss: float, config: PretrainConfig) -> None:
        """Take in the validation loss of an epoch."""
        if loss < self.best * (1 - BETTER):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > config.plateau_patience:
            self.scale *= config.plateau_factor
            self.waited = 0
