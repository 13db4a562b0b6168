"""Checking records again: `medbench results verify`."""

from pathlib import Path

from medbench.errors import DataError
from medbench.plugins import Catalogue
from medbench.records import MetricValue, ResultStore, read_predictions, read_record

SAME = 1e-9
"""Difference up to which a metric that is computed again counts as the recorded one: on another machine a sum may
run in another order."""


def verify_record(path: Path, store: ResultStore, catalogue: Catalogue) -> list[str]:
    """Everything that is wrong with one record.

    Its schema; that its id is the hash of its identity, config_sha256 that of its configs, and its file has the name
    of that id; the hash of its predictions; that the id lists it names are kept; and the metrics, computed again from
    the predictions by the installed task, if that has the recorded version.

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
        return wrong
    for name in ("split_sha256", "train_sha256"):
        sha256 = getattr(identity, name)
        if not (store.root / "splits" / f"{sha256}.json").exists():
            wrong.append(f"{name}: its id list splits/{sha256}.json is missing")
    try:
        predictions = read_predictions(path, record)
    except DataError as error:
        return [*wrong, str(error)]
    spec = catalogue.tasks.get(identity.task)
    if spec is None or spec.version != identity.task_version:
        installed = "is not installed" if spec is None else f"is installed at version {spec.version}"
        return [
            *wrong,
            f"metrics can not be computed again: {identity.task} {installed}, not {identity.task_version}",
        ]
    try:
        task = catalogue.load("tasks", identity.task)(identity.recipe)
        again = {metric.name: metric for metric in task.score(predictions)}
    except (
        Exception
    ) as error:  # one record that can not be scored must not keep the others from being checked
        return [*wrong, f"metrics can not be computed again: {type(error).__name__}: {error}"]
    if list(again) != [metric.name for metric in record.metrics]:
        wrong.append(
            f"metrics recorded: {', '.join(m.name for m in record.metrics)}; computed: {', '.join(again)}"
        )
    for metric in record.metrics:
        if metric.name in again:
            wrong += _differences(metric, MetricValue(**vars(again[metric.name])))
    return wrong


def _differences(recorded: MetricValue, computed: MetricValue) -> list[str]:
    return [
        f"{recorded.name}: {part} {getattr(recorded, part)} recorded, {getattr(computed, part)} computed"
        for part in ("value", "low", "high")
        if not _same(getattr(recorded, part), getattr(computed, part))
    ]


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME * max(1.0, abs(one))
