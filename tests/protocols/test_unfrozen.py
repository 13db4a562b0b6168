"""Encoders that learn: which parameters, at which rates, and what stays as it was."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medbench.errors import PluginError
from medbench.model import ImageFeatures, LayeredModel, Preprocessing, VisionLanguageModel
from medbench.protocols.unfrozen import (
    EncoderGrid,
    check_trainable,
    describe_layers,
    parameter_groups,
    trainable_copy,
    trained_part,
)
from medbench_methods.modules.image_encoder import ImageConfig
from medbench_methods.random import ImageOnly, Random
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

SMALL = {"size": 64, "resize": 72}


class Plain(nn.Module):
    """An encoder that names no layers, with everything beside it that fine-tuning has to leave alone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.preprocessing = Preprocessing(16, 16)
        self.stem = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.last = nn.Linear(4, 6)
        self.unused = nn.Linear(6, 3)
        self.text = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        maps = self.norm(self.stem(images))
        return ImageFeatures(
            self.last(maps.mean((2, 3)) + self.token), None, (maps,) * 5 if pyramid else None
        )


class Layered(Plain):
    """It names them, the unused head included."""

    def image_layers(self) -> list[list[nn.Parameter]]:
        stem = [*self.stem.parameters(), *self.norm.parameters()]
        return [stem, [self.token, *self.last.parameters()], list(self.unused.parameters())]


def random(**changes: Any) -> ImageOnly:
    torch.manual_seed(0)
    return Random(dataclasses.replace(Random.recipes["micro"].config, **changes)).model


def released(**changes: Any) -> ImageOnly:
    torch.manual_seed(0)
    return ReleasedEncoder(ReleasedConfig(**SMALL, **changes)).model


VIT = {"layers": None, "channels": None, "width": 48, "depth": 3, "heads": 3}

ENCODERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (random, 5),
    "cnn": (lambda: random(backbone="tf_efficientnet_lite0", layers=None, channels=None), 5),
    "vit": (lambda: random(backbone="vit_tiny_patch16_224", **VIT), 5),
    "vit of patches": (lambda: random(backbone="vit_tiny_patch16_224", token_pooling="mean", **VIT), 5),
    "cut resnet": (lambda: released(backbone="resnet50", layers=(1, 1, 1, 1), stages=3), 4),
    "clip vit": (
        lambda: released(backbone="vit_base_patch16_clip_quickgelu_224", width=48, depth=3, heads=3),
        5,
    ),
    "swin": (lambda: released(backbone="swin_tiny_patch4_window7_224", layers=(1, 1, 1, 1), width=24), 6),
    "plain": (Plain, 1),
    "layered": (Layered, 2),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> tuple[Any, int]:
    build, layers = ENCODERS[request.param]
    return build(), layers


def learning(model: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_every_parameter_that_learns_gets_a_gradient_in_training_and_no_other(
    encoder: tuple[Any, int],
) -> None:
    copy: Any = trainable_copy(encoder[0])
    copy.train()
    size = copy.preprocessing.size
    copy.encode_image(torch.randn(2, 3, size, size)).pooled.square().sum().backward()
    for name, parameter in copy.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if parameter.grad is not None and "norm" not in name:
            assert parameter.grad.isfinite().all()


def test_groups_hold_each_of_them_once_and_rates_fall_towards_the_input(encoder: tuple[Any, int]) -> None:
    model, layers = encoder
    copy = trainable_copy(model)
    groups = parameter_groups(copy, 0.1, 0.5, 0.05)
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in learning(copy).values()}
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    assert sorted(set(rates)) == pytest.approx([0.1 * 0.5**above for above in reversed(range(layers))])
    if isinstance(model, LayeredModel):
        names = {id(p): name for name, p in learning(copy).items()}
        at_input = [names[id(p)] for group in groups if group["lr"] == rates[0] for p in group["params"]]
        assert any(word in name for name in at_input for word in ("stem", "conv1", "patch_embed"))
        assert describe_layers(copy) == f"{layers} layers, from input to output"
    else:
        assert "one layer: the model does not name its layers (image_layers)" in describe_layers(copy)
    torch.optim.AdamW(groups)


def test_only_matrices_and_kernels_decay(encoder: tuple[Any, int]) -> None:
    copy = trainable_copy(encoder[0])
    names = {id(p): name for name, p in learning(copy).items()}
    groups = parameter_groups(copy, 0.1, 1.0, 0.05)
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            spared = parameter.ndim == 1 or any(word in name for word in ("token", "pos_embed", "bias_table"))
            assert group["weight_decay"] == (0.0 if spared else 0.05), name
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


def test_what_no_feature_passes_through_is_not_trained() -> None:
    used = {"stem.weight", "stem.bias", "norm.weight", "norm.bias"}
    last = {"token", "last.weight", "last.bias"}
    assert set(learning(trainable_copy(Plain()))) == used | last
    assert set(learning(trainable_copy(Plain(), pyramid=True))) == used
    assert describe_layers(trainable_copy(Layered(), pyramid=True)) == "1 layers, from input to output"


def test_the_encoder_under_test_is_not_touched(encoder: tuple[Any, int]) -> None:
    model = encoder[0].train()
    frozen = next(model.parameters()).requires_grad_(False)  # as pretraining left it
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    copy: Any = trainable_copy(model)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training for module in copy.modules())
    assert next(copy.parameters()).requires_grad  # it learns here
    copy.train()
    optimiser = torch.optim.AdamW(parameter_groups(copy, 0.1, 1.0, 0.0))
    size = copy.preprocessing.size
    for _ in range(2):
        copy.encode_image(torch.randn(2, 3, size, size)).pooled.square().sum().backward()
        optimiser.step()
    assert not frozen.requires_grad
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    changed = copy.state_dict()
    assert all(not torch.equal(changed[name], before[name]) for name in learning(copy) if "key" not in name)


def test_the_copy_sees_the_same_films_the_same_way(encoder: tuple[Any, int]) -> None:
    model = encoder[0].eval()
    copy: Any = trainable_copy(model)
    size = copy.preprocessing.size
    films = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model.encode_image(films).pooled, copy.encode_image(films).pooled)
    for ours, theirs in zip(model.parameters(), copy.parameters(), strict=True):
        assert ours.stride() == theirs.stride()  # channels innermost, where they were


def test_the_trained_part_is_what_training_changes() -> None:
    model: Any = trainable_copy(Plain())
    part = trained_part(model)
    assert {id(p) for p in part.parameters()} == {id(p) for p in learning(model).values()}
    assert not any(name.startswith("text") for name in part.state_dict())
    before = {name: value.clone() for name, value in part.state_dict().items()}
    model.train()
    optimiser = torch.optim.AdamW(part.parameters(), lr=0.1)
    model.encode_image(torch.randn(4, 3, 16, 16)).pooled.sum().backward()
    optimiser.step()
    trained = model.encode_image(torch.ones(1, 3, 16, 16)).pooled
    statistics = [name for name in before if name.endswith("running_mean")]
    assert len(statistics) == 1
    assert not torch.equal(part.state_dict()[statistics[0]], before[statistics[0]])
    kept = {name: value.clone() for name, value in part.state_dict().items()}

    part.load_state_dict(before)
    other: Any = trainable_copy(Plain()).eval()  # type: ignore[attr-defined]
    model.eval()
    films = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.encode_image(films).pooled, other.encode_image(films).pooled)
    part.load_state_dict(kept)
    model.train()
    torch.testing.assert_close(model.encode_image(torch.ones(1, 3, 16, 16)).pooled, trained)


def test_an_encoder_alone_is_its_own_trained_part() -> None:
    model = trainable_copy(random())
    assert list(trained_part(model)) == [model]


def test_weights_made_in_inference_mode_learn() -> None:
    with torch.inference_mode():
        model = Plain()
        assert all(p.is_inference() for p in model.parameters())
        copy: Any = trainable_copy(model)
    copy.train()
    copy.encode_image(torch.randn(4, 3, 16, 16)).pooled.sum().backward()
    torch.optim.AdamW(parameter_groups(copy, 0.1, 1.0, 0.1)).step()
    assert copy.stem.weight.grad.abs().sum() > 0


def test_a_grid_is_every_pair() -> None:
    assert EncoderGrid((0.1, 1.0), (0.75,)).points == ((0.1, 0.75), (1.0, 0.75))


def test_what_can_not_learn_is_refused() -> None:
    class NoModule:
        preprocessing = Preprocessing(16, 16)

    class NoGradient(Plain):
        @torch.no_grad()
        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            return super().encode_image(images, pyramid)

    class NoParameters(nn.Module):
        preprocessing = Preprocessing(16, 16)

        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            return ImageFeatures(images.mean((2, 3)))

    with pytest.raises(PluginError, match=r"NoModule is no torch\.nn\.Module"):
        trainable_copy(NoModule())  # type: ignore[arg-type]
    for model in (NoGradient(), NoParameters()):
        with pytest.raises(PluginError, match=r"encode_image gives features without a gradient"):
            check_trainable(model)  # type: ignore[arg-type]


def test_layers_that_leave_out_or_repeat_parameters_are_refused() -> None:
    class Short(Layered):
        def image_layers(self) -> list[list[nn.Parameter]]:
            return super().image_layers()[:1]

    class Long(Layered):
        def image_layers(self) -> list[list[nn.Parameter]]:
            return [*super().image_layers(), [self.token]]

    def groups(model: Any) -> object:
        copy: VisionLanguageModel = trainable_copy(model)
        return parameter_groups(copy, 0.1, 1.0, 0.1)

    with pytest.raises(PluginError, match=r"Short.image_layers leaves out 3 of 7 .*\(the first is token\)"):
        groups(Short())
    with pytest.raises(PluginError, match=r"Short.image_layers leaves out"):
        check_trainable(Short())  # type: ignore[arg-type]
    with pytest.raises(PluginError, match=r"Long.image_layers names twice 1 of 7 .*\(the first is token\)"):
        groups(Long())


def test_upsampling_inside_the_encoder_does_not_hinder() -> None:
    assert len(learning(trainable_copy(random(upsample=96)))) == len(learning(random()))
    assert ImageConfig().upsample
