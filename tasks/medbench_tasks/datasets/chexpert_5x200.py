"""CheXpert 5x200: a thousand frontal films of CheXpert, two hundred with one finding of the competition alone.

Built out of train.csv of CheXpert; the folder is CheXpert's own, in any of the forms that `chexpert` reads (below a
data root, a link: `ln -s chexpert chexpert_5x200`). Which films: see `medbench_tasks.datasets.chexpert.five_by`.

S.-C. Huang et al. (GLoRIA), ICCV 2021; drawn with seed 0 as in mgca/preprocess/chexpert.py, arXiv 2210.06044.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from medbench.data.index import Index
from medbench.data.splits import Split, SplitSpec
from medbench.data.verify import where_to_get
from medbench.errors import DataError
from medbench_tasks.datasets.chexpert import COMPETITION, Chexpert, candidates, five_by

EACH = 200


class Chexpert5x200(Chexpert):
    """Samples, patients and files as in `Chexpert`; labels: 1 for the class of the film, 0 for the four others."""

    splits: ClassVar[Mapping[str, SplitSpec]] = {
        "mgca": SplitSpec(
            "mgca/preprocess/chexpert.py: pandas' sample(n=200, random_state=0) among the candidates of a class, in"
            " the order of train.csv; everything is for testing",
            (0, 0, 1_000),
            "8a2bd5f31be3d7396902ff0b33c5bf2bf6024b3e0bac569304fa18e75219d0ca",
        )
    }

    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read train.csv and choose; see `Dataset.index`. Of a subset as many are taken of each class as all have."""
        found = {name: len(own) for name, own in candidates(self.train).items()}
        each = min(EACH, *found.values())
        if not each:
            counts = ", ".join(f"{name} {count}" for name, count in found.items())
            raise DataError(
                f"{self.spec.name}: train.csv in {self.root} has films with one finding alone of some of the five"
                f" classes only ({counts}); expected {EACH} of each, and at least one."
                f" {where_to_get(self.spec, self.root)}"
            )
        rows = self.train.iloc[five_by(self.train, each)].reset_index(drop=True)
        number = np.repeat(np.arange(len(COMPETITION)), each)
        labels = {name: number == own for own, name in enumerate(COMPETITION)}
        return self._index_of(rows, labels, exclude_broken=exclude_broken)

    def divide(self, index: Index, name: str) -> Split:
        """`mgca`: all films are for testing."""
        nothing = np.zeros(0, np.int64)
        return Split(name, nothing, nothing, np.arange(len(index)))
