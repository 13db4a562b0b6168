"""A dataset: a real folder layout that can be turned into an index and checks itself."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from medbench.data.index import Index
from medbench.data.reports import CLEANINGS, DEFAULT_CLEANING
from medbench.data.splits import Split, SplitSpec
from medbench.errors import UsageError, did_you_mean
from medbench.specs import DatasetSpec


class Dataset(ABC):
    """Base of a dataset.

    Attributes:
        spec: its declaration.
        root: the folder (or, for `table`, the file) that it is read from.
        options: what the user said about it; only `table` has any (column names).
        cleaning: how its reports are read, where it has any.
        splits: the splits it knows, by name; the first one is taken where nobody names one.
        dropped: after `index`, how many of its rows or reports give no sample or no text, by reason.
    """

    splits: ClassVar[Mapping[str, SplitSpec]]

    def __init__(
        self,
        spec: DatasetSpec,
        root: Path,
        options: Mapping[str, Any] | None = None,
        *,
        cleaning: str = DEFAULT_CLEANING,
    ) -> None:
        """`cleaning` is a name of `medbench.data.reports.CLEANINGS`."""
        self.spec = spec
        self.root = root
        self.options = dict(options or {})
        self.cleaning = CLEANINGS[cleaning]
        self.dropped: dict[str, int] = {}
        self.opened()

    def opened(self) -> None:  # noqa: B027  # nothing, for most
        """What is left to do once the attributes are set; a subclass may look at its folder or its options here.

        Raises:
            DataError: the options are not those of this dataset.
        """

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
        """Lines for the log about how it was read, once `index` was called: what was dropped, what was guessed."""
        return tuple(f"not used: {count:,} x {reason}" for reason, count in self.dropped.items())

    def split(self, index: Index, name: str) -> Split:
        """The split called `name` of this index.

        Raises:
            UsageError: the dataset has no split of that name.
            DataError: the index can not be divided.
        """
        if name not in self.splits:
            hint = did_you_mean(name, self.splits)
            raise UsageError(
                f"{self.spec.name} has no split {name!r}.{hint} It has {', '.join(self.splits)}."
            )
        return replace(self.divide(index, name), leak=self.splits[name].leak)

    @abstractmethod
    def divide(self, index: Index, name: str) -> Split:
        """The split called `name`, which is one of `splits`.

        Raises:
            DataError: the index can not be divided.
        """
