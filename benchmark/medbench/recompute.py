"""Less memory for more time: activations of encoders are computed again backward instead of being kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def recompute_activations(module: nn.Module) -> int:
    """Ask every encoder below `module` to compute its activations again backward.

    An encoder is a module with timm's `set_grad_checkpointing`, or with transformers' `gradient_checkpointing_enable`.

    Returns:
        How many there are.
    """
    enable: Any
    if hasattr(module, "set_grad_checkpointing"):
        enable = module.set_grad_checkpointing
        enable(True)
        return 1
    if hasattr(module, "gradient_checkpointing_enable"):
        # transformers 5 renames it, and warns of the old name
        enable = getattr(module, "activation_checkpointing_enable", module.gradient_checkpointing_enable)
        enable({"use_reentrant": False})
        return 1
    return sum(map(recompute_activations, module.children()))


def keep_statistics(module: nn.Module) -> Callable[[], None]:
    """Note the running statistics of BatchNorm, which a second forward pass, backward, would move a second time.

    Returns:
        What puts them back.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    kept: list[tuple[Tensor, Tensor]] = [
        (b, b.clone()) for norm in norms for b in norm.buffers(recurse=False)
    ]

    def put_back() -> None:
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)

    return put_back
