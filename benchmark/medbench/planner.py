"""Works out a run before anything heavy starts: encoders (method x seed), groups (an encoder on a task), cells.

A group holds one cell a label fraction, each with its record if it is done. The runner computes those without one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from medbench.data.dataset import Dataset
from medbench.data.index import Index, Problem
from medbench.data.lists import PREFIX, folder_of, read_lists
from medbench.data.prepared import BrokenImages, PreparedImages, prepare
from medbench.data.reports import DEFAULT_CLEANING
from medbench.data.sources import Sources
from medbench.data.splits import FractionList, Split, fraction_rows, untrained_rows
from medbench.data.verify import leave_out, list_problems
from medbench.errors import DataError, UsageError, WeightsError
from medbench.importing import method_of
from medbench.method import Method, Recipe
from medbench.overrides import apply_overrides
from medbench.plugins import Catalogue
from medbench.progress import Progress
from medbench.records import (
    Corpus,
    Identity,
    Record,
    RecordSource,
    ResultStore,
    WeightsIdentity,
    sha256_json,
)
from medbench.request import RunRequest
from medbench.specs import MethodSpec, TaskSpec
from medbench.task import Fit, Precision, Task, TaskData
from medbench.weights import (
    check_method,
    config_json,
    content_on_disk,
    finished,
    read_config,
    read_info,
    weights_key,
)


@dataclass
class OpenDataset:
    """A dataset that was opened for a run: its index, and its films once they are prepared."""

    dataset: Dataset
    index: Index
    images: Callable[[int, Fit], PreparedImages]
    say: Callable[[str], None]
    """What is noteworthy about a split goes there."""
    _splits: dict[str, Split] = field(default_factory=dict)

    def split(self, name: str) -> Split:
        """A split by its name, or by `lists:FOLDER`; worked out once.

        Raises:
            DataError: there is none, or the lists do not fit.
        """
        if name not in self._splits:
            if name.startswith(PREFIX):
                listed = read_lists(self.index, folder_of(name))
                for problem in listed.problems[listed.fatal :]:
                    self.say(f"--split {name}: {problem}")
                if listed.fatal:
                    wrong = "\n".join(f"  {problem}" for problem in listed.problems[: listed.fatal])
                    raise DataError(
                        f"--split {name} can not be used for {self.index.dataset} in {self.index.root}:\n{wrong}"
                    )
                self._splits[name] = listed.split
            else:
                self._splits[name] = self.dataset.split(self.index, name)
        return self._splits[name]

    def training_split(self) -> Split:
        """The split that a corpus is pretrained with: the first one it names."""
        return self.split(next(iter(self.dataset.splits)))


@dataclass
class Opened:
    """Datasets that were opened, by name; the planners of one suite share them, so that none is read twice."""

    datasets: dict[str, OpenDataset] = field(default_factory=dict)
    broken: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    """Films of a dataset that are left out, since they turned out broken."""
    preparing: str = ""
    """The dataset whose films are being decoded."""


@dataclass(frozen=True)
class Encoder:
    """A method at a seed: what has to be there before its tasks can run.

    Attributes:
        spec: the method.
        owner: distribution that declares it, with its version.
        method: its class.
        recipe: with the user's overrides.
        seed: of the pretraining; 0 for a checkpoint.
        identity: goes into every record.
        path: folder of finished weights; None for an untrained encoder.
        ready: whether the weights are there (or need no making).
    """

    spec: MethodSpec
    owner: str
    method: type[Method]
    recipe: Recipe
    seed: int
    identity: WeightsIdentity
    path: Path | None
    ready: bool

    @property
    def fixed(self) -> bool:
        """Whether it is the same for every seed."""
        return self.identity.kind == "checkpoint" or not self.spec.seeded


@dataclass(frozen=True)
class Cell:
    """Method x task x fraction x seed, with its record if it is done."""

    fraction: float
    seed: int | None
    identity: Identity
    train: FractionList
    record: Record | None


@dataclass(frozen=True)
class Group:
    """The cells of one encoder on one task."""

    encoder: Encoder
    spec: TaskSpec
    task: Task
    data: TaskData
    seed: int
    cells: tuple[Cell, ...]
    pixels: dict[str, str] = field(default_factory=dict)
    """Hashes over the films that the task asked for, by how they were prepared ("96 stretch")."""

    def key(self) -> str:
        """Names the folder for unfinished work of this group."""
        return sha256_json([cell.identity.cell_id() for cell in self.cells])[:24]

    def claim(self) -> str:
        """Names the lease of an encoder on a task.

        The same whatever label fractions are asked for, and seeds of a checkpoint: groups that have cells in common.
        """
        identity = self.cells[0].identity.model_dump(
            mode="json", exclude={"fraction", "seed", "train_sha256"}
        )
        return f"{self.encoder.spec.name}-{self.spec.name}-{sha256_json(identity)[:16]}".replace(":", "-")

    @property
    def todo(self) -> tuple[Cell, ...]:
        """Cells without a record."""
        return tuple(cell for cell in self.cells if cell.record is None)


class Planner:
    """Works out plans; keeps what it opened, so that nothing is read twice.

    Args:
        request: what the user asked for.
        catalogue: known methods, tasks and datasets.
        precision: resolved, since it decides numbers.
        progress: for writing phantoms and preparing images.
        opened: datasets of another request with the same data, or None.
    """

    def __init__(
        self,
        request: RunRequest,
        catalogue: Catalogue,
        precision: Precision,
        progress: Progress,
        opened: Opened | None = None,
    ) -> None:
        self.request = request
        self.catalogue = catalogue
        self.precision = precision
        self.progress = progress
        self.sources = Sources(request, catalogue, progress)
        self.store = ResultStore(request.results)
        self._opened = Opened() if opened is None else opened
        self._leaks: set[str] = set()  # tasks of which it was said

    # Names, before anything is loaded.

    def methods(self) -> list[MethodSpec]:
        """The methods asked for."""
        return [self.catalogue.lookup_method(name) for name in self.request.methods]

    def tasks(self) -> list[TaskSpec]:
        """The tasks asked for.

        Raises:
            UsageError: a method does not provide what a task needs.
        """
        tasks = [self.catalogue.lookup_task(name) for name in self.request.tasks]
        for method in self.methods():
            for task in tasks:
                if missing := task.needs - method.provides:
                    raise UsageError(
                        f"{task.name} needs {', '.join(sorted(missing))}, which {method.name} does not provide "
                        f"(it provides {', '.join(sorted(method.provides)) or 'nothing'})."
                    )
        return tasks

    def fractions(self, task: TaskSpec) -> tuple[float, ...]:
        """Label fractions of this task that were asked for, ascending; 1 alone for one that trains nothing."""
        if not task.fractions:
            return (1.0,)
        wanted = task.fractions if self.request.fractions is None else self.request.fractions
        return tuple(sorted(set(wanted)))

    # Data.

    def evaluation(self, name: str) -> OpenDataset:
        """The dataset of a task, opened once."""
        held = self._opened.datasets
        if name not in held:
            held[name] = self._open(self.sources.evaluation(name), name)
        return held[name]

    def corpus(self, recipe: Recipe) -> OpenDataset:
        """The pretraining corpus, opened once for each way in which recipes read its reports."""
        cleaning = recipe.pretrain.cleaning if recipe.pretrain is not None else DEFAULT_CLEANING
        key = f"corpus:{cleaning}"
        held = self._opened.datasets
        if key not in held:
            held[key] = self._open(self.sources.corpus(cleaning), key)
        return held[key]

    def exclude(self, broken: BrokenImages) -> None:
        """Leave out films that turned out broken when they were decoded; what was planned with them is void.

        Raises:
            BrokenImages: the user did not ask for it.
        """
        if not self.request.exclude_broken:
            raise broken
        opened = self._opened
        opened.broken[opened.preparing] = (*opened.broken.get(opened.preparing, ()), *broken.problems)
        del opened.datasets[opened.preparing]
        self.progress.say(f"left out, since they can not be used:\n{list_problems(broken.problems)}")

    def _open(self, dataset: Dataset, key: str) -> OpenDataset:
        index = leave_out(
            dataset.index(exclude_broken=self.request.exclude_broken), self._opened.broken.get(key, ())
        )

        @cache
        def images(side: int, fit: Fit) -> PreparedImages:
            self._opened.preparing = key
            return prepare(
                index, side, fit, self.request.cache, workers=self.request.workers, progress=self.progress
            )

        self.progress.say(describe(dataset, index))
        return OpenDataset(dataset, index, images, self.progress.say)

    # Weights.

    def recipe(self, spec: MethodSpec) -> Recipe:
        """The recipe of a method with the user's overrides.

        Raises:
            UsageError: there is no such recipe or field, or it can not hold that value.
        """
        method: type[Method] = self.catalogue.load("methods", spec.name)
        if self.request.recipe not in method.recipes:
            raise UsageError(
                f"{spec.name} has no recipe {self.request.recipe!r}; it has {', '.join(sorted(method.recipes))}."
            )
        return apply_overrides(method.recipes[self.request.recipe], self.request.overrides, spec.name)

    def encoder(self, spec: MethodSpec, seed: int) -> Encoder:
        """The encoder of a method at a seed: a checkpoint, the pretraining of exactly this config, or untrained.

        Raises:
            WeightsError: the checkpoint is not there.
        """
        method, owner = (
            self.catalogue.load("methods", spec.name),
            str(self.catalogue.owner("methods", spec.name)),
        )
        if self.request.checkpoint is not None:
            return self._from_checkpoint(spec, owner, seed)
        if spec.released_only:
            raise WeightsError(
                f"{spec.name} is not trained here, its encoder comes from a released checkpoint: expected --checkpoint."
                f" Import the authors' file with `medbench weights import FILE --method {spec.name}`, and give the"
                f" folder that it prints."
            )
        recipe = self.recipe(spec)
        if not spec.pretrains:
            config = {**config_json(recipe.config), **content_on_disk(recipe.config)}
            drawn = [seed] if spec.seeded else []
            identity = WeightsIdentity(kind="untrained", key=sha256_json([spec.name, config, *drawn]))
            return Encoder(spec, owner, method, recipe, seed, identity, None, ready=True)
        opened = self.corpus(recipe)
        corpus = Corpus(
            dataset=opened.index.dataset,
            source=opened.index.source,
            subset=opened.index.subset,
            fingerprint=opened.index.fingerprint(),
            excluded=len(opened.index.excluded),
        )
        key = weights_key(
            spec.name,
            owner,
            recipe,
            opened.index,
            opened.training_split(),
            seed,
            self.precision,
            self.request.world.count,
        )
        identity = WeightsIdentity(kind="pretrained", key=key, corpus=corpus)
        path = finished(self.request.cache / "weights", key)
        return Encoder(spec, owner, method, recipe, seed, identity, path, ready=path is not None)

    def _from_checkpoint(self, spec: MethodSpec, owner: str, seed: int) -> Encoder:
        folder, info = read_info(self._checkpoint(spec))
        check_method(folder, info, spec.name)
        method = method_of(self.catalogue, spec.name, info)
        if self.request.overrides:
            raise UsageError(
                "--set changes what is pretrained; with --checkpoint it has no effect. Leave it out."
            )
        if info.get("recipe") != self.request.recipe:
            raise WeightsError(
                f"{folder}: pretrained with recipe {info.get('recipe')}, asked for with recipe {self.request.recipe}. "
                f"Recipes share no table: give --recipe {info.get('recipe')}."
            )
        if "corpus" not in info:
            raise WeightsError(
                f"{folder}: its description does not say what it was pretrained on; pretrain again."
            )
        try:
            # What else weights.json says of the corpus is not what a record says.
            known = {name: value for name, value in info["corpus"].items() if name in Corpus.model_fields}
            corpus = Corpus.model_validate(known)
        except (ValidationError, AttributeError) as error:
            raise WeightsError(
                f"{folder}: what its description says of the corpus can not be read ({error}). Copy the folder again, "
                "or pretrain again."
            ) from None
        identity = WeightsIdentity(kind="checkpoint", key=info["sha256"], corpus=corpus)
        for task in map(self.catalogue.lookup_task, self.request.tasks):
            if missing := task.needs - set(info.get("provides", spec.provides)):
                raise WeightsError(
                    f"{folder}: weights of the image encoder of {spec.name} alone; {task.name} needs"
                    f" {', '.join(sorted(missing))}. Import the whole model (--part all) where that is possible, or"
                    f" leave out the task."
                )
        recipe = Recipe(read_config(method, info["config"], folder))
        return Encoder(spec, owner, method, recipe, seed, identity, folder, ready=True)

    def _checkpoint(self, spec: MethodSpec) -> Path:
        name = self.request.checkpoint or ""
        path = Path(name).expanduser()
        if path.exists():
            return path
        found = self.catalogue.find_checkpoint(spec.name, name)
        if found is None:
            how = f" Import the authors' file with `medbench weights import FILE --method {spec.name} --out {name}`."
            raise WeightsError(
                f"--checkpoint {name}: looked for {path.absolute()} and found nothing there, and no plugin knows a "
                f"checkpoint of {spec.name} by that name.{how if spec.released else ''}"
            )
        return found

    # Cells.

    def group(self, encoder: Encoder, spec: TaskSpec) -> Group:
        """The cells of an encoder on a task, with the records that are there."""
        opened = self.evaluation(spec.dataset)
        task = self.catalogue.make_task(spec, self.request.recipe)
        split = opened.split(self.request.split or task.split)
        if split.leak and spec.name not in self._leaks:
            self._leaks.add(spec.name)
            self.progress.say(f"{spec.name}: split {split.name} leaks: {split.leak}")
        pixels: dict[str, str] = {}

        def images(side: int, fit: Fit) -> PreparedImages:
            films = opened.images(side, fit)
            pixels[f"{side} {fit}"] = films.sha256
            return films

        data = TaskData(opened.index, split, images)
        positives = task.positives(opened.index)
        cells = tuple(self._cell(encoder, spec, task, data, positives, f) for f in self.fractions(spec))
        return Group(encoder, spec, task, data, encoder.seed, cells, pixels)

    def _cell(
        self,
        encoder: Encoder,
        spec: TaskSpec,
        task: Task,
        data: TaskData,
        positives: npt.NDArray[np.bool_],
        fraction: float,
    ) -> Cell:
        fixed = encoder.fixed and not task.depends_on_seed(fraction)
        train = untrained_rows()
        if spec.fractions:
            train = fraction_rows(data.index, data.split, fraction, 0 if fixed else encoder.seed, positives)
        corpus = encoder.identity.corpus
        identity = Identity(
            method=encoder.spec.name,
            method_owner=encoder.owner,
            fidelity=encoder.spec.fidelity,
            task=spec.name,
            task_version=spec.version,
            task_owner=str(self.catalogue.owner("tasks", spec.name)),
            recipe=self.request.recipe,
            precision=self.precision,
            fraction=fraction,
            seed=None if fixed else encoder.seed,
            source=_source(data.index, corpus),
            dataset=data.index.dataset,
            subset=data.index.subset,
            data_fingerprint=data.index.fingerprint(),
            split=data.split.name,
            split_sha256=data.split.sha256(data.index),
            train_sha256=train.sha256,
            weights=encoder.identity,
            method_config=config_json(encoder.recipe.config),
            pretrain_config=config_json(encoder.recipe.pretrain)
            if encoder.identity.kind == "pretrained"
            else None,
            task_config={**config_json(task.config), "given": json.loads(json.dumps(dict(spec.given)))},
        )
        return Cell(fraction, identity.seed, identity, train, self.store.find(identity))


def describe(dataset: Dataset, index: Index) -> str:
    """One line (or more, where columns were guessed) about a dataset that was opened."""
    subset = f", a subset: {index.subset} of the official release" if index.subset is not None else ""
    excluded = f", {len(index.excluded):,} excluded" if index.excluded else ""
    text = f"{index.dataset}: {index.source}, {len(index):,} films{subset}{excluded}, {dataset.root}"
    return "\n".join([text, *dataset.notes()])


def _source(index: Index, corpus: Corpus | None) -> RecordSource:
    if corpus is None or corpus.source == index.source:
        return index.source
    return "mixed"
