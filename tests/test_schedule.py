"""Learning rates against torch's own schedulers."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ReduceLROnPlateau

from medbench.errors import UsageError
from medbench.method import PretrainConfig
from medbench.schedule import Plateau, learning_rate


def config(**changes: Any) -> PretrainConfig:
    return PretrainConfig(**{"epochs": 1, "batch_size": 2, "lr": 2e-3, "final_lr": 1e-6, **changes})


def torchs() -> Optimizer:
    return SGD([nn.Parameter(torch.zeros(1))], lr=2e-3)


@pytest.mark.parametrize(("warmup", "steps"), [(0.4, 100), (0.0, 50), (1.0, 20), (0.5, 2), (0.4, 1)])
def test_cosine(warmup: float, steps: int) -> None:
    chosen = config(warmup=warmup)
    rates = [learning_rate(chosen, step, steps) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(b > a for a, b in pairwise(rates[:warm]))
    assert all(b < a for a, b in pairwise(rates[warm:]))
    assert max(rates) == pytest.approx(2e-3)
    if steps - warm > 1:
        assert rates[warm] == pytest.approx(2e-3)
        assert rates[-1] == pytest.approx(1e-6)
        middle = warm + (steps - 1 - warm) / 2
        assert learning_rate(chosen, middle, steps) == pytest.approx((2e-3 + 1e-6) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(("first", "factor"), [(2, 1), (1, 2), (3, 3), (50, 1)])
def test_restarts_are_torchs(first: int, factor: int) -> None:
    epochs, per_epoch = 11, 4
    chosen = config(
        epochs=epochs, schedule="restarts", warmup=0.0, restart_epochs=first, restart_factor=factor
    )
    optimizer = torchs()
    theirs = CosineAnnealingWarmRestarts(optimizer, T_0=first * per_epoch, T_mult=factor, eta_min=1e-6)
    for step in range(epochs * per_epoch):
        found = learning_rate(chosen, step, epochs * per_epoch)
        assert found == pytest.approx(optimizer.param_groups[0]["lr"]), step
        optimizer.step()
        theirs.step()


def test_cycles_begin_after_the_warmup() -> None:
    chosen = config(epochs=10, schedule="restarts", warmup=0.2, restart_epochs=4)
    rates = [learning_rate(chosen, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([2e-3 * (step + 1) / 10 for step in range(10)])
    assert rates[10:30] == pytest.approx(rates[30:50])
    assert rates[10] == pytest.approx(2e-3)
    assert min(rates[10:]) < 0.01 * 2e-3


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(("factor", "patience"), [(0.5, 0), (0.5, 2), (0.1, 1)])
def test_plateau_is_torchs(factor: float, patience: int, sign: float) -> None:
    chosen = config(
        schedule="plateau", warmup=0.0, final_lr=1e-5, plateau_factor=factor, plateau_patience=patience
    )
    optimizer, ours = torchs(), Plateau()
    theirs = ReduceLROnPlateau(optimizer, factor=factor, patience=patience, min_lr=1e-5, eps=0)
    draw = torch.Generator().manual_seed(3)
    losses = torch.cat([torch.rand(30, generator=draw), torch.linspace(1, 0.9995, 12), torch.ones(20)])
    for epoch, loss in enumerate((sign * losses).tolist()):
        assert learning_rate(chosen, 7, 100, ours.scale) == pytest.approx(optimizer.param_groups[0]["lr"]), (
            epoch
        )
        ours.see(loss, chosen)
        optimizer.step()
        theirs.step(loss)
    assert ours.scale < factor**2


def test_plateau_leaves_the_warmup_its_shape() -> None:
    chosen = config(epochs=10, schedule="plateau", warmup=0.2)
    rates = [learning_rate(chosen, step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([2e-3 * (step + 1) / 10 for step in range(10)])
    assert rates[10:] == [2e-3] * 40
    assert learning_rate(chosen, 4, 50, 0.5) == pytest.approx(rates[4] / 2)
    assert learning_rate(chosen, 40, 50, 1e-9) == 1e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0; expected at least 1"),
        ({"patience": 0}, "patience is 0; expected at least 1"),
        ({"lr": 0.0}, "lr is 0.0; expected a number above 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": math.nan}, "lr is nan"),
        ({"final_lr": -1e-9}, r"final_lr is -1e-09; expected 0 to pretrain\.lr \(0.002\)"),
        ({"final_lr": 1e-2}, "final_lr is 0.01"),
        ({"final_lr": math.nan}, "final_lr is nan"),
        ({"warmup": -0.1}, "warmup is -0.1; expected a share"),
        ({"warmup": math.nan}, "warmup is nan"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\); expected two numbers"),
        ({"betas": (-0.1, 0.9)}, "betas is"),
        ({"betas": (0.9, math.nan)}, "betas is"),
        ({"betas": (0.9,)}, "betas is"),
        ({"weight_decay": -1e-6}, "weight_decay is -1e-06; expected a number of at least 0"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"clip_gradient": 0.0}, "clip_gradient is 0.0; expected a number above 0, or none"),
        ({"clip_gradient": math.nan}, "clip_gradient is nan"),
        ({"clip_gradient": math.inf}, "clip_gradient is inf"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected one of cosine, plateau, restarts"),
        ({"plateau_factor": 1.0}, "plateau_factor is 1.0; expected a number above 0 and below 1"),
        ({"plateau_factor": math.nan}, "plateau_factor is nan"),
        ({"plateau_patience": -1}, "plateau_patience is -1; expected at least 0"),
        ({"restart_epochs": 0}, "restart_epochs is 0; expected at least 1"),
        ({"restart_factor": 0}, "restart_factor is 0; expected at least 1"),
    ],
)
def test_what_can_not_be_run_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"pretrain\.{message}"):
        config(**changes)


def test_what_can_be_run_is_not() -> None:
    values = {
        "final_lr": 2e-3,
        "betas": (0.0, 0.5),
        "weight_decay": 0.0,
        "plateau_patience": 0,
        "patience": None,
        "clip_gradient": 0.1,
    }
    made = config(**values)
    assert {name: getattr(made, name) for name in values} == values
