"""Word-pieces to words: the batched sum of `medbench_methods.modules.word_aggregation` against a loop over tokens.

    python benchmarks/word_aggregation.py [--reports 48] [--tokens 112] [--width 768] [--rounds 20] [--threads 2]

Forward and backward, turn by turn in one process; the least time of each, and their ratio. The loop is the one of
reference_mgca.py. Both sum hidden states and attention, and are checked to agree first.
"""

import argparse
import time
from collections.abc import Callable

import torch
from reference_mgca import token_loop
from step_inputs import captions, vocabulary
from torch import Tensor

from medbench.memory import keep_freed_memory
from medbench_methods.modules.word_aggregation import aggregate_words


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=112)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(options.tokens // 4, options.tokens + 1, (options.reports,), generator=generator)
    lengths[0] = options.tokens
    text = captions(lengths.tolist(), options.tokens)
    shape = (options.reports, options.tokens)
    hidden = torch.randn(*shape, options.width, generator=generator).requires_grad_()
    attention = torch.rand(shape, generator=generator)
    slots, names = options.tokens - 2, vocabulary()

    def batched() -> Tensor:
        return aggregate_words(hidden, attention, text.word, text.sentence, slots).local

    def loop() -> Tensor:
        return token_loop(hidden, attention, text.ids, names, options.tokens)[0]

    mask = aggregate_words(hidden, attention, text.word, text.sentence, slots).mask
    torch.testing.assert_close(batched()[mask], loop()[:, 1:-1][mask])  # its first slot is [CLS]
    times: dict[str, list[tuple[float, float]]] = {"batched": [], "loop": []}
    for _ in range(options.rounds):
        for name, work in (("batched", batched), ("loop", loop)):
            times[name].append(step(work, hidden))
    print(
        f"{options.reports} x {options.tokens} tokens of {options.width}, {options.threads} threads; ms, least of"
        f" {options.rounds}"
    )
    best = {name: (min(f for f, _ in all_), min(b for _, b in all_)) for name, all_ in times.items()}
    for name, (forward, backward) in best.items():
        print(f"{name:<8} forward {1e3 * forward:7.1f}  backward {1e3 * backward:7.1f}")
    print(f"loop / batched: {sum(best['loop']) / sum(best['batched']):.1f}")


def step(work: Callable[[], Tensor], hidden: Tensor) -> tuple[float, float]:
    """Seconds of the forward and of the backward pass."""
    hidden.grad = None
    start = time.perf_counter()
    words = work()
    middle = time.perf_counter()
    words.backward(words.detach())  # type: ignore[no-untyped-call]  # torch's own
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    main()
