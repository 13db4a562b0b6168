"""Floating-point operations of a `paper` training step, a film and its report each: forward and backward.

    python benchmarks/step_flops.py
    python benchmarks/step_flops.py --method place --pairs 8

Counted by torch.utils.flop_counter (products of matrices and convolutions, two operations a multiplication and
addition), which depends on shapes alone: films are noise, captions are padded to 112 tokens, and the weights of BERT
are drawn. What is quadratic in the pairs of a batch is counted with the few that are given. `medbench plan` takes these
figures (`PRETRAIN_GFLOP` in benchmark/medbench/cost.py) where nothing was timed.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from mgca_step import LENGTHS
from reference_mgca import TOKENS
from step_inputs import captions, write_bert
from torch.utils.flop_counter import FlopCounterMode

from medbench.method import Method, Setup
from medbench.model import ImageTextBatch
from medbench.plugins import load_catalogue


def main() -> None:
    catalogue = load_catalogue(third_party=False)
    pretrained = [name for name, spec in catalogue.methods.items() if spec.pretrains]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", nargs="+", default=sorted(pretrained))
    parser.add_argument("--pairs", type=int, default=4, help=f"of a batch, at most {len(LENGTHS)}")
    options = parser.parse_args()
    for name in options.method:
        found = gflop(catalogue.load("methods", name), options.pairs)
        print(f"{name:<10} {found:8.1f} GFLOP a pair", flush=True)


def gflop(method_class: type[Method], pairs: int) -> float:
    """Of one pair, forward and backward."""
    config = method_class.recipes["paper"].config
    text = captions(LENGTHS[:pairs], TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        write_bert(Path(folder), layers=12)
        own = {"pretrained": False, "text_encoder": folder}
        known = {field.name for field in dataclasses.fields(config)}
        config = dataclasses.replace(config, **{name: own[name] for name in known & own.keys()})
        method = method_class.from_corpus(config, [], Setup(offline=True)).train()
    size = method.model.preprocessing.size
    batch = ImageTextBatch(torch.randn(pairs, 3, size, size), text)
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = cast(Any, _Nowhere())
    with counter:
        terms = method.losses(batch, 1)
        torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return float(counter.get_total_flops()) / pairs / 1e9


class _Nowhere:
    """In place of the counter's own, which fails where modules work without gradients on what has some.

    Only the total is wanted.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


if __name__ == "__main__":
    main()
