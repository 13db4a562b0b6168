"""Workers as tasks of a Ray cluster. One that dies with its node is started again on another: leases make that safe."""

import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from medbench.errors import PluginError, UsageError
from medbench.executors import WorkerEnd, worker_command, worker_log

try:
    import ray
    from ray.exceptions import RayError
except ImportError:
    raise PluginError(
        "--executor ray needs Ray, which is not installed: pip install 'medbench[ray]'"
    ) from None

SETTINGS: Final = ("address", "num_cpus", "num_gpus")

NODES_LOST: Final = 10
"""How often a worker is started again because its node died."""

GRACE: Final = 60
"""Seconds that interrupted workers have to leave a checkpoint behind."""


class Ray:
    """See `medbench.executors.Executor`.

    Args:
        settings: `address` of a cluster, by default RAY_ADDRESS, or one that was started on this machine, else one of
            its own that ends with it. `num_cpus` and `num_gpus` of a worker, by default 1, and 1 where the cluster has
            GPUs.

    Raises:
        UsageError: a setting is not known, or no number.
    """

    def __init__(self, **settings: str) -> None:
        for key in settings:
            if key not in SETTINGS:
                raise UsageError(f"--ray {key}={settings[key]}: expected one of {', '.join(SETTINGS)}.")
        self.address = settings.get("address") or os.environ.get("RAY_ADDRESS")
        self.cpus = _number(settings, "num_cpus")
        self.gpus = _number(settings, "num_gpus")

    def run(
        self,
        arguments: Sequence[str],
        workers: int,
        logs: Path,
        say: Callable[[str], None],
        again: Callable[[WorkerEnd], bool],
    ) -> list[WorkerEnd]:
        """Start workers as tasks and wait for them.

        Raises:
            UsageError: no cluster is at the address.
        """
        self._connect()
        try:
            cpus = 1.0 if self.cpus is None else self.cpus
            gpus = float("GPU" in ray.cluster_resources()) if self.gpus is None else self.gpus
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            say(f"Ray: {len(nodes)} nodes; a worker takes {cpus:g} CPUs and {gpus:g} GPUs of one")
            if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
                say("Ray: no node is as large as that; the workers wait for one")
            task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=NODES_LOST)(_work)

            def start(worker: int) -> "ray.ObjectRef[int]":
                log = worker_log(logs, worker).absolute()
                return task.remote(worker_command(arguments, log), Path.cwd(), log)

            running = {start(worker): worker for worker in range(workers)}
            ends: dict[int, WorkerEnd] = {}
            try:
                while running:
                    [ended], _ = ray.wait(list(running))
                    worker = running.pop(ended)
                    end = WorkerEnd(worker, _exit_code(ended, say), worker_log(logs, worker))
                    if again(end):
                        running[start(worker)] = worker
                    else:
                        ends[worker] = end
            except KeyboardInterrupt:
                for left in running:
                    ray.cancel(left)
                if running:
                    ray.wait(list(running), num_returns=len(running), timeout=GRACE)
                raise
        finally:
            ray.shutdown()
        return [ends[worker] for worker in sorted(ends)]

    def _connect(self) -> None:
        host, _, port = (self.address or "").rpartition(":")
        terminate = signal.getsignal(signal.SIGTERM)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here
        # Of the others some may be secrets, and Ray logs these.
        ours = {name: value for name, value in os.environ.items() if name.startswith("MEDBENCH_")}
        try:
            if port.isdecimal() and "/" not in host:  # Ray itself takes minutes to find that nobody listens
                socket.create_connection((host, int(port)), timeout=10).close()
            ray.init(
                self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": ours},
            )
        except (OSError, ValueError) as error:
            if "RAY_AUTH_MODE" in str(error.__cause__):
                raise UsageError(
                    f"--ray address={self.address}: the cluster wants a token, as those do whose user had one in "
                    "~/.ray/auth_token when they began. Set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN_PATH where "
                    "its token is in another file."
                ) from None
            raise UsageError(
                f"--ray address={self.address}: no cluster answers there: {error}. Expected HOST:PORT of a node "
                "on which `ray start --head` was called."
            ) from None
        finally:
            signal.signal(signal.SIGTERM, terminate)  # Ray's own handler would end this process at once


def _work(command: Sequence[str], folder: Path, log: Path) -> int:
    """Run a worker on a node; its exit code."""
    with log.open("ab") as written:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=written, stderr=written
        )
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()


def _exit_code(ended: "ray.ObjectRef[int]", say: Callable[[str], None]) -> int | None:
    """What a task gave; None where it was lost."""
    try:
        code: int = ray.get(ended)
    except RayError as error:
        say(f"Ray: {error}")
        return None
    return code


def _number(settings: Mapping[str, str], key: str) -> float | None:
    given = settings.get(key)
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise UsageError(f"--ray {key}={given}: expected a number from 0.")
    return number
