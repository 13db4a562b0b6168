import torch

from medbench_methods.modules.word_aggregation import aggregate_words

B, T, D = 5, 9, 3
WORDS = (
    (0, 1, 1, 1, 2, 3, 3),  # full: every token between [CLS] and [SEP] is taken
    (0, 1, 2),  # padded, a word a piece
    (0, 0),  # one word of two pieces
    (0,),
    (),  # an empty report
)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(B, T, D, generator=generator, dtype=torch.float64).requires_grad_()
    attention = torch.rand(B, T, generator=generator, dtype=torch.float64)
    word = torch.full((B, T), -1)
    for b, row in enumerate(WORDS):
        word[b, 1 : 1 + len(row)] = torch.tensor(row, dtype=torch.int64)
    sentence = torch.where(word < 0, word, word // 2)
    return hidden, attention, word, sentence


def test_equals_the_loop_in_value_and_gradient() -> None:
    hidden, attention, word, sentence = example()
    slots = T - 2
    words = aggregate_words(hidden, attention, word, sentence, slots)
    rows, weights = [], []
    for b, row in enumerate(WORDS):
        for w in range(slots):
            total, weight = torch.zeros(D, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
            for t, belongs in enumerate(row):
                if belongs == w:
                    total = total + hidden[b, 1 + t]
                    weight = weight + attention[b, 1 + t]
            rows.append(total)
            weights.append(weight)
            assert words.mask[b, w].item() is (w in row)
            assert words.sentence[b, w] == (w // 2 if w in row else -1)
    loop = torch.stack(rows).view(B, slots, D)
    torch.testing.assert_close(words.local, loop, rtol=0, atol=1e-14)
    torch.testing.assert_close(words.attention, torch.stack(weights).view(B, slots), rtol=0, atol=1e-14)
    given = torch.randn(B, slots, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (fast,) = torch.autograd.grad((words.local * given).sum(), hidden)
    (slow,) = torch.autograd.grad((loop * given).sum(), hidden)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-14)


def test_words_beyond_the_slots_are_left_out() -> None:
    hidden, attention, word, sentence = example()
    all_of_them = aggregate_words(hidden, attention, word, sentence, T - 2)
    some = aggregate_words(hidden, attention, word, sentence, 2)
    assert some.local.shape == (B, 2, D)
    torch.testing.assert_close(some.local, all_of_them.local[:, :2], rtol=0, atol=0)


def test_half_precision_stays_half_precision() -> None:
    hidden, attention, word, sentence = example()
    words = aggregate_words(hidden.bfloat16(), attention.float(), word, sentence, T - 2)
    assert words.local.dtype == torch.bfloat16
    assert words.attention.dtype == torch.float32
