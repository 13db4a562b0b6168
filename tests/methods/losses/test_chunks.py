"""Local losses a few pairs at a time: the same values and gradients, and less that is kept."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench_methods.losses.chunks import in_chunks
from medbench_methods.losses.gloria_local import gloria_local
from medbench_methods.losses.pathology_alignment import pathology_alignment
from medbench_methods.losses.sparse_alignment import sparse_alignment
from medbench_methods.losses.token_alignment import token_alignment
from medbench_methods.losses.token_alignment_compat import token_alignment_compat

B, W, P, E, S, K = 7, 5, 6, 4, 3, 2
MASK = torch.arange(W)[None] < torch.tensor([5, 2, 0, 3, 1, 4, 5])[:, None]


def units(*shape: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=draw, dtype=torch.float64), dim=-1)


WORDS, PATCHES = units(B, W, E, seed=0), units(B, P, E, seed=1)
CASES: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]] = {
    "gloria_local": (lambda **a: gloria_local(**a, mask=MASK), {"regions": 2 * PATCHES, "words": 2 * WORDS}),
    "pathology_alignment": (
        lambda **a: pathology_alignment(**a, mask=MASK[:, :S]),
        {"observations": units(B, K, E, seed=2), "sentences": units(B, S, E, seed=3)},
    ),
    "pathology_alignment, negatives of the report": (
        lambda **a: pathology_alignment(**a, mask=MASK[:, :S], negatives="report"),
        {"observations": units(B, K, E, seed=2), "sentences": units(B, S, E, seed=3)},
    ),
    "sparse_alignment": (
        lambda **a: sparse_alignment(**a, mask=MASK, mirror=True),
        {"patches": PATCHES, "words": WORDS},
    ),
    "token_alignment": (lambda **a: token_alignment(**a, mask=MASK), {"patches": PATCHES, "words": WORDS}),
    "token_alignment_compat": (
        lambda **a: token_alignment_compat(
            **a, mask=MASK, word_weights=MASK / MASK.sum(1, keepdim=True).clamp_min(1), normalise_told=True
        ),
        {"patches": PATCHES, "words": WORDS},
    ),
}


def result(name: str, chunk: int | None) -> tuple[Tensor, dict[str, Tensor]]:
    loss, rows = CASES[name]
    given = {key: value.clone().requires_grad_() for key, value in rows.items()}
    value = loss(**given, chunk=chunk)
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach(), {key: tensor.grad for key, tensor in given.items() if tensor.grad is not None}


@pytest.mark.parametrize("chunk", [1, 3, B, 50])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_whole(name: str, chunk: int) -> None:
    expected, gradients = result(name, None)
    found, others = result(name, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for key, gradient in gradients.items():
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(others[key], gradient, rtol=1e-10, atol=1e-13)


def kept(call: Callable[[], Any]) -> int:
    """Bytes that are kept for the backward pass, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call()
    return sum(seen.values())


@pytest.mark.parametrize("name", CASES)
def test_what_is_between_is_not_kept(name: str) -> None:
    loss, rows = CASES[name]
    # many patches, so that matrices over them are more than they are
    given = {
        key: value.repeat(1, 4 if key in ("regions", "patches") else 1, 1).requires_grad_()
        for key, value in rows.items()
    }
    whole, cut = (kept(partial(loss, **given, chunk=chunk)) for chunk in (None, 1))
    assert cut < whole / 2


def test_nothing_is_computed_twice_where_nothing_is_cut() -> None:
    calls = []

    def part(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return rows.square()

    rows = torch.randn(5, 2, requires_grad=True)
    in_chunks(part, None, rows).sum().backward()
    assert calls == [5]
    calls.clear()
    in_chunks(part, 2, rows).sum().backward()
    assert sorted(calls) == [1, 1, 2, 2, 2, 2]
    calls.clear()
    with torch.no_grad():
        in_chunks(part, 2, rows)
    assert calls == [5]
