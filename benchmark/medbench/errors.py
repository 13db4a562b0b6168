"""What can go wrong, and the exit code the command line answers with.

A user's mistake is a `MedbenchError`: it is printed without a traceback, says what was found, what was expected
and what to do next. Anything else is a bug of ours and keeps its traceback.
"""

from collections.abc import Iterable
from typing import ClassVar


class MedbenchError(Exception):
    """Base of every error that a user can mend."""

    exit_code: ClassVar[int] = 2


class UsageError(MedbenchError):
    """A wrong flag, name or combination of them."""

    exit_code = 2


class DataError(MedbenchError):
    """A dataset is missing, broken or not what its name says."""

    exit_code = 3


class WeightsError(MedbenchError):
    """Weights are missing, unsafe to read, or do not cover the model."""

    exit_code = 4


class PluginError(MedbenchError):
    """A plugin, or a library that one needs, can not be loaded."""

    exit_code = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Of a name that is not known: the nearest one that is, as a sentence after a blank; "" if none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
