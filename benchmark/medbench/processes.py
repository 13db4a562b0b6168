"""The processes that pretrain together, as torchrun or Slurm's srun started them. Light: imports nothing heavy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from medbench.errors import UsageError


@dataclass(frozen=True)
class Processes:
    """How many there are, which one this is, and where they meet.

    Attributes:
        count: processes; 1 trains alone.
        rank: of this one, from 0; the first one writes what is written.
        local_rank: of this one among those of its machine: the number of its CUDA device.
        address: host of the first one.
        port: there.
    """

    count: int = 1
    rank: int = 0
    local_rank: int = 0
    address: str = "localhost"
    port: int = 0


ALONE = Processes()


def started_by(environment: Mapping[str, str], *, srun: bool) -> Processes:
    """The processes that this one was started with.

    Args:
        environment: variables of this process, such as torchrun (RANK, WORLD_SIZE ...) and srun set them.
        srun: whether the tasks of a Slurm step are taken for processes that pretrain together.

    Raises:
        UsageError: a variable is missing, or is no number.
    """
    if "LOCAL_RANK" in environment and "WORLD_SIZE" in environment:
        count, rank, local = (_number(environment, n) for n in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        address, port = environment.get("MASTER_ADDR", "localhost"), _number(environment, "MASTER_PORT")
    elif srun and "SLURM_STEP_NUM_TASKS" in environment:  # a batch script itself, outside of srun, has none
        count, rank, local = (
            _number(environment, n) for n in ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
        )
        address = environment.get("MASTER_ADDR") or _first_host(
            environment.get("SLURM_STEP_NODELIST", "localhost")
        )
        # every task has to name the same one, and other jobs of the host another one
        port = _number(environment, "MASTER_PORT", 15_000 + _number(environment, "SLURM_JOB_ID", 0) % 10_000)
    else:
        return ALONE
    return Processes(count, rank, local, address, port) if count > 1 else ALONE


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UsageError(
            f"{name} is {text!r}; expected a whole number, as torchrun and srun set it for processes that pretrain"
            " together. Start them with one of these, or unset WORLD_SIZE."
        )
    return int(text)


def _first_host(nodes: str) -> str:
    """`node[03-05,9],gpu1` -> `node03`."""
    found = re.match(r"([^,\[]+)(?:\[([^-,\]]+))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else nodes
