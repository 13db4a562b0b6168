"""Memory of a pretraining step at bf16, counted: what is kept for the backward pass, and the sum for a large batch.

    python benchmarks/pretrain_memory.py
    python benchmarks/pretrain_memory.py --method gloria --backbone resnet50 --pairs 1024 --chunk 8

At the sizes of `paper`, with a BERT of 12 layers and 112 tokens a report. A forward pass at 2, 3 and 4 pairs counts the
bytes of every tensor that autograd keeps, each storage once and weights apart, by what made it: the image encoder, the
text encoder, and the rest (heads and losses). Bytes are exact and at most quadratic in the pairs, so three batches give
those of any. It runs on the CPU and with the attention that CUDA takes, which keeps no matrix of tokens by tokens.

With checkpointing an encoder keeps the inputs of its parts, and, while one is computed again, all of that one. With
`chunk` a local loss has that many pairs at a time. Not counted: what is there between two operations of one part, the
CUDA context, workspaces of cuDNN, fragmentation.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from step_inputs import captions, write_bert
from torch import Tensor, nn

from medbench.devices import autocast
from medbench.method import Method, Setup
from medbench.model import ImageTextBatch
from medbench.plugins import load_catalogue
from medbench_methods.modules import bert, image_encoder
from medbench_methods.modules.attention import ATTENTION

GB = 1e9
CARD = 80 * GB
BATCHES = (2, 3, 4)
TOKENS = 112
BACKBONES: dict[str, dict[str, Any]] = {
    "vit": {"backbone": "deit_base_patch16_224"},
    "resnet50": {"backbone": "resnet50.tv2_in1k", "upsample": 0},
    "resnet50-299": {"backbone": "resnet50.tv2_in1k", "upsample": 299},
}
CPU = torch.device("cpu")


class Count:
    """Bytes that autograd keeps, by part and by the parts of encoders that are computed again as one."""

    def __init__(self, method: Method) -> None:
        self.part, self.segment = "losses", ""
        self.of_part: dict[str, int] = {}
        self.of_segment: dict[str, int] = {}
        self.seen = {p.untyped_storage().data_ptr() for p in (*method.parameters(), *method.buffers())}
        self.held: list[Tensor] = []  # a storage that is freed could come back under the same address

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is kept."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.seen:
            self.seen.add(storage.data_ptr())
            self.held.append(tensor)
            self.of_part[self.part] = self.of_part.get(self.part, 0) + storage.nbytes()
            if self.segment:
                self.of_segment[self.segment] = self.of_segment.get(self.segment, 0) + storage.nbytes()
        return tensor

    @contextmanager
    def within(self, **names: str) -> Iterator[None]:
        """Count it as of this `part`, or of this `segment`."""
        before = {name: getattr(self, name) for name in names}
        vars(self).update(names)
        yield
        vars(self).update(before)


def watch(module: nn.Module, count: Count, **names: str) -> list[Any]:
    """Let `count` say, while `module` computes, that it does."""
    entered: list[Any] = []

    def enter(*_: Any) -> None:
        entered.append(count.within(**names))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]


def segments(method: Method) -> dict[str, nn.Module]:
    """What is computed again as one: blocks of a ViT, stages of a ResNet, layers of BERT."""
    body, bert = method.model.image_encoder.body, method.model.text_encoder.bert
    films = dict(enumerate(body.blocks)) if hasattr(body, "blocks") else dict(body.items())
    stages = {f"films {name}": part for name, part in films.items()}
    return stages | {f"text {name}": part for name, part in enumerate(bert.encoder.layer)}


def kept(method: Method, pairs: int) -> Count:
    """What a forward pass over `pairs` keeps."""
    text = captions([TOKENS] * pairs, TOKENS)
    size = method.model.preprocessing.size * method.film_scale
    films = torch.randn(pairs, 3, size, size).contiguous(memory_format=torch.channels_last)
    count = Count(method)
    hooks = watch(method.model.image_encoder, count, part="image encoder")
    hooks += watch(method.model.text_encoder, count, part="text encoder")
    for name, module in segments(method).items():
        hooks += watch(module, count, segment=name)
    with autocast(CPU, "bf16"), torch.autograd.graph.saved_tensors_hooks(count.pack, lambda tensor: tensor):
        terms = method.losses(ImageTextBatch(films, text), 1)
    assert all(torch.isfinite(term) for term in terms.values())
    for hook in hooks:
        hook.remove()
    count.held.clear()
    return count


def at(sizes: list[float], pairs: int) -> float:
    """Bytes at `pairs`, from those at `BATCHES`."""
    return float(np.polyval(np.polyfit(BATCHES, sizes, 2), pairs))


def attend_as_cuda(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """The fused kernel, without what that of the CPU can not and CUDA's can: dropout, and a mask, here all True."""
    mixed = F.scaled_dot_product_attention(query, key, value, scale=scaling)
    return mixed.transpose(1, 2).contiguous(), None


def choose_as_cuda(blocks: nn.ModuleList, device: torch.device) -> None:
    for block in blocks:
        inner: Any = block.attn
        inner.fused_attn = True


def build(name: str, backbone: str, text_encoder: Path) -> Method:
    """The method at the sizes that are counted, with random weights."""
    method_class: type[Method] = load_catalogue().load("methods", name)
    config = method_class.recipes["paper"].config
    changes = {
        "pretrained": False,
        "text_encoder": str(text_encoder),
        "text_layers": 12,
        "text_max_tokens": TOKENS,
    }
    if hasattr(config, "full_report"):
        changes["full_report"] = True
    config = dataclasses.replace(config, **BACKBONES[backbone], **changes)
    torch.manual_seed(0)
    return (
        method_class.from_corpus(config, [], Setup(offline=True))
        .to(memory_format=torch.channels_last)
        .train()
    )


def report(name: str, backbone: str, text_encoder: Path, pairs: int, chunk: int) -> None:
    """Count one method over one backbone, and print it."""
    method = build(name, backbone, text_encoder)
    counts = [kept(method, b) for b in BATCHES]
    parts = ("image encoder", "text encoder", "losses")
    plain = {part: at([c.of_part.get(part, 0) for c in counts], pairs) for part in parts}
    largest = max(at([c.of_segment.get(s, 0) for c in counts], pairs) for s in segments(method))
    for encoder in (method.model.image_encoder.body, method.model.text_encoder):
        encoder.set_grad_checkpointing(True)
    if hasattr(method.config, "chunk"):
        method.config = dataclasses.replace(method.config, chunk=1)
    counts = [kept(method, b) for b in BATCHES]
    again = {part: at([c.of_part.get(part, 0) for c in counts], pairs) for part in parts}
    at_once = (plain["losses"] - again["losses"]) * chunk / pairs
    weights = sum(p.numel() for p in method.parameters())
    learnt = sum(p.numel() for p in method.parameters() if p.requires_grad)
    # float32: the weights, their gradients, two moments of Adam; bf16: the copies that autocast makes and keeps
    fixed = 4 * weights + 12 * learnt + 2 * weights
    everything = sum(plain.values())
    sum_again = again["image encoder"] + again["text encoder"] + largest
    sums = {
        "all kept": fixed + everything,
        "encoders computed again": fixed + sum_again + plain["losses"],
        f"and losses {chunk} pairs at a time": fixed + sum_again + again["losses"] + at_once,
    }
    print(f"\n{name}, {backbone}: {weights / 1e6:.0f} M weights; GB at {pairs:,} pairs")
    print(f"  weights, gradients, AdamW, bf16 copies   {fixed / GB:8.2f}")
    for part in parts:
        each = (sizes[part] / pairs / 1e6 for sizes in (plain, again))
        print("  {:<16} kept, MB a pair {:8.2f}   computed again {:8.2f}".format(part, *each))
    print(f"  the largest part while it is computed again {largest / GB:5.2f}")
    for what, total in sums.items():
        fits = "fits" if total <= CARD else "does not fit"
        print(f"  sum, {what:<36}{total / GB:8.2f}   {fits} {CARD / GB:.0f} GB", flush=True)


def main() -> None:
    """Count every method over every backbone that is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", nargs="+", default=["clip", "gloria", "mgca", "place"])
    parser.add_argument("--backbone", nargs="+", choices=list(BACKBONES), default=["vit", "resnet50"])
    parser.add_argument("--pairs", type=int, default=1024)
    parser.add_argument("--chunk", type=int, default=16)
    arguments = parser.parse_args()
    bert.AttentionInterface.register(ATTENTION, attend_as_cuda)  # in the place of what that module registered
    image_encoder.choose_attention = choose_as_cuda
    with tempfile.TemporaryDirectory() as folder:
        write_bert(Path(folder), layers=12)
        for name in arguments.method:
            for backbone in arguments.backbone:
                report(name, backbone, Path(folder), arguments.pairs, arguments.chunk)


if __name__ == "__main__":
    main()
