"""Looking at every image of a dataset: the same findings from one process and from several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medbench.data.index import Index
from medbench.data.verify import verify
from medbench.progress import Progress
from medbench.specs import DatasetSpec

COUNT = 40
SPEC = DatasetSpec("films", "nothing:Nothing", "", "")


class Films:
    """As much of a dataset as is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def index(self, *, exclude_broken: bool = False) -> Index:
        names = [f"{number:02d}.jpg" for number in range(COUNT)]
        boxes = [np.array([[0.0, 0.0, 5.0, 99.0]]) if number == 7 else None for number in range(COUNT)]
        columns = {"sample": names, "patient": names, "image": names, "bytes": [1] * COUNT, "boxes": boxes}
        return Index.of(SPEC, self.root, columns)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for number in range(COUNT):
        Image.fromarray(random.integers(0, 256, (36, 48)).astype(np.uint8)).save(
            tmp_path / f"{number:02d}.jpg"
        )
    for number in (33, 3, 18):
        content = (tmp_path / f"{number:02d}.jpg").read_bytes()
        (tmp_path / f"{number:02d}.jpg").write_bytes(content[:-300])  # the header is whole
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_every_image_is_decoded_and_findings_are_in_order(folder: Path, workers: int) -> None:
    dataset: Any = Films(folder)
    index, problems = verify(dataset, full=True, progress=Progress(quiet=True), workers=workers)
    assert [problem.path for problem in problems] == ["03.jpg", "18.jpg", "33.jpg", "07.jpg"]
    assert all("can not be decoded" in problem.what for problem in problems[:3])
    assert "box outside its image" in problems[3].what and "the image is 48 x 36" in problems[3].what
    assert len(index) == COUNT - 4
    assert len(list(folder.iterdir())) == COUNT


def test_headers_alone_do_not_show_it(folder: Path) -> None:
    dataset: Any = Films(folder)
    _, problems = verify(dataset, full=False, progress=Progress(quiet=True), workers=2)
    assert [problem.path for problem in problems] == ["07.jpg"]
