import dataclasses

import pytest
import torch
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import Setup
from medbench.model import TextBatch
from medbench_methods.modules.mgca_text import MgcaTextEncoder
from medbench_methods.modules.text_encoder import TextConfig, build_text

TOKENS = 16
REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax seen today at all"],
    ["opacity"],
    [],
]
CONFIG = TextConfig(
    text_encoder="scratch",
    text_layers=2,
    text_width=32,
    text_heads=4,
    text_vocabulary=60,  # small, so that words fall into pieces
    text_max_tokens=TOKENS,
)


def built(config: TextConfig = CONFIG) -> tuple[MgcaTextEncoder, TextBatch]:
    torch.manual_seed(0)
    encoder, tokenizer = build_text(config, REPORTS * 3, Setup(offline=True))
    return MgcaTextEncoder(encoder.bert, config).eval(), tokenizer(REPORTS)


def slots(text: TextBatch, row: int) -> list[list[int]]:
    """The tokens of each word slot, token by token; the loop sees all but the last of a full report."""
    found: list[list[int]] = []
    open_word: list[int] = []
    number = None
    length = int(text.mask[row].sum())
    for t in range(1, min(length, TOKENS - 1)):
        word = int(text.word[row, t])
        if word != number and open_word:
            found.append(open_word)
            open_word = []
        open_word, number = [*open_word, t], word
        if t == length - 1:  # [SEP]
            found.append(open_word)
    return found


def test_the_product_is_the_loop() -> None:
    encoder, text = built()
    assert int(text.mask[1].sum()) == TOKENS  # full length
    outputs: list[Tensor] = []
    hook = encoder.bert.encoder.layer[-1].register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.no_grad():
        features = encoder(text)
    hook.remove()
    (hidden,) = outputs
    assert features.attention is not None
    assert features.local.shape == (len(REPORTS), TOKENS - 1, 32)
    sizes = set()
    for b in range(len(REPORTS)):
        words = slots(text, b)
        for s in range(TOKENS - 1):
            members = words[s] if s < len(words) else []
            sizes.add(len(members))
            total = sum((hidden[b, t] for t in members), torch.zeros(32))
            torch.testing.assert_close(features.local[b, s], total, rtol=1e-4, atol=1e-5)
            assert bool(features.mask[b, s]) is bool(members)
    assert max(sizes) > 1
    torch.testing.assert_close(features.pooled, hidden[:, 0])
    # One word and [SEP]; [SEP] alone.
    assert features.mask.sum(1)[2:].tolist() == [2, 1]
    assert features.sentence[2, :2].tolist() == [0, -1]


def test_a_full_report_loses_its_last_word_and_the_separator() -> None:
    encoder, text = built()
    full, short = 1, 2
    last = int(text.word[full].max())
    slot = encoder.slots_of(text)
    assert slot[full].max() == last - 1
    assert slot[full, -1] == -1
    assert slot[short].max() == text.word[short].max() + 1  # [SEP]


def test_a_token_gets_the_attention_of_the_next_one() -> None:
    encoder, text = built()
    seen: list[Tensor] = []
    row = encoder._cls_attention
    encoder._cls_attention = lambda hidden, mask: seen.append(row(hidden, mask)) or seen[0]  # type: ignore
    with torch.no_grad():
        features = encoder(text)
    assert features.attention is not None
    for b in range(len(REPORTS)):
        for s, members in enumerate(slots(text, b)):
            total = sum(seen[0][b, t + 1].item() if t + 1 < text.ids.shape[1] else 0.0 for t in members)
            assert features.attention[b, s].item() == pytest.approx(total, abs=1e-6)
        separator = int(text.mask[b].sum()) - 1
        if separator < TOKENS - 1:
            assert features.attention[b, len(slots(text, b)) - 1] == 0


def test_the_order_of_the_words_is_not_seen() -> None:
    encoder, text = built()
    swapped = text.ids.clone()
    swapped[0, [1, 2]] = swapped[0, [2, 1]]
    assert not torch.equal(swapped, text.ids)
    with torch.no_grad():
        a, b = encoder(text).pooled[0], encoder(dataclasses.replace(text, ids=swapped)).pooled[0]
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_position_0_learns_and_token_types_do_not() -> None:
    encoder, text = built()
    features = encoder(text)
    (features.pooled.square().sum() + features.local.square().sum()).backward()
    embeddings = encoder.bert.embeddings
    gradient = embeddings.position_embeddings.weight.grad
    assert gradient is not None
    assert gradient[0].abs().max() > 0
    assert gradient[1:].abs().max() == 0
    assert not embeddings.token_type_embeddings.weight.requires_grad
    assert embeddings.token_type_embeddings.weight.abs().max() == 0


@pytest.mark.parametrize(("field", "value"), [("text_pooling", "mean"), ("text_summed_layers", 2)])
def test_what_the_released_code_does_not_have_is_refused(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"method.{field} is {value}; with method.compat=true expected"):
        built(dataclasses.replace(CONFIG, **{field: value}))
