"""Writes phantom data in MIMIC-CXR-JPG's folder layout, with many studies that have one finding alone.

MIMIC 5x200 is chosen out of such a folder by its tables; see `medbench.phantom.mimic_cxr` for the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medbench.phantom import mimic_cxr
from medbench.phantom.chexpert_5x200 import SINGLE_MIX
from medbench.phantom.study import Patient, Study, sample_patient

LAYOUT = "mimic_5x200"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 300}
"""Number of patients by name of the size, each with one film."""


def write(
    root: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the layout, or go on with one that was stopped; arguments and errors as of `mimic_cxr.write`."""
    mimic_cxr.write_films(
        LAYOUT, SINGLE_MIX, split_of, labels_of, root, patients, seed, size, workers, advance
    )


def total(patients: int, seed: int = 0) -> int:
    """The number of films that `write` makes: one a patient, whatever the seed."""
    return patients


def patient(number: int, seed: int = 0) -> Patient:
    """The truth about one patient of this layout."""
    return sample_patient(LAYOUT, SINGLE_MIX, number, seed)


def split_of(number: int, seed: int = 0) -> str:
    """The part of a patient: every third tests, so that the twin has all classes there."""
    return "train" if number % 3 else "test"


def labels_of(study: Study, found: Mapping[str, float]) -> dict[str, float]:
    """Labels of a study: a lung with nothing but consolidation has that label alone, without a cause."""
    kinds = {f.kind for f in study.findings} - {"device", "foreign"}
    plain = all(f.variety == "consolidation" for f in study.findings if f.kind == "pneumonia")
    left_out = ("Pneumonia", "Lung Opacity") if kinds == {"pneumonia"} and plain else ()
    return {name: value for name, value in found.items() if name not in left_out}
