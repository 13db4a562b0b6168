"""The reports of CheXpert Plus."""

from pathlib import Path

import pytest

from medbench.data.reports import CLEANINGS
from medbench.errors import DataError
from medbench.specs import DatasetSpec
from medbench_tasks.datasets.chexpert_plus import find_table, read_reports

SPEC = DatasetSpec("chexpert", "a:B", "", "", access="https://example.org")
HEADER = "path_to_image,frontal_lateral,report,section_findings,section_impression,section_comparison\n"
ROWS = """train/patient1/study1/view1_frontal.jpg,Frontal,,"Clear lungs
today.","1. No change. 2. Stable.",None.
train/patient1/study1/view2_lateral.jpg,Lateral,,"Clear lungs
today.","1. No change. 2. Stable.",None.
CheXpert-v1.0/train/patient2/study1/view1_frontal.jpg,Frontal,"IMPRESSION: Edema has grown worse.",,,
valid/patient3/study1/view1_frontal.jpg,Frontal,,,,Prior film of today.
valid/patient4/study1/view1_frontal.jpg,Frontal,,,,
"""


@pytest.mark.parametrize("cleaning", ["mgca", "clean"])
def test_reports_by_film(tmp_path: Path, cleaning: str) -> None:
    assert find_table(tmp_path) is None
    (tmp_path / "df_chexpert_plus_240401.csv").write_text(HEADER + ROWS)
    path = find_table(tmp_path)
    assert path is not None
    texts, dropped = read_reports(SPEC, tmp_path, path, CLEANINGS[cleaning])
    whole = "1. No change. 2. Stable. Clear lungs today."
    assert texts == {
        "train/patient1/study1/view1_frontal.jpg": whole,
        "train/patient1/study1/view2_lateral.jpg": whole,
        # `mgca` sees no header at the very left.
        "train/patient2/study1/view1_frontal.jpg": "Edema has grown worse." if cleaning == "clean" else "",
        "valid/patient3/study1/view1_frontal.jpg": "",
        "valid/patient4/study1/view1_frontal.jpg": "",
    }
    unread = 1 if cleaning == "clean" else 2
    assert dropped == {"report without findings and impression": unread, "empty report": 1}


def test_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "df_chexpert_plus_240401.csv"
    path.write_text("Path,Sex\nx,y\n")
    with pytest.raises(DataError, match=r"has no column path_to_image, section_findings, section_impression"):
        read_reports(SPEC, tmp_path, path, CLEANINGS["mgca"])
