"""Hand-made records, and a results folder with files beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.errors import DataError
from medbench.plugins import load_catalogue
from medbench.records import (
    Corpus,
    Counts,
    Failure,
    Identity,
    MetricValue,
    Predictions,
    Record,
    ResultStore,
    Times,
    WeightsIdentity,
)
from medbench.results import Results
from medbench.scoring import Scores, score
from medbench_leaderboards.board import Board, build

MakeRecord = Callable[..., Record]

CATALOGUE = load_catalogue(third_party=False)
LP, KNN = "rsna_lp", "rsna_knn"


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
    corpus_dataset: str | None = None,
    corpus_subset: str | None = None,
    split_leak: str = "",
    corpus_source: str | None = None,
    created: str = "2026-01-01T00:00:00+00:00",
    **identity: Any,
) -> Record:
    source = identity.get("source", "phantom")
    kind = kind or ("untrained" if method == "random" else "pretrained")
    corpus = None
    if kind == "pretrained":
        corpus = Corpus(
            dataset=corpus_dataset or ("mimic_cxr" if source == "phantom" else "table"),
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
    metric = {"rsna_lp": "auroc", "rsna_lp@mgca": "auroc", "rsna_det": "map_40_75"}.get(task, "score")
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
        counts=Counts(train=30, train_patients=30, validation=4003, test=4003, split_leak=split_leak),
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


class Given(Results):
    """Records without files beside them, in a folder that is nowhere."""

    def __init__(self, records: Sequence[Record], base: str | None = None) -> None:
        self.root, self.catalogue, self.base = Path("nowhere"), CATALOGUE, base
        self.records = tuple(record for record in records if record.status != "failed")
        self.failures = tuple(record for record in records if record.status == "failed")

    def path(self, record: Record) -> str:
        """Where a results folder would have it, or could, if its names could be those of files."""
        try:
            return ResultStore(Path()).path(record.identity, record.cell_id).as_posix()
        except DataError:
            return f"{record.cell_id}.json"

    def draws(self, record: Record) -> None:
        """None are kept."""

    def bootstrap(self, record: Record) -> None:
        """None is kept."""

    def influence(self, record: Record) -> None:
        """None without predictions."""

    def predictions(self, record: Record) -> None:
        """None are kept."""


@pytest.fixture
def given() -> Callable[..., Results]:
    """A function from records to `Results` without files."""
    return Given


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


def _predictions(films: int, quality: float, seed: int) -> pd.DataFrame:
    """Of a film in four with pneumonia; a patient in ten has two films. Methods err alike, as they do in truth."""
    shared = np.random.default_rng(films)
    target = (shared.random(films) < 0.25).astype(np.float64)
    hard = shared.normal(size=films)
    own = np.random.default_rng(seed).normal(size=films)
    return pd.DataFrame(
        {
            "sample": [f"film{n:04}" for n in range(films)],
            "patient": [f"patient{n - (n % 10 == 1):04}" for n in range(films)],
            "target_pneumonia": target,
            "score_pneumonia": quality * target + 0.8 * hard + 0.5 * own,
        }
    )


def write_cell(
    root: Path, method: str, task: str, fraction: float, seed: int | None, quality: float, **more: Any
) -> Record:
    """A finished cell as a run leaves it: record, predictions and draws.

    Args:
        root: results folder.
        method, task, fraction, seed: the cell; an installed task with one class, pneumonia.
        quality: how far apart the scores of films with and without pneumonia are.
        more: keywords of `record`; `films` (320) of the test set and `noise`, which predictions are drawn.
    """
    films, noise = more.pop("films", 320), more.pop("noise", None)
    spec = CATALOGUE.lookup_task(task)
    more = {"task_version": spec.version, "split_sha256": f"{films:064}"} | more
    made = _record(method, task, fraction, seed, predictions="", **more)
    if noise is None:
        noise = sum(map(ord, f"{method} {task} {fraction} {seed}"))
    predictions = _predictions(films, quality, noise)
    scores: Scores = score(CATALOGUE.make_task(spec, "tiny"), predictions)
    made = made.model_copy(
        update={
            "primary_metric": spec.primary_metric,
            "metrics": scores.metrics,
            "subgroups": scores.subgroups,
            "reliability": scores.reliability,
            "counts": made.counts.model_copy(update={"test": films}),
        }
    )
    return ResultStore(root).write(made, predictions, scores.bootstrap, scores.delong_se)


def write_unfinished(root: Path, method: str, task: str, fraction: float, seed: int, **more: Any) -> Record:
    """A skipped or failed cell: `status` and `reason` or `error`."""
    films, spec = more.pop("films", 320), CATALOGUE.lookup_task(task)
    more = {"task_version": spec.version, "split_sha256": f"{films:064}"} | more
    made = _record(method, task, fraction, seed, **more)
    counts = made.counts.model_copy(update={"test": films})
    made = made.model_copy(update={"primary_metric": spec.primary_metric, "counts": counts})
    return ResultStore(root).write(made)


@pytest.fixture(scope="session")
def results_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of installed tasks, with predictions and draws; copy it to change it.

    Phantom, tiny, full sets: `clip` and `place` with three seeds at three fractions of rsna_lp, `place` clearly better
    at 1 % and nobody at 100 %; `random` with one seed; `mgca` pretrained on the very set, its 1 % skipped; rsna_knn on
    a small test set, which `place` failed at and `random` has with `seed: null`. Seed 2 of `clip` at 10 % repeats
    seed 1. An older version of rsna_lp. A subset of real data.
    """
    root = tmp_path_factory.mktemp("results")
    for fraction, clip, place in ((0.01, 0.5, 1.6), (0.1, 1.0, 1.5), (1.0, 1.8, 1.8)):
        for seed in (0, 1, 2):
            repeat = {"noise": 77} if fraction == 0.1 and seed else {}
            write_cell(root, "clip", LP, fraction, seed, clip + (0 if repeat else seed / 20), **repeat)
            write_cell(root, "place", LP, fraction, seed, place - seed / 20)
        write_cell(root, "random", LP, fraction, 0, 0.4 + fraction)
    seen = {"corpus_dataset": "rsna", "fidelity": "official-code"}
    write_unfinished(root, "mgca", LP, 0.01, 0, status="skipped", reason="3 patients, fewer than 8", **seen)
    write_cell(root, "mgca", LP, 0.1, 0, 2.6, **seen)
    write_cell(root, "mgca", LP, 1.0, 0, 2.8, **seen)
    for seed in (0, 1, 2):
        write_cell(root, "clip", KNN, 1.0, seed, 1.0 + seed / 20, films=120)
    write_cell(root, "random", KNN, 1.0, None, 0.3, films=120)
    write_unfinished(root, "place", KNN, 1.0, 0, films=120, status="failed", error="out of memory")
    write_cell(root, "clip", LP, 0.01, 0, 2.0, task_version=1)
    real = {
        "source": "real",
        "subset": "202 of 26,684",
        "data_fingerprint": "r" * 64,
        "split_leak": "by film",
    }
    write_cell(root, "random", LP, 1.0, 0, 0.5, **real)
    write_cell(root, "clip", LP, 1.0, 0, 1.0, **real)
    return root


@pytest.fixture(scope="session")
def made_board(results_folder: Path) -> Board:
    """The board of `results_folder`."""
    return build(Results.read(results_folder, CATALOGUE))
