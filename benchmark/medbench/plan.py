"""`medbench plan`: the cells of a request or a suite, what is there, what is missing, and how long it may take.

Nothing is written, decoded or trained. Times are those of equal work done before on this machine; where there was
none, of the reference machine below; where that has none either, they are left open and said to be. Of pretrainings
that were never timed GPU hours are estimated (`medbench.cost`), apart from the times.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medbench import cost
from medbench.devices import resolve_device, resolve_precision
from medbench.errors import DataError, MedbenchError, WeightsError
from medbench.planner import Cell, Encoder, Opened, Planner
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.record_index import RecordIndex
from medbench.records import fraction_name
from medbench.request import RunRequest
from medbench.specs import MethodSpec, TaskSpec
from medbench.weights import INFO, read_info

REFERENCE = "two cores of an Intel Xeon with AMX, no GPU"
REFERENCE_SECONDS: dict[tuple[str, ...], float] = {
    ("clip", "tiny"): 120,
    ("place", "tiny"): 190,
    ("rsna_det", "tiny", "1%"): 25,
    ("rsna_det", "tiny", "10%"): 28,
    ("rsna_det", "tiny", "100%"): 49,
    ("rsna_lp", "tiny", "1%"): 5,
    ("rsna_lp", "tiny", "10%"): 5,
    ("rsna_lp", "tiny", "100%"): 5,
}
"""Measured there: (method, recipe) a pretraining, (task, recipe, fraction) a cell with the extraction before it."""


@dataclass(frozen=True)
class DataState:
    """One dataset that the request needs."""

    name: str
    use: str
    source: str
    where: str
    samples: int | None
    subset: str | None
    state: str


@dataclass(frozen=True)
class WeightsState:
    """One encoder that the request needs; `config` says what its recipe or weights were replaced by.

    `gpu_hours` are estimated, of a pretraining that was never timed; None where its operations were not counted.
    """

    method: str
    config: str
    seed: int
    state: str
    seconds: float | None
    gpu_hours: float | None = None


@dataclass(frozen=True)
class CellState:
    """One cell of the request."""

    method: str
    config: str
    task: str
    fraction: float
    seed: int | None
    state: str
    seconds: float | None


@dataclass(frozen=True)
class MethodState:
    """What is done and to do of one method.

    Attributes:
        method: its name.
        config: what its recipe or weights were replaced by.
        cells: how many.
        done: of these, recorded.
        skip: of these, with too few labels to train on.
        pretrain: encoders to pretrain.
        seconds: sum of the times that are known, of pretraining and cells.
        untimed: parts to do that nothing like was timed before.
    """

    method: str
    config: str
    cells: int
    done: int
    skip: int
    pretrain: int
    seconds: float
    untimed: int

    def row(self) -> dict[str, str]:
        """For people."""
        known = [_duration(self.seconds)] if self.seconds or not self.untimed else []
        unknown = [f"{self.untimed} never timed"] if self.untimed else []
        return {
            "method": self.method,
            "config": self.config,
            "cells": str(self.cells),
            "done": str(self.done),
            "to skip": str(self.skip),
            "to do": str(self.cells - self.done - self.skip),
            "to pretrain": str(self.pretrain),
            "time": " + ".join([*known, *unknown]),
        }


@dataclass(frozen=True)
class Plan:
    """What a run of this request would do.

    Attributes:
        data: datasets that it reads.
        weights: encoders that it uses.
        cells: what it computes.
        missing: what stops it, as the errors that the run would end with.
        left_out: of a suite: what methods can not serve, a sentence each; None for a request alone.
        pairs: of the corpus; None where it is not there, and GPU hours are for `cost.PAIRS`.
    """

    data: tuple[DataState, ...]
    weights: tuple[WeightsState, ...]
    cells: tuple[CellState, ...]
    missing: tuple[MedbenchError, ...]
    left_out: tuple[str, ...] | None = None
    pairs: int | None = None

    @property
    def seconds(self) -> float:
        """Sum of the times that are known."""
        return _known(self._parts)

    @property
    def unknown(self) -> int:
        """Parts to do whose time is not known."""
        return _untimed(self._parts)

    @property
    def methods(self) -> tuple[MethodState, ...]:
        """The same by method and what it was given, in the order in which they are run."""
        found = []
        for method, config in dict.fromkeys((part.method, part.config) for part in self._parts):
            cells = [c for c in self.cells if (c.method, c.config) == (method, config)]
            weights = [w for w in self.weights if (w.method, w.config) == (method, config)]
            found.append(
                MethodState(
                    method,
                    config,
                    cells=len(cells),
                    done=sum(cell.state.startswith("done") for cell in cells),
                    skip=sum(cell.state == "to skip" for cell in cells),
                    pretrain=sum(encoder.state == "to pretrain" for encoder in weights),
                    seconds=_known([*weights, *cells]),
                    untimed=_untimed([*weights, *cells]),
                )
            )
        return tuple(found)

    def _estimate(self) -> str:
        """What is said of GPU hours; "" where none are estimated."""
        open_ = [w for w in self.weights if w.state == "to pretrain" and w.seconds is None]
        hours = [w.gpu_hours for w in open_ if w.gpu_hours is not None]
        if not hours:
            return ""
        if self.pairs is None:
            over = f"every {cost.PAIRS:,} pairs of the corpus, which is not there to be counted"
        else:
            over = f"the {self.pairs:,} pairs of the corpus"
        others = sorted({w.method for w in open_ if w.gpu_hours is None})
        return (
            f"{len(hours)} of {len(open_)} pretrainings never timed: about {_hours(sum(hours))} GPU hours for {over}; "
            f"{cost.ASSUMED}. Not in it: cells{''.join(f', {name}' for name in others)}"
        )

    @property
    def _parts(self) -> list["WeightsState | CellState"]:
        return [*self.weights, *self.cells]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "data": [asdict(d) for d in self.data],
            "weights": [asdict(w) for w in self.weights],
            "cells": [asdict(c) for c in self.cells],
            "methods": [asdict(m) for m in self.methods],
            "left_out": list(self.left_out or ()),
            "missing": [str(error) for error in self.missing],
            "seconds": self.seconds,
            "unknown": self.unknown,
            "pairs": self.pairs,
        }

    def text(self) -> str:
        """For people."""

        def table(rows: Sequence[Any], **formats: Any) -> str:
            shown = [{k: formats.get(k, _plain)(v) for k, v in asdict(row).items()} for row in rows]
            return _table(shown)

        if self.left_out is None:
            parts = [table(self.data), table(self.weights, seconds=_seconds, gpu_hours=_hours)]
            if self.cells:
                parts.append(table(self.cells, seconds=_seconds, fraction=fraction_name, seed=_seed))
        else:  # hundreds of cells: by method
            parts = [table(self.data), _table([m.row() for m in self.methods])]
            parts += [f"left out: {sentence}" for sentence in self.left_out]
        todo = sum(cell.state.startswith("to ") for cell in self.cells)
        said = f"{_duration(self.seconds)} (by earlier runs here, else by {REFERENCE})"
        if self.unknown:
            never = f"{self.unknown:,} {'part' if self.unknown == 1 else 'parts'} never timed"
            said = f"at least {said}; {never}" if self.seconds else never
        else:
            said = f"about {said}"
        parts.append(f"{todo} of {len(self.cells)} cells to do; {said}")
        if estimate := self._estimate():
            parts.append(estimate)
        parts += [f"missing: {error}" for error in self.missing]
        return "\n\n".join(parts)


def plan(requests: Sequence[RunRequest], catalogue: Catalogue) -> Plan:
    """Work out what `run` would do.

    Args:
        requests: one, or those of a suite: with the same data, results and cache.
        catalogue: known methods, tasks and datasets.

    Raises:
        UsageError: an unknown name, or a task that a method can not serve.
    """
    if not requests:
        return Plan((), (), (), ())
    opened, progress = Opened(), Progress(quiet=True)
    planners = []
    for request in requests:
        precision = resolve_precision(request.precision, resolve_device(request.device))
        planners.append(Planner(request, catalogue, precision, progress, opened))
    for planner in planners:
        planner.tasks()
        for method in planner.methods():
            planner.recipe(method)
    missing: dict[str, MedbenchError] = {}
    data, unread = _data(planners, missing)
    known = RecordIndex(requests[0].results, requests[0].cache).seconds()
    pairs = next((state.samples for state in data if state.use == PRETRAINING), None)
    weights: dict[tuple[str, str, int], WeightsState] = {}
    cells: list[CellState] = []
    seen: set[str] = set()
    for planner in planners:
        request = planner.request
        config = request.checkpoint or " ".join(f"{name}={text}" for name, text in request.overrides.items())
        for method in planner.methods():
            trained = method.pretrains and request.checkpoint is None
            for seed in request.seeds:
                encoder = None
                if not (trained and PRETRAINING in unread):
                    try:
                        encoder = planner.encoder(method, seed)
                    except WeightsError as error:
                        missing[str(error)] = error
                pretraining = planner.recipe(method).pretrain if trained else None
                epochs = pretraining.epochs if pretraining is not None else 0
                weights[method.name, config, seed] = _weights(
                    method, config, seed, encoder, request, epochs, pairs or cost.PAIRS
                )
                for task in planner.tasks():
                    group = None
                    if encoder is not None and task.dataset not in unread:
                        group = planner.group(encoder, task)
                    for number, fraction in enumerate(planner.fractions(task)):
                        cell = group.cells[number] if group is not None else None
                        if cell is not None and (cell_id := cell.identity.cell_id()) in seen:
                            continue  # asked for at another seed, which can not change it
                        elif cell is not None:
                            seen.add(cell_id)
                        cells.append(_cell(method, config, task, fraction, seed, cell, known, request))
    return Plan(tuple(data), tuple(weights.values()), tuple(cells), tuple(missing.values()), pairs=pairs)


PRETRAINING = "pretraining"
"""The use of the corpus."""


def _data(
    planners: Sequence[Planner], missing: dict[str, MedbenchError]
) -> tuple[list[DataState], frozenset[str]]:
    """The datasets, and those that can not be read right now: missing, or phantoms that have to be written.

    A dataset of tasks goes by its name there, and the corpus by `PRETRAINING`.
    """
    request, sources = planners[0].request, planners[0].sources
    wanted = [(name, "evaluation") for name in dict.fromkeys(t.dataset for p in planners for t in p.tasks())]
    if any(p.request.checkpoint is None and any(m.pretrains for m in p.methods()) for p in planners):
        wanted.append((request.corpus or "corpus", PRETRAINING))
    states, unread = [], set()
    for name, use in wanted:
        key = name if use == "evaluation" else use
        try:
            unwritten = sources.unwritten(None if use == PRETRAINING else name)
            if unwritten is not None:
                unread.add(key)
                spec, films = unwritten
                states.append(DataState(spec.name, use, "phantom", "", films, None, "to be written"))
                continue
            dataset = sources.corpus() if use == PRETRAINING else sources.evaluation(name)
            index = dataset.index(exclude_broken=request.exclude_broken)
            states.append(
                DataState(
                    index.dataset, use, index.source, str(dataset.root), len(index), index.subset, "found"
                )
            )
        except DataError as error:
            unread.add(key)
            missing[str(error)] = error
            states.append(DataState(name, use, "", "", None, None, "missing"))
    return states, frozenset(unread)


def _weights(
    method: MethodSpec,
    config: str,
    seed: int,
    encoder: Encoder | None,
    request: RunRequest,
    epochs: int,
    pairs: int,
) -> WeightsState:
    if request.checkpoint is not None:
        return WeightsState(method.name, config, seed, "checkpoint", None)
    if not method.pretrains:
        return WeightsState(method.name, config, seed, "untrained", None)
    if encoder is not None and encoder.ready:
        return WeightsState(method.name, config, seed, "done", None)
    like = [
        info["times"]["training_seconds"]
        for folder in sorted((request.cache / "weights").glob(f"{method.name}-*"))
        if (folder / INFO).is_file() and (info := read_info(folder)[1])["recipe"] == request.recipe
    ]
    seconds = sum(like) / len(like) if like else REFERENCE_SECONDS.get((method.name, request.recipe))
    hours = None
    if seconds is None and not any(name.startswith("method.") for name in request.overrides):
        hours = cost.gpu_hours(method.name, request.recipe, epochs, pairs)
    return WeightsState(method.name, config, seed, "to pretrain", seconds, hours)


def _cell(
    method: MethodSpec,
    config: str,
    task: TaskSpec,
    fraction: float,
    seed: int,
    cell: Cell | None,
    known: Mapping[tuple[str, str, float], float],
    request: RunRequest,
) -> CellState:
    shown = seed if cell is None else cell.seed
    if cell is not None and cell.record is not None and not request.overwrite:
        return CellState(
            method.name, config, task.name, fraction, shown, f"done ({cell.record.status})", None
        )
    if cell is not None and cell.train.too_small is not None:
        return CellState(method.name, config, task.name, fraction, shown, "to skip", 0.0)
    seconds = known.get((task.name, request.recipe, fraction))
    if seconds is None:
        seconds = REFERENCE_SECONDS.get((task.name, request.recipe, fraction_name(fraction)))
    return CellState(method.name, config, task.name, fraction, shown, "to do", seconds)


def _known(parts: Iterable[WeightsState | CellState]) -> float:
    return sum(part.seconds or 0.0 for part in parts)


def _untimed(parts: Iterable[WeightsState | CellState]) -> int:
    return sum(part.seconds is None for part in parts if part.state.startswith("to "))


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    """Without the columns `config` and `gpu_hours` where all are alike in them."""
    from tabulate import tabulate

    hidden = {name for name in ("config", "gpu_hours") if len({row.get(name) for row in rows}) < 2}
    shown = [{name: text for name, text in row.items() if name not in hidden} for row in rows]
    return str(tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True))


def _plain(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _seed(seed: int | None) -> str:
    return "any" if seed is None else str(seed)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else _duration(seconds)


def _hours(hours: float | None) -> str:
    return "" if hours is None else f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
