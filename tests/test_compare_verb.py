"""`medbench compare`: what a user of it, or of CI, gets."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from medbench.cli import app
from medbench.records import Failure, read_record

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


def changed(path: Path, **parts: object) -> None:
    """Write the record there again, of another identity."""
    record = read_record(path)
    identity = record.identity.model_copy(update=parts)
    path.write_text(record.model_copy(update={"identity": identity, "cell_id": identity.cell_id()}).to_json())


@pytest.mark.parametrize("how", ["missing", "failed", "other data"])
def test_the_gate_is_shut_where_b_lost_a_row(accepted: Path, tmp_path: Path, how: str) -> None:
    """Though the other row compares and is no worse."""
    branch = shutil.copytree(accepted, tmp_path / "branch")
    for path in (branch / "tiny/place/rsna_lp").glob("10pct-*.json"):
        if how == "missing":
            path.unlink()
        elif how == "failed":
            record = read_record(path)
            error = Failure(type="OSError", message="disk full", traceback="")
            bare = {"status": "failed", "error": error, "metrics": [], "draws": None, "predictions": None}
            path.write_text(record.model_copy(update=bare).to_json())
        else:
            changed(path, split_sha256="0" * 64)
    done = medbench("place", f"{branch}:place", "--results", accepted, "--fail-on-regression")
    assert done.exit_code == 3
    assert "medbench: rsna_lp 10%: place has a value, not comparable: " in done.stderr
    assert "rsna_lp 10% could not be compared" in done.stderr
    assert done.stdout.count("no difference beyond noise") == 1
    # What B has and A lacks is no loss.
    turned = medbench(f"{branch}:place", "place", "--results", accepted, "--fail-on-regression")
    assert turned.exit_code == (3 if how == "other data" else 0)


def test_two_test_sets_of_a_task_are_two_lines(accepted: Path, tmp_path: Path) -> None:
    both = shutil.copytree(accepted, tmp_path / "both")
    for method in ("random", "place"):
        for path in sorted((both / "tiny" / method / "rsna_lp").glob("1pct-*.json")):
            other = path.with_name(f"other-{path.name}")
            shutil.copy(path, other)
            changed(other, split="mine", split_sha256="0" * 64)
    done = medbench("random", "place", "--results", both, "--fraction", "1%", "--json")
    found = json.loads(done.stdout)
    assert {line["split"].split(" ")[0] for line in found} == {"mgca_cls", "mine"}
    assert all(line["difference"]["seeds"] == [3, 3] for line in found)
    assert "rsna_lp on mine 000000000000" in medbench("random", "place", "--results", both).stdout


def test_two_records_of_one_seed_are_not_counted_twice(accepted: Path, tmp_path: Path) -> None:
    both = shutil.copytree(accepted, tmp_path / "both")
    path = min((both / "tiny/place/rsna_lp").glob("1pct-*.json"))
    other = path.with_name(f"other-{path.name}")
    shutil.copy(path, other)
    weights = read_record(path).identity.weights
    changed(other, weights=weights.model_copy(update={"key": "0" * 64}))
    done = medbench("random", "place", "--results", both, "--fraction", "1%")
    assert "keep the one that counts" in done.stdout
    assert "all place seed 0" in done.stdout
    gate = medbench("place", "random", "--results", both, "--fail-on-regression", "--fraction", "1%")
    assert gate.exit_code == 3


def test_contamination_and_small_test_sets_are_said(accepted: Path, tmp_path: Path) -> None:
    here = shutil.copytree(accepted, tmp_path / "here")
    for path in (here / "tiny/place/rsna_lp").glob("1pct-*.json"):
        record = read_record(path)
        counts = record.counts.model_copy(update={"split_leak": "3 patients are in both parts"})
        assert record.draws is not None
        draws = record.draws.model_copy(update={"positive_samples": 12})
        path.write_text(record.model_copy(update={"counts": counts, "draws": draws}).to_json())
    done = medbench("random", "place", "--results", here, "--fraction", "1%")
    assert "- rsna_lp 1%: contaminated: split mgca_cls: 3 patients are in both parts" in done.stdout
    assert "- rsna_lp 1%: small test set: fewer than 300 films or 40 positives" in done.stdout


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
