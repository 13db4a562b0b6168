"""The only place where methods and tasks meet: weights -> features -> head -> predictions -> record, cell by cell."""

import datetime
import os
import platform
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter

from medbench.data.prepared import BrokenImages
from medbench.devices import describe, deterministic, resolve_device, resolve_precision, watch_determinism
from medbench.errors import MedbenchError, UsageError
from medbench.feature_cache import FOLDER
from medbench.files import write_atomic
from medbench.lease import Lease, Leases
from medbench.limits import WorkerDied, see_finite, time_limit
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
from medbench.specs import MethodSpec
from medbench.task import Environment, Evaluation
from medbench.weights import load, untrained

LEASES: Final = ".leases"
"""Folder in a results folder: who computes what, now."""

CELLS: Final = "cells"
"""Folder beside the logs of workers: what they have recorded."""

LOG_END: Final = 8_000
"""Bytes at the end of a log that the record of a cell holds at which its worker died."""

_T = TypeVar("_T")

_Loaded = tuple[VisionLanguageModel, WeightsInfo]


class _LeaseLost(Exception):
    """This process stood still for so long that another one took over what it was computing."""


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

    @property
    def exit_code(self) -> int:
        """1 if some cells failed; the code of the user's mistake where it kept every cell from being computed."""
        if not self.failed and not self.errors:
            return 0
        computed = any(record.status == "ok" for record in self.records)
        return 1 if computed or not self.errors else self.errors[0].exit_code


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


class _Recorded:
    """What a run has recorded so far, whichever of its processes did: so no cell is tried twice.

    Args:
        folder: that the workers of the run share; None for a run of this process alone.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._own: dict[str, str] = {}

    def add(self, record: Record) -> None:
        # The record of a finished cell is found in the store, but who would look there for a failed one?
        text = record.to_json() if record.status == "failed" else ""
        self._own[record.cell_id] = text
        if self._folder is not None:
            write_atomic(self._folder / record.cell_id, text.encode())

    def find(self, cell_id: str) -> str | None:
        """JSON of the cell's failed record, "" if it is recorded and did not fail, None if it is not recorded."""
        if cell_id not in self._own and self._folder is not None:
            with suppress(FileNotFoundError):
                self._own[cell_id] = (self._folder / cell_id).read_text()
        return self._own.get(cell_id)


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
        together = request.processes.count > 1
        self.device = resolve_device(request.device, request.processes.local_rank if together else None)
        self.precision = resolve_precision(request.precision, self.device)
        self.planner = Planner(request, catalogue, self.precision, self.progress, opened)
        self.store = self.planner.store
        self.leases = Leases(request.results / LEASES, request.worker)
        self._recorded = _Recorded(None if request.worker is None else request.worker.parent / CELLS)
        self._left: list[tuple[MethodSpec, int]] = []
        self._made: dict[tuple[str, int], list[Record]] = {}
        self._errors: list[MedbenchError] = []

    def begin(self) -> None:
        """Check everything that a run needs, before the first cell is computed.

        Raises:
            MedbenchError: a name, flag, dataset or checkpoint is wrong; nothing was computed.
        """
        deterministic()
        self.check()
        self.check_folder("results", self.request.results)
        self._report(self.catalogue.run_started(self.request, self.request.results))
        self._left = [(method, seed) for method in self.planner.methods() for seed in self.request.seeds]

    def go_over(self) -> bool:
        """Compute every cell that has no record yet and that nobody else computes. One that fails costs itself alone.

        Returns:
            False where others still compute some.
        """
        for method, seed in [*self._left]:
            made = self.without_broken(partial(self._cells, method, seed))
            if made is not None:
                self._made[method.name, seed] = made
                self._left.remove((method, seed))
        return not self._left

    def outcome(self) -> RunOutcome:
        """What is done so far."""
        units = [(method.name, seed) for method in self.planner.methods() for seed in self.request.seeds]
        records = [record for unit in units for record in self._made.get(unit, [])]
        # A cell that no seed can change was asked for once a seed.
        return RunOutcome(list({record.cell_id: record for record in records}.values()), [*self._errors])

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
        """Pretrain the request's methods at its seeds, or find that it is done; folders of the finished weights.

        Several processes do it together.
        """
        deterministic()
        self.check_folder("cache", self.request.cache)
        for spec in self.planner.methods():
            self.planner.encoder(spec, self.request.seeds[0])
        folders = []
        with self._joined():
            for spec in self.planner.methods():
                if not spec.pretrains:
                    self.progress.say(
                        f"{spec.name} is used as it is initialised: there is nothing to pretrain"
                    )
                    continue
                for seed in self.request.seeds:
                    folders.append(self.without_broken(partial(self._pretrain, spec, seed)))
        return folders

    def _joined(self) -> AbstractContextManager[None]:
        if self.request.processes.count == 1:
            return nullcontext()
        from medbench.distributed import joined  # imports Lightning, which takes seconds

        return joined(self.request.processes, self.device)

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
        encoder = self.planner.encoder(spec, seed)
        # Of several processes one may have looked before the weights were there, so the first one is asked.
        if encoder.path is not None and self.request.processes.count == 1:
            self.progress.say(f"{spec.name} (seed {seed}): pretrained before, {encoder.path}")
            return encoder.path
        return self._pretrained(encoder)

    def _cells(self, spec: MethodSpec, seed: int) -> list[Record] | None:
        """Records of all cells of an encoder; None where others still pretrain it or compute some of them."""
        encoder = self.planner.encoder(spec, seed)
        groups = self._groups(encoder)
        loaded: list[_Loaded | Exception] = []
        with ExitStack() as pretraining:
            if not encoder.ready and any(map(_trained, groups)):
                lease = self.leases.claim(encoder.identity.key)
                if lease is None:
                    return None
                pretraining.enter_context(lease)
                encoder = self.planner.encoder(spec, seed)
                groups = self._groups(encoder)  # without what was recorded since
                if not encoder.ready and any(map(_trained, groups)):
                    try:
                        self._see_alive(lease)
                        self._pretrained(encoder)
                    except BrokenImages:
                        raise
                    except Exception as caught:
                        self._note(caught, f"{spec.name} (seed {seed})")
                        loaded.append(caught)
                    encoder = self.planner.encoder(spec, seed)
            if not loaded:  # a failure is recorded before anyone can try again
                pretraining.close()

            def weights() -> _Loaded | Exception:
                if not loaded:
                    try:
                        loaded.append(self.model(encoder))
                    except BrokenImages:
                        raise
                    except Exception as caught:
                        self._note(caught, f"{spec.name} (seed {seed})")
                        loaded.append(caught)
                return loaded[0]

            made = [self._group(group, weights) for group in groups]
        if any(records is None for records in made):
            return None
        return [record for records in made for record in records or ()]

    def _groups(self, encoder: Encoder) -> list[Group]:
        groups = [self.planner.group(encoder, task) for task in self.planner.tasks()]
        return [
            replace(g, cells=tuple(replace(c, record=self._standing(c)) for c in g.cells)) for g in groups
        ]

    def _standing(self, cell: Cell) -> Record | None:
        """The record of a cell that is not to be computed (again): one that was found, or that this run made."""
        mark = self._recorded.find(cell.identity.cell_id())
        if mark:
            return Record.model_validate_json(mark)
        if mark is not None:
            return self.store.find(cell.identity)
        return None if self.request.overwrite else cell.record

    def _see_alive(self, lease: Lease) -> None:
        """See that no other worker of this run died of what is claimed here.

        Of a worker on another machine all that is known is its silence: that machine may be gone. Once that is no
        fault of the cell's.

        Raises:
            WorkerDied: one did; with the end of its log.
        """
        left, own = lease.predecessor, self.request.worker
        if left is None or own is None or Path(left.log).parent != own.parent:
            return
        if not left.dead() and left.lost == 0:
            return
        died = WorkerDied(
            f"{left} ended while it computed this, and could not say why: killed by the system, which may have had no "
            f"memory left, or by native code. Its log is {left.log}"
        )
        with suppress(OSError):
            log = Path(left.log).read_bytes()[-LOG_END:].decode(errors="replace")
            died.add_note(f"The end of the log:\n{log}")
        raise died

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
        # Durations differ between equal runs; so does the seed at which weights that have none were first asked for.
        of_this_run = {"times"} if encoder.spec.seeded else {"times", "seed"}
        about = {key: value for key, value in weights.info.items() if key not in of_this_run}
        return weights.method.to(self.device).eval().model, WeightsInfo(sha256=weights.sha256, info=about)

    def _pretrained(self, encoder: Encoder) -> Path:
        # Lightning takes seconds to import, and a run that finds its weights does not need it.
        from medbench.pretrain import pretrain as pretrain_method

        corpus = self.planner.corpus(encoder.recipe)
        store = self.request.cache / "weights"
        if not self.request.resume and self.request.processes.rank == 0:
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

    def _group(self, group: Group, weights: Callable[[], _Loaded | Exception]) -> list[Record] | None:
        """Records of its cells; None where another process computes some of them."""
        if group.todo:
            lease = self.leases.claim(group.claim())
            if lease is None:
                return None
            with lease:
                cells = (replace(cell, record=self.store.find(cell.identity)) for cell in group.cells)
                group = replace(
                    group, cells=tuple(replace(cell, record=self._standing(cell)) for cell in cells)
                )
                try:
                    made = {r.identity.fraction: r for r in self._computed(group, lease, weights)}
                except _LeaseLost:
                    name = f"{group.encoder.spec.name} {group.spec.name} (seed {group.encoder.seed})"
                    self.progress.say(f"{name}: taken over by another process, since this one stood still")
                    return None
        else:
            made = {}
        return [cell.record or made[cell.fraction] for cell in group.cells]

    def _computed(
        self, group: Group, lease: Lease, weights: Callable[[], _Loaded | Exception]
    ) -> Iterator[Record]:
        """Records of the cells of a group that have none, which this process has claimed."""
        trained = _trained(group)
        try:
            self._see_alive(lease)
        except WorkerDied as died:
            for cell in trained:
                if lease.predecessor is not None and lease.predecessor.at in ("", cell.identity.cell_id()):
                    trained = [other for other in trained if other is not cell]
                    yield self._record(group, _Work(cell, error=died), None, "failed", lease)
        if trained:
            loaded = weights()
            if isinstance(loaded, Exception):
                for cell in trained:
                    yield self._record(group, _Work(cell, error=loaded), None, "failed", lease)
            else:
                yield from self._alone(group, trained, *loaded, lease)
        # Last, since a film that turns out broken makes all cells of the group void.
        for cell in group.todo:
            if cell.train.too_small is not None:
                yield self._record(group, _Work(cell), None, "skipped", lease)

    def _limit(self, what: str) -> AbstractContextManager[None]:
        return time_limit(self.request.cell_timeout, what, lethal=self.request.worker is not None)

    def _alone(
        self,
        group: Group,
        cells: Sequence[Cell],
        model: VisionLanguageModel,
        info: WeightsInfo,
        lease: Lease,
    ) -> Iterator[Record]:
        name = f"{group.encoder.spec.name} {group.spec.name} (seed {group.encoder.seed})"
        # Leases are those of one results folder, the cache may be that of several.
        key = sha256_json([group.key(), str(self.request.results.resolve())])[:24]
        workdir = self.request.cache / "work" / key
        if not self.request.resume:
            shutil.rmtree(workdir, ignore_errors=True)
        workdir.mkdir(parents=True, exist_ok=True)
        env = self.environment(workdir, group.encoder, info)
        features: Any = None
        shared = _Work(cells[0])  # what all of them are made from
        try:
            with shared.phase("extract"), self._limit(f"features for {name}"):
                features = group.task.extract(model, group.data, env)
        except BrokenImages:
            raise
        except Exception as caught:
            self._note(caught, name)
            for cell in cells:
                work = _Work(cell, error=caught, nondeterministic=shared.nondeterministic)
                yield self._record(group, work, info, "failed", lease)
            return
        try:
            for cell in cells:
                work = _Work(cell, phases=dict(shared.phases), nondeterministic=set(shared.nondeterministic))
                where = f"{name} at {fraction_name(cell.fraction)}"
                lease.at(cell.identity.cell_id())
                try:
                    with self._limit(where):
                        with work.phase("evaluate"):
                            seed = group.encoder.seed if cell.seed is not None else 0
                            made = group.task.evaluate(features, group.data, cell.train.rows, seed, env)
                        told = with_patient_columns(made.predictions, group.data.index)
                        work.evaluation = replace(made, predictions=told)
                        with work.phase("score"):
                            work.scores = score(group.task, told)
                    see_finite(told, work.scores)
                except Exception as caught:
                    work.error = caught
                    self._note(caught, where)
                yield self._record(group, work, info, "ok" if work.error is None else "failed", lease)
        finally:
            if hasattr(features, "close"):
                features.close()
        shutil.rmtree(workdir, ignore_errors=True)

    # Records.

    def _record(
        self, group: Group, work: _Work, info: WeightsInfo | None, status: Status, lease: Lease
    ) -> Record:
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
                request=self._request(group, cell),
            ),
            times=Times(
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                duration_s=round(sum(work.phases.values()), 3),
                phases=work.phases,
            ),
        )
        if not lease.owned():
            raise _LeaseLost
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
        self._recorded.add(record)
        self._report(self.catalogue.run_finished(record, self.request.results))
        return record

    def _request(self, group: Group, cell: Cell) -> dict[str, Any]:
        """What asks for this cell alone."""
        alone = replace(
            self.request,
            methods=(group.encoder.spec.name,),
            tasks=(group.spec.name,),
            seeds=(group.encoder.seed,),
            fractions=(cell.fraction,),
            worker=None,
        )
        found: dict[str, Any] = TypeAdapter(RunRequest).dump_python(alone, mode="json")
        return found

    def _environment(self) -> dict[str, Any]:
        return {
            "versions": versions(),
            "git": git_state(),
            "system": platform.platform(),
            "device": describe(self.device),
            "plugins": sorted({str(plugin.owner) for plugin in self.catalogue.plugins}),
        }

    def _note(self, error: Exception, where: str) -> None:
        self.progress.say(f"{where} failed: {type(error).__name__}: {error}")
        if isinstance(error, MedbenchError):
            self._errors.append(error)

    def _report(self, problems: Sequence[PluginProblem]) -> None:
        """An observer that failed is named, and costs nobody a record."""
        for problem in problems:
            self.progress.say(str(problem))


def _trained(group: Group) -> list[Cell]:
    """The cells to do that something is trained or evaluated for."""
    return [cell for cell in group.todo if cell.train.too_small is None]


def run(request: RunRequest, catalogue: Catalogue) -> RunOutcome:
    """Compute every cell of the request that has no record yet; those that other processes compute are waited for.

    Raises:
        MedbenchError: a name, flag, dataset or checkpoint is wrong; nothing was computed.
    """
    runner = Runner(request, catalogue)
    runner.begin()
    for _ in _rounds(runner.progress):
        if runner.go_over():
            break
    return runner.outcome()


def run_all(requests: Sequence[RunRequest], catalogue: Catalogue) -> RunOutcome:
    """Compute requests with the same data, one after the other; one that stops costs itself alone.

    Raises:
        MedbenchError: a name, flag, dataset or checkpoint of any of them is wrong; nothing was computed.
    """
    opened = Opened()
    runners = [Runner(request, catalogue, opened) for request in requests]
    for runner in runners:
        runner.check()
    stopped: dict[Runner, MedbenchError] = {}

    def over(runner: Runner, *, first: bool) -> bool:
        try:
            if first:
                runner.begin()
            return runner.go_over()
        except MedbenchError as error:
            runner.progress.say(f"{_name(runner.request)} stopped: {error}")
            stopped[runner] = error
            return True

    left = []
    for number, runner in enumerate(runners, 1):
        asked = runner.request
        runner.progress.say(f"[{number}/{len(runners)}] {_name(asked)} on {', '.join(asked.tasks)}")
        if not over(runner, first=True):
            left.append(runner)
    for _ in _rounds(left[0].progress) if left else ():
        left = [runner for runner in left if not over(runner, first=False)]
        if not left:
            break
    whole = RunOutcome()
    for runner in runners:
        if runner in stopped:
            whole.errors.append(stopped[runner])
        else:
            whole.records += runner.outcome().records
            whole.errors += runner.outcome().errors
    return whole


def run_together(request: RunRequest, catalogue: Catalogue) -> RunOutcome | None:
    """Pretrain in several processes what the request needs; then the first one computes its cells, alone.

    Returns:
        What it did; None in the other processes.
    """
    Runner(request, catalogue).check()
    if request.checkpoint is None:
        pretrain(request, catalogue)
    if request.processes.rank > 0:
        return None
    return run(request, catalogue)


def _name(request: RunRequest) -> str:
    return f"{', '.join(request.methods)} (seed {', '.join(map(str, request.seeds))})"


def _rounds(progress: Progress) -> Iterator[None]:
    """Again and again, the first time at once, then with pauses in which others go on."""
    yield
    progress.say("the cells that are left are computed by other processes; waiting for them")
    pause = 0.2
    while True:
        time.sleep(pause)
        yield
        pause = min(1.5 * pause, 5.0)


def pretrain(request: RunRequest, catalogue: Catalogue) -> list[Path]:
    """Pretrain the methods of the request; see `Runner.pretrain`."""
    return Runner(request, catalogue).pretrain()
