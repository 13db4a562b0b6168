"""The table of the cells that a run was asked for."""

from collections.abc import Sequence

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
    kinds = sorted({(r.identity.source, r.identity.recipe, _data(r)) for r in records})
    for source, recipe, data in kinds:
        group = [
            r for r in records if (r.identity.source, r.identity.recipe, _data(r)) == (source, recipe, data)
        ]
        rows = [
            {
                "method": f"{r.identity.method} ({r.identity.fidelity})",
                "task": r.identity.task,
                "labels": fraction_name(r.identity.fraction),
                "seed": "any" if r.identity.seed is None else r.identity.seed,
                "metric": r.primary_metric,
                "value [95 % interval]": _value(r),
                "train": f"{r.counts.train:,}",
                "test": f"{r.counts.test:,}",
            }
            for r in group
        ]
        head = f"{SOURCES[source]}\nrecipe {recipe}; {data}"
        parts.append(f"{head}\n\n{tabulate(rows, headers='keys', tablefmt='github', disable_numparse=True)}")
        notes = [
            f"{r.identity.method} {r.identity.task} {fraction_name(r.identity.fraction)}: {r.status}: {_why(r)}"
            for r in group
            if r.status != "ok"
        ]
        parts += ["\n".join(notes)] if notes else []
    return "\n\n".join(parts)


def _data(record: Record) -> str:
    identity = record.identity
    text = identity.dataset + (f", subset: {identity.subset}" if identity.subset else "")
    corpus = identity.weights.corpus
    if corpus is not None:
        text += f"; pretrained on {corpus.source} {corpus.dataset}"
        text += f", subset: {corpus.subset}" if corpus.subset else ""
    return text


def _value(record: Record) -> str:
    if record.status != "ok":
        return "n/a" if record.status == "skipped" else "failed"
    return format_metric(record.primary)


def format_metric(metric: MetricValue | None) -> str:
    """A metric of the range 0 to 1 in percent, with its interval: "61.3 [58.0, 64.4]"."""
    if metric is None or metric.value is None:
        return "not defined"
    text = f"{100 * metric.value:.1f}"
    if metric.low is not None and metric.high is not None:
        text += f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    return text


def _why(record: Record) -> str:
    if record.error is not None:
        return f"{record.error.type}: {record.error.message}"
    return record.reason or ""
