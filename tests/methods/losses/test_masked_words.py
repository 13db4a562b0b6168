import math

import pytest
import torch
from torch import Tensor

from medbench_methods.losses.masked_words import masked_words


def twin(logits: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """The sum of the equation, one position at a time."""
    total, count = logits.new_zeros(()), 0
    for b in range(logits.shape[0]):
        for t in range(logits.shape[1]):
            if hidden[b, t]:
                exponentials = [torch.exp(logits[b, t, v]) for v in range(logits.shape[2])]
                total = total - torch.log(exponentials[int(target[b, t])] / sum(exponentials))
                count += 1
    return total / max(count, 1)


def example(batch: int, tokens: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, tokens, vocabulary, generator=generator, dtype=torch.float64)
    target = torch.randint(vocabulary, (batch, tokens), generator=generator)
    return logits.requires_grad_(), target


@pytest.mark.parametrize(
    "hidden",
    [
        [[True, False, True, False, False], [False] * 5],  # padded, and a report without a hidden word
        [[False, True, False, False, False]] * 2,  # one word each
        [[True] * 5, [True] * 5],  # all of them
        [[False] * 5, [False] * 5],  # none
    ],
)
def test_equals_the_loop_in_value_and_gradient(hidden: list[list[bool]]) -> None:
    logits, target = example(2, 5, 7)
    which = torch.tensor(hidden)
    fast, slow = masked_words(logits, target, which), twin(logits, target, which)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    one, two = (
        torch.autograd.grad(loss, logits, allow_unused=True)[0] if loss.requires_grad else None
        for loss in (fast, slow)
    )
    torch.testing.assert_close(
        torch.zeros_like(logits) if one is None else one,
        torch.zeros_like(logits) if two is None else two,
        rtol=1e-10,
        atol=1e-12,
    )


def test_a_list_of_positions_will_do() -> None:
    logits, target = example(2, 5, 7)
    hidden = torch.tensor([[True, False, True, False, False], [False, True, False, False, False]])
    picked = masked_words(logits[hidden], target[hidden], torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(picked, masked_words(logits, target, hidden))


def test_knowing_nothing_costs_the_log_of_the_vocabulary() -> None:
    loss = masked_words(torch.zeros(3, 4, 11), torch.zeros(3, 4, dtype=torch.int64), torch.ones(3, 4).bool())
    assert loss.item() == pytest.approx(math.log(11), rel=1e-6)


def test_full_precision_under_autocast() -> None:
    logits, target = example(2, 5, 7)
    hidden = torch.ones(2, 5, dtype=torch.bool)
    plain = masked_words(logits.float(), target, hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(masked_words(logits.float(), target, hidden), plain, rtol=0, atol=0)
        assert masked_words(logits.bfloat16(), target, hidden).dtype == torch.float32
