"""The leaderboards that medbench brings: records in, pages out."""

from collections.abc import Iterable

from medbench.hookspecs import hookimpl
from medbench.specs import LeaderboardSpec


@hookimpl
def medbench_leaderboards() -> Iterable[LeaderboardSpec]:
    """Tables in Markdown and CSV."""
    yield LeaderboardSpec(
        name="markdown",
        target="medbench_leaderboards.markdown:markdown",
        summary="one table a source, recipe and size of data: methods x tasks and label fractions",
        reference="leaderboards/medbench_leaderboards/markdown.py",
        format="markdown",
    )
    yield LeaderboardSpec(
        name="csv",
        target="medbench_leaderboards.csv:csv",
        summary="one line a cell, metric and seed, not rounded",
        reference="leaderboards/medbench_leaderboards/csv.py",
        format="csv",
    )
