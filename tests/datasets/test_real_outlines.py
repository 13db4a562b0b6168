"""Masks and boxes that radiologists drew on real films, through the public adapters."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medbench.data.images import image_size
from medbench.data.regions import encode_rle, mask_of
from medbench.data.show import picture
from medbench.data.verify import verify
from medbench.phantom.dicom import dicom_file
from medbench.progress import Progress
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.siim import Siim
from medbench_tasks.datasets.table import Table

SPECS = {spec.name: spec for spec in medbench_datasets()}
QUIET = Progress(quiet=True)
LABEL = "ground_glass_opacities"


@pytest.fixture
def masks(test_data: Path) -> pd.DataFrame:
    """A row a film: file, mask, area_px, x, y, width, height."""
    rows = pd.read_csv(test_data / "images_text/finding_masks.csv")
    return rows[rows["label"] == LABEL].set_index("image_id")


def test_masks_and_boxes_of_a_table(test_data: Path, tmp_path: Path, masks: pd.DataFrame) -> None:
    for folder in ("images", "finding_masks"):
        (tmp_path / folder).symlink_to(test_data / "images_text" / folder)
    masks.drop(columns=["label", "area_px"]).to_csv(tmp_path / "films.csv")
    index, problems = verify(Table(SPECS["table"], tmp_path / "films.csv"), full=False, progress=QUIET)
    assert (len(index), problems) == (22, [])
    for row, sample in enumerate(index.table["sample"]):
        own = masks.loc[sample]
        height, width = image_size(tmp_path / own["file"])
        mask = mask_of(index.table["regions"][row], height, width, tmp_path)
        assert mask.sum() == own["area_px"]
        x, y, across, down = index.table["boxes"][row][0].astype(int)
        assert mask[y : y + down, x : x + across].sum() == mask.sum()  # the box holds the mask,
        assert mask[y].any() and mask[y + down - 1].any()  # and ends where it ends
        assert mask[:, x].any() and mask[:, x + across - 1].any()
    assert picture(index, 0).size == (900 + 460, 900)


def test_lung_boxes_of_a_table(test_data: Path) -> None:
    dataset = Table(SPECS["table"], test_data / "images_text/lung_boxes.csv")
    index, problems = verify(dataset, full=False, progress=QUIET)
    assert problems == []
    assert sum(map(len, index.table["boxes"])) == 58


def test_masks_in_siims_layouts(test_data: Path, tmp_path: Path, masks: pd.DataFrame) -> None:
    tree, mirror = tmp_path / "tree", tmp_path / "mirror"
    for folder in ("png_images", "png_masks"):
        (mirror / folder).mkdir(parents=True)
    lines, names = ["ImageId, EncodedPixels"], ["new_filename,ImageId,has_pneumo"]
    for number, (sample, own) in enumerate(masks.iloc[:6].iterrows()):
        film = np.asarray(Image.open(test_data / "images_text" / own["file"]).convert("L"))
        mask = np.asarray(Image.open(test_data / "images_text" / own["mask"])) > 0
        path = tree / "dicom-images-train" / f"{number}" / "series" / f"{sample}.dcm"
        path.parent.mkdir(parents=True)
        path.write_bytes(dicom_file(film, number, "x", "F", "PA"))
        lines.append(f"{sample}, {encode_rle(mask)}")
        Image.fromarray(film).save(mirror / "png_images" / f"{number}.png")
        Image.fromarray(mask).save(mirror / "png_masks" / f"{number}.png")
        names.append(f"{number}.png,{sample},1")
    (tree / "train-rle.csv").write_text("\n".join(lines))
    (mirror / "stage_1_train_images.csv").write_text("\n".join(names))
    (mirror / "stage_1_test_images.csv").write_text(names[0])
    for root in (tree, mirror):
        index, problems = verify(Siim(SPECS["siim"], root), full=True, progress=QUIET)
        assert (len(index), problems) == (6, [])
        for row, sample in enumerate(index.table["sample"]):
            size = image_size(root / index.table["image"][row])
            assert mask_of(index.table["regions"][row], *size, root).sum() == masks.loc[sample, "area_px"]
