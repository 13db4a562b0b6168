"""A results folder as leaderboards and comparisons read it: records, and what lies beside them."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from medbench.errors import DataError, MedbenchError
from medbench.metrics.bootstrap import SMALL_TEST, Bootstrap
from medbench.plugins import Catalogue, declared
from medbench.record_index import RecordIndex, record_files
from medbench.records import (
    Identity,
    Record,
    ResultStore,
    read_draws,
    read_listed,
    read_predictions,
    read_record,
    sha256_json,
)
from medbench.statistics.delong import Influence, influence

_T = TypeVar("_T")

_SAME = 1e-9  # two computations of one metric


MANY: Final = 20_000
"""Records beyond which those of a folder are taken from its index (`medbench.record_index`), without their bulk."""


class Results:
    """Records of a folder with their draws and predictions, which are read when they are asked for, once.

    Attributes:
        root: the folder.
        records: current ones, sorted by path: no failed or superseded attempts.
        failures: attempts that failed, sorted by path; a cell among them may have been done since.
        catalogue: known tasks, if it was read with them.
        base: the folder as seen from where leaderboards are written to, with slashes, for links to the records; None
            where they are only shown.
        brief: whether `records` and `failures` are without their bulk (`medbench.record_index.Indexed`), since there
            are more than `MANY`; `whole` reads one of them whole.
    """

    brief = False
    _keys: Mapping[int, tuple[str, str]] = {}

    def __init__(
        self,
        root: Path,
        records: Sequence[tuple[str, Record]],
        failures: Sequence[tuple[str, Record]],
        catalogue: Catalogue | None = None,
        base: str | None = None,
    ) -> None:
        self.root = root
        self.records = tuple(record for _, record in records)
        self.failures = tuple(record for _, record in failures)
        self.catalogue, self.base = catalogue, base
        self._paths = {id(record): path for path, record in (*records, *failures)}
        self._bootstraps: dict[int, Bootstrap | None] = {}
        self._influences: dict[int, Influence | None] = {}

    @classmethod
    def read(
        cls,
        root: Path,
        catalogue: Catalogue | None = None,
        seen_from: Path | None = None,
        cache: Path | None = None,
    ) -> "Results":
        """Read a results folder.

        Args:
            root: the folder.
            catalogue: known tasks. With it draws are computed from predictions where a record, one from before there
                were draws, has none beside it; without it such a record has no draws.
            seen_from: folder that leaderboards are written to.
            cache: where what can be made again is kept. With it more than `MANY` records are taken from their index.

        Raises:
            DataError: a file is no record of a schema that this version reads.
        """
        base = None if seen_from is None else Path(os.path.relpath(root, seen_from)).as_posix()
        if cache is not None and len(record_files(root)) > MANY:
            current, failed = RecordIndex(root, cache).records()
            results = cls(
                root,
                [(one.path, one.record) for one in current],
                [(one.path, one.record) for one in failed],
                catalogue,
                base,
            )
            results.brief = True
            results._keys = {id(one.record): (one.row_key, one.column_key) for one in (*current, *failed)}
            return results

        def whole(files: Iterable[Path]) -> list[tuple[str, Record]]:
            return [(path.relative_to(root).as_posix(), record) for path, record in read_listed(files)]

        failures = sorted(root.glob("*/*/*/*.failed-*.json"))
        return cls(root, whole(ResultStore(root).files()), whole(failures), catalogue, base)

    def whole(self, record: Record) -> Record:
        """One of these records with all that is in its file.

        Raises:
            DataError: the file is no record any more.
        """
        return read_record(self._file(record)) if self.brief else record

    def keys(self, record: Record) -> tuple[str, str]:
        """`row_key` and `column_key` of one of these records."""
        return self._keys.get(id(record)) or (row_key(record.identity), column_key(record))

    def path(self, record: Record) -> str:
        """Of one of these records, from the folder on, with slashes."""
        try:
            return self._paths[id(record)]
        except KeyError:
            raise ValueError(f"record {record.cell_id[:12]} was not read from {self.root}") from None

    def draws(self, record: Record) -> npt.NDArray[np.float64] | None:
        """(D,) the primary metric in each draw, NaN where it is not defined; None where there are no draws.

        Raises:
            DataError: the file is not the recorded one.
        """
        bootstrap = self.bootstrap(record)
        return None if bootstrap is None else bootstrap.draws

    def bootstrap(self, record: Record) -> Bootstrap | None:
        """The draws, and what was drawn; None where there are none.

        Raises:
            DataError: the file is not the recorded one.
        """
        return self._once(self._bootstraps, record, self._bootstrap)

    def predictions(self, record: Record) -> pd.DataFrame | None:
        """One row a test sample; None where the file is not beside the record. Not kept in memory.

        Raises:
            DataError: the file is not the recorded one.
        """
        path = self._file(record)
        if record.predictions is None or not (path.parent / record.predictions.path).exists():
            return None
        return read_predictions(path, record)

    def influence(self, record: Record) -> Influence | None:
        """Of the patients on the primary metric, where it is an AUROC and predictions are there; else None.

        Raises:
            DataError: the predictions are not the recorded ones.
        """
        return self._once(self._influences, record, self._influence)

    def small(self, record: Record) -> bool:
        """Whether the test set is small (`Resample.small`); without draws by its size alone.

        Raises:
            DataError: a file beside the record is not the recorded one.
        """
        if record.draws is not None:
            return record.draws.drawn().small
        bootstrap = self.bootstrap(record)
        if bootstrap is not None:
            return bootstrap.resample.small
        return record.primary is not None and record.primary.n < SMALL_TEST

    def _file(self, record: Record) -> Path:
        return self.root / self.path(record)

    def _once(self, known: dict[int, _T], record: Record, make: Callable[[Record], _T]) -> _T:
        if id(record) not in known:
            known[id(record)] = make(record)
        return known[id(record)]

    def _bootstrap(self, record: Record) -> Bootstrap | None:
        block, path = record.draws, self._file(record)
        if block is None:
            return self._computed(record)
        if not (path.parent / block.path).exists():
            return self._computed(record)
        return Bootstrap(read_draws(path, record), block.drawn())

    def _computed(self, record: Record) -> Bootstrap | None:
        """From predictions, if the installed task gives what is recorded."""
        primary, catalogue = record.primary, self.catalogue
        if catalogue is None or primary is None:
            return None
        spec = catalogue.tasks.get(declared(record.identity.task))
        predictions = self.predictions(record)
        if spec is None or spec.version != record.identity.task_version or predictions is None:
            return None
        try:
            metric = catalogue.make_task(spec, record.identity.recipe).score(predictions)[0]
        except DataError:
            raise
        except (MedbenchError, LookupError, ValueError):  # what `results verify` would say more of
            return None
        if metric.value is None or primary.value is None or abs(metric.value - primary.value) > _SAME:
            return None
        same = metric.name == primary.name and metric.version == primary.version
        return metric.bootstrap if same else None

    def _influence(self, record: Record) -> Influence | None:
        if record.primary is None:
            return None
        predictions = self.predictions(record)
        if predictions is None:
            return None
        return influence(predictions, record.primary.name, record.primary.value)


def repeats(records: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Pairs (repeat, first) among records that differ in nothing but the seed: predictions that are the same bytes.

    Such a pair says that nothing depended on the seed, or that one run was copied; either way it is one result and
    not two. A result that can't depend on the seed is recorded with `seed: null`, and is no repeat.
    """
    first: dict[str, Record] = {}
    pairs = []
    for record in sorted(records, key=seed_order):
        if record.predictions is not None:
            earlier = first.setdefault(record.predictions.sha256, record)
            if earlier.identity.seed != record.identity.seed:
                pairs.append((record, earlier))
    return pairs


@dataclass(frozen=True)
class Counting:
    """Which records of one cell of a table count; they differ in nothing but the seed.

    Attributes:
        counted: with a value, one a seed, by seed.
        repeated: (repeat, first), see `repeats`; the first counts.
        several: records of one seed; where there are any, none counts, since nobody knows which should.
        undefined: whose metric is not defined.
    """

    counted: tuple[Record, ...] = ()
    repeated: tuple[tuple[Record, Record], ...] = ()
    several: tuple[tuple[Record, ...], ...] = ()
    undefined: tuple[Record, ...] = ()


def counting(records: Iterable[Record]) -> Counting:
    """Which of the records of one cell of a table count."""
    scored = sorted((record for record in records if record.status == "ok"), key=seed_order)
    by_seed: dict[int | None, list[Record]] = {}
    for record in scored:
        by_seed.setdefault(record.identity.seed, []).append(record)
    several = tuple(tuple(same) for same in by_seed.values() if len(same) > 1)
    if several:
        return Counting(several=several)
    pairs = tuple(repeats(scored))
    left = {id(repeat) for repeat, _ in pairs}
    own = [record for record in scored if id(record) not in left]
    defined = [record.primary is not None and record.primary.value is not None for record in own]
    return Counting(
        counted=tuple(record for record, known in zip(own, defined, strict=True) if known),
        repeated=pairs,
        undefined=tuple(record for record, known in zip(own, defined, strict=True) if not known),
    )


def seed_order(record: Record) -> tuple[int, str]:
    """Sort key: no seed first, then by seed."""
    seed = record.identity.seed
    return (-1 if seed is None else seed), record.cell_id


def row_key(identity: Identity) -> str:
    """Hash of everything about the encoder but its seed."""
    weights = identity.weights
    return sha256_json(
        [
            [
                identity.method,
                identity.method_owner,
                identity.fidelity,
                identity.precision,
                identity.method_config,
                identity.pretrain_config,
            ],
            weights.kind,
            weights.key if weights.kind == "checkpoint" else None,  # the other keys change with the seed
            weights.corpus.model_dump(mode="json") if weights.corpus is not None else None,
        ]
    )


def column_key(record: Record) -> str:
    """Hash of the task, its data and the label fraction, but not of the list of the fraction."""
    identity = record.identity
    return sha256_json(
        [
            [
                task_owner(identity),
                identity.task,
                identity.task_version,
                identity.task_config,
                record.primary_metric,
            ],
            [identity.fraction, identity.data_fingerprint, identity.split_sha256],
        ]
    )


def task_owner(identity: Identity) -> str:
    """Of the task, without its release: the task's own version says when its measure changes."""
    return identity.task_owner.split(" ")[0]
