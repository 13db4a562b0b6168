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
    return "\n\n".join(parts)


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
