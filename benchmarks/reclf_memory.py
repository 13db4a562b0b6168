"""Memory of RECLF's matchings: peak of one forward and backward pass over all image-report pairs of a batch.

    python benchmarks/reclf_memory.py
    python benchmarks/reclf_memory.py --pairs 48 --regions 361 --words 60 --chunk 8 --keep

At the widths of `paper`. Embeddings are noise: memory depends on shapes only. With `--keep` matchings are kept for the
backward pass instead of being made again, for comparison; that takes tens of GB.
"""

import argparse
import dataclasses
import resource
import time

import torch
import torch.nn.functional as F

from medbench_methods.losses.score_contrast import score_contrast
from medbench_methods.reclf import PairScores, Reclf


def peak_gb() -> float:
    """Most memory this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    config = Reclf.recipes["paper"].config
    parser.add_argument("--pairs", type=int, default=48)
    parser.add_argument("--regions", type=int, default=361)
    parser.add_argument("--words", type=int, default=60)
    parser.add_argument("--chunk", type=int, default=config.chunk)
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = dataclasses.replace(config, chunk=arguments.chunk, recompute=not arguments.keep)
    module = PairScores(config)

    def units(*shape: int) -> torch.Tensor:
        return F.normalize(torch.randn(arguments.pairs, *shape, config.embed), dim=-1).requires_grad_()

    regions, words = units(arguments.regions), units(arguments.words)
    image, report = units(), units()
    lengths = torch.linspace(arguments.words / 2, arguments.words, arguments.pairs).round()
    mask = torch.arange(arguments.words)[None] < lengths[:, None]
    before, start = peak_gb(), time.perf_counter()
    scores = module(regions, image, words, mask, report)
    loss = torch.stack([score_contrast(s, temperature=config.temperature) for s in scores.values()]).sum()
    forward, middle = peak_gb(), time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    print(
        f"RECLF, {arguments.pairs} x {arguments.pairs} pairs, {arguments.regions} regions and {arguments.words} words"
        f" of {config.embed}, matchings of {config.matching_width}, {arguments.chunk} reports at a time,"
        f" {'kept' if arguments.keep else 'recomputed'}, {torch.get_num_threads()} threads"
    )
    print(f"peak memory, GB: before {before:.2f}, forward {forward:.2f}, with backward {peak_gb():.2f}")
    print(f"seconds: forward {middle - start:.1f}, backward {end - middle:.1f}")


if __name__ == "__main__":
    main()
