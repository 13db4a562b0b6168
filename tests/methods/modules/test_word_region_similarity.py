"""GLoRIA's local similarity against loops over words and regions; nothing hangs on what else is compared."""

import math

import torch
from torch import Tensor

from medbench.model import LocallySimilar
from medbench_methods.clip import Clip
from medbench_methods.gloria import Gloria, GloriaModel
from medbench_methods.modules.dual_encoder import DualEncoder
from medbench_methods.modules.word_region_similarity import word_region_similarity

N, P, T, W, D = 3, 4, 5, 6, 7


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    regions = torch.randn(N, P, D, generator=generator)
    words = torch.randn(T, W, D, generator=generator)
    lengths = torch.tensor([6, 1, 3, 0, 4])
    return regions, words, torch.arange(W) < lengths[:, None]


def slow(regions: Tensor, words: Tensor, a: float, m: float) -> float:
    """One film, one text without padding: the released order of work, contexts formed."""
    best = -math.inf
    s = [[float(w @ v) for v in regions] for w in words]
    for number, word in enumerate(words):
        chosen = []
        for p in range(len(regions)):
            total = sum(math.exp(row[p]) for row in s)
            chosen.append(math.exp(s[number][p]) / total)
        total = sum(math.exp(a * c) for c in chosen)
        weight = [math.exp(a * c) / total for c in chosen]
        context = sum(w * v for w, v in zip(weight, regions, strict=True))
        cosine = float(word @ context) / (float(word.norm()) * float(context.norm()))
        best = max(best, math.log(math.exp(m * cosine)))
    return best


def test_like_a_loop() -> None:
    regions, words, mask = (part.double() if part.is_floating_point() else part for part in inputs())
    found = word_region_similarity(regions, words, mask, 4.0, 5.0)
    assert found.shape == (N, T) and found.dtype == torch.float32
    for i in range(N):
        for t in range(T):
            expected = slow(regions[i], words[t, mask[t]], 4.0, 5.0) if mask[t].any() else 0.0
            assert math.isclose(float(found[i, t]), expected, abs_tol=1e-6)


def test_the_same_to_the_last_bit_whatever_stands_beside_it() -> None:
    generator = torch.Generator().manual_seed(1)
    regions, words = torch.randn(9, 25, 64, generator=generator), torch.randn(40, 30, 64, generator=generator)
    mask = torch.arange(30) < torch.randint(1, 31, (40, 1), generator=generator)
    whole = word_region_similarity(regions, words, mask)
    for t in range(0, 40, 7):
        alone = word_region_similarity(regions[2:5], words[t : t + 1], mask[t : t + 1])
        assert torch.equal(alone[:, 0], whole[2:5, t])
    cut = int(mask[3].sum())  # and without its padding
    assert torch.equal(word_region_similarity(regions, words[3:4, :cut], mask[3:4, :cut])[:, 0], whole[:, 3])


def test_autocast_changes_nothing_but_what_it_is_given() -> None:
    regions, words, mask = inputs()
    regions, words = regions.bfloat16(), words.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = word_region_similarity(regions, words, mask)
    assert torch.equal(found, word_region_similarity(regions.float(), words.float(), mask))


def test_padding_says_nothing() -> None:
    regions, words, mask = inputs()
    other = torch.where(mask[:, :, None], words, torch.full_like(words, 1e3))
    assert torch.equal(
        word_region_similarity(regions, words, mask), word_region_similarity(regions, other, mask)
    )


def test_gloria_gives_one_and_clip_does_not() -> None:
    from medbench.method import Setup

    reports = [["small left pleural effusion", "no pneumothorax"], ["heart size is normal"]]
    model = Gloria.from_corpus(Gloria.recipes["micro"].config, reports * 3, Setup(offline=True)).model.eval()
    assert isinstance(model, LocallySimilar)
    assert issubclass(GloriaModel, LocallySimilar) and not issubclass(DualEncoder, LocallySimilar)
    with torch.no_grad():
        images = model.encode_image(torch.randn(2, 3, 64, 64))
        texts = model.encode_text(model.tokenize(reports))
        found = model.local_similarity(images, texts)
        scales = (
            Gloria.recipes["micro"].config.attention_scale,
            Gloria.recipes["micro"].config.matching_scale,
        )
        for i, v in enumerate(model.embed_patches(images)):
            for t in range(2):
                words = texts.local[t, texts.mask[t]]  # without [CLS]
                assert math.isclose(float(found[i, t]), slow(v, words, *scales), abs_tol=1e-4)
    assert not hasattr(Clip.model_class(Clip.recipes["micro"].config), "local_similarity")
