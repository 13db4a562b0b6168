"""Checking records again: `medbench results verify`.

    record.py       one record: schema, hashes, ids, and its numbers computed again
    installed.py     its identity, weights and search, against what is installed and against itself
    draws.py        its bootstrap draws, against its interval and its predictions
    plausible.py    numbers that no test set and no model can give
    agreement.py    records among each other: repeats, copies, truth that differs
    originals.py    with the dataset at hand: the split, the label fractions, and predictions without truth
    folder.py       all of a folder, and the manifest of a submission

A forgery that is consistent, as of predictions that were made up as a whole, can not be seen from a folder.
"""

from medbench.verify.folder import Checked, verify_folder
from medbench.verify.record import Verdict, check_record, verify_record

__all__ = ["Checked", "Verdict", "check_record", "verify_folder", "verify_record"]
