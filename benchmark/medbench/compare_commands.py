"""The verb `medbench compare`."""

from pathlib import Path

import typer

from medbench import options as o
from medbench.commands import Environment, print_json, read_plugins, verb
from medbench.errors import DataError
from medbench.terminal import printable, printable_lines

REGRESSION = 6
"""Exit code of `--fail-on-regression`."""


def add(app: typer.Typer) -> None:
    """Add the verb to the program."""
    verb(app, "compare")(compare)


def compare(options: o.CompareOptions) -> int:
    """Compare two methods on the same test films.

    By task and label fraction: the difference with its 95 % interval, whether it is more than noise, and why what can
    not be compared can not. From records alone; A and B can be of two results folders.
    """
    catalogue = read_plugins(options)
    fractions = o.fractions(options.fraction)
    folder = options.results or Environment.read().results_folder()
    from medbench.comparison import as_json, lines, operand, text
    from medbench.results import Results

    read: dict[Path, Results] = {}
    a, b = (operand(word, folder, catalogue, read) for word in (options.a, options.b))
    found = lines(a, b, o.words(options.task), fractions, options.recipe)
    if options.as_json:
        print_json([as_json(line) for line in found])
    else:
        typer.echo(printable_lines(text(found)))
    if not options.fail_on_regression:
        return 0
    worse = [line for line in found if line.worse]
    for line in worse:
        typer.echo(printable(f"medbench: {line.verdict} on {line.task}: a regression"), err=True)
    lost = [line for line in found if line.lost]
    for line in lost:
        typer.echo(printable(f"medbench: {line.where}: {line.a} has a value, {line.verdict}"), err=True)
    if worse:
        return REGRESSION
    blind = all(line.p_holm is None for line in found)
    if blind or lost:
        which = "nothing could be" if blind else f"{', '.join(line.where for line in lost)} could not be"
        raise DataError(f"{which} compared, so that nothing is known of a regression; the table says why.")
    return 0
