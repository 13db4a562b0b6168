"""Training by epochs: what it says when nothing can be chosen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from medbench.progress import Progress
from medbench.protocols.training import Schedule, Training
from medbench.task import Environment


def line(workdir: Path, scores: list[float]) -> Training:
    """A number that learns to be 0; its validations by decree, one an epoch."""
    module = nn.Linear(1, 1, bias=False)
    left = iter(scores)
    return Training(
        "line",
        module,
        torch.optim.SGD(module.parameters(), lr=0.1),
        Schedule(up_to=1.0, lr=0.1, batch_size=2, epochs=len(scores), validate_every=1, patience=9),
        np.arange(4),
        0,
        Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True)),
        {},
        step=lambda rows, generator: module.weight.square().sum(),
        validate=lambda: next(left),
    )


def test_validations_that_are_no_numbers_are_never_chosen(tmp_path: Path) -> None:
    nan = float("nan")
    training = line(tmp_path, [nan, 0.5, nan])
    training.run()
    assert (training.best["epoch"], training.best["score"]) == (2, 0.5)


def test_no_validation_with_a_number_is_said(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="none of the 3 validations of line gave a number"):
        line(tmp_path, [float("nan")] * 3).run()
