"""What the records of one place in a table come to: a number over the seeds, or why there is none."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from medbench.cells import format_metric
from medbench.records import Record
from medbench.results import counting

Status = Literal["ok", "n/a", "failed", "ambiguous", "missing"]
"""Has a value; was skipped or is not defined; failed; has two records of one seed; has none at all."""


@dataclass(frozen=True)
class Summary:
    """What a place shows.

    Attributes:
        status: whether there is a value.
        records: of the place, by seed.
        counted: those whose primary metric is defined and counts, by seed; one a seed.
        repeated: by cell id of a record that does not count, the seed whose very predictions it has.
        notes: what has to be said about it.
    """

    status: Status
    records: Sequence[Record] = ()
    counted: Sequence[Record] = ()
    repeated: dict[str, int | None] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def seeds(self) -> frozenset[int | None]:
        """With a finished record; None stands for a result that depends on no seed."""
        return frozenset(r.identity.seed for r in self.records if r.status != "failed")

    @property
    def by_seed(self) -> dict[int | None, float]:
        """The primary metric of each seed that counts."""
        return {r.identity.seed: value for r in self.counted if (value := _value(r)) is not None}

    @property
    def mean(self) -> float | None:
        """Over the seeds that count."""
        return statistics.fmean(self.by_seed.values()) if self.counted else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds that count (over n - 1), None with fewer than two."""
        return statistics.stdev(self.by_seed.values()) if len(self.counted) > 1 else None

    @property
    def value(self) -> str:
        """In a table, without the number of seeds."""
        if not self.counted:
            return "–" if self.status == "missing" else self.status
        if len(self.counted) == 1:
            return format_metric(self.counted[0].primary)
        return percent(list(self.by_seed.values()))

    @property
    def text(self) -> str:
        """In a table, with the number of seeds where it is a mean."""
        counted = len(self.counted)
        return f"{self.value} ({counted} seeds)" if counted > 1 else self.value


def summarise(records: Sequence[Record]) -> Summary:
    """One place from its records, which are in the order of their seeds."""
    if not records:
        return Summary("missing")
    seeds = {r.identity.seed for r in records if r.status != "failed"}
    failed = [r for r in records if r.status == "failed" and r.identity.seed not in seeds]
    skipped = sorted({r.reason or "no reason recorded" for r in records if r.status == "skipped"})
    notes = [
        f"{_seed(r.identity.seed)} failed: {r.error.type}: {' '.join(r.error.message.split())}"
        for r in failed
        if r.error is not None
    ]
    notes += [f"n/a: {reason}" for reason in skipped]

    found = counting(records)
    if found.several:
        for same in found.several:
            ids = ", ".join(r.cell_id[:12] for r in same)
            notes.append(
                f"cells {ids} are all of {_seed(same[0].identity.seed)} and differ in what a table can not tell apart "
                "(options of the pretraining, releases of the task's plugin): none is shown. Keep the one that counts."
            )
        return Summary("ambiguous", records, notes=notes)

    repeated = {}
    for repeat, first in found.repeated:
        repeated[repeat.cell_id] = first.identity.seed
        notes.append(
            f"{_seed(repeat.identity.seed)} has the very predictions of {_seed(first.identity.seed)}: "
            "a repeat, not counted"
        )
    undefined, own = len(found.undefined), len(found.counted) + len(found.undefined)
    if undefined:
        notes.append(f"not defined in {undefined} of {own} records: see their `search.notes`")
    status: Status = "ok" if found.counted else "n/a" if own or skipped else "failed"
    return Summary(status, records, found.counted, repeated, notes)


def percent(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean in percent and, of several values, the sample standard deviation (over n - 1): "61.3 ± 0.8"."""
    mean = 100 * statistics.fmean(values)
    text = f"{mean:+.1f}" if signed else f"{mean:.1f}"
    return text if len(values) == 1 else f"{text} ± {100 * statistics.stdev(values):.1f}"


def _value(record: Record) -> float | None:
    return record.primary.value if record.primary is not None else None


def _seed(seed: int | None) -> str:
    return "no seed" if seed is None else f"seed {seed}"
