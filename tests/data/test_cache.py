"""What the prepared cache holds: what is of use, what is not and why, and that only that is freed."""

import gc
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner

from medbench.cli import app
from medbench.data import images, prepared
from medbench.data.cache import free, held
from medbench.data.index import Index
from medbench.data.prepared import PreparedImages, prepare
from medbench.errors import DataError, UsageError
from medbench.film_sizes import film_sizes
from medbench.model import Preprocessing
from medbench.progress import Progress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    films = tmp_path / "films"
    films.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        film = random.integers(0, 256, (20, 24)).astype(np.uint8)
        Image.fromarray(film).save(films / f"{number}.png")
    return films


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def index_of(folder: Path, count: int = 6) -> Index:
    names = [f"{number}.png" for number in range(count)]
    table = pd.DataFrame({"sample": names, "image": names})
    table["boxes"] = pd.Series([None] * count, dtype=object)
    return Index("tests", folder, "real", table)


def do(index: Index, cache: Path, side: int = 8) -> PreparedImages:
    return prepare(index, side, "pad", cache, workers=1, progress=Progress(quiet=True))


def states(cache: Path) -> dict[str, tuple[str, str]]:
    return {entry.folder.name: (entry.state, entry.why) for entry in held(cache)}


def test_nothing_is_held_before_anything_is_prepared(cache: Path) -> None:
    assert held(cache) == []


def test_what_is_prepared_is_in_use_and_never_freed(folder: Path, cache: Path) -> None:
    films = do(index_of(folder), cache)
    [entry] = held(cache)
    assert (entry.state, entry.why, entry.folder) == ("in use", "", films.folder)
    assert (entry.dataset, entry.side, entry.fit, entry.films) == ("tests", 8, "pad", 6)
    assert entry.bytes >= 6 * 64
    do(index_of(folder), cache, side=9)
    assert {state for state, _ in states(cache).values()} == {"in use"}


@pytest.mark.parametrize("how", ["changed", "touched", "gone"])
def test_a_changed_source_makes_a_new_key_and_the_old_one_unused(folder: Path, cache: Path, how: str) -> None:
    old = do(index_of(folder), cache).folder
    assert old is not None
    if how == "changed":
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(folder / "2.png")
    elif how == "touched":
        os.utime(folder / "2.png", ns=(1, 1))
    else:
        (folder / "2.png").unlink()
    index = index_of(folder)
    new = do(index.select((index.table["sample"] != "2.png").to_numpy()), cache).folder
    assert new is not None
    assert states(cache) == {
        old.name: ("unused", "1 of 6 films are gone or have changed"),
        new.name: ("in use", ""),
    }
    unused = [entry for entry in held(cache) if entry.state == "unused"]
    assert [entry.folder for entry in free(unused)] == [old]
    assert set(states(cache)) == {new.name}


@pytest.mark.parametrize("version", ["READER", "SCALER"])
def test_another_reader_makes_it_unused(
    folder: Path, cache: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(index_of(folder), cache)
    for module in (images, prepared):
        monkeypatch.setattr(module, version, 99)
    monkeypatch.setattr(f"medbench.data.cache.{version}", 99)
    assert list(states(cache).values()) == [("unused", "films are read in another way now")]
    do(index_of(folder), cache)
    assert sorted(state for state, _ in states(cache).values()) == ["in use", "unused"]


def test_a_smaller_selection_is_in_use_beside_a_larger_one(folder: Path, cache: Path) -> None:
    some, every = do(index_of(folder, 4), cache).folder, do(index_of(folder), cache).folder
    assert some is not None and every is not None
    assert states(cache) == {some.name: ("in use", ""), every.name: ("in use", "")}


@pytest.mark.parametrize("mount", ["gone", "empty"])
def test_films_of_a_disk_that_is_not_mounted_are_kept(folder: Path, cache: Path, mount: str) -> None:
    do(index_of(folder), cache)
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    if mount == "empty":
        folder.mkdir()
    assert list(states(cache).values()) == [("root absent", str(folder))]
    assert medbench(cache, "data", "gc").exit_code == 0
    assert f"root absent: {folder}" in medbench(cache, "data", "status").stdout
    if mount == "empty":
        folder.rmdir()
    elsewhere.rename(folder)
    assert list(states(cache).values()) == [("in use", "")]


def test_what_is_open_is_not_freed(folder: Path, cache: Path) -> None:
    films = do(index_of(folder), cache)
    assert films.folder is not None
    (folder / "0.png").unlink()
    again = pickle.loads(pickle.dumps(films))
    del films
    assert free(held(cache)) == []
    del again
    gc.collect()
    assert len(free(held(cache))) == 1


def test_what_another_process_has_open_is_not_freed(folder: Path, cache: Path) -> None:
    made = do(index_of(folder), cache).folder
    (folder / "0.png").unlink()
    code = (
        "import sys; from pathlib import Path; from medbench.data.prepared import _reopen;"
        "films = _reopen(Path(sys.argv[1])); print(len(films.images), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(made)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "6\n"
        assert free(held(cache)) == []
        process.communicate("")
    assert len(free(held(cache))) == 1


def test_what_is_broken_stays_on_record(folder: Path, cache: Path) -> None:
    (folder / "3.png").write_bytes(b"no picture")
    index = index_of(folder)
    with pytest.raises(DataError):
        do(index, cache)
    do(index.select((index.table["sample"] != "3.png").to_numpy()), cache)
    assert [state for state, _ in states(cache).values()] == ["in use"] * 2


def test_unfinished_ones_older_layouts_and_debris(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_finish", stop)
        with pytest.raises(KeyboardInterrupt):
            do(index_of(folder), cache)
    old = cache / "prepared" / "0123"
    old.mkdir()
    (old / "done.json").write_text(json.dumps({"dataset": "tests", "side": 8, "sha256": "0"}))
    (cache / "prepared" / "4567.partial").mkdir()
    found = {(entry.state, entry.why) for entry in held(cache)}
    assert found == {("unfinished", ""), ("unused", "left by another version, or damaged")}
    free(entry for entry in held(cache) if entry.state == "unused")
    assert [entry.state for entry in held(cache)] == ["unfinished"]
    (folder / "0.png").unlink()
    assert [entry.state for entry in held(cache)] == ["unused"]


def test_what_another_process_works_on_is_left_alone(folder: Path, cache: Path) -> None:
    made = do(index_of(folder), cache).folder
    assert made is not None
    (folder / "0.png").unlink()
    with FileLock(made.with_suffix(".lock")):
        assert free(held(cache)) == []
    assert len(free(held(cache))) == 1


# On the command line


def medbench(cache: Path, *words: str) -> Any:
    return CliRunner().invoke(app, words, env={"MEDBENCH_CACHE": str(cache), "MEDBENCH_DATA": ""})


@pytest.fixture
def table(folder: Path) -> Path:
    rows = ["image,report,patient", *(f"{n}.png,clear lungs,p{n}" for n in range(6))]
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


def test_prepare_status_and_gc(table: Path, cache: Path) -> None:
    words = ("data", "prepare", f"table:{table}", "--size", "8", "--fit", "stretch")
    done = medbench(cache, *words)
    assert done.exit_code == 0, done.output
    assert "6 images at 8 px (stretch): " in done.stdout
    assert "take 0.00 GB of the" in done.stderr
    assert medbench(cache, *words, "--quiet").stdout == done.stdout
    [row] = json.loads(medbench(cache, "data", "status", "--json").stdout)["prepared"]
    assert (row["dataset"], row["films"], row["state"]) == ("table", "6 at 8 px, stretch", "in use")
    assert "freed 0.00 GB in 0 folders" in medbench(cache, "data", "gc").stdout
    os.utime(table.parent / "1.png", ns=(1, 1))
    assert "1 of 6 films are gone or have changed" in medbench(cache, "data", "status").stdout
    dry = medbench(cache, "data", "gc", "--dry-run").stdout
    assert "would free 0.00 GB in 1 folders" in dry and row["key"] in dry
    assert len(held(cache)) == 1
    assert "freed 0.00 GB in 1 folders" in medbench(cache, "data", "gc").stdout
    assert held(cache) == []


def test_prepare_names_broken_films_or_leaves_them_out(table: Path, cache: Path) -> None:
    (table.parent / "4.png").write_bytes(b"no picture")
    words = ("data", "prepare", f"table:{table}", "--size", "8")
    refused = medbench(cache, *words)
    assert refused.exit_code == DataError.exit_code
    assert "4.png: neither DICOM, PNG nor JPEG" in refused.stderr
    done = medbench(cache, *words, "--exclude-broken")
    assert done.exit_code == 0, done.output
    assert "5 images at 8 px (pad)" in done.stdout


def test_a_fit_that_is_not_known(table: Path, cache: Path) -> None:
    done = medbench(cache, "data", "prepare", f"table:{table}", "--size", "8", "--fit", "crop")
    assert done.exit_code == UsageError.exit_code
    assert "expected pad or stretch" in done.stderr


# What a recipe asks for


class Catalogue:
    """Two methods, of which one wants films twice as large for its losses, and three tasks."""

    tasks = {  # noqa: RUF012
        "lp": SimpleNamespace(dataset="films"),
        "det": SimpleNamespace(dataset="films"),
        "other": SimpleNamespace(dataset="others"),
    }
    configs = {  # noqa: RUF012
        "plain": SimpleNamespace(preprocessing=Preprocessing(64, 72, (0.5,) * 3, (0.5,) * 3)),
        "sharp": SimpleNamespace(preprocessing=Preprocessing(64, 64, (0.5,) * 3, (0.5,) * 3), film_scale=2),
        "untrained": SimpleNamespace(preprocessing=Preprocessing(48, 48, (0.5,) * 3, (0.5,) * 3)),
    }

    def make_task(self, spec: Any, recipe: str) -> Any:
        stretched = spec is self.tasks["det"]
        return SimpleNamespace(
            films=lambda inputs: (inputs.size, "stretch") if stretched else (inputs.resize, "pad")
        )

    def load(self, kind: str, name: str) -> Any:
        return SimpleNamespace(recipes={"tiny": SimpleNamespace(config=self.configs[name])})

    def lookup_method(self, name: str) -> Any:
        return SimpleNamespace(pretrains=name != "untrained")


@pytest.mark.parametrize(
    ("name", "paired", "sizes"),
    [
        ("films", False, [(48, "pad"), (48, "stretch"), (64, "pad"), (64, "stretch"), (72, "pad")]),
        ("others", False, [(48, "pad"), (64, "pad"), (72, "pad")]),
        ("corpus", True, [(72, "pad"), (128, "pad")]),
    ],
)
def test_sizes_are_those_of_the_tasks_and_of_pretraining(
    name: str, paired: bool, sizes: list[tuple[int, str]]
) -> None:
    dataset: Any = SimpleNamespace(name=name, paired=paired)
    catalogue: Any = Catalogue()
    assert film_sizes(catalogue, dataset, "tiny", list(Catalogue.configs)) == sizes


def test_a_dataset_that_nothing_asks_for_needs_a_size() -> None:
    dataset: Any = SimpleNamespace(name="lone", paired=False)
    catalogue: Any = Catalogue()
    with pytest.raises(UsageError, match="--size 256"):
        film_sizes(catalogue, dataset, "tiny", ["plain"])
