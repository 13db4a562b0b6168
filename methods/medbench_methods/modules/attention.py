"""Which attention kernel is used."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def attention_kernel(device: torch.device) -> AbstractContextManager[Any]:
    """Plain products on the CPU, where the fused kernel's backward pass is slow; else torch's choice."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
