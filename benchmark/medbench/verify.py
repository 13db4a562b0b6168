"""Checking records again: `medbench results verify`."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medbench.data.splits import ids_sha256, parts_sha256
from medbench.errors import DataError
from medbench.metrics.bootstrap import interval
from medbench.plugins import Catalogue, declared
from medbench.records import Record, ResultStore, draws_block, read_draws, read_predictions, read_record
from medbench.rescore import same, score_again
from medbench.scoring import Scores

SAME = 1e-9
"""Difference up to which a metric that is computed again counts as the recorded one: on another machine a sum may
run in another order."""


def verify_record(path: Path, store: ResultStore, catalogue: Catalogue) -> list[str]:
    """Everything that is wrong with one record.

    Its schema; that its id is the hash of its identity, config_sha256 that of its configs, and its file has the name
    of that id; the hash of its predictions; that the id lists it names are kept; that its interval is that of its
    draws; and the metrics, the draws and the blocks of groups and diagrams, computed again from the predictions by the
    installed task, if that has the recorded version.

    Args:
        path: of the record.
        store: the results folder it is in.
        catalogue: known tasks.

    Returns:
        One line for each thing that is wrong; empty if nothing is.
    """
    try:
        record = read_record(path)
    except DataError as error:
        return [str(error)]
    identity, wrong = record.identity, []
    if record.cell_id != identity.cell_id():
        wrong.append(
            f"cell_id is {record.cell_id[:12]}, its identity has {identity.cell_id()[:12]}: it was edited"
        )
    if record.config_sha256 != identity.config_sha256():
        wrong.append(
            f"config_sha256 is {record.config_sha256[:12]}, its configs have {identity.config_sha256()[:12]}: "
            "it was edited"
        )
    if path != (expected := store.path(identity, record.cell_id)):
        wrong.append(f"expected at {expected}")
    if record.status != "ok":
        held = [name for name in ("metrics", "predictions", "draws", "search") if getattr(record, name)]
        return wrong + [f"a {record.status} record holds {name}: it was edited" for name in held]
    ids = {
        name: _ids(store, getattr(identity, name), name, wrong) for name in ("split_sha256", "train_sha256")
    }
    for name, part, count in (
        ("split_sha256", "val", record.counts.validation),
        ("split_sha256", "test", record.counts.test),
        ("train_sha256", "train", record.counts.train),
    ):
        listed = len(ids[name].get(part, ()))
        if ids[name] and listed != count:
            wrong.append(f"counts: {count} {part} samples recorded, its id list has {listed}")
    wrong += check_draws(path, record)
    try:
        predictions = read_predictions(path, record)
    except DataError as error:
        return [*wrong, str(error)]
    if record.predictions is not None and record.predictions.rows != len(predictions):
        wrong.append(f"predictions: {record.predictions.rows} rows recorded, the file has {len(predictions)}")
    spec = catalogue.tasks.get(declared(identity.task))
    if spec is None or spec.version != identity.task_version:
        installed = "is not installed" if spec is None else f"is installed at version {spec.version}"
        return [
            *wrong,
            f"metrics can not be computed again: {identity.task} {installed}, not {identity.task_version}",
        ]
    if record.primary_metric != spec.primary_metric:
        wrong.append(
            f"primary_metric is {record.primary_metric}, that of {spec.name} is {spec.primary_metric}"
        )
    try:
        scores = score_again(record, predictions, catalogue)
    except (
        Exception
    ) as error:  # one record that can not be scored must not keep the others from being checked
        return [*wrong, f"metrics can not be computed again: {type(error).__name__}: {error}"]
    wrong += _compare("metrics", _metrics(record), _metrics(scores))
    if record.subgroups or record.reliability:  # older records have neither
        wrong += _compare("blocks", _blocks(record), _blocks(scores))
    return wrong + _compare_draws(path, record, scores)


def check_draws(path: Path, record: Record) -> list[str]:
    """What is wrong with the draws of a record, seen without its predictions.

    The hash; that they are those of the primary metric; and that the bounds of its interval follow from them.
    Records from before there were draws have none.
    """
    if record.draws is None:
        return []
    try:
        values = read_draws(path, record)
    except DataError as error:
        return [str(error)]
    if record.draws.metric != record.primary_metric or record.primary is None:
        return [f"draws are of {record.draws.metric}, the primary metric is {record.primary_metric}"]
    recorded = record.primary.low, record.primary.high
    found = interval(record.primary.interval, record.primary.value, values)
    return [
        f"draws: {end} bound of the interval {one} recorded, {other} by the draws"
        for end, one, other in zip(("lower", "upper"), recorded, found, strict=True)
        if not same(one, other, SAME)
    ]


def _compare_draws(path: Path, record: Record, scores: Scores) -> list[str]:
    """The draws and what is said of them, against those that the predictions give."""
    if record.draws is None:
        return []
    if scores.bootstrap is None:
        return ["draws are recorded, the installed task makes none"]
    try:
        values = read_draws(path, record)
    except DataError:  # said by `check_draws`
        return []
    file = path.parent / record.draws.path
    now = draws_block(file, scores.metrics[0].name, scores.bootstrap, scores.delong_se)
    wrong = _compare("draws", [("draws", record.draws.model_dump())], [("draws", now.model_dump())])
    if values.shape == scores.bootstrap.draws.shape:
        differ = ~np.isclose(values, scores.bootstrap.draws, rtol=0, atol=SAME, equal_nan=True)
        if differ.any():
            wrong.append(
                f"draws: {np.count_nonzero(differ)} of {len(values)} are not those of the predictions"
            )
    return wrong


_Named = Sequence[tuple[str, dict[str, Any]]]


def _metrics(scored: Record | Scores) -> _Named:
    return [(metric.name, metric.model_dump()) for metric in scored.metrics]


def _blocks(scored: Record | Scores) -> _Named:
    """Blocks of groups and diagrams by name, as in "subgroups sex"."""
    return [
        *((f"subgroups {block.column}", block.model_dump()) for block in scored.subgroups),
        *((f"reliability {block.label} {block.binning}", block.model_dump()) for block in scored.reliability),
    ]


def _ids(store: ResultStore, sha256: str, name: str, wrong: list[str]) -> dict[str, list[str]]:
    """The id lists behind a hash; empty, with a line more in `wrong`, where they are not what was hashed."""
    path = store.root / "splits" / f"{sha256}.json"
    if not path.exists():
        wrong.append(f"{name}: its id list splits/{path.name} is missing")
        return {}
    try:
        parts: dict[str, list[str]] = json.loads(path.read_bytes())
        found = ids_sha256(parts["train"]) if set(parts) == {"train"} else parts_sha256(parts)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        wrong.append(f"{name}: splits/{path.name} is no id list ({error})")
        return {}
    if found != sha256:
        wrong.append(f"{name}: the ids in splits/{path.name} have the hash {found[:12]}: it was edited")
    return parts


def _compare(what: str, recorded: _Named, computed: _Named) -> list[str]:
    """One line where the names differ, and one for each field of what has the same name, with its first difference."""
    wrong = []
    held, again = ([name for name, _ in named] for named in (recorded, computed))
    if held != again:
        wrong.append(f"{what} recorded: {', '.join(held)}; computed: {', '.join(again)}")
    now = dict(computed)
    for name, fields in recorded:
        for part, value in fields.items() if name in now else ():
            if found := next(_differences(part, value, now[name][part]), ""):
                wrong.append(f"{name}: {found}")
    return wrong


def _differences(where: str, one: Any, other: Any) -> Iterator[str]:
    """The parts in which two JSON values differ; numbers may by rounding."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            yield from _differences(f"{where} {key}", one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (mine, theirs) in enumerate(zip(one, other, strict=True)):
            yield from _differences(f"{where} {_called(mine, number)}", mine, theirs)
    elif not same(one, other, SAME):
        yield f"{where} {one} recorded, {other} computed"


def _called(item: Any, number: int) -> str:
    """What a member of a list is called in a message."""
    name = item.get("name", item.get("metric")) if isinstance(item, dict) else None
    return str(number if name is None else name)
