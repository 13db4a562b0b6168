"""Folders of built leaderboards: what is written, what is removed, what a check finds."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medbench import built
from medbench.built import MANIFEST, Folder, Made, make
from medbench.cli import app
from medbench.errors import DataError, PluginError
from medbench.plugins import load_catalogue
from medbench.results import Results

Given = Callable[..., Results]


def made(name: str = "a", **files: bytes) -> Made:
    return Made(name, {path.replace("__", "/").replace("_", "."): content for path, content in files.items()})


def present(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} - {MANIFEST}


def test_what_is_made_no_longer_goes_and_nothing_else(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write([made("a", x_csv=b"1", deep__y_csv=b"2", z_csv=b"3"), made("b", b_tex=b"4")])
    (tmp_path / "mine.txt").write_text("by hand")
    (tmp_path / "z.csv").write_text("changed by hand")
    assert folder.write([made("a", x_csv=b"5")]) == [tmp_path / "x.csv"]
    assert present(tmp_path) == {"x.csv", "z.csv", "b.tex", "mine.txt"}
    assert (tmp_path / "x.csv").read_bytes() == b"5"
    assert not (tmp_path / "deep").exists()
    assert folder.formats() == ["a", "b"]


def test_a_check_names_what_differs_lacks_and_is_too_many(tmp_path: Path) -> None:
    folder, all_of_it = Folder(tmp_path), [made("a", x_csv=b"1", y_csv=b"2"), made("b", z_tex=b"3")]
    folder.write(all_of_it)
    (tmp_path / ".hidden").touch()
    report = folder.compare(all_of_it)
    assert (report.compared, report.wrong, report.other_versions) == (3, [], [])
    (tmp_path / "x.csv").write_bytes(b"0")
    (tmp_path / "z.tex").unlink()
    (tmp_path / "w.csv").touch()
    assert folder.compare(all_of_it).wrong == [
        "x.csv: differs from what the records give",
        "z.tex: lacks; the records give it",
        "w.csv: is too many; the records do not give it",
    ]
    fewer = [made("a", x_csv=b"0"), made("b")]
    assert folder.compare(fewer).wrong == [
        f"{MANIFEST}: has another SHA-256 of x.csv",
        f"{MANIFEST}: has z.tex of b; the records do not give it",
        "w.csv: is too many; the records do not give it",
        "y.csv: is too many; the records do not give it",
    ]


def test_pictures_of_another_release_are_held_against_their_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(tmp_path)
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "1"})
    folder.write([made("plots", p_svg=b"<svg>old</svg>", q_png=b"old", t_csv=b"text")])
    drawn_now = [made("plots", p_svg=b"<svg>new</svg>", q_png=b"new", t_csv=b"text")]
    assert len(folder.compare(drawn_now).wrong) == 2
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "2"})
    report = folder.compare(drawn_now)
    assert (report.compared, report.wrong) == (1, [])
    assert report.other_versions == [
        f"2 pictures of plots were held against {MANIFEST} alone (matplotlib 1 then, 2 now): p.svg, q.png"
    ]
    assert report.unread == ["p.svg", "q.png"]
    (tmp_path / "q.png").write_bytes(b"painted over")
    assert folder.compare(drawn_now).wrong == [f"q.png: is not the picture that was built, by {MANIFEST}"]


def test_pillow_writes_the_one_kind_of_picture_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "1", "pillow": "1"})
    folder.write([made("plots", p_svg=b"<svg>", q_png=b"old")])
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "1", "pillow": "2"})
    report = folder.compare([made("plots", p_svg=b"<svg>", q_png=b"new")])
    assert (report.compared, report.wrong, report.unread) == (1, [], ["q.png"])
    assert "(pillow 1 then, 2 now)" in report.other_versions[0]


def test_the_manifest_is_compared_too(tmp_path: Path) -> None:
    folder, all_of_it = Folder(tmp_path), [made("a", x_csv=b"1", y_csv=b"2")]
    folder.write(all_of_it)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    files = manifest["formats"]["a"]["files"]
    files["x.csv"], files["gone.csv"] = files.pop("y.csv"), "0"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    assert folder.compare(all_of_it).wrong == [
        f"{MANIFEST}: lacks y.csv of a",
        f"{MANIFEST}: has gone.csv of a; the records do not give it",
        f"{MANIFEST}: has another SHA-256 of x.csv",
    ]


def test_two_leaderboards_that_give_one_path(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"a and b both give x\.csv"):
        Folder(tmp_path).write([made("a", x_csv=b"1"), made("b", x_csv=b"1")])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": "another"}',
        '{"schema": "medbench.built/1", "formats": 3}',
        '{"schema": "medbench.built/1", "formats": {}}',
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=r"not a medbench\.built/1 manifest\. Remove it and build again"):
        Folder(tmp_path).formats()


class _Plugin:
    """A catalogue of one leaderboard, which gives what it is told to."""

    def __init__(self, gives: Any) -> None:
        self.gives, self.name, self.format = gives, "odd", "odd"

    def load(self, kind: str, name: str) -> Callable[[Results], Any]:
        return lambda results: self.gives

    def owner(self, kind: str, name: str) -> str:
        return "odd_plugin 1.0"


@pytest.mark.parametrize(
    "gives",
    [
        "text",
        {"a.txt": "text"},
        *({path: b""} for path in ("../a", "/a", "a/../b", "", "a//b", "./a", MANIFEST)),
    ],
)
def test_a_plugin_that_gives_something_else(gives: Any, given: Given) -> None:
    plugin: Any = _Plugin(gives)
    with pytest.raises(PluginError, match=r"leaderboard odd of odd_plugin 1\.0 gives .*; expected"):
        make(plugin, plugin, given([]))


# The command.


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results_folder: Path) -> Path:
    """An empty folder to be in, with the records in `results`."""
    shutil.copytree(results_folder, tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MEDBENCH_RESULTS", raising=False)
    return tmp_path


def medbench(*words: str) -> Any:
    return CliRunner().invoke(app, ["leaderboard", *words])


TEXT = ("--format", "markdown,csv,csv-wide", "--format", "json,latex")


def test_build_then_check(here: Path) -> None:
    done = medbench("build", *TEXT)
    assert done.exit_code == 0, done.stderr
    names = {
        *("cells.csv", "comparisons.csv", "published.csv", "leaderboard.json", "leaderboard.md"),
        *(f"latex/{name}.tex" for name in ("phantom-tiny-full", "real-tiny-subsets")),
        *(f"wide/{name}.csv" for name in ("phantom-tiny-full", "real-tiny-subsets")),
    }
    assert present(here / "leaderboard") == names
    assert set(done.stdout.split()) == {f"leaderboard/{name}" for name in names}
    before = {name: (here / "leaderboard" / name).read_bytes() for name in names}
    assert medbench("--check").exit_code == 0
    assert medbench("build", *TEXT).exit_code == 0
    assert before == {name: (here / "leaderboard" / name).read_bytes() for name in names}

    page = here / "leaderboard" / "leaderboard.md"
    page.write_text(page.read_text().replace("paper", "pager", 1))
    done = medbench("--check")
    assert done.exit_code == 6
    assert "leaderboard.md: differs from what the records give" in done.stdout
    assert "medbench leaderboard build" in done.stderr


def test_pictures_of_other_versions_fail_where_that_is_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = load_catalogue(third_party=False)
    picture = [Made("plots", {"p.svg": b"<svg></svg>"})]
    monkeypatch.setattr(built, "make", lambda spec, *_: picture[0])
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "1"})
    assert "plots" in {spec.format for spec in catalogue.leaderboards.values()}
    assert medbench("build", "--format", "plots").exit_code == 0
    assert medbench("--check", "--all-pictures").exit_code == 0
    monkeypatch.setattr(built, "versions", lambda: {"matplotlib": "2"})
    done = medbench("--check")
    assert done.exit_code == 0
    assert "0 files of plots compared, 0 wrong, 1 not drawn again" in done.stdout
    assert "(matplotlib 1 then, 2 now): p.svg" in done.stderr
    assert medbench("--check", "--all-pictures").exit_code == 6


def test_a_record_that_goes_is_found(here: Path) -> None:
    assert medbench("build", "--format", "csv").exit_code == 0
    next((here / "results/tiny/place/rsna_lp").glob("*.json")).unlink()
    done = medbench("--check")
    assert done.exit_code == 6
    assert "cells.csv: differs" in done.stdout


def test_draws_that_have_to_be_computed_are_said(here: Path) -> None:
    assert "draws" not in medbench("build", "--format", "csv").stderr
    next((here / "results/tiny/place/rsna_lp").glob("*.draws.npy")).unlink()
    done = medbench("build", "--format", "csv")
    assert "1 of " in done.stderr and "medbench results rescore --results results --out DIR" in done.stderr


def test_links_of_a_build_lead_to_the_records(here: Path) -> None:
    import re

    assert medbench("build", "--format", "markdown", "--out", "docs/board").exit_code == 0
    page = here / "docs/board/leaderboard.md"
    links = re.findall(r"\]\(([^)]*)\)", page.read_text())
    assert len(links) > 20
    assert all((page.parent / link).is_file() for link in links)
    assert "](" not in medbench().stdout


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        (["--format", "csv"], "--format csv is 3 files, and one can be printed. Write them with", 2),
        (["--out", "there"], "--out DIR goes with `medbench leaderboard build`", 2),
        (["--check"], "leaderboard: no manifest.json, so nothing was built there. Build with", 3),
        (["--all-pictures"], "--all-pictures goes with --check.", 2),
        (["build", "--format", "xml"], "--format xml is not known. Formats: csv, csv-wide", 2),
        (["--results", "there", "build"], "--results stands behind the verb", 2),
        (["build", "--results", "there"], "No results folder", 2),
    ],
)
def test_mistakes(here: Path, words: list[str], message: str, code: int) -> None:
    done = medbench(*words)
    assert done.exit_code == code
    assert message in done.stderr


def test_every_format_is_a_function_of_the_records_alone(given: Given) -> None:
    catalogue = load_catalogue(third_party=False)
    for spec in catalogue.leaderboards.values():
        files: Mapping[str, bytes] = make(spec, catalogue, given([])).files
        assert files == make(spec, catalogue, given([])).files
        assert json.dumps(sorted(files))


COMMITTED = Path(__file__).resolve().parents[2] / "leaderboards"


@pytest.mark.skipif(
    not (COMMITTED / "board").exists(), reason="no leaderboard is committed in leaderboards/board"
)
def test_the_committed_leaderboard_follows_from_the_committed_records() -> None:
    done = medbench("--check", "--results", str(COMMITTED / "results"), "--out", str(COMMITTED / "board"))
    assert done.exit_code == 0, done.output
