"""Records that somebody made to do harm: refused with a message, whatever verb meets them, and nothing is written."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from medbench.cli import app
from medbench.errors import DataError
from medbench.files import sha256_file
from medbench.records import MOST_BYTES, Record, ResultStore, read_draws, read_predictions, read_record

ACCEPTED = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
LIKE = next((ACCEPTED / "tiny" / "clip" / "rsna_lp").glob("1pct-s0-*.json"))

Edit = Callable[[dict[str, Any]], object]


def medbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Result, *codes: int) -> str:
    """What a verb says of a folder that it does not take; no traceback."""
    assert result.exit_code in (codes or (3,)), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.output


def written(folder: Path, edit: Edit, name: str = "1pct-s0-x.json") -> Path:
    """A results folder with one accepted record that was edited."""
    content = json.loads(LIKE.read_bytes())
    edit(content)
    path = folder / "tiny" / "clip" / "rsna_lp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def rehashed(content: dict[str, Any]) -> None:
    """The id that the identity really has: what is left to be refused is the rest."""
    content["cell_id"] = Record.model_validate(content).identity.cell_id()


EDITS: dict[str, Edit] = {
    "an extra field": lambda r: r.update(run="os.system('id')"),
    "an extra field within": lambda r: r["identity"].update(extra=1),
    "a number beyond all measure": lambda r: r["metrics"][0].update(n=10**400),
    "a number beyond 64 bits": lambda r: r["counts"].update(test=2**70),
    "infinity": lambda r: r["metrics"][0].update(value=float("inf")),
    "not a number": lambda r: r["metrics"][0].update(low=float("nan")),
    "text for a number": lambda r: r["metrics"][0].update(value="0.9; DROP TABLE"),
    "predictions above": lambda r: r["predictions"].update(path="../../../../etc/passwd"),
    "predictions anywhere": lambda r: r["predictions"].update(path="/etc/passwd"),
    "predictions that are the folder": lambda r: r["predictions"].update(path=".."),
    "draws above": lambda r: r["draws"].update(path="../1pct.npy"),
    "a null byte": lambda r: r["draws"].update(path="a\0.npy"),
    "another schema": lambda r: r.update(schema="medbench.result/99"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_record_that_is_none_is_refused(what: str, tmp_path: Path) -> None:
    path = written(tmp_path, EDITS[what])
    with pytest.raises(DataError, match=r"not a medbench\.result/1 record"):
        read_record(path)


def test_every_verb_refuses_it(tmp_path: Path, medbench_home: Path) -> None:
    path = written(tmp_path / "r", EDITS["predictions above"])
    for verb in (("results", "list"), ("leaderboard",)):
        assert str(path) in refused(medbench(*verb, "--results", tmp_path / "r"))
    for verb in ("verify", "rescore"):
        assert str(path) in refused(medbench("results", verb, tmp_path / "r"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{\x00}\x00",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": 1e999}',
        b'{"metrics": [' + b"9" * 5000 + b"]}",
        b'{"schema": "\\ud800"}',
    ],
    ids=["empty", "UTF-16", "null", "deep list", "deep dict", "1e999", "5,000 digits", "half a character"],
)
def test_bytes_that_are_no_record_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_record(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    pipe, folder, endless, huge = (tmp_path / name for name in ("pipe", "folder", "endless", "huge"))
    os.mkfifo(pipe)
    folder.mkdir()
    endless.symlink_to("/dev/zero")
    with huge.open("wb") as file:
        file.truncate(MOST_BYTES + 1)  # sparse: takes no room
    for path, said in (
        (pipe, "not a file"),
        (folder, "not a file"),
        (endless, "not a file"),
        (huge, "at most"),
    ):
        with pytest.raises(DataError, match=said):
            read_record(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "../../../../outside"),
        ("method", "/tmp/outside"),
        ("recipe", ".."),
        ("task", "a/../../b"),
        ("method", ""),
        ("method", "x" * 300),
        ("split_sha256", "../../../outside"),
    ],
)
def test_no_name_of_a_record_leads_out_of_the_folder(
    field: str, value: str, tmp_path: Path, medbench_home: Path
) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["identity"][field] = value
        rehashed(content)

    path = written(tmp_path / "in" / "r", edit)
    (path.parent / json.loads(path.read_bytes())["predictions"]["path"]).write_bytes(
        LIKE.with_suffix(".parquet").read_bytes()
    )
    (tmp_path / "in" / "outside.json").write_text('{"train": []}')
    before = set(tmp_path.rglob("*"))
    identity = read_record(path).identity
    if field != "split_sha256":
        with pytest.raises(DataError, match="can be no name of a file"):
            ResultStore(tmp_path).path(identity, "c" * 64)
    else:
        with pytest.raises(DataError, match="no SHA-256"):
            ResultStore(tmp_path).write_ids(identity.split_sha256, {})
    refused(medbench("results", "rescore", path, "--out", tmp_path / "in" / "out"))
    refused(medbench("results", "verify", tmp_path / "in" / "r"))
    assert {file for file in tmp_path.rglob("*") if "out" not in file.relative_to(tmp_path).parts} == before
    assert not Path("/tmp/outside").exists()


def test_predictions_that_are_no_table_are_refused(tmp_path: Path) -> None:
    for name, data in (("bytes", b"PAR1" + b"\xff" * 4000 + b"PAR1"), ("pickle", b"\x80\x04cos\nsystem\n.")):
        table = tmp_path / "tiny" / "clip" / "rsna_lp" / f"{name}.parquet"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_bytes(data)
        block = {"path": table.name, "sha256": sha256_file(table), "rows": 1}
        path = written(tmp_path, lambda r, b=block: r.update(predictions=b), f"{name}.json")
        with pytest.raises(DataError, match="not a table of predictions"):
            read_predictions(path, read_record(path))


def test_predictions_of_other_rows_than_recorded_are_not_unpacked(tmp_path: Path) -> None:
    table = tmp_path / "tiny" / "clip" / "rsna_lp" / "many.parquet"
    table.parent.mkdir(parents=True)
    pd.DataFrame({"score": np.zeros(100_000)}).to_parquet(table)  # 400 kB in memory, some hundred bytes here
    block = {"path": table.name, "sha256": sha256_file(table), "rows": 60}
    path = written(tmp_path, lambda r: r.update(predictions=block))
    with pytest.raises(DataError, match=r"expected 60 rows.*found 100,000"):
        read_predictions(path, read_record(path))


@pytest.mark.parametrize("shape", [(10**15,), (10**30,), (2000, 1)])
def test_draws_that_declare_what_they_do_not_hold_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "clip" / "rsna_lp" / "d.draws.npy"
    file.parent.mkdir(parents=True)
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    file.write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 16_000
    )
    path = written(
        tmp_path, lambda r: r["draws"].update(path=file.name, sha256=sha256_file(file), count=2000)
    )
    with pytest.raises(DataError):
        read_draws(path, read_record(path))


def test_draws_that_are_a_pickle_are_not_opened(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    file = tmp_path / "tiny" / "clip" / "rsna_lp" / "d.draws.npy"
    file.parent.mkdir(parents=True)
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    path = written(tmp_path, lambda r: r["draws"].update(path=file.name, sha256=sha256_file(file), count=1))
    with pytest.raises(DataError, match="not an array of numbers"):
        read_draws(path, read_record(path))
    assert not (tmp_path / "ran").exists()


def test_one_cell_given_twice_is_no_number_of_two_seeds(tmp_path: Path, medbench_home: Path) -> None:
    for name in ("1pct-s0-a.json", "1pct-s0-b.json"):
        written(tmp_path / "r", lambda r: None, name)
    assert "expected at" in refused(medbench("results", "verify", tmp_path / "r", "--without-predictions"))
    shown = medbench("leaderboard", "--results", tmp_path / "r")
    assert shown.exit_code == 0
    assert "2 seeds" not in shown.output


HARMFUL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eexe.dm\u2066\r\b"


def test_a_name_can_do_nothing_to_a_terminal(tmp_path: Path, medbench_home: Path) -> None:
    def edit(content: dict[str, Any]) -> None:
        content["identity"].update(method=HARMFUL, task=HARMFUL, fidelity=HARMFUL, subset=HARMFUL)
        content["primary_metric"] = HARMFUL
        rehashed(content)

    written(tmp_path / "r", edit)
    verbs = [
        ("results", "list", "--results", tmp_path / "r"),
        ("results", "verify", tmp_path / "r"),
        ("results", "rescore", tmp_path / "r"),
        ("leaderboard", "--results", tmp_path / "r"),
        ("leaderboard", "--results", tmp_path / "r", "--format", "json"),
        ("compare", "--results", tmp_path / "r", HARMFUL, "clip"),
        ("run", "--method", HARMFUL, "--task", "rsna_lp"),
        ("info", HARMFUL),
    ]
    for verb in verbs:
        result = medbench(*verb)
        assert result.exception is None or isinstance(result.exception, SystemExit), (verb, result.exc_info)
        assert not [c for c in result.output if not c.isprintable() and c != "\n"], (verb, result.output)


def test_a_record_with_an_extra_field_of_a_harmful_name_is_refused_harmlessly(
    tmp_path: Path, medbench_home: Path
) -> None:
    written(tmp_path / "r", lambda r: r.update({HARMFUL: 1}))
    said = refused(medbench("results", "list", "--results", tmp_path / "r"))
    assert all(c.isprintable() or c == "\n" for c in said)
