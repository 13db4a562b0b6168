"""What leaves the machine: copies that verify, without paths, and of films that may not be passed on scores alone."""

import json
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medbench import disclosure
from medbench.cli import app
from medbench.data.splits import ids_sha256, parts_sha256, split_of
from medbench.errors import DataError, UsageError
from medbench.files import sha256_file
from medbench.metrics.bootstrap import Bootstrap, Resample
from medbench.phantom.chexpert import write
from medbench.planner import Planner
from medbench.plugins import load_catalogue
from medbench.progress import Progress
from medbench.records import (
    Counts,
    Identity,
    Record,
    ResultStore,
    Times,
    WeightsIdentity,
    WeightsInfo,
    read_draws,
    read_predictions,
    read_record,
)
from medbench.request import RunRequest
from medbench.scoring import Scores, with_patient_columns
from medbench.submission import export, parquet, read_key, read_manifest
from medbench.task import Task, TaskData
from medbench.verify import Checked, verify_folder
from medbench.verify.originals import Originals
from medbench.weights import config_json

pytestmark = pytest.mark.usefixtures("medbench_home", "scored_once")

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"
CATALOGUE = load_catalogue(third_party=False)

ScoreTask = Callable[[Task, pd.DataFrame], Scores]


# Records of public films.


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, cut_records: Callable[[Path, Iterable[Path]], Path]
) -> Path:
    paths = sorted((ACCEPTED / "tiny" / "random" / "rsna_lp").glob("10*-s0-*.json"))
    return cut_records(tmp_path_factory.mktemp("public"), paths)


def resample_of(record: Record) -> Resample:
    assert record.draws is not None
    block = record.draws.model_dump(include={"patients", "positive_patients", "samples", "positive_samples"})
    return Resample(key=record.draws.resample, **block)


def rewrite(root: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The first record of a folder with other contents, as a run could have written it."""
    path = next(ResultStore(root).files())
    content = json.loads(path.read_text())
    table = read_predictions(path, read_record(path))
    change(content)
    record = Record.model_validate(content)
    record = record.model_copy(
        update={"cell_id": record.identity.cell_id(), "config_sha256": record.identity.config_sha256()}
    )
    store = ResultStore(out)
    for lists in (root / "splits").iterdir():
        store.write_ids(lists.stem, json.loads(lists.read_bytes()))
    bootstrap = None if record.draws is None else Bootstrap(read_draws(path, record), resample_of(record))
    written = store.write(record, table, bootstrap, record.draws and record.draws.delong_se)
    return store.path(written.identity, written.cell_id)


def test_copies_of_public_records_verify_and_name_their_originals(results: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in results.rglob("*.*")}
    made = export(results, tmp_path / "out", CATALOGUE, key=tmp_path / "key", contact="a@example.org")
    assert {path: path.read_bytes() for path in results.rglob("*.*")} == before
    assert not (tmp_path / "key").exists()  # nothing needed one
    assert not list(tmp_path.glob(".*"))
    checked = verify_folder(made.folder, CATALOGUE)
    assert checked.accepted, checked.text()
    assert not any(each.notes for each in checked.records)
    originals = {path.name: path for path in ResultStore(results).files()}
    for path in ResultStore(made.folder).files():
        record, original = read_record(path), read_record(originals[path.name])
        assert record.export is not None
        assert record.export.record_sha256 == sha256_file(originals[path.name])
        assert (record.export.cell_id, record.metrics) == (original.cell_id, original.metrics)
        assert record.export.left_out == ["environment"]
        assert "system" not in record.environment and record.environment["versions"]
    assert made.manifest.owners == {"random": "medbench 0.1.0"}
    assert (made.manifest.records, made.manifest.contact) == ({"ok": 2}, "a@example.org")
    assert made.manifest == read_manifest(made.folder)
    assert (
        "| random | medbench 0.1.0 | rsna_lp | phantom: rsna | 2 |" in (made.folder / "README.md").read_text()
    )


def test_a_submission_is_a_results_folder(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app,
        ["results", "export", "--results", str(results), "--out", str(out), "-t", "rsna_*", "-m", "random"],
    )
    assert (done.exit_code, done.stdout) == (0, f"{out}\n")
    assert "left out or replaced in 2 records: environment" in done.stderr
    done = CliRunner().invoke(app, ["leaderboard", "--results", str(out)])
    assert done.exit_code == 0 and "random (baseline)" in done.stdout
    done = CliRunner().invoke(app, ["results", "rescore", str(out)])
    assert done.exit_code == 0, done.output


def test_two_exports_are_equal(results: Path, tmp_path: Path) -> None:
    one, two = (
        export(results, tmp_path / name, CATALOGUE, key=tmp_path / "key").folder for name in ("one", "two")
    )
    assert {p.relative_to(one): p.read_bytes() for p in one.rglob("*.*")} == {
        p.relative_to(two): p.read_bytes() for p in two.rglob("*.*")
    }


def test_nothing_is_written_into_a_folder_that_holds_something(results: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already, and not empty"):
        export(results, tmp_path, CATALOGUE, key=tmp_path / "key")
    (tmp_path / "empty").mkdir()
    export(results, tmp_path / "empty", CATALOGUE, key=tmp_path / "key")
    with pytest.raises(UsageError, match=r"No records in .* that are meant"):
        export(results, tmp_path / "other", CATALOGUE, key=tmp_path / "key", methods=["nobody"])
    with pytest.raises(DataError, match=r"is an exported copy\. Export the records that it was made from"):
        export(tmp_path / "empty", tmp_path / "other", CATALOGUE, key=tmp_path / "key")
    assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*"))


SECRETS = (
    "/home/alice/data/films.csv",
    "~/weights/encoder.safetensors",
    "C:\\Users\\alice\\films",
    "file:///mnt/scans/a.dcm",
    "scans/ward7/a.dcm",
    "alice@ward7.example.org",
    "alice@ward7",
    "weights/bert-alice",
    "/mnt/Jane alice/ward7 films",
)


def put_secrets(content: dict[str, Any], secret: str) -> None:
    """Wherever a run may write what a user typed, or a library said."""
    content["environment"] |= {
        "system": f"Linux-{secret}",
        "plugins": ["medbench 0.1.0", secret],
        "nondeterministic": [f"a kernel is not deterministic (Triggered internally at {secret}:91.)"],
        "argv": [secret],
    }
    content["environment"]["device"]["host"] = secret
    content["environment"]["versions"]["mine"] = secret
    content["search"] |= {"notes": [f"read from {secret}, 3 times"], secret: 1}
    content["weights"]["info"] |= {
        "folder": secret,
        "owner": secret,
        "released": {"file": secret, "sha256": "a" * 64, "where": f"group {secret}"},
    }
    content["identity"]["method_owner"] = secret
    content["identity"]["method_config"] |= {"text_encoder": secret, "layers": [secret, 3]}
    content["weights"]["info"]["config"] = content["identity"]["method_config"]
    content["counts"]["excluded"] = [f"{secret}: can not be decoded"]


@pytest.mark.parametrize("secret", SECRETS)
def test_no_path_and_no_address_leaves(secret: str, results: Path, tmp_path: Path) -> None:
    path = rewrite(results, tmp_path / "mine", lambda content: put_secrets(content, secret))
    out = export(tmp_path / "mine", tmp_path / "out", CATALOGUE, key=tmp_path / "key").folder
    words = [secret, json.dumps(secret)[1:-1], "alice", "ward7", "/mnt"]
    for file in out.rglob("*.*"):
        for word in words:
            assert word.encode() not in file.read_bytes(), (file, word)
    [copied] = ResultStore(out).files()
    record, original = read_record(copied), read_record(path)
    assert record.export is not None and record.export.cell_id == original.cell_id != record.cell_id
    assert record.identity.method_config["layers"] == ["(local)", 3]
    assert record.identity.method_owner == "(local)"
    [note] = record.search["notes"]
    assert note.startswith("read from ") and note.endswith("(withheld), 3 times")
    assert record.counts.excluded == ["(withheld)"]
    assert {"identity.method_config.text_encoder", "search", "weights"} <= set(record.export.left_out)
    [verdict] = verify_folder(out, CATALOGUE).records
    assert verdict.problems == ["method_owner is (local), expected medbench"]


@pytest.mark.parametrize(
    "text",
    [
        "emilyalsentzer/Bio_ClinicalBERT",
        "hf-hub:microsoft/BiomedVLP-CXR-BERT-specialized",
        "vit_base_patch16_224.augreg_in21k",
        "95 % percentile bootstrap over patients, 2000 draws, strata by positive",
        "1/10 of the labels and/or none; about ~5 %",
        "lists:mine@0123abcd; P@5",
        "doi:10.1038/s41597-019-0322-0",
        "1% of 202 training patients is 2; a label fraction must hold at least 8",
    ],
)
def test_names_of_models_and_plain_words_stay(text: str) -> None:
    assert disclosure.plain(text)
    assert disclosure.scrub(text) == text


def test_names_of_this_user_and_this_host_leave_free_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "bobby")
    monkeypatch.setattr("socket.gethostname", lambda: "Ward7.example")
    disclosure._own_names.cache_clear()
    try:
        assert disclosure.scrub("run by bobby on ward7, Bobbys") == "run by (withheld) on (withheld), Bobbys"
        assert disclosure.scrub("a run-of-bobby_2") == "a (withheld)"
        assert disclosure.named("kept by bobby") and not disclosure.named("Bobbys")
        assert disclosure.without_files({"a": "by-bobby"}, frozenset(), "", []) == {"a": "(local)"}
        monkeypatch.setattr("getpass.getuser", lambda: "jd")
        disclosure._own_names.cache_clear()
        assert disclosure.scrub("by jd, njd, n-jd") == "by (withheld), njd, n-jd"
    finally:
        disclosure._own_names.cache_clear()


def test_a_path_in_a_fixed_place_keeps_the_record_back(results: Path, tmp_path: Path) -> None:
    rewrite(
        results,
        tmp_path / "mine",
        lambda content: content["metrics"][0].update(reason="see /home/alice/log.txt"),
    )
    with pytest.raises(
        DataError, match=r"metrics\.0\.reason says 'see /home/alice/log\.txt', which may hold a path"
    ):
        export(tmp_path / "mine", tmp_path / "out", CATALOGUE, key=tmp_path / "key")
    assert not (tmp_path / "out").exists()


def test_records_that_differ_by_the_name_of_a_file_alone_are_told(results: Path, tmp_path: Path) -> None:
    for name in ("/a/one", "/b/two"):
        rewrite(
            results,
            tmp_path / "mine",
            lambda content, name=name: content["identity"]["method_config"].update(text_encoder=name),
        )
    with pytest.raises(DataError, match="without the names of files it is the same cell as another record"):
        export(tmp_path / "mine", tmp_path / "out", CATALOGUE, key=tmp_path / "key")


def test_paths_in_predictions_keep_the_record_back(results: Path, tmp_path: Path) -> None:
    path = rewrite(results, tmp_path / "mine", lambda content: None)
    record = read_record(path)
    table = read_predictions(path, record).assign(file=["/data/films/a.png", *["b"] * 59])
    path.unlink()  # a record that stands is never written over
    ResultStore(tmp_path / "mine").write(record, table)
    with pytest.raises(DataError, match="the column file of its predictions holds paths"):
        export(tmp_path / "mine", tmp_path / "out", CATALOGUE, key=tmp_path / "key")


# Films that may not be passed on: CheXpert's, in the layout of the release.

_PARTS = {"train": slice(0, 25), "val": slice(25, 35), "test": slice(35, None)}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films in CheXpert's layout which do not say that they are phantoms."""
    folder = tmp_path_factory.mktemp("films") / "chexpert"
    write(folder, patients=60, workers=1)
    (folder / "PHANTOM.json").unlink()
    for name in (
        "train.csv",
        "valid.csv",
    ):  # five bands of age, twenty numbers each, would take most of the time
        table = pd.read_csv(folder / name)
        table.assign(Age=np.nan).to_csv(folder / name, index=False)
    return folder


@pytest.fixture(scope="module")
def private(films: Path, tmp_path_factory: pytest.TempPathFactory, scored_once: ScoreTask) -> Path:
    """Records of two methods on these films, made up but for the truth."""
    root = tmp_path_factory.mktemp("private")
    opened = Planner(request(films, root), CATALOGUE, "32", Progress(quiet=True)).evaluation("chexpert")
    spec = CATALOGUE.tasks["chexpert_lp"]
    task = CATALOGUE.make_task(spec, "tiny")
    ids = opened.index.table["sample"].tolist()
    parts = {name: ids[where] for name, where in _PARTS.items()}
    split = split_of(opened.index, "lists:mine@0123", **parts)
    truth = task.truth(TaskData(opened.index, split, opened.images))
    assert truth is not None
    names = [name.removeprefix("target_") for name in truth if name.startswith("target_")]
    store = ResultStore(root / "results")
    store.write_ids(parts_sha256(parts), parts)
    store.write_ids(ids_sha256(parts["train"]), {"train": parts["train"]})
    for number, method in enumerate(("random", "clip")):
        draws = np.random.default_rng(number).normal(size=(len(truth), len(names)))
        scores = {f"score_{name}": draws[:, k] + truth[f"target_{name}"] for k, name in enumerate(names)}
        table = truth.assign(**scores, **{f"threshold_{name}": 0.5 for name in names})
        table = with_patient_columns(table, opened.index)
        found = scored_once(task, table)
        identity = Identity(
            method=method,
            method_owner="medbench 0.1.0",
            fidelity=CATALOGUE.methods[method].fidelity,
            task=spec.name,
            task_version=spec.version,
            task_owner="medbench 0.1.0",
            recipe="tiny",
            precision="32",
            fraction=1.0,
            seed=0,
            source="real",
            dataset="chexpert",
            subset=opened.index.subset,
            data_fingerprint=opened.index.fingerprint(),
            split=split.name,
            split_sha256=parts_sha256(parts),
            train_sha256=ids_sha256(parts["train"]),
            weights=WeightsIdentity(kind="untrained", key=method),
            method_config={},
            task_config={**config_json(task.config), "given": json.loads(json.dumps(dict(spec.given)))},
        )
        record = Record(
            cell_id=identity.cell_id(),
            status="ok",
            identity=identity,
            primary_metric=spec.primary_metric,
            metrics=found.metrics,
            subgroups=found.subgroups,
            reliability=found.reliability,
            counts=Counts(train=25, train_patients=9, validation=10, test=len(truth)),
            weights=WeightsInfo(sha256="a" * 64),
            config_sha256=identity.config_sha256(),
            times=Times(created="2026-01-01T00:00:00+00:00", duration_s=1.0),
        )
        store.write(record, table, found.bootstrap, found.delong_se)
    return store.root


def request(films: Path, root: Path) -> RunRequest:
    return RunRequest(
        methods=(), tasks=(), results=root, cache=root / "cache", data={"chexpert": films}, recipe="tiny"
    )


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("key") / "of" / "mine"


@pytest.fixture
def sent(private: Path, key: Path, tmp_path: Path) -> Path:
    return export(private, tmp_path / "sent", CATALOGUE, key=key).folder


def known_texts(root: Path) -> set[str]:
    """Every id of a results folder."""
    found: set[str] = set()
    for path in (root / "splits").iterdir():
        found.update(name for ids in json.loads(path.read_bytes()).values() for name in ids)
    for path in ResultStore(root).files():
        table = read_predictions(path, read_record(path))
        found.update(table["sample"].astype(str))
        found.update(table["patient"].astype(str))
    return found


def holds(root: Path, texts: Iterable[str]) -> Iterator[str]:
    """Those of the texts that are anywhere in the bytes of a folder, or in the values of its tables."""
    content = b""
    for file in sorted(root.rglob("*")):
        content += str(file.relative_to(root)).encode()
        if file.is_file():
            content += file.read_bytes()
        if file.suffix == ".parquet":
            content += pd.read_parquet(file).to_json().replace("\\/", "/").encode()
            content += str(pq.read_schema(file).metadata).encode()
    return (text for text in texts if text.encode() in content)


def test_of_private_films_scores_alone_leave(private: Path, sent: Path, key: Path) -> None:
    assert not list(holds(sent, known_texts(private)))
    for path in ResultStore(sent).files():
        record = read_record(path)
        table = read_predictions(path, record)
        assert record.export is not None and record.export.keyed
        assert table.columns[0] == "key"
        assert all(name.startswith(("score_", "threshold_")) for name in table.columns[1:])
        assert len(table.columns) == 11
        assert table["key"].is_monotonic_increasing
        assert pq.read_schema(path.with_suffix(".parquet")).metadata is None
        assert record.reliability == [] == record.subgroups
        assert {"reliability", "subgroups"} <= set(record.export.left_out)
    assert {path.name.partition(".")[2] for path in (sent / "splits").iterdir()} == {"hmac.json"}
    manifest = read_manifest(sent)
    assert manifest is not None and manifest.keyed == ["chexpert"]
    assert manifest.key_id == disclosure.key_id(read_key(key, make=False))
    assert "Films of chexpert may not be passed on" in (sent / "README.md").read_text()
    assert read_key(key, make=False).hex().encode() not in b"".join(p.read_bytes() for p in sent.rglob("*.*"))


def test_without_truth_all_but_the_metrics_is_checked(sent: Path) -> None:
    checked = verify_folder(sent, CATALOGUE)
    assert checked.accepted, checked.text()
    assert all("metrics not recomputed" in each.notes[0] for each in checked.records)
    assert "accept; metrics not recomputed" in checked.text()


def verified(sent: Path, films: Path, root: Path, key: bytes) -> Checked:
    return verify_folder(sent, CATALOGUE, Originals(request(films, root), CATALOGUE, key))


def test_with_dataset_and_key_the_metrics_are_computed_again(
    sent: Path, films: Path, key: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(
        app, ["results", "verify", str(sent), "--data", f"chexpert={films}", "--key", str(key)]
    )
    assert done.exit_code == 0, done.output
    assert "metrics not recomputed" not in done.stdout
    done = CliRunner().invoke(app, ["results", "verify", str(sent), "--key", str(key)])
    assert done.exit_code == 2 and "expected --data NAME=DIR beside it" in done.stderr
    done = CliRunner().invoke(app, ["results", "verify", str(sent), "--data", f"chexpert={films}"])
    assert "rows of keyed copies stay unknown: no key at " in done.stderr
    path = next(ResultStore(sent).files())
    content = json.loads(path.read_text())
    content["metrics"][0]["value"] += 0.01
    path.write_text(json.dumps(content))
    told = verified(sent, films, tmp_path, read_key(key, make=False)).text()
    assert "macro_auroc: value " in told
    assert "chexpert_lp" in told
    told = verified(sent, films, tmp_path, bytes(32)).text()
    assert "split_sha256: its keyed id list does not lead to films of " in told


def test_keys_are_drawn_once_and_are_the_submitters_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "key"
    with pytest.raises(DataError, match="can not be read"):
        read_key(file, make=False)
    drawn = read_key(file, make=True)
    assert len(drawn) == 32
    assert read_key(file, make=True) == drawn
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text("mine")
    with pytest.raises(DataError, match="expected at least 64 hex digits"):
        read_key(file, make=True)


def change(sent: Path, edit: Callable[[dict[str, Any], pd.DataFrame], pd.DataFrame | None]) -> None:
    """The first record and its predictions, with their hash and their entry in the manifest."""
    path = next(ResultStore(sent).files())
    content, file = json.loads(path.read_text()), path.with_suffix(".parquet")
    table = pd.read_parquet(file)
    edited = edit(content, table)
    if edited is not None:
        edited.to_parquet(file, index=False)
        content["predictions"] |= {"sha256": sha256_file(file), "rows": len(edited)}
    path.write_text(json.dumps(content))


def put_target(content: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(target_edema=0.0)


def put_id(content: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(key=["patient00001", *table["key"][1:]])


def drop_row(content: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    return table.iloc[1:]


def raise_n(content: dict[str, Any], table: pd.DataFrame) -> None:
    content["metrics"][0]["n"] -= 5


def raise_macro(content: dict[str, Any], table: pd.DataFrame) -> None:
    content["metrics"][0]["value"] = 0.9999


def narrow_interval(content: dict[str, Any], table: pd.DataFrame) -> None:
    metric = content["metrics"][0]
    metric["low"] = (metric["low"] + metric["value"]) / 2


def flatten(content: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(score_edema=1.0)


def other_strata(content: dict[str, Any], table: pd.DataFrame) -> None:
    content["draws"] |= {"resample": "0" * 64, "positive_samples": 1}


def put_diagram(content: dict[str, Any], table: pd.DataFrame) -> None:
    nothing: dict[str, Any] = {
        "edges": [],
        "counts": [],
        "confidence": [],
        "positives": [],
        "low": [],
        "high": [],
    }
    content["reliability"] = [
        {"label": "edema", "binning": "width", "interval": "", "n": 1, "missing": 0, **nothing}
    ]


def put_group(content: dict[str, Any], table: pd.DataFrame) -> None:
    content["subgroups"] = [{"column": "sex", "groups": [], "spreads": []}]


def lose_draws(content: dict[str, Any], table: pd.DataFrame) -> None:
    content["draws"] = None


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (put_group, "a keyed copy holds numbers over groups of patients"),
        (lose_draws, "a keyed copy has an interval and no draws that it follows from"),
        (put_target, "a keyed copy holds columns that are no scores: target_edema"),
        (put_id, "1 of 60 films are not in the test part of its split"),
        (drop_row, "1 of 60 films of the test part of its split are missing"),
        (raise_n, "macro_auroc: n is not that of tiny/"),
        (raise_macro, "macro_auroc: value 0.9999 is outside of its classes"),
        (narrow_interval, "draws: lower bound of the interval "),
        (flatten, " of edema, which has one score for all films"),
        (other_strata, "draws are of other patients or strata than those of "),
        (put_diagram, "a keyed copy holds reliability diagrams"),
    ],
)
def test_an_edit_of_a_copy_without_truth_is_found(edit: Any, expected: str, sent: Path) -> None:
    change(sent, edit)
    assert expected in verify_folder(sent, CATALOGUE).text()


def test_a_private_record_with_ids_is_refused_in_a_submission(private: Path, tmp_path: Path) -> None:
    """As one that a version of medbench exported which did not know that the films are private."""
    free = replace(
        CATALOGUE,
        datasets={
            **CATALOGUE.datasets,
            "chexpert": replace(CATALOGUE.datasets["chexpert"], credentialed=False),
        },
    )
    out = export(private, tmp_path / "out", free, key=tmp_path / "key").folder
    assert verify_folder(out, free).accepted
    assert (
        "holds ids and truth of films of chexpert, which may not be passed on"
        in verify_folder(out, CATALOGUE).text()
    )


def test_an_id_in_a_free_text_keeps_a_private_record_back(private: Path, tmp_path: Path) -> None:
    rewrite(
        private,
        tmp_path / "mine",
        lambda content: content["search"].update(notes=["the film of patient00001 was blank"]),
    )
    with pytest.raises(DataError, match="holds the id of a film or a patient"):
        export(tmp_path / "mine", tmp_path / "out", CATALOGUE, key=tmp_path / "key")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "dataset", "expected"),
    [
        ("phantom", "chexpert", False),
        ("real", "chexpert", True),
        ("mixed", "chexpert", True),
        ("real", "rsna", False),
        ("real", "table", True),
        ("real", "somebody's", True),
    ],
)
def test_which_films_are_private(source: Any, dataset: str, expected: bool, private: Path) -> None:
    record = next(iter(ResultStore(private).records()))
    identity = record.identity.model_copy(update={"source": source, "dataset": dataset})
    assert disclosure.is_private(identity, CATALOGUE) is expected


IDS = st.text("GHJKQUXYZ", min_size=8, max_size=14).map(lambda text: f"Q{text}")


@given(
    ids=st.lists(st.tuples(IDS, IDS), min_size=2, max_size=12, unique_by=lambda pair: pair[0]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_keyed_predictions_are_a_function_of_ids_and_scores_alone(
    ids: list[tuple[str, str]], data: st.DataObject
) -> None:
    """Whatever the truth, the attributes, the order and the other columns are, the same bytes leave, without an id."""
    count = len(ids)
    scores = data.draw(st.lists(st.floats(-9, 9), min_size=count, max_size=count))

    def table() -> pd.DataFrame:
        order = data.draw(st.permutations(range(count)))
        column = st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=count, max_size=count)
        return pd.DataFrame(
            {
                "sample": [ids[k][0] for k in order],
                "patient": data.draw(st.permutations([patient for _, patient in ids])),
                "target_a": data.draw(column),
                "score_a": [scores[k] for k in order],
                "sex": data.draw(column),
                data.draw(IDS): data.draw(column),
            }
        )

    secret = data.draw(st.binary(min_size=32, max_size=32))
    one, two = (parquet(disclosure.keyed(table(), secret)) for _ in range(2))
    assert one == two
    assert not any(name.encode() in one for pair in ids for name in pair)
