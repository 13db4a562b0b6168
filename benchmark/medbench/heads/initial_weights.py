"""Initial weights of heads: a seed decides them, and torch's own generator is left alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Inside it, what is drawn on the CPU starts from `seed`; afterwards torch's generator is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
