"""What a check is: a function of what is checked, that says what it saw, or raises what is wrong."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from medbench.errors import MedbenchError

Status = Literal["passed", "failed", "not applicable"]

_S = TypeVar("_S")


class Failed(Exception):
    """Something is not as promised.

    Args:
        found: what is there.
        expected: what should be there instead.
        do: what to do next.
    """

    def __init__(self, found: str, expected: str, do: str) -> None:
        super().__init__(f"found {found}; expected {expected}. {do}")


class NotApplicable(Exception):
    """There is nothing to check here; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What one check said of one name.

    Attributes:
        kind: `method`, `task` or `dataset`.
        name: what was checked.
        check: by what.
        status: how it ended.
        what: what was seen; what was found, what was expected and what to do; or why there is nothing to check.
        traceback: where something else was raised than a check's own word, "" otherwise.
    """

    kind: str
    name: str
    check: str
    status: Status
    what: str
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.status:14}  {self.kind} {self.name}: {self.check}: {self.what}"

    def to_json(self) -> dict[str, Any]:
        """JSON types only."""
        return asdict(self)


def perform(check: Callable[[_S], str], subject: _S, kind: str, name: str) -> Outcome:
    """Run one check. Whatever the plugin raises is a check that failed, and stops no other."""
    import traceback

    def outcome(status: Status, what: str, trace: str = "") -> Outcome:
        return Outcome(kind, name, check.__name__, status, " ".join(what.split()), trace)

    try:
        return outcome("passed", check(subject))
    except Failed as failed:
        return outcome("failed", str(failed))
    except NotApplicable as reason:
        return outcome("not applicable", str(reason))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        kept = isinstance(error, MedbenchError)  # its message says where, and what to do
        place = "" if kept else f" ({where.filename}:{where.lineno}); expected no error. Mend what raises it"
        what = f"found {type(error).__name__}: {error}{place}"
        return outcome("failed", what, "".join(traceback.format_exception(error)))
