import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench_methods.mgca import Mgca, MgcaConfig
from medbench_methods.modules.mgca_text import MgcaDualEncoder

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["right upper lobe opacity"],
]
MICRO: MgcaConfig = Mgca.recipes["micro"].config
COMPAT = {"compat": True, "text_pooling": "cls"}
VIT = {"backbone": "vit_tiny_patch16_224"}


def build(**changes: Any) -> Mgca:
    torch.manual_seed(0)
    return Mgca.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 2, Setup(offline=True))


def batch_for(method: Mgca, reports: list[list[str]] = REPORTS) -> ImageTextBatch:
    images = torch.randn(len(reports), 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(reports))


@pytest.mark.parametrize("term", ["ita", "cta", "cpa"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        method = build(**{f"{term}_weight": weight}).eval()
        losses = method.losses(batch_for(method), 0)
        assert list(losses) == ["ita", "cta", "cpa"]
        values.append(losses[term].item())
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    losses = without.losses(batch_for(without), 1)
    assert len(losses) == 2
    assert term not in losses
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    assert [name for name, p in without.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_both_global_terms_only_films_as_a_whole_are_not_trained() -> None:
    method = build(ita_weight=0.0, cpa_weight=0.0)
    method.model.embed_image = method.model.embed_text = None  # type: ignore[assignment,method-assign]
    losses = method.losses(batch_for(method), 0)
    assert list(losses) == ["cta"]
    losses["cta"].backward()  # type: ignore[no-untyped-call]
    idle = ("model.image_encoder.body.layer4", "model.image_head", "model.text_head")
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) is name.startswith(idle), name


@pytest.mark.parametrize("changes", [COMPAT, VIT, {**COMPAT, **VIT}], ids=str)
def test_every_choice_gives_finite_losses_and_gradients(changes: dict[str, Any]) -> None:
    method = build(**changes)
    assert isinstance(method.model, MgcaDualEncoder) is ("compat" in changes)
    # The released code fails on the empty report, whose [SEP] has no attention.
    losses = method.losses(batch_for(method, [*REPORTS, [], ["opacity"]]), 1)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_prototypes_are_unit_vectors_and_frozen_in_the_first_epoch() -> None:
    method = build()
    assert method.prototypes is not None
    weight = method.prototypes.weight
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(16))
    with torch.no_grad():
        weight.mul_(3)
    values = []
    for epoch, moves in ((0, False), (1, True)):
        weight.grad = None
        loss = method.eval().losses(batch_for(method), epoch)["cpa"]
        loss.backward()  # type: ignore[no-untyped-call]
        values.append(loss.item())
        assert weight.grad is not None
        assert (weight.grad.abs().max() > 0).item() is moves
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(16))
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    never = build(prototypes_frozen_epochs=0)
    never.losses(batch_for(never), 0)["cpa"].backward()  # type: ignore[no-untyped-call]
    assert never.prototypes is not None
    assert never.prototypes.weight.grad is not None
    assert never.prototypes.weight.grad.abs().max() > 0


def test_two_calls_before_one_backward() -> None:
    method = build()
    one, two = (method.losses(batch_for(method), 1)["cpa"] for _ in range(2))
    (one + two).backward()  # type: ignore[no-untyped-call]
    assert one.item() == pytest.approx(two.item(), rel=1e-5)
    assert method.prototypes is not None
    assert method.prototypes.weight.grad is not None
    assert method.prototypes.weight.grad.abs().max() > 0


def test_compat_and_the_clean_reading_differ() -> None:
    clean, compat = (
        build(text_pooling="cls"),
        build(**COMPAT),
    )  # in train mode: untrained, reports differ little
    state = clean.state_dict()
    state["model.text_encoder.bert.embeddings.token_type_embeddings.weight"].zero_()
    compat.load_state_dict(state)
    with torch.no_grad():
        one, two = (m.losses(batch_for(m), 0) for m in (clean, compat))
    for term in one:
        assert abs(one[term].item() - two[term].item()) > 1e-3


def test_compat_under_autocast_changes_little() -> None:
    method = build(**COMPAT).eval()
    values = []
    for enabled in (False, True):
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(torch.stack(list(method.losses(batch_for(method), 1).values())))
    torch.testing.assert_close(values[0], values[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("changes", [{}, COMPAT], ids=["clean", "compat"])
def test_from_token_ids_to_losses_it_is_one_graph(changes: dict[str, Any]) -> None:
    method = build(**changes).eval()

    def losses(
        images: Tensor, ids: Tensor, mask: Tensor, word: Tensor, sentence: Tensor
    ) -> dict[str, Tensor]:
        return method.losses(ImageTextBatch(images, TextBatch(ids, mask, word, sentence)), 0)

    batch = batch_for(method)
    text = batch.text
    inputs = (batch.images, text.ids, text.mask, text.word, text.sentence)
    compiled = torch.compile(losses, fullgraph=True, backend="eager")(*inputs)
    for name, value in losses(*inputs).items():
        torch.testing.assert_close(compiled[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prototypes": 0}, r"method.prototypes is 0; expected at least 1"),
        ({"sinkhorn_iterations": 0}, r"method.sinkhorn_iterations is 0"),
        ({"sinkhorn_epsilon": 0.01}, r"method.sinkhorn_epsilon is 0.01; expected at least 0.025"),
        ({"compat": True}, r"method.text_pooling is mean; with method.compat=true expected cls"),
    ],
)
def test_what_can_not_be_computed_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(**changes)


def test_the_defaults_are_the_released_ones() -> None:
    paper = Mgca.recipes["paper"]
    config = paper.config
    assert config == MgcaConfig()
    assert (config.ita_weight, config.cta_weight, config.cpa_weight) == (1, 1, 1)
    assert (config.ita_temperature, config.cta_temperature, config.cpa_temperature) == (0.07, 0.1, 0.2)
    assert (config.prototypes, config.sinkhorn_epsilon, config.sinkhorn_iterations) == (500, 0.05, 3)
    assert (config.gather, config.compat, config.upsample, config.text_max_tokens) == (False, False, 299, 112)
    assert (config.sinkhorn_epsilon, config.prototypes_frozen_epochs) == (0.05, 1)
    assert (config.backbone, config.size, config.resize) == ("resnet50.tv2_in1k", 224, 256)
    assert (config.mean, config.std, config.pretrained) == (0.5, 0.5, True)
    assert (config.embed, config.hidden) == (128, 2048)
    assert (config.text_encoder, config.text_layers) == ("emilyalsentzer/Bio_ClinicalBERT", 6)
    assert (config.text_pooling, config.text_summed_layers, config.text_frozen_layers) == ("cls", 1, 0)
    assert config.text_dropout == 0.1
    # Two GPUs with 72 pairs each: 144 an optimiser step.
    assert paper.pretrain == PretrainConfig(
        epochs=50,
        batch_size=72,
        accumulate=2,
        lr=2e-5,
        final_lr=1e-8,
        warmup=0.4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        clip_gradient=None,
        patience=5,
    )
    assert Mgca.recipes["tiny"].config.prototypes == 500
