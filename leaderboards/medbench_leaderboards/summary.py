"""What the records of one place in a table come to: a number over the seeds, or why there is none."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from medbench.cells import format_metric
from medbench.records import Record
from medbench_leaderboards.groups import repeats


@dataclass(frozen=True)
class Summary:
    """What a place shows.

    Attributes:
        value: in the table, without the number of seeds.
        mean: of the primary metric over the seeds, None where there is none.
        notes: what has to be said about it.
        seeds: with a finished record; None stands for a result that depends on no seed.
        by_seed: the primary metric of each seed that counts, where it is defined.
    """

    value: str
    mean: float | None = None
    notes: Sequence[str] = ()
    seeds: frozenset[int | None] = field(default=frozenset())
    by_seed: dict[int | None, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """In the table, with the number of seeds where it is a mean."""
        counted = len(self.by_seed)
        return f"{self.value} ({counted} seeds)" if counted > 1 else self.value


def summarise(records: Sequence[Record]) -> Summary:
    """One place from its records, which are in the order of their seeds."""
    if not records:
        return Summary("–")
    seeds = frozenset(r.identity.seed for r in records if r.status != "failed")
    failed = [r for r in records if r.status == "failed" and r.identity.seed not in seeds]
    skipped = sorted({r.reason or "no reason recorded" for r in records if r.status == "skipped"})
    notes = [
        f"{_seed(r)} failed: {r.error.type}: {' '.join(r.error.message.split())}"
        for r in failed
        if r.error is not None
    ]
    notes += [f"n/a: {reason}" for reason in skipped]

    scored = [r for r in records if r.status == "ok"]
    by_seed: dict[int | None, list[Record]] = defaultdict(list)
    for record in scored:
        by_seed[record.identity.seed].append(record)
    several = [same for same in by_seed.values() if len(same) > 1]
    if several:
        for same in several:
            ids = ", ".join(r.cell_id[:12] for r in same)
            notes.append(
                f"cells {ids} are all of {_seed(same[0])} and differ in what a table can not tell apart (options "
                "of the pretraining, releases of the task's plugin): none is shown. Keep the one that counts."
            )
        return Summary("ambiguous", None, notes, seeds)

    for repeat, first in repeats(scored):
        notes.append(f"{_seed(repeat)} has the very predictions of {_seed(first)}: a repeat, not counted")
        scored.remove(repeat)
    defined = [(r, m) for r in scored if (m := r.primary) is not None and m.value is not None]
    if len(defined) < len(scored):
        notes.append(
            f"not defined in {len(scored) - len(defined)} of {len(scored)} records: see their `search.notes`"
        )
    values = {r.identity.seed: m.value for r, m in defined if m.value is not None}
    if not values:
        return Summary("n/a" if scored or skipped else "failed", None, notes, seeds)
    text = format_metric(defined[0][1]) if len(values) == 1 else percent(list(values.values()))
    return Summary(text, float(pd.Series(list(values.values()), dtype=float).mean()), notes, seeds, values)


def percent(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean in percent and, of several values, the sample standard deviation (over n - 1): "61.3 ± 0.8"."""
    series = 100 * pd.Series(values, dtype=float)
    mean = f"{series.mean():+.1f}" if signed else f"{series.mean():.1f}"
    return mean if len(series) == 1 else f"{mean} ± {series.std(ddof=1):.1f}"


def _seed(record: Record) -> str:
    return "no seed" if record.identity.seed is None else f"seed {record.identity.seed}"
