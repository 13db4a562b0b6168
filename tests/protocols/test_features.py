"""Pooled features: of the right films, the right pixels, from an encoder that is left as it was found."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import WeightsError
from medbench.feature_cache import free, held
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols.features import pooled_features
from medbench.task import Environment, TaskData

FILMS, SIDE = 23, 10


class Encoder(nn.Module):
    """Something of everything that behaves differently in training: BatchNorm, dropout."""

    preprocessing = Preprocessing(size=8, resize=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.GELU(), nn.Dropout(0.5))

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        assert images.shape[1:] == (3, 8, 8)
        return ImageFeatures(self.layers(images).mean((2, 3)))


@pytest.fixture
def data() -> TaskData:
    films = np.random.default_rng(0).integers(0, 256, (FILMS, SIDE, SIDE), np.uint8)

    def images(side: int, fit: str) -> PreparedImages:
        assert (side, fit) == (SIDE, "pad")
        return PreparedImages(films, np.full((FILMS, 2), SIDE), "hash")

    table = pd.DataFrame({"sample": [f"film-{k}" for k in range(FILMS)]})
    nothing = np.array([], np.int64)
    return TaskData(Index("d", Path(), "phantom", table), Split("s", nothing, nothing, nothing), images)


def environment(device: str = "cpu", precision: str = "32") -> Environment:
    return Environment(torch.device(device), precision, Path(), Progress(quiet=True))


def test_they_are_those_of_the_cropped_normalised_film_in_eval_mode(data: TaskData) -> None:
    model = Encoder()
    rows = np.array([4, 0, 22, 4])
    features = pooled_features(model, data, rows, environment())
    assert features.dtype == np.float32

    model.eval()
    films = data.images(SIDE, "pad").images
    for row, found in zip(rows, features, strict=True):
        pixels = films[row, 1:9, 1:9].astype(np.float64) / 255
        channels = [(pixels - m) / s for m, s in zip((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), strict=True)]
        with torch.no_grad():
            expected = model.layers(torch.tensor(np.stack(channels))[None].float()).mean((2, 3))[0]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_batch_size_does_not_matter(data: TaskData) -> None:
    rows = np.arange(FILMS)
    whole = pooled_features(Encoder(), data, rows, environment(), batch_size=FILMS)
    for size in (1, 4, 64):
        np.testing.assert_allclose(
            pooled_features(Encoder(), data, rows, environment(), size), whole, atol=1e-6
        )


def test_the_encoder_is_left_as_it_was(data: TaskData) -> None:
    model = Encoder().train()
    model.layers[1].eval()  # a frozen BatchNorm in a model that trains
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pooled_features(model, data, np.arange(5), environment())
    assert [module.training for module in model.modules()] == [True, True, True, False, True, True]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_mode_comes_back_after_an_error_too(data: TaskData) -> None:
    model = Encoder().train()
    with torch.no_grad():
        model.layers[0].weight.fill_(float("nan"))
    with pytest.raises(
        WeightsError, match=r"not finite for 3 of 3 films \(the first is film-7\).*--precision 32"
    ):
        pooled_features(model, data, np.array([7, 8, 9]), environment())
    with pytest.raises(IndexError):
        pooled_features(model, data, np.array([FILMS]), environment())
    assert all(module.training for module in model.modules())


def test_an_encoder_that_is_no_torch_module(data: TaskData) -> None:
    class Mean:
        preprocessing = Preprocessing(size=SIDE, resize=SIDE)

        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            assert not torch.is_grad_enabled()
            return ImageFeatures(images.mean((2, 3)))

    features = pooled_features(Mean(), data, np.arange(3), environment())
    films = data.images(SIDE, "pad").images[:3]
    np.testing.assert_allclose(features[:, 0], (films.mean((1, 2)) / 255 - 0.5) / 0.5, atol=1e-6)


def test_bf16_gives_float32_close_to_full_precision(data: TaskData) -> None:
    rows = np.arange(FILMS)
    full = pooled_features(Encoder(), data, rows, environment())
    half = pooled_features(Encoder(), data, rows, environment(precision="bf16"))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.03


def known(tmp_path: Path, **changes: Any) -> Environment:
    return replace(environment(), encoder="weights", cache=tmp_path, **changes)


class Counting(Encoder):
    """How many films it has seen."""

    films = 0

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        self.films += len(images)
        return super().encode_image(images)


def test_they_are_read_once(data: TaskData, tmp_path: Path) -> None:
    rows = np.arange(FILMS)
    plain = pooled_features(Encoder(), data, rows, environment())
    first, second = Counting(), Counting()
    made = pooled_features(first, data, rows, known(tmp_path, method="mine"))
    found = pooled_features(second, data, rows, known(tmp_path))
    assert (first.films, second.films) == (8 + FILMS, 8)
    for features in (made, found):
        np.testing.assert_array_equal(features, plain)
        features[0] = 0  # nobody else sees it
    np.testing.assert_array_equal(pooled_features(Encoder(), data, rows, known(tmp_path)), plain)
    [entry] = held(tmp_path)
    assert {name: entry.about[name] for name in ("method", "dataset", "split", "films")} == {
        "method": "mine",
        "dataset": "d",
        "split": "s",
        "films": FILMS,
    }
    del made, features
    assert free([entry]) == []  # `found` is in use
    del found
    assert free([entry]) == [entry]


def test_how_many_are_written_at_once_does_not_matter(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(FILMS)
    plain = pooled_features(Encoder(), data, rows, environment(), batch_size=3)
    for together in (1, 2, FILMS):
        monkeypatch.setattr("medbench.protocols.features.TOGETHER", together)
        for env in (environment(), known(tmp_path / str(together))):
            found = pooled_features(Encoder(), data, rows, env, batch_size=3)
            np.testing.assert_array_equal(found, plain)


def test_without_a_name_of_the_encoder_nothing_is_kept(data: TaskData, tmp_path: Path) -> None:
    pooled_features(Encoder(), data, np.arange(FILMS), replace(known(tmp_path), encoder=""))
    assert list(tmp_path.iterdir()) == []


def test_whatever_they_depend_on_makes_others(data: TaskData, tmp_path: Path) -> None:
    rows = np.arange(FILMS)

    def films(seed: int) -> TaskData:
        pixels = np.random.default_rng(seed).integers(0, 256, (FILMS, SIDE, SIDE), np.uint8)
        prepared = PreparedImages(pixels, np.full((FILMS, 2), SIDE), f"hash {seed}")
        return replace(data, images=lambda side, fit: prepared)

    other = Encoder()
    other.preprocessing = replace(Encoder.preprocessing, mean=(0.1, 0.2, 0.3))
    moved = Encoder()
    with torch.no_grad():
        moved.layers[0].weight += 1  # type: ignore[operator]
    cases: list[tuple[Encoder, TaskData, Any, Environment]] = [
        (Encoder(), films(0), rows, known(tmp_path)),
        (Encoder(), films(1), rows, known(tmp_path)),
        (Encoder(), films(0), rows[:-1], known(tmp_path)),
        (Encoder(), films(0), rows, replace(known(tmp_path), encoder="others")),
        (Encoder(), films(0), rows, replace(known(tmp_path), precision="bf16")),
        (other, films(0), rows, known(tmp_path)),
        (moved, films(0), rows, known(tmp_path)),
    ]
    for number, (model, of, which, env) in enumerate(cases, start=1):
        expected = pooled_features(model, of, which, replace(env, encoder=""))
        np.testing.assert_array_equal(pooled_features(model, of, which, env), expected)
        assert len(held(tmp_path)) == number


@pytest.mark.gpu
def test_a_gpu_gives_the_same(data: TaskData) -> None:
    rows = np.arange(FILMS)
    cpu = pooled_features(Encoder(), data, rows, environment())
    cuda = pooled_features(Encoder().cuda(), data, rows, environment("cuda"))
    np.testing.assert_allclose(cuda, cpu, atol=2e-3)  # TF32 where it is on
