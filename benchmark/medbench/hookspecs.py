"""The hooks of medbench: what a plugin can add, and when it is called.

A plugin is a module (or package) named by an entry point of the group `medbench`:

    [project.entry-points.medbench]
    my_plugin = "my_package"

It marks its functions with `hookimpl`. The four catalogue hooks are called once, at start, and must be cheap: they
return specs and import neither torch nor the code behind the specs.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

from medbench.specs import DatasetSpec, LeaderboardSpec, MethodSpec, TaskSpec

if TYPE_CHECKING:
    from medbench.records import Record
    from medbench.request import RunRequest

hookspec = pluggy.HookspecMarker("medbench")
hookimpl = pluggy.HookimplMarker("medbench")


# The catalogue: asked once, at start.


@hookspec
def medbench_methods() -> Iterable[MethodSpec]:  # type: ignore[empty-body]  # a declaration, never called
    """Methods that this plugin adds."""


@hookspec
def medbench_tasks() -> Iterable[TaskSpec]:  # type: ignore[empty-body]  # likewise
    """Tasks that this plugin adds."""


@hookspec
def medbench_datasets() -> Iterable[DatasetSpec]:  # type: ignore[empty-body]  # likewise
    """Datasets that this plugin adds."""


@hookspec
def medbench_leaderboards() -> Iterable[LeaderboardSpec]:  # type: ignore[empty-body]  # likewise
    """Leaderboards that this plugin adds."""


# A run.


@hookspec(firstresult=True)
def medbench_find_checkpoint(method: str, name: str) -> Path | None:
    """Where the checkpoint called `name` of `method` is, when `--checkpoint` is no path. The first answer counts."""


@hookspec
def medbench_run_started(request: "RunRequest", workdir: Path) -> None:
    """A run, or a worker of one, is about to start; `workdir` is its results folder."""


@hookspec
def medbench_run_finished(record: "Record", workdir: Path) -> None:
    """One cell is done: its record is on disk. Also called for skipped and failed cells."""
