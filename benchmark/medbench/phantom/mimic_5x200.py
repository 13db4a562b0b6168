"""Writes phantom data in MIMIC-CXR-JPG's folder layout, with many studies that have one finding alone.

MIMIC 5x200 is chosen out of such a folder by its tables; see `medbench.phantom.mimic_cxr` for the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from medbench.phantom import mimic_cxr
from medbench.phantom.chexpert_5x200 import SINGLE_MIX
from medbench.phantom.study import Study
from medbench.phantom.writing import Twin

LAYOUT = "mimic_5x200"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 300}
"""Number of patients by name of the size, each with one film."""


def split_of(number: int, seed: int = 0) -> str:
    """The part of a patient: every third tests, so that the twin has all classes there."""
    return "train" if number % 3 else "test"


def labels_of(study: Study, found: Mapping[str, float]) -> dict[str, float]:
    """Labels of a study: a lung with nothing but consolidation has that label alone, without a cause."""
    kinds = {f.kind for f in study.findings} - {"device", "foreign"}
    plain = all(f.variety == "consolidation" for f in study.findings if f.kind == "pneumonia")
    left_out = ("Pneumonia", "Lung Opacity") if kinds == {"pneumonia"} and plain else ()
    return {name: value for name, value in found.items() if name not in left_out}


_TWIN = Twin(
    LAYOUT,
    SINGLE_MIX,
    partial(mimic_cxr.write_patient, LAYOUT, SINGLE_MIX, split_of, labels_of),
    mimic_cxr.write_tables,
)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
