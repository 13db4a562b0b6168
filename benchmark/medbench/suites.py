"""Suites: TOML files that say which cells a leaderboard is made of. Read, narrowed, divided into shards, run.

What a suite says becomes requests of `medbench run`, an encoder each (a method, a seed, what its recipe was changed
by): so a run goes encoder by encoder, a shard holds encoders whole, and a pretraining is never done by two shards.
"""

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medbench.errors import UsageError, did_you_mean
from medbench.options import flat, fractions, words
from medbench.plugins import Catalogue, Kind
from medbench.request import RunRequest

RECIPES = ("tiny", "paper", "micro")
PRECISIONS = ("auto", "32", "bf16")


class _Cells(BaseModel):
    """What a `[[grid]]` says, and the top of the file for all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    methods: Annotated[list[str], Field(min_length=1)] | None = None
    tasks: Annotated[list[str], Field(min_length=1)] | None = None
    fractions: Annotated[list[Any], Field(min_length=1)] | None = None
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    split: Annotated[str, Field(min_length=1)] | None = None
    checkpoint: str | None = None
    set: dict[str, Any] | None = None

    @field_validator("methods", "tasks", "fractions", "seeds", mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        """One value may stand without brackets."""
        return value if isinstance(value, list) else [value]

    @field_validator("fractions")
    @classmethod
    def _shares(cls, value: list[Any]) -> list[Any]:
        try:
            fractions([str(share) for share in value])
        except UsageError as error:
            raise ValueError(str(error).partition(": ")[2]) from None
        return value


class File(_Cells):
    """The whole file."""

    data: Literal["phantom", "real"] | dict[str, str]
    recipe: str
    precision: str = "auto"
    corpus: str | None = None
    grid: list[_Cells] = Field(default_factory=list)

    @field_validator("data", mode="before")
    @classmethod
    def _phantom_or_real(cls, value: Any) -> Any:
        named = isinstance(value, dict) and all(isinstance(folder, str) for folder in value.values())
        if not named and value not in ("phantom", "real"):
            hint = did_you_mean(value, ("phantom", "real")) if isinstance(value, str) else ""
            raise ValueError(f'expected "phantom", "real", or a folder for each dataset as [data].{hint}')
        return value

    @field_validator("recipe", "precision")
    @classmethod
    def _one_of(cls, value: str, info: Any) -> str:
        known = RECIPES if info.field_name == "recipe" else PRECISIONS
        if value not in known:
            raise ValueError(f"expected {', '.join(known[:-1])} or {known[-1]}.{did_you_mean(value, known)}")
        return value


@dataclass(frozen=True)
class EncoderCells:
    """One encoder, and the cells that are wanted of it.

    Attributes:
        method: its name.
        seed: of its pretraining; None with a checkpoint, where it is one encoder for all seeds.
        checkpoint: finished weights, or None.
        overrides: fields of its recipe, as pairs.
        cells: label fractions, ascending, by seed, task and split (None for the task's own); none for a task that
            trains nothing and has one cell.
    """

    method: str
    seed: int | None
    checkpoint: str | None
    overrides: tuple[tuple[str, str], ...]
    cells: Mapping["_Wanted", tuple[float, ...]] = field(hash=False)


@dataclass(frozen=True)
class Suite:
    """A suite, or a part of one.

    Attributes:
        path: of its file.
        data: `phantom`, `real`, or folders by dataset.
        recipe: `tiny`, `paper` or `micro`.
        precision: `auto`, `32` or `bf16`.
        corpus: what is pretrained on, or None for the default.
        encoders: what is wanted, in the order of the file: methods, then seeds.
        unserved: method, task and what the task needs that the method does not provide, of cells that are left out.
    """

    path: Path
    data: str | Mapping[str, str]
    recipe: str
    precision: str
    corpus: str | None
    encoders: tuple[EncoderCells, ...]
    unserved: tuple[tuple[str, str, str], ...]

    @property
    def left_out(self) -> tuple[str, ...]:
        """What methods can not serve, a sentence each."""
        tasks: dict[tuple[str, str], list[str]] = {}
        for method, task, missing in self.unserved:
            tasks.setdefault((method, missing), []).append(task)
        methods: dict[tuple[str, str], list[str]] = {}
        for (method, missing), names in tasks.items():
            methods.setdefault((", ".join(names), missing), []).append(method)
        return tuple(
            f"{names} ({', '.join(own)} {'does' if len(own) == 1 else 'do'} not provide {missing})"
            for (names, missing), own in methods.items()
        )

    def narrowed(
        self,
        catalogue: Catalogue,
        *,
        methods: Sequence[str] = (),
        tasks: Sequence[str] = (),
        wanted: Sequence[float] | None = None,
        seeds: Sequence[int] = (),
    ) -> "Suite":
        """The part of it that has these methods, tasks, label fractions and seeds; what is not given stays whole.

        Raises:
            UsageError: something is named that is not in the suite, or nothing is left.
        """
        held = [(e.method, task, seed) for e in self.encoders for seed, task, _ in e.cells]
        shares = {share for e in self.encoders for own in e.cells.values() for share in own}
        chosen_methods = self._chosen("methods", methods, [m for m, *_ in (*held, *self.unserved)], catalogue)
        chosen_tasks = self._chosen("tasks", tasks, [t for _, t, _ in (*held, *self.unserved)], catalogue)
        self._see("--seed", seeds, {seed for _, _, seed in held})
        self._see("--fraction", wanted or (), shares)
        encoders = []
        for encoder in self.encoders:
            cells = {}
            for (seed, task, split), labels in encoder.cells.items():
                left = tuple(f for f in labels if wanted is None or f in wanted)
                if task in chosen_tasks and (not seeds or seed in seeds) and (left or not labels):
                    cells[seed, task, split] = left
            if encoder.method in chosen_methods and cells:
                encoders.append(replace(encoder, cells=cells))
        unserved = tuple(u for u in self.unserved if u[0] in chosen_methods and u[1] in chosen_tasks)
        part = replace(self, encoders=tuple(encoders), unserved=unserved)
        if not encoders:
            said = "\n".join(part.left_out)
            raise UsageError(
                f"{self.path}: no cell of the suite has all that was asked for.\n{said}".rstrip()
            )
        return part

    def _see(self, flag: str, typed: Sequence[float], own: Collection[float]) -> None:
        """See that all that is typed is in the suite."""
        if wrong := set(typed) - set(own):
            said = ", ".join(f"{value:g}" for value in sorted(wrong))
            known = ", ".join(f"{value:g}" for value in sorted(own))
            raise UsageError(f"{flag} {said}: not in {self.path}, which has {known or 'none'}.")

    def _chosen(
        self, kind: Kind, typed: Sequence[str], held: Sequence[str], catalogue: Catalogue
    ) -> set[str]:
        """Those of the suite's names that words and globs stand for; all of them where nothing is typed."""
        known = list(dict.fromkeys(held))
        if not words(typed):
            return set(known)
        found = set()
        for word in words(typed):
            own = set(catalogue.expand(kind, [word])) & set(known)
            if not own:
                hint = did_you_mean(word, known)
                raise UsageError(
                    f"--{kind[:-1]} {word}: not in {self.path}.{hint} Its {kind}: {', '.join(known)}."
                )
            found |= own
        return found

    def shard(self, number: int, of: int) -> "Suite":
        """The encoders number, number + of, ...: the shards 1 to `of` share none and miss none."""
        return replace(self, encoders=self.encoders[number - 1 :: of])

    def requests(self, base: RunRequest) -> tuple[RunRequest, ...]:
        """What to run, in this order; no two of them have a cell in common.

        Args:
            base: where things are, and how it is computed.

        Raises:
            UsageError: the suite is on phantoms, and a folder, table or corpus of the user's own is named.
        """
        base = self._placed(base)
        return tuple(
            replace(
                base,
                methods=(encoder.method,),
                tasks=tasks,
                seeds=seeds,
                fractions=shares,
                split=split,
                checkpoint=encoder.checkpoint,
                overrides=dict(encoder.overrides),
            )
            for encoder in self.encoders
            for split, seeds, tasks, shares in _grids(encoder)
        )

    def _placed(self, base: RunRequest) -> RunRequest:
        base = replace(base, recipe=self.recipe, corpus=base.corpus or self.corpus)
        if base.precision == "auto":
            base = replace(base, precision=self.precision)
        elif self.precision not in ("auto", base.precision):
            raise UsageError(
                f"--precision {base.precision}: {self.path} is computed in {self.precision}. Leave the flag out; other "
                "numbers are another suite."
            )
        if self.data == "phantom":
            if base.real_data or base.corpus != self.corpus:
                raise UsageError(
                    f'{self.path} is on phantoms (data = "phantom") and reads no folder or table. Leave out '
                    "--data-root, --data, --corpus and --column, or take a suite on real data."
                )
            return base
        folders = {} if isinstance(self.data, str) else self.data
        own = {name: Path(folder).expanduser() for name, folder in folders.items()}
        return replace(base, data={**own, **base.data}, real=True)


def _grids(
    encoder: EncoderCells,
) -> Iterable[tuple[str | None, tuple[int, ...], tuple[str, ...], tuple[float, ...] | None]]:
    """Splits, and seeds x tasks x fractions on each, that together are the encoder's cells, each once.

    A task that trains nothing, to which fractions mean nothing, goes with the first. Seeds of a checkpoint that want
    the same stay together, since they share the cells that no seed can change.
    """
    by_seed: dict[tuple[str | None, int], dict[str, tuple[float, ...]]] = {}
    for (seed, task, split), shares in encoder.cells.items():
        by_seed.setdefault((split, seed), {})[task] = shares
    alike: dict[tuple[str | None, tuple[tuple[str, tuple[float, ...]], ...]], list[int]] = {}
    for (split, seed), tasks in by_seed.items():
        alike.setdefault((split, tuple(tasks.items())), []).append(seed)
    for (split, wanted), seeds in alike.items():
        first = next((shares for _, shares in wanted if shares), None)
        for group in dict.fromkeys(own or first for _, own in wanted):
            names = tuple(task for task, own in wanted if (own or first) == group)
            yield split, tuple(seeds), names, group


_Key = tuple[str, int | None, str | None, tuple[tuple[str, str], ...]]
"""Method, seed, checkpoint, overrides: what tells one encoder from another."""

_Wanted = tuple[int, str, str | None]
"""Seed, task and split: what is wanted of an encoder, at some label fractions."""


def read_suite(path: Path, catalogue: Catalogue) -> Suite:
    """Read a suite.

    Raises:
        UsageError: it can not be read, is not TOML, or says something that is no suite; with the grid and the field.
        PluginError: a name that more than one owner declares.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--suite {path}: can not be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--suite {path}: not TOML: {error}.") from None
    try:
        file = File.model_validate(content)
    except ValidationError as error:
        raise UsageError("\n".join(_complaint(path, found) for found in error.errors())) from None
    for dataset in file.data if isinstance(file.data, dict) else ():
        try:
            catalogue.lookup_dataset(dataset)
        except UsageError as error:
            raise UsageError(f"{_at(path, ('data', dataset))}: {error}") from None
    encoders: dict[_Key, dict[_Wanted, set[float]]] = {}
    unserved: dict[tuple[str, str, str], None] = {}
    for number, grid in enumerate(file.grid or [_Cells()]):
        own = ("grid", number) if file.grid else ()
        said = {**file.model_dump(exclude_none=True), **grid.model_dump(exclude_none=True)}
        names: dict[str, list[str]] = {}
        for kind in ("methods", "tasks"):
            at = own if getattr(grid, kind) is not None else ()
            if kind not in said:
                where = f"grid {number + 1}" if own else "the file"
                raise UsageError(f"{path}, {where}: names no {kind}. Add a line {kind} = [...].")
            for word in said[kind]:
                try:
                    names.setdefault(kind, []).extend(catalogue.expand(kind, [word]))
                except UsageError as error:
                    raise UsageError(f"{_at(path, (*at, kind))}: {error}") from None
        wanted = fractions([str(share) for share in said.get("fractions", ["all"])])
        overrides = tuple((name, str(value)) for name, value in flat(said.get("set", {})))
        checkpoint, split = said.get("checkpoint"), said.get("split")
        if split is not None:
            _see_split(split, names["tasks"], catalogue, _at(path, (*own, "split")))
        for method in dict.fromkeys(names["methods"]):
            spec = catalogue.lookup_method(method)
            for seed in said.get("seeds", [0]):
                key = (method, None if checkpoint is not None else seed, checkpoint, overrides)
                for name in dict.fromkeys(names["tasks"]):
                    task = catalogue.lookup_task(name)
                    if missing := task.needs - spec.provides:
                        unserved[method, name, ", ".join(sorted(missing))] = None
                        continue
                    shares = task.fractions if wanted is None or not task.fractions else wanted
                    encoders.setdefault(key, {}).setdefault((seed, name, split), set()).update(shares)
    return Suite(
        path=path,
        data=file.data,
        recipe=file.recipe,
        precision=file.precision,
        corpus=file.corpus,
        encoders=tuple(
            EncoderCells(*key, {cell: tuple(sorted(shares)) for cell, shares in cells.items()})
            for key, cells in encoders.items()
        ),
        unserved=tuple(unserved),
    )


def _see_split(split: str, tasks: Iterable[str], catalogue: Catalogue, where: str) -> None:
    """See that the datasets of the tasks have a split; a folder of lists is held against them when they are opened."""
    from medbench.data.lists import PREFIX

    for name in () if split.startswith(PREFIX) else dict.fromkeys(tasks):
        dataset = catalogue.lookup_task(name).dataset.partition(":")[0]  # of a table: the kind
        known = catalogue.load("datasets", dataset).splits
        if split not in known:
            raise UsageError(
                f"{where}: {dataset}, which {name} is run on, has no split {split!r}."
                f"{did_you_mean(split, known)} It has {', '.join(known)}."
            )


def shard_of(typed: str) -> tuple[int, int]:
    """A value of `--shard`: which one, of how many.

    Raises:
        UsageError: it is none.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", typed.strip())
    number, of = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= of:
        raise UsageError(f"--shard {typed}: expected I/N with I from 1 to N, as 1/4.")
    return number, of


# What is wrong, and where.


def _complaint(path: Path, error: Any) -> str:
    loc, kind = error["loc"], error["type"]
    block = _Cells if loc[:1] == ("grid",) and len(loc) > 1 else File
    if kind == "extra_forbidden":
        known = list(block.model_fields)
        hint = did_you_mean(str(loc[-1]), known)
        return f"{_at(path, loc)}: no such field.{hint} Fields: {', '.join(known)}."
    if kind == "missing":
        return f"{path}: no field {loc[-1]!r}. Add {_EXAMPLES[str(loc[-1])]}."
    said = error["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{_at(path, loc)}: found {error['input']!r}; {said}."


_EXAMPLES = {"data": 'data = "phantom" or data = "real"', "recipe": 'recipe = "tiny" or recipe = "paper"'}


def _at(path: Path, loc: Sequence[str | int]) -> str:
    """A place in words: suites/x.toml, grid 2, tasks."""
    grid = [f"grid {loc[1] + 1}"] if len(loc) > 1 and loc[0] == "grid" and isinstance(loc[1], int) else []
    names = ".".join(part for part in loc[2 if grid else 0 :] if isinstance(part, str))
    return ", ".join([str(path), *grid, *([names] if names else [])])
