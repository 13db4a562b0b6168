import dataclasses
from pathlib import Path

import pytest
import torch
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertModel

from medbench.errors import UsageError, WeightsError
from medbench.method import Setup
from medbench.model import TextBatch
from medbench_methods.modules.text_encoder import (
    TextConfig,
    TextEncoder,
    TextPooling,
    build_text,
    rebuild_text,
)

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
    text_max_tokens=80,
)
OFFLINE_FOLDER = TextConfig(text_layers=2, text_max_tokens=40)


def built() -> tuple[TextEncoder, TextBatch]:
    torch.manual_seed(0)
    encoder, tokenizer = build_text(CONFIG, REPORTS * 3, Setup(offline=True))
    return encoder.eval(), tokenizer(REPORTS)


def test_words_are_sums_of_their_pieces() -> None:
    encoder, text = built()
    with torch.no_grad():
        features = encoder(text)
        hidden = encoder.bert(text.ids, attention_mask=text.mask.long()).last_hidden_state
    pieces_a_word = []
    for b in range(len(REPORTS)):
        words = " ".join(REPORTS[b]).split()
        assert features.mask[b].sum() == len(words)
        assert features.mask[b, : len(words)].all()
        for w in range(features.local.shape[1]):
            members = [t for t in range(text.ids.shape[1]) if text.word[b, t] == w]
            pieces_a_word.append(len(members))
            total = sum((hidden[b, t] for t in members), torch.zeros(32))
            torch.testing.assert_close(features.local[b, w], total, rtol=1e-4, atol=1e-5)
            sentence = int(text.sentence[b, members[0]]) if members else -1
            assert features.sentence[b, w] == sentence
    assert max(pieces_a_word) > 1
    torch.testing.assert_close(features.pooled, hidden[:, 0], rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_the_last_layer_summed_over_pieces() -> None:
    encoder, text = built()
    eager = BertModel(BertConfig.from_dict(encoder.bert.config.to_dict()), add_pooling_layer=False).eval()
    eager.set_attn_implementation("eager")
    eager.load_state_dict(encoder.bert.state_dict())
    with torch.no_grad():
        features = encoder(text)
        last = eager(text.ids, attention_mask=text.mask.long(), output_attentions=True).attentions[-1]
    row = last.mean(1)[:, 0]  # (B, T), of [CLS]
    assert features.attention is not None
    for b in range(len(REPORTS)):
        for w in range(features.local.shape[1]):
            total = sum((row[b, t] for t in range(row.shape[1]) if text.word[b, t] == w), torch.tensor(0.0))
            torch.testing.assert_close(features.attention[b, w], total, rtol=1e-4, atol=1e-6)


def test_padding_does_not_matter() -> None:
    encoder, text = built()
    longer = TextBatch(
        torch.nn.functional.pad(text.ids, (0, 5), value=7),
        torch.nn.functional.pad(text.mask, (0, 5)),
        torch.nn.functional.pad(text.word, (0, 5), value=-1),
        torch.nn.functional.pad(text.sentence, (0, 5), value=-1),
    )
    with torch.no_grad():
        short, long = encoder(text), encoder(longer)
    n = short.local.shape[1]
    assert long.local.shape[1] == n + 5
    assert not long.mask[:, n:].any()
    for field in ("pooled", "local", "mask", "sentence", "attention"):
        a, b = getattr(short, field), getattr(long, field)
        torch.testing.assert_close(a, b if field == "pooled" else b[:, :n], rtol=1e-4, atol=1e-5)


def test_the_mean_is_over_all_tokens_that_are_there() -> None:
    encoder, text = built()
    with torch.no_grad():
        hidden = encoder.bert(text.ids, attention_mask=text.mask.long()).last_hidden_state
        encoder.pooling = "mean"
        pooled = encoder(text).pooled
    for b in range(len(REPORTS)):
        torch.testing.assert_close(pooled[b], hidden[b, text.mask[b]].mean(0), rtol=1e-4, atol=1e-5)


def test_the_largest_is_over_all_tokens_that_are_there() -> None:
    encoder, text = built()
    with torch.no_grad():
        hidden = encoder.bert(text.ids, attention_mask=text.mask.long()).last_hidden_state
        encoder.pooling = "max"
        pooled = encoder(text).pooled
    for b in range(len(REPORTS)):
        torch.testing.assert_close(pooled[b], hidden[b, text.mask[b]].amax(0), rtol=1e-4, atol=1e-5)


def test_layers_are_summed_for_words_and_for_the_first_token() -> None:
    encoder, text = built()
    with torch.no_grad():
        encoder.summed = 2
        states = encoder.bert(
            text.ids, attention_mask=text.mask.long(), output_hidden_states=True
        ).hidden_states
        features = encoder(text)
    hidden = states[-1] + states[-2]
    torch.testing.assert_close(features.first, hidden[:, 0], rtol=1e-4, atol=1e-5)
    for b in range(len(REPORTS)):
        for w in range(int(features.mask[b].sum())):
            torch.testing.assert_close(
                features.local[b, w], hidden[b, text.word[b] == w].sum(0), rtol=1e-4, atol=1e-5
            )


def test_order_of_the_words_matters() -> None:
    encoder, text = built()
    swapped = text.ids.clone()
    swapped[0, [1, 2]] = swapped[0, [2, 1]]
    with torch.no_grad():
        a, b = encoder(text).pooled[0], encoder(dataclasses.replace(text, ids=swapped)).pooled[0]
    assert (a - b).abs().max() > 1e-4  # rounding makes 1e-6


def test_no_parameter_is_left_without_gradient() -> None:
    encoder, text = built()
    features = encoder(text)
    (features.pooled.square().sum() + features.local.square().sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_rebuilt_from_its_assets_it_is_the_same() -> None:
    encoder, text = built()
    _, tokenizer = build_text(CONFIG, REPORTS * 3, Setup(offline=True))
    again, tokenizer_again = rebuild_text(CONFIG, encoder.to_bytes(), tokenizer.to_bytes())
    again.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(text).pooled, encoder(text).pooled, rtol=0, atol=0)
    assert tokenizer_again.to_bytes() == tokenizer.to_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT of three layers as it lies on a disk: config, weights, vocabulary, nothing else."""
    torch.manual_seed(1)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "size", "is", "nor", "##mal", "no"]
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=48,
    )
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    return tmp_path


def test_a_folder_gives_its_first_layers_and_its_tokenizer(folder: Path) -> None:
    config = dataclasses.replace(OFFLINE_FOLDER, text_encoder=str(folder))
    encoder, tokenizer = build_text(config, [], Setup(offline=True))
    whole = BertModel.from_pretrained(folder).state_dict()
    state = encoder.bert.state_dict()
    assert len(encoder.bert.encoder.layer) == 2
    assert not any(name.startswith("pooler") for name in state)
    for name, value in state.items():
        torch.testing.assert_close(value, whole[name])
    batch = tokenizer([["Heart size is normal"]])
    assert batch.ids.tolist() == [[2, 5, 6, 7, 8, 9, 3]]
    assert batch.word.tolist() == [[-1, 0, 1, 2, 3, 3, -1]]
    assert encoder(batch).pooled.shape == (1, 16)
    again, _ = rebuild_text(config, encoder.to_bytes(), tokenizer.to_bytes())
    again.load_state_dict(encoder.state_dict())


def test_neither_folder_nor_hub_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = r"'emilyalsentzer/Bio_ClinicalBERT': looked .*\(offline\).*--set method.text_encoder=.*HF_HOME"
    with pytest.raises(WeightsError, match=message):
        build_text(TextConfig(), [], Setup(offline=True))
    missing = dataclasses.replace(OFFLINE_FOLDER, text_encoder=str(tmp_path / "nowhere"))
    with pytest.raises(WeightsError, match="nowhere"):
        build_text(missing, [], Setup(offline=True))


def test_a_folder_without_weights_or_vocabulary_is_an_error(folder: Path) -> None:
    config = dataclasses.replace(OFFLINE_FOLDER, text_encoder=str(folder))
    (folder / "vocab.txt").rename(folder / "hidden.txt")
    with pytest.raises(WeightsError, match=r"has 5 word-pieces, but its embedding has 11.*vocab.txt"):
        build_text(config, [], Setup(offline=True))
    (folder / "hidden.txt").rename(folder / "vocab.txt")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="not found"):
        build_text(config, [], Setup(offline=True))


def test_weights_that_do_not_cover_the_model_are_an_error(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = dataclasses.replace(OFFLINE_FOLDER, text_encoder=str(folder))
    with pytest.raises(WeightsError, match=r"lacks 1 of .* \(first: .*layer.1.output.dense.weight"):
        build_text(config, [], Setup(offline=True))


def test_asking_for_more_than_there_is_is_an_error(folder: Path) -> None:
    config = dataclasses.replace(OFFLINE_FOLDER, text_encoder=str(folder))
    with pytest.raises(UsageError, match=r"text_layers is 6, but .* has 3 layers"):
        build_text(dataclasses.replace(config, text_layers=6), [], Setup(offline=True))
    with pytest.raises(UsageError, match=r"text_max_tokens is 112, but .* has 48 positions"):
        build_text(dataclasses.replace(config, text_max_tokens=112), [], Setup(offline=True))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("summed", [1, 2])
def test_taking_tokens_without_their_padding_changes_nothing(
    pooling: TextPooling, summed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [
        ["opacity"],
        *REPORTS,
        [word for report in REPORTS for sentence in report for word in sentence.split()],
    ]
    config = dataclasses.replace(CONFIG, text_pooling=pooling, text_summed_layers=summed, text_dropout=0.0)
    torch.manual_seed(0)
    encoder, tokenizer = build_text(config, long * 3, Setup(offline=True))
    encoder, text = encoder.double().train(), tokenizer(long * 4)
    assert not text.mask.all()

    def features_and_gradients() -> list[torch.Tensor]:
        features = encoder(text)
        assert features.attention is not None
        total = features.pooled.square().sum() + features.local.sin().sum()
        gradients = torch.autograd.grad(total, list(encoder.parameters()))
        return [*(getattr(features, f.name) for f in dataclasses.fields(features)), *gradients]

    padded = features_and_gradients()
    monkeypatch.setattr("medbench_methods.modules.text_encoder.PACKED_WIDTH", 0)
    widest = 0

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal widest
        widest = max(widest, inputs[0].shape[:2].numel())

    with encoder.bert.encoder.layer[0].register_forward_pre_hook(look):
        packed = features_and_gradients()
    assert widest == text.mask.sum() < text.mask.numel()
    for one, other in zip(padded, packed, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)
