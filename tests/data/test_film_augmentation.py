from typing import Any

import pytest
import torch
import torchvision.transforms.functional as TF
from torch import Tensor

from medbench.data import film_augmentation
from medbench.data.film_augmentation import FilmAugmentation
from medbench.model import Preprocessing
from medbench_methods import convirt, mflag

PREPROCESSING = Preprocessing(size=40, resize=40, mean=(0.5, 0.4, 0.3), std=(0.5, 0.2, 0.25))
EVERY = [convirt.AUGMENTATION, mflag.AUGMENTATION]


def grey(number: int = 3, side: int = 40) -> Tensor:
    """(B, 1, S, S): smooth, and different in every corner."""
    draw = torch.Generator().manual_seed(2)
    rough = torch.rand(number, 1, 5, 5, generator=draw)
    return torch.nn.functional.interpolate(rough, (side, side), mode="bicubic", align_corners=True).clamp(
        0, 1
    )


def normalised(films: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    return (films - mean) / std


def change(augmentation: FilmAugmentation, films: Tensor, seed: int = 0) -> Tensor:
    """Grey films in, grey films out."""
    torch.manual_seed(seed)
    changed = augmentation(normalised(films), PREPROCESSING)
    mean, std = (torch.tensor(v)[:, None, None] for v in (PREPROCESSING.mean, PREPROCESSING.std))
    found = changed * std + mean
    for channel in (1, 2):  # three times the same film
        torch.testing.assert_close(found[:, channel], found[:, 0])
    return found[:, :1]


@pytest.mark.parametrize("augmentation", EVERY)
def test_films_keep_shape_type_and_range(augmentation: FilmAugmentation) -> None:
    films = normalised(grey(5))
    changed = augmentation(films, PREPROCESSING)
    assert (changed.shape, changed.dtype) == (films.shape, films.dtype)
    assert changed.is_contiguous(memory_format=torch.channels_last)
    assert augmentation(films.bfloat16(), PREPROCESSING).dtype == torch.bfloat16
    for seed in range(20):
        values = change(augmentation, grey(5), seed)
        assert values.min() >= -1e-5
        assert values.max() <= 1 + 1e-5


@pytest.mark.parametrize("augmentation", EVERY)
def test_the_seed_decides(augmentation: FilmAugmentation) -> None:
    one, same, other = (change(augmentation, grey(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=1e-2)
    assert not torch.allclose(change(augmentation, grey(1).expand(3, -1, -1, -1))[0], one[0], atol=1e-2)


@pytest.mark.parametrize("augmentation", EVERY)
def test_what_is_drawn_for_a_film_is_its_own(augmentation: FilmAugmentation) -> None:
    films = grey()
    before = change(augmentation, films)
    after = change(augmentation, torch.cat([films[:1], torch.rand(1, 1, 40, 40), films[2:]]))
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1], before[1], atol=1e-2)
    alike = change(augmentation, films[:1].expand(3, -1, -1, -1))
    assert not torch.allclose(alike[0], alike[1], atol=1e-2)


def test_nothing_is_changed_by_default_or_by_ranges_of_nothing() -> None:
    torch.testing.assert_close(change(FilmAugmentation(), grey()), grey(), rtol=0, atol=1e-6)
    still = FilmAugmentation(flip=1e-9, distortion_probability=1.0, brightness=(1, 1 + 1e-9), blur=(0, 1e-9))
    torch.testing.assert_close(change(still, grey()), grey(), rtol=0, atol=1e-4)
    warped = FilmAugmentation(distortion=0.5, distortion_probability=1e-9)
    torch.testing.assert_close(change(warped, grey()), grey(), rtol=0, atol=1e-4)


def test_mirroring() -> None:
    torch.testing.assert_close(change(FilmAugmentation(flip=1.0), grey()), grey().flip(3), rtol=0, atol=1e-5)
    some = change(FilmAugmentation(flip=0.5), grey(40))
    mirrored = [torch.allclose(s, f.flip(2), atol=1e-4) for s, f in zip(some, grey(40), strict=True)]
    assert 8 < sum(mirrored) < 32


@pytest.mark.parametrize(
    ("augmentation", "angle", "shift", "scale"),
    [
        (FilmAugmentation(rotation=(30, 30)), 30.0, 0.0, 1.0),
        (FilmAugmentation(rotation=(90, 90)), 90.0, 0.0, 1.0),
        (FilmAugmentation(scale=(1.2, 1.2)), 0.0, 0.0, 1.2),
        (FilmAugmentation(rotation=(-20, -20), scale=(0.9, 0.9)), -20.0, 0.0, 0.9),
    ],
)
def test_places_are_torchvisions(
    augmentation: FilmAugmentation, angle: float, shift: float, scale: float
) -> None:
    wanted = TF.affine(grey(), -angle, [0, 0], scale, [0.0, 0.0], interpolation=TF.InterpolationMode.BILINEAR)
    inside = (slice(None), slice(None), slice(8, -8), slice(8, -8))  # edges are blended in another way
    torch.testing.assert_close(change(augmentation, grey())[inside], wanted[inside], rtol=0, atol=1e-4)


def test_films_are_shifted_up_to_the_share_and_what_comes_in_is_black() -> None:
    white = torch.ones(200, 1, 40, 40)
    shifted = change(FilmAugmentation(translation=0.1), white)
    black = (shifted.mean(3) < 0.5).sum(2).flatten()  # rows
    assert black.max() == 4
    assert black.min() == 0
    assert shifted.min() == pytest.approx(0, abs=1e-6)


def test_a_warp_takes_corners_to_corners() -> None:
    ends = [torch.tensor([[-0.8, -1.0]]), torch.tensor([[0.7, -0.6]]), torch.tensor([[1.0, 0.9]])]
    ends.append(torch.tensor([[-0.5, 0.7]]))
    forth = film_augmentation._square_to(tuple(ends))
    back = film_augmentation._inverse(forth)
    for start, end in zip(((-1, -1), (1, -1), (1, 1), (-1, 1)), ends, strict=True):
        there = forth[0] @ torch.tensor([*map(float, start), 1.0])
        torch.testing.assert_close(there[:2] / there[2], end[0])
        again = back[0] @ torch.tensor([*end[0].tolist(), 1.0])
        torch.testing.assert_close(again[:2] / again[2], torch.tensor(start).float())


def test_a_warp_is_torchvisions() -> None:
    side, ends = 40, [[4, 2], [35, 6], [37, 38], [8, 31]]  # of pixels' outer corners
    starts = [[0, 0], [side, 0], [side, side], [0, side]]
    wanted = TF.perspective(grey(1), starts, ends, interpolation=TF.InterpolationMode.BILINEAR)
    corners = tuple(torch.tensor([[2 * x / side - 1, 2 * y / side - 1]]) for x, y in ends)
    maps = film_augmentation._inverse(film_augmentation._square_to(corners))
    found = film_augmentation._sample(grey(1), maps)
    inside = (slice(None), slice(None), slice(10, 28), slice(10, 30))
    torch.testing.assert_close(found[inside], wanted[inside], rtol=0, atol=2e-2)


def test_light_is_torchvisions() -> None:
    films = grey(40)
    found = change(FilmAugmentation(brightness=(1.3, 1.3), contrast=(0.7, 0.7)), films)
    orders = [0, 0]
    for film, changed in zip(films, found, strict=True):
        first = TF.adjust_contrast(TF.adjust_brightness(film, 1.3), 0.7)
        second = TF.adjust_brightness(TF.adjust_contrast(film, 0.7), 1.3)
        orders[0] += torch.allclose(changed, first, atol=1e-5)
        orders[1] += torch.allclose(changed, second, atol=1e-5)
        assert torch.allclose(changed, first, atol=1e-5) or torch.allclose(changed, second, atol=1e-5)
    assert min(orders) > 5  # both are drawn


@pytest.mark.parametrize("sigma", [0.1, 0.8, 3.0])
def test_blur_is_torchvisions(sigma: float) -> None:
    found = change(FilmAugmentation(blur=(sigma, sigma)), grey())
    torch.testing.assert_close(found, TF.gaussian_blur(grey(), [5, 5], [sigma, sigma]), rtol=0, atol=1e-5)


def test_blur_is_a_films_own() -> None:
    rough = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(0))
    found = film_augmentation._blur(rough.expand(4, -1, -1, -1), torch.tensor([0.1, 0.5, 1.0, 3.0]))
    spread = found.std((1, 2, 3)).tolist()
    assert spread == sorted(spread, reverse=True)
    torch.testing.assert_close(found[:1], rough)


def test_contrast_is_stretched_to_the_ends() -> None:
    films = torch.cat([0.2 + 0.5 * grey(2), torch.full((1, 1, 40, 40), 0.3)])
    found = change(FilmAugmentation(autocontrast_probability=1.0), films)
    torch.testing.assert_close(found[:2], TF.autocontrast(films[:2]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[2], films[2])


@pytest.mark.parametrize("augmentation", EVERY)
def test_it_is_one_graph(augmentation: FilmAugmentation) -> None:
    films = normalised(grey())

    def step(images: Tensor) -> Tensor:
        return augmentation(images, PREPROCESSING)

    torch.manual_seed(4)
    plain = step(films)
    torch._dynamo.reset()
    torch.manual_seed(4)
    compiled: Any = torch.compile(step, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(films), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", EVERY)
def test_nothing_waits_for_the_gpu(augmentation: FilmAugmentation) -> None:
    films = normalised(grey()).cuda()
    augmentation(films, PREPROCESSING)
    torch.cuda.set_sync_debug_mode("error")  # a wait raises
    try:
        changed = augmentation(films, PREPROCESSING)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert changed.is_cuda
    assert changed.shape == films.shape
