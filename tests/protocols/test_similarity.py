"""Global and local similarity: the same for any batch, order and block, and as a loop would have it."""

import numpy as np
import pytest
import torch

from medbench.errors import WeightsError
from medbench.metrics.retrieval import Similarity, cosine
from medbench.model import ImageFeatures, LocallySimilar
from medbench.protocols import similarity
from medbench.protocols.similarity import Compared, compare

from .toy_pairs import ENV, LocalToy, Toy, dataset

WORDS = ["lung", "heart", "rib", "lung", "tube", "heart", "lung"]
TEXTS = [["small lung"], ["heart", "no rib"], ["small lung"], ["rib"], ["a tube in the heart"]]


def compared(model: Toy | None = None, batch_size: int = 64, **changes: object) -> Compared:
    data = dataset(WORDS, **changes)  # type: ignore[arg-type]  # forwarded as they are
    return compare(model or LocalToy().eval(), data, data.split.test, TEXTS, ENV, batch_size)


def test_cosines_are_those_of_the_embeddings() -> None:
    model, data = Toy().eval(), dataset(WORDS)
    found = compare(model, data, data.split.test, TEXTS, ENV)
    assert found.local is None and "local" not in found.said
    films = data.images(6, "pad").images.reshape(len(WORDS), -1) / 127.5 - 1
    for i, film in enumerate(films):
        for t, text in enumerate(TEXTS):
            words = np.stack([model.vector(w).numpy() for s in text for w in s.split()]).mean(0)
            expected = film @ words / np.linalg.norm(film) / np.linalg.norm(words)
            assert found.cosines()[i, t] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(found.averaged(), found.cosines())


def test_rows_and_texts_are_those_asked_for() -> None:
    data = dataset(WORDS)
    model = LocalToy().eval()
    some = np.array([5, 1, 3])
    whole, part = compared(model), compare(model, data, some, TEXTS[::-1], ENV)
    np.testing.assert_array_equal(part.cosines(), whole.cosines()[some][:, ::-1])
    np.testing.assert_array_equal(part.averaged(), whole.averaged()[some][:, ::-1])


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_size_of_a_batch_changes_nothing(batch_size: int) -> None:
    whole, parts = compared(), compared(batch_size=batch_size)
    np.testing.assert_allclose(parts.averaged(), whole.averaged(), atol=1e-6)
    everything = slice(0, len(WORDS)), slice(0, len(TEXTS))
    np.testing.assert_allclose(
        parts.standardised()(*everything), whole.standardised()(*everything), atol=1e-5
    )


def test_the_order_of_an_index_changes_nothing() -> None:
    order = np.random.default_rng(0).permutation(len(WORDS))
    np.testing.assert_array_equal(compared(order=order).averaged(), compared().averaged()[order])


def test_equal_texts_are_one() -> None:
    found = compared()
    assert len(found.distinct) == 4
    assert found.text[0] == found.text[2]
    block = found.standardised()(slice(0, 7), slice(0, 5))
    np.testing.assert_array_equal(block[:, 0], block[:, 2])


def test_standardised_is_the_mean_of_both_z_scores_in_any_block() -> None:
    found = compared()
    assert found.local is not None and "local" in found.said
    block = found.standardised()
    whole = block(slice(0, 7), slice(0, 5))
    cosines, local = found.cosines(), found.local[:, found.text].astype(np.float64)
    z = [(values - values.mean()) / values.std() for values in (cosines, local)]
    np.testing.assert_allclose(whole, (z[0] + z[1]) / 2, atol=1e-9)
    for i in range(7):
        for t in range(5):
            assert block(slice(i, i + 1), slice(t, t + 1))[0, 0] == whole[i, t]
    np.testing.assert_allclose(found.averaged(), (cosines + local) / 2, atol=1e-12)


@pytest.mark.parametrize("model", [Toy(), LocalToy()])
def test_a_block_multiplies_no_pair_but_its_own(model: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[tuple[int, int]] = []

    def watched(images: np.ndarray, texts: np.ndarray) -> Similarity:
        exact = cosine(images, texts)

        def block(rows: slice, columns: slice) -> np.ndarray:
            products = exact(rows, columns)
            multiplied.append(products.shape)
            return products

        return block

    monkeypatch.setattr(similarity, "cosine", watched)
    block = compared(model.eval()).standardised()
    multiplied.clear()
    block(slice(0, 7), slice(2, 4))
    assert multiplied == [(7, 2)]


def test_text_features_that_have_no_room_on_the_device_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = compared()
    monkeypatch.setattr(similarity, "_TEXTS_ON_DEVICE", 0)
    np.testing.assert_array_equal(compared(batch_size=64).averaged(), whole.averaged())


def test_a_local_similarity_that_says_nothing_changes_no_order() -> None:
    class Constant(Toy):
        def local_similarity(self, images: ImageFeatures, texts: object) -> torch.Tensor:
            return torch.full((len(images.pooled), len(texts.pooled)), 0.1)  # type: ignore[attr-defined]

    found = compared(Constant().eval())
    np.testing.assert_array_equal(
        found.standardised()(slice(0, 7), slice(0, 5)).argsort(1), found.cosines().argsort(1)
    )


def test_a_collapsed_encoder_ties_everything() -> None:
    model = LocalToy(collapsed=True).eval()
    assert len(np.unique(compared(Toy(collapsed=True).eval()).cosines())) == 1
    assert len(np.unique(compared(model).cosines())) == 1


def test_modes_gradients_and_random_numbers_are_left_as_they_were() -> None:
    model = LocalToy().train()
    model.norm.eval()
    before = torch.random.get_rng_state()
    compared(model)
    assert model.training and not model.norm.training
    assert model.weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_a_broken_embedding_is_named(bad: float) -> None:
    class Broken(Toy):
        def embed_image(self, features: ImageFeatures) -> torch.Tensor:
            vectors = super().embed_image(features)
            return torch.where(torch.arange(len(vectors))[:, None] == 2, bad, vectors)

    with pytest.raises(WeightsError, match=r"1 of 7 films are zero or not finite \(the first is s002\)"):
        compared(Broken().eval())


def test_what_is_optional_is_told_by_its_method() -> None:
    assert isinstance(LocalToy(), LocallySimilar)
    assert not isinstance(Toy(), LocallySimilar)
