"""The verbs of `medbench leaderboard`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medbench import options as o
from medbench.commands import Environment, group_verb, read_plugins, results_folder, verb
from medbench.errors import UsageError
from medbench.plugins import Catalogue
from medbench.specs import LeaderboardSpec

if TYPE_CHECKING:
    from medbench.results import Results

GATE = 6
"""Exit code where committed tables do not follow from the records."""

app = typer.Typer(help="Tables from records: print, build, check.")


@group_verb(app)
def leaderboard(options: o.LeaderboardOptions) -> int:
    """Print the leaderboard of a results folder; with --check, hold files that were built against the records.

    It is made from the records alone. Exit code 6 if a file is not what the records give.
    """
    if options.check:
        return _check(options)
    if options.all_pictures:
        raise UsageError("--all-pictures goes with --check.")
    if options.out is not None:
        raise UsageError("--out DIR goes with `medbench leaderboard build`, which writes, and with --check.")
    catalogue = read_plugins(options)
    spec = _fitting(catalogue, options.format)
    files = catalogue.load("leaderboards", spec.name)(_read(options, catalogue, None))
    if len(files) != 1:
        raise UsageError(
            f"--format {options.format} is {len(files)} files, and one can be printed. Write them with "
            f"`medbench leaderboard build --format {options.format}`."
        )
    [(name, content)] = files.items()
    try:
        typer.echo(content.decode().rstrip("\n"))
    except UnicodeDecodeError:
        raise UsageError(
            f"--format {options.format} is {name}, which is no text. Write it with "
            f"`medbench leaderboard build --format {options.format}`."
        ) from None
    return 0


@verb(app, "build")
def build(options: o.BuildOptions) -> int:
    """Write leaderboards into a folder: every format that is known, or those named.

    Prints the files. The same records give the same bytes; files that an earlier build made and that are made no
    longer are removed, and no others.
    """
    catalogue = read_plugins(options)
    named = o.words(options.format)
    formats = named or tuple(sorted({spec.format for spec in catalogue.leaderboards.values()}))
    specs = [_fitting(catalogue, name) for name in formats]
    from medbench.built import Folder, make

    folder = Folder(options.out or Path("leaderboard"))
    results = _read(options, catalogue, folder.root)
    for path in folder.write([make(spec, catalogue, results) for spec in specs]):
        typer.echo(str(path))
    return 0


def _check(options: o.LeaderboardOptions) -> int:
    catalogue = read_plugins(options)
    from medbench.built import Folder, make

    folder = Folder(options.out or Path("leaderboard"))
    formats = folder.formats()
    specs = [_fitting(catalogue, name) for name in formats]
    results = _read(options, catalogue, folder.root)
    report = folder.compare([make(spec, catalogue, results) for spec in specs])
    for line in report.wrong:
        typer.echo(line)
    for line in report.other_versions:
        typer.echo(f"medbench: {line}", err=True)
    typer.echo(
        f"{folder.root}: {report.compared} files of {', '.join(formats)} compared, {len(report.wrong)} wrong"
        + (f", {len(report.unread)} not drawn again" if report.unread else "")
    )
    if report.wrong:
        typer.echo(
            f"medbench: see what changed after `medbench leaderboard build --out {folder.root}`",
            err=True,
        )
    if report.unread and options.all_pictures:
        typer.echo(
            "medbench: --all-pictures: install the versions that drew them, which a constraints file can pin",
            err=True,
        )
        return GATE
    return GATE if report.wrong else 0


def _fitting(catalogue: Catalogue, name: str) -> LeaderboardSpec:
    """The leaderboard of a format.

    Raises:
        UsageError: there is none, or more than one.
    """
    fitting: Sequence[LeaderboardSpec] = [s for s in catalogue.leaderboards.values() if s.format == name]
    if len(fitting) != 1:
        known = ", ".join(sorted({spec.format for spec in catalogue.leaderboards.values()})) or "none"
        several = f"is offered by {', '.join(s.name for s in fitting)}" if fitting else "is not known"
        raise UsageError(f"--format {name} {several}. Formats: {known}.")
    return fitting[0]


def _read(options: o.ResultsOptions, catalogue: Catalogue, out: Path | None) -> "Results":
    """The results folder; links lead there from `out`. Says what will take its time."""
    from medbench.results import Results

    results = Results.read(results_folder(options), catalogue, out, Environment.read().cache_folder())
    if results.brief:
        return results  # a look for each of their files would take as long as the tables
    without = sum(
        record.predictions is not None
        and (folder / record.predictions.path).exists()
        and (record.draws is None or not (folder / record.draws.path).exists())
        for record in results.records
        for folder in [(results.root / results.path(record)).parent]
    )
    if without:
        typer.echo(
            f"medbench: {without:,} of {len(results.records):,} records have no draws beside them, which are computed "
            f"from their predictions each time; `medbench results rescore --results {results.root} --out DIR` writes "
            "records that have them",
            err=True,
        )
    return results
