"""Other people's names and texts, as a terminal, or a spreadsheet, may see them.

Records, tables and checkpoints come from anywhere. An escape sequence in a name could clear the screen, change its
title or hide a line, and a character that turns the direction of writing could show a name as another one. A
spreadsheet runs a cell that begins like a formula.
"""


def printable(text: str) -> str:
    """On one line, with what a terminal would act on (escape sequences, line ends, marks of direction) spelt out."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def printable_lines(text: str) -> str:
    """Likewise each line of a text."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def no_formula(text: str) -> str:
    """A cell of a CSV file, with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
