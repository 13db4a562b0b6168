"""Memory of a process that frees and takes large blocks again and again. Nothing here acts on import."""

import ctypes
import platform
import sys
from typing import Final

_MALLOPT: Final = (
    (-4, 0),  # M_MMAP_MAX: no block gets a mapping of its own, which would go back to the system when freed
    (-1, 2**31 - 1),  # M_TRIM_THRESHOLD: the top of the heap stays
    (-2, 2**28),  # M_TOP_PAD: the heap grows by 256 MiB at a time
)

_kept = False


def keep_freed_memory() -> bool:
    """Keep memory that is freed, instead of giving it back to the system and asking for it again.

    A training step on the CPU frees and takes hundreds of blocks of megabytes, a film that is decoded several; by
    default glibc maps and unmaps each, and the kernel clears every page anew, which processes side by side do not even
    do at the same time. benchmarks/pretrain_step.py and data.py measure what it saves. For the rest of the process, so
    only processes of our own call it: the command line's before it trains on the CPU, and those that decode.

    Returns:
        True if done; False where the C library is not glibc.
    """
    global _kept
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    done = [mallopt(option, value) == 1 for option, value in _MALLOPT]
    _kept = all(done)
    return _kept


def is_kept() -> bool:
    """Whether this process keeps the memory that it frees."""
    return _kept
