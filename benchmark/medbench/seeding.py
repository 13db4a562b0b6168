"""Where random numbers come from: everything is drawn from a seed that says what it is for.

No generator is carried from one step to the next. A number depends on what it is drawn for (seed, epoch, sample)
and on nothing that happened before, so a run that was interrupted goes on with the numbers it would have had.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive_seed(*parts: str | int) -> int:
    """A seed for what `parts` name, the same on every machine.

    Parts are kept apart by type and length: ("a", "b"), ("ab",), (1,) and ("1",) give four seeds.

    Args:
        parts: any names and numbers, e.g. (3, "order", epoch).

    Returns:
        A whole number in [0, 2**63), from SHA-256.
    """
    digest = hashlib.sha256()
    for part in parts:
        text = str(int(part)) if isinstance(part, int) else part
        data = text.encode()
        digest.update(f"{'i' if isinstance(part, int) else 's'}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's `random`, numpy's global generator and torch (all devices) with `seed`."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries draw from the global generator; our own code never does  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def drawn_from(seed: int, device: "torch.device | None" = None) -> Iterator[None]:
    """Inside it, what torch draws starts from `seed`; afterwards its generators are as they were before.

    Args:
        seed: 64 bits.
        device: a CUDA device that is drawn on, too. Generators of others are neither seeded nor put back.
    """
    import torch

    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _splitmix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), elementwise; wraps modulo 2**64."""
    z = state + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def uniforms(seed: int, epoch: int, index: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.float64]:
    """`n` random numbers a sample, that depend on (seed, epoch, index[i]) and not on the other samples or their order.

    A counter-based generator: SplitMix64's mixer over (seed, epoch), then the sample, then the number's position.
    Asking for more numbers does not change the first ones.

    Args:
        seed: of the run.
        epoch: from 0.
        index: (N,) int64, which samples.
        n: numbers a sample.

    Returns:
        (N, n) float64 in [0, 1), multiples of 2**-53.
    """
    key = np.array([derive_seed(seed, epoch)], dtype=np.uint64)
    sample = _splitmix64(key ^ _splitmix64(np.asarray(index, dtype=np.int64).astype(np.uint64)))  # (N,)
    position = _splitmix64(np.arange(n, dtype=np.uint64))  # (n,)
    bits = _splitmix64(sample[:, None] ^ position[None, :])  # (N, n)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
