"""Time of one pretraining step, by part, in fp32 and bf16, with and without kept memory.

    python benchmarks/pretrain_step.py --method place --recipe tiny
    python benchmarks/pretrain_step.py --method clip --recipe micro --steps 20 --device cuda
    python benchmarks/pretrain_step.py --method clip --recipe tiny --compile

Films are noise and reports are drawn from a few words: the time of a step depends on shapes only. Each combination runs
in processes of its own, because kept memory can not be given up again. The least time over the steps is printed for
each part, since anything else that runs on the machine only adds to it. A dash is a part that a method has none of, or
does within its losses: `mrm` reads a report only together with a film. With `--compile` the losses, encoders included,
are measured as they are and compiled, as `pretrain.compile` has it; how long the first step took stands below.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PARTS = ("data", "image encoder", "text encoder", "losses", "backward", "optimiser")
ROUNDS = 2  # over all combinations, so that a busy minute does not fall on one of them alone
WORDS = ("heart", "lungs", "effusion", "is", "are", "no", "small", "large", "left", "lower", "zone", "clear")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One combination, in this process."""
    import numpy as np
    import pandas as pd
    import torch

    from medbench import devices, memory
    from medbench.data.index import Index
    from medbench.data.pairs import Pairs, TrainingBatches, read_reports
    from medbench.data.prepared import PreparedImages
    from medbench.method import Setup
    from medbench.model import ImageTextBatch
    from medbench.plugins import load_catalogue

    device = devices.resolve_device(arguments.device)
    kept = arguments.keep and memory.keep_freed_memory()
    method_class = load_catalogue().load("methods", arguments.method)
    recipe = method_class.recipes[arguments.recipe]
    config = recipe.pretrain
    if config is None:
        raise SystemExit(f"{arguments.method}: the recipe {arguments.recipe} has no pretraining to measure.")
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    n = config.batch_size * 2
    lines = [" ".join(draw.choice(WORDS, 8)) + "." for _ in range(n * 6)]
    reports = [" ".join(lines[i * 6 : (i + 1) * 6]) for i in range(n)]
    table = pd.DataFrame({"sample": [str(i) for i in range(n)], "report": reports})
    index = Index("noise", Path(), "phantom", table)
    texts = read_reports(index, np.arange(n))
    method = method_class.from_corpus(recipe.config, texts.sentences, Setup(offline=True))
    vectors = method.report_vectors(texts.sentences)
    method = method.to(device, memory_format=torch.channels_last).train()  # as the engine does
    model = method.model
    side, size = (
        length * method.film_scale for length in (model.preprocessing.resize, model.preprocessing.size)
    )
    seconds: dict[str, list[float]] = defaultdict(list)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    @contextmanager
    def part(name: str) -> Iterator[None]:
        wait()
        start = time.perf_counter()
        yield
        wait()
        seconds[name].append(time.perf_counter() - start)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            with part(name):
                return call(*args, **named)

        return run

    losses = method.losses
    if arguments.compiled:
        losses = torch.compile(method.losses, fullgraph=True, options={"fallback_random": True})
    else:  # a clock is nothing to compile
        model.encode_image = timed("image encoder", model.encode_image)
        model.encode_text = timed("text encoder", model.encode_text)
        encoder = model.image_encoder  # asked itself where some of the patches are hidden
        encoder.encode_visible = timed("image encoder", encoder.encode_visible)
    optimiser = torch.optim.AdamW(
        [p for p in method.parameters() if p.requires_grad],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    with TemporaryDirectory() as folder:
        films = np.lib.format.open_memmap(Path(folder) / "films.npy", "w+", np.uint8, (n, side, side))
        films[:] = draw.integers(0, 256, films.shape, dtype=np.uint8)
        prepared = PreparedImages(films, np.full((n, 2), side), "")
        batches = TrainingBatches(
            Pairs(texts, prepared, model, vectors, scale=method.film_scale),
            0,
            config.batch_size,
            pin=device.type == "cuda",
        )
        for step in range(arguments.steps + 2):  # the first two warm up
            if step == 2:
                first = seconds["whole step"][0]
                seconds.clear()
            with part("whole step"):
                with part("data"):
                    batch = batches.batch(step, 0).to(device)
                    images = model.preprocessing.normalise(batch.films(size))
                    images = images.contiguous(memory_format=torch.channels_last)
                with part("forward"), devices.autocast(device, arguments.precision):
                    terms = losses(ImageTextBatch(images, batch.text, batch.report_vectors), 0)
                with part("backward"):
                    torch.stack([term.float() for term in terms.values()]).sum().backward()
                with part("optimiser"):
                    optimiser.step()
                    optimiser.zero_grad()
    best = {name: min(values) for name, values in seconds.items()}
    encoders = sum(best.get(name, 0.0) for name in ("image encoder", "text encoder"))
    best["losses"] = best["forward"] - encoders
    return {
        "batch": config.batch_size,
        "side": model.preprocessing.size,
        "threads": torch.get_num_threads(),
        "device": devices.describe(device)["name"],
        "kept": kept,
        "first": first,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "parameters": sum(p.numel() for p in method.parameters()),
        "seconds": best,
    }


def alone(*choice: str) -> dict[str, Any]:
    """What one combination comes to, in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", *choice]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


def compare_compiled(arguments: argparse.Namespace) -> None:
    """Measure the losses as they are and compiled, turn by turn, and print the ratio."""
    pairs = [(alone(), alone("--compiled")) for _ in range(ROUNDS)]
    eager, compiled = (
        min(found, key=lambda one: one["seconds"]["whole step"]) for found in zip(*pairs, strict=True)
    )
    print(
        f"{arguments.method} {arguments.recipe}: batch {eager['batch']}, {eager['side']} px, {eager['device']},"
        f" {eager['threads']} threads, float32; ms, least of {ROUNDS} x {arguments.steps} steps"
    )
    for name in ("data", "forward", "backward", "optimiser", "whole step"):
        print(f"{name:16}" + "".join(f"{1e3 * one['seconds'][name]:14.1f}" for one in (eager, compiled)))
    ratio = compiled["seconds"]["whole step"] / eager["seconds"]["whole step"]
    print(
        f"compiled / as it is: {ratio:.2f}; first step {eager['first']:.1f} s and {compiled['first']:.1f} s"
    )


def main() -> None:
    """Measure all combinations and print them side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="place")
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--precision", default="32", help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--compile", action="store_true", help="as it is and compiled, in float32")
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    if arguments.compile:
        compare_compiled(arguments)
        return
    combinations = [("32", False), ("bf16", False)]
    if arguments.device == "cpu":
        combinations += [("32", True), ("bf16", True)]
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for precision, keep in combinations * ROUNDS:
        one = alone("--precision", precision, *(["--keep"] if keep else []))
        before = found.get((precision, keep), one)
        if one["seconds"]["whole step"] <= before["seconds"]["whole step"]:
            found[precision, keep] = one
    first = found["32", False]
    print(
        f"{arguments.method} {arguments.recipe}: {first['parameters'] / 1e6:.1f} M parameters, batch {first['batch']},"
        f" {first['side']} px, {first['device']}, {first['threads']} threads; ms, least of"
        f" {ROUNDS} x {arguments.steps} steps"
    )
    heads = [f"{precision}{', kept' if keep else ''}" for precision, keep in found]
    print(f"{'':16}" + "".join(f"{head:>14}" for head in heads))
    for name in (*PARTS, "whole step"):
        seconds = [one["seconds"].get(name) for one in found.values()]
        print(f"{name:16}" + "".join(f"{'-':>14}" if s is None else f"{1e3 * s:14.1f}" for s in seconds))
    print(
        f"{'pairs/s':16}"
        + "".join(f"{o['batch'] / o['seconds']['whole step']:14.1f}" for o in found.values())
    )
    print(f"{'peak memory, GB':16}" + "".join(f"{one['peak_gb']:14.2f}" for one in found.values()))
    whole = {key: one["seconds"]["whole step"] for key, one in found.items()}
    for keep in sorted({keep for _, keep in whole}):
        memory = "kept memory" if keep else "memory given back"
        print(f"bf16 / fp32, {memory}: {whole['bf16', keep] / whole['32', keep]:.2f}")
    for precision in ("32", "bf16"):
        if (precision, True) in whole:
            print(f"kept / given back, {precision}: {whole[precision, True] / whole[precision, False]:.2f}")


if __name__ == "__main__":
    main()
