"""A results folder as leaderboards see it: records, and what lies beside them."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.errors import DataError
from medbench.plugins import Catalogue
from medbench.records import Record, ResultStore, read_predictions, read_record


class Results:
    """What every leaderboard is made from.

    Attributes:
        root: the results folder.
        records: current ones, sorted by path.
        failures: attempts that failed.
        base: the folder as seen from where leaderboards are written to, for links; None where they are only shown.
    """

    def __init__(
        self,
        root: Path,
        records: dict[str, Record],
        failures: dict[str, Record],
        catalogue: Catalogue | None = None,
        base: str | None = None,
    ) -> None:
        self.root = root
        self.records = tuple(records.values())
        self.failures = tuple(failures.values())
        self.catalogue = catalogue
        self.base = base
        # A cell that was done after it had failed is found at its record.
        self._paths = {record.cell_id: path for path, record in {**failures, **records}.items()}
        self._draws: dict[str, npt.NDArray[np.float64] | None] = {}

    @classmethod
    def read(cls, root: Path, catalogue: Catalogue | None = None, seen_from: Path | None = None) -> "Results":
        """Read all records of a folder.

        Args:
            root: the results folder.
            catalogue: known tasks, to compute draws from predictions where none are kept.
            seen_from: folder that leaderboards are written to, for links to the records.

        Raises:
            DataError: a file is no record.
        """
        records, failures = (
            {path.relative_to(root).as_posix(): read_record(path) for path in paths}
            for paths in (ResultStore(root).files(), sorted(root.glob("*/*/*/*.failed-*.json")))
        )
        base = None if seen_from is None else Path(os.path.relpath(root, seen_from)).as_posix()
        return cls(root, records, failures, catalogue, base)

    def path(self, record: Record) -> str:
        """Of a record, relative to the folder, with forward slashes."""
        return self._paths[record.cell_id]

    def draws(self, record: Record) -> npt.NDArray[np.float64] | None:
        """(2000,) bootstrap draws of the primary metric, NaN where not defined; None where there are none."""
        if record.cell_id not in self._draws:
            file = (self.root / self.path(record)).with_suffix(".draws.npy")
            self._draws[record.cell_id] = np.load(file, allow_pickle=False) if file.exists() else None
        return self._draws[record.cell_id]

    def predictions(self, record: Record) -> pd.DataFrame | None:
        """The predictions of a record, None where they are not beside it."""
        try:
            return read_predictions(self.root / self.path(record), record)
        except DataError:
            return None
