"""Folders of records that do not fit together are refused, and each reason is said."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.data.splits import ids_sha256
from medbench.files import sha256_file
from medbench.plugins import load_catalogue
from medbench.records import ResultStore, read_predictions, read_record
from medbench.rescore import score_again
from medbench.submission import export
from medbench.verify import Checked, verify_folder, verify_record

pytestmark = pytest.mark.usefixtures("medbench_home", "scored_once")

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"
CATALOGUE = load_catalogue(third_party=False)
CELLS = ("place/rsna_lp/1pct-s0", "place/rsna_lp/1pct-s1", "place/rsna_lp/10pct-s0", "random/rsna_lp/1pct-s0")
"""Of two methods, two seeds and two label fractions, on one test set."""


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory, cut_records: Callable[[Path, Iterable[Path]], Path]
) -> Path:
    paths = [path for cell in CELLS for path in (ACCEPTED / "tiny").glob(f"{cell}-*.json")]
    return cut_records(tmp_path_factory.mktemp("sound"), paths)


@pytest.fixture
def results(sound: Path, tmp_path: Path) -> Path:
    """A copy of them, to be changed."""
    return shutil.copytree(sound, tmp_path / "changed")


@dataclass(frozen=True)
class Forger:
    """Changes records, and mends whatever would give the change away too easily."""

    root: Path

    def path(self, cell: int) -> Path:
        [path] = (self.root / "tiny").glob(f"{CELLS[cell]}-*.json")
        return path

    def edit(self, cell: int, change: Callable[[dict[str, Any]], None]) -> Path:
        """Change the JSON as it is, and nothing else."""
        path = self.path(cell)
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return path

    def table(self, cell: int) -> pd.DataFrame:
        path = self.path(cell)
        return read_predictions(path, read_record(path))

    def predict(self, cell: int, table: pd.DataFrame, *, score: bool) -> None:
        """Other predictions, with their hash, and with the metrics that follow from them."""
        path = self.path(cell)
        file = path.with_suffix(".parquet")
        table.to_parquet(file, index=False)

        def mend(content: dict[str, Any]) -> None:
            content["predictions"] |= {"sha256": sha256_file(file), "rows": len(table)}

        self.edit(cell, mend)
        if score:
            scores = score_again(read_record(path), table, CATALOGUE)
            record = read_record(path).model_copy(
                update={name: list(getattr(scores, name)) for name in ("metrics", "subgroups", "reliability")}
            )
            path.unlink()  # a record that stands is never written over
            ResultStore(self.root).write(record, table, scores.bootstrap, scores.delong_se)

    def identify(self, cell: int, **changes: Any) -> Path:
        """Another identity, with its hash and the names of the files."""
        path = self.path(cell)
        record = read_record(path)
        identity = record.identity.model_copy(update=changes)
        target = ResultStore(self.root).path(identity, identity.cell_id())
        target.parent.mkdir(parents=True, exist_ok=True)
        assert record.predictions is not None and record.draws is not None
        for suffix in (".parquet", ".draws.npy"):
            shutil.move(path.with_suffix(suffix), target.with_suffix(suffix))
        path.unlink()
        predictions = record.predictions.model_copy(update={"path": target.with_suffix(".parquet").name})
        draws = record.draws.model_copy(update={"path": target.with_suffix(".draws.npy").name})
        update = {
            "identity": identity,
            "cell_id": identity.cell_id(),
            "predictions": predictions,
            "draws": draws,
        }
        target.write_text(record.model_copy(update=update).to_json())
        return target

    def copy(self, source: int, cell: int) -> None:
        """The predictions of one cell in place of another's, with hash and metrics."""
        self.predict(cell, self.table(source), score=True)


def check(root: Path) -> Checked:
    return verify_folder(root, CATALOGUE)


def told(checked: Checked, name: str = "") -> str:
    """What is wrong with the records of that name."""
    wrong = [what for each in checked.records if name in str(each.path) for what in each.problems]
    return "\n".join([*checked.problems, *wrong])


def test_sound_records_are_accepted(results: Path) -> None:
    checked = check(results)
    assert checked.accepted, told(checked)
    assert checked.text().endswith("4 records checked, 0 with something wrong: accept")


# Edits. Each is as consistent as can be but for one thing.


def raise_metric(forger: Forger) -> None:
    forger.edit(0, lambda record: record["metrics"][0].update(value=0.99))


def narrow_interval(forger: Forger) -> None:
    def narrow(record: dict[str, Any]) -> None:
        metric = record["metrics"][0]
        metric["low"] = (metric["low"] + metric["value"]) / 2

    forger.edit(0, narrow)


def other_interval(forger: Forger) -> None:
    """As of a version that made intervals otherwise."""
    forger.edit(0, lambda record: record["metrics"][0].update(interval="by hand", low=0.1))


def add_class(forger: Forger) -> None:
    forger.edit(0, lambda record: record["metrics"][0].update(per_class={"pneumonia": 0.99}))


def swap_files(forger: Forger) -> None:
    shutil.copy(forger.path(3).with_suffix(".parquet"), forger.path(0).with_suffix(".parquet"))


def swap_predictions(forger: Forger) -> None:
    forger.predict(0, forger.table(3), score=False)


def edit_scores(forger: Forger) -> None:
    table = forger.table(0)
    table["score_pneumonia"] += table["target_pneumonia"] * 2
    forger.predict(0, table, score=False)


def flip_targets(forger: Forger) -> None:
    table = forger.table(0)
    table.loc[:9, "target_pneumonia"] = 1 - table.loc[:9, "target_pneumonia"]
    forger.predict(0, table, score=True)


def merge_patients(forger: Forger) -> None:
    table = forger.table(0)
    table.loc[:9, "patient"] = "one"
    forger.predict(0, table, score=True)


def drop_sample(forger: Forger) -> None:
    forger.predict(0, forger.table(0).iloc[1:], score=True)


def repeat_sample(forger: Forger) -> None:
    table = forger.table(0)
    forger.predict(0, pd.concat([table, table.tail(1)]), score=True)


def foreign_sample(forger: Forger) -> None:
    table = forger.table(0)
    table.loc[0, "sample"] = "another"
    forger.predict(0, table, score=True)


def infinite_score(forger: Forger) -> None:
    table = forger.table(0)
    table.loc[0, "score_pneumonia"] = np.inf
    forger.predict(0, table, score=False)


def two_thresholds(forger: Forger) -> None:
    table = forger.table(0)
    table.loc[:29, "threshold_pneumonia"] -= 1
    forger.predict(0, table, score=False)


def put_draws(forger: Forger, values: np.ndarray) -> None:  # type: ignore[type-arg]
    """Other draws, with their hash."""
    file = forger.path(0).with_suffix(".draws.npy")
    np.save(file, values)
    forger.edit(0, lambda record: record["draws"].update(sha256=sha256_file(file)))


def narrow_draws(forger: Forger) -> None:
    """And the interval that follows from them."""
    narrow_interval(forger)
    draws = np.load(forger.path(0).with_suffix(".draws.npy"))
    put_draws(forger, (draws + np.nanmean(draws)) / 2)


def sort_draws(forger: Forger) -> None:
    """The interval is the same, a comparison by pairs is not."""
    put_draws(forger, np.sort(np.load(forger.path(0).with_suffix(".draws.npy"))))


def lose_draws(forger: Forger) -> None:
    forger.path(0).with_suffix(".draws.npy").unlink()


def other_resample(forger: Forger) -> None:
    forger.edit(0, lambda record: record["draws"].update(resample="0" * 64))


def edit_identity(forger: Forger) -> None:
    forger.edit(0, lambda record: record["identity"].update(precision="32"))


def edit_config(forger: Forger) -> None:
    forger.identify(0, method_config={"width": 7})


def rename_seed(forger: Forger) -> None:
    """One run, shown as two seeds."""
    forger.copy(0, 1)


def rename_fraction(forger: Forger) -> None:
    """What was trained on ten times the labels."""
    forger.copy(2, 0)


def rename_method(forger: Forger) -> None:
    forger.copy(0, 3)


def repeat_cell(forger: Forger) -> None:
    path, folder = forger.path(0), forger.path(3).parent
    for file in (path, path.with_suffix(".parquet"), path.with_suffix(".draws.npy")):
        shutil.copy(file, folder / f"again-{file.name}")


def pass_off_as_few(forger: Forger) -> None:
    """What was trained on all labels, as of one percent of them."""
    record, store = read_record(forger.path(0)), ResultStore(forger.root)
    parts = json.loads((store.root / "splits" / f"{record.identity.split_sha256}.json").read_bytes())
    sha256 = ids_sha256(parts["train"])
    store.write_ids(sha256, {"train": parts["train"]})
    count = len(parts["train"])
    forger.edit(0, lambda record: record["counts"].update(train=count, train_patients=count))
    forger.identify(0, train_sha256=sha256)


def pass_off_as_all(forger: Forger) -> Path:
    """And the other way round."""
    return forger.identify(0, fraction=1.0)


def other_task_config(forger: Forger) -> None:
    config = read_record(forger.path(0)).identity.task_config
    forger.identify(0, task_config={**config, "penalties": [1.0]})


def other_dataset(forger: Forger) -> None:
    forger.identify(0, dataset="chexpert")


def better_fidelity(forger: Forger) -> Path:
    return forger.identify(3, fidelity="paper")


def other_owner(forger: Forger) -> None:
    forger.identify(0, method_owner="mine 1.0")


def drop_groups(forger: Forger) -> None:
    forger.edit(0, lambda record: record.update(subgroups=[], reliability=[]))


def drop_draws(forger: Forger) -> None:
    forger.edit(0, lambda record: record.update(draws=None))
    forger.path(0).with_suffix(".draws.npy").unlink()


def other_weights(forger: Forger) -> None:
    forger.edit(0, lambda record: record["weights"].update(sha256="0" * 64))


def other_training(forger: Forger) -> None:
    forger.edit(0, lambda record: record["weights"]["info"]["config"].update(width=7))


def choose_freely(forger: Forger) -> None:
    forger.edit(0, lambda record: record["search"]["chosen"]["pneumonia"].update(penalty=3.0))


def fewer_trials(forger: Forger) -> None:
    forger.edit(0, lambda record: record["search"].update(trials=3))


def edit_list(forger: Forger) -> None:
    path = forger.root / "splits" / f"{read_record(forger.path(0)).identity.split_sha256}.json"
    parts = json.loads(path.read_text())
    parts["val"] = parts["val"][1:]
    path.write_text(json.dumps(parts))


def train_on_test(forger: Forger) -> None:
    """A label fraction with test films in it, and its hash."""
    record, store = read_record(forger.path(0)), ResultStore(forger.root)
    ids = json.loads((store.root / "splits" / f"{record.identity.train_sha256}.json").read_bytes())["train"]
    ids = [*ids[1:], forger.table(0)["sample"].iloc[0]]
    store.write_ids(ids_sha256(ids), {"train": ids})
    forger.identify(0, train_sha256=ids_sha256(ids))


def change_counts(forger: Forger) -> None:
    forger.edit(0, lambda record: record["counts"].update(validation=3))


def change_patients(forger: Forger) -> None:
    """Of one of two records that trained on the same list."""
    forger.edit(0, lambda record: record["counts"].update(train_patients=5))


def unknown_split(forger: Forger) -> None:
    forger.identify(0, split="mine")


def other_file(forger: Forger) -> None:
    forger.edit(0, lambda record: record["predictions"].update(path="somewhere.parquet"))


def no_share(forger: Forger) -> None:
    forger.edit(0, lambda record: record["metrics"][0].update(value=1.2))


def no_test(forger: Forger) -> None:
    forger.edit(0, lambda record: record["metrics"][0].update(n=61))


EDITS: dict[Callable[[Forger], Path | None], str] = {
    raise_metric: "auroc: value 0.99 recorded, 0.",
    narrow_interval: "auroc: low ",
    other_interval: "auroc: interval by hand recorded, 95 % ",
    add_class: "auroc: per_class {'pneumonia': 0.99} recorded, {} computed",
    swap_files: ": SHA-256 ",
    swap_predictions: "auroc: value ",
    edit_scores: "auroc: value ",
    flip_targets: "target_pneumonia differs from that of ",
    merge_patients: "patient differs from that of ",
    drop_sample: "1 of 60 films of the test part of its split are missing",
    repeat_sample: "1 rows are about a film that another row is about",
    foreign_sample: "1 of 60 films are not in the test part of its split",
    infinite_score: "1 of 60 values of score_pneumonia are not finite",
    two_thresholds: "threshold_pneumonia has 2 values, expected one for all rows",
    narrow_draws: "draws: lower bound of the interval ",
    sort_draws: " are not those of the predictions",
    lose_draws: "its draws 1pct-s0-",
    other_resample: "draws are of other patients or strata than those of ",
    edit_identity: "cell_id is ",
    edit_config: "config_sha256 is ",
    rename_seed: "a repeat, of another seed: the same predictions as tiny/place/rsna_lp/1pct-s",
    rename_fraction: "of another label fraction: the same predictions as tiny/place/rsna_lp/1",
    rename_method: "of another method: the same predictions as tiny/",
    repeat_cell: "the same cell as ",
    pass_off_as_few: "training samples of its split are 100.00%, its fraction is 0.01",
    pass_off_as_all: "35 training samples at fraction 1, its split has 3500",
    other_task_config: "task_config is not that of rsna_lp at recipe tiny: penalties",
    other_dataset: "dataset is chexpert, rsna_lp is run on rsna",
    better_fidelity: "fidelity is paper, that of random is baseline",
    other_owner: "method_owner is mine 1.0, expected medbench",
    drop_groups: "blocks recorded: ",
    drop_draws: "no draws are recorded, the installed task makes them",
    other_weights: "weights: info.sha256 is not that of the record",
    other_training: "weights: info.config is not that of the record",
    choose_freely: "search: chosen pneumonia penalty 3.0 is not in its grid",
    fewer_trials: "search: 3 trials recorded, its grid has 11",
    edit_list: "the ids in splits/",
    train_on_test: "1 of its 35 training samples are not in the training part of its split",
    change_counts: "counts: 3 val samples recorded, its id list has 750",
    change_patients: "counts: train_patients is not that of tiny/random/rsna_lp/1pct-s0",
    unknown_split: "rsna has no split mine",
    other_file: "predictions are 'somewhere.parquet', expected 1pct-s0-",
    no_share: "auroc: value 1.2 is no share between 0 and 1",
    no_test: "auroc: n 61, the test part has 60",
}


AMONG = {
    flip_targets,
    merge_patients,
    other_resample,
    rename_seed,
    rename_fraction,
    rename_method,
    repeat_cell,
} | {change_patients}
"""Edits that a record does not show by itself."""


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_is_found(edit: Callable[[Forger], Path | None], results: Path) -> None:
    forger = Forger(results)
    path = edit(forger) or forger.path(0)
    alone = verify_record(path, ResultStore(results), CATALOGUE)
    assert any(EDITS[edit] in what for what in alone) == (edit not in AMONG), alone
    if edit not in AMONG:
        return
    checked = check(results)
    assert not checked.accepted
    assert EDITS[edit] in told(checked), told(checked)
    assert checked.text().endswith("with something wrong: not accepted")


def test_only_the_record_that_was_changed_is_named(results: Path) -> None:
    flip_targets(Forger(results))
    checked = check(results)
    assert [each.accepted for each in checked.records].count(False) == 1
    assert "(" in told(checked, "1pct-s0") and " here, " in told(checked, "place/rsna_lp/1pct-s0")


def test_a_consistent_forgery_is_accepted(results: Path) -> None:
    """As docs/submissions.md says: scores that were made up, with all that follows from them."""
    forger = Forger(results)
    table = forger.table(0)
    table["score_pneumonia"] = table["target_pneumonia"] + np.random.default_rng(0).normal(0, 0.3, len(table))
    forger.predict(0, table, score=True)
    assert check(results).accepted


def test_models_that_say_the_same_of_every_film_are_no_repeats(results: Path) -> None:
    forger = Forger(results)
    for cell in (0, 1):
        forger.predict(cell, forger.table(cell).assign(score_pneumonia=0.0), score=True)
    checked = check(results)
    assert checked.accepted, told(checked)


def test_without_a_seed_there_is_no_repeat(results: Path) -> None:
    """Two records of cells that no seed can change are one cell."""
    forger = Forger(results)
    forger.copy(0, 1)
    forger.identify(0, seed=None)
    assert "a repeat" in told(check(results))  # a seed beside none is refused, too


def test_the_seed_that_weights_were_first_asked_for_at_says_nothing_where_none_can_change_them(
    results: Path,
) -> None:
    forger = Forger(results)
    forger.edit(0, lambda record: record["weights"]["info"].update(seed=7))
    assert "info.seed is not that of the record" in told(check(results))
    forger.identify(0, seed=None)
    assert "info.seed" not in told(check(results))


def test_records_without_predictions_are_accepted_by_a_flag_alone(results: Path) -> None:
    forger = Forger(results)
    forger.path(0).with_suffix(".parquet").unlink()
    command = ["results", "verify", str(results), "--without-predictions"]
    done = CliRunner().invoke(app, command[:-1])
    assert done.exit_code == 3 and "`--without-predictions` takes these for enough" in done.stdout
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "accept; metrics not recomputed: its predictions are not beside it" in done.stdout
    assert "4 records checked, 1 without predictions, 0 with something wrong: accept" in done.stdout
    narrow_interval(forger)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 and "draws: lower bound of the interval " in done.stdout
    lose_draws(forger)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 3 and "are not beside it" in done.stdout


def test_repeats_are_told_by_the_hash_of_predictions_that_are_gone(results: Path) -> None:
    forger = Forger(results)
    rename_seed(forger)
    for cell in (0, 1):
        forger.path(cell).with_suffix(".parquet").unlink()
    checked = verify_folder(results, CATALOGUE, without_predictions=True)
    assert told(checked).count("a repeat, of another seed: the same predictions as ") == 2


# Submissions.


@pytest.fixture(scope="module")
def exported(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submission")
    return export(sound, folder / "sent", CATALOGUE, key=folder / "key", contact="a@example.org").folder


@pytest.fixture
def sent(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "sent")


def add_file(sent: Path) -> None:
    (sent / "more.txt").write_text("more")


def remove_file(sent: Path) -> None:
    next((sent / "splits").iterdir()).unlink()


def change_file(sent: Path) -> None:
    (sent / "README.md").write_text("less")


def link_file(sent: Path) -> None:
    (sent / "README.md").rename(sent.parent / "README.md")
    (sent / "README.md").symlink_to(sent.parent / "README.md")


def change_manifest(sent: Path, **changes: Any) -> None:
    path = sent / "submission.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def unmark(sent: Path) -> None:
    path = next(ResultStore(sent).files())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"export": None}))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (add_file, "more.txt is not in submission.json"),
        (remove_file, "submission.json names splits/"),
        (change_file, "README.md: SHA-256 "),
        (link_file, "README.md is a link; a submission holds files"),
        (
            lambda sent: change_manifest(sent, records={"ok": 9}),
            "records: ok 9 in submission.json, ok 4 found",
        ),
        (lambda sent: change_manifest(sent, owners={}), "owners: none in submission.json, place medbench "),
        (lambda sent: change_manifest(sent, schema="mine"), "not a medbench.submission/1 manifest (schema: "),
        (unmark, "no exported copy: it has no `export` block"),
    ],
)
def test_a_submission_is_what_its_manifest_says(
    edit: Callable[[Path], None], expected: str, sent: Path
) -> None:
    edit(sent)
    assert expected in told(check(sent))


def test_the_command_says_accept_or_why_not(sent: Path) -> None:
    done = CliRunner().invoke(app, ["results", "verify", str(sent)])
    assert done.exit_code == 0, done.output
    assert done.stdout.count(": accept") == 5
    raise_metric(Forger(sent))
    done = CliRunner().invoke(app, ["results", "verify", str(sent), "--json"])
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert not found["accept"]
    assert [each["accept"] for each in found["records"]].count(False) == 1
    assert any("auroc: value 0.99 " in what for each in found["records"] for what in each["problems"])
    done = CliRunner().invoke(app, ["results", "verify", str(sent / "nowhere")])
    assert done.exit_code == 2 and "No folder " in done.stderr


@pytest.mark.slow
def test_the_accepted_records_are_acceptable() -> None:
    checked = check(ACCEPTED)
    assert checked.accepted, told(checked)
