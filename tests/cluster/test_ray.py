"""Workers as tasks of a Ray cluster of two nodes, which are two Ray daemons of this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medbench.errors import UsageError
from medbench.executors import make, worker_log

ray = pytest.importorskip("ray")
SECOND = ("-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--disable-usage-stats")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head has one processor."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made
        made.shutdown()


def test_a_grid_has_the_same_records_whoever_ran_it(
    cluster: Any, medbench: Any, plain: Path, left: Callable[[Path], Any], tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    done = medbench(tmp_path, "--executor", "ray", "--processes", "2", "--ray", f"address={cluster.address}")
    cluster.remove_node(node)
    assert done.returncode == 1, done.stderr  # one cell failed
    assert "Ray: 2 nodes; a worker takes 1 CPUs and 0 GPUs of one" in done.stderr
    assert "random doomed_raises 10%, seed 0: failed" in done.stdout
    assert left(tmp_path / "results") == left(plain)
