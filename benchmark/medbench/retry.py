"""Cells that failed, as requests that run them again: `medbench results retry`."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medbench.records import Record, ResultStore, read_record, sha256_json
from medbench.request import RunRequest


def failed_requests(results: Path, cache: Path) -> tuple[list[RunRequest], int]:
    """What asks for the cells that failed and were not done since, an encoder on a task each.

    Args:
        results: folder of the records.
        cache: of this machine.

    Returns:
        The requests, in the order of the records' names; and how many cells have failed whose records, of an older
        version, do not say what asked for them.
    """
    fractions: dict[str, set[float]] = {}
    wanted: dict[str, RunRequest] = {}
    unknown = set()
    for record in _undone(ResultStore(results)):
        if record.error is None or record.error.request is None:
            unknown.add(record.cell_id)
            continue
        request = _read(record.error.request, results, cache)
        key = sha256_json(record.error.request | {"fractions": None})
        wanted.setdefault(key, request)
        fractions.setdefault(key, set()).update(request.fractions or ())
    return [replace(r, fractions=tuple(sorted(fractions[key]))) for key, r in wanted.items()], len(unknown)


def data_of(request: RunRequest) -> Any:
    """Equal for requests that read the same data."""
    return request.data_root, dict(request.data), request.real, request.corpus, dict(request.columns)


def _undone(store: ResultStore) -> Iterator[Record]:
    """Of failed attempts those that no record was made after."""
    for failed in store.failures():
        path = store.path(failed.identity, failed.cell_id)
        asked = (failed.error.request if failed.error is not None else None) or {}
        # A record that was to be overwritten was there before.
        if not path.exists() or (
            asked.get("overwrite") and read_record(path).times.created < failed.times.created
        ):
            yield failed


def _read(typed: dict[str, Any], results: Path, cache: Path) -> RunRequest:
    request: RunRequest = TypeAdapter(RunRequest).validate_python(typed)
    return replace(request, results=results, cache=cache)
