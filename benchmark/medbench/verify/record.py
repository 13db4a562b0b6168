"""One record, by itself."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medbench.data.lists import PREFIX
from medbench.data.splits import PARTS, ids_sha256, parts_sha256
from medbench.disclosure import KEY, is_private, is_score
from medbench.errors import DataError, MedbenchError
from medbench.files import regular_bytes
from medbench.plugins import Catalogue, declared
from medbench.records import GONE, MOST_BYTES, Record, ResultStore, read_predictions, read_record
from medbench.rescore import same, score_again
from medbench.scoring import Scores
from medbench.specs import TaskSpec
from medbench.verify.draws import check_draws, compare_draws
from medbench.verify.installed import check_identity, check_search, check_weights, installed_task
from medbench.verify.plausible import implausible, implausible_metrics, undeserved

if TYPE_CHECKING:
    from medbench.verify.originals import Originals

SAME = 1e-9
"""Difference up to which a metric that is computed again counts as the recorded one: on another machine a sum may
run in another order."""

Lists = dict[str, list[str]]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Verdict:
    """What was found of one record.

    Attributes:
        path: of the record.
        record: None where the file is none.
        problems: why it can not be accepted, one line each.
        notes: what could not be checked, one line each.
        predictions: None where there are none, or they are not those of the record.
        lists: id lists by the field that names them (`split_sha256`, `train_sha256`).
        unpredicted: whether its predictions are not beside it, and its draws stand for them.
    """

    path: Path
    record: Record | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    predictions: pd.DataFrame | None = field(default=None, repr=False)
    lists: dict[str, Lists] = field(default_factory=dict, repr=False)
    unpredicted: bool = False

    @property
    def accepted(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def keyed(self) -> bool:
        """Whether rows go by a keyed hash, without truth."""
        return self.record is not None and self.record.export is not None and self.record.export.keyed


def verify_record(path: Path, store: ResultStore, catalogue: Catalogue) -> list[str]:
    """Everything that is wrong with one record; see `check_record`."""
    return check_record(path, store, catalogue).problems


def check_record(
    path: Path,
    store: ResultStore,
    catalogue: Catalogue,
    originals: "Originals | None" = None,
    *,
    without_predictions: bool = False,
) -> Verdict:
    """Check one record.

    Its schema; that its id is the hash of its identity, config_sha256 that of its configs, and its file has the name
    of that id; the hash of its predictions; that the id lists it names are kept, have their hashes and are the films
    that were predicted; that no number is impossible; that its interval is that of its draws; and the metrics, the
    draws and the blocks of groups and diagrams, computed again from the predictions by the installed task, if that has
    the recorded version.

    Args:
        path: of the record.
        store: the results folder it is in.
        catalogue: known tasks.
        originals: the datasets, where they are at hand.
        without_predictions: accept a record whose predictions are not beside it, if its draws are and agree.
    """
    try:
        record = read_record(path)
    except DataError as error:
        return Verdict(path, problems=[str(error)])
    except FileNotFoundError:
        return Verdict(path, problems=[GONE])
    verdict = Verdict(path, record)
    identity, wrong = record.identity, verdict.problems
    if record.cell_id != identity.cell_id():
        wrong.append(
            f"cell_id is {record.cell_id[:12]}, its identity has {identity.cell_id()[:12]}: it was edited"
        )
    if record.config_sha256 != identity.config_sha256():
        wrong.append(
            f"config_sha256 is {record.config_sha256[:12]}, its configs have {identity.config_sha256()[:12]}: "
            "it was edited"
        )
    try:
        if path != (expected := store.path(identity, record.cell_id)):
            wrong.append(f"expected at {expected}")
    except DataError as error:
        wrong.append(str(error))
    wrong += check_identity(record, catalogue)
    if record.status != "ok":
        held = [name for name in ("metrics", "predictions", "draws", "search") if getattr(record, name)]
        wrong += [f"a {record.status} record holds {name}: it was edited" for name in held]
        return verdict
    if verdict.keyed:
        _check_keyed_copy(record, wrong)
    elif record.export is not None and is_private(identity, catalogue):
        wrong.append(
            f"holds ids and truth of films of {identity.dataset}, which may not be passed on. Delete it, and export "
            "again with the installed version"
        )
    for name in ("split_sha256", "train_sha256"):
        verdict.lists[name] = _ids(store, getattr(identity, name), name, verdict.keyed, wrong)
    _check_counts(record, verdict.lists, wrong)
    wrong += _check_fraction(record, verdict.lists, installed_task(record, catalogue))
    wrong += check_weights(record)
    wrong += check_search(record)
    draws = check_draws(path, record, SAME)
    wrong += draws
    wrong += implausible_metrics(record)
    wrong += _published_split(record, catalogue)
    if originals is not None:
        originals.check(verdict)
    if _lacks_predictions(path, record, drawn=not draws):
        if without_predictions:
            verdict.unpredicted = True
            verdict.notes.append("metrics not recomputed: its predictions are not beside it; its draws agree")
        else:
            wrong.append(
                f"its predictions {path.stem}.parquet are not beside it. Its draws are and agree: "
                "`--without-predictions` takes these for enough"
            )
        return verdict
    predictions = _predictions(path, record, wrong)
    if predictions is None:
        return verdict
    verdict.predictions = predictions
    if verdict.keyed and (more := [n for n in map(str, predictions.columns) if n != KEY and not is_score(n)]):
        wrong.append(f"a keyed copy holds columns that are no scores: {', '.join(more)}")
    test = verdict.lists["split_sha256"].get("test")
    if test is not None:
        wrong += _other_films(record, predictions, test, KEY if verdict.keyed else "sample")
    wrong += implausible(predictions)
    wrong += undeserved(record, predictions)
    if verdict.keyed:
        predictions = None if originals is None else originals.restored(verdict)
        if predictions is None:
            verdict.notes.append(
                "metrics not recomputed: the copy holds no truth (`verify --data` and `--key` do)"
            )
            if record.draws is None and record.primary is not None and record.primary.low is not None:
                wrong.append(
                    "a keyed copy has an interval and no draws that it follows from. `medbench results rescore --out "
                    "DIR` makes them; export those records"
                )
            return verdict
    scores = _scores(record, predictions, catalogue, wrong)
    if scores is not None:
        wrong += _numbers(record, scores, verdict.keyed)
        wrong += () if draws else compare_draws(path, record, scores, SAME)
    return verdict


def _lacks_predictions(path: Path, record: Record, *, drawn: bool) -> bool:
    """Whether a record names predictions that are not there, and has draws that nothing is wrong with."""
    if record.predictions is None or record.predictions.path != f"{path.stem}.parquet":
        return False
    return drawn and record.draws is not None and not path.with_suffix(".parquet").exists()


def _predictions(path: Path, record: Record, wrong: list[str]) -> pd.DataFrame | None:
    if record.predictions is None:
        wrong.append("a finished record names no predictions")
        return None
    if record.predictions.path != f"{path.stem}.parquet":  # never a file elsewhere
        wrong.append(f"predictions are {record.predictions.path!r}, expected {path.stem}.parquet beside it")
        return None
    try:
        predictions = read_predictions(path, record)
    except DataError as error:
        wrong.append(str(error))
        return None
    except Exception as error:  # a file that somebody sent can be anything
        wrong.append(f"predictions can not be read: {type(error).__name__}: {error}")
        return None
    if record.predictions.rows != len(predictions):
        wrong.append(f"predictions: {record.predictions.rows} rows recorded, the file has {len(predictions)}")
    return predictions


def _scores(
    record: Record, predictions: pd.DataFrame, catalogue: Catalogue, wrong: list[str]
) -> Scores | None:
    """What the installed task says of the predictions; None, with a line more in `wrong`, where it can't."""
    identity = record.identity
    spec = catalogue.tasks.get(declared(identity.task))
    if spec is None or spec.version != identity.task_version:
        installed = "is not installed" if spec is None else f"is installed at version {spec.version}"
        wrong.append(
            f"metrics can not be computed again: {identity.task} {installed}, not {identity.task_version}"
        )
        return None
    if record.primary_metric != spec.primary_metric:
        wrong.append(
            f"primary_metric is {record.primary_metric}, that of {spec.name} is {spec.primary_metric}"
        )
    try:
        return score_again(record, predictions, catalogue)
    except (
        Exception
    ) as error:  # one record that can not be scored must not keep the others from being checked
        wrong.append(f"metrics can not be computed again: {type(error).__name__}: {error}")
        return None


def _numbers(record: Record, scores: Scores, keyed: bool) -> list[str]:
    """What the installed task says otherwise."""
    if keyed:
        scores = replace(scores, subgroups=[], reliability=[])
    wrong = _compare("metrics", _metrics(record), _metrics(scores))
    wrong += _compare("blocks", _blocks(record), _blocks(scores))
    if record.draws is None and scores.bootstrap is not None:
        wrong.append("no draws are recorded, the installed task makes them")
    if wrong and (record.draws is None or not (record.subgroups or record.reliability)):
        wrong.append(
            "if the record is older than these parts, `medbench results rescore --out DIR` makes it anew"
        )
    return wrong


def _check_keyed_copy(record: Record, wrong: list[str]) -> None:
    """A copy without truth holds no part that tells of single films, or of groups of patients."""
    if record.reliability:
        wrong.append("a keyed copy holds reliability diagrams, which tell the truth of single films")
    if record.subgroups:
        wrong.append("a keyed copy holds numbers over groups of patients, which tell their attributes")


def _check_counts(record: Record, lists: dict[str, Lists], wrong: list[str]) -> None:
    counts = record.counts
    for name, part, count in (
        ("split_sha256", "val", counts.validation),
        ("split_sha256", "test", counts.test),
        ("train_sha256", "train", counts.train),
    ):
        listed = len(lists[name].get(part, ()))
        if lists[name] and listed != count:
            wrong.append(f"counts: {count} {part} samples recorded, its id list has {listed}")
    if counts.train_patients > counts.train:
        wrong.append(f"counts: {counts.train_patients} patients of {counts.train} training samples")
    split, train = lists["split_sha256"], lists["train_sha256"].get("train", [])
    for part, ids in (*split.items(), ("label fraction", train)):
        if twice := len(ids) - len(set(ids)):
            wrong.append(f"{part} list: {twice} samples come twice")
    if split and (outside := len(set(train).difference(split["train"]))):
        wrong.append(
            f"{outside} of its {len(train)} training samples are not in the training part of its split"
        )
    if split and not counts.split_leak and (shared := set(split["test"]).intersection(split["train"])):
        wrong.append(f"{len(shared)} samples are both in the training and in the test part of its split")


def _check_fraction(record: Record, lists: dict[str, Lists], spec: TaskSpec | None) -> Iterator[str]:
    """Whether the training list is about as long as the label fraction says.

    Whole patients are drawn, who have one film or many, so its share of the films is near the fraction alone: as near
    as six standard errors of a share of patients whose numbers of films spread as widely as their mean.
    """
    everyone, train = lists["split_sha256"].get("train"), lists["train_sha256"].get("train")
    if everyone is None or train is None:
        return
    trains = bool(train) if spec is None else bool(spec.fractions)
    fraction = record.identity.fraction
    if not trains:
        if train:
            yield f"train_sha256: {len(train)} training samples of a task that trains nothing"
        return
    if fraction >= 1:
        if set(train) != set(everyone):
            yield (
                f"train_sha256: {len(train)} training samples at fraction 1, its split has {len(everyone)}"
            )
        return
    share = len(train) / max(len(everyone), 1)
    spread = 0.1 + 6 / max(record.counts.train_patients, 1) ** 0.5
    if share == 1 or abs(share - fraction) > spread * fraction:
        yield (
            f"train_sha256: {len(train)} of {len(everyone)} training samples of its split are {share:.2%}, its "
            f"fraction is {fraction:g}"
        )


def _published_split(record: Record, catalogue: Catalogue) -> Iterator[str]:
    """Whether the installed dataset knows the split, and by this hash where it is that of a whole release."""
    identity = record.identity
    if (
        installed_task(record, catalogue) is None
        or identity.dataset not in catalogue.datasets
        or identity.split.startswith(PREFIX)
    ):
        return
    try:
        splits = catalogue.load("datasets", identity.dataset).splits
    except MedbenchError:  # of a plugin that can not be loaded
        return
    if identity.split not in splits:
        yield f"{identity.dataset} has no split {identity.split}"
        return
    leak = splits[identity.split].leak
    if identity.source == "real" and bool(leak) != bool(
        record.counts.split_leak
    ):  # a phantom's may leak nothing
        yield f"counts: split_leak is {record.counts.split_leak!r}, that of {identity.split} is {leak!r}"
    published = splits[identity.split].sha256
    whole = identity.source == "real" and identity.subset is None and not record.counts.excluded
    if whole and published and published != identity.split_sha256:
        yield f"split_sha256 is {identity.split_sha256[:12]}, {identity.split} has {published[:12]}"


def _other_films(record: Record, predictions: pd.DataFrame, test: list[str], column: str) -> Iterator[str]:
    """Whether the rows are about the films of the test part, each as often as the task says."""
    if column not in predictions:
        yield f"predictions have no column {column}"
        return
    by = [name for name in (column, "direction") if name in predictions]
    if twice := int(predictions.duplicated(by).sum()):
        yield f"predictions: {twice} rows are about a film that another row is about"
    films = predictions["films" if "films" in predictions else column].explode().astype(str)
    found = set(films)
    if unknown := sorted(found.difference(test)):
        yield f"predictions: {len(unknown)} of {len(found)} films are not in the test part of its split"
    lacking = len(set(test).difference(found))
    unread = record.search.get("films_without_report", 0)  # of retrieval: they can not be ranked
    if lacking != unread and not unknown:
        yield f"predictions: {lacking} of {len(test)} films of the test part of its split are missing"


_Named = Sequence[tuple[str, dict[str, Any]]]


def _metrics(scored: Record | Scores) -> _Named:
    return [(metric.name, metric.model_dump()) for metric in scored.metrics]


def _blocks(scored: Record | Scores) -> _Named:
    """Blocks of groups and diagrams by name, as in "subgroups sex"."""
    return [
        *((f"subgroups {block.column}", block.model_dump()) for block in scored.subgroups),
        *((f"reliability {block.label} {block.binning}", block.model_dump()) for block in scored.reliability),
    ]


def _ids(store: ResultStore, sha256: str, name: str, keyed: bool, wrong: list[str]) -> Lists:
    """The id lists behind a hash; empty, with a line more in `wrong`, where they are not what was hashed."""
    if not _SHA256.fullmatch(sha256):
        wrong.append(f"{name}: {sha256[:80]!r} is no SHA-256")
        return {}
    path = store.root / "splits" / f"{sha256}{'.hmac' if keyed else ''}.json"
    if not path.exists():
        wrong.append(f"{name}: its id list splits/{path.name} is missing")
        return {}
    try:
        parts: Lists = json.loads(regular_bytes(path, MOST_BYTES))
        found = ids_sha256(parts["train"]) if set(parts) == {"train"} else parts_sha256(parts)
        if keyed:
            if set(parts) not in ({"train"}, set(PARTS)) or not all(
                _SHA256.fullmatch(key) for ids in parts.values() for key in ids
            ):
                wrong.append(f"{name}: splits/{path.name} holds something else than keyed hashes")
            return parts
    except (DataError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
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
        if name in now and (kind := fields.get("interval")) != (other := now[name].get("interval")):
            wrong.append(
                f"{name}: interval {kind} recorded, {other} computed. If it is of an older version, `medbench results "
                "rescore --out DIR` makes it anew"
            )
            continue
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
