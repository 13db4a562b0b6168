"""The tables of benchmarks/methods.py and benchmarks/ablations.py, from records made by hand."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from medbench.records import (
    Corpus,
    Counts,
    Identity,
    MetricValue,
    Predictions,
    Record,
    ResultStore,
    Times,
    WeightsIdentity,
    WeightsInfo,
)

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
METRICS = {"rsna_lp": "auroc", "rsna_det": "map_40_75"}


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def script(name: str) -> Any:
    return importlib.import_module(name)


def made(
    method: str, task: str, fraction: float, seed: int, value: float, top1: float | None = None, **config: Any
) -> Record:
    pretrained = method != "random"
    corpus = Corpus(dataset="mimic_cxr", source="phantom", fingerprint="c") if pretrained else None
    history = [{"validation": {"image_to_report_top1": 0.0}}, {"validation": {"image_to_report_top1": top1}}]
    identity = Identity(
        method=method,
        method_owner="medbench",
        fidelity="paper" if pretrained else "baseline",
        task=task,
        task_version=1,
        task_owner="medbench 0",
        recipe="tiny",
        precision="32",
        fraction=fraction,
        seed=seed,
        source="phantom",
        dataset="rsna",
        subset=None,
        data_fingerprint="d",
        split="s",
        split_sha256="s",
        train_sha256=f"{fraction} {seed}",
        weights=WeightsIdentity(
            kind="pretrained" if pretrained else "untrained", key=f"{method} {seed}", corpus=corpus
        ),
        method_config=config,
        task_config={},
    )
    return Record(
        cell_id=identity.cell_id(),
        status="ok",
        identity=identity,
        primary_metric=METRICS[task],
        metrics=[MetricValue(name=METRICS[task], value=value, interval="none", n=9)],
        counts=Counts(train=1, train_patients=1, validation=1, test=9),
        weights=WeightsInfo(
            sha256="w", info={"history": history, "best_epoch": 1} if top1 is not None else {"epochs": 0}
        ),
        predictions=Predictions(path="p", sha256=f"{method} {task} {fraction} {seed}", rows=9),
        config_sha256="f",
        times=Times(created="2026-01-01T00:00:00+00:00", duration_s=1.0),
    )


def board() -> list[Record]:
    records = []
    for seed in (0, 1, 2):
        for fraction in (0.01, 1.0):
            records.append(made("random", "rsna_lp", fraction, seed, 0.5 + seed / 100))
            records.append(made("clip", "rsna_lp", fraction, seed, 0.7 + seed / 50, 0.2 + seed / 10))
    records.append(made("clip", "rsna_det", 0.1, 0, 0.25, 0.2))
    return records


def cells(table: str, row: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {row}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_of_methods() -> None:
    table = script("methods").table(board())
    assert cells(table, "method") == [
        *("method", "retrieval", "rsna_lp, auroc at 1% / 100%", "rsna_lp over random at 1%"),
        *("rsna_det, map_40_75 at 10%", "rsna_det over random at 10%"),
    ]
    assert cells(table, "random") == [
        *("random (baseline)", "n/a", "51.0 ± 1.0 / 51.0 ± 1.0 (3 seeds)", "–", "–", "–")
    ]
    assert cells(table, "clip") == [
        *(
            "clip (paper)",
            "30.0 ± 10.0 (3 seeds)",
            "72.0 ± 2.0 / 72.0 ± 2.0 (3 seeds)",
            "+21.0 ± 1.0",
            "25.0",
            "–",
        )
    ]
    assert "PHANTOM" in table


def test_two_configurations_of_a_method_are_two_rows() -> None:
    records = [*board(), made("clip", "rsna_lp", 0.01, 0, 0.9, 0.1, temperature=1)]
    assert script("methods").table(records).count("| clip (paper) #") == 2


def test_no_records_make_no_table(tmp_path: Path) -> None:
    tables = script("tables")
    assert script("methods").table(tables.read(tmp_path, "tiny")) == ""
    assert script("ablations").table(tmp_path, {"part": {"method.a": "0"}}, "tiny") == ""


def test_the_table_of_ablations(tmp_path: Path) -> None:
    for folder, drop in (("whole", 0.0), ("without-part", 0.05)):
        for record in board():
            if record.identity.method == "clip" and record.identity.task == "rsna_lp":
                value = record.metrics[0].value
                assert value is not None
                less = record.metrics[0].model_copy(update={"value": value - drop})
                ResultStore(tmp_path / folder).write(record.model_copy(update={"metrics": [less]}))
    table = script("ablations").table(
        tmp_path, {"part": {"method.a": "0"}, "other": {"method.b": "0"}}, "tiny"
    )
    assert cells(table, "whole")[1:] == ["", "72.0 ± 2.0 (3 seeds)", "", "72.0 ± 2.0 (3 seeds)", ""]
    assert cells(table, "without part")[1:3] == ["`method.a=0`", "67.0 ± 2.0 (3 seeds)"]
    assert cells(table, "without part")[3] in ("-5.0 ± 0.0", "-5.0 ± 0.0")
    assert cells(table, "without other")[2:] == ["–", "–", "–", "–"]


def test_a_block_is_added_once_and_then_replaced(tmp_path: Path) -> None:
    tables, page = script("tables"), tmp_path / "page.md"
    page.write_text("# Page\n\nwords\n")
    assert tables.block(page, "methods") is None
    tables.write(page, "methods", "| old |", "Measured")
    page.write_text(page.read_text() + "\nmore words\n")
    tables.write(page, "methods", "| new |", "Measured")
    assert tables.block(page, "methods") == "| new |"
    assert page.read_text() == (
        "# Page\n\nwords\n\n## Measured\n\n<!-- table: methods -->\n| new |\n<!-- end of table -->\n\nmore words\n"
    )


def test_a_part_that_fails_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = script("grid")
    program = "import sys; sys.exit(4 if 'bad' in sys.argv else 0)"
    monkeypatch.setattr(grid, "_PROGRAM", (sys.executable, "-c", program))
    parts = [grid.Part(name, ("rsna_lp",), tmp_path) for name in ("bad", "good")]
    assert [part.method for part in grid.run(parts)] == ["bad"]
    log = capfd.readouterr().err
    assert "[2/2] medbench run --method good --task rsna_lp --fraction all --seed 0,1,2 --recipe tiny" in log
    assert "bad: exit code 4" in log


def test_the_commands_are_ones_that_the_program_knows(tmp_path: Path) -> None:
    from typer.main import get_command

    from medbench.cli import app

    grid = script("grid")
    part = grid.Part("place", ("rsna_lp",), tmp_path, "0", "micro", "1%,100%", {"method.cce_weight": "0"})
    for verb in ("plan", "run"):
        words = part.words(verb)
        values = get_command(app).commands[words[0]].make_context(verb, words[1:]).params  # type: ignore[attr-defined]
        assert list(values["overrides"]) == ["method.cce_weight=0"]
        assert list(values["fraction"]) == ["1%,100%"]


def test_the_page_shows_what_the_committed_records_say() -> None:
    methods, tables = script("methods"), script("tables")
    records = tables.read(BENCHMARKS / "results" / "methods", "tiny")
    page = BENCHMARKS.parent / "docs" / "methods.md"
    assert tables.block(page, methods.BLOCK) == methods.table(records)
