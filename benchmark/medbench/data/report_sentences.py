"""Sentences of a report that keep their numbers: what is cut at a full stop only where a sentence ends.

"Dr. ___", "2.5 cm", "10:30 a.m.", "Rt. lung", "C. difficile" and the numbers of a list do not end one; "compared to
___." and "x-XXXX." do.
"""

import re

_TITLE = "dr|drs|mr|mrs|ms|prof|st|pt"
"""Abbreviations that a name follows: never the end of a sentence."""
_GOES_ON = re.compile(rf"{_TITLE}|vs|e\.g|i\.e|approx|cf|ca|incl|resp|esp|fig")
"""Abbreviations that something follows: never the end of a sentence."""
_EITHER = re.compile(r"a\.m|p\.m|am|pm|etc|m\.d|mm|cm|ml|min|hr|hrs")
"""Abbreviations that may end a sentence: they do if a word with a capital follows, or nothing."""

_SIDE = re.compile(r"rt|lt|r|l")
"""Sides: like these, and never the end of a sentence where one begins with it ("Rt. CP angle")."""

_END = re.compile(
    r"[.!?]+(?=\s|$)"  # followed by a space, or by nothing
    r"|(?<=[a-z\d)_]{2})\.(?=[A-Z][a-z])"  # or, with the space forgotten, by a word with a capital
)
_INITIAL = re.compile(rf"\b(?i:{_TITLE})[.]? (?:[A-Z][.] ?)*[A-Z]$")
"""The initial of a name, after a title."""
_BEFORE = re.compile(r"([A-Za-z.]+)$")
_NUMBER = re.compile(r"(?:^|(?<=\s)|(?<=[.;:]))(\d{1,2})[.)](?=\s*[^\W\d_]|\s+\S)")
"""What may be the number of a list: "1. ", "2) ", "3.No"."""
_MARK = re.compile(r"_{2,}|\bX{3,}\b")
"""What stands for words that were removed for privacy, in MIMIC-CXR and in Open-i."""
_WORD = re.compile(r"[^\W_]+(?:[.,:/'\u2019-](?=[^\W_])[^\W_]+)*")


def clean_sentences(report: str) -> list[str]:
    """Cut a report into cleaned sentences.

    Args:
        report: any text.

    Returns:
        Lower-case sentences, their words joined by single spaces. A word is a run of letters and digits, with the
        points, commas, colons, slashes, dashes and apostrophes inside it: 2.5, 10:30, follow-up. Marks of removed
        words, punctuation, and sentences without a letter are left out. [] if no word has a letter.
    """
    kept = []
    for piece in split_sentences(report):
        words = _WORD.findall(_MARK.sub(" ", piece).lower())
        if any(character.isalpha() for word in words for character in word):
            kept.append(" ".join(words))
    return kept


def split_sentences(report: str) -> list[str]:
    """Cut a text where sentences end; pieces as they stand, on one line each, numbers of lists left out."""
    text = " ".join(report.split())
    cuts = [0]
    for start, end in sorted(_list_numbers(text) + _ends(text)):
        if start >= cuts[-1]:
            cuts += [start, end]
    cuts.append(len(text))
    pieces = (text[a:b].strip() for a, b in zip(cuts[::2], cuts[1::2], strict=True))
    return [piece for piece in pieces if piece]


def _list_numbers(text: str) -> list[tuple[int, int]]:
    """Where the numbers of lists are: a list begins with 1, where a sentence may begin, and counts on from there."""
    spans: list[tuple[int, int]] = []
    expected = 1
    for match in _NUMBER.finditer(text):
        number, before = int(match[1]), text[: match.start()].rstrip()
        fresh = not before or before[-1] in ".:;!?"
        # "grade 1. No" begins no list, and "grade 2. No" does not go on with one that never began.
        if (number == 1 and fresh) or (number == expected > 1):
            spans.append(match.span())
            expected = number + 1
    return spans


def _ends(text: str) -> list[tuple[int, int]]:
    """Where sentences end: the spans of their full stops."""
    return [match.span() for match in _END.finditer(text) if not _abbreviation(text, match)]


def _abbreviation(text: str, stop: re.Match[str]) -> bool:
    """Whether a full stop belongs to the word before it and ends nothing."""
    if stop[0] != ".":
        return False
    before = _BEFORE.search(text, max(0, stop.start() - 12), stop.start())
    word = before[1].lower() if before else ""
    if _GOES_ON.fullmatch(word) or _INITIAL.search(text[max(0, stop.start() - 12) : stop.start()]):
        return True
    rest = text[stop.end() :].lstrip()
    if before and before[1] == word.upper() and len(word) == 1 and rest[:1].islower():
        return True  # a side, or the genus of a germ: "R. upper lobe", "C. difficile"
    if _SIDE.fullmatch(word) and _begins(text, stop.start() - len(word)):
        return bool(rest)
    if _EITHER.fullmatch(word) or _SIDE.fullmatch(word):
        return bool(rest) and (not rest[0].isupper() or _MARK.match(rest) is not None)
    # "no. 5" is a number, "no. The" an answer.
    return word == "no" and rest[:1].isdigit()


def _begins(text: str, at: int) -> bool:
    """Whether a sentence begins here, as far as the character before it tells."""
    before = text[:at].rstrip()
    return not before or before[-1] in ".:;!?)"
