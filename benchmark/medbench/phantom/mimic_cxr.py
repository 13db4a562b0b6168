"""Writes phantom data in the folder layout of MIMIC-CXR-JPG 2.0.0, with MIMIC-CXR's report tree beside it.

    files/p10/p10000032/s50414267/<dicom_id>.jpg
    mimic-cxr-reports/files/p10/p10000032/s50414267.txt
    mimic-cxr-2.0.0-metadata.csv.gz   mimic-cxr-2.0.0-split.csv.gz   mimic-cxr-2.0.0-chexpert.csv.gz

Frontal films only (PA and AP); the real set holds laterals too.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

from PIL import Image

from medbench.phantom.grammar import CHEXPERT, write_report
from medbench.phantom.render import render
from medbench.phantom.study import MIMIC_MIX, Mix, Study, sample_patient, stream
from medbench.phantom.writing import Row, Twin, csv_text, every_film, write_file, write_gzip

LAYOUT = "mimic_cxr"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 80}
"""Number of patients by name of the size; the default gives about 2,500 films in `train`."""

Labels = Callable[[Study, Mapping[str, float]], dict[str, float]]

_QUALITY = 95
"""JPEG quality, as MIMIC-CXR-JPG states for its files."""
_WORDS = 500
"""Number in the random key that sets wording apart from findings (studies have 1, 2, 3, ...)."""
_METADATA = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)


def subject_id(number: int) -> int:
    """The eight-digit subject_id of a patient, spread over p10 to p19 as the real ones are."""
    return 10_000_032 + number * 7_919 % 9_999_901


def study_id(number: int, study: int) -> int:
    """The eight-digit study_id of a patient's study."""
    return 50_000_014 + (8 * number + study) * 7_919 % 9_999_901


def split_of(number: int, seed: int = 0) -> str:
    """The split of a patient, by lot: 4 % validate, 4 % test, the rest train."""
    lot = float(stream(LAYOUT, seed, number, _WORDS - 1).random())
    return "validate" if lot < 0.04 else "test" if lot < 0.08 else "train"


def _as_reported(study: Study, found: Mapping[str, float]) -> dict[str, float]:
    return dict(found)


def write_patient(
    layout: str,
    mix: Mix,
    split: Callable[[int, int], str],
    labels: Labels,
    root: Path,
    number: int,
    seed: int,
    size: int,
) -> list[Row]:
    """Write a patient's films and reports, of this twin or of another one in the same files.

    Args:
        layout: name of the twin.
        mix: how often things are found in its patients.
        split: (number, seed) -> official part of a patient; module-level, for it is pickled.
        labels: (study, labels of its report) -> labels in the table; likewise.
        root: folder of the layout.
        number: of the patient.
        seed: of the layout.
        size: side of the films in pixels.
    """
    who = sample_patient(layout, mix, number, seed)
    subject = subject_id(number)
    folder = Path(f"p{str(subject)[:2]}") / f"p{subject}"
    clock = stream(layout, seed, number, _WORDS - 2)
    first = datetime.date(2110, 1, 1) + datetime.timedelta(days=int(clock.integers(0, 30_000)))
    rows: list[Row] = []
    for study in who.studies:
        ident = study_id(number, study.number)
        report = write_report(who, study, stream(layout, seed, number, _WORDS + study.number))
        text = Path("mimic-cxr-reports/files") / folder / f"s{ident}.txt"
        write_file(root, text, report.text.encode())
        day = (first + datetime.timedelta(days=study.day)).strftime("%Y%m%d")
        hour, minute, second = (int(n) for n in clock.integers(0, (24, 60, 60)))
        films: list[Row] = []
        for index, film in enumerate(study.films):
            digest = hashlib.sha256(f"{layout}/{seed}/{ident}/{index}".encode()).hexdigest()
            dicom_id = "-".join(digest[i : i + 8] for i in range(0, 40, 8))
            name = Path("files") / folder / f"s{ident}" / f"{dicom_id}.jpg"
            if not (root / name).exists():
                pixels = render(who.anatomy, film, study.findings, size=size, masks=()).pixels
                buffer = BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
                write_file(root, name, buffer.getvalue())
            films.append({"dicom_id": dicom_id, "view": film.view, "size": size})
        rows.append(
            {
                "images": len(films),
                "subject_id": subject,
                "study_id": ident,
                "split": split(number, seed),
                "date": day,
                "time": f"{hour:02d}{minute:02d}{second:02d}.{int(clock.integers(1000)):03d}",
                "films": films,
                "labels": labels(study, report.labels),
            }
        )
    return rows


def write_tables(root: Path, studies: Sequence[Row]) -> None:
    """Write the tables of all studies."""
    metadata: list[Row] = []
    splits: list[Row] = []
    labels: list[Row] = []
    for study in sorted(studies, key=lambda row: (row["subject_id"], row["study_id"])):
        ids = {"subject_id": study["subject_id"], "study_id": study["study_id"]}
        labels.append({**ids, **study["labels"]})
        for film in study["films"]:
            portable = film["view"] == "AP"
            procedure = "CHEST (PORTABLE AP)" if portable else "CHEST (PA)"
            splits.append({**ids, "dicom_id": film["dicom_id"], "split": study["split"]})
            metadata.append(
                {
                    **ids,
                    "dicom_id": film["dicom_id"],
                    "PerformedProcedureStepDescription": procedure,
                    "ViewPosition": film["view"],
                    "Rows": film["size"],
                    "Columns": film["size"],
                    "StudyDate": study["date"],
                    "StudyTime": study["time"],
                    "ProcedureCodeSequence_CodeMeaning": procedure,
                    "ViewCodeSequence_CodeMeaning": "antero-posterior" if portable else "postero-anterior",
                    "PatientOrientationCodeSequence_CodeMeaning": None if portable else "Erect",
                }
            )
    name = "mimic-cxr-2.0.0-{}.csv.gz"
    write_gzip(root, Path(name.format("metadata")), csv_text(_METADATA, metadata))
    split_columns = ("dicom_id", "study_id", "subject_id", "split")
    write_gzip(root, Path(name.format("split")), csv_text(split_columns, splits))
    write_gzip(root, Path(name.format("chexpert")), csv_text(("subject_id", "study_id", *CHEXPERT), labels))


_TWIN = Twin(
    LAYOUT,
    MIMIC_MIX,
    partial(write_patient, LAYOUT, MIMIC_MIX, split_of, _as_reported),
    write_tables,
    films=every_film,
)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
