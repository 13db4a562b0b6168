"""The whole way of the data, in seconds: phantom -> pretraining -> head -> record, on the micro recipe.

The grid is the catalogue's, so a method or task is in it by being declared.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medbench.cells import cells_table
from medbench.errors import DataError, MedbenchError, UsageError, WeightsError
from medbench.lease import Leases
from medbench.plugins import load_catalogue
from medbench.records import Record, ResultStore
from medbench.request import RunRequest
from medbench.runner import LEASES, RunOutcome, pretrain, run

CATALOGUE = load_catalogue(third_party=False)
METHODS = sorted(name for name, spec in CATALOGUE.methods.items() if not spec.released_only)
TASKS = {name: spec for name, spec in sorted(CATALOGUE.tasks.items()) if not spec.family}

EVERYWHERE = ("rsna_det", "rsna_lp")
"""Tasks that every method runs by default; `place`, which serves all tasks, runs one of each protocol."""


def of_each_protocol() -> list[str]:
    """One task a protocol and variant: that on the films of RSNA where there is one."""
    found: dict[str, str] = {}
    for task in sorted(TASKS, key=lambda name: (not name.startswith("rsna"), name)):
        found.setdefault(task.removeprefix(TASKS[task].dataset), task)
    return sorted(found.values())


def grid() -> list[Any]:
    """Every method on every task that it serves; by default a part of it, each night all."""
    quick = {(method, task) for method in METHODS for task in EVERYWHERE}
    quick |= {("place", task) for task in of_each_protocol()}
    return [
        pytest.param(method, task, marks=[] if (method, task) in quick else pytest.mark.nightly)
        for method in METHODS
        for task, spec in TASKS.items()
        if spec.needs <= CATALOGUE.methods[method].provides
    ]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the module: phantoms are written and films decoded once."""
    return tmp_path_factory.mktemp("cache")


def request(cache: Path, results: Path, method: str, task: str, **changes: Any) -> RunRequest:
    return RunRequest(
        (method,), (task,), results=results, cache=cache, recipe="micro", device="cpu", quiet=True, **changes
    )


def contents(results: Path) -> dict[str, Any]:
    """Every file of a results folder by its name; records without their times."""
    found: dict[str, Any] = {}
    for path in sorted(p for p in results.rglob("*") if p.is_file()):
        name = str(path.relative_to(results))
        if path.suffix == ".json" and "splits" not in path.parts:
            record = json.loads(path.read_text())
            record.pop("times")
            found[name] = record
        else:
            found[name] = path.read_bytes()
    return found


@pytest.mark.parametrize(("method", "task"), grid())
def test_every_method_runs_every_task(method: str, task: str, cache: Path, tmp_path: Path) -> None:
    outcome = run(request(cache, tmp_path, method, task), CATALOGUE)
    records = {record.identity.fraction: record for record in outcome.records}
    assert tuple(records) == (TASKS[task].fractions or (1.0,))
    if 0.01 in records:  # a patient or two of the micro phantom: recorded as skipped, with the reason
        skipped = records.pop(0.01)
        assert skipped.status == "skipped"
        assert "at least 8" in (skipped.reason or "")
    assert records[1.0].status == "ok"
    for record in records.values():
        if record.status == "skipped":  # a tenth of a small phantom can be too few, too
            assert record.reason
            continue
        assert record.status == "ok", record.error
        primary = record.primary
        assert primary is not None
        if primary.value is None:  # `map_mgca` where no box is confident enough
            assert primary.reason
            continue
        assert 0 <= primary.value <= 1
        if primary.low is None or primary.high is None:
            assert primary.reason
            continue
        assert primary.low <= primary.value <= primary.high
        assert record.identity.source == "phantom" and record.identity.subset is None
        assert record.predictions is not None and record.predictions.rows > 0


def test_a_baseline_stands_beside_what_was_pretrained(cache: Path, tmp_path: Path) -> None:
    wanted = replace(request(cache, tmp_path, "clip", "rsna_lp"), methods=("clip", "random"))
    table = cells_table(run(wanted, CATALOGUE).records)
    assert table.count("| method") == 1
    assert "recipe micro; rsna; clip: pretrained on phantom mimic_cxr; random: untrained" in table
    assert "random rsna_lp 1%, seed 0: skipped: " in table


@pytest.mark.gpu
@pytest.mark.parametrize("task", of_each_protocol())
def test_the_main_job_on_a_gpu(task: str, cache: Path, tmp_path: Path) -> None:
    wanted = RunRequest(
        ("place",), (task,), results=tmp_path, cache=cache, recipe="micro", device="cuda", quiet=True
    )
    outcome = run(wanted, CATALOGUE)
    assert outcome.records[-1].status == "ok" and not outcome.failed
    assert all(record.environment["device"]["type"] == "cuda" for record in outcome.records)


def test_what_is_done_is_not_done_again(cache: Path, tmp_path: Path) -> None:
    first = run(request(cache, tmp_path, "random", "rsna_lp"), CATALOGUE)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    second = run(request(cache, tmp_path, "random", "rsna_lp"), CATALOGUE)
    assert second.records == first.records
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "task",
    [
        "rsna_lp",
        *(
            pytest.param(task, marks=pytest.mark.slow)
            for task in ("rsna_det", "rsna_seg", "rsna_ft", "rsna_zs")
        ),
    ],
)
def test_the_same_seed_gives_the_same_bytes(task: str, tmp_path: Path) -> None:
    for name in "ab":  # nothing shared: each writes its phantom, pretrains, trains
        run(request(tmp_path / name / "cache", tmp_path / name / "results", "place", task), CATALOGUE)
    assert contents(tmp_path / "a" / "results") == contents(tmp_path / "b" / "results")


def test_another_seed_is_another_cell(cache: Path, tmp_path: Path) -> None:
    outcome = run(request(cache, tmp_path, "random", "rsna_lp", seeds=(0, 1), fractions=(0.1,)), CATALOGUE)
    one, two = outcome.records
    assert one.cell_id != two.cell_id
    assert one.identity.train_sha256 != two.identity.train_sha256
    assert one.predictions is not None and two.predictions is not None
    assert one.predictions.sha256 != two.predictions.sha256


def test_metrics_can_be_computed_again_from_the_predictions(cache: Path, tmp_path: Path) -> None:
    from medbench.records import read_predictions

    run(request(cache, tmp_path, "random", "rsna_lp"), CATALOGUE)
    store = ResultStore(tmp_path)
    for path, record in zip(store.files(), store.records(), strict=True):
        if record.status == "ok":
            task = CATALOGUE.make_task(CATALOGUE.lookup_task(record.identity.task), "micro")
            again = task.score(read_predictions(path, record))
            assert [(m.name, m.value, m.low, m.high) for m in again] == [
                (m.name, m.value, m.low, m.high) for m in record.metrics
            ]


def test_a_record_does_not_depend_on_what_ran_beside_it(cache: Path, tmp_path: Path) -> None:
    both = RunRequest(
        ("random",),
        ("rsna_det", "rsna_lp"),
        tmp_path / "both",
        cache,
        recipe="micro",
        device="cpu",
        quiet=True,
    )
    run(both, CATALOGUE)
    for task in both.tasks:
        run(request(cache, tmp_path / "each", "random", task), CATALOGUE)
    assert contents(tmp_path / "both") == contents(tmp_path / "each")


def test_an_encoder_of_given_weights_has_no_seed(cache: Path, tmp_path: Path) -> None:
    wanted = request(cache, tmp_path, "imagenet", "rsna_knn", seeds=(0, 1), fractions=(0.1, 1.0))
    seeds = {(r.identity.fraction, r.identity.seed): r for r in run(wanted, CATALOGUE).records}
    assert set(seeds) == {(0.1, 0), (0.1, 1), (1.0, None)}
    assert len({record.identity.weights.key for record in seeds.values()}) == 1
    assert all(r.weights is not None and "seed" not in r.weights.info for r in seeds.values())
    drawn = run(replace(wanted, methods=("random",), fractions=(1.0,)), CATALOGUE).records
    assert {record.identity.seed for record in drawn} == {0, 1}


def test_finished_weights_are_used_as_they_are(cache: Path, tmp_path: Path) -> None:
    pretrained = request(cache, tmp_path / "a", "clip", "rsna_lp")
    first = run(pretrained, CATALOGUE)
    (folder,) = pretrain(pretrained, CATALOGUE)
    given = replace(
        pretrained, results=tmp_path / "b", checkpoint=str(folder), seeds=(0, 1), fractions=(1.0,)
    )
    (record,) = run(given, CATALOGUE).records  # no seed can change it, so two seeds are one cell
    assert record.identity.seed is None and record.identity.weights.kind == "checkpoint"
    assert record.metrics == first.records[-1].metrics
    for wrong, message in (
        ({"methods": ("place",)}, "weights of the method `clip`"),
        ({"recipe": "tiny"}, "pretrained with recipe micro"),
        ({"overrides": {"method.embed": "8"}}, "--set changes what is pretrained"),
        ({"checkpoint": "nowhere"}, "found nothing there"),
    ):
        with pytest.raises(MedbenchError, match=message):
            run(replace(given, **wrong), CATALOGUE)  # type: ignore[arg-type]  # fields of several types


@pytest.mark.parametrize("corpus", [{"dataset": 1}, 5, {}])
def test_weights_whose_corpus_can_not_be_read(corpus: object, cache: Path, tmp_path: Path) -> None:
    wanted = request(cache, tmp_path / "results", "clip", "rsna_lp")
    (folder,) = pretrain(wanted, CATALOGUE)
    shutil.copytree(folder, tmp_path / "weights")
    about = json.loads((tmp_path / "weights" / "weights.json").read_text())
    (tmp_path / "weights" / "weights.json").write_text(json.dumps(about | {"corpus": corpus}))
    with pytest.raises(WeightsError, match="says of the corpus can not be read"):
        run(replace(wanted, checkpoint=str(tmp_path / "weights")), CATALOGUE)


def test_what_others_compute_is_left_to_them_and_waited_for(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.planner.Group.claim", lambda group: group.spec.name)
    wanted = request(cache, tmp_path, "random", "rsna_knn", fractions=(0.1,))
    wanted = replace(wanted, tasks=("rsna_knn", "rsna_lp"), quiet=False)
    others = Leases(tmp_path / LEASES).claim("rsna_knn")
    assert others is not None
    said, waited = "", time.monotonic() + 120
    with ThreadPoolExecutor(1) as pool:
        with others:
            outcome = pool.submit(run, wanted, CATALOGUE)
            while "computed by other processes; waiting for them" not in said:
                assert time.monotonic() < waited, said
                time.sleep(0.05)
                said += capfd.readouterr().err
            assert [record.identity.task for record in ResultStore(tmp_path).records()] == ["rsna_lp"]
        records = outcome.result().records
    assert [(record.identity.task, record.status) for record in records] == [
        ("rsna_knn", "ok"),
        ("rsna_lp", "ok"),
    ]


def test_a_plan_that_turns_out_void_leaves_no_record(test_data: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copytree(test_data / "rsna_layout", tmp_path / "films")
    broken = sorted((tmp_path / "films").rglob("*.dcm"))[7]
    broken.write_bytes(broken.read_bytes()[:6000])
    wanted = request(cache, tmp_path / "results", "random", "rsna_lp", data={"rsna": tmp_path / "films"})
    with pytest.raises(DataError, match=broken.stem):
        run(wanted, CATALOGUE)
    assert ResultStore(wanted.results).records() == []
    outcome = run(replace(wanted, exclude_broken=True), CATALOGUE)
    assert len(ResultStore(wanted.results).records()) == len(outcome.records) == 3


def test_a_released_encoder_is_evaluated_and_its_file_is_in_the_record(cache: Path, tmp_path: Path) -> None:
    import torch

    from medbench.files import sha256_file
    from medbench.importing import import_released
    from medbench_methods.released.encoder import ReleasedEncoder

    wanted = request(cache, tmp_path / "results", "released", "rsna_lp", fractions=(1.0,))
    with pytest.raises(WeightsError, match=r"not trained here.*weights import FILE --method released"):
        run(wanted, CATALOGUE)
    source = ReleasedEncoder(ReleasedEncoder.recipes["micro"].config).model.image_encoder.body
    torch.save({"state_dict": {f"net.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "a.ckpt")
    small = {
        "method.backbone": "resnet18",
        "method.layers": "(1, 1, 1, 1)",
        "method.channels": "(32, 64, 128, 256)",
        "method.size": "64",
        "method.resize": "72",
    }
    imported = import_released(
        tmp_path / "a.ckpt", CATALOGUE.methods["released"], CATALOGUE, overrides=small, recipe="micro"
    )
    imported.save(tmp_path / "weights")
    (record,) = run(replace(wanted, checkpoint=str(tmp_path / "weights")), CATALOGUE).records
    assert record.status == "ok"
    assert record.identity.source == "mixed"  # real pretraining, phantom films: it enters no table
    assert record.identity.weights.corpus is not None
    assert record.identity.weights.corpus.dataset == "not stated"
    assert record.weights is not None
    assert record.weights.info["released"]["sha256"] == sha256_file(tmp_path / "a.ckpt")
    assert record.weights.info["released"]["coverage"]["missing"] == []
    assert record.identity.weights.key == record.weights.sha256


def test_overwrite_computes_again_and_keeps_the_old_record(cache: Path, tmp_path: Path) -> None:
    wanted = request(cache, tmp_path, "random", "rsna_lp", fractions=(1.0,))
    run(wanted, CATALOGUE)
    before = contents(tmp_path)
    run(replace(wanted, overwrite=True), CATALOGUE)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sum("superseded-1" in name for name in after) == 3  # the record, its predictions, its draws


def test_a_results_folder_that_is_a_file_is_answered_before_any_work(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(UsageError, match=r"results folder .* can not be made"):
        run(request(cache, tmp_path / "results", "random", "rsna_lp"), CATALOGUE)


def test_a_mistake_in_the_last_method_costs_nothing(test_data: Path, cache: Path, tmp_path: Path) -> None:
    wanted = request(cache, tmp_path, "random", "rsna_lp", data={"rsna": test_data / "rsna_layout"})
    with pytest.raises(DataError, match="no pretraining corpus"):
        run(replace(wanted, methods=("random", "place")), CATALOGUE)
    assert ResultStore(tmp_path).records() == []


# Interruptions.

KILLS = {
    "pretraining": lambda cache: any((cache / "weights").glob("*.partial/*.ckpt")),
    "detector": lambda cache: any((cache / "work").rglob("*.pt")),
}


def command(cache: Path, results: Path) -> list[str]:
    """`place` on `rsna_det`, long enough to be interrupted."""
    return [
        sys.executable, "-P", "-m", "medbench.cli", "run", "--method", "place", "--task", "rsna_det",
        "--recipe", "micro", "--device", "cpu", "--output", str(results), "--set", "pretrain.epochs=3",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    results = tmp_path_factory.mktemp("uninterrupted")
    subprocess.run(
        command(cache, results),
        env=os.environ | {"MEDBENCH_CACHE": str(cache)},
        check=True,
        capture_output=True,
    )
    return contents(results)


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(KILLS))
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on_and_ends_the_same(
    stage: str, how: signal.Signals, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    cache, results = tmp_path / "cache", tmp_path / "results"
    environment = os.environ | {"MEDBENCH_CACHE": str(cache)}
    with subprocess.Popen(
        command(cache, results), env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not KILLS[stage](cache) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, f"the run ended before its {stage} could be interrupted"
        process.send_signal(how)
        _, log = process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert process.returncode == 130
        assert b"run the same command again" in log
        assert b"Traceback" not in log
    subprocess.run(command(cache, results), env=environment, check=True, capture_output=True)
    assert contents(results) == uninterrupted


# What fails costs itself alone.


def outcome_states(outcome: RunOutcome) -> list[tuple[str, str]]:
    return [(r.identity.method, r.status) for r in outcome.records]


FAULTY = """
from medbench.hookspecs import hookimpl
from medbench.specs import MethodSpec
from medbench_methods.random import Random


class Faulty(Random):
    def __init__(self, *arguments, **named):
        raise RuntimeError("the planted fault")


@hookimpl
def medbench_methods():
    provides = frozenset({"image.pooled", "image.local", "image.pyramid"})
    yield MethodSpec("faulty", "faulty:Faulty", "raises", "none", provides, "baseline", pretrains=False)
"""


def test_a_method_that_raises_is_recorded_and_the_others_go_on(cache: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "faulty.py"
    plugin.write_text(FAULTY)
    catalogue = load_catalogue([str(plugin)])
    wanted = RunRequest(
        ("faulty", "random"),
        ("rsna_lp",),
        results=tmp_path / "results",
        cache=cache,
        recipe="micro",
        device="cpu",
        fractions=(1.0,),
        quiet=True,
    )
    outcome = run(wanted, catalogue)
    assert outcome_states(outcome) == [("faulty", "failed"), ("random", "ok")]
    error = outcome.records[0].error
    assert error is not None and error.message == "the planted fault" and "Traceback" in error.traceback
    assert outcome.failed == 1
    again = run(wanted, catalogue)  # a failed cell is tried again, a done one is not
    assert outcome_states(again) == [("faulty", "failed"), ("random", "ok")]
    assert len(ResultStore(wanted.results).failures()) == 2


# Real films.


def test_real_films_are_a_named_subset(test_data: Path, cache: Path, tmp_path: Path) -> None:
    wanted = request(cache, tmp_path, "random", "rsna_lp", data={"rsna": test_data / "rsna_layout"})
    outcome = run(wanted, CATALOGUE)
    states = {r.identity.fraction: r.status for r in outcome.records}
    assert states == {0.01: "skipped", 0.1: "ok", 1.0: "ok"}
    record: Record = outcome.records[-1]
    assert record.identity.source == "real"
    assert record.identity.subset == "202 of 26,684"


@pytest.mark.parametrize("task", EVERYWHERE)
def test_real_films_and_notes_make_a_real_record(
    task: str, test_data: Path, cache: Path, tmp_path: Path
) -> None:
    wanted = request(
        cache,
        tmp_path,
        "place",
        task,
        data={"rsna": test_data / "rsna_layout"},
        corpus=f"table:{test_data / 'images_text' / 'metadata.csv'}",
        fractions=(1.0,),
    )
    (record,) = run(wanted, CATALOGUE).records
    assert record.status == "ok" and record.identity.source == "real"
    corpus = record.identity.weights.corpus
    assert corpus is not None and (corpus.dataset, corpus.source) == ("table", "real")


def test_a_phantom_corpus_under_real_films_is_mixed(test_data: Path, cache: Path, tmp_path: Path) -> None:
    wanted = request(
        cache,
        tmp_path,
        "clip",
        "rsna_lp",
        data={"rsna": test_data / "rsna_layout"},
        corpus="phantom",
        fractions=(1.0,),
    )
    (record,) = run(wanted, CATALOGUE).records
    assert record.identity.source == "mixed"
