"""Writes phantom data in CheXpert's folder layout, with many films that have one finding alone.

CheXpert 5x200 is chosen out of such a folder by its tables; see `medbench.phantom.chexpert` for the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from medbench.phantom import chexpert
from medbench.phantom.study import Mix
from medbench.phantom.writing import Twin

LAYOUT = "chexpert_5x200"
SIZES: Mapping[str, int] = {"default": 1500, "micro": 150}
"""Number of patients by name of the size, each with one film."""

SINGLE_MIX = Mix(
    normal=0.0,
    pneumonia=0.45,
    others={"cardiomegaly": 0.13, "effusion": 0.13, "atelectasis": 0.13, "edema": 0.13},
    things={"device": 0.05, "foreign": 0.05},
)


_TWIN = Twin(LAYOUT, SINGLE_MIX, partial(chexpert.write_patient, LAYOUT, SINGLE_MIX), chexpert.write_tables)
write, total, patient = _TWIN.write, _TWIN.total, _TWIN.patient
