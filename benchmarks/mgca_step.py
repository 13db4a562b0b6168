"""The whole `paper` training step of a method against MGCA's in the order of work of its released code.

    python benchmarks/mgca_step.py [--method mgca] [--backbone resnet50 vit] [--rounds 3] [--threads 2] [--clean]
    python benchmarks/mgca_step.py --method place --backbone vit --pairs 2 --rounds 1      # a short trial

Forward and backward of the released code's order of work (reference_mgca.py, float32), of the method in float32 and of
the method in bf16 autocast, turn by turn in one process, with kept memory, on the same captions: 16 pairs with the
ResNet-50, the first 8 with the ViT-B/16. `mgca` runs with `compat`, the released code's maths to float rounding (a
test holds both against each other); `--clean` takes its default reading. The optimiser is not in it. Printed: the
least time of each, the ratios, and how much of a step is outside of the two encoders. The graph is cut behind the
encoders for that: first the losses go backward to the features, then the features go backward through the encoders. It
is the same work.
"""

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from reference_mgca import BACKBONES, TOKENS, ReferenceMGCA
from step_inputs import captions, vocabulary, write_bert
from torch import Tensor

from medbench.devices import Precision, autocast, describe
from medbench.memory import keep_freed_memory
from medbench.method import Method, Setup
from medbench.model import ImageTextBatch
from medbench.plugins import load_catalogue

LENGTHS = (112, 20, 85, 61, 64, 70, 25, 69, 53, 112, 81, 66, 68, 58, 49, 65)
"""Tokens of each caption."""

PAIRS = {"resnet50": 16, "vit": 8}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="mgca", help="any that pretrains")
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES), default=list(BACKBONES))
    parser.add_argument("--pairs", type=int, help="only the first so many, for a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clean", action="store_true", help="mgca without the released code's quirks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    method_class: type[Method] = load_catalogue().load("methods", options.method)
    about = describe(CPU)
    print(f"{about['name']}, {options.threads} threads, torch {about['torch']}; s, least of {options.rounds}")
    for backbone in options.backbone:
        pairs = options.pairs or PAIRS[backbone]
        extra = {"compat": True} if options.method == "mgca" and not options.clean else {}
        compare(method_class, options.method, backbone, pairs, options.rounds, extra)


def compare(
    method_class: type[Method], name: str, backbone: str, pairs: int, rounds: int, extra: dict[str, Any]
) -> None:
    """Measure one backbone and print it."""
    text = captions(LENGTHS[:pairs], TOKENS)
    images = torch.randn(pairs, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    reference = ReferenceMGCA(backbone, vocabulary()).train()
    with tempfile.TemporaryDirectory() as folder:
        write_bert(Path(folder))
        timm_name = {"resnet50": "resnet50.tv2_in1k", "vit": "deit_base_patch16_224"}[backbone]
        config = dataclasses.replace(
            method_class.recipes["paper"].config,
            backbone=timm_name,
            pretrained=False,
            text_encoder=folder,
            **extra,
        )
        method = method_class.from_corpus(config, [], Setup(offline=True))
    method = method.to(memory_format=torch.channels_last).train()  # as the engine does
    batch = ImageTextBatch(images.contiguous(memory_format=torch.channels_last), text)
    model: Any = method.model
    # Behind BERT, so that what joins pieces to words counts as outside.
    text_half = (model.text_encoder, "_transform")
    ours: tuple[tuple[Any, str], ...] = ((model, "encode_image"), text_half)

    def work(precision: Precision) -> Callable[[], dict[str, Tensor]]:
        def losses() -> dict[str, Tensor]:
            with autocast(CPU, precision):
                return method.losses(batch, 1)  # from the second epoch on nothing is held back

        return losses

    theirs = ((reference, "encode_image"), (reference, "encode_text"))
    variants = {
        "reference, float32": (
            lambda: reference.losses(images, text.ids, text.mask),
            theirs,
            reference,
        ),
        f"{name}, float32": (work("32"), ours, method),
        f"{name}, bf16": (work("bf16"), ours, method),
    }
    best: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for label, (losses, cuts, module) in variants.items():
            module.zero_grad()
            found = step(losses, cuts)
            best[label] = min(best.get(label, found), found)
    print(f"\n{backbone}, {pairs} pairs")
    slow = best["reference, float32"][0]
    for label, (whole, outside) in best.items():
        print(
            f"  {label:<20} {whole:7.2f}   reference / it {slow / whole:5.2f}   outside of the encoders"
            f" {outside:6.2f} ({outside / whole:.1%})"
        )


def step(losses: Callable[[], dict[str, Tensor]], cuts: Sequence[tuple[Any, str]]) -> tuple[float, float]:
    """Seconds of a step, forward and backward, and of what is outside of the calls that are cut."""
    start = time.perf_counter()
    with _cut(cuts) as made:
        terms = losses()
    torch.stack([term.float() for term in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]  # torch's own
    outside = time.perf_counter() - start - sum(seconds for _, seconds in made)
    if len(made) != len(cuts):
        raise SystemExit(f"{len(made)} of {len(cuts)} encoders were called: the graph can not be cut there")
    for pairs, _ in made:
        with_gradient = [(output, leaf.grad) for output, leaf in pairs if leaf.grad is not None]
        torch.autograd.backward(*zip(*with_gradient, strict=True))
    return time.perf_counter() - start, outside


@contextmanager
def _cut(places: Sequence[tuple[Any, str]]) -> Iterator[list[tuple[list[tuple[Tensor, Tensor]], float]]]:
    """Let these methods give leaves in place of their outputs; yields (output, leaf) pairs and the time of a call."""
    made: list[tuple[list[tuple[Tensor, Tensor]], float]] = []

    def cutting(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            start = time.perf_counter()
            found = call(*args, **named)
            pairs: list[tuple[Tensor, Tensor]] = []

            def leaf(value: Any) -> Any:
                if not isinstance(value, Tensor) or not value.requires_grad:
                    return value
                pairs.append((value, value.detach().requires_grad_()))
                return pairs[-1][1]

            if dataclasses.is_dataclass(found) and not isinstance(found, type):
                fields = dataclasses.fields(found)
                found = dataclasses.replace(found, **{f.name: leaf(getattr(found, f.name)) for f in fields})
            else:
                found = tuple(leaf(value) for value in found)
            made.append((pairs, time.perf_counter() - start))
            return found

        return run

    for owner, name in places:
        setattr(owner, name, cutting(getattr(owner, name)))
    try:
        yield made
    finally:
        for owner, name in places:
            delattr(owner, name)  # the class's own method comes back


if __name__ == "__main__":
    main()
