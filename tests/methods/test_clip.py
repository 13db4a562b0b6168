import dataclasses
import math

import pytest
import torch

from medbench.method import Setup
from medbench.model import ImageTextBatch
from medbench_methods.clip import Clip, ClipConfig
from medbench_methods.losses.info_nce import info_nce
from medbench_methods.mgca import SCHEDULE

REPORTS = [["heart size is normal"], ["small left effusion", "no pneumothorax"], ["right upper lobe opacity"]]
MICRO: ClipConfig = Clip.recipes["micro"].config


def build(config: ClipConfig) -> Clip:
    torch.manual_seed(0)
    return Clip.from_corpus(config, REPORTS * 2, Setup(offline=True))


def batch_for(method: Clip) -> ImageTextBatch:
    return ImageTextBatch(torch.randn(3, 3, 64, 64), method.model.tokenize(REPORTS))


def test_one_term_and_no_local_heads() -> None:
    method = build(MICRO)
    assert list(method.losses(batch_for(method), 0)) == ["ita"]
    assert not any("patch_head" in name or "word_head" in name for name, _ in method.named_parameters())


def test_the_temperature_is_fixed_unless_asked_for() -> None:
    fixed = build(MICRO)
    assert not fixed.log_temperature.requires_grad
    learnt = build(dataclasses.replace(MICRO, learn_temperature=True, temperature=0.2))
    assert learnt.log_temperature.exp().item() == pytest.approx(0.2)
    learnt.losses(batch_for(learnt), 0)["ita"].backward()  # type: ignore[no-untyped-call]
    assert learnt.log_temperature.grad is not None
    assert learnt.log_temperature.grad != 0


def test_a_learnt_temperature_does_not_fall_below_its_floor() -> None:
    method = build(dataclasses.replace(MICRO, learn_temperature=True)).eval()
    batch = batch_for(method)
    values = []
    for temperature in (1e-2, 1e-4):
        with torch.no_grad():
            method.log_temperature.fill_(math.log(temperature))
            values.append(method.losses(batch, 0)["ita"].item())
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_a_fixed_temperature_is_taken_as_it_is() -> None:
    method = build(dataclasses.replace(MICRO, temperature=0.004)).eval()
    batch = batch_for(method)
    with torch.no_grad():
        image = method.model.embed_image(method.model.encode_image(batch.images))
        text = method.model.embed_text(method.model.encode_text(batch.text))
        found = method.losses(batch, 0)["ita"]
    torch.testing.assert_close(found, info_nce(image, text, 0.004), rtol=1e-4, atol=1e-5)


def test_the_paper_recipe_is_that_of_convirt_inside_mgca() -> None:
    paper = Clip.recipes["paper"]
    config = paper.config
    assert config == ClipConfig()
    assert (config.temperature, config.learn_temperature, config.gather) == (0.07, False, False)
    assert (config.embed, config.hidden, config.text_layers, config.text_max_tokens) == (128, 2048, 6, 112)
    assert paper.pretrain == SCHEDULE
