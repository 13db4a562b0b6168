"""The reports of CheXpert Plus, by the film of CheXpert that they belong to.

    df_chexpert_plus_240401.csv      path_to_image, deid_patient_id, patient_report_date_order, report,
                                     section_findings, section_impression, section_narrative, ...

P. Chambon et al., CheXpert Plus, 2024, arXiv 2405.19538. A row a film of the training and validation parts of CheXpert
v1.0 (223,462 rows for 187,711 reports); its sections have been cut by the publishers, so no header is looked for here
unless all of them are empty. Films are named as in CheXpert's own tables, below the folder of the release:
"train/patient00001/study1/view1_frontal.jpg".
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from medbench.data.reports import Cleaning, Reason, Text
from medbench.data.verify import read_table, require_columns
from medbench.specs import DatasetSpec

TABLES = ("df_chexpert_plus_240401.csv", "df_chexpert_plus_240401.csv.gz", "df_chexpert_plus.csv")
"""Names of the table, the released one first."""

SECTIONS: Mapping[str, str] = {
    "section_findings": "findings",
    "section_impression": "impression",
    "section_summary": "summary",
    "section_narrative": "narrative",
    "section_comparison": "comparison",
    "section_history": "history",
    "section_clinical_history": "clinical history",
    "section_technique": "technique",
}
"""Columns with sections, and the names of these."""

_NEEDED = ["path_to_image", "section_findings", "section_impression"]


def find_table(root: Path) -> Path | None:
    """The table of reports in a folder of CheXpert, or None."""
    return next((root / name for name in TABLES if (root / name).is_file()), None)


def read_reports(
    spec: DatasetSpec, root: Path, path: Path, cleaning: Cleaning
) -> tuple[dict[str, str], dict[str, int]]:
    """The report of each film.

    Args:
        spec: of the dataset that asks.
        root: its folder.
        path: the table.
        cleaning: how reports are read.

    Returns:
        Texts by film ("train/patient00001/study1/view1_frontal.jpg"), "" for a report that gives no text; and the
        number of films with such a report, by reason.

    Raises:
        DataError: the table can not be read, or a column is missing.
    """
    found = list(read_table(spec, root, path, nrows=0).columns)
    require_columns(spec, root, path, found, _NEEDED)
    columns = [name for name in (*SECTIONS, "report") if name in found]
    rows = read_table(spec, root, path, usecols=["path_to_image", *columns], dtype=str, keep_default_na=False)
    films = rows["path_to_image"].str.strip().str.extract(r"((?:train|valid|test)/.*)$")[0]
    read: dict[tuple[str, ...], Text] = {}  # the films of a study share a report
    texts: dict[str, str] = {}
    reasons: Counter[Reason] = Counter()
    for film, *cells in zip(films, *(rows[name] for name in columns), strict=True):
        key = tuple(cells)
        if key not in read:
            given = dict(zip(columns, cells, strict=True))
            cut = {SECTIONS[name]: cell for name, cell in given.items() if name in SECTIONS and cell.strip()}
            read[key] = cleaning.of_sections(cut) if cut else cleaning.of_report(given.get("report", ""))
        if not isinstance(film, str):  # a film that CheXpert does not have
            continue
        texts[film] = read[key].text
        if (reason := read[key].reason) is not None:
            reasons[reason] += 1
    return texts, {reason.value: count for reason, count in reasons.items()}
