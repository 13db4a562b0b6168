"""Pooled features: of the right films, the right pixels, from an encoder that is left as it was found."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import WeightsError
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


@pytest.mark.gpu
def test_a_gpu_gives_the_same(data: TaskData) -> None:
    rows = np.arange(FILMS)
    cpu = pooled_features(Encoder(), data, rows, environment())
    cuda = pooled_features(Encoder().cuda(), data, rows, environment("cuda"))
    np.testing.assert_allclose(cuda, cpu, atol=2e-3)  # TF32 where it is on
