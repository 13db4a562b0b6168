"""Sex and age of patients, out of the ways that releases and hospitals write them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

OLDEST: Final = 120
"""Years; more is a slip of the pen (the first edition of NIH ChestX-ray14 has an age of 414) and not known."""

_SEXES: Final = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}

_AGE: Final = r"^(\d+(?:\.\d+)?)([YMWD]?)$"
_A_YEAR: Final = {"": 1.0, "Y": 1.0, "M": 12.0, "W": 52.1775, "D": 365.2425}
"""How many of each unit of DICOM's age strings are a year."""


def sexes(cells: "Sequence[str] | pd.Series[str]") -> list[str]:
    """The sex of each patient.

    Args:
        cells: N texts; F, female, woman, M, male, man in any case.

    Returns:
        N times "F" or "M", or "" for anything else: blank, O, unknown.
    """
    plain = pd.Series(cells, dtype=object).astype(str).str.strip().str.lower()
    return [str(sex) for sex in plain.map(_SEXES).fillna("")]


def years(cells: "Sequence[str] | pd.Series[str]") -> npt.NDArray[np.float64]:
    """The age of each patient.

    Args:
        cells: N texts; years ("58", "58.0"), or a number and Y, M, W or D as in DICOM ("058Y", "011M").

    Returns:
        (N,) years, NaN for what is no such text and for more than `OLDEST` years.
    """
    parts = pd.Series(cells, dtype=object).astype(str).str.strip().str.upper().str.extract(_AGE)
    number = pd.to_numeric(parts[0]).to_numpy(np.float64)
    age: npt.NDArray[np.float64] = number / parts[1].map(_A_YEAR).to_numpy(np.float64)
    return np.where(age <= OLDEST, age, np.nan)  # False for NaN
