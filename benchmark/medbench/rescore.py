"""Metrics computed again from the predictions of records, without images, weights or a GPU: `medbench results rescore`.

Records are never edited: what is computed again is held against what is recorded, and can be written as records of a
results folder of its own.
"""

import datetime
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import pandas as pd

from medbench import __version__
from medbench.errors import DataError, MedbenchError, UsageError
from medbench.files import sha256_file
from medbench.plugins import Catalogue, declared
from medbench.records import (
    GONE,
    MetricValue,
    Record,
    ResultStore,
    fraction_name,
    read_predictions,
    read_record,
)
from medbench.scoring import Scores, score
from medbench.submission import MANIFEST

SAME = 1e-12
"""Difference up to which two numbers count as equal, as a part of the larger one where that is above 1."""

Verdict = Literal["equal", "new", "gone", "another version", "changed"]


@dataclass(frozen=True)
class Comparison:
    """One number of one record.

    Attributes:
        name: of the metric.
        recorded: None where the record has it not.
        now: None where the installed code has it not.
        verdict: `equal`; `new` or `gone`, where one side lacks it; `another version` of the metric or of how its
            interval is made, which may then differ; or `changed`, which nothing explains.
        what: the parts that differ, in words.
    """

    name: str
    recorded: MetricValue | None
    now: MetricValue | None
    verdict: Verdict
    what: str = ""

    @property
    def difference(self) -> float | None:
        """Of the values; None where one is not defined."""
        if self.recorded is None or self.now is None:
            return None
        if self.recorded.value is None or self.now.value is None:
            return None
        return self.now.value - self.recorded.value


@dataclass(frozen=True)
class Rescored:
    """One record, computed again.

    Attributes:
        path: of the record.
        record: as it was read; None where it could not be.
        now: what the installed code says; None where nothing was computed.
        comparisons: one a number of `numbers`, those of the installed code first.
        problem: why nothing was computed; "" where it was.
        version: of the installed task; None where nothing was computed.
    """

    path: Path
    record: Record | None = None
    now: Scores | None = None
    comparisons: Sequence[Comparison] = field(default=())
    problem: str = ""
    version: int | None = None

    @property
    def wrong(self) -> bool:
        """Whether something differs that nothing explains, or nothing could be computed."""
        return bool(self.problem) or any(each.verdict in ("changed", "gone") for each in self.comparisons)


def score_again(record: Record, predictions: pd.DataFrame, catalogue: Catalogue) -> Scores:
    """What the installed task says of these predictions.

    Raises:
        DataError: the task is not installed.
    """
    spec = catalogue.tasks.get(declared(record.identity.task))
    if spec is None:
        raise DataError(
            f"the task {record.identity.task} is not installed (it came with {record.identity.task_owner})"
        )
    task = catalogue.make_task(spec, record.identity.recipe)
    return score(task, predictions)


def numbers(scored: Record | Scores) -> dict[str, MetricValue]:
    """Every number that is made of predictions, by name: metrics, then those of groups, worst groups and diagrams.

    The others have the metric's name with the group behind it: "auroc [sex F]", "auroc [worst sex]",
    "reliability [pneumonia]".
    """
    found = {metric.name: metric for metric in scored.metrics}
    known = dict(found)

    def add(metric: str, group: str, **values: Any) -> None:
        name, own = f"{metric} [{group}]", known.get(metric)
        about = (
            {"version": 1, "interval": ""} if own is None else own.model_dump(include={"version", "interval"})
        )
        found[name] = MetricValue(name=name, **about, **values)

    for block in scored.subgroups:
        for group in block.groups:
            for each in group.metrics:
                values = each.model_dump(include={"value", "low", "high", "n", "per_class"})
                add(each.name, f"{block.column} {group.name}", **values)
        for spread in block.spreads:
            bounds = {"low": spread.worst_low, "high": spread.worst_high}
            gaps = {"best": spread.best, "gap": spread.gap}
            counted = len(block.groups) - len(spread.left_out)
            add(
                spread.metric,
                f"worst {block.column}",
                value=spread.worst,
                **bounds,
                n=counted,
                per_class=gaps,
            )
    for diagram in scored.reliability:
        bins = {
            f"{part} {number}": value
            for part in ("edges", "counts", "confidence", "positives", "low", "high")
            for number, value in enumerate(getattr(diagram, part))
        }
        add("reliability", f"{diagram.label} {diagram.binning}", value=None, n=diagram.n, per_class=bins)
    return found


def record_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The current records below folders, and those that are named themselves.

    Raises:
        UsageError: there is no such file or folder, or it holds no record.
    """
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*.json") if _is_record(file))
            if not found:
                raise UsageError(f"No records in {path.absolute()}.")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"No file or folder {path.absolute()}.")


def _is_record(path: Path) -> bool:
    aside = any(word in path.name for word in (".failed-", ".superseded-"))
    return not aside and path.parent.name != "splits" and path.name != MANIFEST


def rescore(path: Path, catalogue: Catalogue) -> Rescored:
    """Compute the metrics of a record again; a skipped one has none."""
    try:
        record = read_record(path)
    except DataError as error:
        return Rescored(path, problem=str(error))
    except FileNotFoundError:
        return Rescored(path, problem=GONE)
    if record.status != "ok":
        return Rescored(path, record)
    try:
        now = score_again(record, read_predictions(path, record), catalogue)
    except MedbenchError as error:
        return Rescored(path, record, problem=str(error))
    except Exception as error:  # one record that can not be scored must not keep the others from it
        return Rescored(
            path, record, problem=f"its predictions can not be scored ({type(error).__name__}: {error})"
        )
    version = catalogue.tasks[declared(record.identity.task)].version
    return Rescored(path, record, now, tuple(compare(record, now, version)), version=version)


def compare(record: Record, now: Scores, version: int) -> Iterator[Comparison]:
    """What is recorded against what is computed now, by name; see `numbers`.

    Args:
        record: what was recorded.
        now: what the installed task computes.
        version: of the installed task.
    """
    known = numbers(record)
    task = _versions("task", record.identity.task_version, version)
    for metric in numbers(now).values():
        old = known.pop(metric.name, None)
        if old is None:
            yield Comparison(metric.name, None, metric, "new")
            continue
        differences = list(_differences(old, metric))
        why = task + _versions("metric", old.version, metric.version)
        if old.interval != metric.interval:
            why.append(
                f"the interval was made by {old.interval or 'nothing'}, now by {metric.interval or 'nothing'}"
            )
        verdict: Verdict = "another version" if why else "changed" if differences else "equal"
        yield Comparison(metric.name, old, metric, verdict, "; ".join(why + differences))
    for name, old in known.items():
        verdict = "another version" if task else "gone"
        yield Comparison(
            name, old, None, verdict, "; ".join([*task, "the installed task does not compute it"])
        )


def _versions(what: str, recorded: int, installed: int) -> list[str]:
    same = recorded == installed
    return [] if same else [f"version {recorded} of the {what} recorded, {installed} installed"]


def write_all(done: Sequence[Rescored], store: ResultStore) -> list[Record]:
    """Write all records of which nothing kept their numbers from being computed, or none.

    Raises:
        DataError: for one of them `write` would say so.
    """
    sound = [each for each in done if not each.problem]
    targets = [_target(each, store) for each in sound]
    if twice := [path for path, count in Counter(targets).items() if count > 1]:
        raise DataError(f"{twice[0]}: several of the records are of this cell. Name those that you mean.")
    return [write(each, store) for each in sound]


def write(rescored: Rescored, store: ResultStore) -> Record:
    """Write a record with its numbers as they are now into another results folder, with its predictions and id lists.

    It is the same cell. `environment.rescored` says what it was made from.

    Raises:
        DataError: a record of this cell is there already; the record is gone; or the installed task has another version
            than the record's: what another version computes is another cell.
    """
    _target(rescored, store)
    record, path = cast(Record, rescored.record), rescored.path
    predictions = read_predictions(path, record) if record.predictions is not None else None
    for root in path.absolute().parents[3:4]:  # the results folder that the record is in
        for sha256 in (record.identity.split_sha256, record.identity.train_sha256):
            if (lists := ResultStore(root).read_ids(sha256)) is not None:
                store.write_ids(sha256, lists)
    try:
        of_record = sha256_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: {GONE}") from None
    about = {
        "medbench": __version__,
        "record_sha256": of_record,
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    changed: dict[str, Any] = {"environment": {**record.environment, "rescored": about}}
    if rescored.now is not None:
        changed |= {
            name: list(getattr(rescored.now, name)) for name in ("metrics", "subgroups", "reliability")
        }
        drawn = (rescored.now.bootstrap, rescored.now.delong_se)
        return store.write(record.model_copy(update=changed), predictions, *drawn)
    return store.write(record.model_copy(update=changed), predictions)


def _target(rescored: Rescored, store: ResultStore) -> Path:
    """Where a record goes; raises what `write` says."""
    record = rescored.record
    if record is None or rescored.problem:
        raise ValueError(f"{rescored.path} was not rescored: {rescored.problem}")
    if rescored.version not in (None, record.identity.task_version):
        raise DataError(
            f"{rescored.path} is of version {record.identity.task_version} of {record.identity.task}, and version "
            f"{rescored.version} is installed: its numbers are of another cell and are not written. Look at them "
            "without --out, name records of the installed version, or run the task again."
        )
    target = store.path(record.identity, record.cell_id)
    if target.exists():
        raise DataError(f"{target}: there is a record of this cell already. Name a new or empty folder.")
    return target


def rows(rescored: Rescored) -> list[dict[str, str]]:
    """One row a metric, for a table; of groups and diagrams only what is not equal."""
    record = rescored.record
    if record is None:
        return []
    identity = record.identity
    seed = "any" if identity.seed is None else str(identity.seed)
    return [
        {
            "method": identity.method,
            "task": identity.task,
            "labels": fraction_name(identity.fraction),
            "seed": seed,
            "metric": each.name,
            "recorded": _shown(each.recorded),
            "now": _shown(each.now),
            "difference": "" if each.difference is None else f"{each.difference:.1e}",
            "": f"{each.verdict}: {each.what}" if each.what else each.verdict,
        }
        for each in rescored.comparisons
        if each.verdict != "equal" or "[" not in each.name
    ]


def as_json(rescored: Rescored) -> dict[str, Any]:
    """One record, JSON types only."""
    return {
        "path": str(rescored.path),
        "cell_id": None if rescored.record is None else rescored.record.cell_id,
        "status": None if rescored.record is None else rescored.record.status,
        "problem": rescored.problem or None,
        "metrics": [
            {
                "name": each.name,
                "recorded": each.recorded and each.recorded.model_dump(mode="json"),
                "now": each.now and each.now.model_dump(mode="json"),
                "difference": each.difference,
                "verdict": each.verdict,
                "what": each.what,
            }
            for each in rescored.comparisons
        ],
    }


def _shown(metric: MetricValue | None) -> str:
    if metric is None:
        return "-"
    return "not defined" if metric.value is None else f"{metric.value:.6f}"


def _differences(old: MetricValue, now: MetricValue) -> Iterator[str]:
    words = {"version", "interval", "reason"}  # of which two are told apart, and the other is no number
    one, other = old.model_dump(exclude=words), now.model_dump(exclude=words)
    classes, found = one.pop("per_class"), other.pop("per_class")
    for part, value in one.items():
        if not same(value, other[part]):
            yield f"{part} {value} -> {other[part]}"
    for name in classes | found:
        if not same(classes.get(name), found.get(name)) or (name in classes) != (name in found):
            yield f"{name} {classes.get(name)} -> {found.get(name)}"


def same(one: object, other: object, within: float = SAME) -> bool:
    """Whether two values are equal, numbers up to rounding."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=within, abs_tol=within)
    return one == other
