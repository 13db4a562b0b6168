"""The index of a results folder: what it says is what the files say, whatever happened to either."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medbench import record_index, results
from medbench.cli import app
from medbench.errors import DataError
from medbench.plugins import load_catalogue
from medbench.record_index import RecordIndex
from medbench.records import Record, ResultStore, read_record
from medbench.results import Results, column_key, row_key
from medbench_leaderboards import assemble
from medbench_leaderboards.board import build
from medbench_leaderboards.csv import csv
from medbench_leaderboards.markdown import markdown
from medbench_leaderboards.site import RECORD_PAGES, html

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"
CATALOGUE = load_catalogue(third_party=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Accepted records of three methods in a task, and a failed attempt that one of them is said to be."""
    root = tmp_path / "results"
    for method in ("clip", "random", "mgca"):
        shutil.copytree(ACCEPTED / "tiny" / method / "rsna_lp", root / "tiny" / method / "rsna_lp")
    first = next(iter(ResultStore(root).files()))
    shutil.copy(first, first.with_suffix(".failed-1.json"))
    return root


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, as they are."""
    seen: list[str] = []
    read = record_index._read

    def counted(root: Path, path: str) -> record_index.Read | None:
        seen.append(path)
        return read(root, path)

    monkeypatch.setattr(record_index, "_read", counted)
    return seen


def test_it_gives_every_record_without_its_bulk(folder: Path, tmp_path: Path) -> None:
    current, failed = RecordIndex(folder, tmp_path).records()
    assert [folder / one.path for one in current] == list(ResultStore(folder).files())
    assert [one.path.split(".", 1)[1] for one in failed] == ["failed-1.json"]
    for one in (*current, *failed):
        whole = read_record(folder / one.path)
        brief = one.record
        for name in (
            "cell_id",
            "status",
            "identity",
            "primary_metric",
            "predictions",
            "draws",
            "error",
            "config_sha256",
        ):
            assert getattr(brief, name) == getattr(whole, name), name
        assert brief.primary is not None and whole.primary is not None
        assert brief.primary == whole.primary.model_copy(update={"per_class": {}})
        assert brief.identity.cell_id() == whole.cell_id
        assert (one.row_key, one.column_key) == (row_key(whole.identity), column_key(whole))
        assert len(brief.metrics) == 1 and not brief.subgroups and not brief.environment
        assert Record.model_validate_json(brief.to_json()) == brief


def test_equal_parts_are_one_object(folder: Path, tmp_path: Path) -> None:
    """Else 300,000 records fill the memory."""
    current, _ = RecordIndex(folder, tmp_path).records()
    configs = {
        id(one.record.identity.method_config) for one in current if one.record.identity.method == "clip"
    }
    assert len(configs) == 1


def test_a_file_is_read_once(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    index = RecordIndex(folder, tmp_path)
    listed = index.listed()
    assert len(reads) == len(listed) + 1  # and the failed attempt
    assert RecordIndex(folder, tmp_path).listed() == listed
    assert len(reads) == len(listed) + 1


def test_what_changed_is_read_again(folder: Path, tmp_path: Path, reads: list[str]) -> None:
    index = RecordIndex(folder, tmp_path)
    before = index.listed()
    path = folder / before[0].path
    same = path.stat()
    path.write_text(path.read_text().replace('"value": 0.9', '"value": 0.8'))
    os.utime(path, ns=(same.st_atime_ns, same.st_mtime_ns))  # whoever hides that they changed it
    (folder / before[1].path).unlink()
    shutil.rmtree(folder / "tiny" / "random")
    reads.clear()
    after = index.listed()
    assert reads == [before[0].path]
    assert after[0].value != before[0].value
    assert {one.path for one in before} - {one.path for one in after} >= {before[1].path}
    assert "random" not in {one.method for one in after}
    assert index.seconds().keys() == RecordIndex(folder, tmp_path / "other").seconds().keys()


def test_a_broken_record_is_said_each_time(folder: Path, tmp_path: Path) -> None:
    index = RecordIndex(folder, tmp_path)
    path = folder / index.listed()[0].path
    path.write_text("{}")
    for _ in range(2):
        with pytest.raises(DataError, match=path.name):
            index.listed()


@pytest.mark.parametrize("content", [b"", b"no database at all", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_index_is_made_anew(content: bytes, folder: Path, tmp_path: Path) -> None:
    index = RecordIndex(folder, tmp_path)
    listed = index.listed()
    index.file.write_bytes(content)
    assert index.listed() == listed
    assert index.listed() == listed


def test_without_a_cache_it_is_kept_in_memory(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of the folder")
    assert RecordIndex(folder, tmp_path / "file").listed() == RecordIndex(folder, tmp_path).listed()


def test_several_processes_read_what_one_reads(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = RecordIndex(folder, tmp_path / "one").listed()
    monkeypatch.setattr(record_index, "_MANY", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert RecordIndex(folder, tmp_path / "two").listed() == alone


def test_a_folder_that_is_not_there_has_no_records(tmp_path: Path) -> None:
    assert RecordIndex(tmp_path / "none", tmp_path).listed() == []
    assert RecordIndex(tmp_path / "none", tmp_path).seconds() == {}


def test_seconds_are_means_over_cells(folder: Path, tmp_path: Path) -> None:
    found = RecordIndex(folder, tmp_path).seconds()
    like = [
        record.times.duration_s
        for record in (*ResultStore(folder).records(), *ResultStore(folder).failures())
        if record.identity.fraction == 0.01
    ]
    assert found["rsna_lp", "tiny", 0.01] == pytest.approx(sum(like) / len(like))


def test_tables_of_an_index_are_those_of_the_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(read: Callable[[], Results]) -> dict[str, bytes]:
        own = read()
        return {**markdown(own), **csv(own), **html(own)}

    whole = made(lambda: Results.read(folder, CATALOGUE, tmp_path, tmp_path))
    monkeypatch.setattr(results, "MANY", 0)
    read = Results.read(folder, CATALOGUE, tmp_path, tmp_path)
    assert read.brief
    assert made(lambda: read) == whole


def test_a_table_of_too_many_pairs_says_that_it_compares_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "COMPARED", 8)
    monkeypatch.setattr(Results, "bootstrap", None)  # nobody asks for draws
    monkeypatch.setattr(Results, "influence", None)
    own = Results.read(folder, CATALOGUE)
    [table] = build(own).tables
    assert table.comparisons == ()
    assert {cell.rank for cell in table.cells.values()} == {None}
    assert len(table.ranking.ranks) == 3  # by the means alone
    assert {rank.low for rank in table.ranking.ranks} == {None}
    text = next(iter(markdown(own).values())).decode()
    assert "3 rows in 3 columns are more than 8 pairs: none was compared" in text
    assert "no bootstrap draws" not in text


def test_the_site_has_pages_of_so_many_records_and_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RECORD_PAGES == 20_000
    own = Results.read(folder, CATALOGUE)
    count = len(own.records)
    assert f"of {count} records have a page" not in html(own)["index.html"].decode()
    monkeypatch.setattr("medbench_leaderboards.site.RECORD_PAGES", 4)
    files = html(own)
    assert sum(name.startswith("records/") for name in files) == 4
    assert f"4 of {count} records have a page here" in files["index.html"].decode()
    links = {part.split('"')[0] for page in files.values() for part in page.decode().split('href="')[1:]}
    assert not [link for link in links if "records/" in link and link.removeprefix("../") not in files]


def test_the_list_is_that_of_the_files(folder: Path, medbench_home: Path) -> None:
    shown = CliRunner().invoke(app, ["results", "list", "--results", str(folder)])
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()[1:]
    records = ResultStore(folder).records()
    assert len(lines) == len(records)
    for line, record in zip(lines, records, strict=True):
        assert record.cell_id[:12] in line
        assert f"{100 * record.metrics[0].value:.1f} [" in line  # type: ignore[operator]
