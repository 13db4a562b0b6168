"""The table of the cells that a run was asked for."""

from collections.abc import Sequence

from medbench.numbers import percent
from medbench.records import MetricValue, Record, fraction_name

SOURCES = {
    "phantom": "PHANTOM data: synthetic films. These numbers say nothing about patients.",
    "real": "real data",
    "mixed": "MIXED: phantom and real data. These records enter no leaderboard.",
}


def cells_table(records: Sequence[Record]) -> str:
    """Markdown: one row a cell, the primary metric with its 95 % interval, what the data are above it."""
    from tabulate import tabulate

    parts = []
    kinds = sorted({_kind(record) for record in records})
    for kind in kinds:
        group = [record for record in records if _kind(record) == kind]
        rows = [
            {
                "method": f"{r.identity.method} ({r.identity.fidelity})",
                "task": r.identity.task,
                "labels": fraction_name(r.identity.fraction),
                "seed": _seed(r),
                "metric": r.primary_metric,
                "value [95 % interval]": _value(r),
                "train": f"{r.counts.train:,}",
                "test": f"{r.counts.test:,}",
            }
            for r in group
        ]
        source, recipe, data = kind
        encoders = dict.fromkeys(f"{r.identity.method}: {_encoder(r)}" for r in group)
        head = "\n".join([SOURCES[source], f"recipe {recipe}; {data}; {'; '.join(encoders)}"])
        parts.append(f"{head}\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}")
        notes = [
            f"{r.identity.method} {r.identity.task} {fraction_name(r.identity.fraction)}, seed {_seed(r)}: "
            f"{r.status}: {_why(r)}"
            for r in group
            if r.status != "ok"
        ]
        parts += ["\n".join(notes)] if notes else []
        worst = [line for record in _fullest(group) if (line := _worst_groups(record))]
        parts += ["\n".join(worst)] if worst else []
    return "\n\n".join(parts)


def _fullest(records: Sequence[Record]) -> list[Record]:
    """Of each method and task the cell with most labels, of its seeds the first."""
    chosen: dict[tuple[str, str], str] = {}
    for record in sorted(records, key=lambda r: (-r.identity.fraction, r.identity.seed or 0)):
        if record.status == "ok":
            chosen.setdefault((record.identity.method, record.identity.task), record.cell_id)
    return [record for record in records if record.cell_id in chosen.values()]


def _worst_groups(record: Record) -> str:
    """The worst group of each column in the primary metric, in a line; "" where no groups are compared."""
    said = []
    for block in record.subgroups:
        spread = next((s for s in block.spreads if s.metric == record.primary_metric), None)
        if spread is not None and spread.worst is not None and spread.gap is not None:
            value = percent(spread.worst, spread.worst_low, spread.worst_high)
            said.append(f"of {block.column}: {spread.worst_group} {value}, gap {100 * spread.gap:.1f}")
    if not said:
        return ""
    identity = record.identity
    cell = f"{identity.method} {identity.task} {fraction_name(identity.fraction)}, seed {_seed(record)}"
    return f"{cell}: worst group {'; '.join(said)}"


def _kind(record: Record) -> tuple[str, str, str]:
    """What may not share a table: the source, the recipe, and the data that were scored."""
    identity = record.identity
    return identity.source, identity.recipe, _data(identity.dataset, identity.subset)


def _data(dataset: str, subset: str | None) -> str:
    return dataset + (f", subset: {subset}" if subset else "")


def _encoder(record: Record) -> str:
    weights = record.identity.weights
    if weights.corpus is None:
        return weights.kind
    return f"pretrained on {weights.corpus.source} {_data(weights.corpus.dataset, weights.corpus.subset)}"


def _seed(record: Record) -> str:
    return "any" if record.identity.seed is None else str(record.identity.seed)


def _value(record: Record) -> str:
    if record.status != "ok":
        return "n/a" if record.status == "skipped" else "failed"
    return format_metric(record.primary)


def format_metric(metric: MetricValue | None) -> str:
    """A metric of the range 0 to 1 in percent, with its interval: "61.3 [58.0, 64.4]"."""
    return "not defined" if metric is None else percent(metric.value, metric.low, metric.high)


def _why(record: Record) -> str:
    if record.error is not None:
        return f"{record.error.type}: {record.error.message}"
    return record.reason or ""
