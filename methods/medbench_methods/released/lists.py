"""How an error of a converter lists names."""

from collections.abc import Iterable, Sequence
from typing import Final

NAMED: Final = 5
"""Names of a kind that are written out."""


def listed(kinds: Iterable[tuple[Sequence[str], str]]) -> str:
    """(names, what is wrong with them) -> "7 tensors not known: a, b, c, d, e and more; ..."; nothing of no names."""
    return "; ".join(
        f"{len(names)} {what}: {', '.join(names[:NAMED])}{' and more' if len(names) > NAMED else ''}"
        for names, what in kinds
        if names
    )
