"""What the tasks package declares: cheap to ask for, complete, and pointing at what is there."""

import subprocess
import sys

import pytest

from medbench.data.dataset import Dataset
from medbench.specs import DatasetSpec
from medbench_tasks import medbench_datasets, medbench_tasks

DATASETS = list(medbench_datasets())


def test_declaring_imports_nothing_heavy() -> None:
    code = (
        "import sys, medbench_tasks as t; list(t.medbench_datasets()), list(t.medbench_tasks());"
        "print([m for m in ('torch', 'numpy', 'pandas', 'PIL', 'pydicom') if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("spec", DATASETS, ids=[spec.name for spec in DATASETS])
def test_datasets(spec: DatasetSpec) -> None:
    kind = spec.load()
    assert issubclass(kind, Dataset)
    assert kind.splits
    assert kind.__module__ == f"medbench_tasks.datasets.{spec.name}"
    assert spec.licence
    assert bool(spec.phantom) == bool(spec.phantom_patients)
    assert spec.official_size is None or spec.access.startswith("https://")


def test_tasks_run_on_declared_datasets() -> None:
    names = {spec.name for spec in DATASETS}
    for spec in medbench_tasks():
        assert spec.dataset in names
        assert spec.primary_metric
        assert spec.fractions in ((0.01, 0.1, 1.0), ())  # nothing is trained
