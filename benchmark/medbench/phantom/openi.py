"""Writes phantom data in the folder layout of the Indiana University collection, as Open-i gives it out.

    ecgen-radiology/1.xml                  a report a file, with its headings and the names of its films
    NLMCXR_png/CXR1_IM-0001-1001.png       8-bit, RGB with three equal channels, as the published files

One frontal film a report and a report a patient; the real collection has laterals, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

from medbench.phantom.findings import Finding, Kind
from medbench.phantom.grammar import write_report
from medbench.phantom.render import render
from medbench.phantom.study import MIMIC_MIX, Study, stream
from medbench.phantom.writing import Row, Twin, write_file

LAYOUT = "openi"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 80}
"""Number of patients by name of the size."""

_MIX = replace(MIMIC_MIX, studies=(1.0,), second_view=0.0)
_WORDS = 500
"""Number in the random key that sets wording apart from findings, as for mimic_cxr."""

_HEADINGS: Mapping[Kind, str] = {
    "cardiomegaly": "Cardiomegaly",
    "effusion": "Pleural Effusion",
    "pneumonia": "Pneumonia",
    "atelectasis": "Pulmonary Atelectasis",
    "edema": "Pulmonary Edema",
    "pneumothorax": "Pneumothorax",
    "nodule": "Nodule",
    "fracture": "Fractures, Bone",
    "device": "Medical Device",
    "foreign": "Foreign Bodies",
}


def headings(study: Study) -> list[str]:
    """What the report is indexed under: a heading and its qualifiers a finding, or `normal`."""
    return sorted({_heading(finding) for finding in study.findings}) or ["normal"]


def _heading(finding: Finding) -> str:
    parts = [_HEADINGS[finding.kind]]
    parts += [{"both": "bilateral"}.get(finding.side, finding.side)] if finding.side else []
    return "/".join([*parts, ("mild", "moderate", "severe")[finding.severity - 1]])


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    study = who.studies[0]
    uid = number + 1
    film = f"CXR{uid}_IM-{uid % 10_000:04d}-1001"
    report = write_report(who, study, stream(LAYOUT, seed, number, _WORDS))
    name = Path("NLMCXR_png") / f"{film}.png"
    if not (root / name).exists():
        pixels = render(who.anatomy, study.films[0], study.findings, size=size, masks=()).pixels
        buffer = BytesIO()
        Image.fromarray(pixels).convert("RGB").save(buffer, "PNG")
        write_file(root, name, buffer.getvalue())
    sections = {
        "COMPARISON": "None.",
        "INDICATION": f"XXXX-year-old {'female' if who.anatomy.sex == 'F' else 'male'}.",
        "FINDINGS": report.findings,
        "IMPRESSION": report.impression,
    }
    text = _xml(uid, film, sections, headings(study))
    write_file(root, Path("ecgen-radiology") / f"{uid}.xml", text.encode())
    return [{"images": 1}]


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    """The layout has none."""


def _xml(uid: int, film: str, sections: Mapping[str, str], terms: Sequence[str]) -> str:
    """A report in the published form, without the elements that say nothing about it."""
    abstract = [
        f"<AbstractText Label={quoteattr(name)}>{escape(text.replace('___', 'XXXX'))}</AbstractText>"
        for name, text in sections.items()
    ]
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        "<eCitation>",
        f'   <uId id="CXR{uid}"/>',
        "   <docSource>CXR</docSource>",
        "   <title>synthetic phantom, not a patient</title>",
        "   <MedlineCitation>",
        "      <Article>",
        "         <Abstract>",
        *(f"            {line}" for line in abstract),
        "         </Abstract>",
        "      </Article>",
        "   </MedlineCitation>",
        "   <MeSH>",
        *(f"      <major>{escape(term)}</major>" for term in terms),
        "   </MeSH>",
        f'   <parentImage id="{film}">',
        "      <caption>Xray Chest PA</caption>",
        "   </parentImage>",
        "</eCitation>",
    ]
    return "\n".join(lines) + "\n"


_TWIN = Twin(LAYOUT, _MIX, _write_patient, _write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
