"""Records: written whole or not at all, found again, never edited."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.errors import DataError
from medbench.metrics.bootstrap import Bootstrap, Resample
from medbench.records import (
    SCHEMA,
    Corpus,
    Counts,
    Failure,
    Identity,
    MetricValue,
    Record,
    ResultStore,
    Times,
    WeightsIdentity,
    fraction_name,
    json_schema,
    read_draws,
    read_predictions,
    read_record,
    write_atomic,
)


def identity(**changes: Any) -> Identity:
    corpus = Corpus(dataset="mimic_cxr", source="phantom", fingerprint="f" * 64)
    content: dict[str, Any] = {
        "method": "place",
        "method_owner": "medbench 0.1.0",
        "fidelity": "reconstruction",
        "task": "rsna_lp",
        "task_version": 1,
        "task_owner": "medbench 0.1.0",
        "recipe": "tiny",
        "precision": "32",
        "fraction": 0.01,
        "seed": 0,
        "source": "phantom",
        "dataset": "rsna",
        "subset": None,
        "data_fingerprint": "d" * 64,
        "split": "mgca_cls",
        "split_sha256": "s" * 64,
        "train_sha256": "t" * 64,
        "weights": WeightsIdentity(kind="pretrained", key="k" * 64, corpus=corpus),
        "method_config": {"temperature": 0.07},
        "task_config": {"penalties": [0.1, 1.0]},
    }
    return Identity(**(content | changes))


def record(status: str = "ok", created: str = "2026-01-01T00:00:00+00:00", **changes: Any) -> Record:
    block = identity(**changes)
    return Record.model_validate(
        {
            "cell_id": block.cell_id(),
            "status": status,
            "reason": "holds 3 patients, at least 8 are needed" if status == "skipped" else None,
            "identity": block,
            "primary_metric": "auroc",
            "metrics": [MetricValue(name="auroc", value=0.61, low=0.5, high=0.7, interval="bootstrap", n=4)]
            if status == "ok"
            else [],
            "counts": Counts(train=3, train_patients=3, validation=4, test=4),
            "config_sha256": "c" * 64,
            "error": Failure(type="ValueError", message="no", traceback="...")
            if status == "failed"
            else None,
            "times": Times(created=created, duration_s=1.5),
        }
    )


PREDICTIONS = pd.DataFrame({"sample": ["a", "b"], "patient": ["a", "b"], "score_pneumonia": [0.1, 0.9]})


def test_a_record_and_its_predictions_come_back_as_written(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    written = store.write(record(), PREDICTIONS)
    found = store.find(identity())
    assert found == written
    assert found is not None and found.predictions is not None and found.predictions.rows == 2
    pd.testing.assert_frame_equal(
        read_predictions(store.path(identity(), written.cell_id), found), PREDICTIONS
    )
    assert [r.cell_id for r in store.records()] == [written.cell_id]


def test_two_equal_runs_write_the_same_bytes_but_for_times(tmp_path: Path) -> None:
    texts = []
    for number, created in enumerate(["2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00"]):
        store = ResultStore(tmp_path / str(number))
        store.write(record(created=created), PREDICTIONS)
        content = json.loads(next(store.files()).read_text())
        assert content["times"].pop("created") == created
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]


def test_everything_that_decides_the_number_decides_the_cell() -> None:
    base = identity().cell_id()
    for change in (
        {"seed": 1},
        {"fraction": 0.1},
        {"precision": "bf16"},
        {"task_version": 2},
        {"train_sha256": "u" * 64},
        {"method_config": {"temperature": 0.1}},
        {"data_fingerprint": "e" * 64},
        {"weights": WeightsIdentity(kind="checkpoint", key="k" * 64)},
    ):
        assert identity(**change).cell_id() != base, change


def test_a_failed_cell_is_kept_but_not_found_and_never_overwritten(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record("failed"))
    store.write(record("failed"))
    assert store.find(identity()) is None
    assert store.records() == []
    assert [r.status for r in store.failures()] == ["failed", "failed"]


def test_skipped_cells_are_found(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record("skipped"))
    found = store.find(identity())
    assert found is not None and found.status == "skipped" and found.primary is None


def test_overwrite_keeps_the_old_pair_aside(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record(), PREDICTIONS)
    before = next(store.files()).read_bytes()
    store.supersede(identity())
    assert store.find(identity()) is None and store.records() == []
    aside = sorted(p.name.split(".", 1)[1] for p in tmp_path.rglob("*superseded*"))
    assert aside == ["superseded-1.json", "superseded-1.parquet"]
    assert next(tmp_path.rglob("*superseded-1.json")).read_bytes() == before


def test_a_record_without_its_predictions_is_not_done(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record(), PREDICTIONS)
    next(tmp_path.rglob("*.parquet")).unlink()
    assert store.find(identity()) is None


def test_changed_predictions_are_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    written = store.write(record(), PREDICTIONS)
    table = next(tmp_path.rglob("*.parquet"))
    PREDICTIONS.assign(score_pneumonia=1.0).to_parquet(table)
    with pytest.raises(DataError, match=r"SHA-256 .* found, .* recorded"):
        read_predictions(next(store.files()), written)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a medbench.result/1 record"),
        ("{}", "Field required"),
        ('{"schema": "medbench.result/9"}', "schema"),
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_record(path)


def test_another_cells_record_in_the_place_is_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record(seed=1))
    mine = store.path(identity(), identity().cell_id())
    mine.write_bytes(next(store.files()).read_bytes())
    with pytest.raises(DataError, match="expected the record of cell"):
        store.find(identity())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "text")  # type: ignore[arg-type]  # the failure is the test
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_schema_is_exported_with_its_version() -> None:
    schema = json_schema()
    exported = Path(__file__).resolve().parents[1] / "docs" / "record.schema.json"
    assert json.loads(exported.read_text()) == schema, (
        "write it anew: python -c 'import json; from medbench.records import json_schema; "
        "print(json.dumps(json_schema(), indent=2))' > docs/record.schema.json"
    )
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert {"cell_id", "identity", "times"} <= set(schema["required"])


@given(st.sampled_from([0.01, 0.1, 1.0, 0.05, 0.001]))
def test_fraction_names_have_no_float_noise(fraction: float) -> None:
    assert fraction_name(fraction) in {"1%", "10%", "100%", "5%", "0.1%"}


RESAMPLE = Resample.of(["a", "b"], np.array([False, True]))
BOOTSTRAP = Bootstrap(np.array([0.5, np.nan, 0.7]), RESAMPLE)


def test_draws_lie_beside_the_record(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    written = store.write(record(), PREDICTIONS, BOOTSTRAP, 0.01)
    path = next(store.files())
    assert written.draws is not None
    assert written.draws.path == path.name.replace(".json", ".draws.npy")
    assert written.draws.model_dump(exclude={"path", "sha256"}) == {
        "metric": "auroc",
        "count": 3,
        "resample": RESAMPLE.key,
        "patients": 2,
        "positive_patients": 1,
        "samples": 2,
        "positive_samples": 1,
        "class_units": None,
        "class_positives": None,
        "delong_se": 0.01,
    }
    np.testing.assert_array_equal(read_draws(path, read_record(path)), BOOTSTRAP.draws)
    before = (path.parent / written.draws.path).read_bytes()
    assert ResultStore(tmp_path / "again").write(record(), PREDICTIONS, BOOTSTRAP).draws is not None
    assert next((tmp_path / "again").rglob("*.npy")).read_bytes() == before

    store.supersede(identity())
    aside = sorted(p.name.split(".", 1)[1] for p in tmp_path.rglob("*superseded*"))
    assert aside == ["superseded-1.draws.npy", "superseded-1.json", "superseded-1.parquet"]


def test_a_record_from_before_there_were_draws_is_read(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record(), PREDICTIONS)
    path = next(store.files())
    content = json.loads(path.read_text())
    del content["draws"]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="the record has no draws"):
        read_draws(path, read_record(path))


def test_draws_that_are_not_the_recorded_ones_are_refused(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write(record(), PREDICTIONS, BOOTSTRAP)
    path, file = next(store.files()), next(tmp_path.rglob("*.npy"))
    written = read_record(path)
    assert written.draws is not None

    def holding(content: bytes) -> Record:
        """The record, had it been written with this file."""
        file.write_bytes(content)
        block = written.draws.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
        return written.model_copy(update={"draws": block})

    np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"draws.npy: SHA-256 .* found, .* recorded"):
        read_draws(path, written)
    np.save(file, np.zeros(3, np.float32))
    single = holding(file.read_bytes())
    with pytest.raises(DataError, match=r"expected 3 numbers \(float64\), found float32 \(3,\)"):
        read_draws(path, single)
    np.save(file, np.array([{}], object), allow_pickle=True)
    for content in (b"no numbers", file.read_bytes()):
        wrong = holding(content)
        with pytest.raises(DataError, match="not an array of numbers"):
            read_draws(path, wrong)
    file.unlink()
    with pytest.raises(DataError, match=r"its draws .* are not beside it"):
        read_draws(path, written)
