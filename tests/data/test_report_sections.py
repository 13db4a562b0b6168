"""Sections of free-text reports: headers of every kind, wet reads, addenda, and none at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.data.report_sections import LAST_PARAGRAPH, report_sections
from medbench.data.reports import sections
from medbench.phantom import mimic_cxr as phantom
from medbench.phantom.grammar import write_report
from medbench.phantom.study import stream

RULE = "_" * 78
WET = f""" WET READ: ___ ___ ___ 10:30 PM
  Mild edema.
 WET READ VERSION #1 ___ ___ 9:41 PM
  Edema.
 {RULE}
                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 IMPRESSION:

 Moderate edema at 10:30 AM.
"""
ADDENDUM = f"""                                 FINAL ADDENDUM
 ADDENDUM:  Called to Dr. ___.
 {RULE}
                                 FINAL REPORT
 FINDINGS:  Clear lungs.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" FINDINGS: Clear.\n\n IMPRESSION: Normal.\n", {"findings": "Clear.", "impression": "Normal."}),
        (" Findings: Clear.\n Impression: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        (" impression:\n Normal.", {"impression": "Normal."}),
        (" IMPRESSION:Normal.", {"impression": "Normal."}),
        (" IMPRESSION\n\n Normal.", {"impression": "Normal."}),
        (" HISTORY: Cough.\n \n Impression\n Normal.", {"history": "Cough.", "impression": "Normal."}),
        (" Impression - Normal.", {"impression": "Normal."}),
        ("AP CHEST. FINDINGS: Clear. IMPRESSION: Normal.", {"findings": "Clear.", "impression": "Normal."}),
        ("Chest film. Impression: Normal.", {"impression": "Normal."}),
        (" CONCLUSION: Normal.", {"impression": "Normal."}),
        (" FINDINGS/IMPRESSION: Normal.", {"findings": "Normal."}),
        (
            " COMPARISON:  None.\r\n\r\n FINDINGS:\xa0Clear.\r\n",
            {"comparison": "None.", "findings": "Clear."},
        ),
        (" FINDINGS: old.\n FINDINGS: new.\n FINDINGS:\n", {"findings": "new."}),
        (
            " FINDINGS: Clear.\n RECOMMENDATION(S): None.\n",
            {"findings": "Clear.", "recommendation": "None."},
        ),
        (
            " Findings: Clear. Recommendation(s): None. RECOMMENDATION: CT.",
            {"findings": "Clear.", "recommendation": "CT."},
        ),
        # These are no headers.
        (" FINDINGS: Seen at 10:30 AM: no change in the impression: normal.", None),
        (" FINDINGS: Findings are stable - no effusion.", None),
        (" FINDINGS: See the\n addendum to the\n final report of today. Clear.", None),
        (" FINDINGS: Compare with earlier\n findings\n - none. Seen on this\n study - twice.", None),
    ],
)
def test_headers(text: str, expected: dict[str, str] | None) -> None:
    if expected is None:
        expected = {"findings": text.removeprefix(" FINDINGS: ")}
    assert report_sections(text) == expected


def test_a_wet_read_is_no_report() -> None:
    assert report_sections(WET) == {
        "wet read": ": ___ ___ ___ 10:30 PM\n  Mild edema.\n\n___ ___ 9:41 PM\n  Edema.".removeprefix(": "),
        "examination": "CHEST (PORTABLE AP)",
        "impression": "Moderate edema at 10:30 AM.",
    }


def test_banners_may_be_in_lower_case() -> None:
    found = report_sections(
        f" Wet read: Edema.\n {RULE}\n Final Report\n Findings: Clear.\n\n Addendum: Called.\n"
    )
    assert found == {"wet read": "Edema.", "findings": "Clear.", "addendum": "Called."}


def test_an_addendum_is_told_from_the_report() -> None:
    found = report_sections(ADDENDUM)
    assert found["findings"] == "Clear lungs."
    assert found["addendum"] == "Called to Dr. ___."
    after = report_sections(" IMPRESSION: old.\n\n ADDENDUM: changed.\n\n IMPRESSION: new.\n")
    assert after == {"impression": "old.", "addendum": "changed.\n\n IMPRESSION: new."}


@pytest.mark.parametrize("banner", ["WET READ: ___", "ADDENDUM: Called."])
def test_what_only_a_wet_read_or_an_addendum_says_counts_where_there_is_nothing_else(banner: str) -> None:
    assert report_sections(f" {banner}\n\n IMPRESSION: Normal.\n")["impression"] == "Normal."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        (" FINAL REPORT\n", None),
        (" HISTORY: Cough.\n", None),
        ("Clear lungs.", "Clear lungs."),
        (
            " FINAL REPORT\n PORTABLE CHEST, ___\n \n Clear lungs.\n\n No change.\n",
            "Clear lungs.\n\nNo change.",
        ),
        (" HISTORY: Cough.\n\n COMPARISON: ___.\n \n Clear lungs.\n", "Clear lungs."),
        (" COMPARISON: None.\n\n Clear.\n\n Small.\n", "Clear.\n\nSmall."),
        (
            " HISTORY: Cough.\n\n PA AND LATERAL CHEST: Clear.\n\n Small.",
            "Clear.\n\n Small.",
        ),
        # Below a header that says which films were made stands what was seen ...
        (" AP UPRIGHT: Clear.\n\n COMPARISON: None.\n", "Clear."),
        (" PORTABLE CHEST: ___.\n\n HISTORY: Cough.\n\n Clear.\n", "Clear."),
        (" REASON FOR CHEST X-RAY: Cough.\n", None),
        (" DATE OF FILM: ___.\n", None),
        # ... and below any other what its name says, which is no report.
        (" RECOMMENDATION(S): CT of the chest.\n", None),
        (" RECOMMENDATIONS: CT.\n\n Follow-up in a year.\n", None),
        (" NOTIFICATION: Called.\n\n Dr. ___ was told.\n", None),
        (" NOTE: Called to Dr. ___.\n", None),
        (" HISTORY: Cough.\n\n DATE: ___.\n", None),
        (" DATE: ___.\n\n Clear lungs.\n", "Clear lungs."),
        (" HISTORY: Cough.\n\n Clear lungs.\n\n RECOMMENDATION(S): CT.\n\n NOTE: Called.\n", "Clear lungs."),
        (" HISTORY: Cough.\n\n Fever, too.\n\n COMPARISON: None.\n", None),
    ],
)
def test_the_last_paragraph_where_there_is_neither_header(text: str, expected: str | None) -> None:
    assert report_sections(text).get(LAST_PARAGRAPH) == expected


def test_phantom_reports_have_the_sections_that_capitals_show() -> None:
    for number in range(30):
        who = phantom.patient(number)
        text = write_report(who, who.studies[0], stream("mimic_cxr", 0, number, 500)).text
        strict, found = sections(text), report_sections(text)
        assert {name: found.get(name) for name in ("findings", "impression")} == {
            name: strict.get(name) for name in ("findings", "impression")
        }


@given(st.text(st.sampled_from("FINDGS: .\n_\rabX-"), max_size=80) | st.text(max_size=200))
def test_any_text(text: str) -> None:
    found = report_sections(text)
    assert all(name == name.lower() and body == body.strip() != "" for name, body in found.items())
    assert not (LAST_PARAGRAPH in found and {"findings", "impression"} & found.keys())
