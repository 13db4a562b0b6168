"""Reports: MIMIC's sections, the text of a pair, and sentences against a twin written from the released
code. Every real report gives text or a reason."""

import hashlib
import importlib.util
import re
import tarfile
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.reports import CLEANINGS, Cleaning, Reason, caption, sections, sentences
from medbench.phantom import PHANTOM_VERSION
from medbench.phantom import mimic_cxr as phantom
from medbench.phantom.grammar import write_report
from medbench.phantom.study import stream

FINAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: ___F with cough  // eval for infection

 COMPARISON:  None.

 FINDINGS:

 PA and lateral views.  There is no focal consolidation, effusion: none.
 No pneumothorax.

 IMPRESSION:

 1. No acute process.
 2. Heart size 2.5 cm.
"""


def test_sections_of_a_final_report() -> None:
    found = sections(FINAL)
    assert list(found) == ["examination", "indication", "comparison", "findings", "impression"]
    assert found["examination"] == "CHEST (PA AND LAT)"
    assert found["findings"].startswith("PA and lateral views.")
    assert found["findings"].endswith("No pneumothorax.")
    assert found["impression"] == "1. No acute process.\n 2. Heart size 2.5 cm."


def test_the_last_section_that_is_not_empty_counts() -> None:
    text = "\n IMPRESSION: old.\n\n ADDENDUM: changed.\n\n IMPRESSION: new.\n\n IMPRESSION:\n"
    assert sections(text) == {"impression": "new.", "addendum": "changed."}


@pytest.mark.parametrize(
    ("header", "name"),
    [
        # In the table of spellings.
        ("CONCLUSION", "impression"),
        ("IMPRESSON", "impression"),
        ("IMPRRESSION", "impression"),
        ("NDICATION", "impression"),
        ("FINDING", "findings"),
        ("FINIDNGS", "findings"),
        # By what they contain, in the order of the released code.
        ("IMPRESSIONS", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"),
        ("FINDINGS/IMPRESSION", "impression"),
        ("PROVISIONAL FINDINGS IMPRESSION (PFI)", "impression"),
        ("COMPARISON AND FINDINGS", "findings"),
        ("HISTORY OF CHEST PAIN", "history"),
        ("COMPARISON CHEST", "comparison"),
        # What describes the study.
        ("PORTABLE CHEST", "findings"),
        ("CHEST, TWO VIEWS", "findings"),
        ("CHEST, TWO  VIEWS", "findings"),
        ("PA AND LATERAL", "findings"),
        ("LATERAL AND AP", "findings"),
        ("AP VIEW", "findings"),
        ("FRONTAL SEMI-UPRIGHT", "findings"),
        ("LEFT RIBS", "findings"),
        # Under a name of their own.
        ("AP", "ap"),
        ("LATERAL AND OBLIQUE", "lateral and oblique"),
        ("SUMMARY", "summary"),
        ("CONCLUSIONS", "conclusions"),
        ("OPINION", "opinion"),
        ("WET READ", "wet read"),
        ("RECOMMENDATION(S)", "recommendation(s)"),
    ],
)
def test_names_of_sections(header: str, name: str) -> None:
    assert sections(f"FINAL REPORT\n {header}: Clear lungs.") == {name: "Clear lungs."}
    assert sections(f"FINAL REPORT\n  {header} :\n\n Clear lungs.") == {name: "Clear lungs."}


@pytest.mark.parametrize(
    "text",
    [
        *("", "no header at all", "\n Impression: mixed case", "\n seen at 10:30 AM: yes"),
        "\nIMPRESSION: not indented",
        "\n\tIMPRESSION: indented otherwise",
        " IMPRESSION: on the first line",
        "\n IMPRESSION:no space",
        "\n IMPRESSION",
        "\n IMPRESSION:",
        "\n FINDINGS & IMPRESSION: another character",
        "\n FINDINGS #2: another character",
        "Chest film. IMPRESSION: inside a line",
    ],
)
def test_text_without_headers(text: str) -> None:
    assert sections(text) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The newline behind a header without text is taken up by it, and missing to the next one.
        ("\n FINDINGS:\n IMPRESSION: Clear.\n", {"findings": "IMPRESSION: Clear."}),
        ("\n CHEST:\n INDICATION: Cough.\n\n", {"findings": "INDICATION: Cough."}),
        ("\n FINDINGS: \n IMPRESSION: Clear.\n", {"impression": "Clear."}),
        ("\n FINDINGS:\n\n IMPRESSION: Clear.\n", {"impression": "Clear."}),
        ("\n FINDINGS:\n \n IMPRESSION: Clear.\n", {"impression": "Clear."}),
        # A report's title may be its only header.
        ("FINAL REPORT\n PORTABLE CHEST:  Clear.\n No effusion.\n", {"findings": "Clear.\n No effusion."}),
        (
            "\n CHEST, PA:\n\n INDICATION: Cough.\n\n FINDINGS: Clear.",
            {"indication": "Cough.", "findings": "Clear."},
        ),
        # One that holds both replaces an impression above it.
        ("\n IMPRESSION: Old.\n FINDINGS AND IMPRESSION: New.\n", {"impression": "New."}),
        # Newlines of any system.
        (
            "\r\n FINDINGS:\r\n\r\n Clear.\r\n IMPRESSION: No\r\n change.",
            {"findings": "Clear.", "impression": "No\n change."},
        ),
        # Read back as an empty cell, and hides what stands above it.
        ("\n FINDINGS: Clear.\n IMPRESSION: Old.\n IMPRESSION: N/A\n", {"findings": "Clear."}),
        ("\n FINDINGS: None\n IMPRESSION: N/A.\n", {"findings": "None", "impression": "N/A."}),
    ],
)
def test_where_sections_begin_and_end(text: str, expected: dict[str, str]) -> None:
    assert sections(text) == expected


OTHER_SPELLINGS = {
    "conclusion": "impression",
    "ndication": "impression",
    "impresson": "impression",
    "imprression": "impression",
    "imoression": "impression",
    "impressoin": "impression",
    "imprssion": "impression",
    "impresion": "impression",
    "imperssion": "impression",
    "mpression": "impression",
    "impession": "impression",
    "findings/ impression": "impression",
    "finding": "findings",
    "findins": "findings",
    "findindgs": "findings",
    "findgings": "findings",
    "findngs": "findings",
    "findnings": "findings",
    "finidngs": "findings",
    "reference findings": "findings",
    "chest, two views": "findings",
    "clinical history": "history",
    "reference exam": "comparison",
    "pfi": "history",
}
DESCRIPTIONS = (
    *("chest", "portable", "two views", "one view", "ribs", "bone window", "frontal and", "pa and lat"),
    *(
        f"{a} and {b}"
        for a, b in (("pa", "lateral"), ("lateral", "pa"), ("ap", "lateral"), ("lateral", "ap"))
    ),
    *(f"{side} view" for side in ("frontal", "lateral", "pa", "ap")),
    *("frontal upright", "frontal semi-upright"),
)


def slow_pair(report: str) -> tuple[str, str]:
    """Impression and findings, letter by letter."""
    lines = [""]
    for character in report.replace("\r\n", "\n").replace("\r", "\n"):
        if character == "\n":
            lines.append("")
        else:
            lines[-1] += character
    kept: dict[str, list[str]] = {"impression": [], "findings": []}
    name, body = "preamble", ""
    taken = True  # whether the newline above a line belongs to something else; the first line has none
    for number, line in enumerate(lines, 1):
        header, colon, rest = line.partition(":")
        capitals = header[1:]
        if (
            not taken
            and header.startswith(" ")
            and capitals
            and all(c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ ()/,-" for c in capitals)
            and colon
            and (rest[:1].isspace() or (rest == "" and number < len(lines)))
        ):
            kept.setdefault(name, []).append(body)
            name, body = slow_name(capitals), rest
            taken = rest == ""
        else:
            body += "\n" + line
            taken = False
    kept.setdefault(name, []).append(body)
    last = [
        [text.strip() for text in kept[name] if text.strip()] or [""] for name in ("impression", "findings")
    ]
    impression, findings = (
        "" if texts[-1] in ("N/A", "n/a", "NA", "NULL", "null", "nan", "NaN") else texts[-1] for texts in last
    )
    return impression, findings


def slow_name(header: str) -> str:
    name = header.lower().strip()
    if name in OTHER_SPELLINGS:
        return OTHER_SPELLINGS[name]
    for main in ("impression", "findings", "history", "comparison", "addendum"):
        if main in name:
            return main
    for description in DESCRIPTIONS:
        if description in name:
            return "findings"
    return name


HEADERS = [name.upper() for name in (*OTHER_SPELLINGS, *DESCRIPTIONS)] + [
    *(
        "FINDINGS",
        "IMPRESSION",
        "FINDINGS AND IMPRESSION",
        "HISTORY",
        "COMPARISON",
        "SUMMARY",
        "NOTE",
        "Findings",
    ),
    *("ADDENDUM", "RECOMMENDATION(S)", "EXAMINATION", "PA", "FRONTAL", "LATERAL AND", ""),
]
LINES = st.tuples(
    st.sampled_from(["\n ", "\n ", "\n\n ", "\n \n ", "\n", "\r\n ", "\n  ", " ", "\t"]),
    st.sampled_from(HEADERS) | st.text(st.sampled_from("AZ ()/,-&a"), max_size=5),
    st.sampled_from([": ", ":  ", ":\n", ":\n\n ", ":", " :\x0b", " ", ":\xa0"]),
    st.sampled_from(["", "", "Clear lungs.", "No effusion:\n none.", "N/A", "None", "___"]),
).map("".join)


@given(st.lists(LINES, max_size=8).map("".join), st.sampled_from(["", "FINAL REPORT", " FINDINGS: Here."]))
def test_sections_equal_their_twin(report: str, title: str) -> None:
    found = sections(title + report)
    impression, findings = slow_pair(title + report)
    assert (found.get("impression", ""), found.get("findings", "")) == (impression, findings)
    read = CLEANINGS["mgca"].of_report(title + report)
    assert read.text in ("", caption(impression, findings))
    assert bool(read.text) == bool(sentences(f"{impression} {findings}"))


def test_caption_is_impression_first_on_one_line() -> None:
    assert caption("No acute\n process. ", "Lungs  clear.") == "No acute process. Lungs clear."
    assert caption("", "Lungs clear.") == "Lungs clear."
    assert caption("", " ") == ""


def test_sentences_of_a_report() -> None:
    found = sections(FINAL)
    assert sentences(caption(found["impression"], found["findings"])) == [
        "no acute process",
        "heart size",
        "5 cm",
        "pa and lateral views",
        "there is no focal consolidation effusion none",
        "no pneumothorax",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Normal.", []),
        ("Clear lungs.", []),  # two words
        ("Normal. Clear lungs.", []),  # a sentence of one word does not count
        ("Normal. Clear lungs here.", ["clear lungs here"]),
        ("Café au lait spot.", ["caf au lait spot"]),
        ("naïve — \ufffd\ufffd second look", ["nave second look"]),
        ("1. No change 2. No effusion", ["no change", "no effusion"]),
        ("left_lung is clear", ["left_lung is clear"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


def slow_sentences(report: str) -> list[str]:
    """Step by step: enumerators, then full stops, then words, then the characters that ASCII has."""
    pieces = []
    for part in re.compile("[0-9]+[.]").split(report.replace("\n", " ")):
        pieces += part.split(".")
    kept: list[str] = []
    words = 0
    for piece in pieces:
        tokens = [t for t in re.split(r"\W+", piece.replace("\ufffd\ufffd", " ").lower()) if t]
        if len(tokens) > 1:
            tokens = ["".join(c for c in token if ord(c) < 128) for token in tokens]
            tokens = [token for token in tokens if token]
            words += len(tokens)
            if tokens:
                kept.append(" ".join(tokens))
    return kept if words >= 3 else []


@given(st.text(st.sampled_from("ab Z09.,\n:-_é\ufffd½İ"), max_size=60) | st.text(max_size=60))
def test_sentences_equal_their_twin(report: str) -> None:
    assert sentences(report) == slow_sentences(report)


@given(st.text(max_size=300))
def test_sections_take_any_text(text: str) -> None:
    for name, body in sections(text).items():
        assert name == name.lower()
        assert body == body.strip() != ""


# The two cleanings

BOTH = list(CLEANINGS.values())


def test_the_cleaning_of_mgca_is_the_default() -> None:
    assert next(iter(CLEANINGS)) == "mgca"
    found = sections(FINAL)
    assert CLEANINGS["mgca"].of_report(FINAL).text == caption(found["impression"], found["findings"])
    assert CLEANINGS["mgca"].sentences is sentences


def test_the_default_text_stays_what_cached_weights_were_made_of() -> None:
    digest = hashlib.sha256()
    for number in range(40):
        who = phantom.patient(number)
        text = write_report(who, who.studies[0], stream("mimic_cxr", 0, number, 500)).text
        read = CLEANINGS["mgca"].of_report(text).text
        digest.update(f"{read}\n{sentences(read)}\n".encode())
    assert PHANTOM_VERSION != 2 or digest.hexdigest()[:16] == "83e1f117a5b23a6c"


@pytest.mark.parametrize(
    ("text", "mgca", "clean"),
    [
        ("", Reason.EMPTY, Reason.EMPTY),
        (" \n", Reason.EMPTY, Reason.EMPTY),
        ("\n HISTORY: Cough and fever here.", Reason.NO_SECTION, Reason.NO_SECTION),
        ("\n IMPRESSION: Normal.", Reason.TOO_SHORT, "Normal."),
        ("\n IMPRESSION: ___.", Reason.TOO_SHORT, Reason.TOO_SHORT),
        ("\n IMPRESSION: XXXX XXXX XXXX.", "XXXX XXXX XXXX.", Reason.TOO_SHORT),
        ("\n IMPRESSION: 2. 3.", Reason.TOO_SHORT, Reason.TOO_SHORT),
        (" IMPRESSION: Clear lungs today.", Reason.NO_SECTION, "Clear lungs today."),
        ("\n Impression: Clear lungs today.", Reason.NO_SECTION, "Clear lungs today."),
        ("\n HISTORY: Cough.\n\n Clear lungs today.", Reason.NO_SECTION, "Clear lungs today."),
        (
            "\n FINDINGS: Clear lungs.\n IMPRESSION: No change.",
            "No change. Clear lungs.",
            "No change. Clear lungs.",
        ),
    ],
)
def test_text_or_a_reason(text: str, mgca: str | Reason, clean: str | Reason) -> None:
    for cleaning, expected in ((CLEANINGS["mgca"], mgca), (CLEANINGS["clean"], clean)):
        found = cleaning.of_report(text)
        assert expected == (found.reason or found.text)
        assert bool(found.text) == (found.reason is None)


@pytest.mark.parametrize("cleaning", BOTH, ids=list(CLEANINGS))
@given(text=st.text(st.sampled_from("ab Z09.,\n:-_é½İX"), max_size=40))
def test_a_text_has_sentences_and_a_reason_has_none(cleaning: Cleaning, text: str) -> None:
    found = cleaning.of_text(text)
    assert bool(cleaning.sentences(text)) == bool(found.text) == (found.reason is None)


@pytest.mark.parametrize("cleaning", BOTH, ids=list(CLEANINGS))
def test_every_real_report_gives_text_or_a_reason(test_data: Path, cleaning: Cleaning) -> None:
    reports = pd.read_csv(test_data / "openi" / "reports.csv", dtype=str, keep_default_na=False)
    parts = reports[["comparison", "indication", "findings", "impression"]].to_dict("records")
    found = [cleaning.of_sections({str(k): v for k, v in row.items()}) for row in parts]
    assert len(found) == 2_480
    assert all(bool(text.text) == bool(cleaning.sentences(text.text)) for text in found)
    assert Counter(text.reason for text in found) == {None: 2_462, Reason.EMPTY: 18}


def test_every_report_of_open_i_gives_text_or_a_reason() -> None:
    found = importlib.util.find_spec("torchxrayvision")
    if found is None or not found.submodule_search_locations:
        pytest.skip("torchxrayvision is not installed; it ships all reports of Open-i")
    path = Path(found.submodule_search_locations[0]) / "data" / "NLMCXR_reports.tgz"
    reasons: Counter[tuple[str, Reason | None]] = Counter()
    with tarfile.open(path) as files:
        for member in files:
            stream = files.extractfile(member)
            if stream is None:
                continue
            root = ElementTree.fromstring(stream.read())
            parts = {p.get("Label", "").lower(): p.text or "" for p in root.iter("AbstractText")}
            for cleaning in BOTH:
                text = cleaning.of_sections(parts)
                assert bool(text.text) == (text.reason is None)
                reasons[cleaning.name, text.reason] += 1
    assert sum(reasons.values()) == 2 * 3_955
    for name in CLEANINGS:
        assert reasons[name, Reason.NO_SECTION] + reasons[name, Reason.EMPTY] == 28
