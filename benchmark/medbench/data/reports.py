"""From a report to the text of a pair and to its sentences, in two ways that have names.

`mgca`, which pretraining takes, follows what MGCA's released code makes of a report: mgca/preprocess/utils.py cuts it
into sections (`section_text`, `normalize_section_names`; after the section parser of the MIMIC-CXR code repository),
mgca/preprocess/mimic_cxr.py keeps impression and findings, mgca/datasets/pretrain_dataset.py makes sentences of these.
The 54 studies which that code names one by one, and of which it makes no pair, are not told from others here: lists of
ids of MIMIC-CXR may not be passed on. `clean` knows more headers and cuts no number.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from medbench.data.report_sections import LAST_PARAGRAPH, report_sections
from medbench.data.report_sentences import clean_sentences

MIN_TOKENS = 3
"""A report with fewer words in all is not used."""

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")
"""A header is an indented line's beginning in capitals, up to a colon and one more whitespace character.

That character belongs to the header: where it is the end of the line, a header on the very next line has no newline of
its own any more, and is text of the section above it. A file's first line is no header for the same reason.
"""

_SPELLINGS = {
    "impression": (
        *("conclusion", "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion"),
        *("imperssion", "mpression", "impession"),
        "ndication",  # an INDICATION, surely, but the released table has it here
    ),
    "findings": ("finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs"),
}
"""Whole headers that are another spelling of a section; those that contain its name need no entry."""
_SPELLED = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings}

_CONTAINED = ("impression", "findings", "history", "comparison", "addendum")
"""A header that contains one of these is that section, the first one in this order if it contains several."""

_STUDY = re.compile(
    "chest|portable|ribs|bone window|two views|one view|(?:pa|ap|lateral|frontal) view"
    "|frontal (?:and|upright|semi-upright)|pa and lat|ap and lateral|lateral and (?:pa|ap)"
)
"""Any other header that describes a whole study has the findings below it."""

_NOT_READ = frozenset(
    (
        *("N/A", "n/a", "NA", "<NA>", "#N/A", "#NA", "#N/A N/A", "NULL", "null"),
        *("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
    )
)
"""Sections that say no more than this are missing: the released code passes them through a table which pandas 1.2.0, of
its requirements, reads with these as empty cells."""

_SENTENCE_END = re.compile(r"[0-9]+\.|\.")
"""A full stop, or the number of an enumeration with its full stop. As in the released code, 2.5 cm is cut
too."""

_TOKEN = re.compile(r"\w+")


def sections(text: str) -> dict[str, str]:
    """Cut a report into its sections.

    Args:
        text: the whole report.

    Returns:
        Names in lower case, and stripped texts that are not empty. Headers that differ in wording come under one name
        as far as it decides what is read: `impression` (also of a header that names both), `findings` (also of one
        that describes the study, "CHEST, TWO VIEWS"), `history`, `comparison`, `addendum`; any other keeps its own.
        Of a section that occurs more than once (an addendum, say) the last one that is not empty counts. What stands
        before the first header is not returned.
    """
    if "\r" in text:  # a file that is opened as text has none
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    found: dict[str, str] = {}
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=False):
        if body := text[header.end() : end].strip():
            found[_section_name(header[1])] = body
    return {name: body for name, body in found.items() if body not in _NOT_READ}


@lru_cache(maxsize=4_096)
def _section_name(header: str) -> str:
    """The name of the section below a header; there are few different ones in a corpus."""
    name = header.lower().strip()
    if name in _SPELLED:
        return _SPELLED[name]
    contained = next((part for part in _CONTAINED if part in name), None)
    return contained or ("findings" if _STUDY.search(name) else name)


def caption(impression: str, findings: str) -> str:
    """The text of an image-report pair: impression, then findings, as one line; "" if both are blank."""
    return " ".join(f"{impression} {findings}".split())


def sentences(report: str) -> list[str]:
    """Cut a report into cleaned sentences.

    Args:
        report: what `caption` returns, or any text.

    Returns:
        Lower-case sentences without punctuation, their words (runs of word characters, ASCII only) joined by
        single spaces; pieces of a single word are dropped. [] if fewer than three words are left in the whole
        report, which is then not used. Joined by spaces they are the text that the tokenizer gets.
    """
    kept = []
    for piece in _SENTENCE_END.split(report):
        tokens = _TOKEN.findall(piece.lower())
        if len(tokens) <= 1:
            continue
        # As released: counted with, kept without the characters that ASCII does not have.
        ascii_tokens = [t for t in (t.encode("ascii", "ignore").decode() for t in tokens) if t]
        if ascii_tokens:
            kept.append(ascii_tokens)
    if sum(map(len, kept)) < MIN_TOKENS:
        return []
    return [" ".join(tokens) for tokens in kept]


class Reason(StrEnum):
    """Why a report gives no text."""

    MISSING = "no report"
    EMPTY = "empty report"
    NO_SECTION = "report without findings and impression"
    TOO_SHORT = "report with fewer words than are needed"


@dataclass(frozen=True)
class Text:
    """What is read of a report.

    Attributes:
        text: on one line; "" if there is a reason for that.
        reason: why there is no text, else None.
    """

    text: str
    reason: Reason | None


@dataclass(frozen=True)
class Cleaning:
    """A way to read reports.

    Attributes:
        name: what it is asked for by.
        sections: cuts a whole report into sections by name.
        read: names of the sections that are joined into the text, in this order; of each tuple those that are there,
            and of the tuples the first one with any.
        sentences: cuts the text into cleaned sentences; [] if there are too few words to use.
    """

    name: str
    sections: Callable[[str], dict[str, str]]
    read: tuple[tuple[str, ...], ...]
    sentences: Callable[[str], list[str]]

    def of_report(self, report: str) -> Text:
        """The text of a whole report with its headers."""
        if not report.strip():
            return Text("", Reason.EMPTY)
        text = self.of_sections(self.sections(report))
        return Text("", Reason.NO_SECTION) if text.reason is Reason.EMPTY else text

    def of_sections(self, found: Mapping[str, str]) -> Text:
        """The text of a report that is cut into sections already, by lower-case names."""
        for names in self.read:
            parts = [found[name] for name in names if found.get(name, "").strip()]
            if parts:
                return self.of_text(" ".join(parts))
        return Text("", Reason.NO_SECTION if any(body.strip() for body in found.values()) else Reason.EMPTY)

    def of_text(self, text: str) -> Text:
        """The text of a report that has no headers."""
        text = " ".join(text.split())
        if not text:
            return Text("", Reason.EMPTY)
        # Three plain words without a full stop between them, the first no mark of a removed one, are enough in any
        # cleaning; sentences take 20 times longer.
        if _THREE_WORDS.search(text) or self.sentences(text):
            return Text(text, None)
        return Text("", Reason.TOO_SHORT)


_THREE_WORDS = re.compile(r"(?<!\w)(?!XXX)[A-Za-z]+(?:[ ,]+[A-Za-z]+){2}(?!\w)", re.ASCII)

CLEANINGS: Mapping[str, Cleaning] = {
    cleaning.name: cleaning
    for cleaning in (
        Cleaning("mgca", sections, (("impression", "findings"),), sentences),
        Cleaning("clean", report_sections, (("impression", "findings"), (LAST_PARAGRAPH,)), clean_sentences),
    )
}
"""Ways to read reports, by name."""

DEFAULT_CLEANING = "mgca"
"""Taken where nobody names one, as published pretraining did."""
