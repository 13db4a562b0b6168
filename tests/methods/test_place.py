import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medbench.errors import UsageError
from medbench.method import Setup
from medbench.model import ImageTextBatch
from medbench.overrides import apply_overrides
from medbench_methods.mgca import SCHEDULE
from medbench_methods.place import (
    CorrelationDecoder,
    ObservationExtractor,
    Place,
    PlaceConfig,
    _coarser,
)

REPORTS = [
    ["heart size is normal", "no pleural effusion"],
    ["small left pleural effusion", "left basal atelectasis", "no pneumothorax"],
    ["right upper lobe opacity"],
]
MICRO: PlaceConfig = Place.recipes["micro"].config


def build(**changes: Any) -> Place:
    torch.manual_seed(0)
    return Place.from_corpus(dataclasses.replace(MICRO, **changes), REPORTS * 2, Setup(offline=True))


def batch_for(method: Place) -> ImageTextBatch:
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return ImageTextBatch(images, method.model.tokenize(REPORTS))


def test_terms_and_their_order() -> None:
    method = build()
    for epoch in (0, 7):
        assert list(method.losses(batch_for(method), epoch)) == ["ita", "cta", "pcma", "cce"]


@pytest.mark.parametrize("term", ["ita", "cta", "pcma", "cce"])
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
    assert ("vpoe" in parts) is (term != "pcma")
    assert ("cce" in parts) is (term != "cce")


GLOBAL = ("model.image_encoder.body.layer4", "model.image_head", "model.text_head")
"""What a film as a whole needs; without the image-report contrast nothing else trains it."""


@pytest.mark.parametrize(
    ("left", "without"),
    [
        ("cta pcma cce", GLOBAL),
        ("ita pcma cce", ()),
        ("ita cta cce", ()),
        ("ita cta pcma", ()),
        ("ita", ()),
        ("cta", GLOBAL),
        ("pcma", GLOBAL),
        ("cce", GLOBAL),
    ],
)
def test_what_no_term_trains_is_not_there_but_for_films_as_a_whole(
    left: str, without: tuple[str, ...]
) -> None:
    terms = left.split()
    method = build(**{f"{term}_weight": float(term in terms) for term in ("ita", "cta", "pcma", "cce")})
    losses = method.losses(batch_for(method), 0)
    assert list(losses) == terms
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) is name.startswith(without or ("-",)), name
    names = {name.split(".")[1] for name, _ in method.model.named_parameters(prefix="model")}
    assert ("patch_head" in names) is ("cta" in terms)
    assert ("word_head" in names) is ("cta" in terms or "pcma" in terms)
    again = Place.from_assets(method.config, method.assets())
    again.load_state_dict(method.state_dict())


@pytest.mark.parametrize(("share", "hidden"), [(0.0, 0), (0.5, 18), (0.3, 11), (1.0, 36)])
def test_every_film_has_the_same_number_of_patches_hidden(share: float, hidden: int) -> None:
    torch.manual_seed(0)
    decoder = CorrelationDecoder(dataclasses.replace(MICRO, cce_mask=share), 10, 6)
    seen: list[Tensor] = []
    decoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder.hidden.data.fill_(100.0)
    mask = torch.ones(5, 4, dtype=torch.bool)
    decoder(torch.randn(5, 36, 10), torch.randn(5, 6), torch.randn(5, 4, 6), mask)
    hide = seen[0].mean(2) > 50  # (B, N)
    assert hide.sum(1).tolist() == [hidden] * 5
    if 0 < hidden < 36:
        assert len({tuple(row) for row in hide.tolist()}) == 5  # drawn film by film


def test_the_target_of_correlations_is_kept_in_full_under_autocast() -> None:
    patches = torch.randn(2, 81, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _coarser(patches, 7)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, _coarser(patches.float(), 7))


@pytest.mark.parametrize(
    "changes",
    [
        {"pairing": "hungarian"},
        {"negatives": "report"},
        {"cce_relation": "covariance", "cce_distance": "smooth_l1"},
        {"cce_grid": 2},
        {"cce_mask": 0.0},
        {"queries": 3, "sentences": 2, "vpoe_layers": 2, "cce_layers": 2},
        {"backbone": "vit_tiny_patch16_224"},
    ],
    ids=str,
)
def test_every_choice_gives_finite_losses_and_gradients(changes: dict[str, Any]) -> None:
    method = build(**changes)
    losses = method.losses(batch_for(method), 0)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_choices_that_do_not_exist_are_refused() -> None:
    recipe = Place.recipes["micro"]
    for field, value in (("pairing", "hard"), ("negatives", "all"), ("cce_distance", "l1")):
        with pytest.raises(UsageError, match=f"method.{field}={value}: Input should be"):
            apply_overrides(recipe, {f"method.{field}": value}, "place")
    chosen = apply_overrides(
        recipe, {"method.pairing": "hungarian", "method.cce_weight": "0.5"}, "place"
    ).config
    assert (chosen.pairing, chosen.cce_weight) == ("hungarian", 0.5)


def test_a_decoder_width_that_can_not_be_cut_is_refused() -> None:
    with pytest.raises(UsageError, match=r"decoder_width is 30; expected a multiple of 4 and of .* \(2\)"):
        build(decoder_width=30)


def test_sentence_vectors_are_means_of_their_words() -> None:
    method = build().eval()
    model, batch = method.model, batch_for(method)
    with torch.no_grad():
        text = model.encode_text(batch.text)
        words = model.embed_words(text)
        sentences, present = model.embed_sentences(words, text, 2)
    assert present.tolist() == [[True, True], [True, True], [True, False]]
    for b, report in enumerate(REPORTS):
        start = 0
        for s, sentence in enumerate(report[:2]):
            n = len(sentence.split())
            mean = words[b, start : start + n].mean(0)
            torch.testing.assert_close(sentences[b, s], F.normalize(mean, dim=0), rtol=1e-4, atol=1e-5)
            start += n
    assert sentences[2, 1].abs().max() == 0


def test_observations_are_unit_vectors_and_depend_on_where_things_are() -> None:
    torch.manual_seed(0)
    extractor = ObservationExtractor(MICRO, 10).eval()
    patches = torch.randn(2, 16, 10)
    with torch.no_grad():
        seen = extractor(patches)
        moved = extractor(patches.flip(1))
    assert seen.shape == (2, MICRO.queries, MICRO.embed)
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(2, MICRO.queries))
    assert (seen - moved).abs().max() > 1e-3


def test_hidden_patches_say_nothing_and_the_report_does() -> None:
    torch.manual_seed(0)
    patches, report, words = torch.randn(2, 9, 10), torch.randn(2, 6), torch.randn(2, 4, 6)
    mask = torch.tensor([[True] * 4, [False] * 4])
    all_hidden = CorrelationDecoder(dataclasses.replace(MICRO, cce_mask=1.0), 10, 6).eval()
    with torch.no_grad():
        one = all_hidden(patches, report, words, mask)
        torch.testing.assert_close(all_hidden(patches + 5, report, words, mask), one)
        other = all_hidden(patches, report, words.roll(1, 2), mask)
    assert (one[0] - other[0]).abs().max() > 1e-3
    torch.testing.assert_close(one[1], other[1])  # its words are padding
    assert (one[0, 0] - one[0, 1]).abs().max() > 1e-3  # positions tell hidden patches apart


@pytest.mark.parametrize(("side", "grid"), [(19, 7), (14, 7), (8, 7), (4, 7), (7, 7)])
def test_coarser_patches_are_adaptive_means(side: int, grid: int) -> None:
    patches = torch.randn(2, side * side, 3, generator=torch.Generator().manual_seed(0))
    maps = patches.transpose(1, 2).unflatten(2, (side, side))
    wanted = F.adaptive_avg_pool2d(maps, min(side, grid)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(_coarser(patches, grid), wanted, rtol=1e-4, atol=1e-5)


def test_the_defaults_are_mgcas_where_it_has_them() -> None:
    paper = Place.recipes["paper"]
    config = paper.config
    assert config == PlaceConfig()
    assert (config.ita_weight, config.cta_weight, config.pcma_weight, config.cce_weight) == (1, 1, 1, 1)
    assert (config.ita_temperature, config.cta_temperature) == (0.07, 0.1)
    assert (config.embed, config.hidden, config.text_layers, config.text_pooling) == (128, 2048, 6, "cls")
    assert (config.gather, config.text_max_tokens, config.upsample) == (False, 112, 299)
    # Our choices.
    assert (config.queries, config.vpoe_layers, config.cce_layers) == (14, 2, 1)
    assert (config.decoder_width, config.decoder_heads, config.sentences) == (512, 8, 12)
    assert (config.pairing, config.pairing_temperature, config.pcma_temperature) == ("soft", 0.1, 0.07)
    assert (config.negatives, config.false_negative_cosine) == ("batch", 0.95)
    assert (config.cce_grid, config.cce_mask) == (7, 0.5)
    assert (config.cce_relation, config.cce_distance) == ("correlation", "mse")
    assert paper.pretrain == SCHEDULE
