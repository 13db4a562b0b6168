"""`medbench compare`: what a user of it, or of CI, gets."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medbench.cli import app
from medbench.records import read_record

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"


def medbench(*words: object) -> Result:
    return CliRunner().invoke(app, ["compare", "--no-plugins", *map(str, words)])


@pytest.fixture(scope="module")
def accepted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Accepted records without their predictions, so that draws are what is compared."""
    root = tmp_path_factory.mktemp("accepted")
    for method in ("random", "clip", "place"):
        folder = root / "tiny" / method / "rsna_lp"
        folder.mkdir(parents=True)
        for fraction in ("1pct", "10pct"):
            for file in (ACCEPTED / "tiny" / method / "rsna_lp").glob(f"{fraction}-*"):
                if file.suffix != ".parquet":
                    shutil.copy(file, folder)
    return root


def test_a_row_a_task_and_fraction_with_a_verdict(accepted: Path) -> None:
    done = medbench("random", "place", "--results", accepted)
    assert done.exit_code == 0, done.output
    assert "PHANTOM data: synthetic films." in done.stdout
    rows = [line for line in done.stdout.splitlines() if line.startswith("| rsna_lp")]
    assert [row.split("|")[2].strip() for row in rows] == ["1%", "10%"]
    assert all("place is better" in row for row in rows)
    assert "- rsna_lp 1%: paired bootstrap, 3 seeds and 3 seeds" in done.stdout
    assert "adjusted for the 2 comparisons above" in done.stdout


def test_json_has_every_number(accepted: Path) -> None:
    done = medbench("place", "random", "--results", accepted, "--json", "-t", "rsna_*", "--fraction", "1%")
    [line] = json.loads(done.stdout)
    found = line["difference"]
    assert line["worse"] is True
    assert found["value"] == pytest.approx(line["value_b"] - line["value_a"])
    assert found["low"] < found["value"] < found["high"] < 0
    assert found["p"] <= line["p_holm"] < 0.05
    assert found["seeds"] == [3, 3]


def test_the_gate(accepted: Path, tmp_path: Path) -> None:
    worse = medbench("place", "random", "--results", accepted, "--fail-on-regression")
    assert worse.exit_code == 6
    assert "medbench: place is better on rsna_lp: a regression" in worse.stderr
    assert medbench("random", "place", "--results", accepted, "--fail-on-regression").exit_code == 0
    same = medbench("place", f"{accepted}:place", "--results", accepted, "--fail-on-regression")
    assert same.exit_code == 0
    assert same.stdout.count("no difference beyond noise") == 2

    for file in (shutil.copytree(accepted, tmp_path / "bare")).rglob("*.npy"):
        file.unlink()
    blind = medbench("place", "random", "--results", tmp_path / "bare", "--fail-on-regression")
    assert blind.exit_code == 3
    assert "nothing could be compared" in blind.stderr
    assert "not comparable: random seed 2 has no draws" in blind.stdout


def test_two_folders(accepted: Path, tmp_path: Path) -> None:
    """This branch's results against the accepted ones: another configuration of the same method."""
    branch = tmp_path / "branch"
    shutil.copytree(accepted / "tiny" / "place", branch / "tiny" / "place")
    for path in branch.rglob("*.json"):
        record = read_record(path)
        identity = record.identity.model_copy(update={"method_config": {"changed": True}})
        path.write_text(
            record.model_copy(update={"identity": identity, "cell_id": identity.cell_id()}).to_json()
        )
    done = medbench(f"{accepted}:place", f"{branch}:place")
    assert done.exit_code == 0, done.output
    assert f"| A: {accepted}:place" in done.stdout
    assert done.stdout.count("no difference beyond noise") == 2


def test_several_configurations_are_told_apart(accepted: Path, tmp_path: Path) -> None:
    both = shutil.copytree(accepted, tmp_path / "both")
    for path in sorted((both / "tiny/place/rsna_lp").glob("1pct-*.json")):
        record = read_record(path)
        identity = record.identity.model_copy(update={"method_config": {"changed": True}})
        other = record.model_copy(update={"identity": identity, "cell_id": identity.cell_id()})
        (path.parent / f"other-{path.name}").write_text(other.to_json())
    done = medbench("random", "place", "--results", both, "--fraction", "1%")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| rsna_lp")]
    assert len(rows) == 2
    assert all("(place #" in row for row in rows)


def test_what_one_side_lacks_and_what_is_not_alike_is_said(accepted: Path, tmp_path: Path) -> None:
    here = shutil.copytree(accepted, tmp_path / "here")
    for path in (here / "tiny/place/rsna_lp").glob("10pct-*.json"):
        path.unlink()
    for path in (here / "tiny/place/rsna_lp").glob("1pct-*.json"):
        record = read_record(path)
        identity = record.identity.model_copy(update={"split_sha256": "0" * 64})
        path.write_text(
            record.model_copy(update={"identity": identity, "cell_id": identity.cell_id()}).to_json()
        )
    done = medbench("clip", "place", "--results", here)
    assert "not comparable: different test sets: mgca_cls " in done.stdout
    assert "and mgca_cls 000000000000" in done.stdout
    assert "not comparable: place has no record" in done.stdout
    assert "adjusted for the 0 comparisons" in done.stdout


def test_mistakes_are_told(accepted: Path, tmp_path: Path) -> None:
    done = medbench("plase", "random", "--results", accepted)
    assert done.exit_code == 2
    assert f"plase: no record of plase in {accepted}. Did you mean 'place'?" in done.stderr
    assert "Methods there: clip, place, random." in done.stderr
    done = medbench("nowhere:place", "random", "--results", accepted)
    assert done.exit_code == 2
    assert "expected METHOD or DIR:METHOD with a results folder DIR; nowhere is no folder" in done.stderr
    done = medbench(f"{accepted}:", "random", "--results", accepted)
    assert "no method is named" in done.stderr
    done = medbench("clip", "place", "--results", accepted, "-t", "siim_seg")
    assert done.exit_code == 2
    assert "Nothing to compare: clip and place have no record with this task" in done.stderr
    done = medbench("clip", "place", "--results", tmp_path / "nowhere")
    assert done.exit_code == 2
