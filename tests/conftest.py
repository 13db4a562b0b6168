"""What all tests share: where real data are, a home of their own, and which tests this machine can run."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports torch: in many small computations more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch sees none")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real films and reports, from MEDBENCH_TEST_DATA."""
    given = os.environ.get("MEDBENCH_TEST_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    if given:
        pytest.fail(f"MEDBENCH_TEST_DATA={given} is no folder")
    pytest.skip("no real data: MEDBENCH_TEST_DATA is not set")


@pytest.fixture
def medbench_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A MEDBENCH_HOME of this test alone, without any other setting of the user's."""
    for name in [
        name for name in os.environ if name.startswith("MEDBENCH_") and name != "MEDBENCH_TEST_DATA"
    ]:
        monkeypatch.delenv(name)
    # Set, not deleted: what the command line sets for its own process is then undone as well.
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    home = tmp_path / "home"
    monkeypatch.setenv("MEDBENCH_HOME", str(home))
    monkeypatch.setenv("MEDBENCH_RESULTS", str(tmp_path / "results"))
    return home


@pytest.fixture(scope="session")
def cut_records() -> Callable[[Path, Iterable[Path]], Path]:
    """Write a results folder of small records: copies of whole ones on the first sixty of their test films.

    All else is as if the installed task had made them.
    """
    import json

    from medbench.data.splits import parts_sha256
    from medbench.plugins import load_catalogue
    from medbench.records import ResultStore, read_predictions, read_record
    from medbench.rescore import score_again

    def cut(folder: Path, paths: Iterable[Path]) -> Path:
        store, catalogue = ResultStore(folder), load_catalogue(third_party=False)
        for path in paths:
            record, lists = read_record(path), path.parents[3] / "splits"
            predictions = read_predictions(path, record).head(60)
            parts = json.loads((lists / f"{record.identity.split_sha256}.json").read_bytes())
            parts["test"] = predictions["sample"].tolist()
            train = json.loads((lists / f"{record.identity.train_sha256}.json").read_bytes())
            identity = record.identity.model_copy(
                update={
                    "task_version": catalogue.tasks[record.identity.task].version,
                    "split_sha256": parts_sha256(parts),
                }
            )
            store.write_ids(identity.split_sha256, parts)
            store.write_ids(identity.train_sha256, train)
            scores = score_again(record, predictions, catalogue)
            blocks = {name: list(getattr(scores, name)) for name in ("metrics", "subgroups", "reliability")}
            counts = record.counts.model_copy(update={"test": len(predictions)})
            about = {"identity": identity, "cell_id": identity.cell_id(), "counts": counts}
            store.write(
                record.model_copy(update=blocks | about), predictions, scores.bootstrap, scores.delong_se
            )
        return folder

    return cut


@pytest.fixture(scope="module")
def scored_once() -> Iterator[Callable[[Any, Any], Any]]:
    """`medbench.scoring.score`, also where records are verified, which scores equal predictions of a task once."""
    from medbench import rescore, scoring

    known: dict[tuple[str, str], scoring.Scores] = {}

    def once(task: Any, predictions: Any) -> scoring.Scores:
        key = type(task).__name__, predictions.to_json(orient="split", double_precision=15)
        if key not in known:
            known[key] = scoring.score(task, predictions)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rescore, "score", once)
        yield once
