"""Reports: the text says what the film shows."""

import re
from functools import cache

import pytest

from medbench.phantom.findings import Finding, Kind
from medbench.phantom.grammar import CHEXPERT, Report, trend, write_report
from medbench.phantom.study import MIMIC_MIX, Patient, Study, sample_patient, stream

PATIENTS = 1500


def report_of(patient: Patient, study: Study) -> Report:
    return write_report(patient, study, stream("mimic_cxr", 0, patient.number, 500 + study.number))


@pytest.fixture(scope="module")
def reports() -> list[tuple[Patient, Study, Report]]:
    patients = (sample_patient("mimic_cxr", MIMIC_MIX, n) for n in range(PATIENTS))
    return [(p, s, report_of(p, s)) for p in patients for s in p.studies]


# An independent reading of the text: a sentence is positive for a kind if it has one of its words and none of
# the words of denial. It knows nothing of the claims that the grammar keeps.
WORDS: dict[Kind, str] = {
    "cardiomegaly": r"cardiomegaly|enlarge",
    "effusion": r"effusion",
    "atelectasis": r"atelecta",
    "edema": r"edema",
    "pneumothorax": r"pneumothorax",
    "nodule": r"nodule|\bmass\b",
    "fracture": r"fracture",
    "device": r"tube|catheter|\bline\b terminates|pacemaker|pacer",
    "foreign": r"buttons|necklace|foreign body",
    "pneumonia": r"pneumonia|infection|infiltrate|consolidation|opacification|opacity in the",
}
SPLIT = re.compile(r"(?<=\.)\s+")
DENIAL = re.compile(
    r"\bno\b|\bnot enlarged|without|resolved|resolution|no longer|are clear|intact|unremarkable|normal", re.I
)


@cache
def statements(text: str) -> list[str]:
    """The sentences that deny nothing."""
    # these phrases hold a word of denial, yet deny nothing
    text = re.sub(r"not seen previously|not significantly changed|not excluded|partially resolved", "", text)
    text = re.sub(r"pacer with intact leads", "pacer", text)
    return [s for s in SPLIT.split(text) if not DENIAL.search(s)]


def positives(report: Report, kind: Kind) -> list[str]:
    said = statements(f"{report.findings} {report.impression}")
    return [s for s in said if re.search(WORDS[kind], s, re.I)]


def of(study: Study, kind: Kind) -> list[Finding]:
    return [f for f in study.findings if f.kind == kind]


@pytest.mark.parametrize("kind", list(WORDS))
def test_text_and_truth_agree_on_what_is_there(reports, kind):
    for _, study, report in reports:
        said = positives(report, kind)
        assert bool(said) == study.has(kind), (kind, study.findings, report.text)


@pytest.mark.parametrize(
    "kind", ["effusion", "pneumothorax", "pneumonia", "nodule", "atelectasis", "fracture"]
)
def test_text_and_truth_agree_on_the_side(reports, kind):
    for _, study, report in reports:
        text = " ".join(positives(report, kind)).lower()
        sides = {f.side for f in of(study, kind)}
        said = set(re.findall(r"\b(right|left)\b", text))
        if re.search(r"bilateral|both sides", text):
            said |= {"right", "left"}
        if "effusion" in text and kind != "effusion":
            continue  # two kinds in one sentence
        assert said == sides, (kind, study.findings, report.text)


def test_text_and_truth_agree_on_the_zone_of_pneumonia(reports):
    words = {
        "upper": r"upper (lobe|lung|zone)",
        "mid": r"mid ?lung|mid zone",
        "lower": r"lower (lobe|lung)|\bbase\b",
    }
    for _, study, report in reports:
        text = " ".join(positives(report, "pneumonia")).lower()
        said = {zone for zone, pattern in words.items() if re.search(pattern, text)}
        assert said == {f.zone for f in of(study, "pneumonia")}, report.text


def test_claims_agree_with_the_truth(reports):
    for _, study, report in reports:
        for claim in report.claims:
            found = [f for f in of(study, claim.kind) if not claim.side or f.side == claim.side]
            assert bool(found) == (claim.value != 0.0), (claim, report.text)


def test_comparison_is_made_only_with_a_prior_and_says_what_changed(reports):
    change = re.compile(
        r"\bprior\b|previous|unchanged|interval|increased|decreased|larger|smaller|new ", re.I
    )
    for _, study, report in reports:
        body = f"{report.findings} {report.impression}"
        if study.prior is None:
            assert not change.search(body), report.text
        for f in of(study, "effusion"):
            text = " ".join(positives(report, "effusion")).lower()
            how = trend(f, study)
            if len(of(study, "effusion")) == 1 and how == "larger":
                assert not re.search(r"decreased|improve|smaller|resolved|unchanged|stable", text)
            if len(of(study, "effusion")) == 1 and how == "smaller":
                assert not re.search(r"increased|worse|larger|progressed|unchanged|stable|\bnew\b", text)


def test_labels_follow_the_text(reports):
    for _, study, report in reports:
        labels = report.labels
        assert set(labels) <= set(CHEXPERT)
        assert set(labels.values()) <= {1.0, 0.0, -1.0}
        assert (labels.get("No Finding") == 1.0) == study.normal
        if study.has("effusion"):
            assert labels["Pleural Effusion"] in (1.0, -1.0)
        if study.has("pneumonia"):
            assert labels["Pneumonia"] in (1.0, -1.0)
            assert labels["Lung Opacity"] == 1.0
        else:
            assert labels.get("Pneumonia") in (0.0, None)
    values = [r.labels.get("Pneumonia") for _, _, r in reports]
    assert {1.0, 0.0, -1.0, None} == set(values)


def test_reports_have_the_sections_of_the_real_ones(reports):
    both = 0
    for patient, study, report in reports:
        assert "EXAMINATION:" in report.text
        assert "INDICATION:" in report.text
        assert "COMPARISON:" in report.text
        assert report.findings or report.impression
        assert ("FINDINGS:" in report.text) == bool(report.findings)
        assert ("IMPRESSION:" in report.text) == bool(report.impression)
        both += bool(report.findings and report.impression)
        if patient.anatomy.sex == "F":
            assert not re.search(r"\b(man|male)\b", report.text)
        assert ("None" in report.text or "No prior" in report.text) == (study.prior is None)
    assert both > 0.85 * len(reports)


def test_thousands_of_distinct_texts(reports):
    texts = [f"{r.findings} {r.impression}" for _, _, r in reports[:2500]]
    assert len(texts) == 2500
    assert len(set(texts)) > 2000
    normal = [f"{r.findings} {r.impression}" for _, s, r in reports[:2500] if s.normal]
    assert len(set(normal)) > 0.9 * len(normal)


def test_a_report_is_a_function_of_its_arguments():
    patient = sample_patient("mimic_cxr", MIMIC_MIX, 4)
    assert report_of(patient, patient.studies[0]) == report_of(patient, patient.studies[0])


def test_no_word_is_repeated_back_to_back(reports: list[tuple[Patient, Study, Report]]) -> None:
    doubled = re.compile(r"\b([a-z][\w-]*)\s+\1\b", re.IGNORECASE)
    assert [found.group() for *_, report in reports[:500] if (found := doubled.search(report.text))] == []


def test_lines_of_a_report_are_short(reports: list[tuple[Patient, Study, Report]]) -> None:
    lines = [line for *_, report in reports[:500] for line in report.text.splitlines()]
    assert max(map(len, lines)) <= 78
