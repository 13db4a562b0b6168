"""What is checked of which names. Light: what a check needs is imported when one is run."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, get_args

from medbench.conformance.check import Outcome, Status, perform
from medbench.errors import UsageError, did_you_mean
from medbench.plugins import GROUP, Catalogue

CheckedKind = Literal["methods", "tasks", "datasets"]

KINDS: Final[tuple[CheckedKind, ...]] = get_args(CheckedKind)
"""What has checks. Leaderboards have none: theirs is `medbench leaderboard --check`."""


def named(catalogue: Catalogue, name: str | None) -> list[tuple[CheckedKind, str]]:
    """What a name stands for, of every kind; without one, all that is not medbench's own.

    Raises:
        UsageError: nothing of these kinds is called so, or nothing was added.
    """
    held = [(kind, known) for kind in KINDS for known in catalogue.specs(kind)]
    if name is not None:
        found = [(kind, known) for kind, known in held if known == name]
        if not found:
            hint = did_you_mean(name, [known for _, known in held])
            raise UsageError(f"No method, task or dataset is called {name!r}.{hint} See `medbench list`.")
        return found
    found = [(kind, known) for kind, known in held if catalogue.owner(kind, known).name != GROUP]
    if not found:
        raise UsageError(
            "No plugin adds a method, a task or a dataset. Name one (`medbench plugins check NAME`), or load a plugin"
            " with --plugin FILE."
        )
    return found


def checks_of(kind: CheckedKind) -> Sequence[Callable[[Any], str]]:
    """The checks of a kind, in the order in which they are run."""
    if kind == "methods":
        from medbench.conformance import method_checks

        return method_checks.CHECKS
    if kind == "tasks":
        from medbench.conformance import task_checks

        return task_checks.CHECKS
    from medbench.conformance import dataset_checks

    return dataset_checks.CHECKS


def subject_of(
    catalogue: Catalogue, kind: CheckedKind, name: str, folder: Path, data: Mapping[str, Path]
) -> Any:
    """A name as its checks take it.

    Args:
        catalogue: that it is in.
        kind: of the name.
        name: of a method, a task or a dataset.
        folder: for what is made on the way.
        data: folders of real datasets, by name; the others are phantoms.
    """
    if kind == "methods":
        from medbench.conformance.method_subject import MethodSubject

        return MethodSubject(catalogue.lookup_method(name), catalogue, folder)
    if kind == "tasks":
        from medbench.conformance.task_subject import TaskSubject

        return TaskSubject(catalogue.lookup_task(name), catalogue, folder, data)
    from medbench.conformance.dataset_subject import DatasetSubject

    return DatasetSubject(catalogue.lookup_dataset(name), catalogue, folder, data)


def check(
    catalogue: Catalogue, names: Sequence[tuple[CheckedKind, str]], folder: Path, data: Mapping[str, Path]
) -> Iterator[Outcome]:
    """Run every check of every name; arguments as of `subject_of`."""
    for kind, name in names:
        subject = subject_of(catalogue, kind, name, folder / kind / name, data)
        for each in checks_of(kind):
            yield perform(each, subject, kind[:-1], name)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder that is gone afterwards: weights that another version of a plugin left must not be found again."""
    with tempfile.TemporaryDirectory(prefix="medbench-check-") as folder:
        yield Path(folder)


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line of them all."""
    counts = Counter(outcome.status for outcome in outcomes)
    return f"{len(outcomes)} checks: " + ", ".join(
        f"{counts[status]} {status}" for status in get_args(Status)
    )
