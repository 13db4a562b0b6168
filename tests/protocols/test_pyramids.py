import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from medbench import feature_cache
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.splits import Split
from medbench.errors import PluginError, WeightsError
from medbench.feature_cache import FeatureCache, held
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols.pyramids import Pyramids
from medbench.task import Environment, TaskData

SIDE = 64
PLENTY = 2**30


class Encoder(nn.Module):
    """Maps that a loop can predict: the mean grey of each cell, times the number of the channel."""

    def __init__(self, channels: tuple[int, ...] = (2, 2, 3, 4, 5), gain: float = 1.0) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)
        self.channels = channels
        self.gain = gain
        self.norm = nn.BatchNorm2d(3)  # its statistics would drift in train mode
        self.calls = 0

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        self.calls += 1
        grey = self.norm(images)[:, :1] * self.gain
        maps = tuple(
            nn.functional.avg_pool2d(grey, 2**k) * torch.arange(1, c + 1, device=images.device)[:, None, None]
            for k, c in enumerate(self.channels, start=1)
        )
        return ImageFeatures(grey.mean((1, 2, 3))[:, None], None, maps if pyramid else None)


def some_data(count: int = 150) -> TaskData:
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
    names = [f"s{i}" for i in range(count)]
    table = pd.DataFrame({"sample": names, "patient": names, "boxes": [np.zeros((0, 4))] * count})
    rows = np.arange(count)
    split = Split("some", rows[::3], rows[1::3], rows[5::6])  # not every row is in it
    images = PreparedImages(films, np.full((count, 2), 200), "films")
    return TaskData(Index("squares", Path(), "phantom", table), split, lambda side, fit: images)


def some_environment(workdir: Path) -> Environment:
    return Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True))


def test_maps_are_the_coarsest_ones_in_half_precision(tmp_path: Path) -> None:
    data, model = some_data(), Encoder()
    features = Pyramids(model, data, 3, PLENTY, some_environment(tmp_path))
    assert features.cached
    assert (features.side, features.channels) == (SIDE, (3, 4, 5))
    rows = np.array([31, 0, 5])
    films = torch.from_numpy(data.images(SIDE, "stretch").images[rows])
    model.eval()
    with torch.no_grad():
        expected = model.encode_image(model.preprocessing.normalise(films), pyramid=True).pyramid
    assert expected is not None
    for found, wanted in zip(features.batch(rows), expected[2:], strict=True):
        assert found.dtype == torch.float32
        assert found.is_contiguous() or found.shape[1] == 1
        assert torch.equal(found, wanted.half().float())


def test_kept_and_recomputed_maps_are_the_same(tmp_path: Path) -> None:
    data = some_data()
    kept = Pyramids(Encoder(), data, 3, PLENTY, some_environment(tmp_path))
    anew = Pyramids(Encoder(), data, 3, 0, some_environment(tmp_path))
    assert kept.cached
    assert not anew.cached
    assert kept.digest == anew.digest
    rows = data.split.val[::-1].copy()
    for a, b in zip(kept.batch(rows), anew.batch(rows), strict=True):
        assert torch.equal(a, b)
        assert not b.is_inference()  # a head can be trained on it


def test_only_films_of_the_split_are_encoded(tmp_path: Path) -> None:
    data = some_data()
    Pyramids(Encoder(), data, 3, PLENTY, some_environment(tmp_path))
    used = len({*data.split.train, *data.split.val, *data.split.test})
    assert used < len(data.index)
    [entry] = held(tmp_path / "pyramids")
    assert len(np.load(entry.folder / "features.npy", mmap_mode="r")) == used


def test_encoder_is_in_eval_mode_and_left_as_it_was(tmp_path: Path) -> None:
    model = Encoder().train()
    Pyramids(model, some_data(), 3, PLENTY, some_environment(tmp_path))
    assert model.training
    assert torch.equal(model.norm.running_mean, torch.zeros(3))


def test_a_killed_run_leaves_maps_that_the_next_one_takes_up(tmp_path: Path) -> None:
    data, first, second = some_data(), Encoder(), Encoder()
    Pyramids(first, data, 3, PLENTY, some_environment(tmp_path))  # never closed
    again = Pyramids(second, data, 3, PLENTY, some_environment(tmp_path))
    assert first.calls == 3  # the probe, and 125 films by 64
    assert second.calls == 1
    assert again.batch(data.split.test)[0].isfinite().all()


@pytest.mark.parametrize("change", ["encoder", "split", "unfinished"])
def test_maps_of_something_else_are_made_anew(change: str, tmp_path: Path) -> None:
    data, model = some_data(), Encoder()
    Pyramids(model, data, 3, PLENTY, some_environment(tmp_path))
    if change == "encoder":
        model = Encoder(gain=2.0)
    elif change == "split":
        data = TaskData(
            data.index, Split("some", data.split.train, data.split.val, data.split.val), data.images
        )
    else:
        [entry] = held(tmp_path / "pyramids")
        (entry.folder / "about.json").unlink()
    features = Pyramids(model, data, 3, PLENTY, some_environment(tmp_path))
    direct = Pyramids(model, data, 3, 0, some_environment(tmp_path))
    for a, b in zip(features.batch(data.split.val), direct.batch(data.split.val), strict=True):
        assert torch.equal(a, b)


def test_close_gives_the_disk_back(tmp_path: Path) -> None:
    features = Pyramids(Encoder(), some_data(), 3, PLENTY, some_environment(tmp_path))
    assert [entry.state for entry in held(tmp_path / "pyramids")] == ["sound"]
    features.close()
    assert list(tmp_path.iterdir()) == []
    features.close()


def test_small_budget_or_disk_means_computing_anew_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = Environment(torch.device("cpu"), "32", tmp_path, Progress())
    data = some_data()
    size = 125 * 2 * (3 * 8 * 8 + 4 * 4 * 4 + 5 * 2 * 2)
    assert Pyramids(Encoder(), data, 3, size, env).cached
    assert "feature maps of 125 films take 0 MB" in capsys.readouterr().err
    assert not Pyramids(Encoder(), data, 3, size - 1, env).cached
    assert "would take 0.0 GB of disk" in capsys.readouterr().err
    usage = type("usage", (), {"free": 2 * size - 2})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    elsewhere = replace(env, workdir=tmp_path / "elsewhere")  # here they are already
    assert not Pyramids(Encoder(), data, 3, PLENTY, elsewhere).cached
    assert "feature maps of 125 films are not kept: they take 0.00 GB" in capsys.readouterr().err


@pytest.mark.parametrize("gain", [float("nan"), 1e6])
def test_maps_that_are_not_finite_name_the_film(gain: float, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"feature maps of s0 are not finite in half precision"):
        Pyramids(Encoder(gain=gain), some_data(), 3, PLENTY, some_environment(tmp_path))


def test_maps_that_are_not_kept_are_looked_at_when_asked(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"feature maps of some films are not finite in half precision"):
        Pyramids(Encoder(gain=1e6), some_data(), 3, 0, some_environment(tmp_path))
    model, data = Encoder(), some_data()
    maps = Pyramids(model, data, 3, 0, some_environment(tmp_path))
    maps.batch(data.split.val[:4])
    maps.check()
    model.gain = float("nan")
    maps.batch(data.split.val[4:8])
    model.gain = 1.0
    maps.batch(data.split.val[:4])
    with pytest.raises(WeightsError, match="not finite"):
        maps.check()


def test_model_without_a_pyramid_is_named(tmp_path: Path) -> None:
    class Flat(Encoder):
        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            return super().encode_image(images, pyramid=False)

    with pytest.raises(PluginError, match=r"Flat\.encode_image\(pyramid=True\) gave no pyramid"):
        Pyramids(Flat(), some_data(), 3, PLENTY, some_environment(tmp_path))


class Patches(Encoder):
    """A ViT: the patches, and five maps that are made of them."""

    pyramid_from_patches = True

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        assert not pyramid, "nobody looks at the five maps"
        grid = nn.functional.avg_pool2d(self.norm(images), 16)  # (B, 3, 4, 4)
        return ImageFeatures(grid.mean((2, 3)), grid.flatten(2).transpose(1, 2))


def test_of_patches_one_map_is_kept_and_no_pyramid_made(tmp_path: Path) -> None:
    model, data = Patches(), some_data()
    maps = Pyramids(model, data, 3, PLENTY, some_environment(tmp_path / "one"))
    assert maps.patches
    assert maps.channels == (3,)
    rows = data.split.test[:5]
    (found,) = maps.batch(rows)
    films = torch.from_numpy(data.images(SIDE, "stretch").images[rows])
    with torch.no_grad():
        expected = nn.functional.avg_pool2d(model.eval().norm(model.preprocessing.normalise(films)), 16)
    torch.testing.assert_close(found, expected.half().float(), rtol=1e-3, atol=1e-4)
    assert not Pyramids(Encoder(), data, 3, PLENTY, some_environment(tmp_path / "other")).patches


@pytest.mark.parametrize("cells", [None, 15])
def test_model_whose_patches_are_others_than_it_says_is_named(cells: int | None, tmp_path: Path) -> None:
    class Wrong(Patches):
        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            features = super().encode_image(images, pyramid)
            assert features.local is not None
            return ImageFeatures(features.pooled, None if cells is None else features.local[:, :cells])

    with pytest.raises(
        PluginError, match=r"Wrong\.pyramid_from_patches is True.*4 x 4 patches.*gave (no|15)"
    ):
        Pyramids(Wrong(), some_data(), 3, PLENTY, some_environment(tmp_path))


# Shared by tasks, in the user's cache.


def known(tmp_path: Path, run: str = "run", encoder: str = "weights") -> Environment:
    return replace(some_environment(tmp_path / run), encoder=encoder, cache=tmp_path / "cache")


def test_tasks_of_one_encoder_and_dataset_share_maps(tmp_path: Path) -> None:
    data, first, second = some_data(), Encoder(), Encoder()
    made = Pyramids(first, data, 3, PLENTY, known(tmp_path))
    maps = [m.clone() for m in made.batch(data.split.test)]
    made.close()
    assert not (tmp_path / "run").exists()
    again = Pyramids(second, data, 3, PLENTY, known(tmp_path, "another"))
    assert (first.calls, second.calls) == (3, 1)  # the probe alone
    assert all(torch.equal(a, b) for a, b in zip(maps, again.batch(data.split.test), strict=True))
    assert again.digest == made.digest
    other = Encoder()
    Pyramids(other, data, 2, PLENTY, known(tmp_path, "third"))
    assert other.calls == 3  # fewer levels are other maps


def test_an_encoder_that_gives_something_else_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    data = some_data()
    Pyramids(Encoder(), data, 3, PLENTY, known(tmp_path)).close()
    changed = Encoder(gain=2.0)  # as changed code would do
    maps = Pyramids(changed, data, 3, PLENTY, known(tmp_path))
    assert changed.calls == 3
    assert len(held(tmp_path / "cache")) == 2
    anew = Pyramids(Encoder(gain=2.0), data, 3, 0, known(tmp_path, "another"))
    assert all(
        torch.equal(a, b) for a, b in zip(maps.batch(data.split.val), anew.batch(data.split.val), strict=True)
    )


@pytest.mark.parametrize("patches", [False, True])
def test_those_used_longest_ago_give_way_and_those_in_use_never(
    patches: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, root = some_data(), tmp_path / "cache"

    def make(encoder: str) -> Pyramids:
        model = Patches() if patches else Encoder()
        return Pyramids(model, data, 3, PLENTY, known(tmp_path, encoder, encoder))

    def encoders() -> list[str]:
        return [entry.about["identity"]["encoder"] for entry in held(root)]

    make("a").close()
    size = held(root)[0].bytes
    monkeypatch.setattr(feature_cache, "MAPS_BYTES", int(2.5 * size))
    for encoder in "bc":
        for entry in held(root):  # one after the other, whatever the clock's steps
            used = ord(entry.about["identity"]["encoder"])
            os.utime(entry.folder / "about.json", (used, used))
        make(encoder).close()
    assert encoders() == ["c", "b"]
    in_use = [make("b"), make("c")]
    make("d").close()  # needs the disk all the same, while it runs
    assert sorted(encoders()) == ["b", "c"]
    for each in in_use:
        each.close()
    monkeypatch.setattr(feature_cache, "MAPS_BYTES", size // 2)
    FeatureCache(root, Progress()).trim()
    assert encoders() == []
    assert "GB of feature maps in" in capsys.readouterr().err
