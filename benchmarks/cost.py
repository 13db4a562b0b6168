"""What the full benchmark would cost: cells, operations and GPU-hours of the recipe `paper`, by arithmetic.

    python benchmarks/cost.py
    python benchmarks/cost.py --teraflops 400 --used 0.3

Pretrainings, the GPU and the share of its peak are those of `medbench plan` (benchmark/medbench/cost.py). Operations of
encoders are counted on tensors without numbers (torch's `FlopCounterMode`; multiplying and adding are two); all else is
what recipes and datasets declare. Nothing is measured of a GPU; what is left out is said in docs/scale.md.
"""

import argparse
import sys
from collections import defaultdict

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from medbench.cost import PEAK_TFLOPS, PRETRAIN_GFLOP, REACHED
from medbench.plugins import load_catalogue

SEEDS = 3
STEP = 3  # operations of a step over those of a forward pass: backwards is two
EPOCHS = 50  # of every protocol that trains films; stopping early is not counted
TRAIN = 0.7  # of a dataset's films


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--teraflops", type=float, default=PEAK_TFLOPS, help="a GPU's peak; default: an A100's in bf16"
    )
    parser.add_argument("--used", type=float, default=REACHED, help="of the peak; an assumption")
    options = parser.parse_args()
    catalogue, flops = load_catalogue(third_party=False), defaultdict(float)
    methods = [spec for spec in catalogue.methods.values() if not spec.released_only]
    pairs = catalogue.datasets["mimic_cxr"].official_size
    for spec in methods:
        if spec.pretrains:
            recipe = catalogue.load("methods", spec.name).recipes["paper"]
            own = pairs * recipe.pretrain.epochs * PRETRAIN_GFLOP[spec.name, "paper"] * 1e9
            say(f"{spec.name:9} {recipe.pretrain.epochs:4} epochs, pretraining {own / 1e18:7.2f} E")
            flops["pretraining"] += SEEDS * own
    cells = defaultdict(int)
    forward = image_forward("resnet50", 224)
    for task in catalogue.tasks.values():
        films = None if task.family else catalogue.datasets[task.dataset].official_size
        if films is None:
            continue
        kind = task.name.split("@")[0].rsplit("_", 1)[1]
        able = sum(task.needs <= spec.provides for spec in methods)
        cells[kind] += able * SEEDS * len(task.fractions or (1.0,))
        work = films * forward * able * SEEDS
        if kind in ("ft", "det", "seg"):
            side = 416 if kind == "det" else 512 if "512" in task.name else 224
            step = (STEP if task.name.endswith("_ft") else 1) * forward * (side / 224) ** 2
            work += EPOCHS * TRAIN * films * sum(task.fractions) * step * able * SEEDS
        flops[kind] += work
    say("")
    for kind, work in flops.items():
        hours = work / (options.teraflops * 1e12 * options.used) / 3600
        say(f"{kind:12} {cells[kind]:6,} cells {work / 1e18:10,.2f} E {hours:10,.0f} GPU-hours")
    total = sum(flops.values()) / (options.teraflops * 1e12 * options.used) / 3600
    say(
        f"{'all':12} {sum(cells.values()):6,} cells {sum(flops.values()) / 1e18:10,.2f} E {total:10,.0f} GPU-hours"
    )
    for gpus in (1, 8, 64):
        say(f"{gpus:3} GPUs: {total / gpus / 24:8,.1f} days, if none of them waits")
    return 0


def image_forward(backbone: str, side: int) -> float:
    """Operations of one film through an encoder."""
    with torch.device("meta"):
        model = timm.create_model(backbone, num_classes=0).eval()
        return counted(lambda: model(torch.empty(1, 3, side, side)))


def counted(work) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    raise SystemExit(main())
