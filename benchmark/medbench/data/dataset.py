"""A dataset: a real folder layout that can be turned into an index and checks itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medbench.data.index import Index
from medbench.data.splits import Split
from medbench.specs import DatasetSpec


class Dataset(ABC):
    """Base of a dataset.

    Attributes:
        spec: its declaration.
        root: the folder (or, for `table`, the file) that it is read from.
        options: what the user said about it; only `table` has any (column names).
        splits: names of the splits it knows.
    """

    splits: ClassVar[tuple[str, ...]]

    def __init__(self, spec: DatasetSpec, root: Path, options: Mapping[str, Any] | None = None) -> None:
        self.spec = spec
        self.root = root
        self.options = dict(options or {})

    @abstractmethod
    def index(self, *, exclude_broken: bool = False) -> Index:
        """Read the layout.

        Args:
            exclude_broken: leave out samples with a problem and name them in `Index.excluded`.

        Raises:
            DataError: a file or column is missing; or samples have problems and `exclude_broken` is False. It names
                the file that was looked for, counts and names the problems, and says what to do.
        """

    def notes(self) -> Sequence[str]:
        """Lines for the log about how it was read, once `index` was called: columns that were guessed, say."""
        return ()

    @abstractmethod
    def split(self, index: Index, name: str) -> Split:
        """The split called `name` of this index.

        Raises:
            DataError: the dataset has no split of that name.
        """
