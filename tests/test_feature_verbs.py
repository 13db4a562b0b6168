"""`medbench features ls | gc | extract`: features of anybody's films in a file, and what is kept of them."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

import medbench
from medbench.cli import app
from medbench.feature_cache import ABOUT, ARRAY, held

FILMS = 12


@pytest.fixture(autouse=True)
def root(medbench_home: Path) -> Path:
    """Folder of the feature cache."""
    return medbench_home / "cache" / "features"


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A table of one's own."""
    pixels = np.random.default_rng(0).integers(0, 256, (FILMS, 40, 32), np.uint8)
    for number in range(FILMS):
        Image.fromarray(pixels[number]).save(tmp_path / f"{number}.png")
    rows = "".join(f"{number}.png,p{number // 2}\n" for number in range(FILMS))
    (tmp_path / "mine.csv").write_text("film,who\n" + rows)
    return tmp_path / "mine.csv"


def features(*words: object) -> Result:
    return CliRunner().invoke(app, ["features", *map(str, words)])


def extract(films: Path, out: Path, *words: object) -> Result:
    columns = ("--column", "image=film", "--column", "patient=who")
    chosen = ("-m", "random", "--recipe", "micro", "--precision", "32", "--device", "cpu")
    return features("extract", f"table:{films}", *columns, *chosen, "--out", out, *words)


def about(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(pq.read_schema(file).metadata[b"medbench"])
    return content


def test_features_of_ones_own_films(films: Path, tmp_path: Path, root: Path) -> None:
    out = tmp_path / "features.parquet"
    done = extract(films, out)
    assert done.exit_code == 0, done.output
    schema = pq.read_schema(out)
    assert [(field.name, str(field.type)) for field in schema][:2] == [
        ("sample", "string"),
        ("patient", "string"),
    ]
    width = schema.field("feature").type.list_size
    assert str(schema.field("feature").type) == f"fixed_size_list<element: float>[{width}]"
    assert done.stdout.strip() == f"{out}: {FILMS} films, {width} numbers each"
    table = pd.read_parquet(out)
    assert len(table) == FILMS
    assert table["patient"].nunique() == FILMS // 2
    said = about(out)
    assert (said["method"], said["recipe"], said["dataset"]) == ("random", "micro", "table")
    assert (said["source"], said["split"], said["precision"]) == ("real", None, "32")
    assert said["weights"]["kind"] == "untrained" and len(said["weights"]["sha256"]) == 64
    assert said["preprocessing"]["size"] > 0 and said["medbench"]

    [kept] = json.loads(features("ls", "--json").stdout)
    assert (kept["method"], kept["films"], kept["state"]) == ("random", FILMS, "sound")
    kind = np.load(root / kept["key"] / ARRAY)
    np.testing.assert_array_equal(np.stack(table["feature"].to_list()), kind)

    again = tmp_path / "again.parquet"
    done = extract(films, again)
    assert "found in" in done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(again), table)


def test_they_are_those_of_the_encoder_in_python(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    assert extract(films, out, "-q").exit_code == 0
    encoder = medbench.load("random", recipe="micro")
    expected = encoder.encode_image([tmp_path / f"{number}.png" for number in range(FILMS)]).pooled
    found = np.stack(pd.read_parquet(out)["feature"].to_list())
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_split_says_which_part_a_film_is_in(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "features.parquet"
    lists = tmp_path / "lists"
    lists.mkdir()
    samples = [f"{number}.png" for number in range(FILMS)]
    parts = {"train": samples[:6], "val": samples[6:8], "test": samples[8:10]}
    for part, ids in parts.items():
        (lists / f"{part}.txt").write_text("\n".join(ids) + "\n")
    done = extract(films, out, "--split", f"lists:{lists}", "-q")
    assert done.exit_code == 0, done.output
    table = pq.read_table(out)
    assert table.column_names == ["sample", "patient", "part", "feature"]
    assert table["part"].to_pylist() == ["train"] * 6 + ["val"] * 2 + ["test"] * 2 + [None] * 2
    assert about(out)["split"]["name"].startswith("lists")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "imagenet"), "Features of one encoder go into one file; found methods random, imagenet"),
        (("--seed", "0,1"), "and seeds 0, 1. Name one of each"),
        (("--out", "x.csv"), "--out x.csv: expected a file that ends in .parquet"),
        (("--set", "method.nothing=1"), "nothing"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, films: Path, tmp_path: Path) -> None:
    done = extract(films, tmp_path / "features.parquet", *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "features.parquet").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [("folder.parquet", "is a folder"), ("mine.csv/x.parquet", "can not be made: File exists")],
)
def test_a_file_that_can_not_be_written_is_told_before_the_work(
    out: str, message: str, films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.parquet").mkdir()
    monkeypatch.setattr("medbench.extraction._extract", None)
    done = extract(films, tmp_path / out)
    assert done.exit_code == 2, done.output
    assert message in done.stderr


def test_films_that_are_not_there(tmp_path: Path) -> None:
    done = features("extract", "rnsa", "-m", "random", "--out", tmp_path / "x.parquet")
    assert done.exit_code == 2
    assert "Unknown dataset 'rnsa'. Did you mean 'rsna'?" in done.stderr
    missing = tmp_path / "nothing.csv"
    done = features("extract", f"table:{missing}", "-m", "random", "--out", tmp_path / "x.parquet", "-q")
    assert done.exit_code == 3
    assert f"looked for {missing}" in done.stderr


def make(root: Path, name: str, age: float) -> None:
    from medbench.feature_cache import FeatureCache, Identity
    from medbench.progress import Progress

    identity = Identity(name, "probe", {}, "pad", "pooled", "float32", "films", "rows")
    kept = FeatureCache(root, Progress(quiet=True)).get(
        identity,
        (4, 3),
        "features",
        {"method": name, "dataset": "rsna", "split": "mgca_cls", "films": 4},
        lambda array: array.fill(1),
    )
    assert kept is not None
    used = time.time() - age * 86_400
    os.utime(kept.folder / ABOUT, (used, used))


def methods(root: Path) -> list[str]:
    return sorted(str(entry.about.get("method", entry.state)) for entry in held(root))


def test_what_is_kept_is_listed(root: Path) -> None:
    assert f"no features in {root}" in features("ls").stdout
    assert json.loads(features("ls", "--json").stdout) == []
    make(root, "mine", 1)
    make(root, "yours", 3)
    lines = features("ls").stdout.splitlines()
    assert lines[0].split() == [
        "key", "method", "weights", "dataset", "films", "kind", "size", "last", "used", "state",
    ]  # fmt: skip
    assert [line.split()[1] for line in lines[1:3]] == ["mine", "yours"]
    assert "rsna mgca_cls" in lines[1] and lines[1].endswith("sound")
    assert lines[-1].endswith(f"in 2 folders of {root}")


def test_check_reads_everything(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(root, "mine", 1)
    [entry] = held(root)
    content = bytearray((entry.folder / ARRAY).read_bytes())
    content[-1] ^= 1
    (entry.folder / ARRAY).write_bytes(content)
    assert features("ls").stdout.splitlines()[1].endswith("sound")
    assert features("ls", "--check").stdout.splitlines()[1].endswith("damaged")


def test_gc_frees_what_it_is_told_to(root: Path) -> None:
    for name, age in (("new", 1.0), ("old", 40.0), ("broken", 1.0)):
        make(root, name, age)
    broken = next(entry for entry in held(root) if entry.about["method"] == "broken")
    (broken.folder / ARRAY).unlink()
    done = features("gc", "--dry-run")
    assert done.exit_code == 0
    assert "would free 0.00 GB in 1 folders" in done.stdout and "damaged" in done.stdout
    assert methods(root) == ["broken", "new", "old"]
    assert "freed 0.00 GB in 1 folders" in features("gc").stdout
    assert methods(root) == ["new", "old"]
    assert "would free 0.00 GB in 1 folders" in features("gc", "--older-than", 30, "--dry-run").stdout
    features("gc", "--older-than", 30)
    assert methods(root) == ["new"]
    done = features("gc", "--all", "--older-than", 1)
    assert done.exit_code == 2 and "not both" in done.stderr
    features("gc", "--all")
    assert methods(root) == []


def test_gc_leaves_what_is_in_use_alone(root: Path) -> None:
    from medbench.files import Hold

    make(root, "mine", 1)
    [entry] = held(root)
    hold = Hold(entry.folder / ABOUT)
    done = features("gc", "--all")
    assert "1 more are being used or made and were left alone" in done.stdout
    del hold
    assert "freed 0.00 GB in 1 folders" in features("gc", "--all").stdout
