"""An index of a results folder, kept in the cache: what lists, plans and large tables need of each record.

It is a SQLite file with a row a record, and is never trusted over the records: a row counts as long as its file has the
size, the time of change and the number (inode) with which it was read. Whatever is new or has changed is read again,
what is gone is forgotten, and a damaged index is made anew. It holds no number that is not in the records, so that it
may be deleted at any time.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from medbench import __version__

if TYPE_CHECKING:
    from pydantic import BaseModel

    from medbench.records import Record

_M = TypeVar("_M", bound="BaseModel")

FORMAT: Final = 1
"""Raised with the tables below, and with what they hold."""

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS config (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS body (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, text TEXT NOT NULL, row_key TEXT NOT NULL,
    column_key TEXT NOT NULL, method TEXT NOT NULL, fidelity TEXT NOT NULL, task TEXT NOT NULL,
    fraction REAL NOT NULL, recipe TEXT NOT NULL, source TEXT NOT NULL, subset TEXT, metric TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS record (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, inode INTEGER NOT NULL,
    body INTEGER NOT NULL REFERENCES body, status TEXT NOT NULL, seed INTEGER, value REAL, low REAL, high REAL,
    seconds REAL NOT NULL, own TEXT NOT NULL) WITHOUT ROWID;
"""
"""What seeds share is in `body`, once; configs, which methods and tasks share, in `config`. `own` is what is left."""

_CONFIGS: Final = ("method_config", "pretrain_config", "task_config")
_OF_THE_SEED: Final = ("cell_id", "reason", "predictions", "draws", "error")
_LEFT_OUT: Final = (
    "status",
    "times",
    "metrics",
    "subgroups",
    "reliability",
    "weights",
    "search",
    "environment",
    "export",
)

_BATCH: Final = 2_000
"""Records after which what was read is safe, so that an interrupted look goes on where it was."""

_MANY: Final = 5_000
"""Records from which on more than one process reads them."""


class Listed(NamedTuple):
    """One record, as it is listed. `value`, `low` and `high` are of the primary metric, None where there is none."""

    path: str
    method: str
    fidelity: str
    task: str
    fraction: float
    seed: int | None
    recipe: str
    source: str
    subset: str | None
    status: str
    metric: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Indexed:
    """One record without its bulk, and the keys of its row and column in tables.

    Attributes:
        path: from the results folder on, with slashes.
        record: with its primary metric alone, and without groups, diagrams, classes, search, environment and times.
        row_key, column_key: see `medbench.results`.
    """

    path: str
    record: "Record"
    row_key: str
    column_key: str


class RecordIndex:
    """The index of one results folder.

    Args:
        root: the results folder.
        cache: the folder where what can be made again is kept.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self.file = cache / "records" / f"{__version__}-{FORMAT}-{name}.sqlite"

    def listed(self) -> list[Listed]:
        """All current records, sorted by path.

        Raises:
            DataError: a file is no record of a schema that this version reads.
        """
        query = (
            "SELECT path, method, fidelity, task, fraction, seed, recipe, source, subset, status, metric, value, low, "
            "high FROM record JOIN body ON body = id"
        )
        with self._current() as database:
            found = [Listed._make(row) for row in database.execute(query) if not _failed(row[0])]
        return sorted(found, key=lambda one: one.path.split("/"))

    def seconds(self) -> dict[tuple[str, str, float], float]:
        """How long cells of a task, recipe and fraction took that were computed, in the mean.

        Raises:
            DataError: a file is no record of a schema that this version reads.
        """
        query = (
            "SELECT task, recipe, fraction, AVG(seconds) FROM record JOIN body ON body = id WHERE status = 'ok' "
            "GROUP BY task, recipe, fraction"
        )
        with self._current() as database:
            return {
                (task, recipe, fraction): mean for task, recipe, fraction, mean in database.execute(query)
            }

    def records(self) -> tuple[list[Indexed], list[Indexed]]:
        """All current records and all failed attempts, without their bulk, each sorted by path.

        Raises:
            DataError: a file is no record of a schema that this version reads.
        """
        with self._current() as database:
            found = sorted(_whole(database), key=lambda one: one.path.split("/"))
        return [one for one in found if not _failed(one.path)], [one for one in found if _failed(one.path)]

    @contextmanager
    def _current(self) -> Iterator[sqlite3.Connection]:
        """The index, once it is that of the files."""
        try:
            database = self._opened()
        except (sqlite3.OperationalError, OSError):  # read-only, full, or a disk without locks: do without
            database = self._refreshed(":memory:")
        except sqlite3.DatabaseError:  # damaged
            self.file.unlink(missing_ok=True)
            database = self._opened()
        with closing(database):
            yield database

    def _opened(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        return self._refreshed(str(self.file))

    def _refreshed(self, file: str) -> sqlite3.Connection:
        database = sqlite3.connect(file, timeout=600)
        try:
            database.executescript(_TABLES)
            there = record_files(self.root)
            held = {
                path: stat
                for path, *stat in database.execute("SELECT path, size, changed, inode FROM record")
            }
            gone = [(path,) for path in held if path not in there]
            new = [path for path, stat in there.items() if held.get(path) != stat]
            if gone:
                with database:
                    database.executemany("DELETE FROM record WHERE path = ?", gone)
            for number, read in enumerate(self._read_all(new), 1):
                if read is not None:
                    _keep(database, read, there[read.path])
                if number % _BATCH == 0:
                    database.commit()
            database.commit()
            if gone or new:
                with database:
                    database.execute("DELETE FROM body WHERE id NOT IN (SELECT body FROM record)")
        except BaseException:
            database.close()
            raise
        return database

    def _read_all(self, paths: Sequence[str]) -> Iterator["Read | None"]:
        """Many of them by as many processes as there are processors."""
        read = partial(_read, self.root)
        workers = len(os.sched_getaffinity(0))
        if len(paths) < _MANY or workers == 1:
            yield from map(read, paths)
            return
        done = 0
        try:
            with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
                while done < len(paths):
                    for one in pool.map(read, paths[done : done + _MANY], chunksize=100):
                        yield one
                        done += 1
        except BrokenProcessPool:  # a program that starts none of its own, or no memory for more
            yield from map(read, paths[done:])


def _keep(database: sqlite3.Connection, read: "Read", stat: list[int]) -> None:
    """Keep one record, and what it shares with others once."""
    database.executemany("INSERT OR IGNORE INTO config VALUES (?, ?)", read.configs)
    found = database.execute("SELECT id FROM body WHERE sha256 = ?", read.body[:1]).fetchone()
    if found is None:
        marks = ", ".join("?" * len(read.body))
        found = (database.execute(f"INSERT INTO body VALUES (NULL, {marks})", read.body).lastrowid,)
    row = (read.path, *stat, *found, *read.row)
    database.execute(f"INSERT OR REPLACE INTO record VALUES ({', '.join('?' * len(row))})", row)


@dataclass(frozen=True, slots=True)
class Read:
    """What is kept of one record: `configs` (hash, text), and the columns of its `body` and `row` in their order."""

    path: str
    configs: list[tuple[str, str]]
    body: tuple[Any, ...]
    row: tuple[Any, ...]


def _read(root: Path, path: str) -> Read | None:
    """Read one record whole; None where it is gone since it was listed.

    Raises:
        DataError: it is none.
    """
    from pydantic_core import to_json

    from medbench.records import read_record
    from medbench.results import column_key, row_key

    def text(value: Any) -> tuple[str, str]:
        data = to_json(value)
        return hashlib.sha256(data).hexdigest(), data.decode()

    try:
        record = read_record(root / path)
    except FileNotFoundError:
        return None
    identity, primary = record.identity, record.primary
    body = record.model_dump(mode="json", by_alias=True, exclude={*_OF_THE_SEED, *_LEFT_OUT})
    own: dict[str, Any] = record.model_dump(mode="json", include=set(_OF_THE_SEED), exclude_defaults=True)
    about = body["identity"]
    configs = [text(about[name]) for name in _CONFIGS]
    about |= dict(zip(_CONFIGS, (sha256 for sha256, _ in configs), strict=True))
    own["train_sha256"] = identity.train_sha256
    about |= {"seed": None, "train_sha256": ""}
    if (
        identity.weights.kind != "checkpoint"
    ):  # that is one encoder for all seeds, and a part of the row's key
        own["key"], about["weights"]["key"] = identity.weights.key, ""
    body["counts"] |= {"excluded": [], "pixels_sha256": {}}
    scores: tuple[float | None, ...] = (None, None, None)
    if primary is not None:
        metric = primary.model_dump(mode="json", exclude={"value", "low", "high", "per_class", "reason"})
        body["metrics"], own["why"] = [metric | {"value": None}], primary.reason
        scores = primary.value, primary.low, primary.high
    listed = (
        *(identity.method, identity.fidelity, identity.task, identity.fraction),
        *(identity.recipe, identity.source, identity.subset, record.primary_metric),
    )
    return Read(
        path,
        configs,
        (*text(body), row_key(identity), column_key(record), *listed),
        (record.status, identity.seed, *scores, record.times.duration_s, text(own)[1]),
    )


def _failed(path: str) -> bool:
    """Whether a file is a failed attempt, by its name."""
    return ".failed-" in path.rsplit("/", 1)[-1]


def record_files(root: Path) -> dict[str, list[int]]:
    """Size, time of change and inode of every record and failed attempt, by its path from the folder on."""
    found: dict[str, list[int]] = {}
    folders = [""] if root.is_dir() else []
    for _ in range(3):
        folders = [
            f"{above}{entry.name}/"
            for above in folders
            for entry in os.scandir(root / above)
            if entry.is_dir() and not entry.name.startswith(".")
        ]
    for folder in folders:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = entry.name
                if name.endswith(".json") and ".superseded-" not in name and not name.startswith("."):
                    with suppress(FileNotFoundError):  # gone since it was listed
                        stat = entry.stat()
                        found[folder + name] = [stat.st_size, stat.st_ctime_ns, stat.st_ino]
    return found


def _whole(database: sqlite3.Connection) -> Iterator[Indexed]:
    """Records from their rows, body by body; what is equal in many of them is one object."""
    from medbench.records import Draws, Failure, Predictions, Record

    same: dict[Any, Any] = {}
    configs = {
        sha256: json.loads(text) for sha256, text in database.execute("SELECT sha256, text FROM config")
    }
    bodies = database.execute("SELECT id, text, row_key, column_key FROM body ORDER BY id")
    rows = database.execute(
        "SELECT body, path, status, seed, value, low, high, own FROM record ORDER BY body"
    )
    number, like, keys = None, None, ("", "")
    for body, path, status, seed, value, low, high, text in rows:
        while number != body:
            number, content, *found = next(bodies)
            keys = (same.setdefault(found[0], found[0]), same.setdefault(found[1], found[1]))
            like = _of_body(json.loads(content), configs, same) if number == body else None
        assert isinstance(like, Record)
        own = json.loads(text)
        changes: dict[str, Any] = {"cell_id": own["cell_id"], "status": status, "reason": own.get("reason")}
        identity = like.identity
        encoder = identity.weights
        if "key" in own:
            known = id(encoder), own["key"]
            encoder = same.setdefault(known, _variant(encoder, key=own["key"]))
        train = same.setdefault(own["train_sha256"], own["train_sha256"])
        changes["identity"] = _variant(identity, seed=seed, train_sha256=train, weights=encoder)
        changes["metrics"] = [
            _variant(metric, value=value, low=low, high=high, reason=own["why"]) for metric in like.metrics
        ]
        for name, kind in (("predictions", Predictions), ("draws", Draws), ("error", Failure)):
            if name in own:
                changes[name] = _shared(kind.model_validate(own[name]), same)
        yield Indexed(path, _variant(like, **changes), *keys)


def _of_body(content: dict[str, Any], configs: dict[str, Any], same: dict[Any, Any]) -> "Record":
    """A record of what seeds share."""
    from medbench.records import Record

    own = {name: configs[content["identity"][name]] for name in _CONFIGS}
    content["identity"] |= {"method_config": {}, "pretrain_config": None, "task_config": {}}
    times = {"created": "", "duration_s": 0.0}
    like = Record.model_validate(content | {"cell_id": "", "status": "ok", "times": times})
    identity = like.identity
    corpus, kind = identity.weights.corpus, identity.weights.model_dump_json()
    if corpus is not None:
        corpus = same.setdefault(corpus.model_dump_json(), _shared(corpus, same))
    encoder = same.setdefault(kind, _variant(_shared(identity.weights, same), corpus=corpus))
    return _variant(
        _shared(like, same),
        identity=_variant(_shared(identity, same), weights=encoder, **own),
        counts=same.setdefault(like.counts.model_dump_json(), _shared(like.counts, same)),
        times=same.setdefault("times", _shared(like.times, same)),
        metrics=[_shared(metric, same) for metric in like.metrics],
    )


_NOTHING_GIVEN: Final[set[str]] = set()


def _shared(model: _M, same: dict[Any, Any]) -> _M:
    """The model with texts that equal ones share."""
    texts = {
        name: same.setdefault(text, text) for name, text in model.__dict__.items() if isinstance(text, str)
    }
    return _variant(model, **texts)


def _variant(model: _M, **changes: Any) -> _M:
    """`model_copy` without a set of its own of the fields that were given, which takes as much room as the fields."""
    made = type(model).__new__(type(model))
    object.__setattr__(made, "__dict__", model.__dict__ | changes)
    object.__setattr__(made, "__pydantic_fields_set__", _NOTHING_GIVEN)
    object.__setattr__(made, "__pydantic_extra__", None)
    object.__setattr__(made, "__pydantic_private__", None)
    return made
