"""One progress line for whatever runs: what, how far, how fast, how long still. On standard error."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from medbench.redaction import without_secrets
from medbench.terminal import printable, printable_lines

QUIET_SECONDS = 20.0
"""Without a terminal a line is printed this often, so that logs stay short and nobody thinks that it hangs."""


class Advance(Protocol):
    """What a loop calls as it goes on."""

    def __call__(self, n: int = 1, note: str = "") -> None:
        """Tell the line that `n` more units are done; `note` is shown at its end (a loss, a score)."""


class Progress:
    """Where a run reports to.

    Attributes:
        label: stands before every line ("phantom" while synthetic data is used, so that nobody mistakes it).
        quiet: say nothing at all.
    """

    def __init__(self, label: str = "", quiet: bool = False) -> None:
        self.label = label
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print one line to standard error."""
        if not self.quiet:
            line = without_secrets(f"[{self.label}] {text}" if self.label else text)
            print(printable_lines(line), file=sys.stderr, flush=True)

    @contextmanager
    def track(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Show the progress of `total` units, `done` of which were done before."""
        if self.quiet:
            yield lambda n=1, note="": None
        elif sys.stderr.isatty():
            yield from self._bar(what, total, unit, done)
        else:
            yield from self._lines(what, total, unit, done)

    def _bar(self, what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar

        head = escape(printable(f"[{self.label}] {what}" if self.label else what))
        with Bar(
            TextColumn(head),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task(what, total=total, completed=done, rate="", note="")
            start, here = time.monotonic(), 0

            def advance(n: int = 1, note: str = "") -> None:
                nonlocal here
                here += n
                rate = f"{here / max(time.monotonic() - start, 1e-6):,.0f} {unit}/s"
                bar.update(task, advance=n, rate=rate, note=escape(printable(note)))

            yield advance

    def _lines(self, what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
        start = last = time.monotonic()
        here, at = 0, done
        self.say(f"{what}: {total:,} {unit}" + (f", {done:,} done before" if done else ""))

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal here, at, last
            here, at, now = here + n, at + n, time.monotonic()
            if now - last >= QUIET_SECONDS:
                last = now
                rate = here / (now - start)
                left = max(total - at, 0) / rate if rate > 0 else float("nan")
                tail = f", {note}" if note else ""
                self.say(
                    f"{what}: {at:,} of {total:,} {unit}, {rate:,.0f} {unit}/s, {left:,.0f} s left{tail}"
                )

        yield advance
        self.say(f"{what}: done, {here:,} {unit} in {time.monotonic() - start:,.1f} s")
