"""Metrics computed again from predictions: what is equal, what is not and why; records stay as they are."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from medbench.cli import app
from medbench.plugins import Catalogue, load_catalogue
from medbench.records import (
    MetricValue,
    Record,
    ResultStore,
    read_predictions,
    read_record,
    sha256_file,
)
from medbench.rescore import compare, rescore, rows, score_again, write
from medbench.scoring import Scores
from medbench.task import Metric
from medbench.verify import verify_record

pytestmark = pytest.mark.usefixtures("medbench_home")

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"
CELLS = "tiny/random/rsna_lp"
VERSION = load_catalogue(third_party=False).tasks["rsna_lp"].version


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, cut_records: Callable[[Path, Iterable[Path]], Path]
) -> Path:
    """Three accepted records, of the first sixty of their predictions, as if the installed task had made them."""
    return cut_records(tmp_path_factory.mktemp("made"), sorted((ACCEPTED / CELLS).glob("*-s0-*.json")))


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return shutil.copytree(made, tmp_path / "results")


@pytest.fixture
def one(results: Path) -> Path:
    return next((results / CELLS).glob("1pct-s0-*.json"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def medbench(*words: object) -> Result:
    return CliRunner().invoke(app, ["results", "rescore", *map(str, words)])


def verdicts(path: Path, catalogue: Catalogue | None = None) -> dict[str, str]:
    done = rescore(path, catalogue or load_catalogue(third_party=False))
    assert done.problem == ""
    return {each.name: each.verdict for each in done.comparisons}


def test_an_accepted_record_is_what_the_code_gives() -> None:
    found = verdicts(next((ACCEPTED / CELLS).glob("1pct-s0-*.json")))
    assert set(found.values()) == {"equal"}


def test_what_is_equal_is_shown_and_costs_nothing(results: Path) -> None:
    done = medbench()
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split()[:7] == ["method", "task", "labels", "seed", "metric", "recorded", "now"]
    assert sum(" auroc " in line and line.endswith("equal") for line in lines) == 3
    assert lines[-1].startswith("3 records, ")


def test_no_image_no_weight_and_no_encoder_is_read(one: Path) -> None:
    """The record alone with its predictions, moved away from everything else."""
    alone = one.parents[4] / "alone"
    alone.mkdir()
    for suffix in (".json", ".parquet"):
        shutil.copy(one.with_suffix(suffix), alone / f"record{suffix}")
    edit(
        alone / "record.json",
        predictions=json.loads(one.read_text())["predictions"] | {"path": "record.parquet"},
    )
    done = medbench(alone / "record.json", "--json")
    assert done.exit_code == 0, done.output
    [found] = json.loads(done.stdout)
    auroc = next(metric for metric in found["metrics"] if metric["name"] == "auroc")
    assert (auroc["verdict"], auroc["difference"]) == ("equal", 0.0)
    assert auroc["now"] == auroc["recorded"]


@pytest.mark.parametrize("part", ["value", "low", "high", "n"])
def test_a_number_that_was_edited_is_told_and_costs_the_exit_code(part: str, one: Path) -> None:
    metrics = json.loads(one.read_text())["metrics"]
    metrics[0][part] = metrics[0][part] + (1 if part == "n" else 1e-9)
    edit(one, metrics=metrics)
    before = one.read_bytes()
    done = medbench(one)
    assert done.exit_code == 3
    assert f"changed: {part} " in done.stdout
    assert one.read_bytes() == before


def test_a_difference_within_rounding_is_none(one: Path) -> None:
    metrics = json.loads(one.read_text())["metrics"]
    metrics[0]["value"] += 1e-13
    edit(one, metrics=metrics)
    assert verdicts(one)["auroc"] == "equal"


def test_another_version_of_a_metric_explains_a_difference(one: Path) -> None:
    metrics = json.loads(one.read_text())["metrics"]
    metrics[0] |= {"value": 0.123, "version": 99}
    edit(one, metrics=metrics)
    done = medbench(one)
    assert done.exit_code == 0
    assert "another version: version 99 of the metric recorded, 1 installed; value 0.123 -> 0." in done.stdout


def test_another_version_of_the_task_explains_a_difference(one: Path) -> None:
    content = json.loads(one.read_text())
    content["metrics"][0]["value"] = 0.5
    content["identity"]["task_version"] = 77
    one.write_text(json.dumps(content))
    assert verdicts(one)["auroc"] == "another version"
    assert "changed" not in verdicts(one).values()
    assert f"version 77 of the task recorded, {VERSION} installed" in medbench(one).stdout


def test_what_the_record_lacks_is_new_and_what_the_code_lacks_is_gone(one: Path) -> None:
    metrics = json.loads(one.read_text())["metrics"]
    metrics[0]["name"] = "older"
    edit(one, metrics=metrics)
    found = verdicts(one)
    assert (found["auroc"], found["older"]) == ("new", "gone")
    assert medbench(one).exit_code == 3


def test_predictions_that_are_missing_or_were_changed_are_named(results: Path) -> None:
    one, two = sorted((results / CELLS).glob("*.json"))[:2]
    one.with_suffix(".parquet").unlink()
    table = pd.read_parquet(two.with_suffix(".parquet"))
    table["score_pneumonia"] += 1
    table.to_parquet(two.with_suffix(".parquet"))
    done = medbench(results)
    assert done.exit_code == 3
    assert f"{one.with_suffix('.parquet').name} are not beside it" in done.stdout
    assert f"{two.with_suffix('.parquet')}: SHA-256" in done.stdout
    assert "3 records, " in done.stdout  # the other one is done nevertheless


def test_a_task_that_is_not_installed_and_one_that_can_not_score_are_named(one: Path) -> None:
    catalogue = load_catalogue(third_party=False)
    spec = catalogue.tasks["rsna_lp"]
    without = replace(catalogue, tasks={})
    assert "the task rsna_lp is not installed (it came with medbench" in rescore(one, without).problem
    broken = replace(catalogue, tasks={"rsna_lp": replace(spec, target="nowhere:Task")})
    assert rescore(one, broken).problem


def test_a_file_that_is_no_record_is_named(one: Path) -> None:
    one.write_text("{}")
    done = medbench(one)
    assert done.exit_code == 3
    assert "not a medbench.result/1 record" in done.stdout


def test_rescored_records_are_written_as_a_results_folder_of_their_own(results: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    one = next((results / CELLS).glob("1pct-s0-*.json"))
    metrics = json.loads(one.read_text())["metrics"]
    metrics[0] |= {"value": 0.123, "version": 99}
    edit(one, metrics=metrics)
    before[one] = one.read_bytes()
    out = tmp_path / "again"
    assert medbench(results, "--out", out).exit_code == 0
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    assert {path.relative_to(out) for path in ResultStore(out).files()} == {
        path.relative_to(results) for path in ResultStore(results).files()
    }
    made = read_record(out / one.relative_to(results))
    old = read_record(one)
    assert (made.cell_id, made.identity, made.search) == (old.cell_id, old.identity, old.search)
    assert made.environment["rescored"]["record_sha256"] == sha256_file(one)
    assert made.metrics[0].version == 1
    assert verdicts(out / one.relative_to(results))["auroc"] == "equal"
    runner = CliRunner()
    board = runner.invoke(app, ["leaderboard", "--results", str(out)])
    assert board.exit_code == 0
    assert "random (baseline)" in board.stdout
    again = runner.invoke(app, ["results", "verify", "--results", str(out)])
    assert again.exit_code == 0, again.stdout
    done = medbench(results, "--out", out)
    assert done.exit_code == 3
    assert "there is a record of this cell already" in done.stderr


def test_numbers_of_another_version_of_the_task_are_shown_and_not_written(
    results: Path, tmp_path: Path
) -> None:
    """Nor is anything else of that call."""
    one = sorted((results / CELLS).glob("*.json"))[-1]
    content = json.loads(one.read_text())
    content["identity"]["task_version"] = 77
    one.write_text(json.dumps(content))
    assert medbench(results).exit_code == 0
    out = tmp_path / "again"
    done = medbench(results, "--out", out)
    assert done.exit_code == 3
    assert f"version 77 of rsna_lp, and version {VERSION} is installed" in done.stderr
    assert not out.exists()


def test_what_can_not_be_written_is_told_before_anything_is(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    last = sorted((results / CELLS).glob("*.json"))[-1]
    assert medbench(last, "--out", out).exit_code == 0
    assert medbench(results, "--out", out).exit_code == 3
    assert len(list(ResultStore(out).files())) == 1
    done = medbench(last, last, "--out", tmp_path / "twice")
    assert done.exit_code == 3
    assert "several of the records are of this cell" in done.stderr
    assert not (tmp_path / "twice").exists()


def test_skipped_records_have_nothing_to_score_and_are_copied(one: Path, tmp_path: Path) -> None:
    content = json.loads(one.read_text()) | {
        "status": "skipped",
        "reason": "few",
        "metrics": [],
        "search": {},
    }
    content["predictions"] = None
    one.write_text(json.dumps(content))
    done = medbench(one, "--out", tmp_path / "again")
    assert done.exit_code == 0
    assert done.stdout.strip() == "1 records, 0 numbers"
    [made] = ResultStore(tmp_path / "again").records()
    assert (made.status, made.reason) == ("skipped", "few")


def test_paths_that_are_not_there(tmp_path: Path) -> None:
    assert medbench(tmp_path / "nowhere").exit_code == 2
    assert f"No records in {tmp_path}" in medbench(tmp_path).stderr


def test_values_that_are_not_defined_and_classes_are_compared(one: Path) -> None:
    record = read_record(one)

    def metric(value: float | None, **classes: float | None) -> MetricValue:
        return MetricValue(name="m", value=value, interval="", n=1, per_class=classes)

    def verdict(old: MetricValue, now: MetricValue) -> tuple[str, str, float | None]:
        changed: Record = record.model_copy(update={"metrics": [old], "reliability": []})
        [found] = compare(changed, Scores([now], [], []), record.identity.task_version)
        return found.verdict, found.what, found.difference

    assert verdict(metric(None), metric(None)) == ("equal", "", None)
    assert verdict(metric(None), metric(0.5)) == ("changed", "value None -> 0.5", None)
    assert verdict(metric(0.5, a=0.1), metric(0.5, a=0.1)) == ("equal", "", 0.0)
    assert verdict(metric(0.5, a=0.1), metric(0.5, a=0.2)) == ("changed", "a 0.1 -> 0.2", 0.0)
    assert verdict(metric(0.5), metric(0.5, a=None)) == ("changed", "a None -> None", 0.0)


def test_one_record_that_can_not_be_scored_costs_itself(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any, predictions: pd.DataFrame) -> Sequence[Metric]:
        raise KeyError("score_pneumonia")

    monkeypatch.setattr("medbench.protocols.classification.Classification.score", fails)
    done = rescore(one, load_catalogue(third_party=False))
    assert done.problem == "its predictions can not be scored (KeyError: 'score_pneumonia')"
    assert done.wrong


@pytest.fixture
def grouped(one: Path, results: Path, tmp_path: Path) -> Path:
    """A record whose patients have a sex, in a results folder of its own."""
    record = read_record(one)
    predictions = read_predictions(one, record)
    predictions["sex"] = np.where(np.arange(len(predictions)) % 3, "F", "M")
    scores = score_again(record, predictions, load_catalogue(third_party=False))
    blocks = {name: list(getattr(scores, name)) for name in ("metrics", "subgroups", "reliability")}
    shutil.copytree(results / "splits", tmp_path / "grouped" / "splits")
    store = ResultStore(tmp_path / "grouped")
    assert record.draws is not None
    written = store.write(
        record.model_copy(update=blocks), predictions, scores.bootstrap, record.draws.delong_se
    )
    return store.path(written.identity, written.cell_id)


def test_groups_worst_groups_and_diagrams_are_computed_again(grouped: Path, tmp_path: Path) -> None:
    catalogue, path = load_catalogue(third_party=False), grouped
    written = read_record(path)
    done = rescore(path, catalogue)
    names = {each.name: each.verdict for each in done.comparisons}
    assert set(names.values()) == {"equal"}
    assert {"auroc", "auroc [sex F]", "auroc [sex M]", "auroc [worst sex]"} <= names.keys()
    assert any(name.startswith("reliability [") for name in names)
    assert not any("[" in row["metric"] for row in rows(done))  # equal ones are not printed one by one

    content = json.loads(path.read_text())
    content["subgroups"][0]["groups"][0]["metrics"][0]["value"] = 0.123
    path.write_text(json.dumps(content))
    done = rescore(path, catalogue)
    assert done.wrong
    assert [row["metric"] for row in rows(done) if "changed" in row[""]] == ["auroc [sex F]"]
    write(done, ResultStore(tmp_path / "again"))
    [made] = ResultStore(tmp_path / "again").records()
    assert made.subgroups == written.subgroups and made.reliability == written.reliability


def raise_value(record: dict[str, Any]) -> None:
    record["subgroups"][0]["groups"][0]["metrics"][0]["value"] = 0.9999


def raise_count(record: dict[str, Any]) -> None:
    record["subgroups"][0]["groups"][0]["samples"] += 1


def rename_worst(record: dict[str, Any]) -> None:
    record["subgroups"][0]["spreads"][0]["worst_group"] = "X"


def drop_group(record: dict[str, Any]) -> None:
    record["subgroups"][0]["groups"].pop()


def drop_block(record: dict[str, Any]) -> None:
    record["subgroups"].clear()


def add_block(record: dict[str, Any]) -> None:
    record["subgroups"].append(record["subgroups"][0] | {"column": "view"})


def repeat_block(record: dict[str, Any]) -> None:
    record["subgroups"].insert(0, record["subgroups"][0])


def change_note(record: dict[str, Any]) -> None:
    record["reliability"][0]["reason"] = "because"


def drop_diagrams(record: dict[str, Any]) -> None:
    record["reliability"].clear()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (raise_value, "subgroups sex: groups F metrics auroc value 0.9999 recorded, "),
        (raise_count, "subgroups sex: groups F samples "),
        (rename_worst, "subgroups sex: spreads auroc worst_group X recorded, "),
        (drop_group, "subgroups sex: groups "),
        (drop_block, "blocks recorded: reliability "),
        (add_block, "blocks recorded: subgroups sex, subgroups view, "),
        (repeat_block, "blocks recorded: subgroups sex, subgroups sex, "),
        (change_note, "reliability pneumonia width: reason because recorded, "),
        (drop_diagrams, "blocks recorded: subgroups sex; computed: "),
    ],
)
def test_verify_finds_every_change_of_a_block(
    change: Callable[[dict[str, Any]], None], expected: str, grouped: Path
) -> None:
    catalogue, store = load_catalogue(third_party=False), ResultStore(grouped.parents[3])
    if change is raise_value:
        assert verify_record(grouped, store, catalogue) == []
    content = json.loads(grouped.read_text())
    change(content)
    grouped.write_text(json.dumps(content))
    [wrong] = verify_record(grouped, store, catalogue)
    assert wrong.startswith(expected)
