import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medbench.errors import UsageError, WeightsError
from medbench_methods.modules.image_encoder import ImageConfig, ImageEncoder

CNN = ImageConfig(backbone="resnet10t", pretrained=False, size=64, resize=72, upsample=0)
VIT = ImageConfig(backbone="vit_tiny_patch16_224", pretrained=False, size=64, resize=72)


def encoder(config: ImageConfig) -> ImageEncoder:
    torch.manual_seed(0)
    return ImageEncoder(config, weights=True, offline=True).eval()


def films(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("backbone", ["resnet10t", "resnet18", "regnetx_002", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("side", [64, 96])
def test_cnn_pyramid_has_the_strides(backbone: str, side: int) -> None:
    model = encoder(ImageConfig(backbone=backbone, pretrained=False, size=64, upsample=0))
    with torch.no_grad():
        features = model(films(side), pyramid=True)
    assert features.pyramid is not None
    assert [m.shape[2:] for m in features.pyramid] == [(side // s, side // s) for s in (2, 4, 8, 16, 32)]
    assert features.pooled.shape == (2, model.width)
    assert features.local.shape == (2, (side // 16) ** 2, model.local_width)
    assert features.attention is None


def test_vit_pyramid_has_the_strides() -> None:
    model = encoder(VIT)
    with torch.no_grad():
        features = model(films(), pyramid=True)
    assert features.pyramid is not None
    assert [tuple(m.shape) for m in features.pyramid] == [
        (2, 192, 64 // s, 64 // s) for s in (2, 4, 8, 16, 32)
    ]
    assert features.pooled.shape == (2, 192)
    assert features.local.shape == (2, 16, 192)
    # Coarser and finer maps hold what the patches hold: the means of both agree with the grid's.
    for level in (2, 4):
        mean = features.pyramid[level].mean((2, 3))
        torch.testing.assert_close(mean, features.local.mean(1), rtol=0.05, atol=0.05)


def test_local_tokens_are_the_stride_16_map_row_by_row() -> None:
    for config in (CNN, VIT):
        with torch.no_grad():
            features = encoder(config)(films(), pyramid=True)
        assert features.local is not None
        assert features.pyramid is not None
        for row in range(4):
            for column in range(4):
                cell = features.pyramid[3][:, :, row, column]
                torch.testing.assert_close(features.local[:, 4 * row + column], cell)


def test_pooled_is_the_mean_of_the_last_map_or_the_cls_token() -> None:
    with torch.no_grad():
        features = encoder(CNN)(films(), pyramid=True)
        assert features.pyramid is not None
        torch.testing.assert_close(features.pooled, features.pyramid[4].mean((2, 3)))
        vit = encoder(VIT)
        torch.testing.assert_close(vit(films()).pooled, vit.body.forward_features(films())[:, 0])


def test_features_do_not_depend_on_whether_a_pyramid_is_asked_for() -> None:
    for config in (CNN, VIT):
        model = encoder(config)
        with torch.no_grad():
            plain, full = model(films()), model(films(), pyramid=True)
        assert plain.pyramid is None
        torch.testing.assert_close(plain.pooled, full.pooled)
        torch.testing.assert_close(plain.local, full.local)


def test_upsampling_enlarges_inside_the_encoder_but_not_for_pyramids() -> None:
    enlarged = encoder(ImageConfig(backbone="resnet10t", pretrained=False, size=64, upsample=96))
    plain = encoder(CNN)
    big = F.interpolate(films(), size=96, mode="bilinear", align_corners=True)
    with torch.no_grad():
        torch.testing.assert_close(enlarged(films()).local, plain(big).local)
        assert enlarged(films()).local.shape[1] == 36
        assert enlarged(films(), pyramid=True).pyramid[3].shape[2:] == (4, 4)


def test_paper_sizes_are_those_of_mgca() -> None:
    model = ImageEncoder(ImageConfig(), weights=False).eval()
    with torch.no_grad():
        features = model(films(224)[:1])
    assert features.local.shape == (1, 361, 1024)
    assert features.pooled.shape == (1, 2048)


def test_vit_attention_is_that_of_the_last_block() -> None:
    model = encoder(VIT)
    inner = model.body.blocks[-1].attn
    inner.fused_attn = False
    kept: list[torch.Tensor] = []
    inner.attn_drop.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        features = model(films())
    assert features.attention is not None
    torch.testing.assert_close(features.attention, kept[0].mean(1)[:, 0, 1:])


def test_vit_takes_other_sizes() -> None:
    with torch.no_grad():
        assert encoder(VIT)(films(96)).local.shape == (2, 36, 192)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_gradients_reach_the_first_layer(backbone: str) -> None:
    model = encoder(ImageConfig(backbone=backbone, pretrained=False, size=64, upsample=0)).train()
    features = model(films())
    (features.pooled.square().sum() + features.local.square().sum()).backward()
    first = next(p for n, p in model.named_parameters() if n.endswith("weight"))
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("zero", [False, True])
def test_residual_branches_of_an_untrained_resnet_take_part_unless_they_are_told_not_to(zero: bool) -> None:
    config = ImageConfig(backbone="resnet18", pretrained=False, size=64, upsample=0, zero_init_last=zero)
    body = encoder(config).body
    last = [parameter for name, parameter in body.named_parameters() if name.endswith("bn2.weight")]
    assert len(last) == 8
    assert all(bool((weight == (0.0 if zero else 1.0)).all()) for weight in last)


def test_a_vit_of_another_shape() -> None:
    model = encoder(dataclasses.replace(VIT, width=48, depth=3, heads=2, token_pooling="mean"))
    assert (len(model.body.blocks), model.body.blocks[0].attn.num_heads, model.width) == (3, 2, 48)
    with torch.no_grad():
        features = model(films())
    assert features.local is not None
    assert features.local.shape == (2, 16, 48)
    torch.testing.assert_close(features.pooled, features.local.mean(1))


def test_visible_patches_see_nothing_of_the_others() -> None:
    model = encoder(VIT)
    visible = torch.tensor([[3, 0, 14], [15, 7, 2]])
    changed = films().clone()
    changed[:, :, 16:32, 16:32] += 5  # patch 5, which nobody sees
    with torch.no_grad():
        one, other = model.encode_visible(films(), visible), model.encode_visible(changed, visible)
        whole = model.encode_visible(films(), torch.arange(16).expand(2, -1))
        torch.testing.assert_close(whole[:, 1:], model(films()).local, rtol=1e-4, atol=1e-5)
        flipped = model.encode_visible(films(), visible.flip(1))
    assert one.shape == (2, 4, 192)
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.testing.assert_close(flipped[:, 1:].flip(1), one[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(flipped[:, 0], one[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_weights_can_be_given(backbone: str) -> None:
    torch.manual_seed(5)
    published = timm.create_model(backbone).state_dict()
    config = ImageConfig(backbone=backbone, size=64, upsample=0)
    loaded = ImageEncoder(config, weights=True, offline=True, state=published).body.state_dict()
    same = [name for name in loaded if loaded[name].shape == published[name].shape]
    assert len(same) >= len(loaded) - 1  # all but a ViT's position embedding, which is resized
    for name in same:
        torch.testing.assert_close(loaded[name], published[name])
    some = dict(list(published.items())[5:])
    with pytest.raises(
        WeightsError, match=rf"tensors fit '{backbone}'; . missing, 0 of another shape \(first: "
    ):
        ImageEncoder(config, weights=True, offline=True, state=some)
    wrong = {name: value[:1] if value.ndim else value for name, value in published.items()}
    with pytest.raises(WeightsError, match=r"0 missing, .* of another shape"):
        ImageEncoder(config, weights=True, offline=True, state=wrong)


def test_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'resnet52' is no model of timm .* nearest: resnet152"):
        ImageEncoder(ImageConfig(backbone="resnet52"), weights=False)
    with pytest.raises(UsageError, match=r"nearest: .*resnet50\.tv"):
        ImageEncoder(ImageConfig(backbone="resnet50.tv9_in1k"), weights=False)


def test_backbones_without_the_strides_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'convnext_atto' has maps at strides \(4, 8, 16, 32\); expected"):
        ImageEncoder(ImageConfig(backbone="convnext_atto", pretrained=False), weights=False)
    with pytest.raises(UsageError, match=r"has patches of \(32, 32\) and a CLS token; expected 16 px"):
        ImageEncoder(ImageConfig(backbone="vit_small_patch32_224"), weights=False)
    with pytest.raises(UsageError, match="no CLS token"):
        ImageEncoder(ImageConfig(backbone="vit_little_patch16_reg4_gap_256"), weights=False)


def test_weights_that_can_not_be_had_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match=r"'resnet50.tv2_in1k'.*timm/resnet50.tv2_in1k.*offline.*HF_HOME"):
        ImageEncoder(ImageConfig(), weights=True, offline=True)


def test_a_backbone_without_published_weights_is_refused() -> None:
    config = ImageConfig(backbone="resnet18", pretrained=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm, "get_pretrained_cfg", lambda name: None)
        with pytest.raises(
            UsageError, match=r"no pretrained weights for backbone 'resnet18'.*pretrained=false"
        ):
            ImageEncoder(config, weights=True, offline=True)


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224"])
def test_imagenet_weights_are_loaded(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    published = timm.create_model(backbone)
    file = tmp_path / "model.safetensors"
    save_file(published.state_dict(), file)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **kwargs: str(file))
    model = ImageEncoder(ImageConfig(backbone=backbone, size=64, upsample=0), weights=True, offline=True)
    loaded, wanted = model.body.state_dict(), published.state_dict()
    same = [name for name in loaded if name in wanted and loaded[name].shape == wanted[name].shape]
    assert len(same) >= len(loaded) - 1  # all but a ViT's position embedding, which is resized
    for name in same:
        torch.testing.assert_close(loaded[name], wanted[name])
    again = ImageEncoder(ImageConfig(backbone=backbone, size=64, upsample=0), weights=False)
    first = next(iter(again.body.state_dict()))
    assert not torch.equal(again.body.state_dict()[first], loaded[first])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample": -1}, "method.upsample is -1; expected at least 0"),
        ({"mean": math.nan}, "method.mean is nan; expected a number"),
        ({"mean": (0.5, math.inf, 0.5)}, r"method.mean is \(0.5, inf, 0.5\); expected a number"),
        ({"std": (0.5, 0.5, math.nan)}, r"method.std is \(0.5, 0.5, nan\); expected a number"),
        ({"layers": (1, 0, 1, 1)}, r"method.layers is \(1, 0, 1, 1\); expected at least 1"),
        ({"channels": (8, 8, 8, 0)}, r"method.channels is \(8, 8, 8, 0\); expected at least 1"),
        ({"width": 0}, "method.width is 0; expected at least 1"),
        ({"heads": 0}, "method.heads is 0; expected at least 1"),
        ({"depth": 0}, "method.depth is 0; expected at least 2"),
        ({"depth": 1}, "method.depth is 1; expected at least 2"),
        (
            {"backbone": "vit_tiny_patch16_224", "size": 200},
            "method.size is 200; expected a multiple of 16, .* '",
        ),
    ],
)
def test_numbers_that_no_backbone_is_built_with_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ImageConfig(**changes)
    ImageConfig(size=200)  # a CNN takes any
