"""The verbs under `medbench results`."""

import typer

from medbench import options as o
from medbench.commands import (
    Environment,
    data_request,
    prepare_process,
    print_cells,
    print_json,
    read_plugins,
    results_folder,
    verb,
)
from medbench.errors import DataError, UsageError
from medbench.terminal import printable, printable_lines

app = typer.Typer(help="Records: list, verify, rescore, export, retry.", no_args_is_help=True)


@verb(app, "list")
def list_results(options: o.ListResultsOptions) -> int:
    """List the records of a results folder."""
    folder = results_folder(options)
    if options.as_json:
        from medbench.records import ResultStore, read_listed

        records = read_listed(ResultStore(folder).files())
        print_json([record.model_dump(mode="json", by_alias=True) for _, record in records])
        return 0
    from medbench.describe import table
    from medbench.numbers import fraction_name, percent
    from medbench.record_index import RecordIndex

    rows = [
        {
            "method": f"{one.method} ({one.fidelity})",
            "task": one.task,
            "labels": fraction_name(one.fraction),
            "seed": "any" if one.seed is None else str(one.seed),
            "recipe": one.recipe,
            "source": one.source + (" (subset)" if one.subset else ""),
            "status": one.status,
            "metric": one.metric,
            "value": percent(one.value, one.low, one.high) if one.status == "ok" else "n/a",
            "file": one.path,
        }
        for one in RecordIndex(folder, Environment.read().cache_folder()).listed()
    ]
    typer.echo(table(rows) if rows else f"no records in {folder}")
    return 0


@verb(app, "verify")
def verify_results(options: o.VerifyResultsOptions) -> int:
    """Check every record of a results folder, or of a submission, again.

    Schema, identity, hashes, id lists, plausibility, the metrics, computed again from the predictions, and records
    against each other. Says accept or why not. Exit code 3 if anything is off.
    """
    catalogue = read_plugins(options)
    folder = options.folder or results_folder(options)
    if not folder.is_dir():
        raise UsageError(f"No folder {folder.absolute()}.")
    request = data_request(options, catalogue)
    from medbench.submission import read_key
    from medbench.verify import verify_folder
    from medbench.verify.originals import Originals

    key = options.key or Environment.read().key_file()
    if options.key and not request.real_data:
        raise UsageError(
            "--key tells the rows of films that are at hand: expected --data NAME=DIR beside it."
        )
    known = read_key(key, make=False) if request.real_data and (options.key or key.exists()) else None
    checked = verify_folder(
        folder,
        catalogue,
        Originals(request, catalogue, known),
        without_predictions=options.without_predictions,
    )
    if options.as_json:
        print_json(checked.to_json())
    else:
        typer.echo(printable_lines(checked.text()))
    if request.real_data and known is None and any(each.keyed for each in checked.records):
        typer.echo(f"rows of keyed copies stay unknown: no key at {key}; name it with --key", err=True)
    return 0 if checked.accepted else DataError.exit_code


@verb(app, "export")
def export_results(options: o.ExportOptions) -> int:
    """Write a folder that can be sent as a submission.

    Copies of the current records with what belongs to them, without paths and names of users and hosts; of films that
    may not be passed on scores alone, by keyed rows. The results folder stays as it is.
    """
    catalogue = read_plugins(options)
    folder = results_folder(options)
    from medbench.submission import export

    key = options.key or Environment.read().key_file()
    made = export(
        folder,
        options.out,
        catalogue,
        key=key,
        methods=o.words(options.method),
        tasks=o.words(options.task),
        contact=options.contact,
    )
    for what, count in sorted(made.left_out.items()):
        typer.echo(f"left out or replaced in {count} records: {what}", err=True)
    if made.manifest.keyed:
        sets = ", ".join(made.manifest.keyed)
        typer.echo(f"scores alone of {sets}; the key is {key}: keep it, and keep it to yourself", err=True)
    typer.echo(str(made.folder))
    return 0


@verb(app, "rescore")
def rescore_results(options: o.RescoreOptions) -> int:
    """Compute every metric and interval again from predictions alone.

    Without images, weights or a GPU. Prints what is recorded and what the installed code gives; records are never
    edited. Exit code 3 if something differs that no version explains, or predictions are missing or were changed.
    """
    catalogue = read_plugins(options)
    from medbench.describe import table
    from medbench.records import ResultStore
    from medbench.rescore import as_json, record_files, rescore, rows, write_all

    files = list(record_files(options.paths or [results_folder(options)]))
    done = [rescore(path, catalogue) for path in files]
    if options.out is not None:
        write_all(done, ResultStore(options.out))
    if options.as_json:
        print_json([as_json(each) for each in done])
    else:
        shown = [row for each in done for row in rows(each)]
        if shown:
            typer.echo(f"{table(shown)}\n")
        for each in done:
            if each.problem:
                typer.echo(printable(f"{each.path}: {each.problem}"))
        verdicts = [one.verdict for each in done for one in each.comparisons]
        counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
        typer.echo(f"{len(done)} records, {len(verdicts)} numbers{f': {counts}' if counts else ''}")
    return DataError.exit_code if any(each.wrong for each in done) else 0


@verb(app, "retry")
def retry_results(options: o.RetryOptions) -> int:
    """Run the cells again that failed, and those alone.

    As they were asked for, on the data that were named then. Prints their table. Cells that were done since are left.
    """
    catalogue = read_plugins(options)
    from medbench.retry import data_of, failed_requests

    requests, unknown = failed_requests(results_folder(options), Environment.read().cache_folder())
    if unknown:
        typer.echo(f"{unknown} failed cells do not say what asked for them; give the command again", err=True)
    if not requests:
        typer.echo("no failed cell is left")
        return 0
    prepare_process(requests[0])
    from medbench.runner import RunOutcome, run_all

    whole = RunOutcome()
    for data in {repr(data_of(request)): data_of(request) for request in requests}.values():
        outcome = run_all([request for request in requests if data_of(request) == data], catalogue)
        whole.records += outcome.records
        whole.errors += outcome.errors
    print_cells(whole.records, as_json=options.as_json)
    return whole.exit_code
