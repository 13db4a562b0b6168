"""How a verb of the command line is made, and the only place that reads the environment."""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from medbench import options as o
from medbench.errors import MedbenchError, PluginError, UsageError, refused
from medbench.plugins import Catalogue, Kind, load_catalogue
from medbench.processes import started_by
from medbench.redaction import without_secrets
from medbench.request import RunRequest
from medbench.terminal import printable_lines

if TYPE_CHECKING:
    from medbench.progress import Progress
    from medbench.records import Record

INTERRUPTED = 130


@dataclass(frozen=True)
class Environment:
    """What is set outside the command line. A flag, and a config file, win over it."""

    home: Path | None
    cache: Path | None
    data: Path | None
    results: Path | None
    offline: bool
    plugins: tuple[str, ...]

    @classmethod
    def read(cls) -> "Environment":
        """As it is now."""

        def path(name: str) -> Path | None:
            value = os.environ.get(name)
            return Path(value).expanduser() if value else None

        return cls(
            home=path("MEDBENCH_HOME"),
            cache=path("MEDBENCH_CACHE"),
            data=path("MEDBENCH_DATA"),
            results=path("MEDBENCH_RESULTS"),
            offline=_switch("MEDBENCH_OFFLINE") or _switch("HF_HUB_OFFLINE"),
            plugins=o.words([os.environ.get("MEDBENCH_PLUGINS", "")]),
        )

    def cache_folder(self) -> Path:
        """Where what can be made again is kept."""
        if self.cache is not None:
            return self.cache
        if self.home is not None:
            return self.home / "cache"
        from platformdirs import user_cache_path

        return user_cache_path("medbench")

    def key_file(self) -> Path:
        """Where the key is kept that rows of films go by which may not be passed on."""
        if self.home is not None:
            return self.home / "submission.key"
        from platformdirs import user_config_path

        return user_config_path("medbench") / "submission.key"

    def results_folder(self) -> Path:
        """Where records are written to."""
        return self.results or Path("results")


def _switch(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise UsageError(f"{name}={value}: expected 1 or 0.")


_O = TypeVar("_O", bound=o.Options)


def verb(parent: typer.Typer, name: str) -> Callable[[Callable[[_O], int]], Callable[[_O], int]]:
    """Register a function of one options class as a verb; what it returns is the exit code."""

    def register(body: Callable[[_O], int]) -> Callable[[_O], int]:
        kind = _kind(body)

        def call(**values: Any) -> None:
            raise typer.Exit(_done(body, kind(**values)))

        call.__doc__ = body.__doc__
        call.__signature__ = inspect.Signature(list(_parameters(kind)))  # type: ignore[attr-defined]  # typer reads it
        parent.command(name)(call)
        return body

    return register


def group_verb(group: typer.Typer) -> Callable[[Callable[[_O], int]], Callable[[_O], int]]:
    """Likewise, as what a group does when none of its verbs is named."""

    def register(body: Callable[[_O], int]) -> Callable[[_O], int]:
        kind = _kind(body)

        def call(ctx: typer.Context, **values: Any) -> None:
            if ctx.invoked_subcommand is None:
                raise typer.Exit(_done(body, kind(**values)))
            given = [flag for name, flag in _flags(ctx).items() if _typed_in(ctx, name)]
            if given:
                where = f"`{ctx.command_path} {ctx.invoked_subcommand} {given[0]}`"
                raise typer.Exit(complain(UsageError(f"{given[0]} stands behind the verb: {where}."), False))

        first = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        call.__doc__ = body.__doc__
        call.__signature__ = inspect.Signature([first, *_parameters(kind)])  # type: ignore[attr-defined]  # likewise
        group.callback(invoke_without_command=True)(call)
        return body

    return register


def _kind(body: Callable[[_O], int]) -> type[_O]:
    """The options class of a verb."""
    [parameter] = inspect.signature(body, eval_str=True).parameters.values()
    kind: type[_O] = parameter.annotation
    return kind


def _done(body: Callable[[_O], int], options: _O) -> int:
    """Call a verb; its exit code."""
    try:
        return body(options)
    except MedbenchError as error:
        return complain(error, options.verbose)
    except OSError as error:
        refusal = refused(error)
        if refusal is None:
            raise
        refusal.__cause__ = error
        return complain(refusal, options.verbose)
    except KeyboardInterrupt:
        typer.echo("medbench: interrupted; run the same command again to go on", err=True)
        return INTERRUPTED


def _flags(ctx: typer.Context) -> dict[str, str]:
    return {p.name: p.opts[0] for p in ctx.command.params if p.name is not None}


def _typed_in(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_FIRST = (
    "method",
    "task",
    "fraction",
    "seed",
    "recipe",
    "checkpoint",
    "data_root",
    "data",
    "split",
    "corpus",
    "columns",
    "overrides",
)
"""Flags that say what is asked for; in a verb's help they stand before those that say how."""


def _parameters(kind: type[o.Options]) -> Iterator[inspect.Parameter]:
    by_name = {f.name: f for f in fields(kind)}
    common = [f.name for f in fields(o.Options)]
    first = [name for name in _FIRST if name in by_name]
    for name in [*first, *(name for name in by_name if name not in (*first, *common)), *common]:
        f = by_name[name]
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        yield inspect.Parameter(
            f.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=f.type,
        )


def complain(error: MedbenchError, verbose: bool) -> int:
    """Print a mistake of the user's; its exit code."""
    if verbose:
        import traceback

        typer.echo(printable_lines(without_secrets("".join(traceback.format_exception(error)))), err=True)
    typer.echo(printable_lines(without_secrets(f"medbench: {error}")), err=True)
    return error.exit_code


def print_json(value: Any) -> None:
    """Print the product where `--json` asks for it."""
    typer.echo(json.dumps(value, indent=2))


def print_cells(records: "Sequence[Record]", *, as_json: bool) -> None:
    """Print the product of a run."""
    from medbench.cells import cells_table

    if as_json:
        print_json([record.model_dump(mode="json", by_alias=True) for record in records])
    else:
        typer.echo(cells_table(records))


def read_plugins(options: o.Options, *, tolerant: bool = False) -> Catalogue:
    """Load the plugins; say in one line each what is wrong with them.

    Args:
        options: of any verb.
        tolerant: True for verbs that report broken plugins themselves.

    Raises:
        PluginError: a plugin that the user named can not be loaded.
    """
    named = o.words(options.plugin)
    if not options.no_plugins:
        named = (*Environment.read().plugins, *named)
    trace = _trace if options.trace_plugins else None
    catalogue = load_catalogue(named, third_party=not options.no_plugins, trace=trace)
    if not tolerant:
        for problem in catalogue.problems:
            shown = f"{problem}\n{problem.traceback}".rstrip() if options.verbose else f"{problem}"
            if problem.asked:
                raise PluginError(shown)
            typer.echo(f"medbench: warning: {shown}", err=True)
    return catalogue


def _trace(line: str) -> None:
    typer.echo(f"hook: {line}", err=True)


def data_request(options: o.DataOptions, catalogue: Catalogue) -> RunRequest:
    """The part of a request that says where things are."""
    environment = Environment.read()
    return RunRequest(
        methods=(),
        tasks=(),
        results=environment.results_folder(),
        cache=environment.cache_folder(),
        data_root=options.data_root or environment.data,
        data=data_folders(options, catalogue),
        workers=len(os.sched_getaffinity(0)),
        verbose=options.verbose,
    )


def data_folders(options: o.DataOptions | o.CheckOptions, catalogue: Catalogue) -> dict[str, Path]:
    """The folders that --data names, by dataset."""
    given = o.pairs("--data", options.data)
    return {catalogue.lookup_dataset(name).name: Path(folder).expanduser() for name, folder in given.items()}


def named(kind: Kind, given: Sequence[str], catalogue: Catalogue) -> tuple[str, ...]:
    """What words and globs stand for.

    Raises:
        UsageError: nothing is named, or something that is not known.
    """
    patterns = o.words(given)
    if not patterns:
        known = ", ".join(catalogue.specs(kind)) or "none"
        raise UsageError(f"No {kind[:-1]} is named. Give --{kind[:-1]} NAME; known {kind}: {known}.")
    return catalogue.expand(kind, patterns)


def results_folder(options: o.ResultsOptions) -> Path:
    """The results folder that a verb reads.

    Raises:
        UsageError: it is not there.
    """
    folder = options.results or Environment.read().results_folder()
    if not folder.is_dir():
        raise UsageError(
            f"No results folder {folder.absolute()}. Run something first, or name one with --results DIR."
        )
    return folder


def prepare_process(request: RunRequest) -> None:
    """Set up this process, and nothing else, for computing."""
    if request.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
    from medbench.devices import CUBLAS_WORKSPACE, resolve_device
    from medbench.memory import keep_freed_memory

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    if resolve_device(request.device).type == "cpu":
        keep_freed_memory()


def pretrain_request(options: o.PretrainOptions, catalogue: Catalogue) -> RunRequest:
    """The part of a request that says which encoder, and how it is computed."""
    return replace(
        computing_request(options, catalogue),
        methods=named("methods", options.method, catalogue),
        seeds=o.seeds(options.seed or ["0"]),
        recipe=options.recipe or "tiny",
        overrides=o.pairs("--set", options.overrides),
    )


def computing_request(options: o.PretrainOptions, catalogue: Catalogue) -> RunRequest:
    """The part of a request that says where things are, and how it is computed."""
    return replace(
        data_request(options, catalogue),
        device=options.device,
        precision=options.precision,
        corpus=options.corpus,
        columns=o.pairs("--column", options.columns),
        exclude_broken=options.exclude_broken,
        resume=options.resume,
        offline=options.offline or Environment.read().offline,
        quiet=options.quiet,
    )


def together(request: RunRequest, *, srun: bool) -> RunRequest:
    """The request of one of the processes that torchrun, or srun, started; the first one alone speaks."""
    world = started_by(os.environ, srun=srun)
    return replace(request, world=world, quiet=request.quiet or world.rank > 0)


def make_progress(request: RunRequest) -> "Progress":
    """Where a verb reports to; every line says so if data are phantom."""
    from medbench.progress import Progress

    return Progress("" if request.real_data else "phantom", request.quiet)
