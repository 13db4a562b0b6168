"""Writes phantom data in CheXpert's folder layout, with many films that have one finding alone.

CheXpert 5x200 is chosen out of such a folder by its tables; see `medbench.phantom.chexpert` for the files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from medbench.phantom import chexpert
from medbench.phantom.study import Mix, Patient, sample_patient

LAYOUT = "chexpert_5x200"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 150}
"""Number of patients by name of the size, each with one film."""

SINGLE_MIX = Mix(
    normal=0.0,
    pneumonia=0.45,
    others={"cardiomegaly": 0.13, "effusion": 0.13, "atelectasis": 0.13, "edema": 0.13},
    things={"device": 0.05, "foreign": 0.05},
)


def write(
    root: Path,
    *,
    patients: int,
    seed: int = 0,
    size: int = 256,
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the layout, or go on with one that was stopped; arguments and errors as of `chexpert.write`."""
    chexpert.write_films(LAYOUT, SINGLE_MIX, root, patients, seed, size, workers, advance)


def total(patients: int, seed: int = 0) -> int:
    """The number of films that `write` makes: one a patient, whatever the seed."""
    return patients


def patient(number: int, seed: int = 0) -> Patient:
    """The truth about one patient of this layout."""
    return sample_patient(LAYOUT, SINGLE_MIX, number, seed)
