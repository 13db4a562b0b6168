"""The command line. Verbs import torch where they need it.

Standard output is the product, standard error the log. Exit codes: 0 all done, 1 some cells failed, 2 usage or
unknown name, 3 data or records, 4 weights, 5 plugin or a library it needs, 6 a gate, 130 interrupted.
"""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medbench import (
    __version__,
    compare_commands,
    data_commands,
    executors,
    feature_commands,
    leaderboard_commands,
    result_commands,
)
from medbench import options as o
from medbench.commands import (
    Environment,
    computing_request,
    data_folders,
    named,
    prepare_process,
    pretrain_request,
    print_cells,
    print_json,
    read_plugins,
    together,
    verb,
)
from medbench.errors import PluginError, UsageError, did_you_mean
from medbench.plugins import KINDS, Catalogue, Kind
from medbench.request import RunRequest

if TYPE_CHECKING:
    from medbench.runner import RunOutcome

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
weights_app = typer.Typer(help="Weights: import, inspect.", no_args_is_help=True)
plugins_app = typer.Typer(help="Plugins: list, new, check.", no_args_is_help=True)


def main() -> None:
    """Entry point of the `medbench` command."""
    owner = os.getpid()

    def terminate(signum: int, frame: FrameType | None) -> None:
        if os.getpid() == owner:
            signal.signal(
                signal.SIGTERM, signal.SIG_IGN
            )  # Slurm sends several: what is tidied up now shall be done
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


# Verbs that compute.


@verb(app, "run")
def run(options: o.RunOptions) -> int:
    """Run methods on tasks and print the table.

    Cells that have a record are not run again; the table shows all that were asked for.
    """
    if options.dry_run:
        return plan(options)
    if options.worker is not None:
        faulthandler.enable()  # what native code dies of is then in the log
    catalogue = read_plugins(options)
    if options.suite is not None:
        return _run_suite(options, catalogue)
    # Tasks of srun are left apart: they may be workers that share a grid.
    request = together(_run_request(options, catalogue), srun=False)
    if _by_workers(options):
        if request.world.count > 1:
            raise UsageError("Workers of an executor are started by one process, found several of torchrun.")
        return _run_workers(options, catalogue, (request,))
    prepare_process(request)
    from medbench import runner

    if request.world.count == 1:
        return _finish(options, runner.run(request, catalogue))
    outcome = runner.run_together(request, catalogue)
    return 0 if outcome is None else _finish(options, outcome)


def _run_suite(options: o.RunOptions, catalogue: Catalogue) -> int:
    requests, left_out = _suite(options, catalogue)
    if requests and together(requests[0], srun=False).world.count > 1:
        raise UsageError(
            "--suite: a suite is run by one process at a time, found several that torchrun started. Pretrain with"
            " `torchrun ... medbench pretrain`, and divide the suite with --shard."
        )
    if not options.quiet:
        for sentence in left_out:
            typer.echo(f"left out: {sentence}", err=True)
    if not requests:
        typer.echo(f"nothing is in shard {options.shard} of {options.suite}")
        return 0
    if _by_workers(options):
        return _run_workers(options, catalogue, requests)
    prepare_process(requests[0])
    from medbench import runner

    return _finish(options, runner.run_all(requests, catalogue))


def _by_workers(options: o.RunOptions) -> bool:
    """Whether this process leaves the computing to workers: with a limit of time one watches the other."""
    return options.worker is None and (options.executor is not None or options.cell_timeout is not None)


def _run_workers(options: o.RunOptions, catalogue: Catalogue, requests: Sequence[RunRequest]) -> int:
    name = options.executor or "local"
    if name not in executors.EXECUTORS:
        known = ", ".join(executors.EXECUTORS)
        hint = did_you_mean(name, executors.EXECUTORS)
        raise UsageError(f"--executor {name}: no such executor.{hint} Executors: {known}.")
    from medbench.executors import grid, local

    workers = options.processes or (local.devices(options.device) if options.executor == "local" else 1)
    if workers > 1 and ":" in options.device:
        raise UsageError(
            f"--device {options.device}: {workers} workers can not share it. Give --device cuda for one device each, "
            "or --processes 1."
        )
    done = grid.run_grid(_executor(name, options), sys.argv[1:], workers, requests, catalogue)
    if done.problem:
        typer.echo(f"medbench: {done.problem}", err=True)
        return done.code
    print_cells(done.records, as_json=options.as_json)
    return done.code


def _executor(name: str, options: o.RunOptions) -> executors.Executor:
    settings = {"slurm": o.pairs("--slurm", options.slurm), "ray": o.pairs("--ray", options.ray)}
    for other, given in settings.items():
        if given and other != name:
            raise UsageError(f"--{other} is of --executor {other}; this is --executor {name}.")
    return executors.make(name, **settings.get(name, {}))


def _finish(options: o.RunOptions, outcome: "RunOutcome") -> int:
    """Print what a run has given, or as a worker leave it to who started this process; the exit code."""
    if options.worker is None:
        print_cells(outcome.records, as_json=options.as_json)
    else:
        from medbench.executors import grid

        grid.hand_in(options.worker, outcome.records, outcome.exit_code)
    return outcome.exit_code


@verb(app, "plan")
def plan(options: o.PlanOptions) -> int:
    """Print what a run would do, and stop.

    The cells and which are done, the data and weights that are missing, an estimate of time; of a suite by method.
    """
    catalogue = read_plugins(options)
    left_out = None
    if options.suite is None:
        requests: tuple[RunRequest, ...] = (_run_request(options, catalogue),)
    else:
        requests, left_out = _suite(options, catalogue)
        if not requests:
            typer.echo(f"nothing is in shard {options.shard} of {options.suite}")
            return 0
    prepare_process(requests[0])
    from medbench.plan import plan as make_plan

    planned = replace(make_plan(requests, catalogue), left_out=left_out)
    if options.as_json:
        print_json(planned.to_json())
    else:
        typer.echo(planned.text())
    return planned.missing[0].exit_code if planned.missing else 0


@verb(app, "pretrain")
def pretrain(options: o.PretrainOptions) -> int:
    """Pretrain methods without running a task.

    Prints the folders of the finished weights, which --checkpoint takes.
    """
    catalogue = read_plugins(options)
    request = together(pretrain_request(options, catalogue), srun=True)
    prepare_process(request)
    from medbench import runner

    for folder in runner.pretrain(request, catalogue):
        if request.world.rank == 0:
            typer.echo(str(folder))
    return 0


def _suite(options: o.PlanOptions, catalogue: Catalogue) -> tuple[tuple[RunRequest, ...], tuple[str, ...]]:
    """The requests of --suite, less what other flags leave out, and what its methods can not serve.

    Raises:
        UsageError: the file is no suite, or a flag says what the suite has to say.
    """
    from medbench.suites import read_suite, shard_of

    assert options.suite is not None
    for flag, given in (
        ("--recipe", options.recipe),
        ("--set", options.overrides),
        ("--checkpoint", options.checkpoint),
        ("--split", options.split),
    ):
        if given:
            raise UsageError(
                f"{flag}: what is measured, the suite says. Leave the flag out, or change a copy of {options.suite}."
            )
    suite = read_suite(options.suite, catalogue).narrowed(
        catalogue,
        methods=options.method,
        tasks=options.task,
        wanted=o.fractions(options.fraction),
        seeds=o.seeds(options.seed) if options.seed else (),
    )
    if options.shard is not None:
        suite = suite.shard(*shard_of(options.shard))
    base = computing_request(options, catalogue)
    if suite.data == "phantom":  # a folder that is set for other runs is not asked for here
        base = replace(base, data_root=options.data_root)
    results = options.output or base.results
    base = replace(base, results=results, overwrite=options.overwrite, **_of_run(options))
    return suite.requests(base), suite.left_out


def _run_request(options: o.PlanOptions, catalogue: Catalogue) -> RunRequest:
    if options.shard is not None:
        raise UsageError(f"--shard {options.shard}: of a suite; give it with --suite FILE.")
    request = pretrain_request(options, catalogue)
    return replace(
        request,
        tasks=named("tasks", options.task, catalogue),
        results=options.output or request.results,
        fractions=o.fractions(options.fraction),
        checkpoint=options.checkpoint,
        split=options.split,
        overwrite=options.overwrite,
        **_of_run(options),
    )


def _of_run(options: o.PlanOptions) -> dict[str, Any]:
    """What `run` has that `plan` has not."""
    if not isinstance(options, o.RunOptions):
        return {}
    return {"cell_timeout": options.cell_timeout, "worker": options.worker}


# Verbs that look things up.


@verb(app, "list")
def list_names(options: o.ListOptions) -> int:
    """List methods, tasks, datasets or leaderboards."""
    if options.kind not in KINDS:
        raise UsageError(f"Unknown kind {options.kind!r}. Kinds: {', '.join(KINDS)}.")
    catalogue = read_plugins(options)
    from medbench import describe

    rows = describe.rows(catalogue, cast(Kind, options.kind))
    if options.as_json:
        print_json(rows)
    else:
        typer.echo(describe.table(rows) if rows else f"no {options.kind}")
    return 0


@verb(app, "info")
def info(options: o.InfoOptions) -> int:
    """Print what is known of a name.

    What is declared of it, where its code is, and what the code says of itself.
    """
    catalogue = read_plugins(options)
    from medbench import describe

    parts = []
    for kind in describe.kinds_of(catalogue, options.name):
        parts.append(describe.about(catalogue, kind, options.name))
        if options.recipe is not None:
            parts.append(describe.recipe_fields(catalogue, kind, options.name, options.recipe))
    typer.echo("\n\n".join(parts))
    return 0


@verb(plugins_app, "list")
def list_plugins(options: o.JsonOptions) -> int:
    """List the plugins.

    Those that were loaded, then those that were not, with their tracebacks.
    """
    catalogue = read_plugins(options, tolerant=True)
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
        print_json({"plugins": rows, "problems": problems})
        return 0
    parts = [table(rows) if rows else "no plugins"]
    parts += [f"{problem}\n{problem.traceback}".rstrip() for problem in catalogue.problems]
    typer.echo("\n\n".join(parts))
    return 0


@verb(plugins_app, "new")
def new_plugin(options: o.NewPluginOptions) -> int:
    """Write a package for a method, a task or a dataset of your own.

    It installs, passes its tests and runs as it is written. Prints the folder.
    """
    catalogue = read_plugins(options)
    from medbench.new_plugin import FIRST_USE, write_plugin

    folder = write_plugin(options.kind, options.name, options.out, catalogue)
    first_use = FIRST_USE[options.kind].format(name=options.name)
    typer.echo(
        f"next:        pip install -e {folder}\n             pytest {folder}\n             {first_use}",
        err=True,
    )
    typer.echo(str(folder))
    return 0


@verb(plugins_app, "check")
def check_plugin(options: o.CheckOptions) -> int:
    """Check that plugins keep what medbench promises of them.

    Every check of every method, task and dataset that plugins add, a line each; on phantoms, at recipe micro, on the
    CPU. Exit code 5 if one failed.
    """
    catalogue = read_plugins(options)
    from medbench.conformance import kit

    names, data = kit.named(catalogue, options.name), data_folders(options, catalogue)
    outcomes = []
    with kit.workplace() as folder:
        prepare_process(RunRequest((), (), folder, folder, offline=True))
        for outcome in kit.check(catalogue, names, folder, data):
            outcomes.append(outcome)
            if not options.as_json:
                typer.echo(f"{outcome}\n{outcome.traceback}".rstrip() if options.verbose else str(outcome))
    if options.as_json:
        print_json([outcome.to_json() for outcome in outcomes])
    else:
        typer.echo(kit.summary(outcomes))
    return PluginError.exit_code if any(each.status == "failed" for each in outcomes) else 0


@verb(app, "doctor")
def doctor(options: o.StatusOptions) -> int:
    """Check this installation.

    Versions, devices, plugins, data, cache; what is wrong, and the cure. Exit code 0 if medbench is usable.
    """
    catalogue = read_plugins(options, tolerant=True)
    environment = Environment.read()
    from medbench.doctor import examine

    report = examine(
        catalogue,
        cache=environment.cache_folder(),
        data_root=options.data_root or environment.data,
        data=data_folders(options, catalogue),
        offline=environment.offline,
    )
    if options.as_json:
        print_json(report.to_json())
    else:
        typer.echo(report.text(tracebacks=options.verbose))
    return report.exit_code


# Weights.


@verb(weights_app, "import")
def import_weights(options: o.ImportOptions) -> int:
    """Import a checkpoint that a method's authors released.

    Prints what was found on standard error, and the folder that --checkpoint takes. Nothing in the file is run. Exit
    code 4 if it can not be read, or lacks anything that the encoder needs.
    """
    catalogue = read_plugins(options)
    environment = Environment.read()
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


@verb(weights_app, "inspect")
def inspect_weights(options: o.InspectOptions) -> int:
    """Print what a checkpoint holds.

    Its tensors by prefix, with types and shapes, and the layouts that it matches. Nothing in the file is run.
    """
    catalogue = read_plugins(options)
    from medbench.describe import table
    from medbench.weights import read_info

    if options.file.is_dir():
        print_json(read_info(options.file)[1])
        return 0
    from medbench.checkpoints import read_checkpoint
    from medbench.inspection import matching, prefixes

    checkpoint = read_checkpoint(options.file)
    held, layouts = prefixes(checkpoint), matching(checkpoint, catalogue, options.prefix)
    if options.as_json:
        about = {"kind": checkpoint.kind, "sha256": checkpoint.sha256, "others": dict(checkpoint.others)}
        print_json({**about, "tensors": held, "layouts": layouts})
        return 0
    parts = [f"{options.file}: {checkpoint.kind}, SHA-256 {checkpoint.sha256}", table(held)]
    if checkpoint.others:
        rest = ", ".join(f"{key} ({kind})" for key, kind in checkpoint.others.items())
        parts.append(f"beside the tensors: {rest}")
    parts.append(table(layouts) if layouts else "no layout matches; see --prefix")
    typer.echo("\n\n".join(parts))
    return 0


compare_commands.add(app)
app.add_typer(data_commands.app, name="data")
app.add_typer(feature_commands.app, name="features")
app.add_typer(leaderboard_commands.app, name="leaderboard")
app.add_typer(result_commands.app, name="results")
app.add_typer(weights_app, name="weights")
app.add_typer(plugins_app, name="plugins")

if __name__ == "__main__":
    main()
