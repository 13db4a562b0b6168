"""Why a file is not read as a radiograph."""

MOST_PIXELS = 100_000_000
"""Pixels of the largest file that is read. The largest chest film known here has 18 million (4,298 x 4,300)."""

TOO_MANY = (
    f"more than the {MOST_PIXELS:,} that any film has; refused before it fills the memory. Its header is damaged: "
    "copy it again"
)


class Unreadable(Exception):
    """Why a file is refused; the caller adds its name."""


def refuse_bomb(height: int, width: int) -> None:
    """Raise `Unreadable` for a picture of more than `MOST_PIXELS`."""
    if height * width > MOST_PIXELS:
        raise Unreadable(f"declares {width:,} x {height:,} pixels, {TOO_MANY}")


def one_line(error: BaseException) -> str:
    """An error's kind and what it says, 200 characters of it."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
