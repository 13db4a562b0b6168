"""Each layout reads a checkpoint with its authors' names, and the encoder then sees what the source net sees.

The source nets are not ours: torchvision's ResNets and ViT, transformers' ViT and CLIP. They are small, the layouts'
backbones are made as small; that the real ones have the names and shapes is checked without memory for them.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from medbench.errors import UsageError, WeightsError
from medbench.importing import Imported, import_released
from medbench.released import Layout, Release, expected_by
from medbench.seeding import derive_seed
from medbench.specs import MethodSpec
from medbench_methods import IMAGE, medbench_methods
from medbench_methods.released.encoder import ReleasedConfig, ReleasedEncoder

SIDE = 32
LAYOUTS = Path(import_module("medbench_methods.released.layouts").__path__[0])
NAMES = sorted(path.stem for path in LAYOUTS.glob("[a-z]*.py"))
State = dict[str, Tensor]


def release_of(name: str) -> Release:
    found: Release = import_module(f"medbench_methods.released.layouts.{name}").RELEASE
    return found


def small(layout: Layout) -> Layout:
    """The layout with a net of the same kind that takes milliseconds."""
    config: ReleasedConfig = layout.config
    changes: dict[str, Any] = {"size": SIDE, "resize": SIDE}
    if config.backbone == "resnet50":
        changes |= {"backbone": "resnet18", "layers": (1, 1, 1, 1), "size": 64, "resize": 64}
        changes |= {"upsample": 96 if config.upsample else 0}
    elif "swin" in config.backbone:
        changes |= {"layers": (1, 1, 2, 1), "width": 24, "size": 224, "resize": 224}
    elif "clip" in config.backbone:
        changes |= {"depth": 2}
    else:
        changes |= {"backbone": "vit_tiny_patch16_224", "depth": 2}
    return dataclasses.replace(layout, config=dataclasses.replace(config, **changes))


class Shelf:
    """As much of a catalogue as an import asks for."""

    def __init__(self, release: Release) -> None:
        self.release = release

    def load_released(self, name: str) -> Release:
        return self.release


def spec_of(name: str) -> MethodSpec:
    known = {spec.name: spec for spec in medbench_methods()}
    return known.get(name) or MethodSpec(name, "", "", "", provides=IMAGE, fidelity="official-code")


def store(content: Any, path: Path) -> None:
    if isinstance(content, Mapping) and all(isinstance(v, np.ndarray) for v in content.values()):
        with path.open("wb") as file:
            np.savez(file, **content)
    else:
        torch.save(content, path)


def bring_in(name: str, content: Any, tmp_path: Path, **options: Any) -> Imported:
    path = tmp_path / "released.file"
    store(content, path)
    release = release_of(name)
    shelf: Any = Shelf(dataclasses.replace(release, layouts=tuple(map(small, release.layouts))))
    return import_released(path, spec_of(name), shelf, **{"part": "image", **options})


# Source nets.


def trained(net: nn.Module, seed: int = 3) -> nn.Module:
    """Weights and statistics that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(noise.abs() + 0.5 if "running_var" in name else tensor + 0.05 * noise)
            else:
                tensor.fill_(7)
    return net.eval()


@cache
def resnet() -> ResNet:
    net = trained(ResNet(BasicBlock, [1, 1, 1, 1]))
    assert isinstance(net, ResNet)
    return net


@cache
def grey_resnet() -> ResNet:
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    trained(net)
    return net


@cache
def hf_vit() -> Any:
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=SIDE,
        layer_norm_eps=1e-6,
    )
    return trained(ViTModel(config, add_pooling_layer=False))


@cache
def hf_clip() -> Any:
    config = CLIPVisionConfig(
        hidden_size=768,
        num_hidden_layers=2,
        num_attention_heads=12,
        intermediate_size=3072,
        image_size=SIDE,
        patch_size=16,
        hidden_act="quick_gelu",
    )
    return trained(CLIPVisionModel(config))


@cache
def hf_resnet() -> Any:
    return trained(
        ResNetModel(ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 1, 1], layer_type="basic"))
    )


@cache
def hf_swin() -> Any:
    return trained(SwinModel(SwinConfig(embed_dim=24, depths=[1, 1, 2, 1])))


SWIN_IN_FILES = {
    r"attention\.(query|q_proj)\.": "attention.self.query.",
    r"attention\.(key|k_proj)\.": "attention.self.key.",
    r"attention\.(value|v_proj)\.": "attention.self.value.",
    r"attention\.o_proj\.": "attention.output.dense.",
    r"mlp\.fc1\.": "intermediate.dense.",
    r"mlp\.fc2\.": "output.dense.",
    r"attention\.relative_position_bias\.": "attention.self.",
}
"""transformers' names of a Swin in memory, and those of its files up to version 4."""


def swin_names_of_files() -> State:
    state = {}
    for name, tensor in hf_swin().state_dict().items():
        for ours, theirs in SWIN_IN_FILES.items():
            name = re.sub(ours, theirs, name)
        state[name] = tensor
    index = "encoder.layers.0.blocks.0.attention.self.relative_position_index"
    return {**state, index: torch.zeros(49, 49, dtype=torch.int64)}


@cache
def torchvision_vit() -> Any:
    return trained(VisionTransformer(SIDE, 16, 2, 3, 192, 768))


def conv(net: ResNet) -> State:
    return {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}


def children(net: ResNet, last: int = 7) -> State:
    parts = nn.Sequential(*list(net.children())[: last + 1])
    return dict(parts.state_dict())


REFERS_BLOCK = {
    "attention_norm": ("layernorm_before",),
    "ffn_norm": ("layernorm_after",),
    "attn.query": ("attention.q_proj", "attention.attention.query"),
    "attn.key": ("attention.k_proj", "attention.attention.key"),
    "attn.value": ("attention.v_proj", "attention.attention.value"),
    "attn.out": ("attention.o_proj", "attention.output.dense"),
    "ffn.fc1": ("mlp.fc1", "intermediate.dense"),
    "ffn.fc2": ("mlp.fc2", "output.dense"),
}
"""REFERS' names in a block, and transformers' in memory: since version 5, and before and in files."""


def refers_names() -> State:
    """transformers' ViT in the names of REFERS."""
    given = hf_vit().state_dict()
    state = {
        "embeddings.cls_token": given["embeddings.cls_token"],
        "embeddings.position_embeddings": given["embeddings.position_embeddings"],
    }
    for leaf in ("weight", "bias"):
        state[f"embeddings.patch_embeddings.{leaf}"] = given[f"embeddings.patch_embeddings.projection.{leaf}"]
        state[f"encoder.encoder_norm.{leaf}"] = given[f"layernorm.{leaf}"]
        for i in range(2):
            for ours, theirs in REFERS_BLOCK.items():
                names = [f"layers.{i}.{theirs[0]}.{leaf}", f"encoder.layer.{i}.{theirs[-1]}.{leaf}"]
                state[f"encoder.layer.{i}.{ours}.{leaf}"] = next(given[n] for n in names if n in given)
    return state


def names_of_files() -> State:
    """transformers' ViT as its files name it."""
    given = refers_names()
    state = {
        name.replace("patch_embeddings", "patch_embeddings.projection").replace(
            "encoder.encoder_norm", "layernorm"
        ): tensor
        for name, tensor in given.items()
        if not name.startswith("encoder.layer")
    }
    for name, tensor in given.items():
        if name.startswith("encoder.layer"):
            head, _, rest = name.removeprefix("encoder.layer.").partition(".")
            part, _, leaf = rest.rpartition(".")
            state[f"encoder.layer.{head}.{REFERS_BLOCK[part][-1]}.{leaf}"] = tensor
    return {**state, "pooler.dense.weight": torch.zeros(192, 192)}


def jax_names() -> dict[str, np.ndarray[Any, Any]]:
    """Kernels are (in, out); queries, keys and values (in, heads, width of a head), the way out (heads, width, out)."""
    given = refers_names()
    out: State = {
        "cls": given["embeddings.cls_token"],
        "embedding/kernel": given["embeddings.patch_embeddings.weight"].permute(2, 3, 1, 0),
        "embedding/bias": given["embeddings.patch_embeddings.bias"],
        "Transformer/posembed_input/pos_embedding": given["embeddings.position_embeddings"],
        "Transformer/encoder_norm/scale": given["encoder.encoder_norm.weight"],
        "Transformer/encoder_norm/bias": given["encoder.encoder_norm.bias"],
        "head/kernel": torch.zeros(192, 1000),
    }
    for i in range(2):
        ours, theirs = f"Transformer/encoderblock_{i}", f"encoder.layer.{i}"
        for number, norm in ((0, "attention_norm"), (2, "ffn_norm")):
            out[f"{ours}/LayerNorm_{number}/scale"] = given[f"{theirs}.{norm}.weight"]
            out[f"{ours}/LayerNorm_{number}/bias"] = given[f"{theirs}.{norm}.bias"]
        attention = f"{ours}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            out[f"{attention}/{part}/kernel"] = given[f"{theirs}.attn.{part}.weight"].T.reshape(192, 3, 64)
            out[f"{attention}/{part}/bias"] = given[f"{theirs}.attn.{part}.bias"].reshape(3, 64)
        out[f"{attention}/out/kernel"] = given[f"{theirs}.attn.out.weight"].T.reshape(3, 64, 192)
        out[f"{attention}/out/bias"] = given[f"{theirs}.attn.out.bias"]
        for number in (0, 1):
            layer = f"{theirs}.ffn.fc{number + 1}"
            out[f"{ours}/MlpBlock_3/Dense_{number}/kernel"] = given[f"{layer}.weight"].T
            out[f"{ours}/MlpBlock_3/Dense_{number}/bias"] = given[f"{layer}.bias"]
    return {name: tensor.numpy() for name, tensor in out.items()}


def timm_names() -> State:
    """transformers' ViT in timm's names, joined here by hand."""
    given = refers_names()
    out = {
        "cls_token": given["embeddings.cls_token"],
        "pos_embed": given["embeddings.position_embeddings"],
    }
    for leaf in ("weight", "bias"):
        out[f"patch_embed.proj.{leaf}"] = given[f"embeddings.patch_embeddings.{leaf}"]
        out[f"norm.{leaf}"] = given[f"encoder.encoder_norm.{leaf}"]
        for i in range(2):
            head = f"encoder.layer.{i}"
            out[f"blocks.{i}.attn.qkv.{leaf}"] = torch.cat(
                [given[f"{head}.attn.{part}.{leaf}"] for part in ("query", "key", "value")]
            )
            out[f"blocks.{i}.attn.proj.{leaf}"] = given[f"{head}.attn.out.{leaf}"]
            out[f"blocks.{i}.norm1.{leaf}"] = given[f"{head}.attention_norm.{leaf}"]
            out[f"blocks.{i}.norm2.{leaf}"] = given[f"{head}.ffn_norm.{leaf}"]
            out[f"blocks.{i}.mlp.fc1.{leaf}"] = given[f"{head}.ffn.fc1.{leaf}"]
            out[f"blocks.{i}.mlp.fc2.{leaf}"] = given[f"{head}.ffn.fc2.{leaf}"]
    return out


def clip_names() -> State:
    """transformers' CLIP in OpenAI's names."""
    given = {k.removeprefix("vision_model."): v for k, v in hf_clip().state_dict().items()}
    out = {
        "class_embedding": given["embeddings.class_embedding"],
        "positional_embedding": given["embeddings.position_embedding.weight"],
        "conv1.weight": given["embeddings.patch_embedding.weight"],
        "proj": torch.zeros(768, 512),
    }
    for leaf in ("weight", "bias"):
        out[f"ln_pre.{leaf}"] = given[f"pre_layrnorm.{leaf}"]
        out[f"ln_post.{leaf}"] = given[f"post_layernorm.{leaf}"]
        for i in range(2):
            ours, theirs = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
            out[f"{ours}.attn.in_proj_{leaf}"] = torch.cat(
                [given[f"{theirs}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
            )
            out[f"{ours}.attn.out_proj.{leaf}"] = given[f"{theirs}.self_attn.out_proj.{leaf}"]
            out[f"{ours}.ln_1.{leaf}"] = given[f"{theirs}.layer_norm1.{leaf}"]
            out[f"{ours}.ln_2.{leaf}"] = given[f"{theirs}.layer_norm2.{leaf}"]
            out[f"{ours}.mlp.c_fc.{leaf}"] = given[f"{theirs}.mlp.fc1.{leaf}"]
            out[f"{ours}.mlp.c_proj.{leaf}"] = given[f"{theirs}.mlp.fc2.{leaf}"]
    return out


def behind(prefix: str, state: State) -> State:
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()}


# What the source nets see.


def seen_by_resnet(images: Tensor) -> Tensor:
    return stem(resnet(), images, 4)


def seen_up_to_layer3(images: Tensor) -> Tensor:
    return stem(resnet(), images, 3)


def seen_enlarged(images: Tensor) -> Tensor:
    return seen_by_resnet(F.interpolate(images, size=96, mode="bilinear", align_corners=True))


def seen_in_grey(images: Tensor) -> Tensor:
    return stem(grey_resnet(), images[:, :1], 4)


def stem(net: ResNet, x: Tensor, stages: int) -> Tensor:
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4)[:stages]:
        x = stage(x)
    return x.mean((2, 3))


def seen_by_vit(images: Tensor) -> Tensor:
    tokens: Tensor = hf_vit()(images).last_hidden_state
    return tokens[:, 0]


def seen_by_its_patches(images: Tensor) -> Tensor:
    tokens: Tensor = hf_vit()(images).last_hidden_state
    return tokens[:, 1:].mean(1)


def seen_by_clip(images: Tensor) -> Tensor:
    pooled: Tensor = hf_clip()(images).pooler_output
    return pooled


def seen_by_hf_resnet(images: Tensor) -> Tensor:
    pooled: Tensor = hf_resnet()(images).pooler_output
    return pooled.flatten(1)


def seen_by_swin(images: Tensor) -> Tensor:
    pooled: Tensor = hf_swin()(images).pooler_output
    return pooled


def seen_by_torchvision_vit(images: Tensor) -> Tensor:
    net = torchvision_vit()
    x = net._process_input(images)
    x = net.encoder(torch.cat([net.class_token.expand(len(x), -1, -1), x], 1))
    return x[:, 0]


TEXT = {"text_encoder.weight": torch.zeros(3, 3)}
Case = tuple[str, Callable[[], Any], Callable[[Tensor], Tensor]]
CASES: dict[str, Case] = {
    "mgca resnet": (
        "mgca",
        lambda: {
            "state_dict": {
                **behind("img_encoder_q.model", conv(resnet())),
                "img_encoder_q.global_embed.head.0.weight": torch.zeros(4, 4),
                "prototype_layer.weight": torch.zeros(500, 128),
            },
            "hyper_parameters": {"lr": 2e-5},
        },
        seen_enlarged,
    ),
    "mgca vit": (
        "mgca",
        lambda: {"state_dict": {**behind("img_encoder_q.model", timm_names()), **TEXT}},
        seen_by_vit,
    ),
    "gloria": (
        "gloria",
        lambda: {"state_dict": {**behind("gloria.img_encoder.model", conv(resnet())), **TEXT}},
        seen_enlarged,
    ),
    "convirt": ("convirt", lambda: {"model": behind("visual.model", conv(resnet()))}, seen_by_resnet),
    "medclip": (
        "medclip",
        lambda: {
            **behind("vision_model.model", {**conv(resnet()), "fc.weight": torch.zeros(512, 512)}),
            "logit_scale": torch.zeros(()),
        },
        seen_by_resnet,
    ),
    "medclip swin": (
        "medclip",
        lambda: {
            **behind("vision_model.model", swin_names_of_files()),
            "vision_model.projection_head.weight": torch.zeros(512, 192),
        },
        seen_by_swin,
    ),
    "cxr_clip swin": (
        "cxr_clip",
        lambda: {"model": behind("image_encoder.image_encoder", dict(hf_swin().state_dict()))},
        seen_by_swin,
    ),
    "medklip": (
        "medklip",
        lambda: {
            "model": {
                **behind("module.res_features", children(resnet(), 6)),
                "module.res_l1.weight": torch.zeros(4, 4),
            }
        },
        seen_up_to_layer3,
    ),
    "kad 512": (
        "kad",
        lambda: {
            "image_encoder": {
                **behind("resnet", dict(resnet().state_dict())),
                **behind("res_features", children(resnet())),
            },
            "text_encoder": TEXT,
        },
        seen_by_resnet,
    ),
    "kad 224": (
        "kad",
        lambda: {
            "image_encoder": {
                **behind("resnet", dict(resnet().state_dict())),
                **behind("res_features", children(resnet(), 6)),
            }
        },
        seen_up_to_layer3,
    ),
    "mrm": (
        "mrm",
        lambda: {"model": {**timm_names(), "mask_token": torch.zeros(1, 1, 8), "bert.x": torch.zeros(1)}},
        seen_by_its_patches,
    ),
    "mrm of benchx": (
        "mrm",
        lambda: {"model": behind("vision_encoder.visual", timm_names())},
        seen_by_its_patches,
    ),
    "mflag bare": ("mflag", lambda: dict(resnet().state_dict()), seen_by_resnet),
    "mflag whole": (
        "mflag",
        lambda: {**behind("encoder", conv(resnet())), "proj_v.0.weight": torch.zeros(2, 2)},
        seen_by_resnet,
    ),
    "refers pth": ("refers", lambda: behind("transformer", refers_names()), seen_by_vit),
    "refers of benchx": ("refers", lambda: {"model": behind("visual.vit", refers_names())}, seen_by_vit),
    "refers npz": ("refers", jax_names, seen_by_vit),
    "ptunifier": (
        "ptunifier",
        lambda: {"state_dict": behind("vision_encoder.visual", clip_names())},
        seen_by_clip,
    ),
    "ptunifier of benchx": ("ptunifier", clip_names, seen_by_clip),
    "cxr_clip": (
        "cxr_clip",
        lambda: {"model": {**behind("image_encoder.resnet", conv(resnet())), **TEXT}, "config": {"a": 1}},
        seen_by_resnet,
    ),
    "sat": (
        "sat",
        lambda: behind("module.img_encoder", {**conv(resnet()), "fc.0.weight": torch.zeros(512, 512)}),
        seen_by_resnet,
    ),
    "biovil": (
        "biovil",
        lambda: {
            **behind("encoder.encoder", dict(resnet().state_dict())),
            "projector.model.0.weight": torch.zeros(128, 512, 1, 1),
        },
        seen_by_resnet,
    ),
    "lovt": (
        "lovt",
        lambda: {
            "state_dict": {
                **behind("model_a.encoder.feature_extractor.backbone_layers", conv(resnet())),
                "model_b.encoder.x": torch.zeros(1),
            }
        },
        seen_by_resnet,
    ),
    "prior": (
        "prior",
        lambda: {"state_dict": behind("image_encoder.encoder", conv(grey_resnet()))},
        seen_in_grey,
    ),
    "released timm": (
        "released",
        lambda: {"teacher": behind("backbone.net", timm_names())},
        seen_by_vit,
    ),
    "released resnet": ("released", lambda: dict(resnet().state_dict()), seen_by_resnet),
    "released children": (
        "released",
        lambda: behind("visual.cnn", children(resnet())),
        seen_by_resnet,
    ),
    "released transformers": (
        "released",
        lambda: behind("vit", dict(hf_vit().state_dict())),
        seen_by_vit,
    ),
    "released files of transformers": ("released", lambda: {"model": names_of_files()}, seen_by_vit),
    "released torchvision": (
        "released",
        lambda: dict(torchvision_vit().state_dict()),
        seen_by_torchvision_vit,
    ),
    "released resnet of transformers": (
        "released",
        lambda: behind("resnet", dict(hf_resnet().state_dict())),
        seen_by_hf_resnet,
    ),
    "released clip of transformers": (
        "released",
        lambda: {
            **(
                hf_clip().state_dict()
                if any(name.startswith("vision_model.") for name in hf_clip().state_dict())
                else behind("vision_model", dict(hf_clip().state_dict()))
            ),
            "vision_model.embeddings.position_ids": torch.arange(5)[None],
            "text_model.final_layer_norm.weight": torch.zeros(1),
        },
        seen_by_clip,
    ),
    "released clip": ("released", lambda: behind("visual", clip_names()), seen_by_clip),
}


def test_every_layout_has_a_case() -> None:
    assert {method for method, _, _ in CASES.values()} == set(NAMES)


@pytest.mark.parametrize("case", CASES)
def test_the_imported_encoder_sees_what_the_source_net_sees(case: str, tmp_path: Path) -> None:
    name, content, seen = CASES[case]
    imported = bring_in(name, content(), tmp_path)
    assert imported.coverage.complete
    side = imported.method.model.preprocessing.size
    grey = torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(5)).expand(-1, 3, -1, -1)
    with torch.no_grad():
        found, expected = imported.method.model.encode_image(grey, pyramid=True), seen(grey)
        pooled = imported.method.model.encode_image(grey).pooled
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-4)
    assert found.pyramid is not None
    assert [side // m.shape[2] for m in found.pyramid] == [2, 4, 8, 16, 32]


def test_layouts_and_the_catalogue_agree() -> None:
    for spec in medbench_methods():
        expected = f"medbench_methods.released.layouts.{spec.name}:RELEASE" if spec.name in NAMES else ""
        assert spec.released == expected, spec.name


@pytest.mark.parametrize("spec", [s for s in medbench_methods() if s.released], ids=lambda s: s.name)
def test_what_takes_whole_models_can_be_imported(spec: MethodSpec) -> None:
    whole = release_of(spec.name).whole
    assert not whole or (not spec.released_only and callable(import_module(whole).convert))


@pytest.mark.parametrize("name", NAMES)
def test_the_file_names_its_source(name: str) -> None:
    module = import_module(f"medbench_methods.released.layouts.{name}")
    assert module.__doc__
    assert all(layout.source and layout.corpus for layout in module.RELEASE.layouts)


@pytest.mark.parametrize("name", NAMES)
def test_real_backbones_have_the_names_and_shapes_of_torchvision(name: str) -> None:
    for layout in release_of(name).layouts:
        config: ReleasedConfig = layout.config
        if config.backbone == "resnet50":
            with torch.device("meta"):
                real = torchvision.models.resnet50().state_dict()
            expected = expected_by(ReleasedEncoder, config)
            kept = {
                layout.into + k: v.shape
                for k, v in real.items()
                if not k.startswith("fc.") and (config.stages == 4 or not k.startswith("layer4"))
            }
            assert expected == kept


@pytest.mark.parametrize("name", ["medclip", "cxr_clip"])
def test_real_swins_have_the_names_and_shapes_of_transformers(name: str) -> None:
    layout = release_of(name).layouts[1]
    with torch.device("meta"):
        real = layout.rename(dict(SwinModel(SwinConfig()).state_dict()))
    assert expected_by(ReleasedEncoder, layout.config) == {layout.into + k: t.shape for k, t in real.items()}


def test_a_swin_takes_films_of_other_sizes_and_no_fields_of_others() -> None:
    config = small(release_of("medclip").layouts[1]).config
    method = ReleasedEncoder(config).eval()
    features = method.model.encode_image(torch.randn(1, 3, 96, 160), pyramid=True)
    assert features.pyramid is not None and features.local is not None
    assert [tuple(m.shape[2:]) for m in features.pyramid] == [(48, 80), (24, 40), (12, 20), (6, 10), (3, 5)]
    assert features.local.shape == (1, 60, 96)
    with pytest.raises(UsageError, match=r"method\.depth is 3 for backbone 'swin_tiny_patch4_window7_224'"):
        ReleasedEncoder(dataclasses.replace(config, depth=3))


PREPROCESSING = {
    "mgca": (224, 256, 0.5, 0.5, 299),
    "gloria": (224, 256, 0.5, 0.5, 299),
    "convirt": (224, 256, 0.5, 0.5, 0),
    "medclip": (224, 256, 0.5863, 0.2795, 0),
    "medklip": (224, 224, 0.485, 0.229, 0),
    "mrm": (224, 224, 0.4978, 0.2449, 0),
    "mflag": (224, 256, 0.5, 0.5, 0),
    "refers": (224, 224, 0.485, 0.229, 0),
    "ptunifier": (224, 224, 0.4815, 0.2686, 0),
    "kad": (512, 512, 0.485, 0.229, 0),
    "cxr_clip": (224, 224, 0.485, 0.229, 0),
    "sat": (224, 224, 0.485, 0.229, 0),
    "biovil": (480, 512, 0.0, 1.0, 0),
    "lovt": (224, 224, 0.5, 0.5, 0),
    "prior": (224, 224, 0.4755, 0.3011, 0),
    "released": (224, 256, 0.5, 0.5, 0),
}


@pytest.mark.parametrize("name", NAMES)
def test_each_encoder_has_its_own_preprocessing(name: str) -> None:
    config = release_of(name).layouts[0].config
    inputs = config.preprocessing
    found = inputs.size, inputs.resize, inputs.mean[0], inputs.std[0], config.upsample
    assert found == pytest.approx(PREPROCESSING[name], abs=1e-4)


@pytest.mark.slow
def test_a_real_resnet50_sees_what_torchvisions_sees(tmp_path: Path) -> None:
    net = trained(torchvision.models.resnet50())
    torch.save({f"vision_model.model.{k}": v for k, v in net.state_dict().items()}, tmp_path / "a.bin")
    shelf: Any = Shelf(release_of("medclip"))
    imported = import_released(tmp_path / "a.bin", spec_of("medclip"), shelf)
    # In float64, since 50 layers of noisy weights make a difference out of the order of a sum.
    images = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        found = imported.method.double().model.encode_image(images).pooled
        assert isinstance(net, ResNet)
        torch.testing.assert_close(found, stem(net.double(), images, 4), rtol=1e-8, atol=1e-8)


# What is refused.


def tensors_of(content: Any) -> list[dict[str, Any]]:
    """The dicts in a file's content that hold tensors by name."""
    inner = [value for value in content.values() if isinstance(value, dict)]
    return [
        held for held in (content, *inner) if any(isinstance(t, Tensor | np.ndarray) for t in held.values())
    ]


A_NORM = re.compile(
    r"(.*[./])?((layer1|4)\.0\.bn1|blocks\.0\.norm1|.*layernorm_before|layers\.0\.attention\.norm1|.*attention_norm"
    r"|resblocks\.0\.ln_1|.*LayerNorm_0|layers\.0\.layer_norm1|encoder_layer_0\.ln_1"
    r"|stages\.0\.layers\.0\.layer\.0\.normalization)[./](weight|scale)"
)
"""The first norm of the first block, whatever it is called."""


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_prefix_or_a_missing_tensor_is_an_error(case: str, tmp_path: Path) -> None:
    name, make, _ = CASES[case]
    with pytest.raises(WeightsError, match=r"covers 0 of \d+ tensors"):
        bring_in(name, make(), tmp_path, prefix="nowhere")
    content = make()
    if name != "released":  # which finds any prefix
        for held in tensors_of(content):
            for key in [key for key, value in held.items() if not isinstance(value, dict)]:
                held[f"odd.{key}"] = held.pop(key)
        with pytest.raises(WeightsError, match=r"covers 0 of \d+ tensors(.|\n)*--prefix"):
            bring_in(name, content, tmp_path)
    content = make()
    lost = [(held, key) for held in tensors_of(content) for key in held if A_NORM.fullmatch(key)]
    assert lost
    for held, key in lost:
        del held[key]
    with pytest.raises(
        WeightsError,
        match=r"needs, expected all(.|\n)*missing:     (layers\.0\.)?(layer1|blocks)\.0\.(bn|norm)1\.weight",
    ):
        bring_in(name, content, tmp_path)


class Trap:
    """Writes a file when a careless reader builds it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("case", CASES)
def test_a_truncated_or_malicious_file_is_refused(case: str, tmp_path: Path) -> None:
    name, make, _ = CASES[case]
    path, planted = tmp_path / "released.file", tmp_path / "planted"
    content = make()
    store(content, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    shelf: Any = Shelf(release_of(name))
    with pytest.raises(WeightsError, match="damaged or cut short"):
        import_released(path, spec_of(name), shelf, part="image")
    trap: Any = Trap(planted)
    if name == "refers" and "cls" in content:
        trap = np.array([trap], dtype=object)
    tensors_of(content)[-1]["trap"] = trap
    store(content, path)
    with pytest.raises(WeightsError, match="run code"):
        import_released(path, spec_of(name), shelf, part="image")
    assert not planted.exists()


def named_like_openai(blocks: int) -> State:
    given = clip_names()
    more = {
        name.replace("resblocks.0.", f"resblocks.{number}."): tensor
        for number in range(2, blocks)
        for name, tensor in given.items()
        if "resblocks.0." in name
    }
    return given | more


OTHERS: dict[str, tuple[str, Callable[[], Any], str]] = {
    "a net of three channels": (
        "prior",
        lambda: behind("image_encoder.encoder", conv(resnet())),
        r"conv1\.weight \(64, 3, 7, 7\), expected \(64, 1, 7, 7\)",
    ),
    "torchvision's ResNet": ("prior", lambda: conv(resnet()), "covers 0 of"),
    "M-FLAG": ("prior", lambda: behind("encoder", conv(resnet())), "covers 0 of"),
    "OpenAI's CLIP": ("ptunifier", lambda: behind("visual", named_like_openai(3)), "covers 0 of"),
    "a bare CLIP": (
        "ptunifier",
        lambda: named_like_openai(3),
        r"deeper than PTUnifier's \(it has blocks\.2\.\*\)",
    ),
    "a whole ResNet": (
        "medklip",
        lambda: behind("res_features", children(resnet())),
        r"deeper than MedKLIP's",
    ),
    "a ViT": (
        "mrm",
        timm_names,
        "nothing in the file says that it is MRM: expected names that begin with bert",
    ),
    "MAE": ("mrm", lambda: {**timm_names(), "mask_token": torch.zeros(1, 1, 8)}, "--prefix ''"),
    "an encoder": ("mflag", lambda: behind("encoder", conv(resnet())), "--prefix 'encoder.'"),
    "MGCA": ("biovil", lambda: behind("encoder", conv(resnet())), "covers 0 of"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_model_is_not_taken_for_this_one(case: str, tmp_path: Path) -> None:
    name, make, message = OTHERS[case]
    with pytest.raises(WeightsError, match=message):
        bring_in(name, make(), tmp_path)


def test_who_names_the_prefix_is_believed(tmp_path: Path) -> None:
    assert bring_in("mrm", timm_names(), tmp_path, prefix="").coverage.complete
    state = behind("encoder", conv(resnet()))
    assert bring_in("mflag", state, tmp_path, prefix="encoder").coverage.where == "encoder.*"


def test_a_file_that_nothing_tells_apart_is_said_to_be_one(tmp_path: Path) -> None:
    imported = bring_in("mflag", conv(resnet()), tmp_path)
    where = "names without a prefix: nothing in the file says that it is M-FLAG"
    assert imported.info["released"]["where"] == imported.coverage.where == where
    assert where in imported.coverage.text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn1.weight": torch.ones(64, dtype=torch.complex64)}, "bn1.weight numbers of type complex64"),
        ({"bn1.bias": torch.ones(64, dtype=torch.bool)}, "bn1.bias numbers of type bool"),
        ({"bn1.bias": torch.ones(64, dtype=torch.int32)}, "bn1.bias numbers of type int32"),
        ({"bn1.bias": torch.ones(64).to(torch.float8_e4m3fn)}, "bn1.bias numbers of type float8_e4m3fn"),
    ],
)
def test_parameters_come_from_floating_point_numbers(changes: State, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"shape:       {message}, expected floating point"):
        bring_in("medclip", behind("vision_model.model", conv(resnet()) | changes), tmp_path)


STRANGE: dict[str, tuple[str, Any]] = {
    "kernels": (
        "refers",
        {
            "cls": np.zeros((1, 1, 8), np.float32),
            "embedding/kernel": np.zeros((3, 3), np.float32),
            "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": np.zeros(
                (5, 7), np.float32
            ),
            "a/kernel": np.zeros((3, 3, 3), np.float32),
        },
    ),
    "no axes": ("refers", {"cls": np.zeros((), np.float32), "a/kernel": np.zeros((), np.float32)}),
    **{
        f"positions {shape}": ("mrm", {"pos_embed": torch.zeros(shape), "bert.a": torch.zeros(1)})
        for shape in ((), (192,), (1, 0, 192), (3, 5, 192), (1, 1, 192), (1, 1, 17, 192), (0, 192))
    },
    **{
        f"queries {shapes}": (
            "refers",
            {
                f"transformer.encoder.layer.0.attn.{part}.weight": torch.zeros(shape)
                for part, shape in zip(("query", "key", "value"), shapes, strict=True)
            },
        )
        for shapes in (((8, 8), (8, 3), (8, 8)), ((), (), ()))
    },
    "names": (
        "released",
        {"\u0664.0.conv1.weight": torch.zeros(1), "encoder.stages.9.layers.0.x": torch.zeros(1)},
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_strange_shapes_and_names_are_an_error_like_any_other(case: str, tmp_path: Path) -> None:
    name, content = STRANGE[case]
    with pytest.raises(WeightsError, match=r"covers \d+ of \d+ tensors"):
        bring_in(name, content, tmp_path)


def test_one_missing_tensor_is_an_error_that_names_it(tmp_path: Path) -> None:
    state = behind("vision_model.model", conv(resnet()))
    del state["vision_model.model.layer3.0.bn2.running_var"]
    with pytest.raises(WeightsError) as caught:
        bring_in("medclip", state, tmp_path)
    text = str(caught.value)
    assert "needs, expected all" in text
    assert "missing:     layer3.0.bn2.running_var" in text
    assert "vision_model" in text and "--prefix" in text


def test_another_shape_is_an_error_that_names_both(tmp_path: Path) -> None:
    state = behind("vision_model.model", conv(resnet()))
    state["vision_model.model.conv1.weight"] = torch.zeros(64, 4, 7, 7)
    with pytest.raises(WeightsError, match=r"conv1.weight \(64, 4, 7, 7\), expected \(64, 3, 7, 7\)"):
        bring_in("medclip", state, tmp_path)


def test_a_wrong_prefix_is_an_error_and_the_right_one_can_be_given(tmp_path: Path) -> None:
    state = {"state_dict": behind("odd.place", conv(resnet()))}
    with pytest.raises(WeightsError, match=r"covers 0 of \d+ tensors(.|\n)*The file holds: state_dict: odd"):
        bring_in("medclip", state, tmp_path)
    with pytest.raises(WeightsError, match=r"covers 0 of"):
        bring_in("medclip", state, tmp_path, prefix="odd")
    for prefix in ("odd.place", "odd.place."):
        assert bring_in("medclip", state, tmp_path, prefix=prefix).coverage.complete


def test_counters_of_batch_norm_are_not_needed(tmp_path: Path) -> None:
    state = {k: v for k, v in conv(resnet()).items() if not k.endswith("num_batches_tracked")}
    imported = bring_in("medclip", behind("vision_model.model", state), tmp_path)
    assert imported.coverage.filled > 0
    assert "counters of BatchNorm" in imported.coverage.text()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = behind("vision_model.model", conv(resnet()))
    state["vision_model.model.bn1.weight"] = torch.full((64,), float("nan"))
    with pytest.raises(WeightsError, match=r"bn1\.weight holds values that are no numbers"):
        bring_in("medclip", state, tmp_path)


def test_random_weights_are_refused(tmp_path: Path) -> None:
    config = small(release_of("medclip").layouts[0]).config
    torch.manual_seed(derive_seed(0, "init"))
    state = ReleasedEncoder(config).model.image_encoder.body.state_dict()
    with pytest.raises(WeightsError, match="same features as one with random weights"):
        bring_in("medclip", behind("vision_model.model", dict(state)), tmp_path)


def test_a_net_of_zeros_is_refused(tmp_path: Path) -> None:
    state = {k: torch.zeros_like(v) for k, v in conv(resnet()).items()}
    with pytest.raises(WeightsError, match="same features for two different images"):
        bring_in("medclip", behind("vision_model.model", state), tmp_path)


def test_two_encoders_in_a_file_without_a_layout_must_be_told_apart(tmp_path: Path) -> None:
    state = {**behind("student", conv(resnet())), **behind("teacher", conv(resnet()))}
    with pytest.raises(WeightsError, match="more than one whole encoder"):
        bring_in("released", state, tmp_path)
    assert bring_in("released", state, tmp_path, prefix="teacher").coverage.where == "teacher.*"


def test_a_position_embedding_of_another_size_is_resampled_and_reported(tmp_path: Path) -> None:
    state = {**timm_names(), "bert.x": torch.zeros(1)}
    state["pos_embed"] = torch.randn(1, 17, 192)
    imported = bring_in("mrm", {"model": state}, tmp_path)
    assert imported.coverage.reshaped == {"pos_embed": "(1, 17, 192) -> (1, 5, 192)"}
    state["pos_embed"] = torch.randn(1, 16, 192)  # no square and a CLS token
    with pytest.raises(WeightsError, match="pos_embed"):
        bring_in("mrm", {"model": state}, tmp_path)


def test_the_kad_file_at_224_px_gives_no_layer4_of_imagenet(tmp_path: Path) -> None:
    imported = bring_in("kad", CASES["kad 224"][1](), tmp_path)
    assert imported.coverage.layout == "KAD-224, ResNet-50 up to layer3"
    assert not any("layer4" in name for name in imported.method.state_dict())
    assert imported.coverage.unexpected == {"image_encoder: resnet": len(resnet().state_dict())}


def test_fields_of_the_encoder_can_be_set(tmp_path: Path) -> None:
    state = behind("vision_model.model", conv(resnet()))
    imported = bring_in(
        "medclip",
        state,
        tmp_path,
        overrides={"method.size": "96", "method.resize": "96", "method.mean": "(0.1, 0.2, 0.3)"},
    )
    assert imported.method.model.preprocessing.size == 96
    assert imported.method.model.preprocessing.mean == (0.1, 0.2, 0.3)
    with pytest.raises(UsageError, match="no such field"):
        bring_in("medclip", state, tmp_path, overrides={"method.sise": "96"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 2}, "method.stages is 2"),
        ({"depth": 3}, "method.depth is 3 for backbone .* expected a ViT"),
        ({"token_pooling": "mean"}, "expected a ViT"),
        ({"backbone": "vit_tiny_patch16_224", "depth": 1}, "method.depth is 1"),
    ],
)
def test_nets_that_can_not_be_cut_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ReleasedEncoder(dataclasses.replace(ReleasedEncoder.recipes["micro"].config, **changes))


def test_it_is_neither_trained_nor_begun_here() -> None:
    method = ReleasedEncoder(ReleasedEncoder.recipes["micro"].config)
    with pytest.raises(NotImplementedError, match="no losses"):
        method.losses(None, 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="weights import"):
        ReleasedEncoder.from_corpus(method.config, [], None)  # type: ignore[arg-type]
