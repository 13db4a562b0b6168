"""A part of a loss for some rows of a batch at a time: what it needs in between is never there for all of them."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(part: Callable[..., Tensor], size: int | None, *rows: Tensor) -> Tensor:
    """What `part` gives for `rows`, computed for `size` of them at a time and, backward, once more.

    Values and gradients are those of `part(*rows)`, up to rounding where products of matrices are cut; the memory in
    between is that of one chunk.

    Args:
        part: takes some rows of each tensor, gives a tensor with as many; row i depends on the i-th rows and on
            whatever `part` has beside them, and draws no random numbers.
        size: rows at a time, at least 1; None for all at once, with nothing computed twice.
        rows: each (B, ...).

    Returns:
        (B, ...).
    """
    if size is None or not torch.is_grad_enabled():
        return part(*rows)
    pieces = zip(*(tensor.split(size) for tensor in rows), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat(
        [checkpoint(part, *some, use_reentrant=False, preserve_rng_state=False) for some in pieces]
    )
