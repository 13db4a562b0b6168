"""Results folders of made-up cells: predictions of rsna_lp, scored by its own code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.plugins import Catalogue, load_catalogue
from medbench.records import Counts, Identity, Record, ResultStore, Times, WeightsIdentity
from medbench.scoring import score

MakeCell = Callable[..., Record]
MakeFilms = Callable[..., pd.DataFrame]


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The built-in names."""
    return load_catalogue(third_party=False)


@pytest.fixture
def films() -> MakeFilms:
    """A function that makes predictions of `n` films, one or several a patient, for a method and a seed."""

    def make(
        method: int = 0, seed: int = 0, n: int = 120, signal: float = 1.0, patients: int | None = None
    ) -> pd.DataFrame:
        world, own = np.random.default_rng(0), np.random.default_rng([1, method, seed])
        target = (world.random(n) < 0.4).astype(np.float64)
        shared = world.normal(size=n)  # what makes a film hard for everybody
        return pd.DataFrame(
            {
                "sample": [f"s{k:04}" for k in range(n)],
                "patient": [f"p{k % (patients or n):04}" for k in range(n)],
                "target_pneumonia": target,
                "score_pneumonia": signal * target + shared + own.normal(size=n),
                "threshold_pneumonia": 0.5,
            }
        )

    return make


@pytest.fixture
def cell(catalogue: Catalogue) -> MakeCell:
    """A function that writes a cell of rsna_lp into a results folder and gives its record."""

    def make(
        root: Path,
        predictions: pd.DataFrame | None,
        method: str = "a",
        seed: int | None = 0,
        *,
        draws: bool = True,
        status: str = "ok",
        **changes: Any,
    ) -> Record:
        spec = catalogue.tasks["rsna_lp"]
        content: dict[str, Any] = {
            "method": method,
            "method_owner": "medbench 0.1.0",
            "fidelity": "paper",
            "task": spec.name,
            "task_version": spec.version,
            "task_owner": "medbench 0.1.0",
            "recipe": "micro",
            "precision": "32",
            "fraction": 1.0,
            "seed": seed,
            "source": "phantom",
            "dataset": "rsna",
            "subset": None,
            "data_fingerprint": "d" * 64,
            "split": "mgca_cls",
            "split_sha256": "s" * 64,
            "train_sha256": "t" * 64,
            "weights": WeightsIdentity(kind="pretrained", key=f"{method}-{seed}"),
            "method_config": {},
            "task_config": {},
        }
        identity = Identity(**(content | changes))
        scores = None if predictions is None else score(catalogue.make_task(spec, "micro"), predictions)
        record = Record(
            cell_id=identity.cell_id(),
            status=status,
            reason="too few patients" if status == "skipped" else None,
            identity=identity,
            primary_metric=spec.primary_metric,
            metrics=[] if scores is None else scores.metrics,
            subgroups=[] if scores is None else scores.subgroups,
            reliability=[] if scores is None else scores.reliability,
            counts=Counts(
                train=3, train_patients=3, validation=4, test=0 if predictions is None else len(predictions)
            ),
            config_sha256=identity.config_sha256(),
            times=Times(created="2026-01-01T00:00:00+00:00", duration_s=1.5),
        )
        if scores is None or not draws:
            return ResultStore(root).write(record, predictions)
        return ResultStore(root).write(record, predictions, scores.bootstrap, scores.delong_se)

    return make
