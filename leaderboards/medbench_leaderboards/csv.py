"""Records -> CSV, long: one line a cell, metric and class, values as computed."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from medbench.records import Identity, Record, sha256_json
from medbench_leaderboards.groups import by_place, distinct, repeats, seed_order

COLUMNS = (
    *(
        "source",
        "recipe",
        "method",
        "fidelity",
        "task",
        "task_version",
        "dataset",
        "subset",
        "split",
        "fraction",
    ),
    *("seed", "repeats_seed", "status", "reason", "metric", "primary", "class", "value", "low", "high", "n"),
    *("higher_is_better", "metric_version", "interval", "train", "train_patients", "validation", "test"),
    *("precision", "weights", "weights_key", "corpus", "corpus_subset", "method_config", "task_config"),
    *("predictions_sha256", "cell_id"),
)
"""`repeats_seed`: the seed whose predictions this record repeats bit by bit; such lines belong in no mean.
`method_config`, `task_config`: SHA-256 of the resolved configs, which the record holds in full."""


def csv(records: Sequence[Record]) -> str:
    """All records but those that mix phantom and real data; a skipped or failed cell has one line.

    Older task versions are in it, see `task_version`. A metric has a line with an empty `class`, and one more
    for each of its classes, without an interval.
    """
    kept = [record for record in distinct(records) if record.identity.source != "mixed"]
    pairs = [pair for place in by_place(kept).values() for pair in repeats(place)]
    repeated = {repeat.cell_id: first.identity.seed for repeat, first in pairs}
    lines = [
        line for record in sorted(kept, key=_order) for line in _lines(record, repeated.get(record.cell_id))
    ]
    text: str = pd.DataFrame(lines, columns=COLUMNS, dtype=object).to_csv(index=False, lineterminator="\n")
    return text


def _order(record: Record) -> tuple[Any, ...]:
    i = record.identity
    return i.source, i.recipe, i.task, i.task_version, i.fraction, i.method, *seed_order(record)


def _lines(record: Record, repeats_seed: int | None) -> Iterator[dict[str, Any]]:
    identity, corpus = record.identity, record.identity.weights.corpus
    base = {
        **identity.model_dump(include=set(COLUMNS) & set(Identity.model_fields)),
        **record.counts.model_dump(include={"train", "train_patients", "validation", "test"}),
        "repeats_seed": repeats_seed,
        "status": record.status,
        "reason": f"{record.error.type}: {record.error.message}"
        if record.error is not None
        else record.reason,
        "weights": identity.weights.kind,
        "weights_key": identity.weights.key,
        "corpus": f"{corpus.source} {corpus.dataset}" if corpus is not None else None,
        "corpus_subset": corpus.subset if corpus is not None else None,
        "method_config": sha256_json(identity.method_config),
        "task_config": sha256_json(identity.task_config),
        "predictions_sha256": record.predictions.sha256 if record.predictions is not None else None,
        "cell_id": record.cell_id,
    }
    if not record.metrics:
        yield base
    for metric in record.metrics:
        line = base | {
            "metric": metric.name,
            "primary": metric.name == record.primary_metric,
            "metric_version": metric.version,
            **metric.model_dump(include={"n", "higher_is_better", "interval"}),
        }
        yield line | {"value": metric.value, "low": metric.low, "high": metric.high}
        for name, value in sorted(metric.per_class.items()):
            yield line | {"class": name, "value": value}
