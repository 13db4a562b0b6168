"""The losses of one batch, computed by two processes with half of it each, as training on two devices does."""

import multiprocessing
import tempfile
import time
from dataclasses import fields
from multiprocessing.connection import wait
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from medbench import weights
from medbench.conformance.check import Failed
from medbench.conformance.method_subject import MethodSubject, losses, total
from medbench.method import Method
from medbench.model import ImageTextBatch, TextBatch
from medbench.plugins import load_catalogue

PROCESSES = 2

SECONDS = 600.0
"""After which processes that wait for each other are ended."""


def in_two_processes(method: Method, batch: ImageTextBatch, subject: MethodSubject) -> dict[str, Tensor]:
    """The mean over both of `the loss` and of the gradient of each parameter, by its name.

    Each loads the plugins and the weights again, and meets the other through gloo.

    Raises:
        Failed: a process ended otherwise, or did not end.
    """
    folder = Path(tempfile.mkdtemp(dir=subject.folder))
    weights.save(method, folder / "method", {"method": subject.spec.name})
    torch.save(_plain(batch), folder / "batch.pt")
    asked = tuple(plugin.name for plugin in subject.catalogue.plugins if plugin.owner.name == plugin.name)
    spawn = multiprocessing.get_context("spawn")
    workers = [
        spawn.Process(target=_share, args=(rank, folder, asked, subject.spec.name), daemon=True)
        for rank in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    deadline, running = time.monotonic() + SECONDS, workers
    while running and not any(worker.exitcode for worker in workers):
        if not wait([worker.sentinel for worker in running], deadline - time.monotonic()):
            break
        running = [worker for worker in running if worker.is_alive()]
    broken = any(worker.exitcode for worker in workers)
    for worker in running:
        worker.kill()
    if running or broken:
        raise Failed(
            f"two processes that {'ended with an error, printed above' if broken else 'wait for each other'}",
            "the losses of both",
            "Let every process make the same calls of torch.distributed, with tensors of the same shapes.",
        )
    shares: list[dict[str, Tensor]] = [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]
    return {name: torch.stack([share[name] for share in shares]).mean(0) for name in shares[0]}


def _share(rank: int, folder: Path, plugins: tuple[str, ...], name: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    catalogue = load_catalogue(plugins)
    method = weights.load(folder / "method", catalogue.load("methods", name), name).method.eval()
    whole = torch.load(folder / "batch.pt")
    size = len(whole["images"]) // PROCESSES
    own = {key: value[rank * size : (rank + 1) * size] for key, value in whole.items()}
    text = TextBatch(*(own[field.name] for field in fields(TextBatch)))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    loss = total(losses(method, ImageTextBatch(own["images"], text, own.get("report_vectors"))))
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    torch.save({"the loss": loss.detach(), **found}, folder / f"{rank}.pt")
    dist.destroy_process_group()


def _plain(batch: ImageTextBatch) -> dict[str, Tensor]:
    text = {field.name: getattr(batch.text, field.name) for field in fields(batch.text)}
    vectors = {} if batch.report_vectors is None else {"report_vectors": batch.report_vectors}
    return {"images": batch.images, **text, **vectors}
