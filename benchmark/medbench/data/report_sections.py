"""The sections of a free-text radiology report, however its headers are written.

`medbench.data.reports.sections` knows headers in capitals on an indented line, as the released code of MGCA does. Here
they may be in any case, stand in the middle of a line or alone on one without a colon; wet reads and addenda are told
from the final report; and a report without headers for findings and impression has a last paragraph.
"""

import re

LAST_PARAGRAPH = "last paragraph"
"""Name of what is read where a report has neither findings nor an impression under a header."""

_NAMES = {
    "impression": ("impressions", "impresson", "conclusion", "conclusions", "summary", "opinion"),
    "findings": (
        *("finding", "findings and impression", "findings/impression", "findings & impression"),
        *("impression and findings", "impression/findings", "impression & findings"),
    ),
    "comparison": (
        "comparisons",
        "comparison study",
        "comparison studies",
        "comparison exam",
        "comparison film",
    ),
    "indication": (
        *("indications", "clinical indication", "indication/history", "clinical information"),
        *("reason for exam", "reason for examination", "reason for study", "reason for this examination"),
    ),
    "history": ("clinical history", "patient history", "clinical data"),
    "technique": ("techniques", "procedure", "procedure comments", "views"),
    "examination": ("exam", "study", "type of examination", "type of exam"),
    "recommendation": ("recommendations", "recommendation(s)"),
    "notification": ("notifications", "communication"),
    "addendum": ("addenda", "final addendum"),
    "wet read": ("provisional findings impression", "preliminary report", "preliminary read"),
}
_CLOSING = ("recommendation", "notification")
"""Sections that stand below the report proper: no paragraph of theirs is a report."""
_CANONICAL = {other: name for name, others in _NAMES.items() for other in (name, *others)}

_KNOWN = "|".join(
    re.escape(name).replace(r"\ ", "[ \t]+") for name in sorted(_CANONICAL, key=lambda n: (-len(n), n))
)
# The lookaheads say nothing new; they spare most places the list of names, and the groups most places the lookaheads.
_HEADER = re.compile(
    r"^[ \t]*(?:"
    # A known header at the beginning of a line: with a colon in any case, with a dash if it has a capital ...
    rf"(?=[A-Za-z/&() \t]+:)(?P<line>(?i:{_KNOWN}))[ \t]*:"
    rf"|(?=[A-Z][A-Za-z/& \t]+[-\u2013\u2014])(?P<dash>(?i:{_KNOWN}))[ \t]*[-\u2013\u2014](?=\s)"
    # ... or alone on its line: in capitals, or with one below a blank line (else it is the end of a wrapped sentence).
    rf"|(?=[A-Z/& \t]+$)(?P<alone>{_KNOWN.upper()})[ \t]*$"
    # Any other header in capitals at the beginning of a line; a colon of 10:30 or 1:2 is none.
    r"|(?P<other>[A-Z][A-Z ()/,&#-]*?)[ \t]*:(?=\s|$))"
    rf"|(?:\A|(?<=\n\n))[ \t]*(?=[A-Z][A-Za-z/& \t]+$)(?P<title>(?i:{_KNOWN}))[ \t]*$"
    # A known header inside a line: in capitals, or with a capital where a sentence has ended.
    r"|(?<=[\s.;:)_])(?=[A-Z][A-Za-z/&() \t]+:)"
    rf"(?:(?P<inside>{_KNOWN.upper()})|(?<=[.;)_][ \t])(?P<after>(?i:{_KNOWN})))[ \t]*:",
    re.MULTILINE,
)

_BANNER = re.compile(
    # In capitals, or with a colon: a wrapped line may begin with "addendum", too.
    r"^[ \t]*(?:(?P<final>FINAL[ \t]+REPORT\b[ \t]*:?|(?i:FINAL[ \t]+REPORT)[ \t]*(?::|$))"
    r"|(?P<addendum>(?:FINAL[ \t]+)?ADDENDUM(?:[ \t]+#?\d+)?\b[ \t]*:?|(?i:(?:FINAL[ \t]+)?ADDENDUM)[ \t]*:)"
    r"|(?P<wet>WET[ \t]+READ(?:[ \t]+VERSION)?(?:[ \t]*#?\d+)?\b[ \t]*:?|(?i:WET[ \t]+READ)[ \t]*:"
    r"|PRELIMINARY[ \t]+(?:REPORT|READ)\b[ \t]*:?)"
    r"|(?P<rule>_{10,})[ \t]*$)",
    re.MULTILINE,
)
"""Lines that say what the text below them is; a line of underscores ends a wet read."""

_STUDY = re.compile(
    r"(?!.*\b(?:reason|history|indication|clinical|compar|prior|previous|technique|procedure|date|note))"
    r".*\b(?:chest|thorax|cxr|ribs?|pa|ap|lateral|frontal|oblique|decubitus|portable|upright|supine"
    r"|views?|films?|radiographs?|x-rays?|bone windows?)\b"
)
"""A header, in lower case, that says which films were made ("pa and lateral chest")."""

_BLANK = re.compile(r"(?<=\n)[ \t]+\n")
"""Spaces on an empty line."""
_PARAGRAPH = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")


def report_sections(text: str) -> dict[str, str]:
    """Cut a report into its sections.

    Args:
        text: the whole report.

    Returns:
        Lower-case names and stripped texts that are not empty. Headers that differ in wording come under one name;
        one that holds both findings and impression is `findings`. Of a section that occurs more than once the last
        one counts. `wet read` and `addendum` are all that stands below these words; the sections inside them count
        only where the final report has nothing to read. If neither `findings` nor `impression` is there,
        `last paragraph` is what follows the first paragraph of the last section (recommendations, notifications and
        headers of no known kind with a single paragraph are passed over), else what stands below a header that says
        which films were made; or, in a report without any header, the whole.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\xa0", " ")
    text = _BLANK.sub("\n", text)
    final, apart = _parts(text)
    found = _cut(final)
    for body in apart.values():
        if not found.keys() & {"findings", "impression", LAST_PARAGRAPH}:
            found = {**_cut(body), **found}
    return found | apart


def _cut(text: str) -> dict[str, str]:
    """Sections of one report, the last paragraph among them."""
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    named: list[tuple[str, str]] = []
    for header, end in zip(headers, ends, strict=False):
        name = " ".join(next(group for group in header.groups() if group).lower().split())
        if body := text[header.end() : end].strip():
            named.append((_CANONICAL.get(name, name), body))
    found = dict(named)
    if not found.keys() & {"findings", "impression"}:
        body = _last_paragraph(named) if headers else _without_titles(text.strip())
        if body:
            found[LAST_PARAGRAPH] = body
    return found


def _last_paragraph(named: list[tuple[str, str]]) -> str:
    """What was seen, in a report whose headers do not say it; "" if that is nowhere."""
    below = True  # whether what stands below this section may be the report
    for name, body in reversed(named):
        if name not in _NAMES and _STUDY.match(name):
            return body
        # A header's own text ends with its paragraph, and is no report.
        if below and name not in _CLOSING:
            if rest := _after_first_paragraph(body):
                return rest
            below = name not in _NAMES
    return ""


def _parts(text: str) -> tuple[str, dict[str, str]]:
    """The report proper, and what addenda and wet reads say."""
    banners = list(_BANNER.finditer(text))
    # What stands above the first banner is a report, unless one is announced further down.
    kind = "" if any(banner["final"] for banner in banners) else "final"
    starts = [0] + [banner.end() for banner in banners]
    ends = [banner.start() for banner in banners] + [len(text)]
    bodies: dict[str, list[str]] = {"": [], "final": [], "addendum": [], "wet": []}
    for banner, start, end in zip([None, *banners], starts, ends, strict=True):
        if banner is not None and banner["rule"] is None:
            kind = next(name for name in ("final", "addendum", "wet") if banner[name] is not None)
        elif banner is not None and kind == "wet":
            kind = "final"
        bodies[kind].append(text[start:end])
    apart = {"addendum": bodies["addendum"], "wet read": bodies["wet"]}
    joined = {name: "\n\n".join(part.strip() for part in parts).strip() for name, parts in apart.items()}
    return "\n\n".join(bodies["final"]), {name: body for name, body in joined.items() if body}


def _after_first_paragraph(section: str) -> str:
    """What follows the first paragraph: a header's own text ends there, and what comes is the report."""
    return "\n\n".join(_PARAGRAPH.split(section)[1:]).strip()


def _without_titles(text: str) -> str:
    """The text without leading paragraphs in capitals alone ("PORTABLE CHEST, ___"), if others follow."""
    paragraphs = _PARAGRAPH.split(text)
    while len(paragraphs) > 1 and not re.search("[a-z]", paragraphs[0]):
        del paragraphs[0]
    return "\n\n".join(paragraphs).strip()
