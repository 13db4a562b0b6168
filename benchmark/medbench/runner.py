"""The only place where methods and tasks meet: weights -> features -> head -> predictions -> record, cell by cell."""

import datetime
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medbench.data.prepared import BrokenImages
from medbench.devices import describe, deterministic, resolve_device, resolve_precision, watch_determinism
from medbench.errors import MedbenchError, UsageError
from medbench.feature_cache import FOLDER
from medbench.files import locked
from medbench.model import VisionLanguageModel
from medbench.planner import Cell, Encoder, Group, Opened, Planner
from medbench.plugins import Catalogue, PluginProblem
from medbench.progress import Progress
from medbench.provenance import git_state, versions
from medbench.records import (
    Counts,
    Failure,
    Record,
    Status,
    Times,
    WeightsInfo,
    fraction_name,
    sha256_json,
)
from medbench.redaction import without_secrets
from medbench.request import RunRequest
from medbench.scoring import Scores, score, with_patient_columns
from medbench.specs import MethodSpec, TaskSpec
from medbench.task import Environment, Evaluation
from medbench.weights import load, untrained

_T = TypeVar("_T")


@dataclass
class RunOutcome:
    """What a run did.

    Attributes:
        records: one a cell that was asked for, in the order of methods, seeds, tasks, fractions; found or made now.
        errors: mistakes that a user can mend and that stopped a part of the run; their cells are recorded as failed.
    """

    records: list[Record] = field(default_factory=list)
    errors: list[MedbenchError] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Cells that failed."""
        return sum(record.status == "failed" for record in self.records)


@dataclass
class _Work:
    """What one cell has given so far; a record is made of it whatever happened."""

    cell: Cell
    phases: dict[str, float] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    scores: Scores | None = None
    error: BaseException | None = None
    nondeterministic: set[str] = field(default_factory=set)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        with watch_determinism() as seen:
            try:
                yield
            finally:
                self.nondeterministic |= seen
        self.phases[name] = round(time.monotonic() - start, 3)


class Runner:
    """Computes the cells of one request.

    Args:
        request: what the user asked for.
        catalogue: known methods, tasks and datasets.
        opened: datasets of another request with the same data, or None.

    Raises:
        UsageError: the device or precision is not to be had.
    """

    def __init__(self, request: RunRequest, catalogue: Catalogue, opened: Opened | None = None) -> None:
        self.request = request
        self.catalogue = catalogue
        self.progress = Progress("" if request.real_data else "phantom", request.quiet)
        self.device = resolve_device(request.device)
        self.precision = resolve_precision(request.precision, self.device)
        self.planner = Planner(request, catalogue, self.precision, self.progress, opened)
        self.store = self.planner.store
        self._written: set[str] = set()

    def run(self) -> RunOutcome:
        """Compute every cell that has no record yet. A cell that fails costs itself alone.

        Raises:
            MedbenchError: a name, flag, dataset or checkpoint is wrong; nothing was computed.
        """
        methods, tasks = self.planner.methods(), self.planner.tasks()
        deterministic()
        outcome = RunOutcome()
        self.check()
        self.check_folder("results", self.request.results)
        self._report(self.catalogue.run_started(self.request, self.request.results))
        for method in methods:
            for seed in self.request.seeds:
                outcome.records += self.without_broken(partial(self._cells, method, seed, tasks, outcome))
        # A cell that no seed can change was asked for once a seed.
        outcome.records = list({record.cell_id: record for record in outcome.records}.values())
        return outcome

    def check(self) -> None:
        """Plan everything: a mistake in the last method must not cost the work of the first.

        Raises:
            MedbenchError: a name, flag, dataset or checkpoint is wrong.
        """
        methods, tasks = self.planner.methods(), self.planner.tasks()
        self.check_folder("cache", self.request.cache)
        self.planner.sources.check_corpus()
        for method in methods:
            encoder = self.planner.encoder(method, self.request.seeds[0])
            for task in tasks:
                self.planner.group(encoder, task)

    def pretrain(self) -> list[Path]:
        """Pretrain the request's methods at its seeds, or find that it is done; folders of the finished weights."""
        deterministic()
        self.check_folder("cache", self.request.cache)
        for spec in self.planner.methods():
            self.planner.encoder(spec, self.request.seeds[0])
        folders = []
        for spec in self.planner.methods():
            if not spec.pretrains:
                self.progress.say(f"{spec.name} is used as it is initialised: there is nothing to pretrain")
                continue
            for seed in self.request.seeds:
                folders.append(self.without_broken(partial(self._pretrain, spec, seed)))
        return folders

    def check_folder(self, what: str, folder: Path) -> None:
        """See that a folder can be written to; made if need be.

        Raises:
            UsageError: it can not.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"The {what} folder {folder} can not be made: {error.strerror}.") from None
        if not os.access(folder, os.W_OK):
            raise UsageError(f"The {what} folder {folder} can not be written to.")

    def without_broken(self, work: Callable[[], _T]) -> _T:
        """Do `work`; where films turn out broken and the user wants them left out, do it again without them."""
        while True:
            try:
                return work()
            except BrokenImages as broken:
                self.planner.exclude(broken)

    # One encoder.

    def _pretrain(self, spec: MethodSpec, seed: int) -> Path:
        return self._pretrained(self.planner.encoder(spec, seed))

    def _cells(
        self, spec: MethodSpec, seed: int, tasks: Sequence[TaskSpec], outcome: RunOutcome
    ) -> list[Record]:
        encoder = self.planner.encoder(spec, seed)
        groups = [self.planner.group(encoder, task) for task in tasks]
        if self.request.overwrite:
            groups = [replace(group, cells=tuple(map(self._again, group.cells))) for group in groups]
        todo = [cell for group in groups for cell in group.todo if cell.train.too_small is None]
        model: VisionLanguageModel | None = None
        info: WeightsInfo | None = None
        records = []
        error: Exception | None = None
        if todo:
            try:
                model, info = self.model(encoder)
            except BrokenImages:
                raise
            except Exception as caught:
                error = caught
                self._note(caught, outcome, f"{spec.name} (seed {seed})")
        for group in groups:
            records += self._group(group, model, info, error, outcome)
        return records

    def model(self, encoder: Encoder) -> tuple[VisionLanguageModel, WeightsInfo]:
        """The model of an encoder on the device, in eval mode, and its weights; pretrained now if need be."""
        if encoder.identity.kind == "untrained":
            weights = untrained(
                encoder.method,
                encoder.recipe,
                encoder.spec.name,
                encoder.seed,
                offline=self.request.offline,
                say=self.progress.say,
            )
        else:
            path = encoder.path if encoder.path is not None else self._pretrained(encoder)
            weights = load(path, encoder.method, encoder.spec.name)
        # Durations differ between equal runs and stay out of the record.
        about = {key: value for key, value in weights.info.items() if key != "times"}
        return weights.method.to(self.device).eval().model, WeightsInfo(sha256=weights.sha256, info=about)

    def _pretrained(self, encoder: Encoder) -> Path:
        if encoder.path is not None:
            self.progress.say(f"{encoder.spec.name} (seed {encoder.seed}): pretrained before, {encoder.path}")
            return encoder.path
        # Lightning takes seconds to import, and a run that finds its weights does not need it.
        from medbench.pretrain import pretrain as pretrain_method

        corpus = self.planner.corpus(encoder.recipe)
        store = self.request.cache / "weights"
        if not self.request.resume:
            shutil.rmtree(store / f"{encoder.identity.key}.partial", ignore_errors=True)
        return pretrain_method(
            encoder.method,
            encoder.recipe,
            corpus.index,
            corpus.training_split(),
            corpus.images,
            method_name=encoder.spec.name,
            owner=encoder.owner,
            recipe_name=self.request.recipe,
            seed=encoder.seed,
            device=self.device,
            precision=self.precision,
            store=store,
            progress=self.progress,
            extra_info={"fidelity": encoder.spec.fidelity, "git": git_state()},
            offline=self.request.offline,
        )

    def environment(self, workdir: Path, encoder: Encoder, info: WeightsInfo | None) -> Environment:
        """Where an encoder computes; with its weights known, it finds features in the cache and leaves them there."""
        return Environment(
            self.device,
            self.precision,
            workdir,
            self.progress,
            encoder="" if info is None else sha256_json([info.sha256, self.precision, self.device.type]),
            cache=self.request.cache / FOLDER,
            method=encoder.spec.name,
        )

    # One encoder on one task.

    def _group(
        self,
        group: Group,
        model: VisionLanguageModel | None,
        info: WeightsInfo | None,
        error: Exception | None,
        outcome: RunOutcome,
    ) -> list[Record]:
        records: dict[float, Record] = {
            cell.fraction: cell.record for cell in group.cells if cell.record is not None
        }
        trained = [cell for cell in group.todo if cell.train.too_small is None]
        if error is not None:
            for cell in trained:
                records[cell.fraction] = self._record(group, _Work(cell, error=error), None, "failed")
        elif trained and model is not None:
            for record in self._computed(group, trained, model, info, outcome):
                records[record.identity.fraction] = record
        # Last, since a film that turns out broken makes all cells of the group void.
        for cell in group.todo:
            if cell.train.too_small is not None:
                records[cell.fraction] = self._record(group, _Work(cell), None, "skipped")
        return [records[fraction] for fraction in sorted(records)]

    def _computed(
        self,
        group: Group,
        cells: Sequence[Cell],
        model: VisionLanguageModel,
        info: WeightsInfo | None,
        outcome: RunOutcome,
    ) -> Iterator[Record]:
        """Records of `cells`; waits for another process that computes the same, and takes what it made."""
        name = f"{group.encoder.spec.name} {group.spec.name} (seed {group.encoder.seed})"
        workdir = self.request.cache / "work" / group.key()
        workdir.parent.mkdir(parents=True, exist_ok=True)
        with locked(workdir.with_suffix(".lock"), f"computing {name}", self.progress):
            left = []
            for cell in cells:
                made = None if self.request.overwrite else self.store.find(cell.identity)
                if made is None:
                    left.append(cell)
                else:
                    yield made
            if left:
                yield from self._alone(name, workdir, group, left, model, info, outcome)

    def _alone(
        self,
        name: str,
        workdir: Path,
        group: Group,
        cells: Sequence[Cell],
        model: VisionLanguageModel,
        info: WeightsInfo | None,
        outcome: RunOutcome,
    ) -> Iterator[Record]:
        if not self.request.resume:
            shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(parents=True, exist_ok=True)
        env = self.environment(workdir, group.encoder, info)
        features: Any = None
        shared = _Work(cells[0])  # what all of them are made from
        try:
            with shared.phase("extract"):
                features = group.task.extract(model, group.data, env)
        except BrokenImages:
            raise
        except Exception as caught:
            self._note(caught, outcome, name)
            for cell in cells:
                work = _Work(cell, error=caught, nondeterministic=shared.nondeterministic)
                yield self._record(group, work, info, "failed")
            return
        try:
            for cell in cells:
                work = _Work(cell, phases=dict(shared.phases), nondeterministic=set(shared.nondeterministic))
                try:
                    with work.phase("evaluate"):
                        seed = group.encoder.seed if cell.seed is not None else 0
                        made = group.task.evaluate(features, group.data, cell.train.rows, seed, env)
                    told = with_patient_columns(made.predictions, group.data.index)
                    work.evaluation = replace(made, predictions=told)
                    with work.phase("score"):
                        work.scores = score(group.task, told)
                except Exception as caught:
                    work.error = caught
                    self._note(caught, outcome, f"{name} at {fraction_name(cell.fraction)}")
                yield self._record(group, work, info, "ok" if work.error is None else "failed")
        finally:
            if hasattr(features, "close"):
                features.close()
        shutil.rmtree(workdir, ignore_errors=True)

    def _again(self, cell: Cell) -> Cell:
        """The cell as if it had no record, unless this run made it."""
        done = cell.record is not None and cell.record.cell_id in self._written
        return cell if done else replace(cell, record=None)

    # Records.

    def _record(self, group: Group, work: _Work, info: WeightsInfo | None, status: Status) -> Record:
        cell, data = work.cell, group.data
        error = work.error
        scores = work.scores if status == "ok" else None
        record = Record(
            cell_id=cell.identity.cell_id(),
            status=status,
            reason=cell.train.too_small if status == "skipped" else None,
            identity=cell.identity,
            primary_metric=group.spec.primary_metric,
            metrics=[] if scores is None else scores.metrics,
            subgroups=[] if scores is None else scores.subgroups,
            reliability=[] if scores is None else scores.reliability,
            counts=Counts(
                train=len(cell.train.rows),
                train_patients=cell.train.patients,
                validation=len(data.split.val),
                test=len(data.split.test),
                split_leak=data.split.leak,
                excluded=[str(problem) for problem in data.index.excluded],
                pixels_sha256=dict(group.pixels) if status == "ok" else {},
            ),
            weights=info,
            search=dict(work.evaluation.search) if work.evaluation is not None and status == "ok" else {},
            environment=self._environment() | {"nondeterministic": sorted(work.nondeterministic)},
            config_sha256=cell.identity.config_sha256(),
            error=None
            if error is None
            else Failure(
                type=type(error).__name__,
                message=without_secrets(str(error)),
                traceback=without_secrets("".join(traceback.format_exception(error))),
            ),
            times=Times(
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                duration_s=round(sum(work.phases.values()), 3),
                phases=work.phases,
            ),
        )
        ids = data.index.table["sample"]
        if status == "ok":
            parts = {"train": data.split.train, "val": data.split.val, "test": data.split.test}
            self.store.write_ids(
                cell.identity.split_sha256, {name: ids.iloc[rows].tolist() for name, rows in parts.items()}
            )
            self.store.write_ids(cell.identity.train_sha256, {"train": ids.iloc[cell.train.rows].tolist()})
        predictions = work.evaluation.predictions if work.evaluation is not None and status == "ok" else None
        if self.request.overwrite and status != "failed":
            self.store.supersede(cell.identity)
        drawn = (None, None) if scores is None else (scores.bootstrap, scores.delong_se)
        record = self.store.write(record, predictions, *drawn)
        self._written.add(record.cell_id)
        self._report(self.catalogue.run_finished(record, self.request.results))
        return record

    def _environment(self) -> dict[str, Any]:
        return {
            "versions": versions(),
            "git": git_state(),
            "system": platform.platform(),
            "device": describe(self.device),
            "plugins": sorted({str(plugin.owner) for plugin in self.catalogue.plugins}),
        }

    def _note(self, error: Exception, outcome: RunOutcome, where: str) -> None:
        self.progress.say(f"{where} failed: {type(error).__name__}: {error}")
        if isinstance(error, MedbenchError):
            outcome.errors.append(error)

    def _report(self, problems: Sequence[PluginProblem]) -> None:
        """An observer that failed is named, and costs nobody a record."""
        for problem in problems:
            self.progress.say(str(problem))


def run(request: RunRequest, catalogue: Catalogue) -> RunOutcome:
    """Compute every cell of the request that has no record yet; see `Runner`."""
    return Runner(request, catalogue).run()


def run_all(requests: Sequence[RunRequest], catalogue: Catalogue) -> RunOutcome:
    """Compute requests with the same data, one after the other; one that stops costs itself alone.

    Raises:
        MedbenchError: a name, flag, dataset or checkpoint of any of them is wrong; nothing was computed.
    """
    opened, whole = Opened(), RunOutcome()
    runners = [Runner(request, catalogue, opened) for request in requests]
    for runner in runners:
        runner.check()
    for number, runner in enumerate(runners, 1):
        asked = runner.request
        name = f"{', '.join(asked.methods)} (seed {', '.join(map(str, asked.seeds))})"
        runner.progress.say(f"[{number}/{len(runners)}] {name} on {', '.join(asked.tasks)}")
        try:
            outcome = runner.run()
        except MedbenchError as error:
            runner.progress.say(f"{name} stopped: {error}")
            whole.errors.append(error)
        else:
            whole.records += outcome.records
            whole.errors += outcome.errors
    return whole


def pretrain(request: RunRequest, catalogue: Catalogue) -> list[Path]:
    """Pretrain the methods of the request; see `Runner.pretrain`."""
    return Runner(request, catalogue).pretrain()
