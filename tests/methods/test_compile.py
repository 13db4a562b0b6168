"""Everything from token ids to the losses is one graph, for every method that pretrains.

A graph without a break is the proof that a CPU can give that a step never waits for the device: what needs a
value on the host (`.item()`, a mask as an index, `if` on a tensor) breaks it. The pairing `hungarian` of `place`
is excepted: its assignment runs on the CPU, and it is not the default.
"""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from medbench.method import Method, Setup
from medbench.model import ImageTextBatch, TextBatch
from medbench.specs import MethodSpec
from medbench_methods import medbench_methods

REPORTS = [
    ["heart size is normal", "no pleural effusion or pneumothorax"],
    ["small left pleural effusion", "left basal atelectasis", "no other finding in this film"],
    ["opacity"],
    [],
] * 2
VARIANTS: dict[str, dict[str, Any]] = {
    "mgca": {"compat": True, "text_pooling": "cls"},
    "convirt": {"full_report": True},
    "gloria": {"full_report": True},
    "place": {"cce_weight": 0.0, "pcma_weight": 0.0},
    "sista": {"false_negatives": "mask"},
}
"""Readings of a method that take another way through its code."""

PRETRAINED = [
    pytest.param(
        *(spec, changes, backbone),
        id="-".join([spec.name, *changes, backbone]),
        # Ten seconds each: over a ViT by default one method, for the encoder's own code.
        marks=[pytest.mark.slow] if backbone == "vit" and (changes or spec.name != "mgca") else [],
    )
    for spec in medbench_methods()
    if spec.pretrains
    for changes in ({}, *([VARIANTS[spec.name]] if spec.name in VARIANTS else []))
    for backbone in ("resnet", "vit")
]


@pytest.mark.parametrize(("spec", "changes", "backbone"), PRETRAINED)
def test_a_step_is_one_graph_with_the_eager_values(
    spec: MethodSpec, changes: dict[str, Any], backbone: str
) -> None:
    method_class: type[Method] = spec.load()
    config = dataclasses.replace(method_class.recipes["micro"].config, **changes)
    if backbone == "vit":
        config = dataclasses.replace(config, backbone="vit_tiny_patch16_224")
    torch.manual_seed(0)
    method = method_class.from_corpus(config, REPORTS, Setup(offline=True)).train()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    text, size = method.model.tokenize(REPORTS), method.model.preprocessing.size
    images = torch.randn(len(REPORTS), 3, size, size, generator=torch.Generator().manual_seed(1))
    tensors = (images, text.ids, text.mask, text.word, text.sentence)

    def step(images: Tensor, ids: Tensor, mask: Tensor, word: Tensor, sentence: Tensor) -> dict[str, Tensor]:
        return method.losses(ImageTextBatch(images, TextBatch(ids, mask, word, sentence)), 0)

    torch._dynamo.reset()
    found = []
    for run in (torch.compile(step, fullgraph=True, backend="eager"), step):
        method.load_state_dict(state)  # a step moves the batch statistics
        method.zero_grad()
        torch.manual_seed(2)  # the same masks
        terms = run(*tensors)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        found.append((terms, gradients))
    (compiled, gradients), (eager, expected) = found
    assert list(compiled) == list(eager)
    for name, value in eager.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-2, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )
