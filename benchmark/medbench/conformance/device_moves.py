"""Which tensors would stay behind on the CPU if a model were moved, found where there is nothing to move to.

Every call of torch is watched, and tensors are followed from what is sure to be moved: parameters, buffers, batches.
What is made of these is on their device, and so is what is made with `device=` or moved by `to`. All else is on the
CPU: plain attributes of a module, constants of a file, `torch.arange(n)`. Where such a one meets a tensor of the device
in one call, a GPU would say "Expected all tensors to be on the same device".

`device="cpu"` and `.cpu()` are taken by their word. A device that is held in a variable is taken for the model's.
"""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_TO_CPU: Final = frozenset({"cpu", "numpy", "tolist", "item"})

_SHAPE_ALONE: Final = frozenset({"expand_as", "view_as", "reshape_as"})
"""Calls that ask the second tensor for its shape and nothing else."""

_BOTH: Final = frozenset(
    {
        "copy_",
        "_pack_padded_sequence",
        "_pad_packed_sequence",
        "lstm",
        "gru",
        "rnn_tanh",
        "rnn_relu",
        "__set__",
    }
)
"""Calls that take tensors of the CPU beside those of another device; of packed sequences the lengths are on the CPU."""


class HostTensors(TorchFunctionMode):
    """Watches calls.

    Attributes:
        behind: what met tensors of the device and is on the CPU, in words, in the order in which it was seen.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.behind: list[str] = []
        self._method = method
        self._moved: dict[int, Tensor] = {}  # held, since the id of one that is gone is given to another
        self._mark((list(method.parameters()), list(method.buffers())))

    @contextmanager
    def given(self, *batches: object) -> Iterator[None]:
        """Watch what is called inside; the tensors of `batches` are on the device."""
        self._mark(batches)
        with self:
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        result = func(*args, **kwargs)
        parts = list(
            _tensors((args[:1], args[2:]) if name in ("__getitem__", "__setitem__") else (args, kwargs))
        )
        moved = [self._is_moved(part) for part in parts]
        named = _device(name, args, kwargs)
        if name in _TO_CPU or named == "cpu":
            # The very same tensor comes back on the CPU, and is another one on a GPU.
            return result.clone() if any(result is part for part in parts) else result
        if isinstance(named, Tensor):
            to_device = self._is_moved(named)
        elif named is not None:
            to_device = True
        elif name in _SHAPE_ALONE:
            to_device = moved[0]
        else:
            to_device = any(moved)
            left = [part for part, on in zip(parts, moved, strict=True) if not on and part.ndim]
            if to_device and left and name not in _BOTH:
                self.behind.append(f"{self._describe(left[0])}, in {name} at {_caller()}")
        if to_device:
            self._mark(result)
        return result

    def _is_moved(self, tensor: Tensor) -> bool:
        return id(tensor) in self._moved

    def _mark(self, value: object) -> None:
        self._moved |= {id(tensor): tensor for tensor in _tensors(value)}

    def _describe(self, tensor: Tensor) -> str:
        for path, part in self._method.named_modules():
            for name, value in vars(part).items():
                if any(held is tensor for held in _tensors(value)):
                    return f"the attribute {f'{path}.' if path else ''}{name}, which is no parameter and no buffer"
        return f"a tensor of shape {tuple(tensor.shape)}"


def _device(name: str, args: Any, kwargs: Any) -> Any:
    """The device that a call names: a device, a string, a tensor that is on it; None where it names none."""
    if kwargs.get("device") is not None:
        return kwargs["device"]
    if name == "cuda":
        return name
    if name == "type_as":
        return args[1]
    if name == "to":
        return next(
            (arg for arg in (*args[1:], *kwargs.values()) if isinstance(arg, torch.device | str | Tensor)),
            None,
        )
    return None


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors([getattr(value, field.name) for field in fields(value)])


def _caller() -> str:
    """File and line of the call, outside torch."""
    for frame in reversed(traceback.extract_stack()):
        if frame.filename != __file__ and "/torch/" not in frame.filename:
            return f"{frame.filename}:{frame.lineno}"
    return "an unknown place"
