"""Trials over a grid: which is taken, and what is said of all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medbench.errors import WeightsError
from medbench.progress import Progress
from medbench.protocols.training import Schedule, Training
from medbench.protocols.trials import Point, Trial, best_trial, grid_search
from medbench.protocols.unfrozen import EncoderGrid
from medbench.task import Environment

GRID = EncoderGrid((0.1, 1.0), (0.5, 1.0))
SCORES = {None: 1.0, (0.1, 0.5): 0.3, (0.1, 1.0): 0.7, (1.0, 0.5): 0.7, (1.0, 1.0): 0.2}


class Toy(Trial):
    """Its score is that of its point."""

    layers = "two layers"

    def __init__(self, workdir: Path, point: Point | None, loss: float = 1.0) -> None:
        self.point, self.sound = point, loss == loss
        module = nn.Linear(1, 1, bias=False)
        self.training = Training(
            "toy",
            module,
            torch.optim.SGD(module.parameters(), lr=0.1),
            Schedule(up_to=1.0, lr=0.1, batch_size=2, epochs=2, validate_every=1, patience=9),
            np.arange(4),
            0,
            Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True)),
            {"point": point},
            step=lambda rows, generator: loss * module.weight.square().sum(),
            validate=lambda: SCORES[point],
        )

    def check_maps(self) -> None:
        if not self.sound:
            raise WeightsError("maps")


def test_the_first_of_the_best_is_taken_as_it_was_trained(tmp_path: Path) -> None:
    made: list[Point | None] = []

    def make(point: Point | None) -> Toy:
        made.append(point)
        return Toy(tmp_path, point)

    best, trials = best_trial(GRID, make)
    assert [trial.point for trial in trials] == list(GRID.points)
    assert made == [*GRID.points, (0.1, 1.0)]
    assert not any(hasattr(trial.training, "module") for trial in trials)
    weight = best.training.module.state_dict()["weight"]
    assert torch.equal(weight, best.training.best["state"]["weight"])
    assert best.training.validations == 2  # of its checkpoint: it was not trained again
    found = grid_search(best.training.search("dice"), GRID, "dice", best, trials)
    assert found["chosen"] == {"lr_factor": 0.1, "layer_decay": 1.0, "epoch": 1, "validation_dice": 0.7}
    assert found["trials"] == 8
    assert [one["validation_dice"] for one in found["tried"]] == [0.3, 0.7, 0.7, 0.2]
    assert found["grid"]["lr_factors"] == (0.1, 1.0)
    assert found["encoder"] == "two layers"
    turned: dict[str, Any] = grid_search(best.training.search("loss"), GRID, "loss", best, trials, sign=-1)
    assert turned["tried"][0]["validation_loss"] == -0.3


def test_a_frozen_encoder_has_one_trial(tmp_path: Path) -> None:
    best, trials = best_trial(None, lambda point: Toy(tmp_path, point))
    assert trials == [best]
    assert best.point is None
    search = best.training.search("dice")
    assert grid_search(search, None, "dice", best, trials) == search


def test_broken_maps_are_named_rather_than_the_loss(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="maps"):
        Toy(tmp_path, None, loss=float("nan")).train()
    broken = Toy(tmp_path / "other", None, loss=float("nan"))
    (tmp_path / "other").mkdir()
    broken.sound = True
    with pytest.raises(FloatingPointError, match="no longer finite"):
        broken.train()
