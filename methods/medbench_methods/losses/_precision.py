"""Losses keep full precision under autocast: exponentials of logits up to 14 lose too much in bfloat16."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

_HALF = (torch.bfloat16, torch.float16)


def full_precision(loss: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Run `loss` with autocast off and half precision tensors raised to float32; float64 stays float64."""

    def raised(value: object) -> object:
        return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value

    @wraps(loss)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return loss(*map(raised, args), **{k: raised(v) for k, v in kwargs.items()})  # type: ignore[arg-type]  # a mapped P

    return wrapper
