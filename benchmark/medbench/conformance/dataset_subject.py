"""A dataset as the checks see it: its phantom twin at recipe `micro`, or a folder of the user's."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medbench.conformance.check import NotApplicable
from medbench.data.dataset import Dataset
from medbench.data.index import Index
from medbench.data.sources import Sources
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.request import RunRequest
from medbench.specs import DatasetSpec


@dataclass
class DatasetSubject:
    """A dataset under test.

    Attributes:
        spec: its declaration.
        catalogue: that it is in.
        folder: for phantom films.
        data: folders of real datasets, by name.
    """

    spec: DatasetSpec
    catalogue: Catalogue
    folder: Path
    data: Mapping[str, Path]

    @property
    def is_real(self) -> bool:
        """Whether the user named its folder."""
        return self.spec.name in self.data

    def open(self) -> Dataset:
        """The dataset, not yet read.

        Raises:
            NotApplicable: it has no phantom twin, and no folder of it is named.
        """
        if not self.is_real and not self.spec.phantom:
            name = self.spec.name
            raise NotApplicable(f"it has no phantom twin; give its folder with --data {name}=DIR")
        return self.sources(self.folder).evaluation(self.spec.name)

    def sources(self, cache: Path) -> Sources:
        """Where the dataset is found, its phantom below `cache`."""
        request = RunRequest(
            methods=(),
            tasks=(),
            results=cache / "results",
            cache=cache,
            recipe="micro",
            data={name: where for name, where in self.data.items() if name == self.spec.name},
            quiet=True,
        )
        return Sources(request, self.catalogue, Progress(quiet=True))

    @cached_property
    def opened(self) -> Dataset:
        """The dataset, read once."""
        return self.open()

    @cached_property
    def index(self) -> Index:
        """Its samples."""
        return self.opened.index()
