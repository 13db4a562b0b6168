"""The layouts of openi and padchest: the same files whatever follows, and what the real ones look like."""

import gzip
import hashlib
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from medbench.phantom import openi, padchest


def digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "PHANTOM.json")
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("twin", [openi, padchest], ids=["openi", "padchest"])
def test_the_first_patients_do_not_depend_on_how_many_follow(tmp_path: Path, twin: ModuleType) -> None:
    twin.write(tmp_path / "few", patients=3, size=64)
    twin.write(tmp_path / "many", patients=6, size=64)
    twin.write(tmp_path / "again", patients=6, size=64)
    few, many, again = (digest(tmp_path / name) for name in ("few", "many", "again"))
    assert many == again
    films = [name for name in few if name.endswith((".png", ".xml"))]
    assert all(few[name] == many[name] for name in films)
    assert sum(name.endswith(".png") for name in films) == twin.total(3)


def test_openi_is_written_as_it_is_published(tmp_path: Path) -> None:
    openi.write(tmp_path, patients=3, size=64)
    root = ElementTree.parse(tmp_path / "ecgen-radiology" / "2.xml").getroot()
    assert [part.get("Label") for part in root.iter("AbstractText")] == [
        "COMPARISON",
        "INDICATION",
        "FINDINGS",
        "IMPRESSION",
    ]
    names = [image.get("id") for image in root.iter("parentImage")]
    with Image.open(tmp_path / "NLMCXR_png" / f"{names[0]}.png") as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))
    assert "___" not in (tmp_path / "ecgen-radiology" / "2.xml").read_text()


def test_padchest_is_written_as_it_is_published(tmp_path: Path) -> None:
    padchest.write(tmp_path, patients=6, size=64)
    with gzip.open(tmp_path / padchest.TABLE, "rt") as lines:
        assert lines.readline().strip() == ",".join(padchest.COLUMNS)
    table = pd.read_csv(tmp_path / padchest.TABLE, dtype=str)
    first = table.iloc[0]
    with Image.open(tmp_path / first["ImageDir"] / first["ImageID"]) as image:
        assert image.mode in ("I;16", "I")
        assert image.size == (64, 64)
    assert table["ImageID"].is_unique
    assert table["Labels"].str.match(r"\[('[a-z ]+'(, )?)+\]$").all()
    assert set(table["MethodLabel"]) == {"Physician", "RNN_model"}
