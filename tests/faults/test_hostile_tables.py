"""Tables, reports and outlines that somebody made to do harm: refused with a message, before memory is taken."""

import gzip
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medbench.cli import app
from medbench.data import csv_tables, many_files
from medbench.data.csv_tables import read_csv
from medbench.data.many_files import file_sizes, texts_below, texts_in_zip
from medbench.errors import DataError
from medbench.terminal import no_formula
from medbench_leaderboards.csv import _text as cell_of_csv
from medbench_tasks import medbench_datasets
from medbench_tasks.datasets.table import Table

SPEC = next(spec for spec in medbench_datasets() if spec.name == "table")


@dataclass
class Films:
    """A folder with films a.png and b.png, a secret beside it, and a table in it."""

    folder: Path

    def refused(self, table: str | bytes, name: str = "films.csv") -> str:
        """Why a table is not taken."""
        path = self.folder / name
        path.write_bytes(table if isinstance(table, bytes) else table.encode())
        with pytest.raises(DataError) as caught:
            self.opened(name).index()
        return str(caught.value)

    def opened(self, name: str = "films.csv") -> Any:
        return Table(SPEC, self.folder / name, {})


@pytest.fixture
def films(tmp_path: Path) -> Films:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("data/a.png", "data/b.png", "secret.png"):
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name)
    return Films(folder)


@pytest.mark.parametrize("where", ["../secret.png", "x/../../secret.png", "{above}/secret.png"])
def test_films_outside_the_folder_are_refused(where: str, films: Films) -> None:
    where = where.format(above=films.folder.parent)
    (films.folder / "x").mkdir()
    assert "path leads out of the dataset's folder" in films.refused(f"image,patient\na.png,1\n{where},2\n")
    index = films.opened().index(exclude_broken=True)
    assert list(index.table["image"]) == ["a.png"]


def test_masks_outside_the_folder_are_refused(films: Films) -> None:
    said = films.refused("image,mask\na.png,../secret.png\nb.png,\n")
    assert "path leads out of the dataset's folder" in said


def test_what_the_user_linked_into_the_folder_is_in_it(films: Films) -> None:
    (films.folder / "linked").symlink_to(films.folder.parent)
    (films.folder / "films.csv").write_text("image\na.png\nlinked/secret.png\n")
    assert len(films.opened().index()) == 2


@pytest.mark.parametrize(
    "row",
    ["x\0y.png", "n" * 5000 + ".png", "=cmd|' /C calc'!A0", "\x1b[2J", "\u202egnp.a", "https://a:b@c/d.png"],
)
def test_a_name_of_no_film_is_a_problem_of_its_row(row: str, films: Films) -> None:
    said = films.refused(f'image,patient\na.png,1\n"{row}",2\n')
    assert "1 samples have problems" in said or "can not be read as a table" in said


def test_a_film_given_twice_is_said(films: Films) -> None:
    assert "row given twice" in films.refused("image,patient\na.png,1\na.png,2\nb.png,3\n")


@pytest.mark.parametrize("box", ["nan,1,2,2", "inf,1,2,2", "1e999,1,2,2", "0,0,-1,2", "-9,0,2,2", "1,1,x,2"])
def test_boxes_that_are_none_are_problems(box: str, films: Films) -> None:
    assert "box" in films.refused(f"image,x,y,width,height\na.png,{box}\nb.png,1,1,2,2\n")


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        ("image,report\na.png,Größe\n".encode("latin-1"), "not UTF-8"),
        ("image,report\na.png,x\n".encode("utf-16"), "not UTF-8"),
        ("image,report\na.png,x\n".encode("utf-32"), ""),
        (b"image,report\n\0\0\0\0\n", ""),
        (b'image,report\na.png,"never closed\n', ""),
        (b"", ""),
    ],
    ids=["latin-1", "UTF-16", "UTF-32", "null bytes", "open quote", "empty"],
)
def test_other_encodings_and_broken_tables_are_said(encoded: bytes, said: str, films: Films) -> None:
    assert said in films.refused(encoded)


def test_utf_8_with_a_byte_order_mark_is_utf_8(films: Films) -> None:
    (films.folder / "films.csv").write_bytes("image,report\na.png,Größe\n".encode("utf-8-sig"))
    assert films.opened().index().table["report"].tolist() == ["Größe"]


def test_a_gigabyte_in_one_cell_is_refused_unread(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pandas.read_csv", never)
    path = films.folder / "films.csv"
    with path.open("wb") as file:
        file.write(b'image,report\na.png,"')
        file.truncate(2**30)  # sparse: takes no room
    with pytest.raises(DataError, match="row of more than 16,777,216 bytes"):
        films.opened().index()


def test_a_packed_table_that_never_ends_is_refused_unread(
    films: Films, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pandas.read_csv", never)
    monkeypatch.setattr(csv_tables, "MOST_TABLE", 10 * 2**20)
    packed = gzip.compress(b"image\n" + b"a.png\n" * 3_000_000)
    assert len(packed) < 100_000
    assert "more than 10,485,760 bytes" in films.refused(packed, "films.csv.gz")


def never(*_: object, **__: object) -> None:
    raise AssertionError("the table was read")


@pytest.mark.parametrize("most", [11, 40, 10**6])
def test_rows_are_measured_across_quotes_and_chunks(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_tables, "MOST_ROW", most)
    for chunk in (1, 2, 3, 7, 1000):
        monkeypatch.setattr(csv_tables, "_CHUNK", chunk)
        for longest in (5, 10, 30, 200):
            path = tmp_path / "t.csv"
            path.write_text("a,b\n1,2\n" + '3,"' + "x\n" * (longest // 2) + '"\n5,6\n' * 1)
            taken = longest + 4 <= most  # with the quotes, the comma and the first cell
            if abs(longest + 4 - most) <= chunk:
                continue  # between two looks
            if taken or path.stat().st_size <= most:
                assert len(read_csv(path)) >= 1
            elif chunk < longest:
                with pytest.raises(ValueError, match="row of more than"):
                    read_csv(path)


def test_a_huge_report_is_refused_unread(tmp_path: Path) -> None:
    packed = tmp_path / "reports.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("files/p10/p1/s1.txt", b" " * (many_files.MOST_TEXT + 1))
    assert packed.stat().st_size < 100_000
    with pytest.raises(zipfile.BadZipFile, match="no report has more"):
        list(texts_in_zip(packed, ["p10/p1/s1.txt"]))
    with (tmp_path / "s1.txt").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(DataError, match="no report has more"):
        list(texts_below(tmp_path, ["s1.txt"]))
    assert file_sizes(tmp_path, ["a\0b"]).tolist() == [many_files.MISSING]


def test_an_archive_of_reports_is_never_unpacked_to_the_disk(tmp_path: Path) -> None:
    packed, inside = tmp_path / "in" / "reports.zip", "../../outside/p10/p1/s1.txt"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(inside, "clear")
    assert list(texts_in_zip(packed, ["files/p10/p1/s1.txt"])) == ["clear"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "reports.zip"]


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"])
def test_a_cell_of_our_tables_is_no_formula(text: str) -> None:
    assert cell_of_csv(text).startswith("'")


def test_the_table_of_copies_has_no_formulas(films: Films, medbench_home: Path) -> None:
    os.rename(films.folder / "b.png", films.folder / "=1+1.png")
    (films.folder / "films.csv").write_text("image,patient,report\na.png,=2+2,clear\n=1+1.png,@x,clear\n")
    out = films.folder.parent / "copies.csv"
    table = f"table={films.folder / 'films.csv'}"
    result = CliRunner().invoke(app, ["data", "audit", "table", "--data", table, "--out", str(out)])
    assert result.exit_code == 0, result.output
    cells = [cell for line in out.read_text().splitlines() for cell in line.split(",")]
    assert "'=1+1.png" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]


def test_what_is_no_formula_stays_as_it_is() -> None:
    assert [no_formula(text) for text in ("", "rsna_lp", "a=b", "'=x")] == ["", "rsna_lp", "a=b", "'=x"]
