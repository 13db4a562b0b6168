"""What a GPU would refuse is found on the CPU, and nothing else is."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medbench.conformance.device_moves import HostTensors

TABLE = torch.ones(3)

FINE: dict[str, Callable[[Tensor], object]] = {
    "made on its device": lambda x: x * torch.arange(3, device=x.device),
    "made like it": lambda x: x * torch.ones_like(x) + x.new_zeros(3),
    "moved by a device": lambda x: x * torch.arange(3).to(x.device),
    "moved by a tensor": lambda x: x * torch.arange(3.0).to(x),
    "converted by a tensor": lambda x: x * torch.arange(3).type_as(x),
    "a number": lambda x: x * torch.tensor(2.0),
    "an index": lambda x: x[:, torch.tensor([0, 2])],
    "both on the CPU": lambda x: x.cpu() * torch.arange(3),
    "both on the CPU by name": lambda x: x.to("cpu") * torch.arange(3),
    "its shape alone": lambda x: torch.ones(1).expand_as(x),
    "copied into it": lambda x: torch.zeros_like(x).copy_(torch.ones(3)),
    "an own layer": lambda x: F.relu(LAYER(x)).sum(),
}

REFUSED: dict[str, Callable[[Tensor], object]] = {
    "mul": lambda x: x * torch.arange(3),
    "cat": lambda x: torch.cat([x, torch.zeros(2, 3)]),
    "add": lambda x: x.relu() + TABLE,
    "sub": lambda x: x.cpu() - x,
    "linear": lambda x: F.linear(x, torch.ones(2, 3)),
    "__setitem__": lambda x: x.clone().__setitem__(0, torch.zeros(3)),
    "where": lambda x: torch.where(torch.ones(3, dtype=torch.bool), x, 0.0),
}

LAYER = nn.Linear(3, 3)


def watched(call: Callable[[Tensor], object]) -> list[str]:
    films = torch.ones(2, 3)
    left = HostTensors(LAYER)
    with left.given({"images": films}):
        call(films)
    return left.behind


@pytest.mark.parametrize("case", FINE)
def test_what_a_gpu_would_do_is_left_alone(case: str) -> None:
    assert watched(FINE[case]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_would_refuse_is_named_with_its_line(name: str) -> None:
    [found] = watched(REFUSED[name])
    assert found.startswith("a tensor of shape (")
    assert f", in {name} at {__file__}:" in found


def test_an_attribute_is_called_by_its_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].scale = [TABLE]
    films = torch.ones(2, 3)
    left = HostTensors(model)
    with left.given(films):
        model(films) * TABLE
    [found] = left.behind
    assert found.startswith("the attribute 0.scale, which is no parameter and no buffer, in mul at ")
