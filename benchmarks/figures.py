"""What benchmarks with goals share: a line a figure, and measuring in a process of its own."""

import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """One line: what, how much of it, and what it should be."""

    what: str
    value: float
    unit: str
    goal: float
    most: bool = False
    """Whether the goal is the most that is allowed, not the least."""

    def __str__(self) -> str:
        met = self.value <= self.goal if self.most else self.value >= self.goal
        sign = "at most" if self.most else "at least"
        return f"{self.what:<58}{self.value:10,.2f} {self.unit:<6} {sign} {self.goal:g}: {'met' if met else 'MISSED'}"


def alone(measure: Callable[..., None], *given: Any) -> Any:
    """What `measure(*given, answer)` answers, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=measure, args=(*given, theirs))
    child.start()
    theirs.close()
    answer = ours.recv()
    child.join()
    return answer


def peak() -> int:
    """Bytes at the largest moment of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
