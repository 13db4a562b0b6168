"""Activations of the encoders that are computed again backward: the same gradients, and less that is kept."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from medbench.method import Method, Setup
from medbench.model import ImageTextBatch
from medbench.recompute import keep_statistics, recompute_activations
from medbench.specs import MethodSpec
from medbench_methods import medbench_methods

REPORTS = [
    ["heart size is normal", "no pleural effusion or pneumothorax"],
    ["small left pleural effusion", "left basal atelectasis", "no other finding in this film"],
] * 3


def step(method: Method, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, buffers afterwards, and bytes kept for the backward pass."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(2)  # the same masks
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = torch.stack(
            list(method.losses(ImageTextBatch(images, method.model.tokenize(REPORTS)), 0).values())
        ).sum()
    put_back = keep_statistics(method)
    loss.backward()  # type: ignore[no-untyped-call]
    put_back()
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return gradients, {name: b.clone() for name, b in method.named_buffers()}, sum(seen.values())


CASES = [
    pytest.param(
        *(spec, backbone),
        id=f"{spec.name}-{backbone}",
        marks=[]
        if (spec.name, backbone) in (("mgca", "resnet"), ("clip", "vit"), ("mrm", "vit"))
        else [pytest.mark.slow],
    )
    for spec in medbench_methods()
    if spec.pretrains
    for backbone in ("resnet", "vit")
    if (spec.name, backbone) != ("mrm", "resnet")
]


@pytest.mark.parametrize(("spec", "backbone"), CASES)
def test_gradients_and_statistics_are_the_same_and_less_is_kept(spec: MethodSpec, backbone: str) -> None:
    method_class: type[Method] = spec.load()
    changes: dict[str, Any] = {} if backbone == "resnet" else {"backbone": "vit_tiny_patch16_224"}
    config = dataclasses.replace(method_class.recipes["micro"].config, text_dropout=0.1, **changes)
    torch.manual_seed(0)
    method = method_class.from_corpus(config, REPORTS, Setup(offline=True)).train()
    state = {name: value.clone() for name, value in method.state_dict().items()}
    size = method.model.preprocessing.size * method.film_scale
    images = torch.randn(len(REPORTS), 3, size, size, generator=torch.Generator().manual_seed(1))
    gradients, buffers, kept = step(method, images)
    method.load_state_dict(state)
    method.zero_grad()
    assert recompute_activations(method) >= 2  # films and reports
    found, after, less = step(method, images)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7, msg=name)
    for name, buffer in buffers.items():
        assert torch.equal(after[name], buffer), name
    assert less < kept
