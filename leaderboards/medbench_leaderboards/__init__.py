"""The leaderboards that medbench brings: records in, files out."""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import LeaderboardSpec


@hookimpl
def medbench_leaderboards() -> Iterable[LeaderboardSpec]:
    """Tables for people and for programs."""
    yield LeaderboardSpec(
        name="markdown",
        target="medbench_leaderboards.markdown:markdown",
        summary="one page: a table a source, recipe and size of data, methods by tasks and label fractions",
        reference="docs/leaderboards.md",
        format="markdown",
    )
    yield LeaderboardSpec(
        name="csv",
        target="medbench_leaderboards.csv:csv",
        summary="long: one line a record, metric and class, not rounded; one line a pair of methods",
        reference="docs/leaderboards.md",
        format="csv",
    )
    yield LeaderboardSpec(
        name="csv_wide",
        target="medbench_leaderboards.csv:csv_wide",
        summary="wide: one file a table, one line a method",
        reference="docs/leaderboards.md",
        format="csv-wide",
    )
    yield LeaderboardSpec(
        name="json",
        target="medbench_leaderboards.json:json",
        summary="everything that the other formats show, in one file",
        reference="docs/leaderboards.md",
        format="json",
    )
    yield LeaderboardSpec(
        name="latex",
        target="medbench_leaderboards.latex:latex",
        summary="one file a table, with booktabs: best bold, second underlined, ties marked",
        reference="docs/leaderboards.md",
        format="latex",
    )
    yield LeaderboardSpec(
        name="plots",
        target="medbench_leaderboards.plots:plots",
        summary="curves over label fractions, heat maps, mean ranks, classes; SVG and PNG",
        reference="docs/plots.md",
        format="plots",
    )
    yield LeaderboardSpec(
        name="html",
        target="medbench_leaderboards.site:html",
        summary="a static site: a page a task, method and record; opens from disk",
        reference="docs/site.md",
        format="html",
    )
