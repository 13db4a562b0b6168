"""The records in leaderboards/results: what README says of them."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from medbench.records import ResultStore

RESULTS = Path(__file__).resolve().parents[2] / "leaderboards" / "results"


def probes_at_one_percent() -> dict[str, list[float]]:
    """AUROC of each seed by method."""
    found: dict[str, dict[int | None, float]] = defaultdict(dict)
    for record in ResultStore(RESULTS).records():
        identity, primary = record.identity, record.primary
        if (identity.task, identity.fraction, identity.source) == ("rsna_lp", 0.01, "phantom"):
            assert primary is not None and primary.value is not None
            found[identity.method][identity.seed] = primary.value
    return {method: list(seeds.values()) for method, seeds in found.items()}


@pytest.mark.parametrize("method", ["clip", "place"])
def test_pretraining_helps(method: str) -> None:
    values = probes_at_one_percent()
    assert len(values[method]) == len(values["random"]) == 3
    assert np.mean(values[method]) >= np.mean(values["random"]) + 0.15


def test_untrained_features_do_not_solve_the_phantom() -> None:
    assert max(probes_at_one_percent()["random"]) < 0.70
