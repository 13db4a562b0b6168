"""Two processes with half of the batch each give, on the mean, the loss and the gradients of one with all of it.

To add a loss: a function of the rows of a batch and of what is learnt, with its inputs, in `CASES`. The file runs
itself in two processes, since a test module can not be imported by its name.
"""

import runpy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.gather import gather, pad_words, processes, rank_offset, sum_over_processes
from medbench_methods.losses.gloria_local import gloria_local
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.losses.pathology_alignment import pathology_alignment
from medbench_methods.losses.prototype_alignment import prototype_alignment
from medbench_methods.losses.score_contrast import score_contrast
from medbench_methods.losses.semantic_alignment import FalseNegatives, semantic_alignment
from medbench_methods.losses.sparse_alignment import sparse_alignment
from medbench_methods.losses.token_alignment import token_alignment
from medbench_methods.losses.token_alignment_compat import token_alignment_compat
from medbench_methods.reclf import PairScores, Reclf

W = 2
"""Processes."""

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A loss with the inputs of the joined batch.

    Attributes:
        loss: (rows, learnt) -> 0-d tensor; the same function in one process and in each of several.
        rows: each (W * B, ...); process r gets the r-th B of them. Those that are float get gradients.
        learnt: what every process has a copy of.
    """

    loss: Callable[[Tensors, Tensors], Tensor]
    rows: Tensors
    learnt: Tensors


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def pathologies() -> Tensors:
    """Observations and sentences of six reports, with unequal numbers of sentences in the two processes."""
    sentences = units(6, 4, 5, seed=3)
    sentences[4, 0] = sentences[0, 1]  # a normal statement that patients of two processes share
    counts = torch.tensor([4, 2, 1, 3, 1, 0])
    mask = torch.arange(4)[None] < counts[:, None]
    return {"observations": units(6, 3, 5, seed=2), "sentences": sentences, "mask": mask}


def regions_and_words() -> Tensors:
    """Of six pairs, with unequal numbers of words in the two processes, and a report without any."""
    counts = torch.tensor([4, 2, 0, 3, 1, 4])
    return {"regions": 2 * units(6, 3, 5, seed=4), "words": 2 * units(6, 4, 5, seed=5)} | {
        "mask": torch.arange(4)[None] < counts[:, None]
    }


def patches_and_words() -> Tensors:
    """Of six pairs; one process has two reports without a word, the other none."""
    counts = torch.tensor([4, 0, 0, 3, 1, 4])
    return {"patches": units(6, 3, 5, seed=13), "words": units(6, 4, 5, seed=14)} | {
        "mask": torch.arange(4)[None] < counts[:, None]
    }


def word_weights(rows: Tensors) -> Tensor:
    return rows["mask"] / rows["mask"].sum(1, keepdim=True).clamp_min(1)


def alike() -> Tensors:
    """Embeddings, and vectors of reports, of which some of the two processes say the same.

    The vectors, which get no gradient, are whole numbers: only what is float is asked for one.
    """
    reports = (100 * units(6, 4, seed=8)).long()
    reports[4], reports[3] = reports[0], 10 * reports[1] + 3 * reports[2]
    return {"image": units(6, 5, seed=6), "text": units(6, 5, seed=7), "reports": reports}


def contrast_of_alike(rows: Tensors, false_negatives: FalseNegatives) -> Tensor:
    reports = F.normalize(rows["reports"].double(), dim=1)
    return semantic_alignment(
        rows["image"],
        rows["text"],
        reports,
        threshold=0.8,
        false_negatives=false_negatives,
        temperature=0.3,
        gather=True,
    )


def matchings() -> Tensors:
    """Regions and words of six pairs, with unequal numbers of words in the two processes, and their wholes."""
    counts = torch.tensor([4, 2, 1, 3, 1, 0])
    return {
        "regions": units(6, 3, 5, seed=9),
        "image": units(6, 5, seed=10),
        "words": units(6, 4, 5, seed=11),
        "mask": torch.arange(4)[None] < counts[:, None],
        "report": units(6, 5, seed=12),
    }


def pair_scores() -> PairScores:
    """RECLF's modules in float64, with batch statistics over all processes."""
    # Not recomputed: backward, functional_call is over and the parameters are the module's own again.
    changes = {"embed": 5, "matching_width": 4, "gather": True, "chunk": 2, "recompute": False}
    module = PairScores(replace(Reclf.recipes["micro"].config, **changes)).double()
    for seed, parameter in enumerate(module.parameters()):
        with torch.no_grad():
            parameter.copy_(0.3 + 2 * units(*parameter.shape, seed=20 + seed))
    return module


SCORES = pair_scores()


def matching_contrast(rows: Tensors, learnt: Tensors) -> Tensor:
    """What RECLF does: own images with all reports, then everybody's scores of one's own reports."""
    every = (gather(pad_words(rows["words"], 5)), gather(pad_words(rows["mask"], 5)), gather(rows["report"]))
    scores = torch.func.functional_call(SCORES, learnt, (rows["regions"], rows["image"], *every))
    each = [score_contrast(s, temperature=0.1, gather=True) for s in scores.values()]
    return torch.stack(each).sum()


CASES: dict[str, Case] = {
    "gloria_local": Case(lambda rows, _: gloria_local(**rows, gather=True), regions_and_words(), {}),
    "info_nce": Case(
        lambda rows, learnt: info_nce(rows["image"], rows["text"], learnt["temperature"], gather=True),
        {"image": units(6, 5, seed=0), "text": units(6, 5, seed=1)},
        {"temperature": number(0.3)},
    ),
    "pathology_alignment, negatives of the batch": Case(
        lambda rows, _: pathology_alignment(**rows, gather=True), pathologies(), {}
    ),
    "pathology_alignment, negatives of the report": Case(
        lambda rows, _: pathology_alignment(**rows, negatives="report", gather=True), pathologies(), {}
    ),
    "pathology_alignment, one to one": Case(
        lambda rows, _: pathology_alignment(**rows, pairing="hungarian", gather=True), pathologies(), {}
    ),
    "prototype_alignment, whose Sinkhorn is over all": Case(
        lambda rows, learnt: prototype_alignment(**rows, **learnt),
        {"image": units(6, 5, seed=0), "text": units(6, 5, seed=1)},
        {"prototypes": units(7, 5, seed=4)},
    ),
    "score_contrast of matchings": Case(
        matching_contrast, matchings(), {name: p.detach().clone() for name, p in SCORES.named_parameters()}
    ),
    "semantic_alignment, soft": Case(lambda rows, _: contrast_of_alike(rows, "soft"), alike(), {}),
    "semantic_alignment, mask": Case(lambda rows, _: contrast_of_alike(rows, "mask"), alike(), {}),
    "sparse_alignment": Case(
        lambda rows, _: sparse_alignment(**rows, mirror=True, gather=True), patches_and_words(), {}
    ),
    "token_alignment": Case(lambda rows, _: token_alignment(**rows, gather=True), patches_and_words(), {}),
    "token_alignment_compat, where all reports count": Case(
        lambda rows, _: token_alignment_compat(**rows, word_weights=word_weights(rows), normalise_told=True),
        patches_and_words(),
        {},
    ),
}


def run(case: Case, begin: int, end: int) -> dict[str, Any]:
    """Loss and gradients of rows `begin` to `end`."""
    rows = {name: value[begin:end].clone() for name, value in case.rows.items()}
    learnt = {name: value.clone() for name, value in case.learnt.items()}
    for value in (*rows.values(), *learnt.values()):
        value.requires_grad_(value.is_floating_point())
    loss = case.loss(rows, learnt)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        "loss": loss.detach(),
        "rows": {name: value.grad for name, value in rows.items() if value.requires_grad},
        "learnt": {name: value.grad for name, value in learnt.items()},
    }


def process(rank: int, folder: Path) -> None:
    """What each process does: all cases with its share of the rows; results go to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=W)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        share = len(next(iter(case.rows.values()))) // W
        found[name] = run(case, rank * share, (rank + 1) * share)
    own = torch.arange(3) + 10 * rank
    found["facts"] = {
        "int": gather(own),
        "bool": gather(own > 2),
        "words": gather(pad_words(torch.ones(1, 2 + rank, 2), 4)),
        "offset": rank_offset(own),
        "processes": processes(),
        "sum": sum_over_processes(own),
        "own": own,
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found; both are started once for all cases."""
    folder = tmp_path_factory.mktemp("processes")
    spawn = mp.get_context("spawn")
    workers = [
        spawn.Process(target=runpy.run_path, args=(__file__, {"RANK": rank, "FOLDER": folder}, "process"))
        for rank in range(W)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * W
    return [torch.load(folder / f"{rank}.pt") for rank in range(W)]


@pytest.mark.parametrize("name", CASES)
def test_the_mean_over_processes_is_one_process_with_the_joined_batch(
    name: str, results: list[dict[str, Any]]
) -> None:
    case = CASES[name]
    joined = run(case, 0, len(next(iter(case.rows.values()))))
    shares = [result[name] for result in results]
    close = {"rtol": 1e-10, "atol": 1e-13}
    torch.testing.assert_close(torch.stack([s["loss"] for s in shares]).mean(), joined["loss"], **close)
    for row, gradient in joined["rows"].items():
        assert gradient.abs().max() > 1e-3
        # The gradient of a process' own rows holds what all processes' losses say about them.
        torch.testing.assert_close(torch.cat([s["rows"][row] for s in shares]) / W, gradient, **close)
    for value, gradient in joined["learnt"].items():
        torch.testing.assert_close(
            torch.stack([s["learnt"][value] for s in shares]).mean(0), gradient, **close
        )


def test_rows_of_any_type_come_in_order_of_rank(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        facts = result["facts"]
        assert facts["int"].tolist() == [0, 1, 2, 10, 11, 12]
        assert facts["bool"].tolist() == [False] * 3 + [True] * 3
        assert facts["words"][:, :, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]
        assert (facts["offset"], facts["processes"]) == (3 * rank, W)
        assert facts["sum"].tolist() == [10, 12, 14]
        assert facts["own"].tolist() == [10 * rank + i for i in range(3)]  # not changed in place


def test_one_process_is_left_alone() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather(rows) is rows
    assert (rank_offset(rows), processes()) == (0, 1)
    assert torch.equal(sum_over_processes(rows), rows)
    mask = pad_words(torch.ones(2, 1, dtype=torch.bool), 3)
    assert mask.tolist() == [[True, False, False]] * 2


if __name__ == "process":
    process(RANK, FOLDER)  # type: ignore[name-defined]  # noqa: F821
