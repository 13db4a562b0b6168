"""Reports as MIMIC-CXR writes them: cut into sections, made into the text of a pair, cut into sentences.

Follows what MGCA's released code makes of a report (mgca/preprocess/mimic_cxr.py for the sections,
mgca/datasets/pretrain_dataset.py for the sentences).
"""

import re

MIN_TOKENS = 3
"""A report with fewer words in all is not used."""

_HEADER = re.compile(r"^[ \t]*([A-Z][A-Z ()/,&-]*?)[ \t]*:(?=\s|$)", re.MULTILINE)
"""A section starts with capitals at the beginning of a line, up to a colon."""

_NAMES = {
    "impressions": "impression",
    "impresson": "impression",
    "conclusion": "impression",
    "conclusions": "impression",
    "summary": "impression",
    "finding": "findings",
    "findings and impression": "findings",
    "findings/impression": "findings",
    "findings & impression": "findings",
    "impression and findings": "findings",
    "impression/findings": "findings",
}
"""Other headers in use for the two sections that become text. One that holds both is taken as findings."""

_SENTENCE_END = re.compile(r"[0-9]+\.|\.")
"""A full stop, or the number of an enumeration with its full stop. As in the released code, 2.5 cm is cut
too."""

_TOKEN = re.compile(r"\w+")


def sections(text: str) -> dict[str, str]:
    """Cut a report into its sections.

    Args:
        text: the whole report.

    Returns:
        Lower-case names and stripped texts; headers for the impression and the findings that differ in
        wording come under one name. Of a section that occurs more than once (an addendum, say) the last one
        that is not empty counts. What stands before the first header is not returned.
    """
    found: dict[str, str] = {}
    headers = list(_HEADER.finditer(text))
    ends = [header.start() for header in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=False):
        name = " ".join(header.group(1).lower().split())
        body = text[header.end() : end].strip()
        if body:
            found[_NAMES.get(name, name)] = body
    return found


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
