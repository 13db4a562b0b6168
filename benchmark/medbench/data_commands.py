"""The verbs of `medbench data`."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from medbench import options as o
from medbench.commands import (
    Environment,
    data_request,
    make_progress,
    named,
    print_json,
    read_plugins,
    verb,
)
from medbench.errors import DataError, UsageError
from medbench.files import replacing
from medbench.terminal import no_formula

if TYPE_CHECKING:
    from medbench.data.dataset import Dataset
    from medbench.plugins import Catalogue
    from medbench.progress import Progress
    from medbench.request import RunRequest

app = typer.Typer(
    help="Data: list, status, verify, prepare, splits, show, audit, phantom, gc.", no_args_is_help=True
)


def _dataset(
    name: str,
    columns: Sequence[str],
    request: "RunRequest",
    catalogue: "Catalogue",
    progress: "Progress",
) -> "Dataset":
    """The dataset of that name, or of `table:FILE`.

    Raises:
        UsageError: it is not known; or columns are named of what is no table.
        DataError: it is not where it is looked for.
    """
    from medbench.data.sources import Sources

    if name.startswith("table:"):
        asked = replace(request, corpus=name, columns=o.pairs("--column", columns))
        return Sources(asked, catalogue, progress).corpus()
    if columns:
        raise UsageError(f"--column names columns of a table, and {name} is none. Give table:FILE.")
    return Sources(request, catalogue, progress).evaluation(catalogue.lookup_dataset(name).name)


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

    Where they are looked for, which are real and which phantom, and what the cache holds: of prepared images also
    which are of no more use.
    """
    catalogue = read_plugins(options)
    request = data_request(options, catalogue)
    from medbench.data.cache import held
    from medbench.describe import prepared_rows, table
    from medbench.doctor import cache_folders, dataset_folders

    datasets = dataset_folders(catalogue, request.data_root, request.data)
    cache, prepared = cache_folders(request.cache), prepared_rows(held(request.cache))
    if options.as_json:
        print_json({"datasets": datasets, "cache": cache, "prepared": prepared})
        return 0
    root = f"data root: {request.data_root or 'none named'}"
    if not request.real_data:
        root += "; runs use PHANTOM data"
    shown = [f"cache: {request.cache}", table(cache)] if cache else [f"cache: {request.cache} (empty)"]
    if prepared:
        shown += ["prepared images (`medbench data gc` frees the unused ones):", table(prepared)]
    typer.echo("\n\n".join([root, table(datasets) if datasets else "no datasets", *shown]))
    return 0


@verb(app, "verify")
def data_verify(options: o.VerifyDataOptions) -> int:
    """Look for everything that is wrong with a dataset.

    Its tables, files, boxes and splits; with --full every image is decoded, too, and with --split lists of ids are
    held against it. Exit code 3 if anything is wrong.
    """
    catalogue = read_plugins(options)
    request = replace(data_request(options, catalogue), quiet=options.quiet)
    from medbench.data.lists import PREFIX, find_lists, folder_of, read_lists
    from medbench.data.split_check import check_splits
    from medbench.data.verify import findings, verify
    from medbench.describe import table

    if options.split is not None and not options.split.startswith(PREFIX):
        raise UsageError(
            f"--split {options.split}: expected {PREFIX}DIR. The splits that {options.name} has by name are checked "
            "anyway; `medbench data splits` prints them."
        )
    if options.split is not None:
        find_lists(folder_of(options.split))  # before an hour of decoding
    progress = make_progress(request)
    dataset = _dataset(options.name, options.columns, request, catalogue, progress)
    index, problems = verify(dataset, full=options.full, progress=progress, workers=request.workers)
    checks = check_splits(dataset, index)
    found = findings(index, problems, checks)
    listed = None
    if options.split is not None:
        listed = read_lists(index, folder_of(options.split))
        found += [
            {"finding": f"--split {options.split}", "samples": "", "first": problem}
            for problem in listed.problems
            if problem not in listed.absent
        ]
    about = f"{index.source.upper() if index.source == 'phantom' else index.source} data"
    if index.subset is not None:
        missing = (index.official_size or 0) - len(index)
        about += f", a subset: {index.subset}; {missing:,} images of the release are not here"
    patients = index.table["patient"].nunique()
    typer.echo(
        f"{index.dataset} in {index.root}: {about}; "
        f"{len(index):,} images of {patients:,} patients are in order"
    )
    for note in dataset.notes():
        typer.echo(note)
    for absent in listed.absent if listed is not None else ():
        typer.echo(f"not here: {absent}")
    if found:
        typer.echo(f"\n{table(found)}\n")
    if problems:
        typer.echo("Mend these samples, or leave them out of a run with --exclude-broken.")
    return DataError.exit_code if found else 0


@verb(app, "prepare")
def data_prepare(options: o.PrepareOptions) -> int:
    """Decode a dataset's images into the cache.

    A run does so by itself; here it can be done before, and what is there is compared with its checksums. Without
    --size at every size that the tasks, and pretraining on it as a corpus, ask for.
    """
    catalogue = read_plugins(options)
    request = replace(data_request(options, catalogue), recipe=options.recipe, quiet=options.quiet)
    if options.fit not in ("pad", "stretch"):
        raise UsageError(f"--fit {options.fit}: expected pad or stretch.")
    sizes: list[tuple[int, Any]] = [(options.size or 0, options.fit)]
    if options.size is None:
        from medbench.film_sizes import film_sizes

        spec = catalogue.lookup_dataset(options.name.partition(":")[0])
        sizes = film_sizes(catalogue, spec, options.recipe, named("methods", options.method, catalogue))
    from medbench.data.prepared import BrokenImages, prepare, require_room
    from medbench.data.verify import leave_out, list_problems

    progress = make_progress(request)
    dataset = _dataset(options.name, options.columns, request, catalogue, progress)
    index = dataset.index(exclude_broken=options.exclude_broken)
    require_room(index, sizes, request.cache)
    settings: dict[str, Any] = {"workers": request.workers, "progress": progress, "check": True}
    for side, fit in sizes:
        try:
            films = prepare(index, side, fit, request.cache, **settings)
        except BrokenImages as broken:
            if not options.exclude_broken:
                raise
            progress.say(f"left out, since they can not be used:\n{list_problems(broken.problems)}")
            index = leave_out(index, broken.problems)
            films = prepare(index, side, fit, request.cache, **settings)
        typer.echo(f"{len(index):,} images at {side} px ({fit}): {films.folder}")
    return 0


@verb(app, "gc")
def data_gc(options: o.GcOptions) -> int:
    """Free prepared images that are of no more use.

    Those whose files are gone or have changed, or that another version of medbench made. What a run has open, and what
    belongs to a folder that is not mounted now, is left alone.
    """
    read_plugins(options)
    from medbench.data.cache import free, held
    from medbench.describe import prepared_rows, table

    cache = Environment.read().cache_folder()
    unused = [entry for entry in held(cache) if entry.state == "unused"]
    freed = unused if options.dry_run else free(unused)
    if freed:
        typer.echo(f"{table(prepared_rows(freed))}\n")
    total = sum(entry.bytes for entry in freed) / 1e9
    word = "would free" if options.dry_run else "freed"
    typer.echo(f"{word} {total:,.2f} GB in {len(freed)} folders of {cache / 'prepared'}")
    if len(freed) < len(unused):
        typer.echo(f"{len(unused) - len(freed)} more are being worked on and were left alone")
    return 0


@verb(app, "splits")
def data_splits(options: o.SplitsOptions) -> int:
    """Print the splits of a dataset.

    Where each comes from, its sizes and hash, whether they are the published ones, and what leaks. Exit code 3 if
    one is not as declared. With --out nothing is left out of the lists unless --exclude-broken says so.
    """
    catalogue = read_plugins(options)
    request = data_request(options, catalogue)
    from medbench.data.split_check import check_splits, rows, write_lists
    from medbench.describe import table

    dataset = _dataset(options.name, options.columns, request, catalogue, make_progress(request))
    index = dataset.index(exclude_broken=options.exclude_broken or options.out is None)
    if index.excluded:
        broken = len({problem.sample for problem in index.excluded})
        typer.echo(
            f"medbench: {broken:,} samples with problems are in no split; `medbench data verify` names them",
            err=True,
        )
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
    request = data_request(options, catalogue)
    from medbench.data.show import find, write

    dataset = _dataset(options.name, options.columns, request, catalogue, make_progress(request))
    index = dataset.index(exclude_broken=True)
    row = find(index, options.sample)
    name = str(index.table["sample"].iloc[row]).replace("/", "_")
    out = options.out or Path(f"{index.dataset}-{name}.png")
    write(index, row, out)
    typer.echo(str(out))
    return 0


@verb(app, "audit")
def data_audit(options: o.AuditOptions) -> int:
    """Look for films and patients that datasets, or parts of one, share.

    By the files' bytes, by the pixels, and by how films look, in whatever size, format or window; and by patient ids.
    """
    catalogue = read_plugins(options)
    request = replace(data_request(options, catalogue), quiet=options.quiet)
    if options.out is not None and options.out.suffix not in (".parquet", ".csv"):
        raise UsageError(f"--out {options.out}: expected a file that ends in .parquet or .csv.")
    from medbench.data.audit import Audited, as_json, audit, rows
    from medbench.describe import table
    from medbench.doctor import dataset_folders

    progress = make_progress(request)
    found = dataset_folders(catalogue, request.data_root, request.data)
    names = options.names or [
        row["dataset"] for row in found if row["folder"] and row["state"] in ("real", "phantom")
    ]
    if not names:
        raise UsageError("No dataset is named, and none is found. Name some, or give --data-root DIR.")
    datasets = [
        Audited.of(name, _dataset(name, (), request, catalogue, progress)) for name in dict.fromkeys(names)
    ]
    result = audit(datasets, request.cache, workers=request.workers, progress=progress)
    if options.out is not None:
        with replacing(options.out) as temporary:
            if options.out.suffix == ".csv":
                text = result.copies.select_dtypes(object).columns
                safe = {name: result.copies[name].map(lambda cell: no_formula(str(cell))) for name in text}
                result.copies.assign(**safe).to_csv(temporary, index=False)
            else:
                result.copies.to_parquet(temporary, index=False)
    if options.as_json:
        print_json(as_json(result))
        return 0
    films = ", ".join(f"{name} {count:,}" for name, count in result.films.items())
    typer.echo(f"films: {films}")
    groups = result.copies["group"].nunique()
    typer.echo(f"{len(result.copies):,} films have a copy, in {groups:,} groups")
    typer.echo(f"\n{table(rows(result))}" if result.overlaps else "no two parts share a film or a patient")
    for known in result.declared:
        typer.echo(f"known: {known.other} has films of {known.one}: {known.what} ({known.source})")
    for problem in result.problems:
        typer.echo(f"not compared: {problem}")
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
