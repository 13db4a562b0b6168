"""A Slurm of one machine with two processors, for tests; needs Debian's slurm-wlm and munge, set up or not.

`python one_machine_slurm.py FOLDER` starts munged, slurmctld and slurmd for the user who calls it, with all that they
keep in FOLDER (its path shall be short: a socket is in it), prints `ready` and serves until its standard input closes.
`SLURM_CONF=FOLDER/slurm.conf` makes sbatch, squeue and the others use it.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for as long as its credential of before could still be valid.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SwitchType=switch/none
MpiDefault=none
# What runs anywhere, in a container without cgroups as well.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=10
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
# A job of `first` takes the place of one of `all`, which is requeued.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes={host} Default=YES PriorityTier=1
PartitionName=first Nodes={host} PriorityTier=2 PreemptMode=OFF
"""


@contextlib.contextmanager
def daemon(folder: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends; what it says is in FOLDER."""
    name = Path(command[0]).name
    program = shutil.which(name, path=f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin")
    if program is None:
        sys.exit(f"{name} is not installed; Debian's packages slurm-wlm and munge have it")
    with (folder / f"{name}.out").open("wb") as said:
        # In a session of its own: what ends the tests, as Ctrl-C does, must not end it before its jobs.
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def ready(environment: dict[str, str], daemons: list[subprocess.Popen[bytes]]) -> bool:
    """Whether the node takes jobs; False when a daemon has ended, or thirty seconds have."""
    for _ in range(150):
        if any(process.poll() is not None for process in daemons):
            return False
        asked = subprocess.run(["sinfo", "-h", "-o", "%t"], env=environment, capture_output=True, text=True)
        if asked.stdout.strip() == "idle":
            return True
        time.sleep(0.2)
    return False


def empty(environment: dict[str, str]) -> None:
    """End all jobs, so that nothing of them outlives the daemons."""
    subprocess.run(["scancel", "--user", getpass.getuser()], env=environment, timeout=30)
    for _ in range(100):
        asked = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, timeout=30)
        if not asked.stdout.strip():
            return
        time.sleep(0.2)


def serve(folder: Path) -> None:
    """Run the daemons until standard input closes."""
    for name in ("state", "spool"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    controller_port, node_port = free_ports(2)
    conf = folder / "slurm.conf"
    conf.write_text(
        CONF.format(
            folder=folder,
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            controller_port=controller_port,
            node_port=node_port,
        )
    )
    environment = os.environ | {"SLURM_CONF": str(conf)}
    files = {
        "socket": "munge.socket",
        "pid-file": "munged.pid",
        "log-file": "munged.log",
        "seed-file": "munged.seed",
    }
    munge = [f"--{flag}={folder / name}" for flag, name in files.items()]
    # --force: the folder may be below one that others can write to, as /tmp is.
    with (
        daemon(folder, "munged", "--foreground", "--force", f"--key-file={key}", *munge) as authentication,
        daemon(folder, "slurmctld", "-D", "-f", str(conf)) as controller,
        daemon(folder, "slurmd", "-D", "-f", str(conf)) as node,
    ):
        if not ready(environment, [authentication, controller, node]):
            said = "".join(path.read_text(errors="replace")[-1000:] for path in sorted(folder.glob("*.out")))
            sys.exit(f"Slurm did not start:\n{said}")
        print("ready", flush=True)
        try:
            sys.stdin.read()
        finally:
            empty(environment)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    serve(Path(sys.argv[1]).absolute())
