"""What MGCA's speed is measured against computes what `mgca` with `compat` computes."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medbench.method import Setup
from medbench.model import ImageTextBatch
from medbench_methods.mgca import Mgca
from medbench_methods.released.mgca import convert, settings

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50", "vit"])
def test_the_reference_is_the_released_codes_maths(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    inputs: Any = importlib.import_module("step_inputs")
    reference: Any = importlib.import_module("reference_mgca")
    torch.manual_seed(0)
    theirs = reference.ReferenceMGCA(backbone, inputs.vocabulary()).train()
    state = {name: tensor for name, tensor in theirs.state_dict().items() if "token_type" not in name}
    inputs.write_bert(tmp_path)
    config = dataclasses.replace(
        Mgca.recipes["paper"].config, **settings(state), pretrained=False, text_encoder=str(tmp_path)
    )
    ours = Mgca.from_corpus(config, [], Setup(offline=True)).train()
    ours.load_state_dict(convert(state))
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the same numbers can not be drawn in another order of work
    text = inputs.captions((112, 20, 45), 112)  # a full report, which loses its last word, too
    images = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = theirs.losses(images, text.ids, text.mask)
    found = ours.losses(ImageTextBatch(images, text), 1)
    assert found.keys() == expected.keys()
    for name in found:
        assert float(found[name]) == pytest.approx(float(expected[name]), rel=1e-4), name
