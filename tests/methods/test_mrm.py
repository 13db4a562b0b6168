import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from medbench.errors import UsageError
from medbench.method import PretrainConfig, Setup
from medbench.model import ImageTextBatch
from medbench_methods.modules.positions import grid_positions
from medbench_methods.mrm import Mrm, MrmConfig, PatchDecoder, pick_patches, pixels_of_patches

REPORTS = [["heart size is normal", "no pleural effusion"], ["small left pleural effusion"], ["opacity"]]
MICRO: MrmConfig = Mrm.recipes["micro"].config


def build(**changes: Any) -> Mrm:
    torch.manual_seed(0)
    return Mrm.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 2, Setup(offline=True))


def batch_for(method: Mrm) -> ImageTextBatch:
    side = 64 * method.film_scale
    films = torch.randn(3, 1, side, side, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    return ImageTextBatch(films.contiguous(), method.model.tokenize(REPORTS))


def test_the_patches_are_cut_row_by_row() -> None:
    films = torch.arange(2 * 8 * 12.0).view(2, 8, 12)
    cut = pixels_of_patches(films, 4)
    assert cut.shape == (2, 6, 16)
    for row in range(2):
        for column in range(3):
            patch = films[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
            assert torch.equal(cut[:, 3 * row + column], patch)


def test_every_film_hides_as_many_patches() -> None:
    torch.manual_seed(0)
    visible, hidden = pick_patches(50, 36, 0.75, torch.device("cpu"))
    assert visible.shape == (50, 9)
    assert (hidden.sum(1) == 27).all()
    assert not hidden.gather(1, visible).any()
    assert all(len(set(row.tolist())) == 9 for row in visible)
    assert hidden.float().mean(0).std() < 0.12  # every patch about as often
    assert pick_patches(2, 36, 0.0, torch.device("cpu"))[0].shape == (2, 36)
    assert pick_patches(2, 196, 0.75, torch.device("cpu"))[0].shape == (2, 49)


def test_the_decoder_puts_tokens_where_their_patches_are() -> None:
    torch.manual_seed(0)
    decoder = PatchDecoder(dataclasses.replace(MICRO, decoder_layers=0), 6).eval()
    tokens = torch.randn(2, 4, 6)
    visible = torch.tensor([[5, 0, 8], [1, 7, 3]])
    with torch.no_grad():
        pixels = decoder(tokens, visible, 9)
        positions = grid_positions(9, MICRO.decoder_width, torch.device("cpu"))
        for b in range(2):
            for p in range(9):
                place = visible[b].tolist().index(p) if p in visible[b] else None
                token = decoder.hidden if place is None else decoder.enter(tokens[b, 1 + place])
                torch.testing.assert_close(pixels[b, p], decoder.leave(decoder.norm(token + positions[p])))


def test_hidden_patches_decide_nothing_but_the_target() -> None:
    method = build().eval()
    batch = batch_for(method)
    torch.manual_seed(3)
    _, hidden = pick_patches(3, 16, MICRO.hidden_patches, torch.device("cpu"))
    where = hidden.view(3, 1, 4, 4).repeat_interleave(32, 2).repeat_interleave(32, 3)  # (3, 1, 128, 128)
    films = torch.where(where, 3 * batch.images + 1, batch.images)  # the same targets, once normalised
    values = []
    for images in (batch.images, films, torch.where(where, -batch.images, batch.images)):
        torch.manual_seed(3)
        with torch.no_grad():
            values.append(method.losses(ImageTextBatch(images, batch.text), 0))
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-5)
    assert (values[0]["image"] - values[2]["image"]).abs() > 1e-4
    torch.testing.assert_close(values[0]["report"], values[2]["report"])


def test_the_film_helps_to_tell_the_report() -> None:
    method = build(hidden_words=1.0).eval()
    batch = batch_for(method)
    values = []
    for images in (batch.images, batch.images + 2):
        torch.manual_seed(3)
        values.append(method.losses(ImageTextBatch(images, batch.text), 0)["report"])
    assert (values[0] - values[1]).abs() > 1e-5
    grad = torch.autograd.grad(values[0], method.model.image_encoder.body.cls_token, retain_graph=True)[0]
    assert grad.abs().sum() > 0


@pytest.mark.parametrize("term", ["image", "report"])
def test_a_weight_scales_its_term_and_zero_leaves_it_out(term: str) -> None:
    values = []
    for weight in (1.0, 2.5):
        method = build(**{f"{term}_weight": weight}).eval()
        torch.manual_seed(3)
        values.append(method.losses(batch_for(method), 0)[term].item())
    assert values[1] == pytest.approx(2.5 * values[0], rel=1e-4)
    without = build(**{f"{term}_weight": 0.0})
    assert term not in without.losses(batch_for(without), 0)
    parts = {name.split(".")[0] for name, _ in without.named_parameters()}
    assert ("decoder" in parts) is (term != "image")
    assert ("report_head" in parts) is (term != "report")


@pytest.mark.parametrize("changes", [{"film_scale": 1}, {"told_words": "all"}, {"film_scale": 3}], ids=str)
def test_every_choice_gives_finite_losses_and_gradients(changes: dict[str, Any]) -> None:
    method = build(**changes)
    torch.stack(list(method.losses(batch_for(method), 0).values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_torchs_generator_decides_what_is_hidden() -> None:
    method = build()
    batch = batch_for(method)
    values = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        values.append(torch.stack(list(method.losses(batch, 0).values())))
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_positions_are_fixed_and_kept() -> None:
    method = build()
    embedding = method.model.image_encoder.body.pos_embed
    assert not embedding.requires_grad
    positions = grid_positions(16, 48, torch.device("cpu"))
    torch.testing.assert_close(embedding[0], F.pad(positions, (0, 0, 1, 0)))


def test_tasks_see_films_of_the_models_own_size() -> None:
    method = build().eval()
    assert (method.film_scale, method.model.preprocessing.size) == (2, 64)
    with torch.no_grad():
        features = method.model.encode_image(torch.randn(2, 3, 64, 64), pyramid=True)
    assert features.local is not None
    torch.testing.assert_close(features.pooled, features.local.mean(1))
    with pytest.raises(NotImplementedError, match="no text half"):
        method.model.encode_text(method.model.tokenize(REPORTS))


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"mrm hides patches from a ViT, but .* 'resnet10t'"):
        build(backbone="resnet10t", width=None, depth=None, heads=None, token_pooling="cls")
    for changes, message in (
        ({"hidden_patches": 0.99}, "leaves 0 of 16 patches"),
        ({"hidden_patches": 1.0}, "hidden_patches is 1.0"),
        ({"hidden_patches": float("nan")}, "hidden_patches is nan; expected at least 0 and below 1"),
        ({"width": 0}, "width is 0; expected at least 1"),
        ({"width": 50}, r"width is 50; expected a multiple of 4 and of method.heads \(3\)"),
        ({"heads": 0}, "heads is 0; expected at least 1"),
        ({"heads": 5}, r"width is 48; expected a multiple of 4 and of method.heads \(5\)"),
        ({"depth": 0}, "depth is 0; expected at least 2"),
        ({"decoder_layers": -1}, "decoder_layers is -1; expected at least 0"),
        ({"decoder_heads": 0}, "decoder_heads is 0; expected at least 1"),
        ({"size": 72}, "size is 72; expected a multiple of 16"),
        ({"hidden_words": 1.5}, "hidden_words is 1.5; expected at least 0 and at most 1"),
        ({"film_scale": 0}, "film_scale is 0; expected at least 1"),
        ({"decoder_width": 30}, r"decoder_width is 30; expected a multiple of 4 and of .* \(2\)"),
    ):
        with pytest.raises(UsageError, match=message):
            build(**changes)


def test_the_paper_recipe_is_the_released_codes() -> None:
    recipe = Mrm.recipes["paper"]
    config = recipe.config
    assert config == MrmConfig()
    assert (config.text_layers, config.text_width, config.text_heads, config.text_mlm_epochs) == (
        6,
        384,
        6,
        0,
    )
    assert recipe.pretrain == PretrainConfig(
        epochs=200,
        batch_size=32,
        accumulate=8,
        lr=1.5e-4,
        final_lr=0.0,
        warmup=0.2,
        schedule="cosine",
        betas=(0.9, 0.95),
        weight_decay=0.05,
        clip_gradient=None,
        patience=None,
        keep="last",
    )


def test_a_step_is_one_graph() -> None:
    method = build()
    batch = batch_for(method)

    def total() -> torch.Tensor:
        torch.manual_seed(0)
        return torch.stack(list(method.losses(batch, 0).values())).sum()

    def traced() -> torch.Tensor:
        return torch.stack(list(method.losses(batch, 0).values())).sum()

    torch._dynamo.reset()
    compiled = torch.compile(traced, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(), total())
