"""Hand-made records."""

from collections.abc import Callable
from typing import Any

import pytest

from medbench.records import (
    Corpus,
    Counts,
    Failure,
    Identity,
    MetricValue,
    Predictions,
    Record,
    Times,
    WeightsIdentity,
)

MakeRecord = Callable[..., Record]


def _record(
    method: str = "clip",
    task: str = "rsna_lp",
    fraction: float = 0.01,
    seed: int | None = 0,
    value: float | None = 0.8,
    *,
    status: str = "ok",
    reason: str | None = None,
    error: str | None = None,
    predictions: str | None = None,
    higher_is_better: bool = True,
    metric_version: int = 1,
    per_class: dict[str, float | None] | None = None,
    kind: str | None = None,
    key: str | None = None,
    corpus_subset: str | None = None,
    corpus_source: str | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    **identity: Any,
) -> Record:
    source = identity.get("source", "phantom")
    kind = kind or ("untrained" if method == "random" else "pretrained")
    corpus = None
    if kind == "pretrained":
        corpus = Corpus(
            dataset="mimic_cxr" if source == "phantom" else "table",
            source=corpus_source or ("phantom" if source == "phantom" else "real"),
            subset=corpus_subset,
            fingerprint="c" * 64,
        )
    block: dict[str, Any] = {
        "method": method,
        "method_owner": "medbench 0.1.0",
        "fidelity": {"place": "reconstruction", "random": "baseline"}.get(method, "paper"),
        "task": task,
        "task_version": 1,
        "task_owner": "medbench 0.1.0",
        "recipe": "tiny",
        "precision": "32",
        "fraction": fraction,
        "seed": seed,
        "source": "phantom",
        "dataset": "rsna",
        "subset": None,
        "data_fingerprint": "d" * 64,
        "split": "mgca_cls",
        "split_sha256": "e" * 64,
        "train_sha256": f"{fraction}-{seed}",
        "weights": WeightsIdentity(kind=kind, key=key or f"{method}-{seed}", corpus=corpus),
        "method_config": {},
        "task_config": {},
    }
    block |= identity
    made = Identity(**block)
    ok = status == "ok"
    metric = {"rsna_lp": "auroc", "rsna_det": "map_40_75"}.get(task, "score")
    return Record(
        cell_id=made.cell_id(),
        status=status,
        reason=reason,
        identity=made,
        primary_metric=metric,
        metrics=[
            MetricValue(
                name=metric,
                version=metric_version,
                value=value,
                low=None if value is None else value - 0.025,
                high=None if value is None else value + 0.03,
                interval="bootstrap",
                n=4003,
                higher_is_better=higher_is_better,
                per_class=per_class or {},
            ),
            MetricValue(name="second", value=0.123456789012345678, interval="none", n=4003),
        ]
        if ok
        else [],
        counts=Counts(train=30, train_patients=30, validation=4003, test=4003),
        predictions=Predictions(path="p.parquet", sha256=predictions or made.cell_id(), rows=4003)
        if ok
        else None,
        error=Failure(type="RuntimeError", message=error, traceback="...") if error is not None else None,
        config_sha256="f" * 64,
        times=Times(created=created, duration_s=1.0),
    )


@pytest.fixture
def record() -> MakeRecord:
    """A function that makes a record; keywords it does not name are fields of the identity."""
    return _record


@pytest.fixture
def board(record: MakeRecord) -> list[Record]:
    """Some of everything: three methods, two tasks, seeds, a skipped and a failed cell, a gap, mixed, real, old."""
    too_few = "1% of 202 training patients is 2, fewer than the 8 that a label fraction must hold"
    records = [
        record("clip", "rsna_lp", f, s, 0.80 + f / 10 + s / 100) for f in (0.01, 0.1) for s in (0, 1, 2)
    ]
    records += [
        record("place", "rsna_lp", f, s, 0.82 + f / 10 + s / 50) for f in (0.01, 0.1) for s in (0, 1, 2)
    ]
    records += [record("random", "rsna_lp", f, 0, 0.55 + f) for f in (0.01, 0.1)]
    records += [record("clip", "rsna_det", 0.1, 0, 0.10), record("place", "rsna_det", 0.1, 0, 0.12)]
    records += [record("random", "rsna_det", 0.1, 0, status="failed", error="out of memory")]
    real = {"source": "real", "subset": "202 of 26,684", "data_fingerprint": "r" * 64}
    records += [record("random", "rsna_det", 0.01, 0, status="skipped", reason=too_few, **real)]
    records += [record("random", "rsna_det", 1.0, 0, 0.05, **real)]
    records += [record("place", "rsna_det", 1.0, 0, 0.06, corpus_subset="1 of 2", **real)]
    records += [record("place", "rsna_lp", 1.0, 0, 0.9, source="mixed", corpus_source="phantom")]
    records += [record("clip", "rsna_lp", 0.01, 0, 0.99, task_version=0)]
    records += [record("clip", "rsna_lp", 0.01, 0, 0.7, recipe="micro")]
    return records
