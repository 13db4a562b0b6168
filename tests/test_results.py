"""A results folder as readers see it: draws from the file, else from predictions, else none."""

from pathlib import Path

import numpy as np
import pytest

from medbench.errors import DataError
from medbench.metrics.bootstrap import interval
from medbench.plugins import load_catalogue
from medbench.records import Record, ResultStore, read_predictions, read_record
from medbench.rescore import rescore, score_again, write
from medbench.results import Results
from medbench.verify import verify_record

ACCEPTED = Path(__file__).resolve().parents[1] / "leaderboards" / "results"
CATALOGUE = load_catalogue(third_party=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A record of a few films of an accepted one, with draws, and beside it one from before there were draws."""
    store = ResultStore(tmp_path)
    for path in sorted((ACCEPTED / "tiny/random/rsna_lp").glob("100pct-s[01]-*.json")):
        record = read_record(path)
        predictions = read_predictions(path, record).head(60)
        scores = score_again(record, predictions, CATALOGUE)
        blocks = {name: list(getattr(scores, name)) for name in ("metrics", "subgroups", "reliability")}
        new = record.identity.seed == 0
        drawn = (scores.bootstrap, scores.delong_se) if new else (None, None)
        store.write(record.model_copy(update={**blocks, "draws": None}), predictions, *drawn)
    return tmp_path


def units_of(results: Results, record: Record) -> int:
    bootstrap = results.bootstrap(record)
    assert bootstrap is not None
    return bootstrap.resample.units


def test_draws_come_from_the_file_else_from_predictions(folder: Path) -> None:
    plain, knowing = Results.read(folder), Results.read(folder, CATALOGUE)
    new, old = plain.records
    assert plain.path(new).startswith("tiny/random/rsna_lp/100pct-s0-")
    draws = plain.draws(new)
    assert draws is not None
    assert draws.shape == (2000,)
    assert plain.draws(new) is draws  # read once
    assert new.primary is not None
    assert (new.primary.low, new.primary.high) == pytest.approx(
        interval(new.primary.interval, new.primary.value, draws, units_of(plain, new))
    )
    assert plain.draws(old) is None
    computed = knowing.draws(knowing.records[1])
    assert computed is not None
    again = knowing.draws(knowing.records[0])
    assert again is not None
    np.testing.assert_array_equal(again, draws)
    one, other = (knowing.bootstrap(record) for record in knowing.records)
    assert one is not None
    assert other is not None
    assert one.resample == other.resample  # the same films: the same draws


def test_draws_of_another_version_or_of_other_numbers_are_not_made_up(folder: Path) -> None:
    path = sorted(folder.rglob("*.json"))[1]
    text = path.read_text()
    record = read_record(path)
    assert record.primary is not None
    path.write_text(text.replace(str(record.primary.value), "0.123"))
    results = Results.read(folder, CATALOGUE)
    assert results.draws(results.records[1]) is None
    path.write_text(text.replace('"task_version": 2', '"task_version": 1'))
    results = Results.read(folder, CATALOGUE)
    assert results.records[1].identity.task_version == 1
    assert results.draws(results.records[1]) is None


def test_what_is_missing_is_none_and_what_was_changed_is_an_error(folder: Path) -> None:
    results = Results.read(folder)
    assert results.predictions(results.records[0]) is not None
    file = next(folder.rglob("*.npy"))
    np.save(file, np.zeros(2000))
    with pytest.raises(DataError, match="The file was changed"):
        results.draws(results.records[0])
    for each in (file, *folder.rglob("*.parquet")):
        each.unlink()
    results = Results.read(folder, CATALOGUE)
    assert results.draws(results.records[0]) is None
    assert results.predictions(results.records[0]) is None
    assert results.influence(results.records[0]) is None


def test_a_record_of_another_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="was not read from"):
        Results.read(folder).path(read_record(sorted(folder.rglob("*.json"))[0]))


def test_verify_holds_the_interval_against_the_draws(folder: Path) -> None:
    """Also where predictions are not there to compute anything again."""
    path, store = sorted(folder.rglob("*.json"))[0], ResultStore(folder)
    record = read_record(path)
    assert record.primary is not None

    def wrong() -> list[str]:
        return [line for line in verify_record(path, store, CATALOGUE) if "draws" in line]

    assert wrong() == []
    text = path.read_text()
    path.write_text(text.replace(str(record.primary.low), "0.4"))
    assert any(line.startswith("draws: lower bound of the interval 0.4 recorded") for line in wrong())
    assert record.draws is not None
    path.write_text(text.replace(record.draws.resample, "0" * 64))
    assert any(line.startswith("draws: resample 0000") for line in wrong())
    path.write_text(text.replace('"positive_samples": ', '"positive_samples": 1'))
    assert any(line.startswith("draws: positive_samples") for line in wrong())
    path.write_text(text.replace('"positive_patients": ', '"positive_patients": 1'))
    assert any(line.startswith("draws: lower bound") for line in wrong())  # whose width it decides
    path.write_text(text)
    np.save(next(folder.rglob("*.npy")), np.zeros(2000))
    assert any("The file was changed" in line for line in wrong())


def test_rescoring_gives_an_old_record_its_draws(folder: Path, tmp_path: Path) -> None:
    path = sorted(folder.rglob("*.json"))[1]
    written = write(rescore(path, CATALOGUE), ResultStore(tmp_path / "new"))
    assert written.draws is not None
    assert written.draws.delong_se is not None
    [file] = (tmp_path / "new").rglob("*.draws.npy")
    assert file.name == written.draws.path
