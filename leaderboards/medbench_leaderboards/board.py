"""The board: everything that leaderboards show, computed once from records. All outputs are functions of it.

A board has a table for every source, recipe, and full sets or subsets; they are never mixed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from medbench.records import Identity, Record
from medbench.results import Results
from medbench.statistics.paired import Difference
from medbench_leaderboards.summary import Status


@dataclass(frozen=True)
class Row:
    """A method in one configuration: everything about the encoder but its seed.

    Attributes:
        key: hash of all that makes it this row.
        name: in tables, one row's alone: the method, and a piece of the key where several rows share it.
        method, fidelity, owner: the method, its badge, and the distribution that declares it.
        about: weights, corpus and precision, in words.
        identity: of one of its records.
    """

    key: str
    name: str
    method: str
    fidelity: str
    owner: str
    about: str
    identity: Identity


@dataclass(frozen=True)
class Column:
    """A task (variant) at one label fraction, on one set and split.

    Attributes:
        key: hash of all that makes it this column.
        name: in tables, one column's alone, as in "rsna_lp 1%".
        task, version: the task.
        fraction: of the training labels.
        trains: whether the task trains, so that fractions mean anything.
        dataset, subset, split: what it is scored on; `subset` says which, None for the official release.
        test: test samples.
        metric, metric_version, higher_is_better: its primary metric.
        about: the same in words.
    """

    key: str
    name: str
    task: str
    version: int
    fraction: float
    trains: bool
    dataset: str
    subset: str | None
    split: str
    test: int
    metric: str
    metric_version: int
    higher_is_better: bool
    about: str


@dataclass(frozen=True)
class Seed:
    """One record of a cell.

    Attributes:
        seed: None where the result depends on none.
        value, low, high: the primary metric and its 95 % interval over test patients, None where not defined.
        cell_id: of the record.
        path: of the record, relative to the results folder, with forward slashes.
        repeats: the seed whose predictions it repeats bit by bit; it then counts in no mean.
    """

    seed: int | None
    value: float | None
    low: float | None
    high: float | None
    cell_id: str
    path: str
    repeats: int | None


@dataclass(frozen=True)
class Cell:
    """A row in a column.

    Attributes:
        row, column: keys.
        status: whether there is a value.
        seeds: its records, also those that do not count, by seed.
        mean: over the seeds that count, None where there is none.
        sd: sample standard deviation over them (n - 1), None of a single one.
        low, high: 95 % interval of the mean over test patients, None where there is none.
        delong: the same by DeLong, where the metric is an AUROC.
        small: the test set is small; what intervals hold then is in docs/statistics.md.
        rank: 1 + number of rows that are better beyond noise, and at least that of any row with a better mean. None
            where it was not compared.
        tied: another row of its rank does not differ from it beyond noise.
        marks: of "contaminated", "small", "repeat", "one seed".
        notes: what has to be said of it.
    """

    row: str
    column: str
    status: Status
    seeds: tuple[Seed, ...] = ()
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    delong: tuple[float, float] | None = None
    small: bool = False
    rank: int | None = None
    tied: bool = False
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two rows in a column.

    Attributes:
        a, b: row keys, a before b by name.
        column: key.
        difference: a - b.
        p_holm: adjusted by Holm over all comparisons of the table, None where there is no p.
    """

    a: str
    b: str
    column: str
    difference: Difference
    p_holm: float | None


@dataclass(frozen=True)
class MeanRank:
    """Of a row with a value in all columns that count: its rank averaged over tasks, in each over its label fractions.

    Attributes:
        row: key.
        value: mean rank of the means, 1 is best; equal means share the average of their ranks.
        low, high: 95 % interval over test patients, by ranking within every draw; None without draws.
    """

    row: str
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ranking:
    """Mean ranks over some of a table's tasks.

    Attributes:
        columns: keys of those that count: of these tasks, with a value in any row.
        ranks: of the rows with a value in all of them, in the table's order.
        critical_difference: of mean ranks over tasks (Nemenyi, 5 %); None with fewer than 3 rows or 2 tasks.
        tasks: how many are behind it; 0 where no row is ranked.
    """

    columns: tuple[str, ...]
    ranks: tuple[MeanRank, ...]
    critical_difference: float | None
    tasks: int


@dataclass(frozen=True)
class Missing:
    """A cell that lacks seeds, and the command that fills it; without one (""), `why` there is none."""

    row: str
    column: str
    seeds: tuple[int, ...]
    command: str
    why: str = ""


@dataclass(frozen=True)
class Table:
    """One source, recipe, and full sets or subsets.

    Attributes:
        source, recipe, size: "phantom" or "real"; the recipe; "full sets" or "subsets".
        name: for files and anchors, as in "phantom-tiny-full".
        rows: complete ones first, by mean rank; the others by name.
        columns: by task and fraction.
        cells: by (row key, column key), all of them.
        comparisons: every pair of rows in every column, where both have a value.
        ranking: mean ranks over all tasks.
        image_ranking: those over the tasks that need no text encoder, by which methods without one are ranked as well;
            None where these are all tasks, or none.
        missing: what is not there, and how to get it.
        notes: what has to be said of the whole table.
    """

    source: str
    recipe: str
    size: str
    name: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, str], Cell]
    comparisons: tuple[Comparison, ...]
    ranking: Ranking
    image_ranking: Ranking | None
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]


class Whole(Mapping[str, Record]):
    """Records by cell id, each with all that is in its file, which is read when it is asked for where it has to be.

    Attributes:
        brief: the same records as they were read; of a large folder (`Results.brief`) without their bulk.
    """

    def __init__(self, results: Results, brief: Mapping[str, Record]) -> None:
        self._results, self.brief = results, brief

    def __getitem__(self, cell_id: str) -> Record:
        return self._results.whole(self.brief[cell_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.brief)

    def __len__(self) -> int:
        return len(self.brief)


@dataclass(frozen=True)
class Board:
    """All tables.

    Attributes:
        tables: by source, recipe and size.
        left_out: one line about each group of records that enters no table.
        records: by cell id, also those that enter no table. Whoever goes through all of them and needs no more than
            their identities takes `brief`.
        paths: of the records by cell id, relative to the results folder, with forward slashes.
        base: the results folder as seen from the folder that leaderboards are written to, with forward slashes, for
            links to records; None where they are only shown.
    """

    tables: tuple[Table, ...]
    left_out: tuple[str, ...]
    records: Mapping[str, Record]
    paths: Mapping[str, str]
    base: str | None = None

    @property
    def brief(self) -> Mapping[str, Record]:
        """The records, of a large folder without their bulk."""
        return self.records.brief if isinstance(self.records, Whole) else self.records


_built: WeakKeyDictionary[Results, Board] = WeakKeyDictionary()


def build(results: Results) -> Board:
    """The board of a results folder; computed once for one `Results`, so that ten formats cost one."""
    if results not in _built:
        from medbench_leaderboards.assemble import assemble  # which makes the classes above

        _built[results] = assemble(results)
    return _built[results]
