"""Records: one JSON file a cell, written once, never edited. Tables are made from these and nothing else.

A results folder looks like this:

    results/<recipe>/<method>/<task>/<fraction>-<seed>-<cell id>.json      the record
    results/<recipe>/<method>/<task>/<fraction>-<seed>-<cell id>.parquet   its predictions, one row a test sample
    results/<recipe>/<method>/<task>/<fraction>-<seed>-<cell id>.draws.npy the bootstrap draws of its primary metric
    results/splits/<hash>.json                                            the id lists that records name by hash

A failed cell leaves `....failed-N.json` beside these, and is tried again by the next run. `--overwrite` moves the old
files to `....superseded-N.*`; both names are kept for the reader and enter no table.
"""

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from medbench.errors import DataError
from medbench.files import create_atomic, regular_bytes, sha256_file, write_atomic
from medbench.metrics.bootstrap import Bootstrap, Resample
from medbench.numbers import fraction_name as fraction_name

SCHEMA: Final = "medbench.result/1"

DRAWS: Final = ".draws.npy"

Status = Literal["ok", "skipped", "failed"]
RecordSource = Literal["phantom", "real", "mixed"]


MOST_BYTES: Final = 64 * 2**20
"""Of the largest record that is read; those of the largest sets here have some hundred thousand."""

MOST_ROWS: Final = 10_000_000
"""Of the largest table of predictions that is read, by what its header declares."""

GONE: Final = (
    "gone since it was listed: something else changes this folder. Run the same command again once it ended"
)
"""What is said of a record that vanishes while a folder is read, where leaving it out would say that all is well."""

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]
"""A whole number that every program reads as the same one."""

Beside = Annotated[
    str,
    Field(
        pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$",
        description="name of the file, in the record's own folder",
    ),
]


class _Block(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Corpus(_Block):
    """What the encoder was pretrained on."""

    dataset: str
    source: Literal["phantom", "real"]
    subset: str | None = None
    fingerprint: str
    excluded: Whole = 0


class WeightsIdentity(_Block):
    """Which weights: `key` names the pretraining, or a hash over a checkpoint's tensors or an untrained config."""

    kind: Literal["pretrained", "checkpoint", "untrained"]
    key: str
    corpus: Corpus | None = None


class Identity(_Block):
    """Everything that decides the number. Its hash is the cell's id."""

    method: str
    method_owner: str
    fidelity: str
    task: str
    task_version: Whole
    task_owner: str
    recipe: str
    precision: Literal["32", "bf16"]
    fraction: float
    seed: Whole | None
    source: RecordSource
    dataset: str
    subset: str | None
    data_fingerprint: str
    split: str
    split_sha256: str
    train_sha256: str
    weights: WeightsIdentity
    method_config: dict[str, Any]
    pretrain_config: dict[str, Any] | None = Field(
        default=None, description="None where nothing was pretrained"
    )
    task_config: dict[str, Any]

    def cell_id(self) -> str:
        """SHA-256 of this block as canonical JSON."""
        return sha256_json(self.model_dump(mode="json"))

    def config_sha256(self) -> str:
        """SHA-256 of the three configs alone: equal for cells that differ only in seed, fraction or data."""
        return sha256_json([self.method_config, self.pretrain_config, self.task_config])


class Counts(_Block):
    """Samples and patients that a cell was computed from."""

    train: Whole
    train_patients: Whole
    validation: Whole
    test: Whole
    excluded: list[str] = Field(default_factory=list, description="samples left out, with the reason")
    split_leak: str = Field(
        default="", description="why scores on this split are too good; empty for a clean one"
    )
    pixels_sha256: dict[str, str] = Field(default_factory=dict, description="prepared films, by side and fit")


class WeightsInfo(_Block):
    """The weights that were used, as loaded."""

    sha256: str
    info: dict[str, Any] = Field(default_factory=dict)


class MetricValue(_Block):
    """One metric. `value` is not rounded; percent signs and formats belong to tables."""

    name: str
    version: Whole = 1
    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str
    n: Whole
    higher_is_better: bool = True
    per_class: dict[str, float | None] = Field(default_factory=dict)
    reason: str = Field(default="", description="why there is no value, or none for some of the classes")


class GroupValue(_Block):
    """A metric of one group; its direction, version and kind of interval are those of the same name in `metrics`."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: Whole
    per_class: dict[str, float | None] = Field(default_factory=dict)
    note: str = Field(default="", description="why there is no value or interval, or why it is not compared")


class GroupBlock(_Block):
    """One group of samples."""

    name: str
    known: bool = Field(description="false for the samples whose group is not known")
    samples: Whole
    patients: Whole
    metrics: list[GroupValue]


class SpreadBlock(_Block):
    """How far apart the groups are in one metric."""

    metric: str
    higher_is_better: bool
    worst: float | None
    worst_low: float | None
    worst_high: float | None
    worst_group: str | None
    best: float | None
    best_group: str | None
    gap: float | None = Field(
        description="between best and worst; null with fewer than two groups that count"
    )
    left_out: list[str] = Field(description="groups that do not count; the notes of their metrics say why")
    reason: str = ""


class SubgroupsBlock(_Block):
    """All metrics by the groups of one column."""

    column: str
    groups: list[GroupBlock]
    spreads: list[SpreadBlock]


class ReliabilityBlock(_Block):
    """A reliability diagram of one class: probabilities in bins, and what was there."""

    label: str
    binning: Literal["width", "mass"]
    edges: list[float]
    counts: list[Whole]
    confidence: list[float | None] = Field(description="mean probability in each bin")
    positives: list[float | None] = Field(description="share of positives in each bin")
    low: list[float | None] = Field(description="bounds of the 95 % interval of `positives`")
    high: list[float | None]
    interval: str
    n: Whole
    missing: Whole
    reason: str = ""


class Predictions(_Block):
    """The file beside the record that every metric can be computed from again."""

    path: Beside
    sha256: str
    rows: Whole


class Draws(_Block):
    """The file beside the record with the bootstrap draws of its primary metric, and what was drawn.

    Draw d of two records with one `resample` is of the same patients, so that two methods are compared by these files
    alone, without predictions or labels.
    """

    path: Beside
    sha256: str
    metric: str
    count: Whole = Field(description="draws; those that the metric is not defined for are NaN")
    resample: str = Field(description="SHA-256 over all patients with their strata, the seed and the count")
    patients: Whole = Field(description="that were drawn from")
    positive_patients: Whole = Field(
        description="of them those with a positive sample, a stratum of their own"
    )
    samples: Whole
    positive_samples: Whole
    class_units: Whole | None = Field(
        default=None,
        description="of a mean over classes: patients with positives, or with negatives, of the rarest class",
    )
    class_positives: Whole | None = Field(
        default=None, description="of a mean over classes: positive samples of the class with fewest"
    )
    delong_se: float | None = Field(
        default=None, description="standard error by DeLong, where the metric is an AUROC"
    )

    def drawn(self) -> Resample:
        """Which resamples they are of."""
        return Resample(
            key=self.resample,
            patients=self.patients,
            positive_patients=self.positive_patients,
            samples=self.samples,
            positive_samples=self.positive_samples,
            class_units=self.class_units,
            class_positives=self.class_positives,
        )


class Failure(_Block):
    """Why a cell failed."""

    type: str
    message: str
    traceback: str
    request: dict[str, Any] | None = Field(
        default=None, description="of the cell alone: what `results retry` runs it again by"
    )


class Times(_Block):
    """The only part of a record that differs between two equal runs."""

    created: str
    duration_s: float
    phases: dict[str, float] = Field(default_factory=dict)


class Export(_Block):
    """Marks a copy that `results export` made: of which record, and what of it was left behind."""

    record_sha256: str = Field(description="of the file it was made from")
    cell_id: str = Field(
        description="of the record it was made from; another one where the identity named a file"
    )
    predictions_sha256: str | None = Field(default=None, description="of its predictions before")
    keyed: bool = Field(description="whether rows go by a keyed hash, without truth, patients and ids")
    left_out: list[str] = Field(description="fields that were left out or replaced")


class Record(_Block):
    """One evaluated cell."""

    schema_: Annotated[Literal["medbench.result/1"], Field(alias="schema")] = SCHEMA
    cell_id: str
    status: Status
    reason: str | None = Field(default=None, description="why it was skipped")
    identity: Identity
    primary_metric: str
    metrics: list[MetricValue] = Field(default_factory=list)
    subgroups: list[SubgroupsBlock] = Field(default_factory=list)
    reliability: list[ReliabilityBlock] = Field(default_factory=list)
    counts: Counts
    weights: WeightsInfo | None = None
    search: dict[str, Any] = Field(default_factory=dict)
    predictions: Predictions | None = None
    draws: Draws | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    config_sha256: str
    error: Failure | None = None
    export: Export | None = None
    times: Times

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    @property
    def primary(self) -> MetricValue | None:
        """The primary metric, None where the cell was skipped or failed."""
        return next((m for m in self.metrics if m.name == self.primary_metric), None)

    def to_json(self) -> str:
        """The bytes that are written: sorted keys, two spaces, a newline at the end."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema of a record."""
    return Record.model_json_schema(by_alias=True)


def sha256_json(value: Any) -> str:
    """SHA-256 of a JSON value written canonically."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_SHA256: Final = re.compile(r"[0-9a-f]{64}(\.hmac)?")
_IDS: Final = TypeAdapter(dict[str, list[str]])


class ResultStore:
    """A results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, identity: Identity, cell_id: str) -> Path:
        """Where the record of this cell is, or will be.

        Raises:
            DataError: a name of it would lead elsewhere, or is none that a file can have.
        """
        percent = fraction_name(identity.fraction).replace("%", "pct")
        seed = "any" if identity.seed is None else f"s{identity.seed}"
        task = identity.task.replace("@", "-at-").replace(":", "-")
        names = (identity.recipe, identity.method, task, f"{percent}-{seed}-{cell_id[:12]}.json")
        for name in names:
            if (
                name in ("", ".", "..")
                or "/" in name
                or "\0" in name
                or len(name.encode(errors="replace")) > 255
            ):
                raise DataError(
                    f"{name[:80]!r} can be no name of a file, and a record's file has the names of its recipe, method "
                    "and task. The record was not written by medbench; do not take it."
                )
        return self.root.joinpath(*names)

    def find(self, identity: Identity) -> Record | None:
        """The finished (ok or skipped) record of this cell, if there is one.

        Raises:
            DataError: a file stands in its place that is no record, or another cell's.
        """
        cell_id = identity.cell_id()
        path = self.path(identity, cell_id)
        try:
            record = read_record(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if record.cell_id != cell_id:
            raise DataError(
                f"{path}: expected the record of cell {cell_id}, found cell {record.cell_id}. Move the file away."
            )
        if record.predictions is not None and not (path.parent / record.predictions.path).exists():
            return None  # half a pair was copied or deleted: run the cell again
        return record

    def write(
        self,
        record: Record,
        predictions: pd.DataFrame | None = None,
        bootstrap: Bootstrap | None = None,
        delong_se: float | None = None,
    ) -> Record:
        """Write a record, the files beside it first, so that a record never names a file that is not there.

        A cell is recorded once: where a finished record of it stands, that one stays, whoever wrote it.

        Args:
            record: `predictions` and `draws` are filled in here.
            predictions: one row a test sample; None for skipped and failed cells.
            bootstrap: of the primary metric; None where it has no draws.
            delong_se: its standard error by DeLong, where it is an AUROC.

        Returns:
            The record as written, or the one that stands.
        """
        path = self.path(record.identity, record.cell_id)
        if record.status == "failed":
            while not create_atomic(_free(path, "failed"), record.to_json().encode()):
                pass
            return record
        if (stands := self.find(record.identity)) is not None:
            return stands
        path.unlink(missing_ok=True)  # half a pair
        if predictions is not None:
            table = path.with_suffix(".parquet")
            write_atomic(table, predictions.to_parquet(index=False))
            block = Predictions(path=table.name, sha256=sha256_file(table), rows=len(predictions))
            record = record.model_copy(update={"predictions": block})
        record = record.model_copy(update={"draws": None})
        if bootstrap is not None:
            file = path.with_suffix(DRAWS)
            write_atomic(file, _npy(bootstrap.draws))
            drawn = draws_block(file, record.primary_metric, bootstrap, delong_se)
            record = record.model_copy(update={"draws": drawn})
        if not create_atomic(path, record.to_json().encode()):
            return read_record(path)
        return record

    def supersede(self, identity: Identity) -> None:
        """Move the finished record of this cell aside, with its predictions and draws.

        It moves last, and they are copied before: killed in between, the record still has both.
        """
        path = self.path(identity, identity.cell_id())
        if path.exists():
            aside = _free(path, "superseded")
            beside = [suffix for suffix in (".parquet", DRAWS) if path.with_suffix(suffix).exists()]
            for suffix in beside:
                write_atomic(aside.with_suffix(suffix), path.with_suffix(suffix).read_bytes())
            os.replace(path, aside)
            for suffix in beside:
                path.with_suffix(suffix).unlink()

    def write_ids(self, sha256: str, parts: Mapping[str, Sequence[str]]) -> None:
        """Keep the id lists behind a hash that records name."""
        path = self.ids_path(sha256)
        if not path.exists():
            write_atomic(path, (json.dumps(parts, indent=0) + "\n").encode())

    def ids_path(self, sha256: str) -> Path:
        """Where the id lists behind a hash are.

        Raises:
            DataError: it is no hash.
        """
        if not _SHA256.fullmatch(sha256):
            raise DataError(
                f"{sha256[:80]!r} is no SHA-256 of id lists. The record was edited; do not take it."
            )
        return self.root / "splits" / f"{sha256}.json"

    def read_ids(self, sha256: str) -> dict[str, list[str]] | None:
        """The id lists behind a hash; None where they were not kept.

        Raises:
            DataError: the file holds something else.
        """
        path = self.ids_path(sha256)
        if not path.exists():
            return None
        try:
            return _IDS.validate_json(regular_bytes(path, MOST_BYTES))
        except ValidationError:
            raise DataError(f"{path}: no id lists. Copy the file again.") from None

    def files(self) -> Iterator[Path]:
        """Paths of all current records, sorted."""
        for path in sorted(self.root.glob("*/*/*/*.json")):
            if ".failed-" not in path.name and ".superseded-" not in path.name:
                yield path

    def failures(self) -> list[Record]:
        """Records of attempts that failed, sorted by path; a cell among them may have been done since."""
        return [record for _, record in read_listed(sorted(self.root.glob("*/*/*/*.failed-*.json")))]

    def records(self) -> list[Record]:
        """All current records, sorted by path.

        Raises:
            DataError: a file is no record of a schema that this version reads.
        """
        return [record for _, record in read_listed(self.files())]


def read_listed(paths: Iterable[Path]) -> list[tuple[Path, Record]]:
    """Records of files that a folder lists, less those that were moved aside since.

    Raises:
        DataError: a file is no record.
    """
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            found.append((path, read_record(path)))
    return found


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
        DataError: it is not JSON, or not a record; it is no file, or larger than any record.
        FileNotFoundError: it is not there.
    """
    try:
        return Record.model_validate_json(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"]) or "the whole file"
        raise DataError(
            f"{path}: not a {SCHEMA} record ({where}: {first['msg']}). Records are never edited by hand; "
            "move the file away and run the cell again."
        ) from None


def read_predictions(path: Path, record: Record) -> pd.DataFrame:
    """The predictions of the record at `path`.

    Raises:
        DataError: the file is missing or its bytes are not the recorded ones; or they are no table of as many rows.
    """
    if record.predictions is None:
        raise DataError(f"{path}: a {record.status} record has no predictions.")
    file = _beside(path, record.predictions, "predictions")
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as table:
            rows = table.metadata.num_rows
        if rows == record.predictions.rows <= MOST_ROWS:
            return pd.read_parquet(file)
    except Exception as error:  # Arrow and pandas pass on whatever their parsers meet in a broken file
        raise DataError(f"{file}: not a table of predictions ({type(error).__name__}: {error}).") from None
    raise DataError(
        f"{file}: expected {record.predictions.rows:,} rows, and at most {MOST_ROWS:,}; found {rows:,}."
    )


def read_draws(path: Path, record: Record) -> npt.NDArray[np.float64]:
    """The draws of the record at `path`, (D,) float64, NaN where the metric is not defined.

    Raises:
        DataError: the record names none; or the file is missing, its bytes are not the recorded ones, or they are no
            array of as many numbers as are recorded.
    """
    if record.draws is None:
        raise DataError(f"{path}: the record has no draws.")
    file = _beside(path, record.draws, "draws")
    try:
        values = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OverflowError, MemoryError, FileNotFoundError) as error:
        raise DataError(f"{file}: not an array of numbers ({error}).") from None
    if values.dtype != np.float64 or values.shape != (record.draws.count,):
        raise DataError(
            f"{file}: expected {record.draws.count} numbers (float64), found {values.dtype} {values.shape}."
        )
    found: npt.NDArray[np.float64] = values
    return found


def draws_block(file: Path, metric: str, bootstrap: Bootstrap, delong_se: float | None) -> Draws:
    """What a record says of draws that are written to `file`."""
    return Draws(
        path=file.name,
        sha256=sha256_file(file),
        metric=metric,
        count=len(bootstrap.draws),
        resample=bootstrap.resample.key,
        patients=bootstrap.resample.patients,
        positive_patients=bootstrap.resample.positive_patients,
        samples=bootstrap.resample.samples,
        positive_samples=bootstrap.resample.positive_samples,
        class_units=bootstrap.resample.class_units,
        class_positives=bootstrap.resample.class_positives,
        delong_se=delong_se,
    )


def _beside(path: Path, block: Predictions | Draws, what: str) -> Path:
    """The file that a block of the record at `path` names.

    Raises:
        DataError: it is missing or its bytes are not the recorded ones.
    """
    file = path.parent / block.path
    try:
        found = sha256_file(file) if file.is_file() else None
    except FileNotFoundError:  # moved aside just now
        found = None
    if found is None:
        raise DataError(f"{path}: its {what} {file.name} are not beside it.")
    if found != block.sha256:
        raise DataError(
            f"{file}: SHA-256 {found[:12]} found, {block.sha256[:12]} recorded. "
            "The file was changed; run the cell again with --overwrite."
        )
    return file


def _npy(values: npt.NDArray[np.float64]) -> bytes:
    """A file of numpy's own kind; the same bytes for the same numbers."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, np.float64), allow_pickle=False)
    return buffer.getvalue()


def _read(path: Path) -> bytes:
    """What is in a file; asked for twice, since a server may first tell what it remembers of one that was replaced."""
    try:
        return regular_bytes(path, MOST_BYTES)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return regular_bytes(path, MOST_BYTES)


def _free(path: Path, word: str) -> Path:
    number = 1
    while (taken := path.with_name(f"{path.stem}.{word}-{number}.json")).exists():
        number += 1
    return taken
