"""The protocol of segmentation on bright shapes, over encoders that fit into a test."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medbench.data.affine import ScaleRotate
from medbench.data.images import fit_square
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages
from medbench.data.regions import Ellipse, Region
from medbench.data.splits import Split
from medbench.errors import DataError, PluginError, WeightsError
from medbench.heads.setr import SetrConfig
from medbench.heads.unet import UNetConfig
from medbench.model import ImageFeatures, Preprocessing
from medbench.progress import Progress
from medbench.protocols.segmentation import (
    RECIPES,
    Segmentation,
    SegmentationConfig,
    SegmentationTrial,
    SquareFilms,
    balanced,
    schedule_of,
)
from medbench.protocols.training import Training
from medbench.protocols.unfrozen import EncoderGrid
from medbench.specs import DatasetSpec
from medbench.task import Environment, Evaluation, TaskData
from medbench_methods.modules.image_encoder import ImageConfig
from medbench_methods.random import ImageOnly

SIDE = 32
HEIGHT, WIDTH = 96, 48
"""Of the files, so that a square pixel is not square there."""

SPEC = DatasetSpec("shapes", "", "", "")


class Encoder(nn.Module):
    """Grey values and edges at five strides. Its BatchNorm would drift in train mode; its weights can learn."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)
        self.norm = nn.BatchNorm2d(3)
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        self.noise = nn.Dropout2d(0.2)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        grey = self.norm(images)[:, :1] * self.weight[:, None, None]  # (B, 3, H, W)
        maps = tuple(self.noise(functional.avg_pool2d(grey, 2**k)) for k in range(1, 6))
        maps = tuple(torch.cat([m] * k, 1) for k, m in enumerate(maps, 1))  # 3, 6, 9, 12, 15 channels
        return ImageFeatures(grey.mean((2, 3)), None, maps if pyramid else None)


class Patches(nn.Module):
    """A ViT of its own kind: the sixteenth of each patch's pixels, and one size only."""

    pyramid_from_patches = True

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(SIDE, SIDE + 8)

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        if images.shape[-1] != SIDE:
            raise ValueError("positions for 2 x 2 patches")
        local = functional.pixel_unshuffle(functional.avg_pool2d(images[:, :1], 2), 8)  # (B, 64, 2, 2)
        assert not pyramid  # it is never asked for
        return ImageFeatures(local.mean((2, 3)), local.flatten(2).transpose(1, 2))


def shapes(count: int, seed: int = 0, healthy: int = 3, parts: tuple[float, float] = (0.5, 0.75)) -> TaskData:
    """Noise; all films but each `healthy`-th hold a bright ellipse."""
    rng = np.random.default_rng(seed)
    films, regions = [], []
    for i in range(count):
        film = rng.integers(0, 60, (HEIGHT, WIDTH), dtype=np.uint8)
        own: tuple[Region, ...] = ()
        if i % healthy:
            x, y, w, h = rng.integers(0, 20), rng.integers(0, 40), rng.integers(15, 28), rng.integers(30, 56)
            own = (Ellipse("shape", float(x), float(y), float(w), float(h)),)
            film[own[0].mask(HEIGHT, WIDTH, Path())] += 180
        films.append(film)
        regions.append(own)
    names = [f"s{i:03d}" for i in range(count)]
    columns = {"sample": names, "patient": names, "image": names, "bytes": np.ones(count), "regions": regions}
    train, val = (int(share * count) for share in parts)
    rows = np.arange(count)
    split = Split("shapes", rows[:train], rows[train:val], rows[val:])

    def images(side: int, fit: str) -> PreparedImages:
        assert fit == "stretch"
        square = np.stack([fit_square(film, side, "stretch") for film in films])
        return PreparedImages(square, np.tile([HEIGHT, WIDTH], (count, 1)), f"films {side}")

    return TaskData(Index.of(SPEC, Path(), columns), split, images)


def with_regions(data: TaskData, regions: list[Any]) -> TaskData:
    """The same films with other regions."""
    table = data.index.table.assign(regions=pd.Series(regions, dtype=object))
    return replace(data, index=replace(data.index, table=table))


@pytest.fixture(scope="module")
def data() -> TaskData:
    return shapes(48)


QUICK = replace(
    RECIPES["micro"],
    batch_size=8,
    epochs=4,
    validations=4,
    patience=4,
    unet=UNetConfig(widths=(16, 16, 8, 8, 8)),
    setr=SetrConfig(widths=(16, 16, 8, 8)),
    encoder_grid=None,
    predict_batch=5,
)
GRID = EncoderGrid((0.1, 1.0), (1.0,))


def environment(workdir: Path) -> Environment:
    workdir.mkdir(exist_ok=True, parents=True)
    return Environment(torch.device("cpu"), "32", workdir, Progress(quiet=True))


def task_of(config: SegmentationConfig) -> Segmentation:
    task = Segmentation("micro", split="shapes")
    task.config = config
    return task


def evaluate(
    data: TaskData,
    workdir: Path,
    config: SegmentationConfig = QUICK,
    seed: int = 0,
    count: int | None = None,
    model: Any = None,
) -> Evaluation:
    task, env = task_of(config), environment(workdir)
    features = task.extract(Encoder().eval() if model is None else model, data, env)
    try:
        return task.evaluate(features, data, data.split.train[:count], seed, env)
    finally:
        features.close()


@pytest.fixture(scope="module")
def plain(data: TaskData, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """One evaluation that several tests look at."""
    return evaluate(data, tmp_path_factory.mktemp("plain"))


def same(a: Evaluation, b: Evaluation) -> bool:
    """Bit for bit."""
    return a.search == b.search and a.predictions.equals(b.predictions)


# What comes out.


def test_predictions_have_one_row_a_test_film(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    found = plain.predictions
    assert found["sample"].tolist() == data.index.table["sample"].iloc[data.split.test].tolist()
    assert not any("prob" in column for column in found)
    assert set(found["height"]) == set(found["width"]) == {SIDE}
    for row, area in zip(data.split.test, found["true_area"], strict=True):
        assert (area == 0) == (row % 3 == 0)
    found.to_parquet(tmp_path / "p.parquet")
    again = pd.read_parquet(tmp_path / "p.parquet")
    assert task_of(QUICK).score(again) == task_of(QUICK).score(found)


def test_metrics_are_of_the_batches_of_the_task(plain: Evaluation) -> None:
    metrics = {m.name: m.value for m in task_of(QUICK).score(plain.predictions)}
    assert list(metrics) == ["dice", "dice_pos", "iou", "hausdorff95", "dice_mgca"]
    other = {m.name: m.value for m in task_of(replace(QUICK, mgca_batch=5)).score(plain.predictions)}
    assert other["dice"] == metrics["dice"] and other["dice_mgca"] != metrics["dice_mgca"]


def test_search_says_what_was_chosen_from_what(plain: Evaluation) -> None:
    assert json.loads(json.dumps(plain.search)) == plain.search
    assert plain.search["trials"] == 4
    assert plain.search["selected_on"] == "validation loss"
    assert 1 <= plain.search["chosen"]["epoch"] <= 4
    assert plain.search["chosen"]["validation_loss"] > 0
    assert plain.search["decoder"] == "U-Net, over five maps"
    assert plain.search["trained_on"] == 24


def test_same_seed_same_numbers_other_seed_others(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    torch.rand(3)  # what was drawn before does not matter
    state = torch.get_rng_state()
    assert same(evaluate(data, tmp_path / "a"), plain)
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(data, tmp_path / "b", seed=1).search != plain.search


def test_number_of_films_at_a_time_does_not_matter(plain: Evaluation, data: TaskData, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path, replace(QUICK, predict_batch=64))  # all at once, and not five
    assert found.search["chosen"]["epoch"] == plain.search["chosen"]["epoch"]
    assert found.search["chosen"]["validation_loss"] == pytest.approx(
        plain.search["chosen"]["validation_loss"], rel=1e-6
    )
    for ours, theirs in zip(
        task_of(QUICK).score(found.predictions), task_of(QUICK).score(plain.predictions), strict=True
    ):
        assert ours.value == pytest.approx(theirs.value, abs=1e-6)


@pytest.mark.parametrize("augmentation", [None, ScaleRotate()])
def test_maps_on_disk_or_not_give_the_same_numbers(
    augmentation: ScaleRotate | None, data: TaskData, tmp_path: Path
) -> None:
    config = replace(QUICK, augmentation=augmentation, epochs=1)
    kept = evaluate(data, tmp_path / "a", config)
    anew = evaluate(data, tmp_path / "b", replace(config, maps_bytes=0))
    assert kept.search["chosen"]["validation_loss"] == pytest.approx(
        anew.search["chosen"]["validation_loss"], rel=1e-4
    )
    agree = kept.predictions["pred_area"] - anew.predictions["pred_area"]
    assert agree.abs().max() <= 3  # a pixel on the brink can fall to the other side


def test_only_maps_that_never_change_are_kept(data: TaskData, tmp_path: Path) -> None:
    every = SquareFilms(replace(QUICK, augmentation=None), Encoder(), data, environment(tmp_path / "a"))
    some = SquareFilms(QUICK, Encoder(), data, environment(tmp_path / "b"))
    sizes = [
        sum(file.stat().st_size for file in folder.rglob("*.npy"))
        for folder in (tmp_path / "a", tmp_path / "b")
    ]
    a_film = 2 * sum(3 * k * (SIDE >> k) ** 2 for k in range(1, 6))
    assert sizes[0] == pytest.approx(48 * a_film, abs=200)
    assert sizes[1] == pytest.approx(12 * a_film, abs=200)  # those of validation
    rows = np.array([3, 40, 30])
    for a, b in zip(every.maps(rows), some.maps(rows), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    for films in (every, some):
        films.close()


# Selection.


def test_test_labels_change_nothing_that_is_selected(
    plain: Evaluation, data: TaskData, tmp_path: Path
) -> None:
    regions = data.index.table["regions"].tolist()
    first = int(data.split.test[0])
    shuffled = with_regions(data, regions[:first] + regions[first:][::-1])
    found = evaluate(shuffled, tmp_path)
    assert found.search == plain.search
    columns = ["sample", "pred_runs", "pred_area"]
    assert found.predictions[columns].equals(plain.predictions[columns])
    assert not found.predictions["true_area"].equals(plain.predictions["true_area"])


def test_state_with_the_lowest_loss_is_tested(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses by decree: the second of four is the lowest, and the third and fourth are stale."""
    decreed, states = iter([3.0, 1.0, 2.0, 1.5]), []

    def loss(self: SegmentationTrial, rows: Any) -> float:
        states.append({name: value.clone() for name, value in self.decoder.state_dict().items()})
        return next(decreed)

    monkeypatch.setattr(SegmentationTrial, "loss", loss)
    final: dict[str, Tensor] = {}
    masks = SegmentationTrial.masks
    monkeypatch.setattr(
        SegmentationTrial,
        "masks",
        lambda self, rows: (final.update(self.decoder.state_dict()), masks(self, rows))[1],
    )
    found = evaluate(data, tmp_path, replace(QUICK, patience=2, epochs=9, validations=9))
    assert found.search["chosen"] == {"epoch": 2, "validation_loss": 1.0}
    assert found.search["trials"] == 4
    assert all(torch.equal(final[name], states[1][name]) for name in final)


def test_encoder_that_learns_is_chosen_by_validation(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two rates has the lower loss by decree, and its network is the one that is tested."""
    tested = []
    masks = SegmentationTrial.masks
    monkeypatch.setattr(
        SegmentationTrial, "masks", lambda self, rows: (tested.append(self.point), masks(self, rows))[1]
    )
    monkeypatch.setattr(SegmentationTrial, "loss", lambda self, rows: 2.0 - (self.point or (0, 0))[0])
    config = replace(QUICK, frozen=False, encoder_grid=GRID, epochs=1)
    found = evaluate(data, tmp_path, config).search
    assert tested == [(1.0, 1.0)]
    assert found["chosen"] == {"lr_factor": 1.0, "layer_decay": 1.0, "epoch": 1, "validation_loss": 1.0}
    assert [trial["validation_loss"] for trial in found["tried"]] == [1.9, 1.0]
    assert found["trials"] == 2
    assert found["grid"]["lr_factors"] == (0.1, 1.0) or found["grid"]["lr_factors"] == [0.1, 1.0]
    assert json.loads(json.dumps(found))["encoder"].startswith("one layer")
    assert list(tmp_path.iterdir()) == []


# Going on after a kill.


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make training stop dead after some steps, as a killed process does."""
    update = Training._update

    def after(steps: int) -> None:
        left = iter(range(steps))

        def dying(self: Training, *rest: Any) -> Tensor:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return update(self, *rest)

        monkeypatch.setattr(Training, "_update", dying)

    return after


@pytest.mark.parametrize(("learns", "steps"), [(False, 7), (True, 13)], ids=str)
def test_a_killed_cell_goes_on_and_gives_the_same_numbers(
    learns: bool,
    steps: int,
    data: TaskData,
    tmp_path: Path,
    kill: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three steps make an epoch; each is validated and saved. An encoder that learns draws its dropout, too."""
    config = replace(QUICK, frozen=False, encoder_grid=GRID) if learns else QUICK
    whole = evaluate(data, tmp_path / "whole", config)
    kill(steps)
    with pytest.raises(KeyboardInterrupt):
        evaluate(data, tmp_path / "killed", config)
    monkeypatch.undo()
    seen = []
    update = Training._update
    monkeypatch.setattr(
        Training, "_update", lambda self, *rest: (seen.append(self.epoch), update(self, *rest))[1]
    )
    assert same(evaluate(data, tmp_path / "killed", config), whole)
    assert len(seen) == (24 if learns else 12) - 3 * (steps // 3)
    assert list((tmp_path / "killed").iterdir()) == []


# Encoders.


def test_frozen_encoder_gets_no_gradient_and_its_modes_back(data: TaskData, tmp_path: Path) -> None:
    model = Encoder().train()
    model.noise.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(data, tmp_path, replace(QUICK, epochs=1), model=model)
    assert model.training and model.norm.training and not model.noise.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_copy_of_the_encoder_learns(
    data: TaskData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Encoder().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learnt: list[dict[str, Tensor]] = []
    masks = SegmentationTrial.masks

    def look(self: SegmentationTrial, rows: Any) -> pd.DataFrame:
        assert isinstance(self.encoder, nn.Module) and not self.encoder.training
        learnt.append(self.encoder.state_dict())
        return masks(self, rows)

    monkeypatch.setattr(SegmentationTrial, "masks", look)
    config = replace(QUICK, frozen=False, encoder_grid=EncoderGrid((1.0,), (1.0,)), epochs=1)
    evaluate(data, tmp_path, config, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(learnt[0]["weight"], before["weight"])
    assert not torch.equal(learnt[0]["norm.running_mean"], before["norm.running_mean"])


def test_patches_of_a_vit_are_decoded_by_setr(data: TaskData, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path, replace(QUICK, epochs=1), model=Patches())
    assert found.search["decoder"] == "SETR, over the patches"
    assert set(found.predictions["height"]) == {SIDE}


def test_encoder_of_one_size_is_refused_at_another(data: TaskData, tmp_path: Path) -> None:
    message = r"Patches\.encode_image takes no films of 64 px, only of its own 32 px \(ValueError: positions"
    with pytest.raises(PluginError, match=message):
        evaluate(data, tmp_path, replace(QUICK, side=64), model=Patches())


@pytest.mark.parametrize(
    ("backbone", "frozen"),
    [("resnet10t", False), ("vit_tiny_patch16_224", True), ("vit_tiny_patch16_224", False)],
)
def test_built_in_encoders_take_another_side(
    backbone: str, frozen: bool, data: TaskData, tmp_path: Path
) -> None:
    shape: dict[str, Any] = {"width": 24, "depth": 2, "heads": 2} if "vit" in backbone else {}
    torch.manual_seed(0)
    model = ImageOnly(
        ImageConfig(backbone=backbone, pretrained=False, size=32, resize=40, upsample=0, **shape)
    ).eval()
    grid = None if frozen else EncoderGrid((0.1,), (0.75,))
    config = replace(QUICK, side=64, epochs=1, frozen=frozen, encoder_grid=grid)
    found = evaluate(data, tmp_path, config, count=8, model=model)
    assert set(found.predictions["height"]) == {64}
    assert model.preprocessing.size == 32
    if not frozen:
        assert found.search["encoder"].endswith("layers, from input to output")


def test_model_without_five_maps_is_named(data: TaskData, tmp_path: Path) -> None:
    class Three(Encoder):
        def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
            features = super().encode_image(images, pyramid)
            assert features.pyramid is not None
            return replace(features, pyramid=features.pyramid[-3:])

    with pytest.raises(PluginError, match=r"Three\.encode_image\(pyramid=True\) gave 3 maps; expected five"):
        evaluate(data, tmp_path, model=Three())


def unprepared(data: TaskData) -> TaskData:
    """Films that nobody may ask for."""

    def images(side: int, fit: str) -> PreparedImages:
        raise AssertionError("films are prepared, which takes long")

    return replace(data, images=images)


def test_what_does_not_fit_is_refused_before_films_are_prepared(data: TaskData, tmp_path: Path) -> None:
    odd = Encoder()
    odd.preprocessing = Preprocessing(100, 100)
    with pytest.raises(PluginError, match=r"Encoder takes films of 100 px; .* need a multiple of 32"):
        evaluate(unprepared(data), tmp_path, model=odd)
    learning = replace(QUICK, frozen=False, encoder_grid=GRID)
    with pytest.raises(PluginError, match="features without a gradient"):
        evaluate(unprepared(data), tmp_path, learning, model=Patches())


class Overflows(Encoder):
    """Its maps of a black film are finite; those of others are beyond half precision."""

    def encode_image(self, images: Tensor, pyramid: bool = False) -> ImageFeatures:
        found = super().encode_image(images, pyramid)
        assert found.pyramid is not None
        bright = (images.amax((1, 2, 3)) > self.preprocessing.normalise(torch.ones(1, 1, 1)).max())[
            :, None, None, None
        ]
        return replace(found, pyramid=tuple(m.masked_fill(bright, 1e6) for m in found.pyramid))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_maps_that_are_not_kept_are_looked_at_too(part: str, data: TaskData, tmp_path: Path) -> None:
    def images(side: int, fit: str) -> PreparedImages:
        prepared = data.images(side, fit)
        films = np.zeros_like(prepared.images)
        row = getattr(data.split, part)[-1]
        films[row] = 200
        return replace(prepared, images=films)

    with pytest.raises(WeightsError, match=r"feature maps of some films are not finite.*Try --precision 32"):
        evaluate(
            replace(data, images=images), tmp_path, replace(QUICK, maps_bytes=0), model=Overflows().eval()
        )


# Films and masks.


def test_film_and_mask_stay_together_all_the_way(data: TaskData, tmp_path: Path) -> None:
    """Through stretching of an odd aspect, and through scaling and turning: what is bright is what the mask says."""
    films = SquareFilms(QUICK, Encoder(), data, environment(tmp_path))
    rows = np.flatnonzero(np.arange(48) % 3)
    images, masks = films.images(rows), films.masks(rows)
    changed = ScaleRotate(probability=1.0)(images, masks, torch.Generator().manual_seed(0))
    for grey, inside in ((images.float(), masks), changed):
        bright = grey > 120
        dice = 2 * (bright & inside).sum((1, 2)) / (bright.sum((1, 2)) + inside.sum((1, 2)))
        assert dice.min() > 0.9
    assert (changed[1] ^ masks).any()
    films.close()


def test_all_masks_empty_is_no_error_in_validation(tmp_path: Path) -> None:
    data = shapes(16)
    regions = data.index.table["regions"].tolist()
    for row in data.split.val:
        regions[row] = ()
    found = evaluate(with_regions(data, regions), tmp_path, replace(QUICK, epochs=1))
    assert np.isfinite(found.search["chosen"]["validation_loss"])


@pytest.mark.parametrize("part", ["val", "test"])
def test_split_without_a_part_is_refused(part: str, data: TaskData, tmp_path: Path) -> None:
    empty = replace(data, split=replace(data.split, **{part: np.zeros(0, np.int64)}))
    with pytest.raises(DataError, match=r"the split shapes has no (validation|test) films"):
        evaluate(empty, tmp_path)


def test_loss_that_is_not_finite_stops_the_cell(data: TaskData, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="no longer finite in epoch 1 at learning rate inf"):
        evaluate(data, tmp_path, replace(QUICK, lr=float("inf")))


def test_positives_are_films_with_an_outline_that_counts(data: TaskData) -> None:
    assert Segmentation("micro", split="shapes").positives(data.index)[:4].tolist() == [
        False,
        True,
        True,
        False,
    ]
    other = Segmentation("micro", split="shapes", labels=("nothing",))
    assert not other.positives(data.index).any()
    with pytest.raises(DataError, match="has neither outlines nor boxes, so there is nothing to segment"):
        other.positives(with_regions(data, [None] * 48).index)


# Numbers of the protocol.


def test_numbers_of_the_paper() -> None:
    siim = Segmentation("paper", split="image", balanced=True, mgca_batch=8).config
    assert (siim.lr, siim.weight_decay, siim.batch_size, siim.epochs, siim.patience) == (
        5e-4,
        0.05,
        8,
        50,
        10,
    )
    assert siim.augmentation == ScaleRotate(scale=0.1, degrees=10, probability=0.5)
    assert siim.encoder_grid is None and siim.side is None
    rsna = Segmentation("paper", split="mgca_det", mgca_batch=16, frozen=False)
    assert rsna.config.batch_size == 16
    assert rsna.config.encoder_grid == EncoderGrid((0.1, 1.0), (0.75, 1.0))
    assert rsna.depends_on_seed(1.0)
    whole = schedule_of(rsna.config, 16_010)
    assert (whole.epochs, whole.validate_every, whole.patience) == (50, 1, 10)


@pytest.mark.parametrize(("recipe", "side"), [("paper", 512), ("tiny", 224), ("micro", 160)])
def test_larger_side_shrinks_with_the_recipe(recipe: str, side: int) -> None:
    task = Segmentation(recipe, split="image", side=512)
    assert task.config.side == side
    assert task.films(Preprocessing(96, 108)) == (side, "stretch")
    assert Segmentation(recipe, split="image").films(Preprocessing(96, 108)) == (96, "stretch")


@pytest.mark.parametrize(("films", "epochs"), [(30, 50), (300, 16), (3_000, 2), (9_000, 2)])
def test_more_labels_fewer_epochs_where_films_are_counted(films: int, epochs: int) -> None:
    schedule = schedule_of(Segmentation("tiny", split="image").config, films)
    assert schedule.epochs == epochs
    assert -(-schedule.epochs // schedule.validate_every) <= 6


def test_as_many_negatives_as_positives_are_drawn_by_the_seed() -> None:
    positive = np.zeros(100, np.bool_)
    positive[[3, 10, 50, 99]] = True
    train = np.arange(0, 100)
    drawn = [balanced(train[:60], positive, seed) for seed in (0, 0, 1)]
    for rows in drawn:
        assert len(rows) == 6 and positive[rows].sum() == 3
        assert (np.diff(rows) > 0).all() and rows.max() < 60
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    few = balanced(np.array([2, 3, 10, 50]), positive, 0)
    assert few.tolist() == [2, 3, 10, 50]  # one negative, three positives: all there are
    assert balanced(np.array([3, 10]), positive, 0).tolist() == [3, 10]


def test_training_takes_the_balanced_rows(data: TaskData, tmp_path: Path) -> None:
    found = evaluate(data, tmp_path, replace(QUICK, balanced=True, epochs=1))
    assert found.search["trained_on"] == 24  # 16 with a mask, 8 without


def test_bfloat16_trains(data: TaskData, tmp_path: Path) -> None:
    task, env = task_of(replace(QUICK, epochs=1)), replace(environment(tmp_path), precision="bf16")
    features = task.extract(Encoder().eval(), data, env)
    found = task.evaluate(features, data, data.split.train, 0, env)
    features.close()
    assert np.isfinite(found.search["chosen"]["validation_loss"])


# Does it learn?


@pytest.mark.parametrize("vit", [False, True])
def test_eight_films_are_learnt_by_heart(vit: bool, tmp_path: Path) -> None:
    """Training, validation and test films are the same: the decoder reaches a Dice near 1 on them."""
    data = shapes(8, seed=3, healthy=4)
    data = replace(data, split=Split("shapes", *(np.arange(8),) * 3))
    config = replace(
        QUICK,
        augmentation=None,
        lr=1e-2,
        weight_decay=0.0,
        epochs=60 if vit else 40,
        validations=2,
        setr=SetrConfig((64, 32, 32, 16)),
    )
    found = evaluate(data, tmp_path, config, model=Patches() if vit else None)
    metrics = {m.name: m.value for m in task_of(config).score(found.predictions)}
    assert metrics["dice"] is not None and metrics["dice"] > (0.95 if vit else 0.98)


@pytest.mark.gpu
@pytest.mark.parametrize("frozen", [True, False])
def test_runs_on_a_gpu(frozen: bool, data: TaskData, tmp_path: Path) -> None:
    config = replace(QUICK, frozen=frozen, encoder_grid=None if frozen else GRID, epochs=1)
    task, env = task_of(config), Environment(torch.device("cuda", 0), "bf16", tmp_path, Progress(quiet=True))
    features = task.extract(Encoder().cuda().eval(), data, env)
    found = task.evaluate(features, data, data.split.train, 0, env)
    features.close()
    assert len(found.predictions) == len(data.split.test)
