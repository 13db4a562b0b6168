import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench_methods.convirt import Convirt, ConvirtConfig

REPORTS = [
    ["heart size is normal", "no pleural effusion", "lines are in place", "no pneumothorax"],
    ["small left effusion", "no pneumothorax"],
    ["opacity"],
]
MICRO: ConvirtConfig = Convirt.recipes["micro"].config


def build(**changes: Any) -> Convirt:
    torch.manual_seed(0)
    return Convirt.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 3, Setup(offline=True))


def batch_for(method: Convirt, reports: list[list[str]] = REPORTS) -> ImageTextBatch:
    images = torch.randn(len(reports), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(reports))


def test_the_term_is_the_weighted_sum_of_both_directions_over_plain_heads() -> None:
    method = build(full_report=True, text_pooling="max").eval()
    batch = batch_for(method)
    model, text = method.model, batch.text
    with torch.no_grad():
        hidden = model.text_encoder.bert(
            text.ids, attention_mask=text.mask.long()
        ).last_hidden_state.masked_fill(~text.mask[:, :, None], float("-inf"))
        pooled = (model.encode_image(batch.images).pooled, hidden.amax(1))
        units = []
        for head, features in zip((model.image_head, model.text_head), pooled, strict=True):
            inner = torch.relu(features @ head.expand.weight.T + head.expand.bias)
            units.append(F.normalize(inner @ head.reduce.weight.T + head.reduce.bias, dim=1))
        logits, own = units[0] @ units[1].T / 0.1, torch.arange(3)
        wanted = 0.75 * F.cross_entropy(logits, own) + 0.25 * F.cross_entropy(logits.T, own)
        losses = method.losses(batch, 0)
    assert list(losses) == ["contrast"]
    torch.testing.assert_close(losses["contrast"], wanted, rtol=1e-4, atol=1e-5)


def test_embeddings_and_lower_layers_are_not_trained() -> None:
    method = build(text_layers=3, text_frozen_layers=2)
    method.losses(batch_for(method), 0)["contrast"].backward()  # type: ignore[no-untyped-call]
    bert = "model.text_encoder.bert."
    still = tuple(f"{bert}{part}" for part in ("embeddings.", "encoder.layer.0.", "encoder.layer.1."))
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) is name.startswith(still), name
    assert any(name.startswith(f"{bert}encoder.layer.2.") for name, _ in method.named_parameters())


def test_a_sentence_is_drawn_anew_by_the_seed_of_the_step() -> None:
    method = build().eval()
    batch = batch_for(method)
    values = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        with torch.no_grad():
            values.append(method.losses(batch, 0)["contrast"].item())
    assert values[0] == values[1]
    assert len({round(value, 5) for value in values}) > 1


def test_films_are_changed_in_training_alone_and_where_it_is_asked_for() -> None:
    assert Convirt.recipes["paper"].config.augment
    assert not Convirt.recipes["tiny"].config.augment
    assert not MICRO.augment
    seen: list[Tensor] = []
    for augment, training in ((True, True), (True, False), (False, True)):
        method = build(augment=augment).train(training)
        real = method.model.encode_image

        def look(images: Tensor, real: Any = real) -> Any:
            seen.append(images)
            return real(images)

        method.model.encode_image = look  # type: ignore[method-assign, assignment]
        method.losses(batch_for(method), 0)
    batch = batch_for(build())
    assert [torch.equal(images, batch.images) for images in seen] == [False, True, True]


def test_a_step_is_one_graph() -> None:
    method = build(text_layers=2, text_frozen_layers=1, augment=True)
    batch = batch_for(method)

    def step(images: Tensor, text: TextBatch) -> Tensor:
        return method.losses(ImageTextBatch(images, text), 0)["contrast"]

    torch.manual_seed(0)
    plain = step(batch.images, batch.text)
    torch.manual_seed(0)
    traced = torch.compile(step, fullgraph=True, backend="eager")(batch.images, batch.text)
    torch.testing.assert_close(traced, plain, rtol=1e-4, atol=1e-4)


def test_whole_reports_are_encoded_up_to_the_most_tokens() -> None:
    method = build(text_max_tokens=8).eval()
    long = method.model.tokenize(REPORTS[:1])
    assert long.ids.shape[1] > 8
    with torch.no_grad():
        assert method.model.encode_text(long).local.shape[1] == 6
    with pytest.raises(UsageError, match="report_max_tokens is 96"):
        build(text_max_tokens=120)


def test_the_defaults_are_those_of_the_paper() -> None:
    paper = Convirt.recipes["paper"]
    config, pretrain = paper.config, paper.pretrain
    assert config == ConvirtConfig()
    assert (config.temperature, config.image_weight, config.embed) == (0.1, 0.75, 512)
    assert (config.text_layers, config.text_frozen_layers, config.text_pooling) == (12, 6, "max")
    assert pretrain == PretrainConfig(
        epochs=500,
        batch_size=32,
        accumulate=1,
        lr=1e-4,
        final_lr=0.0,
        warmup=0.0,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=12,
        betas=(0.9, 0.999),
        weight_decay=1e-6,
        clip_gradient=None,
        patience=15,
    )
