"""Workers as tasks of a Ray cluster of two nodes, on this machine; each is a process namespace where that is allowed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
"""What runs so ends with its first process, as all of a machine does, and knows no other process."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_raylet_start_wait_time_s": "120",  # of a machine that is busy with other tests
}


@cache
def machines() -> bool:
    """Whether processes can be put into a namespace of their own here."""
    try:
        return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@contextmanager
def node(folder: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A node with one processor."""
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", *words]
    quiet = ["--disable-usage-stats", "--object-store-memory=80000000", "--dashboard-agent-listen-port=0"]
    with (folder / f"{len(words)}.out").open("wb") as said:
        process = subprocess.Popen(
            [*(ALONE if machines() else []), *start, *quiet],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    try:
        yield process
    finally:
        # What began alone ignores SIGTERM, and ends as a whole.
        process.kill() if machines() else process.terminate()
        process.wait(60)


def nodes(address: str) -> int:
    """How many nodes are alive, asked from another process: this one stays out of the cluster."""
    code = (
        "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=40); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=200, check=False
    )
    return int(asked.stdout.strip() or 0)


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("ray")
    with node(folder, "--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=0"):
        wait_for(lambda: listening(port), 120)
        yield address


def listening(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def test_a_grid_has_the_same_records_whoever_ran_it(
    cluster: str, medbench: Any, plain: Path, left: Callable[[Path], Any], tmp_path: Path
) -> None:
    with node(tmp_path, f"--address={cluster}"):
        wait_for(lambda: nodes(cluster) == 2, 200)
        done = medbench(tmp_path, "--executor", "ray", "--processes", "2", "--ray", f"address={cluster}")
    assert done.returncode == 1, done.stderr  # one cell failed
    assert "Ray: 2 nodes; a worker takes 1 CPUs and 0 GPUs of one" in done.stderr
    assert "random doomed_raises 10%, seed 0: failed" in done.stdout
    assert left(tmp_path / "results") == left(plain)
