"""Workers as tasks of a Ray cluster of two nodes of this machine; each a process namespace where that is allowed."""

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

from medbench.errors import UsageError

pytest.importorskip("ray")
from medbench.executors.ray import Ray

ALONE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
"""What runs so ends with its first process, as all of a machine does, and knows no other process."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # A token that another cluster of this user left in its home is none of this one.
    "RAY_AUTH_MODE": "disabled",
    # Of a machine that is busy with other tests.
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_agent_register_timeout_ms": "120000",
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


def nodes(address: str) -> str:
    """How many nodes are alive, or why that is not known; asked from another process: this one stays out of them."""
    host, _, port = address.partition(":")
    with socket.socket() as asking:
        if asking.connect_ex((host, int(port))) != 0:  # Ray itself would take minutes to find that
            return "nobody listens"
    code = (
        "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level=40); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, address], capture_output=True, text=True, timeout=200, check=False
    )
    return asked.stdout.strip() or asked.stderr


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one node."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, address = tmp_path_factory.mktemp("ray"), f"127.0.0.1:{port}"
    head = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=0"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        with node(folder, *head) as first:
            see_nodes(1, address, first)
            yield address


def see_nodes(count: int, address: str, newest: "subprocess.Popen[bytes]") -> None:
    """Wait until so many are alive; Ray itself gives up after half a minute, on a machine that is too busy."""
    deadline = time.monotonic() + 200
    while (found := nodes(address)) != str(count):
        if newest.poll() is not None:
            pytest.skip("Ray does not start a node here")
        assert time.monotonic() < deadline, found
        time.sleep(0.5)


@pytest.mark.slow
def test_a_grid_has_the_same_records_whoever_ran_it(
    cluster: str, medbench: Any, plain: Path, left: Callable[[Path], Any], tmp_path: Path
) -> None:
    with node(tmp_path, f"--address={cluster}") as second:
        see_nodes(2, cluster, second)
        done = medbench(tmp_path, "--executor", "ray", "--processes", "2", "--ray", f"address={cluster}")
    assert done.returncode == 1, done.stderr  # one cell failed
    assert "Ray: 2 nodes; a worker takes 1 CPUs and 0 GPUs of one" in done.stderr
    assert "random doomed_raises 10%, seed 0: failed" in done.stdout
    assert left(tmp_path / "results") == left(plain)


def test_what_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UsageError, match="--ray colour=blue: expected one of address, num_cpus, num_gpus"):
        Ray(colour="blue")
    with pytest.raises(UsageError, match="--ray num_gpus=many: expected a number from 0"):
        Ray(num_gpus="many")
    with socket.socket() as silent:  # bound, so nobody else takes the port; nobody listens
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"--ray address={address}: no cluster answers there"):
            Ray(address=address).run([], 1, Path(), print, lambda end: False)


def test_a_cluster_that_wants_a_token_is_told_from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        raise ConnectionError("Failed to connect") from RuntimeError("RAY_AUTH_MODE is 'disabled'")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(
        UsageError, match=r"--ray address=auto: the cluster wants a token.*RAY_AUTH_MODE=token"
    ):
        Ray(address="auto").run([], 1, Path(), print, lambda end: False)
