"""`medbench plan`: the cells of a request, what is there, what is missing, and how long it may take.

Nothing is written, decoded or trained. Times are those of equal work done before on this machine; where there was
none, of the reference machine below; where that has none either, they are left open and said to be.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from medbench.data.sources import Sources
from medbench.devices import resolve_device, resolve_precision
from medbench.errors import DataError, MedbenchError, WeightsError
from medbench.planner import Cell, Encoder, Planner
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.records import Record, ResultStore, fraction_name
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
    """One encoder that the request needs."""

    method: str
    seed: int
    state: str
    seconds: float | None


@dataclass(frozen=True)
class CellState:
    """One cell of the request."""

    method: str
    task: str
    fraction: float
    seed: int | None
    state: str
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What a run of this request would do.

    Attributes:
        data: datasets that it reads.
        weights: encoders that it uses.
        cells: what it computes.
        missing: what stops it, as the errors that the run would end with.
    """

    data: tuple[DataState, ...]
    weights: tuple[WeightsState, ...]
    cells: tuple[CellState, ...]
    missing: tuple[MedbenchError, ...]

    @property
    def seconds(self) -> float:
        """Sum of the times that are known."""
        return sum(part.seconds or 0.0 for part in self._parts)

    @property
    def unknown(self) -> int:
        """Parts to do whose time is not known."""
        return sum(part.seconds is None for part in self._parts if part.state.startswith("to "))

    @property
    def _parts(self) -> list["WeightsState | CellState"]:
        return [*self.weights, *self.cells]

    def to_json(self) -> dict[str, Any]:
        """The same as JSON types."""
        return {
            "data": [asdict(d) for d in self.data],
            "weights": [asdict(w) for w in self.weights],
            "cells": [asdict(c) for c in self.cells],
            "missing": [str(error) for error in self.missing],
            "seconds": self.seconds,
            "unknown": self.unknown,
        }

    def text(self) -> str:
        """For people."""
        from tabulate import tabulate

        def table(rows: Sequence[Any], **formats: Any) -> str:
            shown = [{k: formats.get(k, _plain)(v) for k, v in asdict(row).items()} for row in rows]
            return str(tabulate(shown, headers="keys", tablefmt="simple", disable_numparse=True))

        parts = [table(self.data), table(self.weights, seconds=_seconds)]
        if self.cells:
            parts.append(table(self.cells, seconds=_seconds, fraction=fraction_name, seed=_seed))
        todo = sum(cell.state.startswith("to ") for cell in self.cells)
        open_parts = (
            f"; {self.unknown} parts are not counted, nothing like them was timed yet" if self.unknown else ""
        )
        parts.append(
            f"{todo} of {len(self.cells)} cells to do; about {_duration(self.seconds)} "
            f"(by earlier runs here, else by {REFERENCE}){open_parts}"
        )
        parts += [f"missing: {error}" for error in self.missing]
        return "\n\n".join(parts)


def plan(request: RunRequest, catalogue: Catalogue) -> Plan:
    """Work out what `run` would do.

    Raises:
        UsageError: an unknown name, or a task that a method can not serve.
    """
    progress = Progress(quiet=True)
    precision = resolve_precision(request.precision, resolve_device(request.device))
    planner = Planner(request, catalogue, precision, progress)
    methods, tasks = planner.methods(), planner.tasks()
    for method in methods:
        planner.recipe(method)
    missing: list[MedbenchError] = []
    data, ready = _data(planner.sources, methods, tasks, request, missing)
    known = ResultStore(request.results).records()
    weights: list[WeightsState] = []
    cells: list[CellState] = []
    for method in methods:
        for seed in request.seeds:
            encoder = None
            if ready or request.checkpoint is not None:
                try:
                    encoder = planner.encoder(method, seed)
                except WeightsError as error:
                    missing.append(error)
            weights.append(_weights(method, seed, encoder, request))
            for task in tasks:
                group = planner.group(encoder, task) if encoder is not None and ready else None
                for number, fraction in enumerate(planner.fractions(task)):
                    cell = group.cells[number] if group is not None else None
                    cells.append(_cell(method, task, fraction, seed, cell, known, request))
    return Plan(tuple(data), tuple(weights), tuple(cells), tuple(missing))


def _data(
    sources: Sources,
    methods: Sequence[MethodSpec],
    tasks: Sequence[TaskSpec],
    request: RunRequest,
    missing: list[MedbenchError],
) -> tuple[list[DataState], bool]:
    """The datasets, and whether all of them can be read right now (phantoms may still have to be written)."""
    wanted = [(name, "evaluation") for name in dict.fromkeys(task.dataset for task in tasks)]
    if request.checkpoint is None and any(method.pretrains for method in methods):
        wanted.append((request.corpus or "corpus", "pretraining"))
    states, ready = [], True
    for name, use in wanted:
        try:
            unwritten = sources.unwritten(None if use == "pretraining" else name)
            if unwritten is not None:
                ready = False
                spec, films = unwritten
                states.append(DataState(spec.name, use, "phantom", "", films, None, "to be written"))
                continue
            dataset = sources.corpus() if use == "pretraining" else sources.evaluation(name)
            index = dataset.index(exclude_broken=request.exclude_broken)
            states.append(
                DataState(
                    index.dataset, use, index.source, str(dataset.root), len(index), index.subset, "found"
                )
            )
        except DataError as error:
            ready = False
            missing.append(error)
            states.append(DataState(name, use, "", "", None, None, "missing"))
    return states, ready


def _weights(method: MethodSpec, seed: int, encoder: Encoder | None, request: RunRequest) -> WeightsState:
    if request.checkpoint is not None:
        return WeightsState(method.name, seed, "checkpoint", None)
    if not method.pretrains:
        return WeightsState(method.name, seed, "untrained", None)
    if encoder is not None and encoder.ready:
        return WeightsState(method.name, seed, "done", None)
    like = [
        info["times"]["training_seconds"]
        for folder in sorted((request.cache / "weights").glob(f"{method.name}-*"))
        if (folder / INFO).is_file() and (info := read_info(folder)[1])["recipe"] == request.recipe
    ]
    seconds = sum(like) / len(like) if like else REFERENCE_SECONDS.get((method.name, request.recipe))
    return WeightsState(method.name, seed, "to pretrain", seconds)


def _cell(
    method: MethodSpec,
    task: TaskSpec,
    fraction: float,
    seed: int,
    cell: Cell | None,
    known: Sequence[Record],
    request: RunRequest,
) -> CellState:
    shown = seed if cell is None else cell.seed
    if cell is not None and cell.record is not None and not request.overwrite:
        return CellState(method.name, task.name, fraction, shown, f"done ({cell.record.status})", None)
    if cell is not None and cell.train.too_small is not None:
        return CellState(method.name, task.name, fraction, shown, "to skip", 0.0)
    like = [
        r.times.duration_s
        for r in known
        if (r.identity.task, r.identity.recipe, r.identity.fraction, r.status)
        == (task.name, request.recipe, fraction, "ok")
    ]
    seconds = sum(like) / len(like) if like else None
    if seconds is None:
        seconds = REFERENCE_SECONDS.get((task.name, request.recipe, fraction_name(fraction)))
    return CellState(method.name, task.name, fraction, shown, "to do", seconds)


def _plain(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _seed(seed: int | None) -> str:
    return "any" if seed is None else str(seed)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else _duration(seconds)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
