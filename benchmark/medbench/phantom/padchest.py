"""Writes phantom data in the folder layout of PadChest.

    PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz     the released columns; those of DICOM are empty
    0/<ImageID>                                                 16-bit PNG, 1,000 patients a folder

Reports are worded as the released ones: Spanish, in lower case, cut to word stems, without stop words. Frontal films
only.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medbench.phantom.findings import Finding, Kind
from medbench.phantom.render import render
from medbench.phantom.study import MIMIC_MIX, Study, stream
from medbench.phantom.writing import Row, Twin, every_film, write_file, write_gzip

LAYOUT = "padchest"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 80}
"""Number of patients by name of the size."""

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
COLUMNS = (
    "",  # the row's number
    *("ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM"),
    *("ViewPosition_DICOM", "Projection", "MethodProjection", "Pediatric", "Modality_DICOM"),
    *("Manufacturer_DICOM", "PhotometricInterpretation_DICOM", "PixelRepresentation_DICOM"),
    *("PixelAspectRatio_DICOM", "SpatialResolution_DICOM", "BitsStored_DICOM", "WindowCenter_DICOM"),
    *("WindowWidth_DICOM", "Rows_DICOM", "Columns_DICOM", "XRayTubeCurrent_DICOM", "Exposure_DICOM"),
    *("ExposureInuAs_DICOM", "ExposureTime", "RelativeXRayExposure_DICOM", "ReportID", "Report"),
    *("MethodLabel", "Labels", "Localizations", "LabelsLocalizationsBySentence", "labelCUIS"),
    "LocalizationsCUIS",
)
"""Columns of the released table, in its order."""

_MIX = replace(MIMIC_MIX, second_view=0.0)
_WORDS = 500
"""Number in the random key that sets wording apart from findings, as for mimic_cxr."""

_TERMS: Mapping[Kind, tuple[str, str, tuple[str, ...]]] = {
    "cardiomegaly": ("cardiomegaly", "C0018800", ("cardiomegali", "aument siluet cardiac")),
    "effusion": ("pleural effusion", "C0032227", ("derram pleural", "ocupacion sen costofren derram")),
    "pneumonia": ("pneumonia", "C0032285", ("neumoni", "consolidacion compatibl neumoni")),
    "atelectasis": ("atelectasis", "C0004144", ("atelectasi", "atelectasi laminar perd volum")),
    "edema": ("pulmonary edema", "C0034063", ("edem pulmon", "redistribucion vascul edem pulmon")),
    "pneumothorax": ("pneumothorax", "C0032326", ("neumotorax", "camar neumotorax")),
    "nodule": ("nodule", "C0034079", ("nodul pulmon", "imag nodul")),
    "fracture": ("rib fracture", "C0035522", ("fractur costal", "fractur arc costal")),
    "device": ("pacemaker", "C0030163", ("marcapas", "dispositiv implant")),
    "foreign": ("metal", "C0025552", ("imag densidad metal", "artefact metal")),
}
"""Of each kind: PadChest's name, its UMLS code, and stems that say so."""
_SIDES = {
    "right": ("derech", "loc right"),
    "left": ("izquierd", "loc left"),
    "both": ("bilateral", "loc bilateral"),
}
_DEGREES = ("leve", "moder", "sever")
_NORMAL = ("sin hallazg patolog signific", "estudi dentr limit normal", "torax sin alteracion signific")


def labels_of(study: Study) -> list[str]:
    """PadChest's names of what there is, each once; `normal` where there is nothing."""
    return list(dict.fromkeys(_TERMS[finding.kind][0] for finding in study.findings)) or ["normal"]


def _report(study: Study, rng: np.random.Generator) -> tuple[str, list[list[str]]]:
    """The report, and the labels and places of each of its sentences."""
    if not study.findings:
        return f" {_NORMAL[int(rng.integers(len(_NORMAL)))]} .", [["normal"]]
    sentences, meant = [], []
    for finding in study.findings:
        name, _, phrases = _TERMS[finding.kind]
        words = [phrases[int(rng.integers(len(phrases)))]]
        words += [_SIDES[finding.side][0]] if finding.side else []
        words += [_DEGREES[finding.severity - 1]] if rng.random() < 0.5 else []
        sentences.append(" ".join(words))
        meant.append([name, *_places(finding)])
    return f" {' . '.join(sentences)} .", meant


def _places(finding: Finding) -> list[str]:
    return [_SIDES[finding.side][1]] if finding.side else []


def _write_patient(root: Path, number: int, seed: int, size: int) -> list[Row]:
    who = patient(number, seed)
    clock = stream(LAYOUT, seed, number, _WORDS - 2)
    first = datetime.date(2009, 1, 1) + datetime.timedelta(days=int(clock.integers(0, 2_000)))
    folder = str(number // 1_000)
    rows: list[Row] = []
    for study in who.studies:
        ident = _digits(f"{seed}/{number}/{study.number}", 39)
        day = first + datetime.timedelta(days=study.day)
        report, meant = _report(study, stream(LAYOUT, seed, number, _WORDS + study.number))
        names = labels_of(study)
        kinds = dict.fromkeys(finding.kind for finding in study.findings)
        codes = " ".join(repr(_TERMS[kind][1]) for kind in kinds)
        for film in study.films:
            image = f"{ident}_{_digits(ident, 6)}.png"
            name = Path(folder) / image
            if not (root / name).exists():
                pixels = render(who.anatomy, film, study.findings, size=size, masks=()).pixels
                buffer = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint16) * 257).save(buffer, "PNG")
                write_file(root, name, buffer.getvalue())
            rows.append(
                {
                    "images": 1,
                    "ImageID": image,
                    "ImageDir": folder,
                    "StudyDate_DICOM": day.strftime("%Y%m%d"),
                    "StudyID": ident,
                    "PatientID": _digits(f"{seed}/{number}", 38),
                    "PatientBirth": f"{day.year - int(who.anatomy.age)}.0",
                    "PatientSex_DICOM": who.anatomy.sex,
                    "ViewPosition_DICOM": "ANTEROPOSTERIOR" if film.view == "AP" else "POSTEROANTERIOR",
                    "Projection": film.view,
                    "MethodProjection": "Manual review of DICOM fields",
                    "Pediatric": "No",
                    "Modality_DICOM": "CR",
                    "Manufacturer_DICOM": "medbench phantom",
                    "PhotometricInterpretation_DICOM": "MONOCHROME2",
                    "PixelRepresentation_DICOM": 0,
                    "BitsStored_DICOM": 16,
                    "Rows_DICOM": size,
                    "Columns_DICOM": size,
                    "ReportID": 4_000_000 + number * 8 + study.number,
                    "Report": report,
                    "MethodLabel": "Physician" if number % 4 == 0 else "RNN_model",
                    "Labels": str(names),
                    "Localizations": str(sorted({place for own in meant for place in own[1:]})),
                    "LabelsLocalizationsBySentence": str(meant),
                    "labelCUIS": f"[{codes}]",
                    "LocalizationsCUIS": "[]",
                }
            )
    return rows


def _write_tables(root: Path, films: Sequence[Row]) -> None:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({**film, "": row} for row, film in enumerate(films))
    write_gzip(root, Path(TABLE), text.getvalue())


def _digits(key: str, length: int) -> str:
    """A long number, as PadChest's ids are."""
    return str(int.from_bytes(hashlib.sha256(f"{LAYOUT}/{key}".encode()).digest(), "big")).zfill(78)[-length:]


_TWIN = Twin(
    LAYOUT,
    _MIX,
    _write_patient,
    _write_tables,
    films=every_film,
)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
