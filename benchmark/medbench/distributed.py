"""Several processes that pretrain together: how they meet, agree and share what they computed.

Outside of `joined` there is one process, and everything here is what it says of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Literal, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medbench.data.pairs import Share
from medbench.processes import Processes

T = TypeVar("T")

PATIENCE: Final = timedelta(days=1)
"""How long a process waits for another one. Films of a large corpus take hours to prepare; a process that ends is
noticed at once by what started it."""

Statistics = Literal["none", "of the batch", "of each process", "of all processes"]


@contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Meet the other processes; gloo on the CPU, NCCL on CUDA."""
    if processes.count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{processes.address}:{processes.port}",
        rank=processes.rank,
        world_size=processes.count,
        timeout=PATIENCE,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def share() -> Share:
    """Which process this is, of how many."""
    if not (dist.is_available() and dist.is_initialized()):
        return Share()
    return Share(dist.get_rank(), dist.get_world_size())


def first_says(answer: bool) -> bool:
    """What the first process answers, in all of them."""
    answers = [answer]
    if share().of > 1:
        dist.broadcast_object_list(answers, src=0)
    return answers[0]


def any_says(*answers: bool, device: torch.device) -> tuple[bool, ...]:
    """Of each answer whether a process gives it; waits for the device where there are several."""
    if share().of == 1:
        return answers
    given = largest(torch.tensor(answers, dtype=torch.float32, device=device))
    return tuple(given.bool().tolist())


def largest(value: Tensor) -> Tensor:
    """Number by number over processes."""
    if share().of > 1:
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def mean(value: Tensor) -> Tensor:
    """Number by number over processes."""
    if share().of > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= share().of
    return value


def together(rows: list[T]) -> list[T]:
    """What all processes have, in order of their ranks; it passes the host."""
    if share().of == 1:
        return rows
    lists: list[list[T]] = [[] for _ in range(share().of)]
    dist.all_gather_object(lists, rows)
    return [row for some in lists for row in some]


class _Environment(ClusterEnvironment):
    """Lightning is told what it would look for in the environment. To it, each process is a machine with one device."""

    creates_processes_externally = True
    main_address = ""  # of no use: the processes have met
    main_port = 0

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return share().of

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return share().number

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return share().number


def strategy(device: torch.device) -> DDPStrategy:
    """Lightning's data parallel training of the processes that have met.

    A method may have parameters that no loss uses, such as heads that only tasks read, and others from a later epoch
    on.
    """
    return DDPStrategy(
        parallel_devices=[device], cluster_environment=_Environment(), find_unused_parameters=True
    )


def synchronise(module: nn.Module) -> None:
    """Let every BatchNorm below `module` have the statistics of all processes. CUDA alone can: see SyncBatchNorm.

    One that is no torch's or timm's own, and knows how to, says so by an attribute `synchronised`, which is set.
    """
    from timm.layers.norm_act import convert_sync_batchnorm

    for name, child in list(module.named_children()):
        if hasattr(child, "synchronised"):
            child.synchronised = True  # type: ignore[assignment]  # an attribute, and no module
        elif isinstance(child, _BatchNorm):
            setattr(module, name, convert_sync_batchnorm(child))  # type: ignore[no-untyped-call]
        else:
            synchronise(child)


def statistics(module: nn.Module) -> Statistics:
    """Over which pairs the BatchNorms below `module` take their statistics in training."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    if not norms:
        return "none"
    if share().of == 1:
        return "of the batch"
    together = [getattr(n, "synchronised", isinstance(n, nn.SyncBatchNorm)) for n in norms]
    return "of all processes" if all(together) else "of each process"
