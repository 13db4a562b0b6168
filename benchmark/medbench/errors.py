"""What can go wrong, and the exit code the command line answers with.

A user's mistake is a `MedbenchError`: it is printed without a traceback, says what was found, what was expected
and what to do next. Anything else is a bug of ours and keeps its traceback.
"""

import errno
from collections.abc import Iterable
from typing import ClassVar, Final


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


class StorageError(MedbenchError):
    """A disk, a folder or the server that it is on refuses."""

    exit_code = 3


REFUSALS: Final = {
    errno.ENOSPC: "Make room there",
    errno.EDQUOT: "Make room in your quota",
    errno.EFBIG: "Raise the limit of file sizes (`ulimit -f`)",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`)",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "See that it can be read and written"),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
        "See that the disk, or the server that it is on, answers",
    ),
}
"""By error number of the system, what a user can do where it refuses."""


def refused(error: OSError) -> StorageError | None:
    """What to tell the user where the system refuses what only the user can mend; None where the bug is ours."""
    if error.errno not in REFUSALS:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return StorageError(
        f"{where}{error.strerror}. {REFUSALS[error.errno]}, then run the same command again: what was finished is "
        "kept, and it goes on from there."
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Of a name that is not known: the nearest one that is, as a sentence after a blank; "" if none is near."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
