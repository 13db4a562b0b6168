"""Masks in the square: every kind of annotation, their geometry, and films that nobody annotated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medbench.data.images import fit_square
from medbench.data.index import Index
from medbench.data.regions import Ellipse, MaskFile, Polygon, Rle, encode_rle
from medbench.errors import DataError
from medbench.progress import Progress
from medbench.protocols import square_masks
from medbench.protocols.square_masks import SquareMasks, file_mask, positive_rows
from medbench.specs import DatasetSpec

SPEC = DatasetSpec("films", "", "", "")
QUIET = Progress(quiet=True)
HEIGHT, WIDTH = 96, 48
"""Of the files: an odd aspect."""


def index_of(root: Path = Path(), **columns: Any) -> Index:
    count = len(next(iter(columns.values())))
    names = [f"s{i}" for i in range(count)]
    return Index.of(
        SPEC,
        root,
        {"sample": names, "patient": names, "image": names, "bytes": np.ones(count), **columns},
    )


def masks_of(index: Index, side: int = 32, labels: tuple[str, ...] = (), **more: Any) -> SquareMasks:
    sizes = np.tile([HEIGHT, WIDTH], (len(index), 1))
    return SquareMasks(index, np.arange(len(index)), sizes, side, labels, more.get("progress", QUIET))


def test_the_union_of_boxes() -> None:
    """Rows are thirds of the file's, columns two thirds."""
    boxes = [np.array([[3.0, 6, 15, 30], [9, 6, 12, 60]]), np.zeros((0, 4))]
    masks = masks_of(index_of(boxes=boxes)).batch(np.array([0, 1, 0]))
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[2:12, 2:12] = True
    expected[2:22, 6:14] = True
    assert torch.equal(masks, torch.stack([expected, torch.zeros_like(expected), expected]))


def test_all_kinds_of_regions_and_mask_files(tmp_path: Path) -> None:
    drawn = np.zeros((HEIGHT, WIDTH), np.bool_)
    drawn[60:80, 10:30] = True
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    regions = [
        (Rle("a", encode_rle(drawn)),),
        (MaskFile("a", "mask.png"),),
        (Polygon("a", ((10, 60), (29, 60), (29, 79), (10, 79))),),
        (Ellipse("a", 10, 60, 20, 20),),
        (),
    ]
    index = index_of(tmp_path, regions=regions)
    masks = masks_of(index)
    found = masks.batch(np.arange(5)).numpy()
    expected = fit_square(drawn.astype(np.uint8) * 255, 32, "stretch") > 127
    for row in range(3):
        np.testing.assert_array_equal(found[row], expected)
    assert 0 < found[3].sum() < found[0].sum()
    assert (found[3] <= found[0]).all()
    assert not found[4].any()


def test_a_bright_shape_lies_under_its_mask() -> None:
    """The film goes through the same geometry: what is bright in the square is what the mask says."""
    shape = np.zeros((HEIGHT, WIDTH), np.bool_)
    shape[11:70, 5:17] = True
    index = index_of(regions=[(Rle("a", encode_rle(shape)),)])
    film = fit_square(np.where(shape, 200, 0).astype(np.uint8), 40, "stretch")
    mask = masks_of(index, 40).batch(np.array([0]))[0].numpy()
    np.testing.assert_array_equal(film >= 100, mask)


def test_labels_choose_among_regions_and_boxes() -> None:
    boxes = [np.array([[0.0, 0, 24, 48], [24, 48, 24, 48]]), np.array([[0.0, 0, 24, 48]])]
    labels = [("active", "latent"), ("active",)]
    index = index_of(boxes=boxes, box_labels=labels)
    assert positive_rows(index, ("latent",)).tolist() == [True, False]
    found = masks_of(index, labels=("latent",)).batch(np.array([0, 1]))
    assert found[0, 16:, 16:].all() and found[0].sum() == 256 and not found[1].any()
    regions = index_of(regions=[(Ellipse("ring", 0, 0, 48, 48), Ellipse("button", 0, 48, 48, 48))])
    only = masks_of(regions, labels=("button",)).batch(np.array([0]))[0]
    assert only[16:].any() and not only[:16].any()
    assert positive_rows(regions, ()).tolist() == [True]


def test_regions_come_before_boxes() -> None:
    index = index_of(regions=[(Ellipse("a", 0, 0, 24, 48),)], boxes=[np.array([[0.0, 0, 48, 96]])])
    assert file_mask(index, "regions", 0, (), HEIGHT, WIDTH)[:, 24:].sum() == 0


def test_the_kind_of_outlines_is_looked_up_once_and_not_once_a_film(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Index] = []
    outlined_by = square_masks.outlined_by
    monkeypatch.setattr(
        square_masks, "outlined_by", lambda index: (asked.append(index), outlined_by(index))[1]
    )
    counts = []
    for films in (2, 40):
        asked.clear()
        masks_of(index_of(boxes=[np.array([[0.0, 0, 24, 48]])] * films))
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_films_that_nobody_annotated_are_refused() -> None:
    index = index_of(regions=[(Ellipse("a", 0, 0, 24, 48),), None, ()])
    message = r"films: 1 of 3 films of the split have no regions \(the first is s1\): nobody annotated them"
    with pytest.raises(DataError, match=message):
        masks_of(index)
    sizes = np.tile([HEIGHT, WIDTH], (3, 1))
    masks = SquareMasks(
        index, np.array([2, 0]), sizes, 32, (), QUIET
    )  # one that is not in the split may lack them
    assert masks.batch(np.array([2, 0])).flatten(1).any(1).tolist() == [False, True]


def test_a_region_too_small_for_the_square_leaves_an_empty_mask() -> None:
    index = index_of(boxes=[np.array([[10.0, 10, 1, 1]])])
    masks = masks_of(index, 16)
    assert positive_rows(index, ()).all()
    assert not masks.batch(np.array([0])).any()


@pytest.mark.parametrize("side", [7, 32, 33])
def test_sides_that_eight_does_not_divide(side: int) -> None:
    index = index_of(boxes=[np.array([[0.0, 0, 48, 96]])])
    assert masks_of(index, side).batch(np.array([0])).all()


def test_size_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [np.array([[0.0, 0, 24, 48]])] * 3 + [np.zeros((0, 4))] * 2
    masks_of(index_of(boxes=boxes), 64, progress=Progress())
    assert "masks of 5 films at 64 px: 3 are not empty and take 0.0 MB" in capsys.readouterr().err
