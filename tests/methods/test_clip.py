import dataclasses
import math

import pytest
import torch

from medbench.method import Setup
from medbench.model import ImageTextBatch
from medbench_methods.clip import Clip, ClipConfig

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
