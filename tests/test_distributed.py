"""Two processes train as one does: the curve of losses, gradients, weights; and what they do not share.

The file runs itself in two processes, since a test module can not be imported by its name.
"""

import dataclasses
import json
import runpy
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.distributed import joined, statistics, synchronise
from medbench.errors import UsageError
from medbench.method import PretrainConfig, Recipe
from medbench.pretrain import _Run, pretrain
from medbench.processes import ALONE, Processes, started_by
from medbench.progress import Progress
from medbench_methods.clip import Clip
from medbench_methods.modules.projection import MaskedBatchNorm

W = 2
"""Processes."""

TOLERANCE = 1e-5
"""By how much the losses of a step may differ from those of one process, as a share of them: the sums of float32 are
over other parts."""

CPU = torch.device("cpu")

VIT: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "layers": None,
    "channels": None,
    "width": 48,
    "depth": 2,
    "heads": 3,
    "text_mlm_epochs": 0,
}
WITHOUT_BATCH_NORM: dict[str, Any] = VIT | {"head_norm": "layer", "gather": True}
WITH_BATCH_NORM: dict[str, Any] = {"text_mlm_epochs": 0, "gather": True}
SCHEDULE = PretrainConfig(epochs=2, batch_size=8, lr=1e-3, warmup=0.1, clip_gradient=1.0)


class Killed(BaseException):
    """Stands for kill -9."""


def recipe(**changes: Any) -> Recipe:
    return Recipe(dataclasses.replace(Clip.recipes["micro"].config, **changes), SCHEDULE)


def corpus() -> tuple[Index, Split, PreparedImages]:
    """52 pairs: ten steps of eight in two epochs, and twelve to validate on, which fill a batch and a half."""
    draw = np.random.default_rng(0)
    words = ("heart", "lungs", "effusion", "small", "large", "left", "right", "clear", "opaque", "no")
    n = 52
    table = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in range(n)],
            "patient": [f"p{i}" for i in range(n)],
            "study": [f"t{i}" for i in range(n)],
            "split": "",
            "view": "PA",
            "image": [f"{i}.png" for i in range(n)],
            "bytes": 1,
            "boxes": [None] * n,
            "report": [
                f"{' '.join(draw.choice(words, 5))}. {' '.join(draw.choice(words, 4))}." for _ in range(n)
            ],
        }
    )
    films = draw.integers(0, 256, (n, 72, 72), dtype=np.uint8)
    rows = np.arange(n, dtype=np.int64)
    prepared = PreparedImages(films, np.full((n, 2), 72), "0" * 64)
    return (
        Index("toy", Path("/nowhere"), "phantom", table),
        Split("toy", rows[:40], rows[40:], rows[:0]),
        prepared,
    )


def train(
    store: Path,
    some: Recipe,
    *,
    kill_at: int | None = None,
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> tuple[Path, list[float], dict[str, Tensor]]:
    """Pretrain; also gives the loss of each training step, and the gradients of the first."""
    curve: list[float] = []
    gradients: dict[str, Tensor] = {}
    step, after_backward = _Run.training_step, _Run.on_after_backward

    def watched(run: _Run, batch: Any, batch_idx: int) -> Tensor:
        if len(curve) == kill_at:
            raise Killed
        loss = step(run, batch, batch_idx)
        curve.append(float(loss.detach()))
        return loss

    def keep(run: _Run) -> None:
        if not gradients:
            gradients.update(
                {name: p.grad.clone() for name, p in run.named_parameters() if p.grad is not None}
            )

    _Run.training_step, _Run.on_after_backward = watched, keep  # type: ignore[method-assign]
    index, split, films = corpus()
    try:
        folder = pretrain(
            Clip,
            some,
            index,
            split,
            lambda side, fit: films,
            method_name="clip",
            owner="tests",
            recipe_name="micro",
            seed=3,
            device=device,
            precision="32",
            store=store,
            progress=progress or Progress(quiet=True),
            checkpoint_seconds=0.0,
        )
    except Killed:
        folder = store
    finally:
        _Run.training_step, _Run.on_after_backward = step, after_backward  # type: ignore[method-assign]
    return folder, curve, gradients


class Listening(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def norms() -> tuple[MaskedBatchNorm, Tensor, Tensor]:
    """A layer, rows of which one process has many and one few that count, and what its output is weighted with."""
    draw = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(6, 4, 5, generator=draw), torch.randn(6, 4, 5, generator=draw)
    return MaskedBatchNorm(5), rows, weight


COUNTED = torch.arange(4)[None] < torch.tensor([4, 4, 3, 1, 0, 2])[:, None]


def normalised(norm: MaskedBatchNorm, rows: Tensor, weight: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """The layer's output, the gradient of its rows, and its running statistics."""
    rows = rows.clone().requires_grad_()
    out = norm(rows, mask)
    (out * weight * (1 if mask is None else mask[:, :, None])).sum().backward()
    assert rows.grad is not None
    assert norm.running_mean is not None and norm.running_var is not None
    return {"out": out.detach(), "grad": rows.grad, "mean": norm.running_mean, "var": norm.running_var}


def process_on_cuda(rank: int, folder: Path, port: int) -> None:
    """What each process does that has a CUDA device; results go to a file."""
    device = torch.device("cuda", rank)
    with joined(Processes(W, rank, rank, "localhost", port), device):
        name, curve, _ = train(folder / "cuda", recipe(**WITH_BATCH_NORM), device=device)
    torch.save({"name": name.name, "curve": curve}, folder / f"{rank}.pt")


def process(rank: int, folder: Path, port: int) -> None:
    """What each process does; results go to a file."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with joined(Processes(W, rank, rank, "localhost", port), CPU):
        _, found["curve"], found["gradients"] = train(folder / "together", recipe(**WITHOUT_BATCH_NORM))
        train(folder / "killed", recipe(**WITHOUT_BATCH_NORM), kill_at=7)
        listening = Listening()
        found["batch norm"] = train(folder / "batch_norm", recipe(**VIT), progress=listening)[0].name
        found["said"] = listening.lines
        half = slice(3 * rank, 3 * rank + 3)
        for name, mask in (("counted", COUNTED), ("all", None)):
            norm, rows, weight = norms()
            norm.synchronised = True
            found[name] = normalised(norm, rows[half], weight[half], None if mask is None else mask[half])
        odd = dataclasses.replace(SCHEDULE, batch_size=7)
        try:
            train(folder / "odd", Recipe(recipe(**VIT).config, odd))
        except UsageError as error:
            found["odd"] = str(error)
    torch.save(found, folder / f"{rank}.pt")


def start(folder: Path, what: str) -> None:
    """Run this file in W processes, and wait for them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn = mp.get_context("spawn")
    given = [{"RANK": rank, "FOLDER": folder, "PORT": port} for rank in range(W)]
    workers = [spawn.Process(target=runpy.run_path, args=(__file__, each, what)) for each in given]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * W


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes left what they made; they are started once for all tests."""
    folder = tmp_path_factory.mktemp("processes")
    start(folder, "process")
    return folder


@pytest.fixture(scope="module")
def shares(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(W)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], dict[str, Tensor]]:
    return train(tmp_path_factory.mktemp("alone"), recipe(**WITHOUT_BATCH_NORM))


def info(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((folder / "weights.json").read_text())
    return about


def test_two_processes_give_the_loss_curve_of_one_with_the_joined_batch(
    alone: tuple[Path, list[float], dict[str, Tensor]], folder: Path, shares: list[dict[str, Any]]
) -> None:
    one, curve, _ = alone
    joint = np.mean([share["curve"] for share in shares], axis=0)
    assert len(curve) == 10
    np.testing.assert_allclose(joint, curve, rtol=TOLERANCE)
    assert (
        max(abs(a - b) for a, b in zip(curve, shares[0]["curve"], strict=True)) > 0.01
    )  # a share is no batch
    two = folder / "together" / one.name  # under the same key
    assert (info(one)["computed"]["processes"], info(two)["computed"]["processes"]) == (1, W)
    assert info(two)["computed"]["batch_statistics"] == "none"
    for ours, theirs in zip(info(two)["history"], info(one)["history"], strict=True):
        for part in ("train", "validation"):
            assert ours[part] == pytest.approx(theirs[part], rel=TOLERANCE)
    assert info(two)["best_epoch"] == info(one)["best_epoch"]


def test_the_first_gradients_are_those_of_the_joined_batch(
    alone: tuple[Path, list[float], dict[str, Tensor]], shares: list[dict[str, Any]]
) -> None:
    _, _, expected = alone
    for share in shares:
        assert share["gradients"].keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(share["gradients"][name], gradient, rtol=1e-3, atol=1e-6, msg=name)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-2


def test_one_process_goes_on_where_two_were_killed(
    alone: tuple[Path, list[float], dict[str, Tensor]], folder: Path, shares: list[dict[str, Any]]
) -> None:
    one, curve, _ = alone
    assert (folder / "killed" / f"{one.name}.partial" / "last.ckpt").is_file()
    resumed, rest, _ = train(folder / "killed", recipe(**WITHOUT_BATCH_NORM))
    np.testing.assert_allclose(rest, curve[7:], rtol=TOLERANCE)
    for ours, theirs in zip(info(resumed)["history"], info(one)["history"], strict=True):
        assert ours["train"] == pytest.approx(theirs["train"], rel=TOLERANCE)


def test_batch_norm_on_the_cpu_is_each_process_own_and_said_so(
    folder: Path, shares: list[dict[str, Any]], alone: tuple[Path, list[float], dict[str, Tensor]]
) -> None:
    about = info(folder / "batch_norm" / shares[0]["batch norm"])
    assert about["computed"]["batch_statistics"] == "of each process"
    assert any("4 pairs of a batch of 8; BatchNorm takes its statistics over" in s for s in shares[0]["said"])
    # its losses are over shares, too, so these are other weights than those of one process
    from medbench.weights import weights_key

    index, split, _ = corpus()
    key = weights_key("clip", "tests", recipe(**VIT), index, split, 3, "32")
    assert shares[0]["batch norm"] == shares[1]["batch norm"] != key


@pytest.mark.parametrize("mask", ["counted", "all"])
def test_synchronised_statistics_of_a_head_are_those_of_the_joined_batch(
    mask: str, shares: list[dict[str, Any]]
) -> None:
    norm, rows, weight = norms()
    expected = normalised(norm, rows, weight, COUNTED if mask == "counted" else None)
    found = [share[mask] for share in shares]
    for name in ("out", "grad"):
        torch.testing.assert_close(torch.cat([f[name] for f in found]), expected[name], rtol=1e-4, atol=1e-5)
    for name in ("mean", "var"):
        for each in found:
            torch.testing.assert_close(each[name], expected[name], rtol=1e-5, atol=1e-6)


def test_a_batch_that_can_not_be_shared_is_refused(shares: list[dict[str, Any]]) -> None:
    for share in shares:
        assert share["odd"].startswith(
            "A batch of 7 pairs can not be shared by 2 processes; expected a multiple of"
        )


def test_batch_norms_are_joined_whatever_they_are() -> None:
    from timm.layers import BatchNormAct2d

    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3), BatchNormAct2d(3), MaskedBatchNorm(3))
    names = list(module.state_dict())
    assert statistics(module) == "of the batch"
    synchronise(module)
    assert list(module.state_dict()) == names  # so that files hold the same
    assert all(isinstance(part, torch.nn.SyncBatchNorm) for part in module[:2])
    assert module[2].synchronised is True
    assert statistics(torch.nn.Linear(2, 2)) == "none"


@pytest.mark.slow
def test_compiled_losses_are_the_same(
    alone: tuple[Path, list[float], dict[str, Tensor]], tmp_path: Path
) -> None:
    one, curve, _ = alone
    some = Recipe(recipe(**WITHOUT_BATCH_NORM).config, dataclasses.replace(SCHEDULE, compile=True))
    compiled, found, _ = train(tmp_path, some)
    assert info(compiled)["computed"]["compile"] is True
    assert compiled.name == one.name
    np.testing.assert_allclose(found, curve, rtol=1e-4)


TORCHRUN = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "node[07-08,11],gpu3",
    "SLURM_JOB_ID": "123456",
}


@pytest.mark.parametrize(
    ("environment", "srun", "expected"),
    [
        ({}, True, ALONE),
        (TORCHRUN, False, Processes(4, 3, 1, "node1", 29400)),
        (TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"}, False, ALONE),
        (SRUN, True, Processes(4, 3, 1, "node07", 18456)),
        (SRUN, False, ALONE),  # tasks that share a grid
        (SRUN | {"SLURM_STEP_NODELIST": "gpu3,gpu4"}, True, Processes(4, 3, 1, "gpu3", 18456)),
        (SRUN | {"MASTER_ADDR": "there", "MASTER_PORT": "5"}, True, Processes(4, 3, 1, "there", 5)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, True, ALONE),  # the batch script itself
    ],
)
def test_who_started_how_many(environment: dict[str, str], srun: bool, expected: Processes) -> None:
    assert started_by(environment, srun=srun) == expected


def test_an_environment_that_is_half_set_is_named() -> None:
    with pytest.raises(UsageError, match=r"MASTER_PORT is None; expected a whole number"):
        started_by({name: TORCHRUN[name] for name in TORCHRUN if name != "MASTER_PORT"}, srun=False)


@pytest.mark.gpu
def test_on_cuda_batch_norm_has_the_statistics_of_all_processes(tmp_path: Path) -> None:
    """One process of one: NCCL takes no second one on the same device, so what is joined is looked at alone."""
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3), MaskedBatchNorm(3)).cuda().train()
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        synchronise(module)
        films = torch.randn(4, 3, 5, 5, device="cuda")
        expected = torch.nn.BatchNorm2d(3).cuda().train()(films)
        torch.testing.assert_close(module[0](films), expected)
        rows = torch.randn(4, 3, device="cuda")
        torch.testing.assert_close(
            module[1](rows), MaskedBatchNorm(3).cuda().train()(rows), rtol=1e-4, atol=1e-5
        )
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
def test_two_cuda_devices_with_batch_norm_train_as_one(tmp_path: Path) -> None:
    if torch.cuda.device_count() < W:
        pytest.skip(f"needs {W} CUDA devices, found {torch.cuda.device_count()}")
    alone, curve, _ = train(tmp_path / "alone", recipe(**WITH_BATCH_NORM), device=torch.device("cuda", 0))
    start(tmp_path, "process on cuda")
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(W)]
    assert found[0]["name"] == alone.name
    assert info(tmp_path / "cuda" / alone.name)["computed"]["batch_statistics"] == "of all processes"
    np.testing.assert_allclose(np.mean([share["curve"] for share in found], axis=0), curve, rtol=1e-3)


if __name__ == "process":
    process(RANK, FOLDER, PORT)  # type: ignore[name-defined]  # noqa: F821
if __name__ == "process on cuda":
    process_on_cuda(RANK, FOLDER, PORT)  # type: ignore[name-defined]  # noqa: F821
