"""Freed memory is kept where that was asked for."""

import subprocess
import sys

import pytest

from medbench import memory


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
def test_memory_is_kept_only_after_it_was_asked_for() -> None:
    # in a process of its own: it can not be undone
    program = """
import resource, torch
from medbench import devices, memory
def faults(steps=20):
    torch.empty(2**22).fill_(1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(steps):
        torch.empty(2**22).fill_(1.0)  # 16 MiB, 4096 pages
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
assert devices.describe(torch.device("cpu"))["keeps_freed_memory"] is False
without = faults()
done = memory.keep_freed_memory()
assert devices.describe(torch.device("cpu"))["keeps_freed_memory"] is done
print(done, without, faults())
"""
    done, without, kept = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()
    if done == "False":
        pytest.skip("the C library is not glibc")
    assert int(kept) < 100  # no page is cleared anew
    assert int(without) > int(kept)


def test_no_glibc_no_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    assert memory.keep_freed_memory() is False
