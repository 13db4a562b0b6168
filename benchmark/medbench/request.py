"""What the user asked for, as the command line or a script puts it. Light: imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medbench.processes import ALONE, Processes


@dataclass(frozen=True)
class RunRequest:
    """One call of `medbench run`, `plan`, `pretrain` or `features extract`.

    Attributes:
        methods: names, checked by the catalogue.
        tasks: names; empty where none is run.
        results: folder that records are written to.
        cache: folder for phantom data, prepared images and weights.
        fractions: label fractions, (0, 1]; None for all that a task has.
        seeds: each drives pretraining, label-fraction list and head.
        recipe: `tiny`, `paper` or `micro`.
        checkpoint: finished weights to use instead of pretraining, a path or a name that a plugin knows.
        device: `auto`, `cpu`, `cuda` or `cuda:n`.
        precision: `auto`, `32` or `bf16`.
        data_root: folder that holds every dataset in a folder of its own name.
        data: folder of one dataset, by dataset; wins over `data_root`.
        real: real data are asked for, also where no folder is named.
        split: of the tasks' datasets, instead of the one that a task has: a name, or `lists:FOLDER`.
        corpus: pretraining corpus: a dataset's name, `table:FILE` or `phantom`; None for the default.
        films: of `features extract`: a dataset's name, or `table:FILE`.
        columns: columns of a table corpus by kind (`report`, `patient`, ...); what is not named is guessed.
        overrides: `method.*` and `pretrain.*` fields of the recipe.
        exclude_broken: leave out samples that can not be read instead of stopping.
        overwrite: run cells that are done again; their old records are kept aside.
        resume: go on from checkpoints of interrupted work.
        offline: ask no hub for anything.
        workers: processes for decoding and writing images.
        cell_timeout: seconds that features of a task, and each cell, may take; None for any.
        worker: of a worker of an executor, the file that its output goes to; the workers of one run share its folder.
        world: the processes that pretrain together; what comes after pretraining is done by the first one alone.
        quiet: no progress.
        verbose: more words.
    """

    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    results: Path
    cache: Path
    fractions: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0,)
    recipe: str = "tiny"
    checkpoint: str | None = None
    device: str = "auto"
    precision: str = "auto"
    data_root: Path | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    real: bool = False
    split: str | None = None
    corpus: str | None = None
    films: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    exclude_broken: bool = False
    overwrite: bool = False
    resume: bool = True
    offline: bool = False
    workers: int = 1
    cell_timeout: float | None = None
    worker: Path | None = None
    world: Processes = ALONE
    quiet: bool = False
    verbose: bool = False

    @property
    def real_data(self) -> bool:
        """Whether data of the user's own are asked for or named; then nothing falls back to phantom data."""
        return self.real or self.data_root is not None or bool(self.data) or self.tables

    @property
    def tables(self) -> bool:
        """Whether a table of the user's own is named."""
        named = [name for name in (self.corpus, self.films) if name is not None]
        return any(name.startswith("table:") for name in named) or any(":table:" in t for t in self.tasks)
