"""The command line, and the only place that reads the environment. Verbs import torch where they need it.

Standard output is the product, standard error the log. Exit codes: 0 all done, 1 some cells failed, 2 usage or
unknown name, 3 data or records, 4 weights, 5 plugin or a library it needs, 130 interrupted.
"""

import inspect
import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from medbench import __version__
from medbench import options as o
from medbench.errors import DataError, MedbenchError, PluginError, UsageError
from medbench.plugins import KINDS, Catalogue, Kind, load_catalogue
from medbench.request import RunRequest

if TYPE_CHECKING:
    from medbench.progress import Progress
    from medbench.runner import RunOutcome

INTERRUPTED = 130


# The environment.


@dataclass(frozen=True)
class _Environment:
    """What is set outside the command line. A flag, and a config file, win over it."""

    home: Path | None
    cache: Path | None
    data: Path | None
    results: Path | None
    offline: bool
    plugins: tuple[str, ...]

    @classmethod
    def read(cls) -> "_Environment":
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
        if self.cache is not None:
            return self.cache
        if self.home is not None:
            return self.home / "cache"
        from platformdirs import user_cache_path

        return user_cache_path("medbench")

    def results_folder(self) -> Path:
        return self.results or Path("results")


def _switch(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value in ("1", "true", "yes", "on"):
        return True
    if value in ("", "0", "false", "no", "off"):
        return False
    raise UsageError(f"{name}={value}: expected 1 or 0.")


# The program.

app = typer.Typer(
    name="medbench",
    help="A benchmark of medical vision-language pretraining on chest radiographs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
data_app = typer.Typer(help="Data: status, verify, phantom.", no_args_is_help=True)
results_app = typer.Typer(help="Records: list, verify.", no_args_is_help=True)
weights_app = typer.Typer(help="Weights: import, inspect.", no_args_is_help=True)
plugins_app = typer.Typer(help="Plugins: list.", no_args_is_help=True)


def main() -> None:
    """Entry point of the `medbench` command."""
    owner = os.getpid()

    def terminate(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        # A worker process forked from here is told to stop by its pool: it ends as it would without us.
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)

    signal.signal(signal.SIGTERM, terminate)
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"medbench {__version__}")
        raise typer.Exit


_O = TypeVar("_O", bound=o.Options)


def _verb(parent: typer.Typer, name: str) -> Callable[[Callable[[_O], int]], Callable[[_O], int]]:
    """Register a function of one options class as a verb; what it returns is the exit code."""

    def register(body: Callable[[_O], int]) -> Callable[[_O], int]:
        [parameter] = inspect.signature(body, eval_str=True).parameters.values()
        kind: type[_O] = parameter.annotation

        def call(**values: Any) -> None:
            options = kind(**values)
            try:
                code = body(options)
            except MedbenchError as error:
                code = _complain(error, options.verbose)
            except KeyboardInterrupt:
                typer.echo("medbench: interrupted; run the same command again to go on", err=True)
                code = INTERRUPTED
            raise typer.Exit(code)

        call.__doc__ = body.__doc__
        call.__signature__ = inspect.Signature(list(_parameters(kind)))  # type: ignore[attr-defined]  # typer reads it
        parent.command(name)(call)
        return body

    return register


_FIRST = (
    "method",
    "task",
    "fraction",
    "seed",
    "recipe",
    "checkpoint",
    "data_root",
    "data",
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


def _complain(error: MedbenchError, verbose: bool) -> int:
    if verbose:
        import traceback

        typer.echo("".join(traceback.format_exception(error)), err=True)
    typer.echo(f"medbench: {error}", err=True)
    return error.exit_code


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def _catalogue(options: o.Options, *, tolerant: bool = False) -> Catalogue:
    """Load the plugins; say in one line each what is wrong with them.

    Args:
        options: of any verb.
        tolerant: True for verbs that report broken plugins themselves.

    Raises:
        PluginError: a plugin that the user named can not be loaded.
    """
    named = o.words(options.plugin)
    if not options.no_plugins:
        named = (*_Environment.read().plugins, *named)
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


# Verbs that compute.


@_verb(app, "run")
def run(options: o.RunOptions) -> int:
    """Run methods on tasks and print the table.

    Cells that have a record are not run again; the table shows all that were asked for.
    """
    if options.dry_run:
        return plan(options)
    catalogue = _catalogue(options)
    request = _run_request(options, catalogue)
    _prepare_process(request)
    from medbench import runner
    from medbench.cells import cells_table

    outcome = runner.run(request, catalogue)
    if options.as_json:
        _print_json([record.model_dump(mode="json", by_alias=True) for record in outcome.records])
    else:
        typer.echo(cells_table(outcome.records))
    return _exit_code(outcome)


def _exit_code(outcome: "RunOutcome") -> int:
    """1 if some cells failed; the code of the user's mistake where it kept every cell from being computed."""
    if not outcome.failed:
        return 0
    computed = any(record.status == "ok" for record in outcome.records)
    return 1 if computed or not outcome.errors else outcome.errors[0].exit_code


@_verb(app, "plan")
def plan(options: o.PlanOptions) -> int:
    """Print what a run would do, and stop.

    The cells and which are done, the data and weights that are missing, an estimate of time.
    """
    catalogue = _catalogue(options)
    request = _run_request(options, catalogue)
    _prepare_process(request)
    from medbench.plan import plan as make_plan

    planned = make_plan(request, catalogue)
    if options.as_json:
        _print_json(planned.to_json())
    else:
        typer.echo(planned.text())
    return planned.missing[0].exit_code if planned.missing else 0


@_verb(app, "pretrain")
def pretrain(options: o.PretrainOptions) -> int:
    """Pretrain methods without running a task.

    Prints the folders of the finished weights, which --checkpoint takes.
    """
    catalogue = _catalogue(options)
    request = _pretrain_request(options, catalogue)
    _prepare_process(request)
    from medbench import runner

    for folder in runner.pretrain(request, catalogue):
        typer.echo(str(folder))
    return 0


def _prepare_process(request: RunRequest) -> None:
    """Set up this process, and nothing else, for computing."""
    if request.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported
    from medbench.devices import CUBLAS_WORKSPACE, keep_freed_memory, resolve_device

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    if resolve_device(request.device).type == "cpu":
        keep_freed_memory()


def _pretrain_request(options: o.PretrainOptions, catalogue: Catalogue) -> RunRequest:
    return replace(
        _data_request(options, catalogue),
        methods=_names("methods", options.method, catalogue),
        seeds=o.seeds(options.seed),
        recipe=options.recipe,
        device=options.device,
        precision=options.precision,
        corpus=options.corpus,
        columns=o.pairs("--column", options.columns),
        overrides=o.pairs("--set", options.overrides),
        exclude_broken=options.exclude_broken,
        resume=options.resume,
        offline=options.offline or _Environment.read().offline,
        quiet=options.quiet,
    )


def _run_request(options: o.PlanOptions, catalogue: Catalogue) -> RunRequest:
    request = _pretrain_request(options, catalogue)
    return replace(
        request,
        tasks=_names("tasks", options.task, catalogue),
        results=options.output or request.results,
        fractions=o.fractions(options.fraction),
        checkpoint=options.checkpoint,
        overwrite=options.overwrite,
    )


def _data_request(options: o.DataOptions, catalogue: Catalogue) -> RunRequest:
    """The part of a request that says where things are."""
    environment = _Environment.read()
    return RunRequest(
        methods=(),
        tasks=(),
        results=environment.results_folder(),
        cache=environment.cache_folder(),
        data_root=options.data_root or environment.data,
        data=_data_folders(options, catalogue),
        workers=len(os.sched_getaffinity(0)),
        verbose=options.verbose,
    )


def _data_folders(options: o.DataOptions, catalogue: Catalogue) -> dict[str, Path]:
    given = o.pairs("--data", options.data)
    return {catalogue.lookup_dataset(name).name: Path(folder).expanduser() for name, folder in given.items()}


def _names(kind: Kind, given: Sequence[str], catalogue: Catalogue) -> tuple[str, ...]:
    patterns = o.words(given)
    if not patterns:
        known = ", ".join(catalogue.specs(kind)) or "none"
        raise UsageError(f"No {kind[:-1]} is named. Give --{kind[:-1]} NAME; known {kind}: {known}.")
    return catalogue.expand(kind, patterns)


# Verbs that look things up.


@_verb(app, "list")
def list_names(options: o.ListOptions) -> int:
    """List methods, tasks, datasets or leaderboards."""
    if options.kind not in KINDS:
        raise UsageError(f"Unknown kind {options.kind!r}. Kinds: {', '.join(KINDS)}.")
    catalogue = _catalogue(options)
    from medbench import describe

    rows = describe.rows(catalogue, cast(Kind, options.kind))
    if options.as_json:
        _print_json(rows)
    else:
        typer.echo(describe.table(rows) if rows else f"no {options.kind}")
    return 0


@_verb(app, "info")
def info(options: o.InfoOptions) -> int:
    """Print what is known of a name.

    What is declared of it, where its code is, and what the code says of itself.
    """
    catalogue = _catalogue(options)
    from medbench import describe

    parts = []
    for kind in describe.kinds_of(catalogue, options.name):
        parts.append(describe.about(catalogue, kind, options.name))
        if options.recipe is not None:
            parts.append(describe.recipe_fields(catalogue, kind, options.name, options.recipe))
    typer.echo("\n\n".join(parts))
    return 0


@_verb(app, "leaderboard")
def leaderboard(options: o.LeaderboardOptions) -> int:
    """Print the leaderboard of a results folder.

    It is made from the records alone.
    """
    catalogue = _catalogue(options)
    fitting = [spec for spec in catalogue.leaderboards.values() if spec.format == options.format]
    if len(fitting) != 1:
        known = ", ".join(sorted({spec.format for spec in catalogue.leaderboards.values()})) or "none"
        several = f"is offered by {', '.join(s.name for s in fitting)}" if fitting else "is not known"
        raise UsageError(f"--format {options.format} {several}. Formats: {known}.")
    from medbench.records import ResultStore

    records = ResultStore(_results_folder(options)).records()
    typer.echo(catalogue.load("leaderboards", fitting[0].name)(records).rstrip("\n"))
    return 0


def _results_folder(options: o.ResultsOptions) -> Path:
    folder = options.results or _Environment.read().results_folder()
    if not folder.is_dir():
        raise UsageError(
            f"No results folder {folder.absolute()}. Run something first, or name one with --results DIR."
        )
    return folder


@_verb(results_app, "list")
def list_results(options: o.ListResultsOptions) -> int:
    """List the records of a results folder."""
    folder = _results_folder(options)
    from medbench.cells import format_metric
    from medbench.describe import table
    from medbench.records import ResultStore, fraction_name, read_record

    files = list(ResultStore(folder).files())
    records = [read_record(path) for path in files]
    if options.as_json:
        _print_json([record.model_dump(mode="json", by_alias=True) for record in records])
        return 0
    rows = [
        {
            "method": f"{record.identity.method} ({record.identity.fidelity})",
            "task": record.identity.task,
            "labels": fraction_name(record.identity.fraction),
            "seed": "any" if record.identity.seed is None else str(record.identity.seed),
            "recipe": record.identity.recipe,
            "source": record.identity.source + (" (subset)" if record.identity.subset else ""),
            "status": record.status,
            "metric": record.primary_metric,
            "value": format_metric(record.primary) if record.status == "ok" else "n/a",
            "file": str(path.relative_to(folder)),
        }
        for path, record in zip(files, records, strict=True)
    ]
    typer.echo(table(rows) if rows else f"no records in {folder}")
    return 0


@_verb(results_app, "verify")
def verify_results(options: o.ResultsOptions) -> int:
    """Check every record again.

    Schema, identity, the hash of its predictions, and the metrics, computed again from these. Exit code 3 if
    anything is off.
    """
    catalogue = _catalogue(options)
    folder = _results_folder(options)
    from medbench.records import ResultStore
    from medbench.verify import verify_record

    store = ResultStore(folder)
    files, wrong = list(store.files()), 0
    for path in files:
        found = verify_record(path, store, catalogue)
        wrong += bool(found)
        for what in found:
            typer.echo(f"{path}: {what}")
    typer.echo(f"{len(files)} records checked, {wrong} with something wrong")
    return DataError.exit_code if wrong else 0


@_verb(plugins_app, "list")
def list_plugins(options: o.JsonOptions) -> int:
    """List the plugins.

    Those that were loaded, then those that were not, with their tracebacks.
    """
    catalogue = _catalogue(options, tolerant=True)
    from medbench.describe import table

    rows = [
        {"plugin": p.name, "from": str(p.owner), "module": p.source, "hooks": ", ".join(p.hooks)}
        for p in catalogue.plugins
    ]
    if options.as_json:
        problems = [
            {"plugin": p.plugin, "from": str(p.owner), "problem": p.what, "traceback": p.traceback}
            for p in catalogue.problems
        ]
        _print_json({"plugins": rows, "problems": problems})
        return 0
    parts = [table(rows) if rows else "no plugins"]
    parts += [f"{problem}\n{problem.traceback}".rstrip() for problem in catalogue.problems]
    typer.echo("\n\n".join(parts))
    return 0


@_verb(app, "doctor")
def doctor(options: o.StatusOptions) -> int:
    """Check this installation.

    Versions, devices, plugins, data, cache; what is wrong, and the cure. Exit code 0 if medbench is usable.
    """
    catalogue = _catalogue(options, tolerant=True)
    environment = _Environment.read()
    from medbench.doctor import examine

    report = examine(
        catalogue,
        cache=environment.cache_folder(),
        data_root=options.data_root or environment.data,
        data=_data_folders(options, catalogue),
        offline=environment.offline,
    )
    if options.as_json:
        _print_json(report.to_json())
    else:
        typer.echo(report.text(tracebacks=options.verbose))
    return report.exit_code


# Weights.


@_verb(weights_app, "import")
def import_weights(options: o.ImportOptions) -> int:
    """Import a checkpoint that a method's authors released.

    Prints what was found on standard error, and the folder that --checkpoint takes. Nothing in the file is run. Exit
    code 4 if it can not be read, or lacks anything that the encoder needs.
    """
    catalogue = _catalogue(options)
    environment = _Environment.read()
    if options.part not in (None, "image", "all"):
        raise UsageError(f"--part {options.part}: expected image or all.")
    overrides = o.pairs("--set", options.overrides)
    if options.backbone is not None:
        overrides["method.backbone"] = options.backbone
    offline = options.offline or environment.offline
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    from medbench.importing import import_released, nearest_released
    from medbench.progress import Progress

    progress = Progress("", options.quiet)
    spec = nearest_released(options.method, catalogue)
    imported = import_released(
        options.file,
        spec,
        catalogue,
        part=cast(Any, options.part),
        prefix=options.prefix,
        overrides=overrides,
        offline=offline,
        out=options.out or environment.cache_folder() / "released",
    )
    folder = options.out or environment.cache_folder() / "released" / imported.name()
    progress.say(imported.coverage.text())
    sha256 = imported.save(folder)
    progress.say(
        f"file:        SHA-256 {imported.info['released']['sha256']}\nweights:     SHA-256 {sha256}\n"
        f"next:        medbench run -m {spec.name} --recipe {imported.info['recipe']} --checkpoint {folder} -t TASK"
    )
    typer.echo(str(folder))
    return 0


@_verb(weights_app, "inspect")
def inspect_weights(options: o.InspectOptions) -> int:
    """Print what a checkpoint holds.

    Its tensors by prefix, with types and shapes, and the layouts that it matches. Nothing in the file is run.
    """
    catalogue = _catalogue(options)
    from medbench.describe import table
    from medbench.weights import read_info

    if options.file.is_dir():
        _print_json(read_info(options.file)[1])
        return 0
    from medbench.checkpoints import read_checkpoint
    from medbench.inspection import matching, prefixes

    checkpoint = read_checkpoint(options.file)
    held, layouts = prefixes(checkpoint), matching(checkpoint, catalogue, options.prefix)
    if options.as_json:
        about = {"kind": checkpoint.kind, "sha256": checkpoint.sha256, "others": dict(checkpoint.others)}
        _print_json({**about, "tensors": held, "layouts": layouts})
        return 0
    parts = [f"{options.file}: {checkpoint.kind}, SHA-256 {checkpoint.sha256}", table(held)]
    if checkpoint.others:
        rest = ", ".join(f"{key} ({kind})" for key, kind in checkpoint.others.items())
        parts.append(f"beside the tensors: {rest}")
    parts.append(table(layouts) if layouts else "no layout matches; see --prefix")
    typer.echo("\n\n".join(parts))
    return 0


# Data.


@_verb(data_app, "status")
def data_status(options: o.StatusOptions) -> int:
    """Print which datasets are there.

    Where they are looked for, which are real and which phantom, and what the cache holds.
    """
    catalogue = _catalogue(options)
    request = _data_request(options, catalogue)
    from medbench.describe import table
    from medbench.doctor import cache_folders, dataset_folders

    datasets = dataset_folders(catalogue, request.data_root, request.data)
    cache = cache_folders(request.cache)
    if options.as_json:
        _print_json({"datasets": datasets, "cache": cache})
        return 0
    root = f"data root: {request.data_root or 'none named'}"
    if not request.real_data:
        root += "; runs use PHANTOM data"
    held = [f"cache: {request.cache}", table(cache)] if cache else [f"cache: {request.cache} (empty)"]
    typer.echo("\n\n".join([root, table(datasets) if datasets else "no datasets", *held]))
    return 0


@_verb(data_app, "verify")
def data_verify(options: o.VerifyDataOptions) -> int:
    """Look for everything that is wrong with a dataset.

    Its tables, files and boxes; with --full every image is decoded, too. Exit code 3 if anything is wrong.
    """
    catalogue = _catalogue(options)
    request = replace(_data_request(options, catalogue), quiet=options.quiet)
    from medbench.data.sources import Sources
    from medbench.data.verify import list_problems, verify

    progress = _progress(request)
    dataset = Sources(request, catalogue, progress).evaluation(catalogue.lookup_dataset(options.name).name)
    index, problems = verify(dataset, full=options.full, progress=progress)
    about = f"{index.source.upper() if index.source == 'phantom' else index.source} data"
    about += f", a subset: {index.subset}" if index.subset else ""
    patients = index.table["patient"].nunique()
    typer.echo(
        f"{index.dataset} in {index.root}: {about}; "
        f"{len(index):,} images of {patients:,} patients are in order"
    )
    if problems:
        typer.echo(f"{len({p.sample for p in problems}):,} are not:\n{list_problems(problems)}")
        typer.echo("Mend them, or leave these samples out of a run with --exclude-broken.")
    return DataError.exit_code if problems else 0


@_verb(data_app, "phantom")
def data_phantom(options: o.PhantomOptions) -> int:
    """Write the phantom twin of a dataset.

    Synthetic films, in the real dataset's own layout.
    """
    catalogue = _catalogue(options)
    spec = catalogue.lookup_dataset(options.name)
    if not spec.phantom:
        raise DataError(f"{spec.name} has no phantom twin.")
    from importlib import import_module

    from medbench.progress import Progress

    module, _, function = spec.phantom.partition(":")
    twin = import_module(module)
    patients = options.patients or spec.phantom_patients["default"]
    progress = Progress("phantom", options.quiet)
    with progress.track(f"writing {spec.name}", twin.total(patients, seed=options.seed), "films") as advance:
        getattr(twin, function)(
            options.out,
            patients=patients,
            seed=options.seed,
            workers=len(os.sched_getaffinity(0)),
            advance=advance,
        )
    typer.echo(str(options.out))
    return 0


def _progress(request: RunRequest) -> "Progress":
    from medbench.progress import Progress

    return Progress("" if request.real_data else "phantom", request.quiet)


app.add_typer(data_app, name="data")
app.add_typer(results_app, name="results")
app.add_typer(weights_app, name="weights")
app.add_typer(plugins_app, name="plugins")

if __name__ == "__main__":
    main()
