"""Object-CXR (JF Healthcare, MIDL 2020 challenge): foreign objects on 10,000 films, half of them without any.

    train.csv   dev.csv      image_name,annotation (or image_path): a row a film
    train/00001.jpg ...      8,000 films, 00001 to 08000
    dev/08001.jpg ...        1,000 films, 08001 to 09000
    test.csv, test/09001.jpg 1,000 films, 09001 to 10000; not in every copy (the challenge kept the annotations back)

An annotation is empty, or outlines with ";" between them, each a number for its kind and coordinates in pixels:

    0 x1 y1 x2 y2            rectangle, by its corners
    1 x1 y1 x2 y2            ellipse, by the corners of its box
    2 x1 y1 x2 y2 ... xn yn  polygon

Rectangles and ellipses have the box that is given. A polygon's is MGCA's (mgca/preprocess/object_cxr.py): the smallest
box with the polygon's label point in its middle that holds the polygon, cut off here at the film's edges. The label
point is the innermost point, to within 10 pixels, of what lies within 100 pixels of the polygon's line. MGCA found it
with another algorithm, so that its boxes may be some pixels larger or smaller. The outlines themselves are regions.

JF Healthcare, object-CXR, https://jfhealthcare.github.io/object-CXR/.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

import numpy as np
import pandas as pd

from medbench.data.dataset import Dataset
from medbench.data.images import image_size
from medbench.data.index import Index, Problem
from medbench.data.regions import Ellipse, Polygon, Rectangle, Region
from medbench.data.splits import Split, SplitSpec, SplitUnavailable, split_of
from medbench.data.verify import (
    box_problem,
    file_problem,
    folder_sizes,
    read_table,
    require_columns,
    require_file,
    settle,
    where_to_get,
)
from medbench.errors import DataError

LABEL = "foreign_object"
TABLES = ("train", "dev", "test")
WITH_TEST = 10_000
"""Films of a copy that has the test part."""

_REACH = 100
_TOLERANCE = 10
"""Pixels, both of mgca/preprocess/object_cxr.py."""

_MGCA = "sklearn's train_test_split of the rows of train.csv, random_state 0; test: dev.csv"

Box = tuple[float, float, float, float]


class ObjectCxr(Dataset):
    """The challenge's own folder layout. Sample and patient are the film's number; label: `foreign_object`.

    The release does not say which films are of one patient.
    """

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "mgca": SplitSpec(
            f"G2D, Table 6, and MGCA's paper: 80/20 by {_MGCA}",
            (6_400, 1_600, 1_000),
            "c080e9983ce6bc258bd3423ad633b7df0150e96a1bd84d76213e4f7afb46b40a",
        ),
        "mgca_code": SplitSpec(
            f"mgca/preprocess/object_cxr.py: 90/10 by {_MGCA}",
            (7_200, 800, 1_000),
            "5fdd144ba27dcfafbe2e120c19099ad0f7cbb960e9c427259def299976f9e2e8",
        ),
        "official": SplitSpec(
            "the challenge's train, dev and test; BenchX's lists",
            (8_000, 1_000, 1_000),
            "ecd049769c2082a519a324cc233dac1450ecd5ac94fea4758774d4943effa39e",
        ),
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the tables and list the films; see `Dataset.index`. Of films with polygons the headers are read."""
        rows = self._rows()
        samples = rows["sample"].tolist()
        images = (rows["part"] + "/" + rows["name"]).tolist()
        sizes: dict[str, int] = {}
        for part in dict.fromkeys(rows["part"].tolist()):
            sizes |= folder_sizes(
                self.spec, self.root, part, "films", hint=f"Unpack {part}.zip next to {part}.csv."
            )
        problems = [
            Problem(sample, image, what)
            for sample, image in zip(samples, images, strict=True)
            if (what := file_problem(sizes.get(image))) is not None
        ]
        problems += [Problem(s, s, "film given twice") for s in rows["sample"][rows["sample"].duplicated()]]
        boxes, regions = [], []
        for sample, part, image, annotation in zip(
            samples, rows["part"], images, rows["annotation"], strict=True
        ):
            try:
                found = outlines(annotation)
            except ValueError as error:
                problems.append(Problem(sample, f"{part}.csv", f"{error}, {image}"))
                found = ()
            own = [box for _, box in found]
            if any(isinstance(region, Polygon) for region, _ in found) and sizes.get(image):
                own = self._within(image, own)
            boxes.append(np.array(own, np.float64).reshape(-1, 4))
            regions.append(tuple(region for region, _ in found))
            for box in boxes[-1]:
                if (what := box_problem(box)) is not None:
                    problems.append(Problem(sample, f"{part}.csv", f"{what}, {image}"))
        index = Index.of(
            self.spec,
            self.root,
            {
                "sample": samples,
                "patient": samples,
                "split": rows["part"].tolist(),
                "image": images,
                "bytes": [sizes.get(image) or 0 for image in images],
                "boxes": boxes,
                "regions": regions,
            },
            labels={LABEL: (rows["annotation"] != "").tolist()},
            official_size=WITH_TEST if "test" in set(rows["part"]) else None,
        )
        return settle(self, index, problems, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`mgca` (80/20 of the training films), `mgca_code` (90/10) or `official`.

        Divided is what the tables name, so that a film that is left out moves no other.
        """
        rows = self._rows()
        parts = {part: rows["sample"][rows["part"] == part].to_numpy(object) for part in TABLES}
        if name == "official":
            if not len(parts["test"]):
                raise SplitUnavailable(
                    f"{index.dataset}: the third part of the split {name} is test.csv, which this copy does not have"
                )
            return split_of(index, name, parts["train"], parts["dev"], parts["test"])
        from sklearn.model_selection import train_test_split

        share = 0.1 if name == "mgca_code" else 0.2
        try:
            train, val = train_test_split(parts["train"], test_size=share, random_state=0)
        except ValueError as error:
            raise SplitUnavailable(
                f"{index.dataset}: {len(parts['train'])} training films in {index.root} are too few for the split "
                f"{name} ({error}). Use more of the dataset."
            ) from error
        return split_of(index, name, train, val, parts["dev"])

    def _rows(self) -> pd.DataFrame:
        """Rows of the tables as text, in their order: part, name, sample, annotation ("" for none)."""
        tables = []
        for part in TABLES:
            name = f"{part}.csv"
            if part == "test" and not (self.root / name).is_file():
                continue
            path = require_file(self.spec, self.root, [name], f"the table of the {part} films")
            table = read_table(self.spec, self.root, path, dtype=str, keep_default_na=False)
            column = next((c for c in ("image_name", "image_path") if c in table.columns), "image_name")
            require_columns(self.spec, self.root, path, table.columns, [column, "annotation"])
            names = [PurePosixPath(image).name for image in table[column]]
            tables.append(
                pd.DataFrame(
                    {
                        "part": part,
                        "name": names,
                        "sample": [PurePosixPath(name).stem for name in names],
                        "annotation": table["annotation"].str.strip(),
                    }
                )
            )
        rows = pd.concat(tables, ignore_index=True)
        if rows.empty:
            raise DataError(
                f"{self.spec.name}: the tables in {self.root} have no rows. {where_to_get(self.spec, self.root)}"
            )
        return rows

    def _within(self, image: str, boxes: Sequence[Box]) -> list[Box]:
        """Boxes cut off at the film's edges; as they are, if its header can not be read (`verify` tells why)."""
        try:
            height, width = image_size(self.root / image)
        except DataError:
            return list(boxes)
        cut = []
        for x, y, across, down in boxes:
            right, bottom = min(x + across, width), min(y + down, height)
            cut.append((max(x, 0.0), max(y, 0.0), right - max(x, 0.0), bottom - max(y, 0.0)))
        return cut


def outlines(annotation: str) -> tuple[tuple[Region, Box], ...]:
    """What an annotation says, in the challenge's own syntax (see the head of this file).

    Returns:
        Region and box (x, y, width, height in pixels) of each outline.

    Raises:
        ValueError: it is not written in that syntax.
    """
    return tuple(_outline(one) for one in annotation.split(";") if one.strip())


def _outline(one: str) -> tuple[Region, Box]:
    kind, *given = one.split()
    try:
        numbers = [float(number) for number in given]
    except ValueError:
        raise ValueError(f"annotation with something that is no number ({_short(one)})") from None
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"annotation with a number that is not finite ({_short(one)})")
    if kind == "2" and len(numbers) >= 6 and len(numbers) % 2 == 0:
        corners = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        return Polygon(LABEL, corners), polygon_box(corners)
    if kind not in ("0", "1") or len(numbers) != 4:
        raise ValueError(
            f"annotation is no outline ({_short(one)}; expected 0 or 1 and four numbers, or 2 and three corners)"
        )
    left, right = sorted((numbers[0], numbers[2]))
    top, bottom = sorted((numbers[1], numbers[3]))
    box = (left, top, right - left, bottom - top)
    return (Ellipse(LABEL, *box) if kind == "1" else Rectangle(LABEL, *box)), box


def polygon_box(corners: Sequence[tuple[float, float]]) -> Box:
    """MGCA's box of a polygon: its label point lies in the middle; see the head of this file.

    Args:
        corners: at least three (x, y) in pixels.

    Returns:
        x, y, width, height in pixels; it may pass the film's edges.
    """
    import shapely  # 0.1 s to import, and only some films have polygons

    line = shapely.LineString([*corners, corners[0]])
    inner = shapely.maximum_inscribed_circle(line.buffer(_REACH), tolerance=_TOLERANCE)
    x, y = inner.coords[0]
    left, top, right, bottom = line.bounds
    across, down = max(x - left, right - x), max(y - top, bottom - y)
    return x - across, y - down, 2 * across, 2 * down


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
