"""Folders that are sent in: `medbench results export`.

A submission is a results folder with copies of records, marked as such by their `export` block, and two files more:

    submission.json    what is in it: who, counts, the SHA-256 of every other file
    README.md          the same for people

What the copies hold is decided in `medbench.disclosure`.
"""

import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medbench import __version__, disclosure
from medbench.errors import DataError, MedbenchError, UsageError
from medbench.files import regular_bytes, sha256_file, write_atomic
from medbench.plugins import Catalogue, declared
from medbench.records import (
    DRAWS,
    MOST_BYTES,
    Counts,
    Export,
    Identity,
    Predictions,
    Record,
    ResultStore,
    WeightsInfo,
    read_draws,
    read_listed,
    read_predictions,
)

SCHEMA: Final = "medbench.submission/1"
MANIFEST: Final = "submission.json"
KEY_BYTES: Final = 32

_FREE = ("identity", "environment", "search", "weights", "counts", "predictions", "export", "error")
"""Blocks of a record that are looked through on their own; texts of the others have to be plain."""


class Submission(BaseModel):
    """The file `submission.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Annotated[Literal["medbench.submission/1"], Field(alias="schema")] = SCHEMA
    medbench: str = Field(description="version that made it")
    contact: str = Field(default="", description="as the submitter gave it")
    owners: dict[str, str] = Field(description="by method: the distribution that brings it, with its version")
    records: dict[str, int] = Field(description="how many, by status")
    keyed: list[str] = Field(description="datasets whose rows go by a keyed hash, without truth and ids")
    key_id: str | None = Field(default=None, description="tells keys apart")
    files: dict[str, str] = Field(description="SHA-256 of every other file, by path")


@dataclass(frozen=True)
class Exported:
    """What `export` made.

    Attributes:
        folder: that was written.
        manifest: of it.
        left_out: what the copies lack, and in how many of them.
    """

    folder: Path
    manifest: Submission
    left_out: Mapping[str, int]


def read_manifest(folder: Path) -> Submission | None:
    """The manifest of a folder; None where it has none, so is no submission.

    Raises:
        DataError: it can not be read.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Submission.model_validate_json(regular_bytes(path, MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise DataError(f"{path}: not a {SCHEMA} manifest ({where}: {first['msg']}). Export again.") from None


def read_key(path: Path, *, make: bool) -> bytes:
    """The key that rows of films go by which may not be passed on.

    Args:
        path: of the file, which holds it in hex.
        make: draw one where there is none, readable by its owner alone.

    Raises:
        DataError: it is no key, or there is none.
    """
    if not path.exists() and make:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secrets.token_hex(KEY_BYTES)}\n")
    try:
        key = bytes.fromhex(path.read_text().strip())
    except OSError as error:
        raise DataError(f"--key {path}: can not be read ({error.strerror}).") from None
    except ValueError:
        key = b""
    if len(key) < KEY_BYTES:
        raise DataError(
            f"--key {path}: expected at least {2 * KEY_BYTES} hex digits, as `results export` draws."
        )
    return key


def export(
    results: Path,
    out: Path,
    catalogue: Catalogue,
    *,
    key: Path,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    contact: str = "",
) -> Exported:
    """Write copies of the current records of a results folder, for others.

    Args:
        results: folder of records, which stays as it is.
        out: folder to write; new or empty.
        catalogue: known datasets; what is not in it is taken for data that may not be passed on.
        key: file of the key for such data; made where it is needed and not there.
        methods: names or globs; empty: all.
        tasks: likewise.
        contact: goes into the manifest as it is.

    Raises:
        UsageError: `out` holds something, or no record is meant.
        DataError: a record can not be read or holds what may not leave; nothing is written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already, and not empty. Name a new folder with --out.")
    chosen = [
        (path, record)
        for path, record in read_listed(ResultStore(results).files())
        if _meant(record.identity.method, methods) and _meant(record.identity.task, tasks)
    ]
    if not chosen:
        raise UsageError(
            f"No records in {results} that are meant. `medbench results list` shows what is there."
        )
    building = out.absolute().with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(building, ignore_errors=True)
    try:
        building.mkdir(parents=True)
        writer = _Writer(ResultStore(results), ResultStore(building), catalogue, key)
        for path, record in chosen:
            writer.add(path, record)
        manifest = writer.manifest(contact)
        building.replace(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Exported(out, manifest, writer.left_out)


def _meant(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


class _Writer:
    """Copies records from one folder into another."""

    def __init__(self, source: ResultStore, target: ResultStore, catalogue: Catalogue, key: Path) -> None:
        self.source, self.target, self.catalogue = source, target, catalogue
        self.left_out: Counter[str] = Counter()
        self._key_file, self._key = key, b""
        self._records: list[Record] = []
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    @property
    def key(self) -> bytes:
        self._key = self._key or read_key(self._key_file, make=True)
        return self._key

    def add(self, path: Path, record: Record) -> None:
        """Copy one record with what belongs to it."""
        if record.export is not None:
            raise DataError(f"{path} is an exported copy. Export the records that it was made from.")
        private = disclosure.is_private(record.identity, self.catalogue)
        table = read_predictions(path, record) if record.predictions is not None else None
        lists = [self._list(name) for name in (record.identity.split_sha256, record.identity.train_sha256)]
        copy = self._copy(path, record, private)
        target = self.target.path(copy.identity, copy.cell_id)
        if target.exists():
            raise DataError(
                f"{path}: without the names of files it is the same cell as another record. Export one of them, "
                "chosen with -m and -t."
            )
        if table is not None:
            copy = self._with_predictions(path, copy, table, private, target)
        if record.draws is not None:
            read_draws(path, record)  # what is not the recorded file is not passed on
            drawn = target.with_suffix(DRAWS)
            write_atomic(drawn, (path.parent / record.draws.path).read_bytes())
            copy = copy.model_copy(update={"draws": record.draws.model_copy(update={"path": drawn.name})})
        if private:
            ids = [name for parts in lists for part in parts.values() for name in part]
            ids += [] if table is None else [str(x) for name in ("sample", "patient") for x in table[name]]
            if found := disclosure.named_elsewhere(copy.model_dump(mode="json"), ids):
                raise DataError(
                    f"{path}: {found!r} holds the id of a film or a patient, so it is not exported."
                )
        for sha256, parts in zip(
            (copy.identity.split_sha256, copy.identity.train_sha256), lists, strict=True
        ):
            if parts and private:
                self.target.write_ids(f"{sha256}.hmac", disclosure.keyed_lists(parts, self.key))
            elif parts:
                self.target.write_ids(sha256, parts)
        write_atomic(target, copy.to_json().encode())
        assert copy.export is not None
        self.left_out.update(copy.export.left_out)
        self._records.append(copy)

    def manifest(self, contact: str) -> Submission:
        """Write README and manifest, which end the folder."""
        identities = [record.identity for record in self._records]
        keyed = sorted({r.identity.dataset for r in self._records if r.export is not None and r.export.keyed})
        about = Submission(
            medbench=__version__,
            contact=contact,
            owners={each.method: each.method_owner for each in identities},
            records=dict(sorted(Counter(str(record.status) for record in self._records).items())),
            keyed=keyed,
            key_id=disclosure.key_id(self.key) if keyed else None,
            files={},
        )
        root = self.target.root
        write_atomic(root / "README.md", _readme(about, self._records).encode())
        made = about.model_copy(update={"files": {name: sha256_file(root / name) for name in files_of(root)}})
        text = json.dumps(made.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True)
        write_atomic(root / MANIFEST, f"{text}\n".encode())
        return made

    def _list(self, sha256: str) -> dict[str, list[str]]:
        return self.source.read_ids(sha256) or {}

    def _copy(self, path: Path, record: Record, private: bool) -> Record:
        """The record as it may leave, without its predictions."""
        known = self._known_texts(record.identity)
        left: list[str] = []
        identity = self._identity(record.identity, known, left)
        changed: dict[str, Any] = {
            "identity": identity,
            "cell_id": identity.cell_id(),
            "config_sha256": identity.config_sha256(),
            "environment": disclosure.environment(record.environment),
            "search": disclosure.scrubbed(dict(record.search)),
            "weights": None
            if record.weights is None
            else WeightsInfo(
                sha256=record.weights.sha256, info=disclosure.weights_info(record.weights.info, known)
            ),
            "counts": Counts(
                **record.counts.model_dump(exclude={"excluded"}),
                excluded=[disclosure.WITHHELD] * len(record.counts.excluded),
            ),
        }
        if private:
            for name in ("subgroups", "reliability"):
                left += [name] * bool(getattr(record, name))
                changed[name] = []
        for name in ("environment", "search", "weights", "counts"):
            before, after = getattr(record, name), changed[name]
            left += [name] * (before != after)
        export = Export(
            record_sha256=sha256_file(path),
            cell_id=record.cell_id,
            predictions_sha256=None if record.predictions is None else record.predictions.sha256,
            keyed=private,
            left_out=sorted(left),
        )
        copy = record.model_copy(update=changed | {"export": export})
        rest = copy.model_dump(mode="json", exclude=set(_FREE))
        for where, text in disclosure.texts(rest):
            free = where.endswith(("reason", "note"))  # other texts are names that a task gives
            if text not in known and (not disclosure.plain(text) or (free and disclosure.named(text))):
                raise DataError(
                    f"{path}: {where} says {text!r}, which may hold a path, an address or a name. It is not "
                    "exported; leave the record out with -m and -t, or mend what writes this."
                )
        return copy

    def _identity(self, identity: Identity, known: frozenset[str], left: list[str]) -> Identity:
        content = identity.model_dump(mode="json")
        if (family := declared(identity.task)) != identity.task:
            content["task"] = f"{family}:{disclosure.LOCAL}"
            left.append("identity.task")
        names = {content[name] for name in ("method", "task", "dataset", "recipe", "fidelity", "source")}
        names |= {identity.weights.key, identity.weights.kind}
        names |= {identity.weights.corpus.dataset} if identity.weights.corpus is not None else set()
        public = disclosure.without_files(content, known | names, "identity", left)
        made: Identity = Identity.model_validate(public)
        return made

    def _with_predictions(
        self, path: Path, copy: Record, table: pd.DataFrame, private: bool, target: Path
    ) -> Record:
        if private:
            table = disclosure.keyed(table, self.key)
        elif column := disclosure.absolute(table):
            raise DataError(
                f"{path}: the column {column} of its predictions holds paths. They are not exported."
            )
        file = target.with_suffix(".parquet")
        write_atomic(file, parquet(table))
        block = Predictions(path=file.name, sha256=sha256_file(file), rows=len(table))
        return copy.model_copy(update={"predictions": block})

    def _known_texts(self, identity: Identity) -> frozenset[str]:
        """Texts that come from the installed code, not from the user: they may name files of a package."""
        at = (identity.method, identity.task)
        if at not in self._known:
            found: set[str] = set()
            for make in (self._of_task, self._of_method, self._of_dataset):
                try:
                    found.update(text for _, text in disclosure.texts(list(make(identity))))
                except (MedbenchError, LookupError):  # not installed here: its texts have to be plain
                    continue
            self._known[at] = frozenset(found)
        return self._known[at]

    def _of_task(self, identity: Identity) -> Iterator[Any]:
        from medbench.weights import config_json

        spec = self.catalogue.tasks[declared(identity.task)]
        yield json.loads(json.dumps(dict(spec.given)))
        yield config_json(self.catalogue.make_task(spec, identity.recipe).config)

    def _of_method(self, identity: Identity) -> Iterator[Any]:
        from medbench.weights import config_json

        for recipe in self.catalogue.load("methods", identity.method).recipes.values():
            yield config_json(recipe.config)

    def _of_dataset(self, identity: Identity) -> Iterator[Any]:
        for split in self.catalogue.load("datasets", identity.dataset).splits.values():
            yield split.leak


def parquet(table: pd.DataFrame) -> bytes:
    """The bytes of a table, without anything that pandas writes beside it."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def files_of(root: Path) -> list[str]:
    """Paths of all files of a submission but the manifest, below its folder, sorted."""
    found = (
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    return sorted(name for name in found if name != MANIFEST)


def _readme(manifest: Submission, records: Sequence[Record]) -> str:
    """What is in the folder, for people."""
    cells = Counter(
        (r.identity.method, r.identity.task, r.identity.dataset, r.identity.source) for r in records
    )
    lines = [
        "# Submission to medbench",
        "",
        f"Made by medbench {manifest.medbench}"
        + (f"; contact: {manifest.contact}" if manifest.contact else "")
        + ". Check it with `medbench results verify` and the name of this folder.",
        "",
        "| method | owner | task | films | records |",
        "|---|---|---|---|---|",
    ]
    for (method, task, dataset, source), count in sorted(cells.items()):
        lines.append(f"| {method} | {manifest.owners[method]} | {task} | {source}: {dataset} | {count} |")
    lines += [
        "",
        f"- `{MANIFEST}`: who, counts, and the SHA-256 of every other file.",
        "- `<recipe>/<method>/<task>/*.json`: copies of records. Their `export` block names the original by its",
        "  SHA-256 and what was left out: paths, names of hosts and users, reasons why samples were left out.",
        "- `*.parquet` beside them: predictions, one row a test sample. `*.draws.npy`: bootstrap draws of the",
        "  primary metric.",
        "- `splits/`: ids of the samples that trained, validated and tested.",
    ]
    if manifest.keyed:
        lines += [
            "",
            f"Films of {', '.join(manifest.keyed)} may not be passed on: of them there are scores alone, no target, no",
            "attribute of a patient, no number over a group of patients and no id. Rows and lists go by HMAC-SHA256 of",
            f"the sample's id; the key stays with the submitter (key {manifest.key_id}).",
        ]
    return "\n".join(lines) + "\n"
