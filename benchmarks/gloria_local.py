"""Time and memory of GLoRIA's local loss, forward and backward, against loops over reports that form contexts.

    python benchmarks/gloria_local.py
    python benchmarks/gloria_local.py --batch 8 --steps 1 --threads 1

Two references, both in float32 and with the true lengths of the reports: `plain` is the equation with as few operations
as it takes; `released order` works as the released code does (words repeated for each image, maps brought into order
and copied, report by report). Each runs in a process of its own, in turns, with and without kept memory
(`medbench.memory.keep_freed_memory`); the least time over the steps counts, since anything else on the machine only
adds to it. Memory is the highest that the process held, less what it held before the first step.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 2  # over all combinations, so that a busy minute does not fall on one of them alone
LOSSES = ("ours", "plain", "released order")
SCALES = (4.0, 5.0, 10.0)


def plain(regions: Any, words: Any, lengths: list[int]) -> Any:
    """M column by column: regions (B, P, D), words (B, W, D)."""
    import torch
    import torch.nn.functional as F

    columns = []
    for i, n in enumerate(lengths):
        word = words[i, :n]  # (T, D)
        attention = (SCALES[0] * (regions @ word.T).softmax(2)).softmax(1)  # (B, P, T)
        context = attention.transpose(1, 2) @ regions  # (B, T, P) x (B, P, D) -> (B, T, D)
        cosine = F.cosine_similarity(word[None], context, dim=2)  # (B, T)
        columns.append((SCALES[1] * cosine).logsumexp(1))
    return both_ways(torch.stack(columns, 1))


def released_order(maps: Any, words: Any, lengths: list[int]) -> Any:
    """The same in the released code's order of work: maps (B, D, P), words (B, D, W)."""
    import torch

    columns = []
    images, _, places = maps.shape
    for i, n in enumerate(lengths):
        query = words[i, :, :n].expand(images, -1, -1).contiguous()  # (B, D, T)
        cells = maps.transpose(1, 2).contiguous()  # (B, P, D)
        chosen = (cells @ query).view(images * places, n).softmax(1).view(images, places, n)
        scores = chosen.transpose(1, 2).contiguous().view(images * n, places) * SCALES[0]
        attention = scores.softmax(1).view(images, n, places)
        context = maps @ attention.transpose(1, 2).contiguous()  # (B, D, P) x (B, P, T) -> (B, D, T)
        a, b = (t.transpose(1, 2).contiguous().view(images * n, -1) for t in (query, context))  # (B T, D)
        cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-8)
        columns.append((cosine.view(images, n) * SCALES[1]).exp().sum(1).log())
    return both_ways(torch.stack(columns, 1))


def both_ways(matched: Any) -> Any:
    """Cross entropy of (B, B) matchings, both directions."""
    import torch
    import torch.nn.functional as F

    own = torch.arange(len(matched))
    return F.cross_entropy(SCALES[2] * matched, own) + F.cross_entropy(SCALES[2] * matched.T, own)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One loss, in this process."""
    import torch

    from medbench import memory
    from medbench_methods.losses.gloria_local import gloria_local

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    kept = arguments.keep and memory.keep_freed_memory()
    batch, least, most = arguments.batch, *arguments.words
    draw = torch.Generator().manual_seed(0)
    regions = 0.3 * torch.randn(batch, arguments.regions, arguments.width, generator=draw)
    words = 0.3 * torch.randn(batch, most, arguments.width, generator=draw)
    lengths = torch.linspace(least, most, batch).round().long()[torch.randperm(batch, generator=draw)]
    mask = torch.arange(most) < lengths[:, None]  # (B, W)
    if arguments.loss == "released order":  # as its encoders give them
        regions, words = regions.transpose(1, 2).contiguous(), words.transpose(1, 2).contiguous()
    inputs = (regions.requires_grad_(), words.requires_grad_())
    losses: dict[str, Callable[[], Any]] = {
        "ours": lambda: gloria_local(*inputs, mask),
        "plain": lambda: plain(*inputs, lengths.tolist()),
        "released order": lambda: released_order(*inputs, lengths.tolist()),
    }
    call = losses[arguments.loss]
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    forward, whole = [], []
    for _ in range(arguments.steps + 1):  # the first one warms up
        start = time.perf_counter()
        loss = call()
        middle = time.perf_counter()
        gradients = torch.autograd.grad(loss, inputs)
        whole.append(time.perf_counter() - start)
        forward.append(middle - start)
    return {
        "loss": float(loss.detach()),
        "gradient": float(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt()),
        "forward": min(forward[1:]),
        "whole": min(whole[1:]),
        "memory_gb": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**30,
        "threads": torch.get_num_threads(),
        "kept": kept,
    }


def main() -> None:
    """Measure all losses and print them side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--regions", type=int, default=361)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--words", type=int, nargs=2, default=(30, 60), metavar=("LEAST", "MOST"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 for torch's choice")
    parser.add_argument("--loss", choices=LOSSES, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.loss:
        print(json.dumps(measure(arguments)))
        return
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for keep, loss in [(keep, loss) for keep in (False, True) for loss in LOSSES] * ROUNDS:
        command = [sys.executable, __file__, *sys.argv[1:], "--loss", loss, *(["--keep"] if keep else [])]
        one = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        before = found.get((loss, keep), one)
        if one["whole"] <= before["whole"]:
            found[loss, keep] = one
    first = found["ours", False]
    print(
        f"B {arguments.batch}, {arguments.regions} regions of {arguments.width}, {arguments.words[0]} to"
        f" {arguments.words[1]} words, {first['threads']} threads; least of {ROUNDS} x {arguments.steps} steps"
    )
    for keep in (False, True):
        print(f"\nmemory {'kept' if keep else 'given back'}")
        print(
            f"{'':16}{'forward, s':>12}{'both, s':>12}{'ratio':>8}{'peak, GB':>10}{'loss':>12}{'gradient':>12}"
        )
        for loss in LOSSES:
            one = found[loss, keep]
            ratio = one["whole"] / found["ours", keep]["whole"]
            print(
                f"{loss:16}{one['forward']:12.3f}{one['whole']:12.3f}{ratio:8.2f}{one['memory_gb']:10.2f}"
                f"{one['loss']:12.6f}{one['gradient']:12.6f}"
            )


if __name__ == "__main__":
    main()
