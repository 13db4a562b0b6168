"""The verbs of `medbench data`."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import typer

from medbench import options as o
from medbench.commands import data_request, make_progress, print_json, read_plugins, verb
from medbench.errors import DataError, UsageError

app = typer.Typer(help="Data: list, status, verify, splits, show, phantom.", no_args_is_help=True)


@verb(app, "list")
def data_list(options: o.JsonOptions) -> int:
    """Print the datasets that are known.

    How large each is, what comes with its images, where to get it and under which terms.
    """
    catalogue = read_plugins(options)
    from medbench.describe import dataset_rows, table

    rows = dataset_rows(catalogue)
    if options.as_json:
        print_json(rows)
    else:
        typer.echo(table(rows))
    return 0


@verb(app, "status")
def data_status(options: o.StatusOptions) -> int:
    """Print which datasets are there.

    Where they are looked for, which are real and which phantom, and what the cache holds.
    """
    catalogue = read_plugins(options)
    request = data_request(options, catalogue)
    from medbench.describe import table
    from medbench.doctor import cache_folders, dataset_folders

    datasets = dataset_folders(catalogue, request.data_root, request.data)
    cache = cache_folders(request.cache)
    if options.as_json:
        print_json({"datasets": datasets, "cache": cache})
        return 0
    root = f"data root: {request.data_root or 'none named'}"
    if not request.real_data:
        root += "; runs use PHANTOM data"
    held = [f"cache: {request.cache}", table(cache)] if cache else [f"cache: {request.cache} (empty)"]
    typer.echo("\n\n".join([root, table(datasets) if datasets else "no datasets", *held]))
    return 0


@verb(app, "verify")
def data_verify(options: o.VerifyDataOptions) -> int:
    """Look for everything that is wrong with a dataset.

    Its tables, files, boxes and splits; with --full every image is decoded, too, and with --split lists of ids are
    held against it. Exit code 3 if anything is wrong.
    """
    catalogue = read_plugins(options)
    request = replace(data_request(options, catalogue), quiet=options.quiet)
    from medbench.data.lists import PREFIX, read_lists
    from medbench.data.sources import Sources
    from medbench.data.split_check import check_splits
    from medbench.data.verify import findings, verify
    from medbench.describe import table

    if options.split is not None and not options.split.startswith(PREFIX):
        raise UsageError(
            f"--split {options.split}: expected {PREFIX}DIR. The splits that {options.name} has by name are checked "
            "anyway; `medbench data splits` prints them."
        )
    progress = make_progress(request)
    dataset = Sources(request, catalogue, progress).evaluation(catalogue.lookup_dataset(options.name).name)
    index, problems = verify(dataset, full=options.full, progress=progress)
    checks = check_splits(dataset, index)
    found = findings(index, problems, checks)
    listed = None
    if options.split is not None:
        listed = read_lists(index, Path(options.split.removeprefix(PREFIX)).expanduser())
        found += [
            {"finding": f"--split {options.split}", "samples": "", "first": problem}
            for problem in listed.problems
            if problem not in listed.absent
        ]
    about = f"{index.source.upper() if index.source == 'phantom' else index.source} data"
    about += f", a subset: {index.subset}" if index.subset else ""
    patients = index.table["patient"].nunique()
    typer.echo(
        f"{index.dataset} in {index.root}: {about}; "
        f"{len(index):,} images of {patients:,} patients are in order"
    )
    for absent in listed.absent if listed is not None else ():
        typer.echo(f"not here: {absent}")
    if found:
        typer.echo(f"\n{table(found)}\n")
    if problems:
        typer.echo("Mend these samples, or leave them out of a run with --exclude-broken.")
    return DataError.exit_code if found else 0


@verb(app, "splits")
def data_splits(options: o.SplitsOptions) -> int:
    """Print the splits of a dataset.

    Where each comes from, its sizes and hash, whether they are the published ones, and what leaks. Exit code 3 if
    one is not as declared.
    """
    catalogue = read_plugins(options)
    request = data_request(options, catalogue)
    from medbench.data.sources import Sources
    from medbench.data.split_check import check_splits, rows, write_lists
    from medbench.describe import table

    dataset = Sources(request, catalogue, make_progress(request)).evaluation(
        catalogue.lookup_dataset(options.name).name
    )
    index = dataset.index(exclude_broken=True)
    if options.out is not None:
        name = options.split or next(iter(dataset.splits))
        write_lists(index, dataset.split(index, name), options.out)
        typer.echo(f"{options.out}")
        return 0
    checks = [check for check in check_splits(dataset, index) if options.split in (None, check.name)]
    if not checks:
        dataset.split(index, str(options.split))  # says which there are
    if options.as_json:
        print_json([asdict(check) for check in checks])
    else:
        typer.echo(table(rows(checks)))
    return DataError.exit_code if any(check.wrong for check in checks) else 0


@verb(app, "show")
def data_show(options: o.ShowOptions) -> int:
    """Draw a sample into a PNG file.

    With its boxes, its regions, its labels and its report.
    """
    catalogue = read_plugins(options)
    request = replace(
        data_request(options, catalogue), corpus=options.name, columns=o.pairs("--column", options.columns)
    )
    from medbench.data.show import find, write
    from medbench.data.sources import Sources

    sources = Sources(request, catalogue, make_progress(request))
    own = options.name.startswith("table:")
    dataset = sources.corpus() if own else sources.evaluation(catalogue.lookup_dataset(options.name).name)
    index = dataset.index(exclude_broken=True)
    row = find(index, options.sample)
    name = str(index.table["sample"].iloc[row]).replace("/", "_")
    out = options.out or Path(f"{index.dataset}-{name}.png")
    write(index, row, out)
    typer.echo(str(out))
    return 0


@verb(app, "phantom")
def data_phantom(options: o.PhantomOptions) -> int:
    """Write the phantom twin of a dataset.

    Synthetic films, in the real dataset's own layout.
    """
    catalogue = read_plugins(options)
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
