"""What a pretraining costs that nothing like it was timed for: operations that were counted, and a GPU that is assumed.

It is an estimate, and says so wherever it is printed.
"""

from typing import Final

PRETRAIN_GFLOP: Final[dict[tuple[str, str], float]] = {
    ("clip", "paper"): 63.9,
    ("convirt", "paper"): 49.6,
    ("gloria", "paper"): 53.9,
    ("mflag", "paper"): 36.8,
    ("mgca", "paper"): 70.5,
    ("mrm", "paper"): 60.2,
    ("place", "paper"): 76.6,
    ("reclf", "paper"): 95.9,
    ("sista", "paper"): 82.8,
}
"""By method and recipe, GFLOP of a film and its report, forward and backward: counted by `benchmarks/step_flops.py`."""

PEAK_TFLOPS: Final = 312
"""Of one GPU, dense bf16: NVIDIA A100, by its data sheet."""

REACHED: Final = 0.3
"""The part of it that is assumed to be reached; nobody has measured it here."""

PAIRS: Final = 100_000
"""What costs are told for where the corpus is not there to be counted."""

ASSUMED: Final = (
    f"an estimate by counted operations: one A100 ({PEAK_TFLOPS} TFLOP/s in bf16) of which {REACHED:.0%} is assumed "
    "to be reached, and all epochs, though many stop early"
)


def gpu_hours(method: str, recipe: str, epochs: int, pairs: int) -> float | None:
    """Of a pretraining; None where its operations were not counted.

    Args:
        method: what is trained.
        recipe: and how.
        epochs: at most.
        pairs: of films and reports, in each epoch.
    """
    gflop = PRETRAIN_GFLOP.get((method, recipe))
    if gflop is None:
        return None
    return epochs * pairs * gflop * 1e9 / (PEAK_TFLOPS * 1e12 * REACHED) / 3600
