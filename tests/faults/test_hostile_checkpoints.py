"""Checkpoints that somebody made to do harm: nothing in them is run, unpacked or believed."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from medbench.cli import app


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def as_pickle(file: Path, ran: Path) -> None:
    file.write_bytes(pickle.dumps({"state_dict": Payload(ran)}))


def as_torch(file: Path, ran: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": Payload(ran)}, file)


def as_old_torch(file: Path, ran: Path) -> None:
    torch.save({"weight": torch.zeros(2), "x": Payload(ran)}, file, _use_new_zipfile_serialization=False)


def as_npz(file: Path, ran: Path) -> None:
    with file.open("wb") as opened:
        np.savez(opened, weight=np.array([Payload(ran)], dtype=object))


def as_tar(file: Path, ran: Path) -> None:
    with tarfile.open(file, "w") as archive:
        member = tarfile.TarInfo(f"../../{ran.name}")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))


def as_zip_that_climbs(file: Path, ran: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"../../{ran.name}", b"x")


def as_npz_that_climbs(file: Path, ran: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(2))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"../../{ran.name}.npy", array.getvalue())


def as_bomb(file: Path, ran: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(2**21))  # 16 MiB; the limit is a ratio
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weight.npy", array.getvalue())


def as_huge_header(file: Path, ran: Path) -> None:
    header = str({"descr": "<f4", "fortran_order": False, "shape": (10**15,)}).ljust(117) + "\n"
    with zipfile.ZipFile(file, "w") as archive:
        data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"\0" * 64
        archive.writestr("weight.npy", data)


def as_safetensors_of_another_size(file: Path, ran: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)


def as_deep_pickle(file: Path, ran: Path) -> None:
    file.write_bytes(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".")


KINDS: list[Callable[[Path, Path], None]] = [
    *(as_pickle, as_torch, as_old_torch, as_npz, as_tar, as_zip_that_climbs, as_npz_that_climbs),
    *(as_bomb, as_huge_header, as_safetensors_of_another_size, as_deep_pickle),
]


@pytest.mark.parametrize("make", KINDS)
def test_nothing_of_a_checkpoint_is_run_or_unpacked(
    make: Callable[[Path, Path], None], tmp_path: Path, medbench_home: Path
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    file, ran = deep / "weights.pth", tmp_path / "ran"
    make(file, ran)
    verbs = (
        ["weights", "inspect", str(file)],
        ["weights", "import", str(file), "--method", "mgca", "--out", str(deep / "out")],
    )
    for verb in verbs[: 1 if make is as_npz_that_climbs else 2]:  # that one is an array, and no model
        result = CliRunner().invoke(app, verb)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert result.exit_code == (0 if make is as_npz_that_climbs else 4), result.output
        assert not ran.exists()
        assert sorted(path.name for path in deep.iterdir()) == ["weights.pth"]
    assert sorted(path.name for path in tmp_path.iterdir() if path != medbench_home) == ["a"]


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path, medbench_home: Path) -> None:
    as_bomb(tmp_path / "w.npz", tmp_path)
    said = CliRunner().invoke(app, ["weights", "inspect", str(tmp_path / "w.npz")]).output
    assert "unpack to 16,777," in said
    assert "nothing of it was read" in said


@pytest.mark.parametrize(
    "info",
    [
        '{"format": ' + "[" * 100_000,
        '{"format": 1e999}',
        "[]",
        '{"format": 1, "method": "clip", "sha256": "../../x", "config": {"__class__": "os.system"}}',
    ],
)
def test_a_description_of_weights_is_not_believed(info: str, tmp_path: Path, medbench_home: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "weights.json").write_text(info)
    result = CliRunner().invoke(
        app, ["run", "-m", "clip", "-t", "rsna_lp", "--recipe", "micro", "--checkpoint", str(folder)]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == 4, result.output
