"""Rows of all processes, so that a contrast has the negatives of the whole batch and not of one device's share.

A process computes the loss of its own rows (anchors) against everybody's rows (candidates), in both directions.
With gradients summed on their way back, the mean over processes of loss and of gradients, which is what data
parallel training takes, is that of one process with the joined batch.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes in order of rank; gradients that come back to a row are summed over processes.

    Without torch.distributed initialised there is one process, and `rows` come back as they are.

    Args:
        rows: (B, ...), of the same shape in every process (`pad_words` first).

    Returns:
        (W * B, ...); process r's rows begin at `rank_offset`.
    """
    return rows if processes() == 1 else cast(Tensor, _Gather.apply(rows))


def rank_offset(rows: Tensor) -> int:
    """Where this process' rows (B, ...) begin among those of all: rank * B."""
    return len(rows) * dist.get_rank() if processes() > 1 else 0


def processes() -> int:
    """W, the number of processes that train together; 1 without torch.distributed initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def pad_words(words: Tensor, length: int, value: float = 0) -> Tensor:
    """(B, N, ...) -> (B, length, ...) with `value` behind; reports of all processes then have one shape.

    Args:
        words: one row a word or token, N <= length.
        length: what every process agrees on, such as the config's most tokens.
        value: of the padding; 0 is False in a mask.
    """
    return F.pad(words, (0, 0) * (words.dim() - 2) + (0, length - words.shape[1]), value=value)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient; the tensor itself where there is one."""
    if processes() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""Its name since torch 2.14, which warns of the old one."""


class _Gather(torch.autograd.Function):
    """All rows forward, the sum of all gradients of one's own rows backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        gathered = rows.new_empty((processes() * len(rows), *rows.shape[1:]))
        _all_gather(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()  # (W * B, ...)
        dist.all_reduce(total)
        begin = dist.get_rank() * ctx.rows
        return total[begin : begin + ctx.rows]
