import dataclasses
from typing import Any

import pytest
import torch

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch
from medbench_methods.losses.orthogonality import orthogonality
from medbench_methods.mflag import Mflag, MflagConfig

REPORTS = [["heart size is normal", "no pleural effusion"], ["small left pleural effusion"], ["opacity"]]
MICRO: MflagConfig = Mflag.recipes["micro"].config


def build(**changes: Any) -> Mflag:
    torch.manual_seed(0)
    return Mflag.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 2, Setup(offline=True))


def batch_for(method: Mflag) -> ImageTextBatch:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(REPORTS))


def test_the_language_model_is_frozen_and_nothing_else_is() -> None:
    method = build()
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert frozen == {
        f"model.text_encoder.{name}" for name, _ in method.model.text_encoder.named_parameters()
    }
    before = {name: value.clone() for name, value in method.model.text_encoder.state_dict().items()}
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)
    torch.stack(list(method.losses(batch_for(method), 0).values())).sum().backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    after = method.model.text_encoder.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_it_is_frozen_after_it_learnt_hidden_words() -> None:
    fresh, trained = build(text_mlm_epochs=0), build()
    name = "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(
        fresh.model.text_encoder.state_dict()[name], trained.model.text_encoder.state_dict()[name]
    )
    assert MICRO.text_frozen_layers == MICRO.text_layers
    tiny = Mflag.recipes["tiny"].config
    assert tiny.text_frozen_layers == tiny.text_layers
    assert tiny.text_mlm_epochs > 0


@pytest.mark.parametrize("term", ["alignment", "orthogonality"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    one, two = (build(**{f"{term}_weight": weight}) for weight in (1.0, 2.5))
    values = [method.losses(batch_for(method), 0)[term].item() for method in (one, two)]
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    assert term not in without.losses(batch_for(without), 0)


def test_orthogonality_is_that_of_the_features_before_the_head() -> None:
    method = build().eval()
    batch = batch_for(method)
    with torch.no_grad():
        pooled = method.model.encode_image(batch.images).pooled
        terms = method.losses(batch, 0)
    torch.testing.assert_close(terms["orthogonality"], orthogonality(pooled, 0.0051))


def test_films_are_changed_in_training_alone_and_where_it_is_asked_for() -> None:
    assert Mflag.recipes["paper"].config.augment
    assert not Mflag.recipes["tiny"].config.augment
    assert not MICRO.augment
    values = []
    for augment, training in ((True, True), (False, True), (True, False), (False, False)):
        method = build(augment=augment).train(training)
        torch.manual_seed(5)
        values.append(method.losses(batch_for(method), 0)["orthogonality"].item())
    assert values[0] != pytest.approx(values[1], rel=1e-4)
    assert values[2] == values[3]


def test_gathering_is_refused() -> None:
    with pytest.raises(UsageError, match=r"method\.gather is true, but method mflag has no negatives"):
        build(gather=True)


def test_the_paper_recipe_is_the_released_codes() -> None:
    recipe = Mflag.recipes["paper"]
    config = recipe.config
    assert (config.hidden, config.embed, config.text_layers, config.text_frozen_layers) == (
        2048,
        1024,
        12,
        12,
    )
    assert (config.alignment_weight, config.orthogonality_weight, config.off_diagonal) == (1.0, 1.0, 0.0051)
    assert recipe.pretrain == PretrainConfig(
        epochs=50,
        batch_size=512,
        accumulate=4,
        lr=2e-5,
        final_lr=1e-8,
        warmup=0.0,
        schedule="restarts",
        restart_epochs=20,
        restart_factor=1,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        clip_gradient=None,
        patience=None,
        keep="last",
    )


def test_a_step_is_one_graph() -> None:
    method = build(augment=True)
    batch = batch_for(method)

    def total() -> torch.Tensor:
        return torch.stack(list(method.losses(batch, 0).values())).sum()

    torch.manual_seed(0)
    plain = total()
    torch._dynamo.reset()
    torch.manual_seed(0)
    torch.testing.assert_close(torch.compile(total, backend="eager", fullgraph=True)(), plain)
